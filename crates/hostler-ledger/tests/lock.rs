//! One host at a time, and nothing of it in its children.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::Duration;

use common::*;
use hostler_ledger::{Ledger, LedgerOptions, OpenError};
use rustix::process::{Pid, Signal, kill_process};

#[test]
#[ignore = "a child of the tests below"]
fn child_that_holds() {
    let Some(dir) = given_dir() else { return };
    let ledger = open(&dir);
    ledger.announce("127.0.0.1:4711").expect("announced");
    eprintln!("holding");
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

#[test]
fn a_second_host_is_refused_and_told_who_runs_until_that_is_killed() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut child = again("child_that_holds", dir.path());
    let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
    let held = stderr
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("holding"));
    assert!(held, "the child has the ledger");
    let before: Vec<_> = files(dir.path());

    let error = Ledger::open(dir.path(), &run()).expect_err("locked");
    match &error {
        OpenError::Locked { pid, address } => {
            assert_eq!(
                (*pid, address.as_deref()),
                (child.id(), Some("127.0.0.1:4711"))
            );
        }
        other => panic!("{other:?}"),
    }
    assert!(
        error.to_string().contains(&child.id().to_string()),
        "{error}"
    );
    assert!(!error.to_string().contains('\n'));
    assert_eq!(files(dir.path()), before, "nothing was touched");

    kill_process(Pid::from_child(&child), Signal::KILL).expect("killed");
    // Not waited for: the lock goes with the process, not with its parent's notice.
    let wait = LedgerOptions {
        wait: patience(),
        ..LedgerOptions::default()
    };
    let opened = open_with(dir.path(), &wait);
    assert_eq!(opened.earlier.len(), 1);
    assert_eq!(opened.earlier[0].pid, child.id());
    child.wait().expect("its end");
}

#[test]
fn the_address_of_an_earlier_host_is_not_told_as_that_of_this_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let lock = dir.path().join("host.lock");
    std::fs::write(&lock, r#"{"pid":1,"address":"127.0.0.1:1"}"#).expect("written");
    let holder = std::fs::File::open(&lock).expect("opened");
    holder.lock().expect("locked");
    match Ledger::open(dir.path(), &run()) {
        Err(OpenError::Locked { pid, address }) => {
            assert_eq!((pid, address), (std::process::id(), None));
        }
        other => panic!("{other:?}"),
    }
    drop(holder);
    let first = open(dir.path());
    first.announce("[::1]:80").expect("announced");
    match Ledger::open(dir.path(), &run()) {
        Err(OpenError::Locked { address, .. }) => assert_eq!(address.as_deref(), Some("[::1]:80")),
        other => panic!("{other:?}"),
    }
    drop(first);
}

#[test]
fn one_that_waits_gets_it_when_the_other_lets_go() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = open(dir.path());
    let path = dir.path().to_path_buf();
    let second = std::thread::spawn(move || {
        open_with(
            &path,
            &LedgerOptions {
                wait: patience(),
                ..LedgerOptions::default()
            },
        )
    });
    let begun = block_on(first.write(vec![event(serde_json::json!(1))])).expect("written");
    first.close().expect("closed");
    let second = second.join().expect("opened");
    assert!(second.ledger.last_seq().expect("read") > begun);
    let short = LedgerOptions {
        wait: Duration::from_millis(20),
        ..LedgerOptions::default()
    };
    assert!(matches!(
        Ledger::open_with(dir.path(), &run(), &short),
        Err(OpenError::Locked { .. })
    ));
}

#[test]
fn children_inherit_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    block_on(ledger.write(vec![event(serde_json::json!(1))])).expect("written");
    let output = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .output()
        .expect("ls");
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(listing.contains("->"), "{listing}");
    let name = dir.path().to_str().expect("a path");
    assert!(!listing.contains(name), "{listing}");
}

#[test]
fn only_its_owner_reads_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let state = dir.path().join("deep/state");
    let ledger = open(&state);
    block_on(ledger.write(vec![event(serde_json::json!(1))])).expect("written");
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path)
            .expect("metadata")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&state), 0o700);
    for (name, _) in files(&state) {
        assert_eq!(mode(&state.join(&name)), 0o600, "{name}");
    }
}

fn files(dir: &std::path::Path) -> Vec<(String, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| {
            let entry = entry.expect("an entry");
            (
                entry.file_name().into_string().expect("a name"),
                entry.metadata().expect("size").len(),
            )
        })
        .collect();
    files.sort();
    files
}
