//! What can't be done is said in one clear line, with the right status, and nothing is left running.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Cell, Outcome, Scene};

/// Asserts a failure of `hostler` itself: its status, and one line that names `what`.
fn assert_refused(scene: &Scene, outcome: &Outcome, code: i32, what: &str) {
    assert_eq!((outcome.code, outcome.signal), (code, None), "{outcome:?}");
    assert_eq!(outcome.out, "", "{outcome:?}");
    assert_eq!(outcome.err.lines().count(), 1, "one line: {outcome:?}");
    assert!(outcome.err.starts_with("hostler: "), "{outcome:?}");
    assert!(
        outcome.err.contains(what),
        "it must name `{what}`: {outcome:?}"
    );
    scene.await_none("a refusal", Instant::now(), Duration::from_millis(100));
    scene.await_no_groups();
}

#[test]
fn no_such_program() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        for program in ["/no/such/program", "no-such-program-anywhere", "./no-such"] {
            let outcome = scene.outcome(&mut scene.run(&[], [program, "arg"]));
            assert_refused(&scene, &outcome, 127, program);
        }
    }
}

#[test]
fn a_program_that_cannot_be_executed() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let plain = scene.path("plain");
        fs::write(&plain, "#!/bin/sh\n").expect("write");
        for program in ["/usr", plain.to_str().expect("text")] {
            let outcome = scene.outcome(&mut scene.run(&[], [program]));
            assert_refused(&scene, &outcome, 126, program);
        }
    }
}

#[test]
fn a_script_whose_interpreter_is_missing() {
    let scene = Scene::new(Cell::plain());
    let script = scene.path("script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let outcome = scene.outcome(&mut scene.run(&[], [&script]));
    assert_refused(&scene, &outcome, 127, script.to_str().expect("text"));
}

#[test]
fn a_script_that_names_no_interpreter() {
    // What execvp(3) does, and with it env, nice, timeout and the like.
    let scene = Scene::new(Cell::plain());
    let script = scene.path("script");
    fs::write(&script, "echo \"$0 $1\"\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let outcome = scene.outcome(&mut scene.run(&[], [script.as_os_str(), "argument".as_ref()]));
    assert_eq!(
        outcome.out,
        format!("{} argument\n", script.display()),
        "{outcome:?}"
    );
}

#[test]
fn a_program_is_looked_for_as_a_shell_does() {
    let scene = Scene::new(Cell::plain());
    for (name, mode) in [("first", 0o644), ("second", 0o755)] {
        let dir = scene.path(name);
        fs::create_dir(&dir).expect("mkdir");
        fs::write(dir.join("tool"), "#!/bin/sh\necho \"$0\"\n").expect("write");
        fs::set_permissions(dir.join("tool"), fs::Permissions::from_mode(mode)).expect("chmod");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    let path = format!(
        "{}:{}:/no/such:/usr/bin:/bin",
        scene.path("first").display(),
        scene.path("second").display()
    );
    let outcome = scene.outcome(scene.run(&[], ["tool"]).env("PATH", path));
    assert_eq!(
        outcome.out.trim_end(),
        scene.path("second").join("tool").to_str().expect("text"),
        "{outcome:?}"
    );
    let outcome = scene.outcome(scene.run(&[], ["tool"]).env(
        "PATH",
        format!("{}:/usr/bin:/bin", scene.path("first").display()),
    ));
    assert_refused(&scene, &outcome, 126, "tool");
}

#[test]
fn a_limit_that_is_none() {
    let scene = Scene::new(Cell::plain());
    for (option, value) in [
        ("--memory", "lots"),
        ("--memory", "-5"),
        ("--memory", "0"),
        ("--memory", "5X"),
        ("--memory", "99999999999999999999G"),
        ("--pids", "many"),
        ("--pids", "0"),
        ("--pids", "-1"),
        ("--cpu", "fast"),
        ("--cpu", "0"),
        ("--cpu", "nan"),
        ("--cpu", "-1"),
        ("--grace", "soon"),
        ("--grace", "-1"),
        ("--timeout", "5 parsecs"),
        ("--timeout", "1e400"),
        ("--idle-timeout", ""),
        ("--max-lifetime", "x"),
        ("--die-with", "me"),
        ("--die-with", "0"),
        ("--contain", "tightly"),
    ] {
        let outcome =
            scene.outcome(&mut scene.run(&[&format!("{option}={value}")], ["echo", "it ran"]));
        assert_eq!(
            outcome.out, "",
            "{option} {value}: the command must not run"
        );
        assert_refused(&scene, &outcome, 2, option);
    }
}

#[test]
fn an_option_that_is_none_and_a_report_that_cannot_be_written() {
    let scene = Scene::new(Cell::plain());
    let outcome = scene.outcome(&mut scene.run(&["--no-such-option"], ["echo"]));
    assert_refused(&scene, &outcome, 2, "--no-such-option");
    let outcome = scene.outcome(&mut scene.run(&["--report", "/no/such/dir/report"], ["true"]));
    assert_eq!(outcome.out, "");
    assert!(
        outcome.err.starts_with("hostler: ") && outcome.err.contains("/no/such/dir/report"),
        "{outcome:?}"
    );
    assert_ne!(outcome.code, 0, "{outcome:?}");
}

#[test]
fn no_command() {
    let scene = Scene::new(Cell::plain());
    let hostler = scene.kit.hostler().into_os_string();
    for words in [
        vec!["run"],
        vec!["run", "--"],
        vec!["run", "--", ""],
        vec!["run", "--grace", "1s", "--"],
    ] {
        let words: Vec<OsString> = [hostler.clone()]
            .into_iter()
            .chain(words.into_iter().map(Into::into))
            .collect();
        let outcome = scene.outcome(&mut scene.wrapped(words));
        assert_refused(&scene, &outcome, 2, "command");
    }
}

#[test]
fn an_owner_that_is_not_there() {
    let scene = Scene::new(Cell::plain());
    let outcome = scene.outcome(&mut scene.run(&["--die-with", "4194304"], ["sleep", "60"]));
    assert_ne!(outcome.code, 0, "{outcome:?}");
    assert!(
        outcome.err.starts_with("hostler: ") && outcome.err.contains("4194304"),
        "{outcome:?}"
    );
    scene.await_none("no owner", Instant::now(), Duration::from_millis(100));
}

/// Runs the same shell script bare and under hostler, where `$@` is the command, and asserts that both come to the same.
fn assert_same(cell: Cell, script: &str, command: &[&str]) -> Outcome {
    let scene = Scene::new(cell);
    let outcome = |words: Vec<OsString>| {
        let shell: [OsString; 4] = ["sh".into(), "-c".into(), script.into(), "sh".into()];
        scene.outcome(&mut scene.wrapped(shell.into_iter().chain(words)))
    };
    let bare = outcome(command.iter().map(Into::into).collect());
    let run = outcome(scene.run_words(&[], command));
    assert_eq!(
        (bare.code, &bare.out, &bare.err),
        (run.code, &run.out, &run.err),
        "{cell:?}: {script}: {command:?}"
    );
    scene.await_none("the command", Instant::now(), Duration::from_millis(100));
    run
}

#[test]
fn a_working_directory_that_is_gone() {
    for cell in Cell::all() {
        let script = "mkdir -m 700 \"${MISBEHAVE_READY%/*}/gone.$$\"; cd \"${MISBEHAVE_READY%/*}/gone.$$\"; rmdir \"$PWD\"; exec \"$@\"";
        let outcome = assert_same(cell, script, &["sh", "-c", "echo ran; exit 3"]);
        assert_eq!((outcome.out.as_str(), outcome.code), ("ran\n", 3));
    }
}

#[test]
fn a_working_directory_that_may_not_be_entered() {
    let script =
        "d=\"${MISBEHAVE_READY%/*}/shut.$$\"; mkdir \"$d\"; cd \"$d\"; chmod 600 .; exec \"$@\"";
    for cell in Cell::all() {
        let outcome = assert_same(cell, script, &["sh", "-c", "echo ran; exit 3"]);
        assert_eq!((outcome.out.as_str(), outcome.code), ("ran\n", 3));
    }
}

#[test]
fn closed_standard_streams() {
    for cell in Cell::all() {
        for script in [
            "exec \"$@\" <&-",
            "exec \"$@\" >&-",
            "exec \"$@\" 2>&-",
            "exec \"$@\" <&- >&- 2>&-",
        ] {
            assert_same(
                cell,
                script,
                &["sh", "-c", "cat; echo out; echo err >&2; exit 4"],
            );
            assert_same(cell, script, &["true"]);
        }
    }
}

#[test]
fn nobody_reads_what_hostler_has_to_say() {
    let scene = Scene::new(Cell::plain());
    let script = "\"$@\" 2>&- >&-; echo $?";
    let mut words: Vec<OsString> = ["sh", "-c", script, "sh"].map(Into::into).into();
    words.extend(scene.run_words(&[], ["/no/such/program"]));
    let outcome = scene.outcome(&mut scene.wrapped(words));
    assert_eq!(outcome.out, "127\n");
}

#[test]
fn thousands_of_arguments() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let numbers = (0..5000).map(|number| format!("argument-{number}"));
        let words = ["sh", "-c", "echo $#; shift 4999; echo \"$1\"", "sh"]
            .into_iter()
            .map(String::from)
            .chain(numbers);
        let outcome = scene.outcome(&mut scene.run(&[], words));
        assert_eq!(
            (outcome.out.as_str(), outcome.err.as_str()),
            ("5000\nargument-4999\n", "")
        );
        let odd = ["", " ", "--", "-x", "a\nb", "\u{fffd}", "*"];
        let words = ["printf", "[%s]"].into_iter().chain(odd);
        assert_eq!(
            scene.outcome(&mut scene.run(&[], words)).out,
            odd.map(|word| format!("[{word}]")).concat()
        );
    }
}

#[test]
fn arguments_that_are_not_text() {
    use std::os::unix::ffi::OsStringExt;
    let scene = Scene::new(Cell::plain());
    let words = [
        OsString::from("printf"),
        "%s".into(),
        OsString::from_vec(vec![b'a', 0xff, 0xfe, b'b']),
    ];
    let mut command = scene.run(&[], words);
    let output = command
        .env("ODD", OsString::from_vec(vec![0xff]))
        .stdout(Stdio::piped())
        .output()
        .expect("it runs");
    assert_eq!(output.stdout, [b'a', 0xff, 0xfe, b'b']);
}

#[test]
fn more_than_the_system_takes() {
    // What is over the limit for the command but not yet for `hostler` itself: a script, whose interpreter's path comes on
    // top. Its size is found by going up to the limit from below.
    let scene = Scene::new(Cell::plain());
    let script = scene.path("script");
    fs::write(&script, format!("#!/bin/{}true\n", "./".repeat(110))).expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let words = scene.run_words(&[], [&script]);
    let outcome = |size: usize| {
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("HOSTLER_TEST_MARK", &scene.mark)
            .stdin(Stdio::null());
        for number in 0..size / 100_000 {
            command.env(
                format!("BLOCK_{number:03}"),
                "x".repeat(100_000 - "BLOCK_000=".len() - 1 - 8),
            );
        }
        command.env("REST", "x".repeat(size % 100_000)).output()
    };
    // The largest, to 16 bytes, with which it still starts.
    let (mut fits, mut fails) = (0, 16_000_000);
    assert!(outcome(fails).is_err(), "16 MB are over any limit");
    while fails - fits > 16 {
        let middle = usize::midpoint(fits, fails);
        if outcome(middle).is_ok() {
            fits = middle
        } else {
            fails = middle
        }
    }
    let output = outcome(fits).expect("it fits");
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(126), "{fits} bytes: {err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(
        err.starts_with("hostler: ") && err.contains(script.to_str().expect("text")),
        "{err}"
    );
    scene.await_none("over the limit", Instant::now(), Duration::from_millis(100));
    // Well below it, all goes through.
    let output = outcome(fits - 4096).expect("it fits");
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), b"".as_slice())
    );
}
