//! Ledgers that earlier releases have written.

mod common;

use std::path::Path;

use common::*;
use hostler_ledger::{EventFilter, ResourceFilter, Seq, SessionFilter, Which};
use rusqlite::Connection;

/// A ledger of the first schema, as its release left it when it was killed.
const V1: &str = include_str!("fixtures/v1.sql");

fn restore(dump: &str, dir: &Path) -> Connection {
    let connection = Connection::open(dir.join("ledger.db")).expect("opened");
    connection.execute_batch(dump).expect("restored");
    connection
}

fn shape(connection: &Connection) -> Vec<(String, String)> {
    connection
        .prepare("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        .expect("prepared")
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .expect("read")
        .map(|row| row.expect("a row"))
        .collect()
}

#[test]
fn a_ledger_of_the_first_release_is_brought_up_and_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = restore(V1, dir.path());
    let version = |connection: &Connection| -> u32 {
        connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .expect("a version")
    };
    assert_eq!(version(&old), 1);
    old.close().expect("closed");

    let opened = open_with(dir.path(), &hostler_ledger::LedgerOptions::default());
    assert_eq!(opened.earlier.len(), 1);
    assert_eq!(
        (opened.earlier[0].pid, opened.earlier[0].start_time),
        (4711, 8_154_711)
    );
    let ledger = opened.ledger;
    let all = SessionFilter {
        which: Which::All,
        ..SessionFilter::default()
    };
    let sessions = ledger.sessions(&all).expect("read");
    let states: Vec<_> = sessions
        .iter()
        .map(|session| {
            (
                session.id.as_str(),
                session.state.as_str(),
                session.name.as_deref(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            ("s-4f9k2m7x", "active", Some("demo")),
            ("s-0a1b2c3d", "closed", None)
        ]
    );
    assert_eq!(sessions[1].parent.as_ref(), Some(&sessions[0].id));
    let end = sessions[1].closed.as_ref().expect("its end");
    assert_eq!(
        (end.reason.as_str(), end.report["remaining"].as_u64()),
        ("client", Some(0))
    );
    let live = ledger.resources(&ResourceFilter::default()).expect("read");
    assert_eq!(live.len(), 2);
    let known = live[0].identity.as_ref().expect("an identity");
    assert_eq!(
        (known.pid, known.cgroup.as_deref()),
        (4712, Some("/hostler/s-4f9k2m7x"))
    );
    assert_eq!(live[1].identity, None, "intended when its host was killed");
    let events = ledger
        .events(Seq::START, 100, &EventFilter::default())
        .expect("read");
    assert_eq!(events[1].kind, "session.opened");
    assert_eq!(events.last().expect("an event").kind, "host.started");
    let before = events.last().expect("an event").seq;
    let seq = block_on(ledger.write(vec![released(&live[1].id)])).expect("written");
    assert!(seq > before);
    ledger.close().expect("closed");

    // It is now what a new one is.
    let fresh = tempfile::tempdir().expect("a directory");
    open(fresh.path()).close().expect("closed");
    let [old, new] = [dir.path(), fresh.path()]
        .map(|dir| Connection::open(dir.join("ledger.db")).expect("opened"));
    assert_eq!(shape(&old), shape(&new));
    assert_eq!(version(&old), version(&new));
}
