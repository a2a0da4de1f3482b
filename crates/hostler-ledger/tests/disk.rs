//! Full and read-only disks, damaged and foreign files.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use hostler_ledger::{EventFilter, Ledger, OpenError, Seq, SessionId, WriteError};
use rusqlite::Connection;
use serde_json::json;

fn refused(dir: &Path) -> OpenError {
    let error = Ledger::open(dir, &run()).expect_err("refused");
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    // What was refused holds nothing.
    let lock = fs::File::open(dir.join("host.lock"));
    if let Ok(lock) = lock {
        lock.try_lock().expect("not locked");
    }
    error
}

/// A ledger with some 2,000 events, closed.
fn filled(dir: &Path) {
    let ledger = open(dir);
    let session = SessionId::new();
    let mut changes = vec![opened(&session, None, None)];
    changes.extend((0..2_000).map(|n| event(json!({ "n": n, "text": "x".repeat(50) }))));
    block_on(ledger.write(changes)).expect("written");
    ledger.close().expect("closed");
}

#[test]
fn a_newer_ledger_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().expect("a directory");
    filled(dir.path());
    let path = dir.path().join("ledger.db");
    Connection::open(&path)
        .expect("opened")
        .pragma_update(None, "user_version", 99)
        .expect("set");
    let before = fs::read(&path).expect("read");
    match refused(dir.path()) {
        OpenError::Newer { found: 99, known } => assert!(known < 99),
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).expect("read"), before);
}

#[test]
fn a_damaged_ledger_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    filled(dir.path());
    let path = dir.path().join("ledger.db");
    let whole = fs::read(&path).expect("read");
    let mut garbled = whole.clone();
    for byte in &mut garbled[8192..40_000] {
        *byte = byte.wrapping_mul(31).wrapping_add(7);
    }
    let mut foreign = b"SQLite format 3\0".to_vec();
    foreign.resize(4096, 0xff);
    let cases: [(&str, Vec<u8>); 7] = [
        ("garbled", garbled),
        ("no database", b"{ \"a\": 1 }\n".repeat(1000)),
        ("a header only", foreign),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("not whole pages", whole[..whole.len() - 1000].to_vec()),
        ("a few bytes", whole[..10].to_vec()),
        ("empty", Vec::new()),
    ];
    for (case, content) in cases {
        fs::write(&path, &content).expect("written");
        match refused(dir.path()) {
            OpenError::Corrupt { path: named, .. } => assert_eq!(named, path, "{case}"),
            other => panic!("{case}: {other:?}"),
        }
        assert_eq!(
            fs::read(&path).expect("read"),
            content,
            "{case}: not touched"
        );
    }
    fs::write(&path, &whole).expect("written");
    open(dir.path());
}

#[test]
fn a_database_of_another_program_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger.db");
    let other = Connection::open(&path).expect("opened");
    other
        .execute_batch("CREATE TABLE a (x); PRAGMA user_version = 1")
        .expect("made");
    other.close().expect("closed");
    assert!(matches!(refused(dir.path()), OpenError::Corrupt { .. }));
}

#[test]
fn a_log_without_its_file_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("ledger.db-wal"), [1; 100]).expect("written");
    assert!(matches!(refused(dir.path()), OpenError::Corrupt { .. }));
}

#[test]
fn what_was_cut_off_while_it_was_made_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("ledger.db.new"), b"half").expect("written");
    fs::write(dir.path().join("ledger.db.new-journal"), b"half").expect("written");
    open(dir.path());
    assert!(!dir.path().join("ledger.db.new").exists());
}

#[test]
fn a_state_directory_that_is_none_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("written");
    let error = Ledger::open(&file, &run()).expect_err("no directory");
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn a_read_only_disk_is_refused_and_then_noticed() {
    let Some(mount) = Mount::tmpfs("8m") else {
        return;
    };
    filled(mount.path());
    mount.remount("ro");
    assert!(matches!(refused(mount.path()), OpenError::ReadOnly(_)));
    mount.remount("rw");
    open(mount.path());
    let empty = Mount::tmpfs("8m").expect("another");
    empty.remount("ro");
    assert!(matches!(refused(empty.path()), OpenError::ReadOnly(_)));
}

#[test]
fn a_write_protected_file_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root writes all files");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    filled(dir.path());
    let path = dir.path().join("ledger.db");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("set");
    assert!(matches!(refused(dir.path()), OpenError::ReadOnly(_)));
}

#[test]
fn a_full_disk_is_refused() {
    let Some(mount) = Mount::tmpfs("1m") else {
        return;
    };
    let filler = mount.path().join("filler");
    fs::write(&filler, vec![0; 1 << 21]).expect_err("full");
    assert!(
        matches!(refused(mount.path()), OpenError::Full(_)),
        "a new one"
    );
    fs::remove_file(&filler).expect("removed");
    filled(mount.path());
    fs::write(&filler, vec![0; 1 << 21]).expect_err("full");
    assert!(
        matches!(refused(mount.path()), OpenError::Full(_)),
        "one that is there"
    );
    fs::remove_file(&filler).expect("removed");
    open(mount.path());
}

#[test]
fn a_disk_that_fills_up_fails_writes_until_there_is_room() {
    let Some(mount) = Mount::tmpfs("4m") else {
        return;
    };
    let ledger = open(mount.path());
    let session = SessionId::new();
    block_on(ledger.write(vec![opened(&session, None, None)])).expect("written");
    let filler = mount.path().join("filler");
    fs::write(&filler, vec![0; 1 << 23]).expect_err("full");

    let text = "x".repeat(10_000);
    let mut written = 0;
    let error = loop {
        match block_on(ledger.write(vec![event(json!({ "n": written, "text": text }))])) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "it never filled up");
    };
    assert_eq!(error, WriteError::Full);
    // It goes on failing, and reading goes on.
    assert_eq!(
        block_on(ledger.write(vec![event(json!(text))])),
        Err(WriteError::Full)
    );
    assert!(ledger.session(&session).expect("read").is_some());
    // One nobody waits for is kept, and what comes after it does not overtake it.
    ledger.write_later(vec![event(json!({ "later": 1, "text": text }))]);
    ledger.write_later(vec![event(json!({ "later": 2, "text": text }))]);
    assert_eq!(
        block_on(ledger.write(vec![closed(&session)])),
        Err(WriteError::Full)
    );
    assert_eq!((ledger.stats().overdue, ledger.stats().lost), (2, 0));

    fs::remove_file(&filler).expect("removed");
    until("the overdue writes", || ledger.stats().overdue == 0);
    block_on(ledger.write(vec![closed(&session)])).expect("there is room again");
    let filter = EventFilter {
        kind: Some("test.noted".to_owned()),
        ..EventFilter::default()
    };
    let events = ledger.events(Seq::START, 10_000, &filter).expect("read");
    assert_eq!(
        events.len(),
        written + 2,
        "what was answered, and what was overdue"
    );
    assert_eq!(events[written].detail["later"], 1);
    assert_eq!(events[written + 1].detail["later"], 2);
    ledger.close().expect("closed");
    drop(open(mount.path()));
}

#[test]
fn one_that_does_not_fit_fails_without_its_neighbours() {
    let Some(mount) = Mount::tmpfs("4m") else {
        return;
    };
    let ledger = open(mount.path());
    let filler = (0..5_000).map(|n| event(json!(n))).collect();
    let first = ledger.write(filler);
    let small = ledger.write(vec![event(json!("small"))]);
    let huge = ledger.write(vec![event(json!("x".repeat(8 << 20)))]);
    let after = ledger.write(vec![event(json!("after"))]);
    block_on(first).expect("written");
    block_on(small).expect("written");
    assert_eq!(block_on(huge), Err(WriteError::Full));
    block_on(after).expect("written");
}
