//! No process that isn't ours is signalled, however much it looks like one.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getuid};

use crate::support::{Cell, Contain, Found, Front, Kit, SOON, Scene, heavy};

const LIMIT: Duration = Duration::from_millis(1300);

/// A bystander: it writes down each signal that it gets.
fn bystander<'a>(scene: &'a Scene, log: &str, name: &str) -> (Front<'a>, crate::support::Lines) {
    let log = scene.lines(log);
    let words = scene.misbehave_words(&["signals", log.path().to_str().expect("text")]);
    let mut shell: Vec<OsString> = ["bash", "-c", "exec -a \"$0\" \"$@\"", name]
        .map(Into::into)
        .into();
    shell.extend(words);
    let front = scene.start(&mut scene.wrapped(shell));
    (front, log)
}

#[test]
fn those_that_look_alike_live_on() {
    let _turn = heavy();
    for cell in Cell::all() {
        let others = Scene::new(Cell {
            contain: Contain::Tree,
            ..cell
        });
        let ours = Scene::new(cell);
        let quoting = format!(
            "hostler run -- {} mixed HOSTLER_TEST_MARK={}",
            ours.kit.misbehave().display(),
            ours.mark
        );
        // One of the same name and arguments, from outside; then those whose arguments are as ours.
        let twin = others.start(&mut others.wrapped(others.misbehave_words(&["mixed"])));
        others.await_shapes(Kit::shapes());
        let names = ["hostler", "hostler-keeper", "hostler-zygote", &quoting];
        let watching: Vec<_> = names
            .iter()
            .enumerate()
            .map(|(n, name)| bystander(&others, &format!("log{n}"), name))
            .collect();
        let count = Kit::shapes().iter().map(|shape| shape.lines).sum::<usize>() + 1 + names.len();
        others
            .ready
            .wait_for("the bystanders", SOON, |lines| lines.len() == count);
        let twins = |named: &str| {
            let living = others
                .living()
                .into_iter()
                .filter(|found| found.command_line().contains(named));
            living.map(|found| found.pid).collect::<Vec<_>>()
        };
        let leaves = twins("leaf");
        assert!(leaves.len() >= 5);

        let mut front = ours.start(&mut ours.misbehave(&["--grace", "300ms"], &["mixed"]));
        ours.await_shapes(Kit::shapes());
        let since = Instant::now();
        front.signal(Signal::TERM);
        front.wait(SOON);
        // The quoting one has our mark in its arguments: it is known by its pid.
        let quoter = watching[3].0.pid();
        let survivors = || {
            ours.living()
                .into_iter()
                .filter(|found| found.pid != quoter)
                .collect::<Vec<_>>()
        };
        crate::support::wait_until_or(
            "none left",
            LIMIT,
            || survivors().is_empty(),
            || format!("{:?}", survivors()),
        );
        println!("{cell:?}: none left after {:.0?}", since.elapsed());

        assert_eq!(twins("leaf"), leaves, "leaves of a tree that isn't ours");
        assert!(Found::read(twin.pid()).is_some_and(|found| found.state == 'S'));
        for (front, log) in &watching {
            assert!(Found::read(front.pid()).is_some_and(|found| found.state == 'S'));
            assert_eq!(log.all(), [""; 0], "a bystander was signalled");
        }
    }
}

#[test]
fn one_in_the_commands_process_group_lives_on() {
    // A pipeline: the shell puts all of it in one group, of which only the part under `hostler` is ours.
    for cell in Cell::all() {
        let others = Scene::new(Cell {
            contain: Contain::Tree,
            ..cell
        });
        let ours = Scene::new(cell);
        let log = others.lines("log");
        let args = ["signals", log.path().to_str().expect("text")];
        let first = others.start(
            others
                .wrapped(others.misbehave_words(&args))
                .process_group(0),
        );
        others
            .ready
            .wait_for("the bystander", SOON, |lines| lines.len() == 1);
        let mut command = ours.misbehave(&["--grace", "300ms"], &["wide", "20"]);
        let mut front = ours.start(command.process_group(first.pid()));
        ours.ready.wait_for("it stands", SOON, |lines| {
            lines.iter().any(|line| line.starts_with("main"))
        });
        let since = Instant::now();
        front.signal(Signal::TERM);
        front.wait(SOON);
        ours.await_none("a shared group", since, LIMIT);
        assert_eq!(log.all(), [""; 0], "a bystander in the group was signalled");
    }
}

#[test]
fn one_on_a_recycled_pid_lives_on() {
    if !getuid().is_root() {
        eprintln!("skipped: ns_last_pid needs root");
        return;
    }
    let _turn = heavy();
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
    {
        // Somebody else on the machine may have got a pid first; then two others are tried.
        assert!(
            (0..20).any(|_| lives_on_a_recycled_pid(cell)),
            "no pid could be had again"
        );
    }
}

/// Whether the pids that it takes could be had again at all.
fn lives_on_a_recycled_pid(cell: Cell) -> bool {
    let ours = Scene::new(cell);
    // A child of ours and an orphan of ours end; the keeper had both in its care. Their pids become a bystander's.
    let script = "true & echo child $! >> \"$MISBEHAVE_READY\"; wait; \
                  (setsid sh -c 'echo orphan $$ >> \"$MISBEHAVE_READY\"' &) ; \
                  sleep 100 & read x < \"$MISBEHAVE_GO\"; exit 0";
    let mut front = ours.start(&mut ours.run(&["--grace", "300ms"], ["sh", "-c", script]));
    for who in ["child", "orphan"] {
        ours.ready.wait_for(who, SOON, |lines| {
            lines.iter().any(|line| line.starts_with(who))
        });
    }
    let pids = ["child", "orphan"].map(|who| ours.ready.number(who).expect("it is written"));
    crate::support::wait_until("both are gone", SOON, || {
        let ours = ours.living();
        pids.iter().all(|&pid| {
            // Somebody else on the machine may have the pid already.
            let is_ours =
                |found: &Found| found.state == 'Z' || ours.iter().any(|one| one.pid == pid);
            !Found::read(pid).is_some_and(|found| is_ours(&found))
        })
    });
    let others = Scene::new(Cell::plain());
    let _recycled = pids.map(|pid| {
        let words = others.misbehave_words(&["recycle", &pid.to_string()]);
        others.start(&mut others.wrapped(words))
    });
    others
        .ready
        .wait_for("the pids are taken again", SOON, |lines| lines.len() == 2);
    if others.ready.count("recycled") < 2 {
        return false;
    }
    let since = Instant::now();
    ours.go();
    front.wait(SOON);
    ours.await_none("its pids are another's", since, LIMIT);
    for pid in pids {
        let found = Found::read(pid)
            .filter(|found| found.state == 'S' && found.command_line().contains("recycled"));
        assert!(
            found.is_some(),
            "the bystander on the recycled pid {pid} is gone"
        );
    }
    true
}
