//! Signals reach the command exactly once, whether they are sent to `hostler`, to its process group, or typed.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::hooks::Hooks;
use crate::support::{
    Cell, Contain, Found, Front, Lines, Pty, SOON, Scene, User, wait_until, wait_until_or,
};

/// Sent last: `hostler` has passed on what came before it once this one arrives. Being a real-time signal, it queues.
const BARRIER: i32 = 64;

/// Every signal that a process can catch, but SIGCHLD, which a parent gets for other reasons, the C library's own two and
/// the barrier.
fn catchable() -> impl Iterator<Item = i32> {
    (1..BARRIER)
        .filter(|number| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, 32, 33].contains(number))
}

/// Sends a signal, of which the safe interfaces know only those with names; to a group where `to` is negative.
fn send(scene: &Scene, number: i32, to: i32) {
    send_many(scene, number, to, 1);
}

fn send_many(scene: &Scene, number: i32, to: i32, count: usize) {
    let args = [number.to_string(), to.to_string(), count.to_string()];
    let status = Command::new(scene.kit.misbehave())
        .arg("send")
        .args(args)
        .status();
    assert!(
        status.expect("misbehave send").success(),
        "signal {number} to {to}"
    );
}

/// `hostler run -- misbehave signals LOG`, ready, as the leader of a group.
fn listening<'a>(scene: &'a Scene, log: &Lines) -> Front<'a> {
    let args = ["signals", log.path().to_str().expect("text")];
    let front = scene.start(
        scene
            .misbehave(&["--grace", "300ms"], &args)
            .process_group(0),
    );
    scene
        .ready
        .wait_for("it listens", SOON, |lines| lines.len() == 1);
    front
}

/// Waits until `number` has arrived.
fn arrives(log: &Lines, number: i32) {
    let line = number.to_string();
    log.wait_for(&format!("signal {number} arrives"), SOON, |lines| {
        lines.contains(&line)
    });
}

/// Asserts that these, and the barrier, arrived once each.
fn assert_once(scene: &Scene, front: &Front<'_>, log: &Lines, numbers: impl Iterator<Item = i32>) {
    send(scene, BARRIER, front.pid());
    arrives(log, BARRIER);
    let numbers: Vec<String> = numbers
        .chain([BARRIER])
        .map(|number| number.to_string())
        .collect();
    assert_eq!(log.all(), numbers);
}

fn ends(scene: &Scene, mut front: Front<'_>) {
    scene.go();
    assert_eq!(front.wait(SOON).code(), Some(0), "{}", front.err());
    assert_eq!(front.err(), "");
}

#[test]
fn each_sent_to_hostler_arrives_once() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let log = scene.lines("log");
        let front = listening(&scene, &log);
        for number in catchable() {
            send(&scene, number, front.pid());
            arrives(&log, number);
        }
        assert_once(&scene, &front, &log, catchable());
        ends(&scene, front);
    }
}

#[test]
fn each_sent_to_the_group_arrives_once() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let log = scene.lines("log");
        let front = listening(&scene, &log);
        for number in catchable() {
            send(&scene, number, -front.pid());
            arrives(&log, number);
        }
        assert_once(&scene, &front, &log, catchable());
        ends(&scene, front);
    }
}

/// A hundred real-time signals in one go, which queue: a hundred arrive, no less and no more.
fn burst(to: impl Fn(i32) -> i32) {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let log = scene.lines("log");
        let front = listening(&scene, &log);
        send_many(&scene, 40, to(front.pid()), 100);
        assert_once(&scene, &front, &log, std::iter::repeat_n(40, 100));
        ends(&scene, front);
    }
}

#[test]
fn a_burst_to_hostler_arrives_whole() {
    burst(|pid| pid);
}

#[test]
fn a_burst_to_the_group_arrives_once() {
    burst(|pid| -pid);
}

#[test]
fn each_typed_arrives_once() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let log = scene.lines("log");
        let args = ["signals", log.path().to_str().expect("text")];
        let words = scene.run_words(&["--grace", "300ms"], scene.misbehave_words(&args));
        let pty = Pty::new();
        let mut command = scene.wrapped(["setsid".into(), "-c".into()].into_iter().chain(words));
        let mut front = scene.start_as_is(
            pty.connect(&mut command),
            scene.path("none"),
            scene.path("none"),
        );
        scene
            .ready
            .wait_for("it listens", SOON, |lines| lines.len() == 1);
        let typed = [
            ("\x03", libc::SIGINT),
            ("\x1c", libc::SIGQUIT),
            ("\x1a", libc::SIGTSTP),
        ];
        for (key, number) in typed {
            pty.input(key);
            arrives(&log, number);
        }
        pty.resize(40, 100);
        arrives(&log, libc::SIGWINCH);
        let numbers = typed
            .map(|(_, number)| number)
            .into_iter()
            .chain([libc::SIGWINCH]);
        assert_once(&scene, &front, &log, numbers);
        scene.go();
        assert_eq!(front.wait(SOON).code(), Some(0), "{}", pty.screen());
    }
}

/// A shell's `fg` and the next Ctrl-Z may come before `hostler` has run again; then command and `hostler` have stopped each by itself.
#[test]
#[cfg(debug_assertions)]
fn stopped_again_at_once_it_goes_on_with_the_command() {
    // Without children: a shell that has just forked one does not stop before that does.
    const SCRIPT: &str = "trap 'echo 10 >>\"$0\"' USR1; mkfifo \"$0.in\"; exec 3<>\"$0.in\"; \
        echo 0 >>\"$0\"; while :; do read -r x <&3; done";
    let of_root = |cell: &Cell| cell.user == User::Root;
    for cell in Cell::all().into_iter().filter(of_root) {
        let scene = Scene::new(cell);
        let (log, hooks) = (scene.lines("log"), Hooks::new());
        let path = log.path().to_str().expect("text");
        let mut command = scene.run(&["--grace", "300ms"], ["sh", "-c", SCRIPT, path]);
        let command = command.process_group(0);
        let mut front = scene.start(command.env("HOSTLER_TEST_HOOKS", hooks.path()));
        arrives(&log, 0);
        let group = Pid::from_raw(front.pid()).expect("a pid");
        let to_group = |signal| kill_process_group(group, signal).expect("it lives");
        let stopped = || {
            let states = || {
                let ours = |found: &Found| found.pid == front.pid() || found.name == "sh";
                let living = scene.living().into_iter().filter(ours);
                living
                    .map(|found| (found.name, found.state))
                    .collect::<Vec<_>>()
            };
            let all = || states().iter().all(|(_, state)| *state == 'T');
            wait_until_or("all have stopped", SOON, all, || {
                format!("{cell:?} {:?}", states())
            });
        };
        to_group(Signal::TSTP);
        stopped();
        for _ in 0..20 {
            to_group(Signal::CONT);
            to_group(Signal::TSTP);
            stopped();
        }
        let stops = hooks.passed("front.stops");
        to_group(Signal::CONT);
        // Read after what came from the keeper before.
        send(&scene, libc::SIGUSR1, front.pid());
        arrives(&log, 10);
        assert_eq!(hooks.passed("front.stops"), stops, "{cell:?}");
        send(&scene, libc::SIGKILL, front.pid());
        front.wait(SOON);
        scene.await_none("the front", Instant::now(), SOON);
    }
}

#[test]
fn a_signal_that_ends_the_command_ends_hostler_so() {
    for cell in Cell::all() {
        for number in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM, libc::SIGUSR1] {
            let scene = Scene::new(cell);
            let mut front = scene.start(&mut scene.misbehave(&[], &["alone", "double-fork"]));
            scene
                .ready
                .wait_for("it stands", SOON, |lines| lines.len() == 2);
            send(&scene, number, front.pid());
            assert_eq!(
                front.wait(SOON).code(),
                Some(128 + number),
                "{cell:?}: {}",
                front.err()
            );
            scene.await_none(
                "a signal",
                std::time::Instant::now(),
                std::time::Duration::from_millis(100),
            );
        }
    }
}

#[test]
fn a_command_that_stops_can_go_on() {
    // Told to stop, the command stops and `hostler` with it, as the shell that started it expects to see.
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
    {
        let scene = Scene::new(cell);
        let mut command = scene.misbehave(&[], &["alone", "double-fork"]);
        let mut front = scene.start(command.process_group(0));
        scene
            .ready
            .wait_for("it stands", SOON, |lines| lines.len() == 2);
        let main = scene.ready.number("main").expect("it stands");
        let state = |pid| crate::support::Found::read(pid).map(|found| found.state);
        send(&scene, libc::SIGTSTP, -front.pid());
        wait_until("the command is stopped", SOON, || state(main) == Some('T'));
        wait_until("hostler is stopped", SOON, || {
            state(front.pid()) == Some('T')
        });
        send(&scene, libc::SIGCONT, -front.pid());
        wait_until("the command goes on", SOON, || state(main) == Some('S'));
        scene.go();
        assert_eq!(front.wait(SOON).code(), Some(0), "{}", front.err());
    }
}
