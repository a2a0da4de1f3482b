//! SIGKILL while it writes: what was acknowledged is there, in order, once.

mod common;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};

use common::*;
use hostler_ledger::{
    Change, Durability, EventFilter, JobEnd, JobFilter, JobId, JobStanding, Ledger, LedgerOptions,
    ResourceFilter, Seq, SessionFilter, SessionId, StepRunState, Which,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

const WRITERS: u64 = 4;

#[test]
#[ignore = "a child of the test below"]
fn child_that_writes() {
    let Some(dir) = given_dir() else { return };
    let options = LedgerOptions {
        durability: Durability::Process,
        ..LedgerOptions::default()
    };
    let ledger = open_with(&dir, &options).ledger;
    tokio::runtime::Runtime::new()
        .expect("runtime")
        .block_on(async {
            let mut writers = tokio::task::JoinSet::new();
            for writer in 0..WRITERS {
                let ledger = ledger.clone();
                writers.spawn(async move {
                    let mut earlier: Option<JobId> = None;
                    for n in 0u64.. {
                        let mut changes = cycle();
                        // A job is ended by the write after the one that has begun it.
                        changes.extend(earlier.map(|job| job_ended(&job, JobEnd::Failed)));
                        let job = JobId::new();
                        changes.extend(job_with_a_child(&job));
                        earlier = Some(job);
                        changes.push(event(json!({ "writer": writer, "n": n })));
                        let seq = ledger.write(changes).await.expect("written");
                        // One write(2), so that a line is whole or not there.
                        let line = format!("ack {writer} {n} {seq} .\n");
                        let _ = std::io::stderr().write_all(line.as_bytes());
                    }
                });
            }
            writers.join_next().await;
        });
}

fn job_with_a_child(job: &JobId) -> Vec<Change> {
    let (child, shared) = (JobId::new(), SessionId::new());
    let mut changes = vec![job_created(job, None), job_created(&child, Some(job))];
    for job in [job, &child] {
        changes.extend([
            standing(job, JobStanding::Running),
            step_began(job, 1, StepRunState::Completed),
            step_began(job, 2, StepRunState::Running),
            lease_taken(job, &shared),
        ]);
    }
    changes
}

/// Each job has ended with all that it had, or not at all; those that have not are ended now.
fn jobs_are_whole(ledger: &Ledger, acknowledged: usize) {
    let all = JobFilter {
        which: Which::All,
        ..JobFilter::default()
    };
    let jobs = ledger.jobs(&all).expect("read");
    assert!(jobs.len() >= 2 * acknowledged);
    let open: Vec<_> = jobs.iter().filter(|job| !job.state.is_ended()).collect();
    assert!(
        open.len() <= 2 * WRITERS as usize,
        "the last of each writer"
    );
    for job in &jobs {
        let runs = ledger.step_runs(&job.id).expect("read");
        let states: Vec<_> = runs.iter().map(|run| run.state).collect();
        let leases = ledger.leases(Some(&job.id)).expect("read").len();
        if job.state.is_ended() {
            let ended = [StepRunState::Completed, StepRunState::Cancelled];
            assert_eq!((states.as_slice(), leases), (&ended[..], 0));
        } else {
            let open = [StepRunState::Completed, StepRunState::Running];
            assert_eq!((states.as_slice(), leases), (&open[..], 1));
        }
        let with_it = jobs
            .iter()
            .filter(|other| other.parent.as_ref() == Some(&job.id));
        for child in with_it {
            assert_eq!(child.state.is_ended(), job.state.is_ended());
        }
    }
    for root in open.iter().filter(|job| job.parent.is_none()) {
        let ended = vec![job_ended(&root.id, JobEnd::Cancelled)];
        block_on(ledger.write(ended)).expect("written");
    }
    assert!(ledger.jobs(&JobFilter::default()).expect("read").is_empty());
    assert!(ledger.leases(None).expect("read").is_empty());
}

#[test]
fn what_was_acknowledged_survives_sigkill_in_order_and_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut earlier = Seq::START;
    for round in 1..=5u64 {
        let mut child = again("child_that_writes", dir.path());
        let stderr = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut acknowledged: Vec<(u64, u64, u64)> = Vec::new();
        let mut killed = false;
        for line in stderr.lines().map_while(Result::ok) {
            let fields: Vec<_> = line.split(' ').collect();
            if let ["ack", writer, n, seq, "."] = fields[..] {
                let number = |text: &str| text.parse().expect("a number");
                acknowledged.push((number(writer), number(n), number(seq)));
            }
            // In the middle of its work, at another place each time.
            if !killed && acknowledged.len() as u64 >= 37 * round {
                kill_process(Pid::from_child(&child), Signal::KILL).expect("killed");
                killed = true;
            }
        }
        assert!(killed, "it wrote for as long as it lived");
        child.wait().expect("its end");

        let wait = LedgerOptions {
            wait: patience(),
            ..LedgerOptions::default()
        };
        let opened = open_with(dir.path(), &wait);
        assert_eq!(opened.earlier.last().map(|run| run.pid), Some(child.id()));
        let ledger = opened.ledger;
        let events = ledger
            .events(earlier, 1_000_000, &EventFilter::default())
            .expect("read");
        earlier = ledger.last_seq().expect("read");
        let mut next = [0u64; WRITERS as usize];
        let mut seqs = HashSet::new();
        for event in events.iter().filter(|event| event.kind == "test.noted") {
            let number = |key: &str| event.detail[key].as_u64().expect("a number");
            let writer = number("writer") as usize;
            assert_eq!(number("n"), next[writer], "in order, once");
            next[writer] += 1;
            seqs.insert((number("writer"), number("n"), event.seq.0));
        }
        for acknowledgement in &acknowledged {
            assert!(
                seqs.contains(acknowledgement),
                "{acknowledgement:?} is missing"
            );
        }
        // Each write was whole: nothing of a cycle is left open.
        assert!(
            ledger
                .sessions(&SessionFilter::default())
                .expect("read")
                .is_empty()
        );
        assert!(
            ledger
                .resources(&ResourceFilter::default())
                .expect("read")
                .is_empty()
        );
        let all = SessionFilter {
            which: Which::All,
            ..SessionFilter::default()
        };
        assert!(ledger.sessions(&all).expect("read").len() >= acknowledged.len());
        jobs_are_whole(&ledger, acknowledged.len());
        ledger.close().expect("closed");
    }
}
