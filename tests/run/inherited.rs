//! The command finds what it would have found without `hostler`: the same descriptors, and everything else that a process
//! inherits.

use std::ffi::OsString;
use std::process::Stdio;

use crate::support::{Cell, Contain, Scene};

/// Runs `misbehave WHAT` bare and under `hostler run`, both by a shell that prepares the ground with `prepare`, and gives back
/// what they print.
fn both(cell: Cell, prepare: &str, what: &str) -> (String, String) {
    let scene = Scene::new(cell);
    let print = |words: Vec<OsString>| {
        let script: OsString = format!("{prepare}\nexec \"$@\"").into();
        let shell = ["sh".into(), "-c".into(), script, "sh".into()];
        let mut command = scene.wrapped(shell.into_iter().chain(words));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let output = command.output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{cell:?} after `{prepare}`: {:?} {err}",
            output.status
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let words = scene.misbehave_words(&[what]);
    (print(words.clone()), print(scene.run_words(&[], words)))
}

/// The numbers of pipes differ from run to run.
fn without_numbers(fds: &str) -> String {
    let lines = fds.lines().map(|line| match line.split_once("pipe:[") {
        Some((left, right)) => format!(
            "{left}pipe{}\n",
            right.split_once(']').map_or("", |(_, flags)| flags)
        ),
        None => format!("{line}\n"),
    });
    lines.collect()
}

#[test]
fn descriptors() {
    for cell in Cell::all() {
        for prepare in [
            "",
            "exec 7</dev/zero 9>/dev/null",
            "exec 3>&1 8</",
            "exec 0<&-",
            "exec 2>&-",
            "exec 0<&- 2>&- 5</",
        ] {
            let (bare, run) = both(cell, prepare, "fds");
            assert!(!bare.is_empty());
            assert_eq!(
                without_numbers(&bare),
                without_numbers(&run),
                "{cell:?} after `{prepare}`"
            );
        }
    }
}

#[test]
fn state() {
    // A pid namespace comes with a user namespace, which shows in the capabilities and groups; it says so.
    for cell in Cell::all()
        .into_iter()
        .filter(|cell| cell.contain != Contain::Pidns)
    {
        for prepare in [
            "",
            "umask 027; cd /usr",
            "ulimit -n 333; ulimit -c 0; ulimit -s 4096",
            "trap '' HUP INT USR1 PIPE CHLD TSTP",
            "echo 300 > /proc/self/oom_score_adj",
            "export A=1 B='two words' C=; unset HOME",
            "set -- nice -n 7 \"$@\"",
            "set -- setsid -w \"$@\"",
        ] {
            let (bare, run) = both(cell, prepare, "state");
            assert!(bare.contains("env HOSTLER_TEST_MARK"));
            // Whether the group is its own: the shell's pid becomes the command's in the one case, not in the other.
            let comparable = |text: &str| {
                text.lines()
                    .filter(|line| !is_leadership(line))
                    .map(|line| format!("{line}\n"))
                    .collect::<String>()
            };
            pretty(
                &comparable(&bare),
                &comparable(&run),
                &format!("{cell:?} after `{prepare}`"),
            );
        }
    }
}

fn is_leadership(line: &str) -> bool {
    line.starts_with("session ") || line.starts_with("group ")
}

/// Compares line by line, so that only what differs is shown.
fn pretty(bare: &str, run: &str, what: &str) {
    let only = |of: &str, not: &str| {
        of.lines()
            .filter(|line| !not.lines().any(|other| other == *line))
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        bare == run,
        "{what}\nonly without hostler:\n{}\nonly with it:\n{}",
        only(bare, run),
        only(run, bare)
    );
}

#[test]
fn a_blocked_signal_stays_blocked() {
    // No shell can block a signal, so python does where there is one; else there is nothing to see.
    let scene = Scene::new(Cell::plain());
    let script = "import os, signal, sys; signal.pthread_sigmask(signal.SIG_BLOCK, [10, 12, 28, 40]); os.execv(sys.argv[1], sys.argv[1:])";
    let print = |words: Vec<OsString>| {
        let python = ["python3".into(), "-c".into(), script.into()];
        scene.outcome(&mut scene.wrapped(python.into_iter().chain(words)))
    };
    let words = scene.misbehave_words(&["state"]);
    let bare = print(words.clone());
    if bare.code != 0 {
        eprintln!("skipped: no python3");
        return;
    }
    let run = print(scene.run_words(&[], words));
    let mask = |text: &str| {
        text.lines()
            .find(|line| line.starts_with("SigBlk"))
            .map(str::to_owned)
    };
    assert!(mask(&bare.out).is_some());
    assert_eq!(mask(&bare.out), mask(&run.out));
}
