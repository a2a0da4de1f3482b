//! Ledgers that earlier releases have written.

mod common;

use std::path::Path;

use common::*;
use hostler_ledger::{
    ConversationId, EntrySeq, EventFilter, JobEnd, JobId, JobOrigin, Ledger, ResourceFilter, Seq,
    SessionFilter, SessionId, StepRunState, Which,
};
use rusqlite::Connection;

/// A ledger of the first schema, as its release left it when it was killed.
const V1: &str = include_str!("fixtures/v1.sql");
/// One of the second: the same, with a conversation.
const V2: &str = include_str!("fixtures/v2.sql");

fn restore(dump: &str, dir: &Path) -> Connection {
    let connection = Connection::open(dir.join("ledger.db")).expect("opened");
    connection.execute_batch(dump).expect("restored");
    connection
}

fn version(connection: &Connection) -> u32 {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .expect("a version")
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
    assert_eq!(version(&old), 1);
    old.close().expect("closed");
    let ledger = brought_up(dir.path());
    ledger.close().expect("closed");
    is_as_a_new_one(dir.path());
}

#[test]
fn a_ledger_of_the_second_schema_is_brought_up_with_its_conversations_and_keeps_jobs() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = restore(V2, dir.path());
    assert_eq!(version(&old), 2);
    old.close().expect("closed");
    let ledger = brought_up(dir.path());
    let id: ConversationId = "s-4f9k2m7x".parse().expect("an id");
    let talk = ledger.conversation(&id).expect("read").expect("one");
    assert_eq!(
        (talk.title.as_deref(), talk.state.as_str(), talk.number),
        (Some("A talk"), "live", 1)
    );
    assert_eq!(ledger.transcript_end(&id).expect("read"), EntrySeq(3));
    let link = ledger.agent_link(&id).expect("read").expect("a link");
    assert_eq!(link.offset, 4711);
    let (job, session) = (JobId::new(), SessionId::new());
    let changes = vec![
        job_created(&job, None),
        step_began(&job, 1, StepRunState::Running),
        lease_taken(&job, &session),
        job_ended(&job, JobEnd::Completed),
    ];
    block_on(ledger.write(changes)).expect("written");
    let runs = ledger.step_runs(&job).expect("read");
    assert_eq!(runs[0].state, StepRunState::Cancelled);
    ledger.close().expect("closed");
    is_as_a_new_one(dir.path());
}

#[test]
fn jobs_of_the_third_schema_keep_their_flows_and_where_they_come_from() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = restore(V2, dir.path());
    old.execute_batch(include_str!("../src/schema/3.sql"))
        .expect("brought up");
    old.pragma_update(None, "user_version", 3).expect("set");
    let ids: Vec<JobId> = (0..4).map(|_| JobId::new()).collect();
    let origins = [
        (JobOrigin::Asked, "{\"flow\":1}".to_owned()),
        (JobOrigin::Run(7), "{\"flow\":1,\"run\":7}".to_owned()),
        (
            JobOrigin::Retry(ids[0].clone()),
            format!("{{\"flow\":1,\"retry_of\":\"{}\"}}", ids[0]),
        ),
        (
            JobOrigin::Schedule(scheduled("hourly")),
            "{\"flow\":1,\"schedule\":\"hourly\"}".to_owned(),
        ),
    ];
    for (id, (origin, detail)) in ids.iter().zip(&origins) {
        let parent = (*origin == JobOrigin::Run(7)).then(|| ids[0].as_str());
        old.execute(
            "INSERT INTO jobs (id, name, parent, state, detail, why, outputs, created, ended)
             VALUES (?1, 'build', ?2, 'completed', ?3, 'null', '{\"out\":2}', 1, 2)",
            (id.as_str(), parent, detail),
        )
        .expect("written");
    }
    old.execute(
        "INSERT INTO step_runs (job, number, step, attempt, try, state, detail) VALUES (1, 1, 'a', 1, 1, 'running', 'null')",
        (),
    )
    .expect("written");
    old.close().expect("closed");
    let ledger = brought_up(dir.path());
    for (id, (origin, _)) in ids.iter().zip(&origins) {
        let job = ledger.job(id).expect("read").expect("a job");
        assert_eq!(&job.summary.origin, origin);
        assert_eq!(job.detail["flow"], 1);
        assert_eq!(job.outputs, Some(serde_json::json!({ "out": 2 })));
    }
    let child = ledger.job_of_run(&ids[0], 7).expect("read");
    assert_eq!(child.map(|job| job.id).as_ref(), Some(&ids[1]));
    assert_eq!(ledger.step_runs(&ids[0]).expect("read").len(), 1);
    ledger.close().expect("closed");
    is_as_a_new_one(dir.path());
}

#[test]
fn a_ledger_of_the_third_schema_is_brought_up_with_what_its_schedules_have_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let old = restore(V2, dir.path());
    old.execute_batch(include_str!("../src/schema/3.sql"))
        .expect("the third");
    let (made, other) = (JobId::new(), JobId::new());
    for (id, detail) in [(&made, r#"{"schedule":"nightly"}"#), (&other, "{}")] {
        let row = "INSERT INTO jobs (id, name, state, detail, why, created, ended) VALUES (?1, 'f', 'completed', ?2, 'null', 1, 2)";
        old.execute(row, (id.as_str(), detail)).expect("a job");
    }
    let row = "INSERT INTO schedules (name, cron, what, overlap, enabled, created) VALUES ('nightly', '@daily', '{}', 'skip', 1, 7)";
    old.execute(row, ()).expect("a schedule");
    old.pragma_update(None, "user_version", 3)
        .expect("a version");
    old.close().expect("closed");
    let ledger = brought_up(dir.path());
    let jobs = ledger.scheduled_jobs("nightly", None, 10).expect("read");
    let ids: Vec<&JobId> = jobs.iter().map(|job| &job.id).collect();
    assert_eq!(ids, [&made]);
    let other = ledger.job_summary(&other).expect("read").expect("a job");
    assert_eq!(other.origin, JobOrigin::Asked);
    let record = ledger.schedule("nightly").expect("read").expect("one");
    assert_eq!((record.created, record.modified), (7, 7));
    ledger.close().expect("closed");
    is_as_a_new_one(dir.path());
}

/// Opens what was written by an earlier release, and looks whether all is there.
fn brought_up(dir: &Path) -> Ledger {
    let opened = open_with(dir, &hostler_ledger::LedgerOptions::default());
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
    assert!(events.iter().all(|event| event.job.is_none()));
    ledger
}

/// A ledger that was brought up is what a new one is.
fn is_as_a_new_one(dir: &Path) {
    let fresh = tempfile::tempdir().expect("a directory");
    open(fresh.path()).close().expect("closed");
    let [old, new] =
        [dir, fresh.path()].map(|dir| Connection::open(dir.join("ledger.db")).expect("opened"));
    assert_eq!(shape(&old), shape(&new));
    assert_eq!(version(&old), version(&new));
}
