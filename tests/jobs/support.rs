//! A host with jobs.

use hostler_agent::PoolOptions;
use hostler_job::{FlowSource, Job, JobStatus, Jobs, JobsOptions, NewJob};
use hostler_ledger::{JobEnd, JobFilter, JobId, JobState, StepRunRow, StepRunState, Which};
use serde_json::Value;
use std::collections::BTreeMap;

pub(crate) use super::agents::{Host, options, soon, spec};
pub(crate) use super::stage::{Found, Stage, by, find, until};

/// A host with jobs, and the agent `peer`.
pub(crate) struct Shop {
    pub(crate) jobs: Jobs,
    pub(crate) host: Host,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self::with(PoolOptions::default())
    }

    pub(crate) fn with(pool: PoolOptions) -> Self {
        Self::on(Stage::new(), pool)
    }

    pub(crate) fn on(stage: Stage, pool: PoolOptions) -> Self {
        Self::of(Host::on(stage, spec(&[]), options()), pool)
    }

    pub(crate) fn of(host: Host, pool: PoolOptions) -> Self {
        let jobs = Jobs::new(
            host.agents.clone(),
            JobsOptions {
                pool,
                ..JobsOptions::default()
            },
        );
        Self { jobs, host }
    }

    /// The host stops, and keeps none.
    pub(crate) async fn stop(&self) {
        self.jobs.stop(|_| false, by()).await;
        self.jobs.stopped().await;
    }

    /// The job that was made last, or last of a flow.
    pub(crate) fn newest(&self) -> JobId {
        self.find_newest(None)
    }

    pub(crate) fn newest_of(&self, flow: &str) -> JobId {
        self.find_newest(Some(flow.to_owned()))
    }

    fn find_newest(&self, name: Option<String>) -> JobId {
        let filter = JobFilter {
            which: Which::All,
            name,
            limit: 1,
            ..JobFilter::default()
        };
        let list = self.jobs.list(&filter).expect("jobs");
        list.first().expect("a job").id.clone()
    }

    /// A job of this flow.
    pub(crate) fn job(&self, flow: &str) -> NewJob {
        NewJob {
            flow: FlowSource::Text(flow.to_owned()),
            inputs: BTreeMap::new(),
            cwd: self.host.stage.dir.clone(),
            group: None,
            policy: super::stage::options().policy,
        }
    }

    pub(crate) async fn start(&self, flow: &str) -> Job {
        self.jobs.create(self.job(flow), by()).await.expect("a job")
    }

    /// Runs a job to its end, after which nothing is left of it.
    pub(crate) async fn run(&self, flow: &str) -> (Job, JobStatus) {
        let job = self.start(flow).await;
        let status = soon("the job ends", job.wait()).await.expect("its status");
        self.nothing_left(&job).await;
        (job, status)
    }

    /// No run is open, nothing is leased, no process lives: as the ledger and the kernel say.
    pub(crate) async fn nothing_left(&self, job: &Job) {
        let runs = self.rows(job);
        let open: Vec<&StepRunRow> = runs.iter().filter(|run| !run.state.is_ended()).collect();
        assert!(open.is_empty(), "{open:?}");
        let ledger = self.host.stage.sessions.ledger();
        let leases = ledger.leases(Some(job.id())).expect("leases");
        assert!(leases.is_empty(), "{leases:?}");
        let living = || {
            let found = find(job.id().as_str()).into_iter();
            found.filter(Found::lives).count()
        };
        until("its processes are gone", || living() == 0).await;
    }

    pub(crate) fn rows(&self, job: &Job) -> Vec<StepRunRow> {
        self.jobs.record(job.id().as_str()).expect("its record").1
    }
}

/// Waits until a run of this step is in this state.
pub(crate) async fn until_state(
    shop: &Shop,
    job: &Job,
    step: &str,
    state: StepRunState,
) -> StepRunRow {
    let found = || {
        let rows = shop.rows(job);
        rows.into_iter()
            .find(|row| row.step == step && row.state == state)
    };
    until(&format!("{step} is {}", state.as_str()), || {
        found().is_some()
    })
    .await;
    found().expect("just seen")
}

pub(crate) fn is(status: &JobStatus, end: JobEnd, code: &str) {
    assert_eq!(status.state, JobState::Ended(end), "{status:?}");
    assert_eq!(status.why["code"], code, "{status:?}");
    assert!(status.released, "{status:?}");
    if let Some(report) = &status.report {
        assert_eq!(report.remaining, 0, "{report:?}");
    }
}

pub(crate) fn outputs(status: &JobStatus) -> Value {
    status.outputs.clone().unwrap_or_default()
}
