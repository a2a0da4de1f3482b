//! Started in ways in which shells do not start programs.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Cell, Contain, Pty, SOON, Scene, find, wait_until};

/// The grace that is given, and a second.
const LIMIT: Duration = Duration::from_millis(1300);

#[test]
fn with_exits_of_children_ignored() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let run = |command: &[&str]| {
            // Dash would not hand it down.
            let ignored = ["bash", "-c", "trap '' CHLD; exec \"$@\"", "bash"];
            let words = scene.run_words(&["--grace", "300ms"], command);
            let all = ignored.into_iter().map(Into::into).chain(words);
            scene.outcome(&mut scene.wrapped::<OsString>(all))
        };
        let shown = run(&["grep", "SigIgn", "/proc/self/status"]);
        let set = shown.out.trim().rsplit('\t').next().expect("a set");
        let set = u64::from_str_radix(set, 16).expect("in hexadecimal");
        assert_ne!(
            set & (1 << 16),
            0,
            "the command does not ignore it: {set:x}"
        );
        let since = Instant::now();
        let outcome = run(&["sh", "-c", "setsid sleep 100 & exit 3"]);
        assert_eq!(outcome.code, 3, "{outcome:?}");
        scene.await_none("a command that ignores SIGCHLD", since, LIMIT);
    }
}

#[test]
fn with_a_limit_on_file_sizes() {
    let scene = Scene::new(Cell::plain());
    // Long enough to travel in a memory file.
    let words = scene.run_words(&[], ["sh", "-c", "ulimit -f; exit 3"]);
    let limited = ["sh", "-c", "ulimit -S -f 1; exec \"$@\"", "sh"];
    let mut command = scene.wrapped(limited.into_iter().map(Into::into).chain(words));
    let outcome = scene.outcome(command.env("LONG", "x".repeat(40_000)));
    assert_eq!((outcome.code, outcome.out.trim()), (3, "1"), "{outcome:?}");
}

#[test]
fn with_a_descriptor_at_the_very_limit() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let limited = [
            "bash",
            "-c",
            "ulimit -n 256; exec 255</dev/null 9<&255; exec \"$@\"",
            "bash",
        ];
        let script = "test -e /proc/self/fd/255 -a -e /proc/self/fd/9 && exit 3";
        let words = scene.run_words(&[], ["sh", "-c", script]);
        let all = limited.into_iter().map(Into::into).chain(words);
        let outcome = scene.outcome(&mut scene.wrapped(all));
        assert_eq!(outcome.code, 3, "{outcome:?}");
    }
}

#[test]
fn where_no_group_can_be_made() {
    let Some(cell) = Cell::all()
        .into_iter()
        .find(|cell| cell.contain == Contain::Cgroup)
    else {
        eprintln!("skipped: no cgroup can be written");
        return;
    };
    let scene = Scene::new(cell);
    // The limit is for the group that hostler starts in, which is the test's own.
    let script = "group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); \
                  test -e $group || group=/sys/fs/cgroup/unified$(sed -n 's/^0:://p' /proc/self/cgroup); \
                  echo 0 > $group/cgroup.max.descendants || exit 99; exec \"$@\"";
    let limited = |words: Vec<OsString>| {
        let before = ["sh", "-c", script, "sh"].into_iter().map(Into::into);
        scene.outcome(&mut scene.wrapped(before.chain(words)))
    };
    let hostler = scene.kit.hostler().display().to_string();
    let words = |contain: &str| -> Vec<OsString> {
        let words = [
            "run",
            "--contain",
            contain,
            "-v",
            "--",
            "sh",
            "-c",
            "exit 3",
        ];
        [hostler.as_str()]
            .into_iter()
            .chain(words)
            .map(Into::into)
            .collect()
    };
    let outcome = limited(words("auto"));
    assert_eq!(outcome.code, 3, "{outcome:?}");
    assert!(outcome.err.contains("held by tree"), "{outcome:?}");
    // Asked for by name, it is not left out.
    let outcome = limited(words("cgroup"));
    assert_eq!(outcome.code, 1, "{outcome:?}");
}

#[test]
fn on_a_terminal_without_a_shell() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let words = scene.run_words(&["--grace", "300ms"], ["cat"]);
        let pty = Pty::new();
        let leads = ["setsid", "-c"].into_iter().map(Into::into);
        let mut front = scene.start_as_is(
            pty.connect(&mut scene.wrapped(leads.chain(words))),
            scene.path("none"),
            scene.path("none"),
        );
        pty.input("one\n");
        pty.expect("one\r\none");
        // Nobody could let it go on: the kernel lets a terminal stop no orphaned group.
        pty.input("\x1a");
        pty.input("two\n");
        pty.expect("two\r\ntwo");
        pty.input("\x04");
        assert!(front.wait(SOON).success());
    }
}

#[test]
fn and_signalled_process_after_process() {
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
    {
        let scene = Scene::new(cell);
        let script =
            "trap 'exit 6' TERM; echo up >> \"$MISBEHAVE_READY\"; while :; do sleep 0.05; done";
        let mut front = scene.start(&mut scene.run(&["--grace", "300ms"], ["sh", "-c", script]));
        scene
            .ready
            .wait_for("it stands", SOON, |lines| !lines.is_empty());
        let (zygote, keeper) = (front.zygote().pid, front.keeper().pid);
        // As `pkill hostler` does.
        for pid in [front.pid(), zygote, keeper] {
            let pid = Pid::from_raw(pid).expect("a pid");
            let _ = kill_process(pid, Signal::TERM);
        }
        assert_eq!(front.wait(SOON).code(), Some(6));
    }
}

#[test]
fn and_interrupted_while_only_children_are_waited_for() {
    let scene = Scene::new(Cell::plain());
    let options = ["--keep-children", "--grace", "300ms"];
    let script = "setsid sleep 100 & echo gone >> \"$MISBEHAVE_READY\"; exit 3";
    let mut front = scene.start(&mut scene.run(&options, ["sh", "-c", script]));
    scene
        .ready
        .wait_for("the command is gone", SOON, |lines| !lines.is_empty());
    wait_until("only the child is left", SOON, || {
        let living = find(&scene.mark);
        !living.iter().any(|found| found.name == "sh")
    });
    let since = Instant::now();
    front.signal(Signal::INT);
    front.wait(SOON);
    scene.await_none("interrupted with only children left", since, LIMIT);
}
