//! Sessions and processes: opened, named, listed, read, ended.

use std::io::{BufRead, BufReader, Read};
use std::process::Command;

use crate::children::text;
use crate::place::Place;
use crate::support::{SOON, wait_until};

#[test]
fn no_host_is_one_clear_line() {
    let dir = tempfile::tempdir().expect("a directory");
    for words in [
        &["session", "ls"][..],
        &["exec", "s", "--", "true"],
        &["ps"],
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_hostler"))
            .args(words)
            .env("HOSTLER_STATE_DIR", dir.path())
            .output()
            .expect("hostler");
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.starts_with("hostler: no host is running"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused_with_2() {
    let place = Place::new();
    for words in [
        &["exec", "s"][..],
        &["exec", "--json", "s", "--", "true"],
        &["session", "new", "--grace", "soon"],
        &["session", "set", "s"],
        &["kill", "-s", "LOUD", "p"],
        &["attach", "--detach-keys", "x y", "s"],
        &["logs", "--tail", "1", "--head", "1", "p"],
    ] {
        let (status, line) = place.fails(words);
        assert_eq!(status, Some(2), "{words:?}: {line}");
        assert!(line.starts_with("hostler: "), "{line}");
    }
}

#[test]
fn a_session_from_its_opening_to_its_report() {
    let place = Place::new();
    let words = [
        "session",
        "new",
        "--name",
        "dev",
        "--idle-ttl",
        "5m",
        "--on-disconnect",
        "detach",
        "--json",
    ];
    let session = place.json(&words);
    let id = session["id"].as_str().expect("an id").to_owned();
    assert_eq!(session["policy"]["idle"], 300.0);
    for name in ["dev", &id, &id[..5], &id[2..6]] {
        assert_eq!(place.json(&["session", "show", name, "--json"])["id"], *id);
    }
    let child = place.ok(&["session", "new", "--parent", "dev"]);
    assert!(place.ok(&["session", "ls"]).contains(&child));
    place.ok(&[
        "session",
        "set",
        "dev",
        "--idle-ttl",
        "0",
        "--daily-reset",
        "4",
    ]);
    let changed = place.json(&["session", "show", "dev", "--json"]);
    assert_eq!(changed["policy"]["daily_reset"], 4);
    assert!(changed["policy"]["idle"].is_null());
    place.ok(&[
        "exec",
        "-d",
        "dev",
        "--",
        "sh",
        "-c",
        "sleep 1000 & sleep 1000",
    ]);
    let report = place.json(&["session", "close", "dev", "--json"]);
    assert_eq!(report["remaining"].as_u64(), Some(0));
    // Once more: the same, for people.
    let report = place.ok(&["session", "close", &id]);
    assert!(
        report.ends_with("remaining: 0") && report.contains("sleep"),
        "{report}"
    );
    assert!(!place.ok(&["session", "ls"]).contains(&id));
    assert!(place.ok(&["session", "ls", "--all"]).contains(&id));
    let (status, line) = place.fails(&["exec", &id, "--", "true"]);
    assert_eq!(
        (status, line.as_str()),
        (Some(1), &*format!("hostler: session {id} has closed\n"))
    );
    let log = place.ok(&["log", &id]);
    assert!(
        log.contains("session.opened") && log.contains("session.closed"),
        "{log}"
    );
    let all = place.json(&["log", "--json"]);
    let last = all.as_array().and_then(|all| all.last()).expect("an event")["seq"].clone();
    let none = place.json(&["log", "--json", "--after", &last.to_string()]);
    assert_eq!(none.as_array().map(Vec::len), Some(0));
}

#[test]
fn processes_are_shown_as_the_tree_that_they_are() {
    let place = Place::with_session("s");
    let id = place.ok(&["exec", "-d", "s", "--", "sh", "-c", "sleep 1001 & wait"]);
    wait_until("both are there", SOON, || {
        place.ok(&["ps", "s"]).contains("sleep 1001")
    });
    let tree = place.ok(&["ps", "--tree"]);
    assert!(
        tree.contains("└─ sleep 1001") && tree.contains(&id),
        "{tree}"
    );
    let all = place.json(&["ps", "--json"]);
    let all = all.as_array().expect("a list");
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|one| one["belongs_to"] == *id), "{all:?}");
}

#[test]
fn output_is_read_whole_in_part_and_as_it_comes() {
    let place = Place::with_session("s");
    let script = "seq 100000; read go; echo went $go";
    place.ok(&[
        "exec", "-d", "-i", "--name", "p", "s", "--", "sh", "-c", script,
    ]);
    wait_until("it has written", SOON, || {
        place.ok(&["logs", "--tail", "1", "p"]) == "100000"
    });
    let numbers: String = (1..=100_000).map(|n| format!("{n}\n")).collect();
    assert!(text(&place.run(&["logs", "p"]).stdout) == numbers);
    assert_eq!(place.ok(&["logs", "--head", "2", "p"]), "1\n2");
    assert_eq!(place.ok(&["logs", "--tail", "2", "p"]), "99999\n100000");
    let since = (numbers.len() - 7).to_string();
    assert_eq!(place.ok(&["logs", "--since", &since, "p"]), "100000");
    let mut follower = place
        .hostler(&["logs", "-f", "--tail", "1", "p"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut shown = BufReader::new(follower.stdout.take().expect("its output"));
    let mut tail = String::new();
    shown.read_line(&mut tail).expect("a line");
    assert_eq!(tail, "100000\n");
    // What is written from here on is the last line no more.
    place.fed(&["input", "p"], b"home\n");
    let mut more = String::new();
    shown.read_to_string(&mut more).expect("the rest");
    assert_eq!(more, "went home\n");
    assert!(follower.wait().expect("waited").success());
}

#[test]
fn processes_end_and_their_ends_are_told() {
    let place = Place::with_session("s");
    let start = |name| place.ok(&["exec", "-d", "--name", name, "s", "--", "sleep", "1000"]);
    start("killed");
    place.ok(&["kill", "-s", "int", "killed"]);
    assert_eq!(place.run(&["wait", "killed"]).status.code(), Some(130));
    let stopped = start("stopped");
    let line = place.ok(&["stop", "stopped"]);
    assert_eq!(line, format!("{stopped} ended by SIGTERM"));
    let running = start("running");
    let (status, line) = place.fails(&["wait", "--timeout", "50ms", "running"]);
    assert_eq!(status, Some(1));
    assert!(line.contains("still runs"), "{line}");
    let keeper = place.ok(&["keep", "running", "kept"]);
    let report = place.json(&["session", "close", "s", "--json"]);
    assert_eq!(report["kept"][0], *running);
    assert_eq!(
        place.json(&["session", "show", "kept", "--json"])["id"],
        *keeper
    );
    assert_eq!(
        place.json(&["session", "close", "kept", "--json"])["remaining"],
        0
    );
}

#[test]
fn shells_and_readers_are_told_of_the_commands() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(place.ok(&["completions", shell]).contains("hostler"));
    }
    let dir = place.dir.path().join("man");
    place.ok(&["man", dir.to_str().expect("text")]);
    for page in ["hostler.1", "hostler-exec.1", "hostler-session-new.1"] {
        assert!(dir.join(page).exists(), "{page}");
    }
}

#[test]
fn processes_of_all_sessions_are_one_list() {
    let place = Place::with_session("s");
    place.ok(&["session", "new", "--name", "other", "--grace", "300ms"]);
    place.ok(&["session", "new", "--name", "empty"]);
    let one = place.ok(&["exec", "-d", "s", "--", "sleep", "1003"]);
    let two = place.ok(&["exec", "-d", "other", "--", "sleep", "1004"]);
    let all = place.json(&["ps", "--json"]);
    let list = all.as_array().expect("a list").iter();
    let ids: Vec<&str> = list
        .map(|one| one["process"].as_str().expect("an id"))
        .collect();
    assert_eq!(ids, [&one, &two]);
    let other = place.json(&["session", "show", "other", "--json"]);
    assert_eq!(all[1]["session"], other["id"]);
    let tree = place.ok(&["ps", "--tree"]);
    assert!(
        tree.contains("empty (s-") && tree.contains("sleep 1004"),
        "{tree}"
    );
}

#[test]
fn who_reads_along_neither_holds_nor_ends_a_session() {
    let place = Place::new();
    let policy = ["--on-disconnect", "close", "--grace", "300ms"];
    place.ok(&[&["session", "new", "--name", "s"], &policy[..]].concat());
    let script = "echo here; exec sleep 1000";
    place.ok(&["exec", "-d", "--name", "p", "s", "--", "sh", "-c", script]);
    let mut follower = place
        .hostler(&["logs", "-f", "p"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut line = [0; 5];
    let stdout = follower.stdout.as_mut().expect("a pipe");
    std::io::Read::read_exact(stdout, &mut line).expect("a line");
    assert_eq!(&line, b"here\n");
    let clients =
        |place: &Place| place.json(&["session", "show", "s", "--json"])["clients"].clone();
    assert_eq!(clients(&place), 0);
    follower.kill().expect("killed");
    follower.wait().expect("waited for");
    // One that is a client ends it by leaving, so this one did not.
    let state = place.json(&["session", "show", "s", "--json"])["state"].clone();
    assert_eq!(state, "active");
    let (_pty, mut viewer) = place.at_terminal(&["attach", "s/p"]);
    wait_until("it is a client", SOON, || clients(&place) == 1);
    crate::children::signal(&viewer, rustix::process::Signal::KILL);
    let _ = viewer.wait();
    wait_until("the session has closed", SOON, || {
        place.run(&["session", "show", "s", "--json"]).status.code() != Some(0)
            || place.json(&["session", "show", "s", "--json"])["state"] != "active"
    });
}

#[test]
fn the_log_is_read_where_no_host_runs() {
    let mut place = Place::with_session("s");
    place.ok(&["exec", "s", "--", "true"]);
    let before = place.ok(&["log", "s", "--json"]);
    place.stop();
    let after = place.json(&["log", "s", "--json"]);
    let after = after.as_array().expect("a list");
    let before: Vec<serde_json::Value> = serde_json::from_str(&before).expect("a list");
    assert!(
        before.len() > 2 && after[..before.len()] == before[..],
        "{after:?}"
    );
    assert_eq!(after.last().expect("an event")["kind"], "session.closed");
    assert!(place.ok(&["log"]).contains("session.opened"));
    // Nothing of it is changed by that, and a follower wants a host.
    for words in [&["log", "-f"][..], &["ps"]] {
        let (status, line) = place.fails(words);
        assert!(
            status == Some(1) && line.contains("no host is running"),
            "{line}"
        );
    }
    let (status, line) = place.fails(&["log", "nobody"]);
    assert_eq!(
        (status, line.as_str()),
        (Some(1), "hostler: there is no session `nobody`\n")
    );
}
