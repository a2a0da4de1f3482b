//! `hostler exec` without `-d` is as the command itself would be.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use rustix::process::Signal;
use rustix::termios::{LocalModes, tcgetattr};

use crate::children::{ended, signal, text};
use crate::place::Place;
use crate::support::{SOON, wait_until};

#[test]
fn streams_are_apart_and_the_status_is_its_own() {
    let place = Place::with_session("s");
    let output = place.run(&[
        "exec",
        "s",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!(text(&output.stdout), "out\n");
    assert_eq!(text(&output.stderr), "err\n");
    assert_eq!(output.status.code(), Some(3));
    let output = place.run(&["exec", "s", "--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(output.status.code(), Some(137));
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn what_cannot_be_run_is_told_as_a_shell_would() {
    let place = Place::with_session("s");
    for (program, status) in [
        ("/no/such/program", 127),
        ("/etc/passwd", 126),
        ("/tmp", 126),
    ] {
        let output = place.run(&["exec", "s", "--", program]);
        assert_eq!(output.status.code(), Some(status), "{program}");
        assert_eq!(text(&output.stderr).lines().count(), 1, "{program}");
    }
}

#[test]
fn input_and_output_are_exact() {
    let place = Place::with_session("s");
    let bytes: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let output = place.fed(&["exec", "s", "--", "cat"], &bytes);
    assert!(output.stdout == bytes, "{} bytes", output.stdout.len());
    // What the command does not read is no failure.
    let output = place.fed(&["exec", "s", "--", "true"], &bytes);
    assert_eq!(output.status.code(), Some(0));
    let output = place.fed(&["exec", "-n", "s", "--", "cat"], b"not read");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn signals_are_passed_on() {
    let place = Place::with_session("s");
    for (number, name) in [
        (Signal::INT, "INT"),
        (Signal::TERM, "TERM"),
        (Signal::HUP, "HUP"),
        (Signal::QUIT, "QUIT"),
        (Signal::USR1, "USR1"),
        (Signal::USR2, "USR2"),
        (Signal::WINCH, "WINCH"),
    ] {
        let script =
            format!("trap 'echo got {name}; exit 9' {name}; echo up; while :; do sleep 0.02; done");
        let mut child = place
            .hostler(&["exec", "s", "--", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("hostler");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut line = || lines.next().map(|line| line.expect("a line"));
        assert_eq!(line().as_deref(), Some("up"));
        signal(&child, number);
        assert_eq!(line(), Some(format!("got {name}")));
        assert_eq!(ended(&mut child).code(), Some(9));
    }
}

#[test]
fn a_signal_comes_through_where_nobody_reads() {
    let place = Place::with_session("s");
    // Its input is not read, and its output is not either.
    let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
    let mut child = place
        .hostler(&["exec", "s", "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut up = [0; 3];
    let stdout = child.stdout.as_mut().expect("stdout");
    stdout.read_exact(&mut up).expect("up");
    let mut stdin = child.stdin.take().expect("stdin");
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&vec![b'x'; 8 << 20]);
    });
    let fed = child.id();
    wait_until("the input is stuck", SOON, || {
        std::fs::read_to_string(format!("/proc/{fed}/io")).is_ok_and(|io| {
            let read = io
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("rchar: "));
            read.and_then(|read| read.parse().ok()).unwrap_or(0) > 400_000
        })
    });
    signal(&child, Signal::TERM);
    assert_eq!(ended(&mut child).code(), Some(7));
    feeder.join().expect("join");
    let mut child = place
        .hostler(&["exec", "s", "--", "sh", "-c", "trap 'exit 7' TERM; yes"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut block = [0; 10];
    let mut stdout = child.stdout.take().expect("stdout");
    stdout.read_exact(&mut block).expect("output");
    signal(&child, Signal::TERM);
    let reader = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    // The shell, or it and yes: the signal goes to their group.
    assert!(matches!(ended(&mut child).code(), Some(7 | 143)));
    reader.join().expect("join").expect("read");
}

#[test]
fn a_closed_output_ends_it_as_sigpipe_would() {
    let place = Place::with_session("s");
    let mut child = place
        .hostler(&["exec", "s", "--", "yes"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    drop(child.stdout.take());
    assert_eq!(ended(&mut child).signal(), Some(13));
    wait_until("yes has ended", SOON, || {
        place
            .json(&["ps", "s", "--json"])
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}

#[test]
fn a_client_that_is_killed_takes_it_along() {
    let place = Place::with_session("s");
    let mut child = place
        .hostler(&[
            "exec",
            "s",
            "--",
            "sh",
            "-c",
            "echo up; sleep 1000 & sleep 1000",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut up = [0; 3];
    let stdout = child.stdout.as_mut().expect("stdout");
    stdout.read_exact(&mut up).expect("up");
    child.kill().expect("kill");
    child.wait().expect("wait");
    wait_until("nothing of it is left", SOON, || {
        place
            .json(&["ps", "s", "--json"])
            .as_array()
            .is_some_and(Vec::is_empty)
    });
}

#[test]
fn a_terminal_is_as_the_commands_own() {
    let place = Place::with_session("s");
    let (pty, mut child) = place.at_terminal(&["exec", "s", "--", "sh"]);
    pty.expect("$ ");
    pty.input("stty size; tty; echo term=$TERM\n");
    let seen = pty.expect("term=xterm");
    assert!(
        seen.contains("24 80") && seen.contains("/dev/pts/"),
        "{seen}"
    );
    pty.resize(33, 111);
    wait_until("the new size is there", SOON, || {
        pty.input("stty size\n");
        pty.expect("$ ").contains("33 111") || pty.screen().contains("33 111")
    });
    pty.input("sleep 1000; echo end''ed\n");
    wait_until("it sleeps", SOON, || {
        place.ok(&["ps", "s"]).contains("sleep 1000")
    });
    pty.input("\x03");
    pty.input("exit 5\n");
    assert_eq!(ended(&mut child).code(), Some(5));
}

#[test]
fn the_terminal_is_restored_on_every_way_out() {
    let place = Place::with_session("s");
    for way in ["exit", "signal", "lost"] {
        let (pty, mut child) =
            place.at_terminal(&["exec", "s", "--", "sh", "-c", "echo up; exec sleep 1000"]);
        let modes = || tcgetattr(pty.slave()).expect("tcgetattr").local_modes;
        pty.expect("up");
        assert!(!modes().contains(LocalModes::ICANON), "raw");
        match way {
            "exit" => pty.input("\x03"),
            "signal" => signal(&child, Signal::TERM),
            _ => {
                place.ok(&["session", "close", "s"]);
                place.ok(&["session", "new", "--name", "s"]);
            }
        }
        ended(&mut child);
        assert!(
            modes().contains(LocalModes::ICANON | LocalModes::ECHO),
            "{way}"
        );
    }
}
