//! A job is made: it is known, then written, and then it runs.

use std::sync::Arc;

use hostler_ledger::{
    By, Change, JobEnd, JobId, JobOrigin, JobRow, JobStanding, JobState, ScheduledFor, StepRunRow,
    WriteError,
};
use serde_json::Value;

use super::actor::Actor;
use super::error::{Error, Result};
use super::job::{Job, JobStatus};
use super::jobs::{Jobs, Phase, now, why};
use super::new::{Kept, NewJob};
use super::progress::Progress;
use crate::Loaded;

/// A job that is made, of a flow that was found right.
pub(crate) struct Making {
    /// Its id.
    pub(crate) id: JobId,
    loaded: Arc<Loaded>,
    kept: Kept,
    group: Option<String>,
    parent: Option<JobId>,
    /// Where it comes from.
    pub(crate) origin: JobOrigin,
    /// What an earlier job has done of it.
    pub(crate) done: Vec<StepRunRow>,
    /// What is written with it, or not at all.
    pub(crate) more: Vec<Change>,
}

impl Making {
    /// One with a new id, in this group and below this job.
    pub(crate) fn new(
        loaded: Arc<Loaded>,
        kept: Kept,
        (group, parent): (Option<String>, Option<JobId>),
    ) -> Self {
        Self {
            id: JobId::new(),
            loaded,
            kept,
            group,
            parent,
            origin: JobOrigin::Asked,
            done: Vec::new(),
            more: Vec::new(),
        }
    }

    /// One that a schedule makes.
    pub(crate) fn of_schedule(
        loaded: Loaded,
        kept: Kept,
        group: Option<String>,
        scheduled: ScheduledFor,
    ) -> Self {
        Self {
            origin: JobOrigin::Schedule(scheduled),
            ..Self::new(Arc::new(loaded), kept, (group, None))
        }
    }
}

impl Jobs {
    /// Makes a job, which begins at once. When this returns it is durable.
    ///
    /// Cancel safe: there is a job or not.
    ///
    /// # Errors
    /// [`Error::Wrong`], [`Error::Inputs`], [`Error::Invalid`], [`Error::Stopping`], [`Error::Ledger`].
    pub async fn create(&self, new: NewJob, by: By) -> Result<Job> {
        let group = new.group.clone();
        let checked = tokio::task::spawn_blocking(move || new.check()).await;
        let (loaded, kept) = checked.map_err(|error| Error::Invalid(error.to_string()))??;
        let making = Making::new(Arc::new(loaded), kept, (group, None));
        self.make(making, by).await
    }

    /// Makes a job, with what is to be written with it. Whoever asked may be gone: it is made all the same.
    pub(crate) async fn make(&self, making: Making, by: By) -> Result<Job> {
        let jobs = self.clone();
        let task = tokio::spawn(async move {
            let _making = jobs.inner.making.read().await;
            if jobs.phase() != Phase::Open {
                return Err(Error::Stopping);
            }
            jobs.make_now(making, by).await
        });
        match task.await {
            Ok(job) => job,
            Err(error) => Err(Error::Invalid(format!(
                "a task of the host failed: {error}"
            ))),
        }
    }

    async fn make_now(&self, making: Making, by: By) -> Result<Job> {
        let Making {
            id,
            loaded,
            kept,
            group,
            parent,
            origin,
            done,
            more,
        } = making;
        let detail =
            serde_json::to_value(&kept).map_err(|error| Error::Invalid(error.to_string()))?;
        let row = JobRow {
            id: id.clone(),
            name: loaded.flow.name.clone(),
            group: group.clone(),
            parent: parent.clone(),
            origin: origin.clone(),
            detail,
            created: now(),
        };
        let mut changes = vec![Change::JobCreated {
            job: Box::new(row),
            by: by.clone(),
        }];
        for run in &done {
            let run = Box::new(run.clone());
            let job = id.clone();
            changes.push(Change::StepBegan { job, run });
        }
        changes.extend(more);
        let flow = Arc::new(loaded.flow.clone());
        let mut progress = Progress::new(id.clone(), flow, kept.inputs.clone());
        if !done.is_empty() {
            progress.replay(&done, &[], false);
        }
        let status = JobStatus {
            state: JobState::Standing(JobStanding::Pending),
            why: Value::Null,
            outputs: None,
            session: None,
            released: false,
            stuck: false,
            report: None,
        };
        let below = parent.is_some();
        let (shared, inbox) = self.shared(id, loaded, kept, (group, parent, origin), status);
        let actor = Actor::new(self.clone(), shared.clone(), inbox, progress, by);
        // It is known before it is written: so what the ledger has that has not ended is known.
        let job = self.register(shared);
        hostler_keeper::hook!("job.before-write");
        let written = match below {
            // Its parent's run says the same, should power be lost.
            true => self.ledger().write_unsynced(changes).await,
            false => self.ledger().write(changes).await,
        };
        if let Err(error) = written {
            self.never_made(&job, &error);
            return Err(error.into());
        }
        hostler_keeper::hook!("job.after-write");
        self.spawn(&job, actor);
        hostler_keeper::hook!("job.before-answer");
        Ok(job)
    }

    /// Takes away one that was not written. Who has found it meanwhile is told that it is over.
    fn never_made(&self, job: &Job, error: &WriteError) {
        self.forget(job.id());
        job.shared.status.send_modify(|status| {
            status.state = JobState::Ended(JobEnd::Failed);
            status.why = why("not_made", &error.to_string());
            status.released = true;
        });
    }
}
