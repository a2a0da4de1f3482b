//! What `--fix` asks, and what it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use rustix::process::{Signal, getuid};
use serde_json::Value;

use crate::support::{Cell, Found, Pty, SOON, wait_until};
use crate::{FIXED, Stage, WILLING, lives};

#[test]
fn without_a_terminal_it_does_not_choose() {
    let stage = Stage::new(Cell::plain());
    let agent = stage.script("codex-acp", WILLING);
    let leaked = stage.leaked(&agent, "leaked");
    for options in [&["--fix"][..], &["--fix", "--json"], &["--yes"]] {
        let outcome = stage.say(options);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{outcome:?}");
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    }
    assert!(lives(leaked));
}

#[test]
fn at_a_terminal_it_asks() {
    let stage = Stage::new(Cell::plain());
    let agent = stage.script("codex-acp", WILLING);
    let start = |word: &str| stage.leaked(&agent, word);
    let pids = [start("first"), start("second"), start("third")];
    let ask = |answers: &[&str]| {
        let pty = Pty::new();
        pty.resize(50, 200);
        let mut command = stage.doctor(&["--fix"]);
        let path = stage.scene.path("terminal");
        let mut front = stage
            .scene
            .start_as_is(pty.connect(&mut command), path.clone(), path);
        let mut seen = String::new();
        for answer in answers {
            seen += &pty.expect("End which?");
            pty.input(answer);
        }
        let status = front.wait(FIXED);
        assert!(status.success(), "{seen}{}", pty.screen());
        seen + &pty.screen()
    };
    let seen = ask(&["\n"]);
    assert!(seen.contains("nobody can write to its input"), "{seen}");
    assert!(
        pids.iter().all(|pid| lives(*pid)),
        "an empty answer ends none"
    );
    let seen = ask(&["4\n", "1,3-3\n"]);
    assert!(
        seen.contains("`4` is none of the numbers 1 to 3") && seen.contains("freed"),
        "{seen}"
    );
    assert_eq!(pids.map(lives), [false, true, false], "{seen}");
    let seen = ask(&["all\n"]);
    assert!(!lives(pids[1]), "{seen}");
}

#[test]
fn at_a_terminal_what_may_be_meant_to_run_is_asked_about_twice() {
    let stage = Stage::new(Cell::plain());
    let line = "export CLAUDECODE=1; sh -c 'echo work $$ >> \"$MISBEHAVE_READY\"; exec sleep 1000' > /dev/null &";
    let work = stage.leave(line, "work", Stdio::null(), Stdio::null());
    for (answer, ended) in [("\n", false), ("y\n", false), ("yes\n", true)] {
        let pty = Pty::new();
        pty.resize(50, 200);
        let mut command = stage.doctor(&["--fix"]);
        let path = stage.scene.path("terminal");
        let mut front = stage
            .scene
            .start_as_is(pty.connect(&mut command), path.clone(), path);
        pty.expect("End which?");
        pty.input("all\n");
        pty.expect("may be meant to run");
        pty.input(answer);
        assert!(front.wait(FIXED).success(), "{}", pty.screen());
        assert_eq!(lives(work), !ended, "{answer:?}: {}", pty.screen());
    }
}

#[test]
fn one_on_a_recycled_pid_is_not_touched() {
    if !getuid().is_root() {
        eprintln!("skipped: ns_last_pid needs root");
        return;
    }
    // Before it is opened, and after.
    for (hook, state) in [("doctor.chosen", "another"), ("doctor.opened", "gone")] {
        // Somebody else on the machine may have got the pid first; then another is tried.
        assert!(
            (0..20).any(|_| is_spared(hook, state)),
            "no pid could be had again"
        );
    }
}

/// Whether the pid could be had again at all.
fn is_spared(hook: &str, state: &str) -> bool {
    let stage = Stage::new(Cell::plain());
    let scene = &stage.scene;
    let agent = stage.script(
        "codex-acp",
        "echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; read x < \"$MISBEHAVE_GO\"",
    );
    let leaked = stage.leaked(&agent, "leaked");
    let found = Found::read(leaked).expect("it stands");
    let hooks = scene.path("hooks");
    let listener = UnixListener::bind(&hooks).expect("a socket");
    let mut command = stage.doctor(&["--fix", "--yes", "--json"]);
    let front = scene.start(command.env("HOSTLER_TEST_HOOKS", &hooks));
    let mut recycled = None;
    for stream in listener.incoming() {
        let stream = stream.expect("a connection");
        let mut line = String::new();
        BufReader::new(&stream)
            .read_line(&mut line)
            .expect("a name");
        if line.starts_with(hook) {
            found.signal(Signal::KILL);
            wait_until("it is gone", SOON, || {
                Found::read(leaked).is_none_or(|now| now.start != found.start)
            });
            // Not marked in a way that doctor would look for: its name is no agent's.
            let others = scene.misbehave_words(&["recycle", &leaked.to_string()]);
            recycled = Some(scene.start(&mut scene.wrapped(others)));
            scene
                .ready
                .wait_for("the pid is taken again", SOON, |lines| {
                    lines.iter().any(|line| line.contains("recycled"))
                });
            break;
        }
    }
    drop(listener);
    let outcome = front.outcome();
    let again = scene.ready.count("recycled") == 1;
    if again {
        let report: Value = serde_json::from_str(&outcome.out)
            .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        assert_eq!(report["fixed"]["trees"][0]["state"], state, "{report:#}");
        assert!(
            lives(leaked),
            "the bystander on the recycled pid {leaked} is gone"
        );
    }
    drop(recycled);
    again
}
