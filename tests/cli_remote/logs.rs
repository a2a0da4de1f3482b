//! The output of processes.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::children::{ended, text};
use crate::far::Far;
use crate::support::{SOON, wait_until};

#[test]
fn output_is_followed_to_its_end_through_cuts() {
    const LINES: u32 = 60_000;
    let far = Far::new();
    far.ok(&["session", "new", "--name", "s"]);
    // It goes on when it is told to, so that there is a connection to cut whenever one is cut.
    let go = far.dir.path().join("go");
    let script = format!(
        "seq 1 {}; until [ -e {} ]; do sleep 0.01; done; seq {} {LINES}",
        LINES / 2,
        go.display(),
        LINES / 2 + 1
    );
    let id = far.ok_beside(&[
        "exec", "-d", "--name", "count", "s", "--", "sh", "-c", &script,
    ]);
    let mut child = far
        .hostler(&["logs", "-f", "count"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut next = 1;
    for line in BufReader::new(child.stdout.take().expect("stdout")).lines() {
        assert_eq!(line.expect("a line"), next.to_string());
        if [1, LINES / 4, LINES / 2].contains(&next) {
            wait_until("a connection to cut", SOON, || far.net.cut() > 0);
        }
        if next == LINES / 2 {
            std::fs::write(&go, "").expect("written");
        }
        next += 1;
    }
    assert_eq!(next, LINES + 1);
    assert_eq!(ended(&mut child).code(), Some(0));
    // It has ended: the same once more, by all its names.
    for name in [&*id, "count", "s/count", &format!("ahp-terminal:/{id}")] {
        let all = far.ok(&["logs", name]);
        assert_eq!(all.lines().count() as u32, LINES);
    }
    assert_eq!(
        far.ok(&["logs", "count", "--tail", "2"]),
        format!("{}\n{LINES}", LINES - 1)
    );
    assert_eq!(far.ok(&["logs", "count", "--head", "2"]), "1\n2");
    assert!(
        far.ok(&["logs", "-f", "count", "--since", "2"])
            .starts_with("2\n3\n")
    );
}

#[test]
fn the_streams_of_a_foreground_process_stay_apart() {
    let far = Far::new();
    far.ok(&["session", "new", "--name", "s"]);
    let script = "echo out; echo err >&2; printf 'a\\377b\\n'; read line; echo end";
    let mut process = far
        .bare(&["exec", "--name", "p", "s", "--", "sh", "-c", script])
        .env("HOSTLER_STATE_DIR", far.dir.path().join("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("hostler");
    wait_until("the process is there", SOON, || {
        far.run(&["logs", "p"]).status.success() && far.ok(&["logs", "p"]).contains("out")
    });
    let mut child = far
        .hostler(&["logs", "-f", "p"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "out\n");
    // Its input ends, and with it the process.
    drop(process.stdin.take());
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    assert_eq!(rest, "a\u{fffd}b\nend\n");
    let mut said = String::new();
    child
        .stderr
        .take()
        .expect("stderr")
        .read_to_string(&mut said)
        .expect("text");
    assert_eq!(said, "err\n");
    assert_eq!(ended(&mut child).code(), Some(0));
    ended(&mut process);
}

#[test]
fn a_session_that_closes_ends_what_is_followed() {
    let far = Far::new();
    far.ok(&["session", "new", "--name", "s", "--grace", "100ms"]);
    far.ok_beside(&[
        "exec",
        "-d",
        "--name",
        "p",
        "s",
        "--",
        "sh",
        "-c",
        "echo here; exec sleep 1000",
    ]);
    let mut child = far
        .hostler(&["logs", "-f", "p"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut out = BufReader::new(child.stdout.take().expect("stdout"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "here\n");
    let report = far.json(&["session", "close", "s", "--json"]);
    assert_eq!(report["remaining"], 0);
    assert_eq!(ended(&mut child).code(), Some(0));
    assert_eq!(
        text(&out.bytes().map_while(Result::ok).collect::<Vec<u8>>()),
        ""
    );
}
