//! Every way in which the end comes: asked for, by SIGKILL of each process of Hostler's and of several at once, of the
//! command, and by the death of whom the tree is tied to. Over every shape at once, nothing is left.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

#[cfg(debug_assertions)]
use crate::hooks::Hooks;
use crate::support::{
    Cell, Contain, Found, Front, Kit, SOON, Scene, Shape, User, alive, heavy, wait_until,
};

/// The grace and a second.
const LIMIT: Duration = Duration::from_millis(1300);

const REQUEST: &str = "SIGTERM to the front";

/// Brings up every shape at once, lets `kill` do its deed, and waits until nothing is left.
///
/// The main process ignores SIGTERM as all the others do, unless it is by SIGTERM that the end comes: that goes to the main
/// process first, and is its own affair.
fn all_gone_after(what: &str, cells: &[Cell], options: &[&str], kill: impl Fn(&Scene, &Front<'_>)) {
    let _turn = heavy();
    let shapes: Vec<&Shape> = Kit::shapes().iter().collect();
    for &cell in cells {
        let scene = Scene::new(cell);
        let options = [&["--grace", "300ms"], options].concat();
        let mut command = scene.misbehave(&options, &["mixed"]);
        if what != REQUEST {
            command.env("MISBEHAVE_STUBBORN", "1");
        }
        let mut front = scene.start(&mut command);
        scene.await_shapes(shapes.iter().copied());
        let since = Instant::now();
        kill(&scene, &front);
        scene.await_none(what, since, LIMIT);
        let ended = front.wait(SOON).signal().is_none();
        if ended && cell.contain == Contain::Cgroup {
            // The last of Hostler's own to go removes it.
            scene.await_no_groups();
        }
        scene.print_groups(what);
    }
}

fn kill_all(processes: &[Found]) {
    for process in processes {
        process.signal(Signal::KILL);
    }
}

#[test]
fn a_request() {
    all_gone_after(REQUEST, &Cell::all(), &[], |_, front| {
        front.signal(Signal::TERM)
    });
}

#[test]
fn the_front_is_killed() {
    all_gone_after("SIGKILL of the front", &Cell::all(), &[], |_, front| {
        front.signal(Signal::KILL)
    });
}

#[test]
fn the_zygote_is_killed() {
    // The keeper lives on, and the command with it: it is the end of the command that must still leave nothing.
    all_gone_after(
        "SIGKILL of the zygote, then the end",
        &Cell::all(),
        &[],
        |scene, front| {
            kill_all(&[front.zygote()]);
            scene.go();
        },
    );
}

#[test]
fn the_keeper_is_killed() {
    all_gone_after("SIGKILL of the keeper", &Cell::all(), &[], |_, front| {
        kill_all(&[front.keeper()])
    });
}

#[test]
#[cfg(debug_assertions)]
fn the_keeper_is_killed_before_it_has_removed_its_cgroup() {
    // Of the user of the hooks: another may not come to them.
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain == Contain::Cgroup && cell.user == User::Root)
    {
        let scene = Scene::new(cell);
        let hooks = Hooks::new();
        hooks.hold("keeper.told-end");
        let mut command = scene.run(&[], ["true"]);
        let mut front = scene.start(command.env("HOSTLER_TEST_HOOKS", hooks.path()));
        let _held = hooks.arrival();
        // By then the front has ended its zygote, and been given the keeper.
        let keeper = || {
            let living = crate::support::children_of(front.pid())
                .into_iter()
                .filter(Found::lives);
            living.collect::<Vec<_>>()
        };
        wait_until("the keeper has come to the front", SOON, || {
            let found = keeper();
            found.len() == 1 && found[0].name == "hostler-keeper"
        });
        kill_all(&keeper());
        assert_eq!(front.wait(SOON).code(), Some(0), "{}", front.err());
        scene.await_no_groups();
    }
}

#[test]
fn the_keeper_and_the_front_are_killed() {
    all_gone_after(
        "SIGKILL of keeper and front",
        &Cell::all(),
        &[],
        |_, front| {
            kill_all(&[front.keeper(), Found::read(front.pid()).expect("it lives")]);
        },
    );
}

#[test]
fn the_front_and_the_keeper_are_killed() {
    all_gone_after(
        "SIGKILL of front and keeper",
        &Cell::all(),
        &[],
        |_, front| {
            kill_all(&[Found::read(front.pid()).expect("it lives"), front.keeper()]);
        },
    );
}

#[test]
fn the_zygote_and_the_front_are_killed() {
    all_gone_after(
        "SIGKILL of zygote and front",
        &Cell::all(),
        &[],
        |_, front| {
            kill_all(&[front.zygote(), Found::read(front.pid()).expect("it lives")]);
        },
    );
}

#[test]
fn the_front_and_the_zygote_are_killed() {
    all_gone_after(
        "SIGKILL of front and zygote",
        &Cell::all(),
        &[],
        |_, front| {
            let zygote = front.zygote();
            kill_all(&[Found::read(front.pid()).expect("it lives"), zygote]);
        },
    );
}

#[test]
fn the_keeper_and_the_zygote_are_killed() {
    all_gone_after(
        "SIGKILL of keeper and zygote",
        &Cell::all(),
        &[],
        |_, front| {
            kill_all(&[front.keeper(), front.zygote()]);
        },
    );
}

#[test]
fn all_three_are_killed_around_a_pid_namespace() {
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| cell.contain == Contain::Pidns)
        .collect();
    all_gone_after(
        "SIGKILL of front, zygote and keeper",
        &cells,
        &[],
        |_, front| {
            let (zygote, keeper) = (front.zygote(), front.keeper());
            kill_all(&[Found::read(front.pid()).expect("it lives"), zygote, keeper]);
        },
    );
}

#[test]
fn the_command_is_killed() {
    // In a pid namespace its pid is not the one that it knows itself by.
    let cells: Vec<Cell> = Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
        .collect();
    all_gone_after("SIGKILL of the command", &cells, &[], |scene, _| {
        let command = scene.ready.number("main").expect("it is ready");
        kill_all(&[Found::read(command).expect("it lives")]);
    });
}

#[test]
fn the_owner_dies() {
    for cell in Cell::all() {
        let owner_scene = Scene::new(Cell {
            contain: Contain::Tree,
            ..cell
        });
        let owner = owner_scene
            .start(&mut owner_scene.wrapped(owner_scene.misbehave_words(&["direct", "ignores"])));
        owner_scene
            .ready
            .wait_for("the owner", SOON, |lines| lines.len() == 1);
        all_gone_after(
            "death of --die-with",
            &[cell],
            &["--die-with", &owner.pid().to_string()],
            |_, _| {
                owner.signal(Signal::KILL);
            },
        );
    }
}

/// A process whose child becomes a zombie at its `go`.
fn zombie_owner(scene: &Scene) -> (Front<'_>, i32) {
    let front = scene.start(&mut scene.wrapped(scene.misbehave_words(&["zombie-owner"])));
    let read = || {
        std::fs::read_to_string(front.out_path())
            .ok()?
            .strip_suffix('\n')?
            .parse()
            .ok()
    };
    wait_until("the owner's pid", SOON, || read().is_some());
    let pid = read().expect("just read");
    (front, pid)
}

#[test]
fn the_owner_becomes_a_zombie() {
    for cell in Cell::all() {
        let owner_scene = Scene::new(Cell {
            contain: Contain::Tree,
            ..cell
        });
        let (_parent, owner) = zombie_owner(&owner_scene);
        all_gone_after(
            "the owner is a zombie",
            &[cell],
            &["--die-with", &owner.to_string()],
            |_, _| owner_scene.go(),
        );
        assert_eq!(
            Found::read(owner).map(|found| found.state),
            Some('Z'),
            "the owner has to be there still"
        );
    }
}

#[test]
fn the_owner_is_a_zombie_from_the_start() {
    for cell in Cell::all() {
        let owner_scene = Scene::new(Cell {
            contain: Contain::Tree,
            ..cell
        });
        let (_parent, owner) = zombie_owner(&owner_scene);
        owner_scene.go();
        wait_until("it is a zombie", SOON, || !alive(owner));
        let scene = Scene::new(cell);
        let since = Instant::now();
        let mut command = scene.misbehave(
            &["--grace", "300ms", "--die-with", &owner.to_string()],
            &["alone", "setsid"],
        );
        let outcome = scene.outcome(&mut command);
        scene.await_none("the owner was a zombie", since, LIMIT);
        assert_ne!(outcome.code, 0, "{outcome:?}");
        assert!(outcome.err.starts_with("hostler: "), "{outcome:?}");
    }
}

/// `misbehave mixed` under `hostler run OPTIONS`, under a shell that waits for it.
fn under_a_shell(scene: &Scene, options: &[&str]) -> Command {
    let words = scene.run_words(options, scene.misbehave_words(&["mixed"]));
    let mut shell: Vec<std::ffi::OsString> =
        ["sh", "-c", "\"$@\" & wait", "sh"].map(Into::into).into();
    shell.extend(words);
    scene.wrapped(shell)
}

#[test]
fn the_parent_dies() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let mut parent = scene.start(&mut under_a_shell(&scene, &["--grace", "300ms"]));
        scene.await_shapes(Kit::shapes());
        let since = Instant::now();
        parent.signal(Signal::KILL);
        scene.await_none("death of the parent", since, LIMIT);
        parent.wait(SOON);
    }
}

#[test]
fn nobody_is_tied_to_where_it_is_said_so() {
    let _turn = heavy();
    let scene = Scene::new(Cell::plain());
    let mut parent = scene.start(&mut under_a_shell(
        &scene,
        &["--grace", "300ms", "--die-with", "none"],
    ));
    scene.await_shapes(Kit::shapes());
    parent.signal(Signal::KILL);
    parent.wait(SOON);
    let command = Found::read(scene.ready.number("main").expect("it is ready")).expect("it lives");
    // There is no event to wait for where nothing is to happen: it must live for longer than its end would take.
    std::thread::sleep(LIMIT);
    assert!(
        command.still_lives(),
        "it was ended though nobody is its owner"
    );
    let since = Instant::now();
    scene.go();
    scene.await_none("the end of the command", since, LIMIT);
}

#[test]
fn killed_while_it_starts() {
    // Wherever in its start the front is killed, nothing of it stays.
    for user in [User::Root, User::Ordinary] {
        for cell in Cell::all().into_iter().filter(|cell| cell.user == user) {
            for step in 0..25 {
                let scene = Scene::new(cell);
                let mut front =
                    scene.start(&mut scene.misbehave(&["--grace", "300ms"], &["alone", "setsid"]));
                let start = Instant::now();
                while start.elapsed() < Duration::from_micros(200 * step) {
                    std::hint::spin_loop();
                }
                front.signal(Signal::KILL);
                front.wait(SOON);
                scene.await_none("SIGKILL during the start", Instant::now(), LIMIT);
            }
        }
    }
}
