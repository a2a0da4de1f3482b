//! Schedules: what is set is read back, and a time at which one was due is dealt with once, with its job or without.

mod common;

use common::*;
use hostler_ledger::{
    Change, Event, EventFilter, JobEnd, JobId, Ledger, Overlap, Refusal, ScheduleCame, ScheduleDue,
    ScheduleRow, Seq, WriteError,
};
use serde_json::json;

const NOON: u64 = 1_700_000_000_000;
const HOUR: u64 = 3_600_000;

fn row(name: &str) -> ScheduleRow {
    ScheduleRow {
        name: name.to_owned(),
        cron: "0 * * * *".into(),
        zone: Some("Europe/Berlin".into()),
        what: json!({ "file": "/naïve ✓.yaml" }),
        overlap: Overlap::Cancel,
        enabled: true,
        next_at: Some(NOON),
    }
}

fn set(row: &ScheduleRow) -> Change {
    let schedule = Box::new(row.clone());
    Change::ScheduleSet { schedule, by: by() }
}

fn ran(name: &str, due: Option<(u64, u64)>, came: ScheduleCame) -> Change {
    Change::ScheduleRan {
        name: name.to_owned(),
        at: NOON,
        due: due.map(|(was, next)| ScheduleDue {
            was,
            next: Some(next),
        }),
        came,
        by: by(),
    }
}

fn write(ledger: &Ledger, changes: Vec<Change>) {
    block_on(ledger.write(changes)).expect("written");
}

fn refused(ledger: &Ledger, changes: Vec<Change>) -> Refusal {
    let before = ledger.last_seq().expect("read");
    match block_on(ledger.write(changes)) {
        Err(WriteError::Refused(refusal)) => {
            assert_eq!(ledger.last_seq().expect("read"), before);
            refusal
        }
        other => panic!("{other:?}"),
    }
}

fn events(ledger: &Ledger, kind: &str) -> Vec<Event> {
    let filter = EventFilter {
        kind: Some(kind.to_owned()),
        ..EventFilter::default()
    };
    ledger.events(Seq::START, 100, &filter).expect("read")
}

#[test]
fn a_schedule_is_read_back_as_it_was_set_and_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    assert_eq!(ledger.schedules().expect("read"), []);
    assert_eq!(ledger.schedule("b").expect("read"), None);
    write(&ledger, vec![set(&row("b")), set(&row("a"))]);
    let all = ledger.schedules().expect("read");
    let names: Vec<_> = all.iter().map(|one| one.row.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let was = ledger.schedule("b").expect("read").expect("one");
    assert_eq!(was.row, row("b"));
    assert_eq!(
        (was.last_at, &was.last_job, &was.skipped),
        (None, &None, &None)
    );
    assert!(was.created > NOON);

    let id = JobId::new();
    let came = ScheduleCame::Job(id.clone());
    write(
        &ledger,
        vec![
            job_created(&id, None),
            ran("b", Some((NOON, NOON + HOUR)), came),
        ],
    );
    let other = ScheduleRow {
        zone: None,
        overlap: Overlap::Allow,
        enabled: false,
        next_at: None,
        ..row("b")
    };
    write(&ledger, vec![set(&other)]);
    let now = ledger.schedule("b").expect("read").expect("one");
    assert_eq!(now.row, other);
    assert_eq!((now.created, now.last_at), (was.created, Some(NOON)));
    assert_eq!(now.last_job, Some(id), "what came of it stays known");
    assert_eq!(events(&ledger, "schedule.set").len(), 3);

    let remove = |name: &str| Change::ScheduleRemoved {
        name: name.to_owned(),
        by: by(),
    };
    write(&ledger, vec![remove("b")]);
    assert_eq!(
        refused(&ledger, vec![remove("b")]),
        Refusal::NoSchedule("b".into())
    );
    let removed = events(&ledger, "schedule.removed");
    assert_eq!(
        (removed.len(), &removed[0].detail["name"]),
        (1, &json!("b"))
    );
    assert_eq!(ledger.schedules().expect("read").len(), 1);
}

#[test]
fn a_due_time_is_dealt_with_once_and_together_with_its_job() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    write(&ledger, vec![set(&row("a"))]);
    let make = |due| {
        let id = JobId::new();
        let came = ScheduleCame::Job(id.clone());
        (
            id.clone(),
            vec![job_created(&id, None), ran("a", due, came)],
        )
    };
    let due = Some((NOON, NOON + HOUR));
    let (first, changes) = make(due);
    write(&ledger, changes);
    let (second, changes) = make(due);
    assert_eq!(
        refused(&ledger, changes),
        Refusal::ScheduleMoved("a".into())
    );
    assert_eq!(ledger.job(&second).expect("read"), None, "it was not made");
    let now = ledger.schedule("a").expect("read").expect("one");
    assert_eq!(now.row.next_at, Some(NOON + HOUR));
    assert_eq!(
        (now.last_at, now.last_job),
        (Some(NOON), Some(first.clone()))
    );
    let told = events(&ledger, "schedule.ran");
    assert_eq!(
        (told.len(), &told[0].job, &told[0].detail["at"]),
        (1, &Some(first.clone()), &json!(NOON))
    );

    // By hand: it stays due when it is.
    let (third, changes) = make(None);
    write(&ledger, changes);
    let now = ledger.schedule("a").expect("read").expect("one");
    assert_eq!(
        (now.row.next_at, now.last_job),
        (Some(NOON + HOUR), Some(third.clone()))
    );

    // Without a job: the last one stays known, and so does why.
    let why = json!({ "code": "overlap", "message": "it still runs" });
    let skipped = ScheduleCame::Skipped(why.clone());
    let due = Some((NOON + HOUR, NOON + 2 * HOUR));
    write(&ledger, vec![ran("a", due, skipped.clone())]);
    let now = ledger.schedule("a").expect("read").expect("one");
    assert_eq!(
        (now.last_job, now.skipped),
        (Some(third), Some(why.clone()))
    );
    let told = events(&ledger, "schedule.skipped");
    assert_eq!((told.len(), &told[0].detail["why"]), (1, &why));
    assert_eq!(told[0].detail["since"], NOON + HOUR);
    for due in [due, None] {
        let other = ran("b", due, skipped.clone());
        assert_eq!(
            refused(&ledger, vec![other]),
            Refusal::NoSchedule("b".into())
        );
    }

    let armed = |was, next| Change::ScheduleArmed {
        name: "a".into(),
        was,
        next,
        by: by(),
    };
    assert_eq!(
        refused(&ledger, vec![armed(NOON, Some(NOON))]),
        Refusal::ScheduleMoved("a".into())
    );
    write(&ledger, vec![armed(NOON + 2 * HOUR, None)]);
    let now = ledger.schedule("a").expect("read").expect("one");
    assert_eq!(now.row.next_at, None);
    let (_, changes) = make(Some((NOON, NOON)));
    assert_eq!(
        refused(&ledger, changes),
        Refusal::ScheduleMoved("a".into())
    );
}

#[test]
fn a_prune_leaves_schedules() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let id = JobId::new();
    let came = ScheduleCame::Job(id.clone());
    write(
        &ledger,
        vec![
            set(&row("a")),
            job_created(&id, None),
            ran("a", Some((NOON, NOON + HOUR)), came),
            job_ended(&id, JobEnd::Completed),
        ],
    );
    let before = ledger.schedule("a").expect("read");
    let pruned = block_on(ledger.prune(u64::MAX)).expect("pruned");
    assert_eq!(pruned.jobs, 1);
    assert_eq!(ledger.job(&id).expect("read"), None);
    assert_eq!(ledger.schedule("a").expect("read"), before);
    let came = ScheduleCame::Skipped(json!({ "message": "x" }));
    write(
        &ledger,
        vec![ran("a", Some((NOON + HOUR, NOON + 2 * HOUR)), came)],
    );
}
