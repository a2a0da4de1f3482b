//! The job of a schedule, made now.

use hostler_ledger::{
    By, Change, JobId, Overlap, Refusal, ScheduleCame, ScheduleRecord, ScheduledFor, WriteError,
};

use super::{Scheduled, Schedules, gone};
use crate::Loaded;
use crate::engine::error::{Error, Result};
use crate::engine::job::Job;
use crate::engine::make::Making;
use crate::engine::new::Kept;

/// What a schedule runs, as it is now.
pub(super) struct What {
    /// Its flow with what it is given, or what is wrong with that.
    pub(super) checked: Result<(Loaded, Kept)>,
    pub(super) group: Option<String>,
}

impl What {
    pub(super) async fn read(record: &ScheduleRecord) -> Result<Self> {
        let what = Scheduled::try_from(record)?;
        let job = what.new_job();
        let checked = tokio::task::spawn_blocking(move || job.check()).await;
        Ok(Self {
            checked: checked.map_err(|error| Error::Invalid(error.to_string()))?,
            group: what.group,
        })
    }
}

impl Schedules {
    /// Makes its job now, whatever the clock says, and whether it is enabled or not. When it is due stays as it is.
    ///
    /// # Errors
    /// [`Error::NoSchedule`]; [`Error::Conflict`] while its last job has not ended and it is to skip then; and as [`Jobs::create`](crate::Jobs::create).
    pub async fn run(&self, name: &str, by: By) -> Result<Job> {
        self.make_now(name, None, by).await
    }

    /// The same once for each `request`, which is what whoever asks calls it: asked again, also of the next host, it gives the job
    /// that was made the first time, while that is known.
    ///
    /// Cancel safe: it is made or not.
    ///
    /// # Errors
    /// As [`Schedules::run`].
    pub async fn run_once(&self, name: &str, request: &str, by: By) -> Result<JobId> {
        self.get(name)?;
        if let Some(known) = self.jobs.ledger().requested_job(name, request)? {
            return Ok(known);
        }
        match self.make_now(name, Some(request), by).await {
            Ok(job) => Ok(job.id().clone()),
            Err(Error::Ledger(WriteError::Refused(Refusal::AlreadyRequested(known)))) => Ok(known),
            // What runs may be what was asked for.
            Err(error @ Error::Conflict(_)) => {
                let known = self.jobs.ledger().requested_job(name, request)?;
                known.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn make_now(&self, name: &str, request: Option<&str>, by: By) -> Result<Job> {
        loop {
            self.goes_on()?;
            let before = self.get(name)?;
            let What { checked, group } = What::read(&before).await?;
            let (loaded, kept) = checked?;
            // What runs may be what is asked for.
            if let Some(request) = request
                && let Some(known) = self.jobs.ledger().requested_job(name, request)?
            {
                let refused = Refusal::AlreadyRequested(known);
                return Err(Error::Ledger(WriteError::Refused(refused)));
            }
            let running = self.running(&before)?;
            if let (Overlap::Cancel, Some(job)) = (before.row.overlap, &running) {
                self.cancel(job, name).await?;
            }
            let _turn = self.state().turn.lock().await;
            let record = self.get(name)?;
            if record.row.what != before.row.what || record.created != before.created {
                // It was set anew meanwhile.
                continue;
            }
            match (record.row.overlap, self.running(&record)?) {
                (Overlap::Allow, _) | (_, None) => {}
                (Overlap::Cancel, Some(_)) => continue,
                (Overlap::Skip, Some(job)) => return Err(Error::Conflict(still_runs(&job))),
            }
            let scheduled = ScheduledFor {
                schedule: name.to_owned(),
                due: None,
                late: false,
                request: request.map(str::to_owned),
            };
            let mut making = Making::of_schedule(loaded, kept, group, scheduled);
            making.more.push(Change::ScheduleRan {
                name: name.to_owned(),
                at: self.now(),
                due: None,
                came: ScheduleCame::Job(making.id.clone()),
                by: by.clone(),
            });
            return self
                .jobs
                .make(making, by)
                .await
                .map_err(|error| match error {
                    Error::Ledger(error) => gone(error),
                    error => error,
                });
        }
    }

    /// Its last job, if that has not ended.
    pub(super) fn running(&self, record: &ScheduleRecord) -> Result<Option<JobId>> {
        let state = self.last_state(record)?;
        let runs = state.is_some_and(|state| !state.is_ended());
        Ok(record.last_job.clone().filter(|_| runs))
    }

    /// Cancels the job of the time before; nothing of it is left then.
    pub(super) async fn cancel(&self, id: &JobId, name: &str) -> Result<()> {
        match self.jobs.get(id.as_str()) {
            Ok(job) => {
                let by = By::new(format!("schedule {name}"), "its next job is due");
                job.cancel(by).await.map(drop)
            }
            // It has ended, which the ledger says by now; or it was deleted.
            Err(Error::Ended(_) | Error::NoJob(_)) => self.goes_on(),
            Err(error) => Err(error),
        }
    }
}

pub(super) fn still_runs(job: &JobId) -> String {
    format!("job {job} of the time before has not ended")
}
