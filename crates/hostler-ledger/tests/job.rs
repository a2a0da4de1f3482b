//! Jobs: what is written is read back, what makes no sense is refused, and one change ends all that is below.

mod common;

use common::*;
use hostler_ledger::{
    Change, Event, EventFilter, JobEnd, JobId, JobStanding, JobState, Ledger, Refusal, Seq,
    SessionId, StepRunState, StepRunUpdate, WriteError,
};
use serde_json::json;

fn write(ledger: &Ledger, changes: Vec<Change>) -> Seq {
    block_on(ledger.write(changes)).expect("written")
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

fn events_of(ledger: &Ledger, job: &JobId) -> Vec<Event> {
    let filter = EventFilter {
        job: Some(job.clone()),
        ..EventFilter::default()
    };
    ledger.events(Seq::START, 10_000, &filter).expect("read")
}

fn state_of(ledger: &Ledger, job: &JobId) -> &'static str {
    let job = ledger.job_summary(job).expect("read").expect("a job");
    job.state.as_str()
}

#[test]
fn a_job_is_read_back_as_it_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let (id, session) = (JobId::new(), SessionId::new());
    write(&ledger, vec![job_created(&id, None)]);
    let record = ledger.job(&id).expect("read").expect("a job");
    let (job, detail) = (record.summary, record.detail);
    assert_eq!(job.state, JobState::Standing(JobStanding::Pending));
    assert_eq!(
        (job.name.as_str(), job.group.as_deref(), job.created),
        ("build", Some("nightly"), 1_700_000_000_000)
    );
    assert_eq!(detail["inputs"]["text"], "naïve ✓\n\"");
    assert_eq!((job.began, job.ended, job.session), (None, None, None));
    assert!(job.why.is_null());

    let change = StepRunUpdate {
        state: Some(StepRunState::Completed),
        outputs: Some(json!({ "code": 0 })),
        follows: Some(json!("advance")),
        ..StepRunUpdate::default()
    };
    let silent = StepRunUpdate {
        detail: Some(json!(2)),
        ..StepRunUpdate::default()
    };
    write(
        &ledger,
        vec![
            standing(&id, JobStanding::Running),
            Change::JobSession {
                id: id.clone(),
                session: session.clone(),
            },
            Change::JobDetail {
                id: id.clone(),
                detail: json!(1),
            },
            step_began(&id, 1, StepRunState::Pending),
            step_state(&id, 1, StepRunState::Running),
            step_changed(&id, 1, silent),
            step_changed(&id, 1, change),
            step_began(&id, 2, StepRunState::Skipped),
            step_began(&id, 3, StepRunState::Running),
            lease_taken(&id, &session),
        ],
    );
    let record = ledger.job(&id).expect("read").expect("a job");
    let (job, detail) = (record.summary, record.detail);
    let began = job.began.expect("it runs");
    assert_eq!(job.state, JobState::Standing(JobStanding::Running));
    assert_eq!((&job.session, &detail), (&Some(session.clone()), &json!(1)));
    assert_eq!(job.why["code"], "asked");
    let runs = ledger.step_runs(&id).expect("read");
    let states: Vec<_> = runs.iter().map(|run| (run.number, run.state)).collect();
    assert_eq!(
        states,
        [
            (1, StepRunState::Completed),
            (2, StepRunState::Skipped),
            (3, StepRunState::Running)
        ]
    );
    assert_eq!(
        (
            runs[0].step.as_str(),
            runs[0].item,
            runs[0].attempt,
            runs[0].try_
        ),
        ("step 1", Some(7), 1, 2)
    );
    assert!(runs[0].began.is_some() && runs[0].ended.is_some());
    assert_eq!(runs[0].detail, json!(2));
    assert_eq!(runs[0].outputs, Some(json!({ "code": 0 })));
    assert_eq!(runs[0].follows, Some(json!("advance")));
    assert!(runs[1].began.is_none() && runs[1].ended.is_some());
    assert!(runs[2].began.is_some() && runs[2].ended.is_none());
    let leases = ledger.leases(Some(&id)).expect("read");
    assert_eq!(leases, ledger.leases(None).expect("read"));
    assert_eq!(
        (
            leases.len(),
            &leases[0].job,
            &leases[0].session,
            leases[0].key.as_str()
        ),
        (1, &id, &session, "echo in /w")
    );

    // Paused and running again: when it began is when it first did.
    write(&ledger, vec![standing(&id, JobStanding::Paused)]);
    let begun_by = now_after(began);
    write(
        &ledger,
        vec![
            standing(&id, JobStanding::Running),
            lease_released(&id, &session),
        ],
    );
    assert!(begun_by > began);
    let job = ledger.job_summary(&id).expect("read").expect("a job");
    assert_eq!(job.began, Some(began));

    let mut told = ledger.subscribe();
    let last = write(&ledger, vec![job_ended(&id, JobEnd::Completed)]);
    let told = told.try_recv().expect("an event");
    assert_eq!((told.seq, told.job.as_ref()), (last, Some(&id)));
    let record = ledger.job(&id).expect("read").expect("a job");
    let (job, outputs) = (record.summary, record.outputs);
    assert_eq!(job.state, JobState::Ended(JobEnd::Completed));
    assert_eq!(outputs, Some(json!({ "n": 1 })));
    assert!(job.ended.is_some());
    let events = events_of(&ledger, &id);
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "job.created",
            "job.state",
            "job.session",
            "step.pending",
            "step.running",
            "step.completed",
            "step.skipped",
            "step.running",
            "lease.taken",
            "job.state",
            "job.state",
            "lease.released",
            "job.completed"
        ]
    );
    assert_eq!(events[0].detail["group"], "nightly");
    assert_eq!(
        events[1].detail,
        json!({ "state": "running", "why": { "code": "asked" } })
    );
    let step = json!({ "run": 1, "step": "step 1", "item": 7, "attempt": 1, "try": 2, "follows": "advance" });
    assert_eq!(events[5].detail, step);
    assert_eq!(events[8].session.as_ref(), Some(&session));
    assert_eq!(events[12], told);
    // The session's log has it too.
    let filter = EventFilter {
        session: Some(session),
        kind: Some("lease.released".to_owned()),
        ..EventFilter::default()
    };
    assert_eq!(
        ledger.events(Seq::START, 10, &filter).expect("read").len(),
        1
    );
}

/// Waits for the clock to be past `time`, and answers it.
fn now_after(time: u64) -> u64 {
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a clock")
            .as_millis() as u64
    };
    until("the clock", || now() > time);
    now()
}

#[test]
fn what_makes_no_sense_is_refused_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let [job, ended, child, nobody] = [(); 4].map(|()| JobId::new());
    let session = SessionId::new();
    write(
        &ledger,
        vec![
            job_created(&job, None),
            job_created(&ended, None),
            job_created(&child, Some(&job)),
            step_began(&job, 1, StepRunState::Running),
            step_began(&job, 2, StepRunState::Completed),
            lease_taken(&job, &session),
            step_began(&ended, 1, StepRunState::Running),
            lease_taken(&ended, &session),
            job_ended(&ended, JobEnd::Failed),
        ],
    );
    let exists = Refusal::JobExists(job.clone());
    assert_eq!(refused(&ledger, vec![job_created(&job, None)]), exists);
    let exists = Refusal::JobExists(ended.clone());
    assert_eq!(refused(&ledger, vec![job_created(&ended, None)]), exists);

    // All that can be done to a job: neither with one that is not there, nor with one that has ended.
    let detail = |id: &JobId| Change::JobDetail {
        id: id.clone(),
        detail: json!(1),
    };
    let in_session = |id: &JobId| Change::JobSession {
        id: id.clone(),
        session: session.clone(),
    };
    let changes = |id: &JobId| {
        vec![
            job_created(&JobId::new(), Some(id)),
            standing(id, JobStanding::Running),
            detail(id),
            in_session(id),
            step_began(id, 9, StepRunState::Running),
            step_state(id, 1, StepRunState::Completed),
            step_changed(id, 1, StepRunUpdate::default()),
            lease_taken(id, &SessionId::new()),
            job_ended(id, JobEnd::Completed),
        ]
    };
    for change in changes(&nobody) {
        let what = format!("{change:?}");
        let refusal = refused(&ledger, vec![event(json!(1)), change]);
        assert_eq!(refusal, Refusal::NoJob(nobody.clone()), "{what}");
    }
    for change in changes(&ended) {
        let what = format!("{change:?}");
        let refusal = refused(&ledger, vec![event(json!(1)), change]);
        assert_eq!(refusal, Refusal::JobEnded(ended.clone()), "{what}");
    }
    for (change, why) in [
        (
            lease_released(&nobody, &session),
            Refusal::NoJob(nobody.clone()),
        ),
        (job_deleted(&nobody), Refusal::NoJob(nobody.clone())),
    ] {
        assert_eq!(refused(&ledger, vec![change]), why);
    }

    let run = |run| (job.clone(), run);
    let (of, number) = run(1);
    let why = Refusal::StepRunExists {
        job: of,
        run: number,
    };
    assert_eq!(why.to_string(), format!("job {job} has a run 1 already"));
    let again = step_began(&job, 1, StepRunState::Pending);
    assert_eq!(refused(&ledger, vec![again]), why);
    let (of, number) = run(3);
    let why = Refusal::NoStepRun {
        job: of,
        run: number,
    };
    let missing = step_state(&job, 3, StepRunState::Running);
    assert_eq!(refused(&ledger, vec![missing]), why);
    let (of, number) = run(2);
    let why = Refusal::StepRunEnded {
        job: of,
        run: number,
    };
    for state in [StepRunState::Running, StepRunState::Completed] {
        assert_eq!(refused(&ledger, vec![step_state(&job, 2, state)]), why);
    }
    // Something else of it may be noted.
    let follows = StepRunUpdate {
        follows: Some(json!("advance")),
        ..StepRunUpdate::default()
    };
    write(&ledger, vec![step_changed(&job, 2, follows)]);

    let (job_, session_) = (job.clone(), session.clone());
    let why = Refusal::LeaseExists {
        job: job_.clone(),
        session: session_.clone(),
    };
    assert_eq!(refused(&ledger, vec![lease_taken(&job, &session)]), why);
    write(&ledger, vec![lease_released(&job, &session)]);
    let why = Refusal::NoLease {
        job: job_,
        session: session_,
    };
    assert_eq!(refused(&ledger, vec![lease_released(&job, &session)]), why);
    let gone = Refusal::NoLease {
        job: ended.clone(),
        session: session.clone(),
    };
    assert_eq!(
        refused(&ledger, vec![lease_released(&ended, &session)]),
        gone
    );

    let open = Refusal::JobNotEnded(job.clone());
    assert_eq!(refused(&ledger, vec![job_deleted(&job)]), open);
    assert_eq!(open.to_string(), format!("job {job} has not ended"));
    write(
        &ledger,
        vec![job_ended(&job, JobEnd::Failed), job_deleted(&job)],
    );
    for gone in [&job, &child] {
        assert_eq!(ledger.job(gone).expect("read"), None);
        assert!(ledger.step_runs(gone).expect("read").is_empty());
    }
    let last = events_of(&ledger, &job).pop().expect("an event");
    assert_eq!(
        (last.kind.as_str(), &last.detail["descendants"]),
        ("job.deleted", &json!(1))
    );
    assert_eq!(state_of(&ledger, &ended), "failed", "another's are kept");
    assert_eq!(ledger.step_runs(&ended).expect("read").len(), 1);
}

#[test]
fn the_end_of_a_job_ends_all_that_is_below_it_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let ledger = open(dir.path());
    let [root, left, right, leaf, done, other] = [(); 6].map(|()| JobId::new());
    let shared = SessionId::new();
    let mut changes = vec![
        job_created(&root, None),
        job_created(&left, Some(&root)),
        job_created(&right, Some(&root)),
        job_created(&leaf, Some(&left)),
        job_created(&done, Some(&left)),
        job_created(&other, None),
    ];
    for job in [&root, &left, &right, &leaf, &done, &other] {
        changes.extend([
            standing(job, JobStanding::Running),
            step_began(job, 1, StepRunState::Completed),
            step_began(job, 2, StepRunState::Running),
            step_began(job, 3, StepRunState::Suspended),
            step_began(job, 4, StepRunState::Pending),
            lease_taken(job, &shared),
        ]);
    }
    changes.push(job_ended(&done, JobEnd::Completed));
    let before = write(&ledger, changes);
    let mut told = ledger.subscribe();
    // Together with something that comes to nothing, nothing is ended.
    let nothing = vec![job_ended(&root, JobEnd::Failed), job_deleted(&other)];
    let refusal = refused(&ledger, nothing);
    assert_eq!(refusal, Refusal::JobNotEnded(other.clone()));
    assert_eq!(state_of(&ledger, &leaf), "running");
    assert_eq!(ledger.leases(None).expect("read").len(), 5);

    write(&ledger, vec![job_ended(&root, JobEnd::Failed)]);
    let events = ledger
        .events(before, 100, &EventFilter::default())
        .expect("read");
    for event in &events {
        assert_eq!(
            told.try_recv().as_ref(),
            Ok(event),
            "followers are told the same"
        );
    }
    let place = |job: &JobId| {
        let of: Vec<usize> = (0..events.len())
            .filter(|n| events[*n].job.as_ref() == Some(job))
            .collect();
        assert!(of.len() <= 1, "{job} ended once");
        of.first().copied()
    };
    assert_eq!(events.len(), 4);
    assert_eq!((place(&done), place(&other)), (None, None));
    assert!(place(&leaf) < place(&left), "children before parents");
    assert!(place(&left) < place(&root) && place(&right) < place(&root));
    for (job, state) in [
        (&root, "failed"),
        (&left, "cancelled"),
        (&right, "cancelled"),
        (&leaf, "cancelled"),
        (&done, "completed"),
    ] {
        assert_eq!(state_of(&ledger, job), state);
        let found = ledger.job_summary(job).expect("read").expect("a job");
        assert!(found.ended.is_some());
        let runs = ledger.step_runs(job).expect("read");
        assert_eq!(runs[0].state, StepRunState::Completed);
        assert_eq!(runs[0].error, None);
        for run in &runs[1..] {
            assert_eq!(run.state, StepRunState::Cancelled);
            let error = run.error.as_ref().expect("why");
            assert_eq!(error["code"], "cancelled");
            assert_eq!(error["message"], found.why["message"]);
            assert_eq!(run.ended, found.ended);
        }
        assert!(ledger.leases(Some(job)).expect("read").is_empty());
        let Some(place) = place(job) else { continue };
        assert_eq!(events[place].kind, format!("job.{state}"));
        assert_eq!(
            events[place].detail,
            json!({ "why": found.why, "cancelled_runs": 3, "leases": 1 })
        );
    }
    let leaf = ledger.job_summary(&leaf).expect("read");
    let why = leaf.expect("a job").why;
    assert_eq!(
        why,
        json!({ "code": "parent_ended", "message": format!("job {root} failed: somebody asked") })
    );
    // Who leases the same goes on.
    assert_eq!(state_of(&ledger, &other), "running");
    assert_eq!(ledger.leases(None).expect("read").len(), 1);
    assert_eq!(ledger.leases(Some(&other)).expect("read").len(), 1);
    let open = ledger.step_runs(&other).expect("read");
    assert_eq!(open.iter().filter(|run| !run.state.is_ended()).count(), 3);

    // Where nobody said why, it is said that it ended.
    let unsaid = Change::JobEnded {
        id: other.clone(),
        end: JobEnd::Cancelled,
        why: json!(null),
        outputs: None,
        by: by(),
    };
    write(&ledger, vec![unsaid]);
    let run = &ledger.step_runs(&other).expect("read")[1];
    assert_eq!(
        run.error.as_ref().expect("why")["message"],
        "the job was cancelled"
    );
}
