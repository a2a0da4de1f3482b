//! What is written is there, whole, in order; what makes no sense is refused.

mod common;

use std::sync::Arc;

use common::*;
use hostler_ledger::{
    Change, EventFilter, Ledger, Refusal, ResourceFilter, ResourceId, Seq, SessionFilter,
    SessionId, Which, WriteError,
};
use serde_json::json;
use tokio::sync::broadcast::error::RecvError;

#[test]
fn a_session_is_read_back_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let (session, process) = (SessionId::new(), ResourceId::new("process"));
    block_on(ledger.write(vec![
        opened(&session, Some("demo"), None),
        intended(&process, &session),
    ]))
    .expect("written");
    let found = ledger.session(&session).expect("read").expect("a session");
    assert_eq!(
        (found.state.as_str(), found.name.as_deref()),
        ("starting", Some("demo"))
    );
    assert_eq!(found.detail, json!({ "idle": 600, "text": "naïve ✓\n\"" }));
    assert_eq!((found.opened, &found.closed), (1_700_000_000_000, &None));
    let found = ledger
        .resource(&process)
        .expect("read")
        .expect("a resource");
    assert_eq!((found.identity, found.released), (None, None));

    let state = Change::SessionState {
        id: session.clone(),
        state: "active".to_owned(),
        by: by(),
    };
    let detail = Change::SessionDetail {
        id: session.clone(),
        detail: json!(1),
    };
    block_on(ledger.write(vec![state, detail, identified(&process)])).expect("written");
    assert_eq!(
        ledger
            .session(&session)
            .expect("read")
            .expect("a session")
            .state,
        "active"
    );
    let live = ledger.resources(&ResourceFilter::default()).expect("read");
    assert_eq!(live.len(), 1);
    assert_eq!(live[0].identity, Some(identity()));

    block_on(ledger.write(vec![released(&process), closed(&session)])).expect("written");
    assert!(
        ledger
            .resources(&ResourceFilter::default())
            .expect("read")
            .is_empty()
    );
    assert!(
        ledger
            .sessions(&SessionFilter::default())
            .expect("read")
            .is_empty()
    );
    let all = SessionFilter {
        which: Which::Closed,
        ..SessionFilter::default()
    };
    let found = ledger
        .sessions(&all)
        .expect("read")
        .pop()
        .expect("a session");
    assert_eq!((found.state.as_str(), found.detail), ("closed", json!(1)));
    assert_eq!(
        found.closed.expect("its end").report,
        json!({ "remaining": 0 })
    );
    assert_eq!(ledger.reports(10).expect("read")[0].session, session);

    let filter = EventFilter {
        session: Some(session.clone()),
        ..EventFilter::default()
    };
    let events = ledger.events(Seq::START, 100, &filter).expect("read");
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "session.opened",
            "resource.intended",
            "session.state",
            "session.detail",
            "resource.identified",
            "resource.released",
            "session.closed"
        ]
    );
    assert_eq!(
        (events[0].who.as_str(), events[0].why.as_str()),
        ("a test", "to see")
    );
    let of_process = |event: &&hostler_ledger::Event| event.resource.as_ref() == Some(&process);
    assert_eq!(events.iter().filter(of_process).count(), 3);
    assert_eq!(
        ledger
            .events(events[2].seq, 2, &EventFilter::default())
            .expect("read"),
        events[3..5]
    );
    assert_eq!(ledger.last_seq().expect("read"), events[6].seq);
}

#[test]
fn what_makes_no_sense_is_refused_whole_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let (parent, child, stranger) = (SessionId::new(), SessionId::new(), SessionId::new());
    let (process, nothing) = (ResourceId::new("process"), ResourceId::new("process"));
    let refused = |changes: Vec<Change>| match block_on(ledger.write(changes)) {
        Err(WriteError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let begun = vec![
        opened(&parent, Some("demo"), None),
        opened(&child, None, Some(&parent)),
        intended(&process, &parent),
    ];
    block_on(ledger.write(begun)).expect("written");
    let last = ledger.last_seq().expect("read");

    assert_eq!(
        refused(vec![opened(&parent, None, None)]),
        Refusal::SessionExists(parent.clone())
    );
    let taken = refused(vec![event(json!(1)), opened(&stranger, Some("demo"), None)]);
    assert_eq!(taken, Refusal::NameTaken("demo".to_owned()));
    let orphan = opened(&SessionId::new(), None, Some(&stranger));
    assert_eq!(refused(vec![orphan]), Refusal::NoSession(stranger.clone()));
    assert_eq!(
        refused(vec![intended(&process, &parent)]),
        Refusal::ResourceExists(process.clone())
    );
    assert_eq!(
        refused(vec![released(&nothing)]),
        Refusal::NoResource(nothing.clone())
    );
    let owns = Refusal::StillOwns {
        id: parent.clone(),
        resources: 1,
        children: 1,
    };
    assert_eq!(refused(vec![closed(&parent)]), owns);
    // The release is undone with what it was written with.
    let owns = Refusal::StillOwns {
        id: parent.clone(),
        resources: 0,
        children: 1,
    };
    assert_eq!(refused(vec![released(&process), closed(&parent)]), owns);
    assert_eq!(
        ledger.last_seq().expect("read"),
        last,
        "nothing was written"
    );

    let moved = Change::ResourceMoved {
        id: process.clone(),
        to: child.clone(),
        by: by(),
    };
    block_on(ledger.write(vec![moved])).expect("moved");
    block_on(ledger.write(vec![released(&process), closed(&child), closed(&parent)]))
        .expect("ended");
    assert_eq!(
        refused(vec![released(&process)]),
        Refusal::ResourceReleased(process.clone())
    );
    assert_eq!(
        refused(vec![identified(&process)]),
        Refusal::ResourceReleased(process)
    );
    assert_eq!(
        refused(vec![closed(&parent)]),
        Refusal::SessionClosed(parent.clone())
    );
    assert_eq!(
        refused(vec![intended(&nothing, &parent)]),
        Refusal::SessionClosed(parent)
    );
    // The name is free again.
    block_on(ledger.write(vec![opened(&stranger, Some("demo"), None)])).expect("written");
    let to = SessionId::new();
    let named = |name: &str| Change::SessionNamed {
        id: to.clone(),
        name: Some(name.to_owned()),
        by: by(),
    };
    block_on(ledger.write(vec![opened(&to, Some("other"), None), named("other")]))
        .expect("written");
    assert_eq!(
        refused(vec![named("demo")]),
        Refusal::NameTaken("demo".to_owned())
    );
}

/// Keeps the writer busy for as long as it takes to queue what follows.
fn occupy(ledger: &Ledger) {
    ledger.write_later((0..20_000).map(|n| event(json!({ "filler": n }))).collect());
}

#[test]
fn what_may_wait_is_committed_with_the_next_write_before_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let kinds = |ledger: &Ledger| -> Vec<serde_json::Value> {
        let events = ledger.events(Seq::START, 100_000, &EventFilter::default());
        let events = events.expect("read").into_iter();
        events
            .map(|event| event.detail["n"].clone())
            .filter(|n| !n.is_null())
            .collect()
    };
    // Together with what comes next, and never after it.
    let before = ledger.stats();
    occupy(&ledger);
    ledger.write_soon(vec![event(json!({ "n": 1 }))]);
    ledger.write_soon(vec![event(json!({ "n": 2 }))]);
    block_on(ledger.write_unsynced(vec![event(json!({ "n": 3 }))])).expect("written");
    assert_eq!(kinds(&ledger), [1, 2, 3]);
    let stats = ledger.stats();
    assert!(stats.commits - before.commits <= 2, "{stats:?} {before:?}");
    assert_eq!(stats.writes - before.writes, 4);
    // Where nothing comes, on its own.
    let mut told = ledger.subscribe();
    ledger.write_soon(vec![event(json!({ "n": 4 }))]);
    let told = block_on(async { told.recv().await }).expect("an event");
    assert_eq!(told.detail["n"], 4);
    // And before the file is closed.
    ledger.write_soon(vec![event(json!({ "n": 5 }))]);
    ledger.close().expect("closed");
    assert_eq!(kinds(&open(dir.path())), [1, 2, 3, 4, 5]);
}

#[test]
fn what_waits_is_committed_together_and_a_bad_one_fails_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let before = ledger.stats();
    occupy(&ledger);
    let writes: Vec<_> = (0..500)
        .map(|n| match n % 10 {
            7 => ledger.write(vec![event(json!({ "half": n })), closed(&SessionId::new())]),
            _ => ledger.write(vec![event(json!({ "whole": n }))]),
        })
        .collect();
    let mut last = Seq::START;
    for (n, write) in writes.into_iter().enumerate() {
        match (n % 10, block_on(write)) {
            (7, Err(WriteError::Refused(Refusal::NoSession(_)))) => {}
            (_, Ok(seq)) => {
                assert!(seq > last, "in the order of the calls");
                last = seq;
            }
            (_, other) => panic!("{n}: {other:?}"),
        }
    }
    let stats = ledger.stats();
    assert_eq!(stats.writes - before.writes, 451);
    let commits = stats.commits - before.commits;
    assert!(commits < 50, "{commits} commits for 451 writes");
    let events = ledger
        .events(Seq::START, 100_000, &EventFilter::default())
        .expect("read");
    let count = |key: &str| {
        events
            .iter()
            .filter(|event| event.detail.get(key).is_some())
            .count()
    };
    assert_eq!((count("whole"), count("half")), (450, 0));
}

#[test]
fn twenty_write_at_once_and_each_finds_all_of_its_own_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..20 {
            let ledger = ledger.clone();
            writers.spawn(async move {
                let mut last = Seq::START;
                for n in 0..50 {
                    let mut changes = cycle();
                    changes.push(event(json!({ "writer": writer, "n": n })));
                    let seq = ledger.write(changes).await.expect("written");
                    assert!(seq > last);
                    last = seq;
                }
            });
        }
        while let Some(writer) = writers.join_next().await {
            writer.expect("a writer");
        }
    });
    let stats = ledger.stats();
    assert!(
        stats.commits < stats.writes,
        "some were committed together: {stats:?}"
    );
    let kind = Some("test.noted".to_owned());
    let events = ledger
        .events(
            Seq::START,
            10_000,
            &EventFilter {
                kind,
                ..EventFilter::default()
            },
        )
        .expect("read");
    for writer in 0..20 {
        let own: Vec<_> = events
            .iter()
            .filter(|event| event.detail["writer"] == writer)
            .map(|event| event.detail["n"].as_u64().expect("a number"))
            .collect();
        assert_eq!(own, (0..50).collect::<Vec<_>>());
    }
    let all = ledger.sessions(&SessionFilter {
        which: Which::All,
        ..SessionFilter::default()
    });
    assert_eq!(all.expect("read").len(), 1000);
}

#[test]
fn a_write_whose_future_is_dropped_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    drop(ledger.write(vec![event(json!("dropped"))]));
    block_on(ledger.write(Vec::new())).expect("a barrier");
    let events = ledger
        .events(Seq::START, 10, &EventFilter::default())
        .expect("read");
    assert_eq!(events.last().expect("an event").detail, json!("dropped"));
}

#[test]
fn a_follower_gets_each_event_once_and_reads_what_it_has_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let mut follower = ledger.subscribe();
    let mut seen = ledger.last_seq().expect("read");
    let first = seen;
    let writes: Vec<_> = (0..5_000)
        .map(|n| ledger.write(vec![event(json!(n))]))
        .collect();
    let mut numbers = Vec::new();
    block_on(async {
        for write in writes {
            write.await.expect("written");
        }
        let mut lagged = false;
        while numbers.len() < 5_000 {
            match follower.recv().await {
                Ok(event) if event.seq > seen => {
                    seen = event.seq;
                    numbers.push(event.detail.as_u64().expect("a number"));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => {
                    lagged = true;
                    for event in ledger
                        .events(seen, 10_000, &EventFilter::default())
                        .expect("read")
                    {
                        seen = event.seq;
                        numbers.push(event.detail.as_u64().expect("a number"));
                    }
                }
                Err(RecvError::Closed) => panic!("closed"),
            }
        }
        assert!(lagged, "it was told");
    });
    assert_eq!(numbers, (0..5_000).collect::<Vec<_>>());
    assert!(seen > first);
}

#[test]
fn closing_writes_what_is_queued_and_ends_all_handles() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let other = ledger.clone();
    let mut follower = ledger.subscribe();
    let writes: Vec<_> = (0..100)
        .map(|n| ledger.write(vec![event(json!(n))]))
        .collect();
    ledger.close().expect("closed");
    for write in writes {
        block_on(write).expect("written");
    }
    assert_eq!(
        block_on(other.write(vec![event(json!(1))])),
        Err(WriteError::Gone)
    );
    assert!(other.last_seq().is_err());
    let mut last = None;
    while let Ok(event) = follower.try_recv() {
        last = Some(event.kind);
    }
    assert_eq!(last.as_deref(), Some("host.ended"));
    assert_eq!(other.close(), Err(WriteError::Gone));

    let again = open_with(dir.path(), &hostler_ledger::LedgerOptions::default());
    assert!(again.earlier.is_empty(), "it said goodbye");
    assert!(!dir.path().join("ledger.probe").exists());
}

#[test]
fn a_run_without_a_goodbye_is_told_until_it_is_settled() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = hostler_ledger::LedgerOptions::default();
    drop(open(dir.path()));
    drop(open(dir.path()));
    let opened = open_with(dir.path(), &options);
    assert_eq!(opened.earlier, [run(), run()]);
    let settled = Change::EarlierSettled {
        detail: json!({ "swept": 0 }),
        by: by(),
    };
    block_on(opened.ledger.write(vec![settled])).expect("written");
    drop(opened);
    let opened = open_with(dir.path(), &options);
    assert_eq!(
        opened.earlier,
        [run()],
        "the one that settled has not ended either"
    );
}

#[test]
fn handles_go_anywhere() {
    fn anywhere<T: Send + Sync + Clone + 'static>() {}
    anywhere::<Ledger>();
    fn sent<T: Send + 'static>(_: &T) {}
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = Arc::new(open(dir.path()));
    let write = ledger.write(Vec::new());
    sent(&write);
    block_on(write).expect("written");
}
