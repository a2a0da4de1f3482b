//! All jobs of a host.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_agent::{AgentPool, Agents, PoolOptions};
use hostler_ledger::{
    By, Change, JobEnd, JobFilter, JobId, JobOrigin, JobRecord, JobSummary, Ledger, StepRunRow,
    Which,
};
use hostler_session::Sessions;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::actor::{Actor, Message};
use super::error::{Error, Result};
use super::job::{Job, JobStatus, Shared};
use super::make::Making;
use super::new::Kept;
use super::progress::End;
use super::schedule::{self, ScheduleOptions};
use crate::Loaded;

/// What holds for all jobs of a host.
#[derive(Debug, Clone, Default)]
pub struct JobsOptions {
    /// How agents are shared.
    pub pool: PoolOptions,
    /// How schedules are kept.
    pub schedules: ScheduleOptions,
}

/// All jobs of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Jobs {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    agents: Agents,
    pool: AgentPool,
    live: Mutex<HashMap<JobId, Job>>,
    phase: Mutex<Phase>,
    /// Held while a job is made: who ends or leaves all of them waits until those are there.
    pub(super) making: tokio::sync::RwLock<()>,
    pub(crate) schedules: schedule::State,
}

/// How far the host is with its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Open,
    Stopping,
    HandingOver,
}

/// How long jobs may take to be let go of.
const FREEZE: Duration = Duration::from_secs(20);

pub(crate) fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |time| time.as_millis() as u64)
}

impl Jobs {
    /// None yet: [`Jobs::recover`] is to be called once sessions and conversations have recovered. Must be called in a runtime.
    pub fn new(agents: Agents, options: JobsOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                pool: AgentPool::new(agents.clone(), options.pool),
                agents,
                live: Mutex::default(),
                phase: Mutex::new(Phase::Open),
                making: tokio::sync::RwLock::default(),
                schedules: schedule::State::new(options.schedules),
            }),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, HashMap<JobId, Job>> {
        self.inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        self.inner.agents.sessions()
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.sessions().ledger()
    }

    /// The agents that jobs share.
    pub fn pool(&self) -> &AgentPool {
        &self.inner.pool
    }

    pub(crate) fn shared(
        &self,
        id: JobId,
        loaded: Arc<Loaded>,
        kept: Kept,
        (group, parent, origin): (Option<String>, Option<JobId>, JobOrigin),
        status: JobStatus,
    ) -> (Arc<Shared>, mpsc::UnboundedReceiver<Message>) {
        let (mailbox, inbox) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            id,
            group,
            parent,
            origin,
            loaded,
            kept,
            mailbox,
            status: watch::Sender::new(status),
            live: Mutex::default(),
            permissions: Mutex::default(),
            left: CancellationToken::new(),
        });
        (shared, inbox)
    }

    /// Lets a job be found.
    pub(crate) fn register(&self, shared: Arc<Shared>) -> Job {
        let job = Job { shared };
        self.registry().insert(job.id().clone(), job.clone());
        job
    }

    /// Lets its task run.
    pub(crate) fn spawn(&self, job: &Job, actor: Actor) {
        super::end::spawn(self.clone(), job.clone(), actor);
    }

    /// One that has not ended, or whose resources are not gone yet.
    ///
    /// # Errors
    /// [`Error::NoJob`]; [`Error::Ended`] for one that is in the ledger only; [`Error::Stopping`] for one that was let go of for the
    /// next host.
    pub fn get(&self, id: &str) -> Result<Job> {
        let parsed: JobId = id.parse().map_err(|_| Error::NoJob(id.to_owned()))?;
        // One is here before it is in the ledger, and until its end is there. So what is there, has not ended and is not here was made
        // or has ended between two looks, which the second look tells; or it was let go of.
        for _ in 0..2 {
            if let Some(job) = self.living(&parsed) {
                return Ok(job);
            }
            match self.ledger().job_summary(&parsed)? {
                Some(found) if found.state.is_ended() => return Err(Error::Ended(parsed)),
                Some(_) => {}
                None => return Err(Error::NoJob(id.to_owned())),
            }
        }
        Err(Error::Stopping)
    }

    /// One that has not ended, or whose resources are not gone yet. Does not look into the ledger.
    pub fn living(&self, id: &JobId) -> Option<Job> {
        self.registry().get(id).cloned()
    }

    /// Those that have not ended, or whose resources are not gone yet.
    pub fn live(&self) -> Vec<Job> {
        self.registry().values().cloned().collect()
    }

    /// Jobs from the ledger, the newest first. Blocks.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn list(&self, filter: &JobFilter) -> Result<Vec<JobSummary>> {
        Ok(self.ledger().jobs(filter)?)
    }

    /// How one job stands, from the ledger. Blocks.
    ///
    /// # Errors
    /// [`Error::NoJob`], [`Error::Read`].
    pub fn summary(&self, id: &str) -> Result<JobSummary> {
        let none = || Error::NoJob(id.to_owned());
        let parsed: JobId = id.parse().map_err(|_| none())?;
        self.ledger().job_summary(&parsed)?.ok_or_else(none)
    }

    /// One job with its runs, from the ledger. Blocks.
    ///
    /// # Errors
    /// [`Error::NoJob`], [`Error::Read`].
    pub fn record(&self, id: &str) -> Result<(JobRecord, Vec<StepRunRow>)> {
        let none = || Error::NoJob(id.to_owned());
        let parsed: JobId = id.parse().map_err(|_| none())?;
        let record = self.ledger().job(&parsed)?.ok_or_else(none)?;
        let runs = self.ledger().step_runs(&parsed)?;
        Ok((record, runs))
    }

    /// A new job that does one again that has ended, from this step on: with what the steps before it gave. Without a step, all is
    /// done again.
    ///
    /// # Errors
    /// [`Error::Conflict`] for one that has not ended, [`Error::Invalid`] for a step that there is not, and as
    /// [`Jobs::create`].
    pub async fn retry(&self, id: &str, from: Option<&str>, by: By) -> Result<Job> {
        let (record, runs) = self.record(id)?;
        if !record.summary.state.is_ended() {
            let message = format!(
                "job {id} has not ended: a step of it can be done again while it is paused"
            );
            return Err(Error::Conflict(message));
        }
        let mut kept = kept_of(&record)?;
        let loaded = Loaded::restore(&kept.flow).map_err(Error::Invalid)?;
        let done = match from {
            None => Vec::new(),
            Some(from) => super::recover::done_before(&loaded.flow, &runs, from)?,
        };
        kept.again = Vec::new();
        let mut making = Making::new(Arc::new(loaded), kept, (record.summary.group, None));
        making.origin = JobOrigin::Retry(record.summary.id);
        making.done = done;
        self.make(making, by).await
    }

    /// Takes a job out of the ledger, with the jobs below it; one that runs is cancelled first.
    ///
    /// # Errors
    /// [`Error::NoJob`], [`Error::Ledger`], [`Error::Stopping`].
    pub async fn delete(&self, id: &str, by: By) -> Result<()> {
        match self.get(id) {
            Ok(job) => drop(job.cancel(by.clone()).await?),
            Err(Error::Ended(_)) => {}
            Err(error) => return Err(error),
        }
        let id: JobId = id.parse().map_err(|_| Error::NoJob(id.to_owned()))?;
        self.ledger()
            .write(vec![Change::JobDeleted { id, by }])
            .await?;
        Ok(())
    }

    /// The host stops: jobs whose sessions are kept for the next host are let go of, the others are told to end. Makes no more. To be
    /// called before sessions are closed; [`Jobs::stopped`] waits for what was told.
    ///
    /// Not cancel safe: dropped, what was not reached yet goes on.
    pub async fn stop(&self, keep: impl Fn(&Job) -> bool, by: By) {
        self.enter(Phase::Stopping).await;
        self.inner.schedules.end().await;
        let live = self.live();
        let mut kept: HashSet<JobId> = HashSet::new();
        // Those below a kept one are kept; they come after it.
        for job in &live {
            let above = job.parent();
            let is_kept = match above {
                Some(_) => self.top(job).is_some_and(|top| keep(&top)),
                None => keep(job),
            };
            if is_kept && !job.status().state.is_ended() {
                kept.insert(job.id().clone());
            }
        }
        let (stay, go): (Vec<Job>, Vec<Job>) =
            live.into_iter().partition(|job| kept.contains(job.id()));
        freeze(&stay).await;
        for job in go {
            // What is below another one ends with that.
            if job.parent().is_none() {
                job.shared.tell(Message::End {
                    end: Box::new(stopped()),
                    by: by.clone(),
                });
            }
        }
        let kept: HashSet<String> = kept.iter().map(ToString::to_string).collect();
        self.inner.pool.end_but(&kept);
    }

    /// Waits until the jobs that [`Jobs::stop`] has told to end are gone, and the agents that no other has.
    ///
    /// Cancel safe.
    pub async fn stopped(&self) {
        for job in self.live() {
            let _ = job.wait().await;
        }
        self.inner.pool.ended().await;
    }

    /// Lets go of all jobs for the next host: nothing of them is ended. To be called before conversations and sessions are handed
    /// over. Makes no more.
    pub async fn hand_over(&self) {
        self.enter(Phase::HandingOver).await;
        self.inner.schedules.end().await;
        freeze(&self.live()).await;
        self.inner.pool.hand_over();
    }

    /// No more jobs are made; those that are being made are there when this returns.
    async fn enter(&self, phase: Phase) {
        *self
            .inner
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = phase;
        drop(self.inner.making.write().await);
    }

    pub(super) fn phase(&self) -> Phase {
        *self
            .inner
            .phase
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The job above all that this one is below of.
    fn top(&self, job: &Job) -> Option<Job> {
        let registry = self.registry();
        let mut top = job.clone();
        while let Some(above) = top.parent() {
            top = registry.get(above)?.clone();
        }
        Some(top)
    }

    pub(crate) fn forget(&self, id: &JobId) {
        self.registry().remove(id);
    }

    /// The jobs below this one that have not ended, or are not gone.
    pub(crate) fn below(&self, id: &JobId) -> Vec<Job> {
        let registry = self.registry();
        let below = registry.values().filter(|job| job.parent() == Some(id));
        below.cloned().collect()
    }

    /// Those of the ledger that have not ended. Blocks.
    pub(crate) fn open(&self) -> Result<Vec<JobSummary>> {
        self.list(&JobFilter {
            which: Which::Open,
            ..JobFilter::default()
        })
    }
}

/// Lets go of them, all at once; for a bounded time.
async fn freeze(jobs: &[Job]) {
    let all = futures_util::future::join_all(jobs.iter().map(Job::freeze));
    if tokio::time::timeout(FREEZE, all).await.is_err() {
        tracing::error!("some jobs take too long to be let go of");
    }
}

/// The end of a job whose host stops.
fn stopped() -> End {
    End::new(JobEnd::Cancelled, "shutdown", "the host was told to stop")
}

/// What the ledger keeps of a job.
pub(crate) fn kept_of(record: &JobRecord) -> Result<Kept> {
    let id = &record.summary.id;
    serde_json::from_value(record.detail.clone())
        .map_err(|_| Error::Invalid(format!("the record of job {id} cannot be read")))
}

/// Why a job is as it is, for listings.
pub(crate) fn why(code: &str, message: &str) -> Value {
    json!({ "code": code, "message": message })
}
