//! Random changes of jobs, against a model: what is refused is what should be, and no job that has ended has an open run, a lease or
//! an open job below it. `LEDGER_SEED` is where to begin.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use common::*;
use hostler_ledger::{
    Change, EventFilter, JobEnd, JobFilter, JobId, JobStanding, Ledger, Seq, SessionId,
    StepRunState, Which, WriteError,
};
use rusqlite::Connection;

/// xorshift64*: what it draws is the seed's alone.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % n
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What should be there of a job.
#[derive(Debug, Clone, Default)]
struct Job {
    parent: Option<JobId>,
    ended: bool,
    runs: BTreeMap<u32, bool>,
    leases: BTreeSet<SessionId>,
}

#[derive(Debug, Clone, Default)]
struct Model {
    jobs: BTreeMap<JobId, Job>,
}

impl Model {
    fn open(&mut self, id: &JobId) -> Option<&mut Job> {
        self.jobs.get_mut(id).filter(|job| !job.ended)
    }

    fn below(&self, id: &JobId) -> Vec<JobId> {
        let mut all = vec![id.clone()];
        let mut looked = 0;
        while let Some(parent) = all.get(looked).cloned() {
            looked += 1;
            let of = |job: &Job| job.parent.as_ref() == Some(&parent);
            let children = self.jobs.iter().filter(|(_, job)| of(job));
            all.extend(children.map(|(id, _)| id.clone()));
        }
        all
    }

    /// Makes a change; whether it can be made.
    fn make(&mut self, change: &Change) -> bool {
        match change {
            Change::JobCreated { job, .. } => {
                let parent = job.parent.clone();
                let fits = match &parent {
                    Some(parent) => self.open(parent).is_some(),
                    None => true,
                };
                let fits = fits && !self.jobs.contains_key(&job.id);
                if fits {
                    let new = Job {
                        parent,
                        ..Job::default()
                    };
                    self.jobs.insert(job.id.clone(), new);
                }
                fits
            }
            Change::JobStanding { id, .. } => self.open(id).is_some(),
            Change::StepBegan { job, run } => self.open(job).is_some_and(|job| {
                let fits = !job.runs.contains_key(&run.number);
                job.runs.entry(run.number).or_insert(run.state.is_ended());
                fits
            }),
            Change::StepChanged { job, run, update } => self.open(job).is_some_and(|job| {
                let Some(ended) = job.runs.get_mut(run) else {
                    return false;
                };
                match update.state {
                    Some(_) if *ended => false,
                    Some(state) => {
                        *ended = state.is_ended();
                        true
                    }
                    None => true,
                }
            }),
            Change::LeaseTaken { job, session, .. } => self
                .open(job)
                .is_some_and(|job| job.leases.insert(session.clone())),
            Change::LeaseReleased { job, session } => self
                .jobs
                .get_mut(job)
                .is_some_and(|job| job.leases.remove(session)),
            Change::JobEnded { id, .. } => {
                let fits = self.open(id).is_some();
                if fits {
                    for id in self.below(id) {
                        let job = self.jobs.get_mut(&id).expect("a job");
                        job.ended = true;
                        job.leases.clear();
                        job.runs.values_mut().for_each(|ended| *ended = true);
                    }
                }
                fits
            }
            Change::JobDeleted { id, .. } => {
                let fits = self.jobs.get(id).is_some_and(|job| job.ended);
                if fits {
                    for id in self.below(id) {
                        self.jobs.remove(&id);
                    }
                }
                fits
            }
            other => panic!("not drawn: {other:?}"),
        }
    }
}

fn draw(random: &mut Random, ids: &[JobId], sessions: &[SessionId]) -> Change {
    const STATES: [StepRunState; 7] = [
        StepRunState::Pending,
        StepRunState::Running,
        StepRunState::Suspended,
        StepRunState::Completed,
        StepRunState::Failed,
        StepRunState::Cancelled,
        StepRunState::Skipped,
    ];
    const STANDINGS: [JobStanding; 3] = [
        JobStanding::Pending,
        JobStanding::Running,
        JobStanding::Paused,
    ];
    let id = random.one(ids);
    let run = 1 + random.below(6) as u32;
    match random.below(20) {
        0..=4 => {
            let parent = (random.below(3) > 0).then(|| random.one(ids));
            job_created(&id, parent.as_ref())
        }
        5 | 6 => standing(&id, random.one(&STANDINGS)),
        7..=10 => step_began(&id, run, random.one(&STATES)),
        11..=13 => step_state(&id, run, random.one(&STATES)),
        14..=16 => lease_taken(&id, &random.one(sessions)),
        17 => lease_released(&id, &random.one(sessions)),
        18 => {
            let ends = [JobEnd::Completed, JobEnd::Failed, JobEnd::Cancelled];
            job_ended(&id, random.one(&ends))
        }
        _ => job_deleted(&id),
    }
}

#[test]
fn no_job_that_has_ended_keeps_anything_whatever_was_written() {
    let first = std::env::var("LEDGER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    for seed in first..first + 20 {
        let dir = tempfile::tempdir().expect("a directory");
        let ledger = open(dir.path());
        let mut random = Random(seed);
        let ids: Vec<JobId> = (0..12).map(|_| JobId::new()).collect();
        let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::new()).collect();
        let mut model = Model::default();
        let (mut made, mut refused, mut ends) = (0, 0, 0);
        for n in 0..250 {
            // All of them, or none.
            let (mut after, mut fits, mut changes) = (model.clone(), true, Vec::new());
            for _ in 0..1 + random.below(4) {
                let mut change = draw(&mut random, &ids, &sessions);
                // Mostly such as can be made.
                let tries = if random.below(8) > 0 { 50 } else { 0 };
                for _ in 0..tries {
                    if after.clone().make(&change) {
                        break;
                    }
                    change = draw(&mut random, &ids, &sessions);
                }
                fits = fits && after.make(&change);
                changes.push(change);
            }
            let said = format!("seed {seed}, write {n}: {changes:?}");
            match block_on(ledger.write_unsynced(changes)) {
                Ok(_) => {
                    assert!(fits, "made: {said}");
                    let ended = |model: &Model| model.jobs.values().filter(|job| job.ended).count();
                    ends += usize::from(ended(&after) > ended(&model));
                    model = after;
                    made += 1;
                }
                Err(WriteError::Refused(refusal)) => {
                    assert!(!fits, "{refusal}: {said}");
                    refused += 1;
                }
                Err(error) => panic!("{error}: {said}"),
            }
            compare(&ledger, &model, &said);
        }
        assert!(
            made > 100 && refused > 10 && ends > 10,
            "{made} {refused} {ends}"
        );
        ledger.close().expect("closed");
        whole(dir.path(), seed);
        // And as it is opened again.
        let ledger = open(dir.path());
        compare(&ledger, &model, "opened again");
        once(&ledger);
    }
}

/// The ledger has what the model has.
fn compare(ledger: &Ledger, model: &Model, said: &str) {
    let all = JobFilter {
        which: Which::All,
        ..JobFilter::default()
    };
    let jobs = ledger.jobs(&all).expect("read");
    assert_eq!(jobs.len(), model.jobs.len(), "{said}");
    let leases = ledger.leases(None).expect("read");
    let mut claims = 0;
    for job in jobs {
        let is = &model.jobs[&job.id];
        assert_eq!(job.state.is_ended(), is.ended, "{said}");
        assert_eq!(job.ended.is_some(), is.ended, "{said}");
        assert_eq!(job.parent, is.parent, "{said}");
        let runs = ledger.step_runs(&job.id).expect("read");
        let runs: BTreeMap<u32, bool> = runs
            .iter()
            .map(|run| (run.number, run.state.is_ended()))
            .collect();
        assert_eq!(runs, is.runs, "{said}");
        claims += is.leases.len();
        for session in &is.leases {
            let there = leases
                .iter()
                .any(|lease| lease.job == job.id && lease.session == *session);
            assert!(there, "{said}");
        }
    }
    assert_eq!(leases.len(), claims, "{said}");
}

/// What must never be, asked of the file itself.
fn whole(dir: &Path, seed: u64) {
    let connection = Connection::open(dir.join("ledger.db")).expect("opened");
    for sql in [
        "SELECT count(*) FROM step_runs JOIN jobs ON jobs.number = job
            WHERE jobs.ended IS NOT NULL AND step_runs.ended IS NULL",
        "SELECT count(*) FROM leases JOIN jobs ON jobs.number = job WHERE jobs.ended IS NOT NULL",
        "SELECT count(*) FROM jobs JOIN jobs AS parents ON parents.id = jobs.parent
            WHERE parents.ended IS NOT NULL AND jobs.ended IS NULL",
        "SELECT count(*) FROM pragma_foreign_key_check",
    ] {
        let found: i64 = connection
            .query_row(sql, [], |row| row.get(0))
            .expect("read");
        assert_eq!(found, 0, "seed {seed}: {sql}");
    }
}

/// Each job that is there has ended as often as it was said to have.
fn once(ledger: &Ledger) {
    let all = JobFilter {
        which: Which::All,
        ..JobFilter::default()
    };
    for job in ledger.jobs(&all).expect("read") {
        let filter = EventFilter {
            job: Some(job.id.clone()),
            ..EventFilter::default()
        };
        let events = ledger.events(Seq::START, 10_000, &filter).expect("read");
        // An id that was deleted may have been used again here.
        let begun = events
            .iter()
            .rposition(|event| event.kind == "job.created")
            .expect("it was created");
        let ends = events[begun..]
            .iter()
            .filter(|event| {
                ["job.completed", "job.failed", "job.cancelled"].contains(&event.kind.as_str())
            })
            .count();
        assert_eq!(ends, usize::from(job.state.is_ended()), "{}", job.id);
    }
}
