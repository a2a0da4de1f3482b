//! By what the sessions of jobs are known to the next host: labels, under names that are this program's own.

use hostler_ledger::JobId;
use hostler_session::Session;
use serde_json::{Value, json};

const JOB: &str = "dev.hostler/job";
const SCHEDULE: &str = "dev.hostler/schedule";
const SCHEDULED: &str = "dev.hostler/scheduled-job";
const RUN: &str = "dev.hostler/run";

/// The labels of a job's session.
pub(crate) fn of_job(job: &JobId, flow: &str, schedule: Option<&str>) -> Value {
    let mut labels = json!({ JOB: job, "flow": flow });
    if let Some(schedule) = schedule {
        labels[SCHEDULE] = schedule.into();
    }
    labels
}

/// The labels of the session of an agent that a job of a schedule has to itself.
pub(crate) fn of_agent(job: &JobId, schedule: &str) -> Value {
    json!({ SCHEDULE: schedule, SCHEDULED: job })
}

/// The schedule, and the job that it has made, that a session is for; `None` for one of another job, and of none.
pub fn scheduled(session: &Session) -> Option<(String, JobId)> {
    let labels = session.info().labels;
    let schedule = labels[SCHEDULE].as_str()?.to_owned();
    let job = labels[JOB]
        .as_str()
        .or_else(|| labels[SCHEDULED].as_str())?;
    Some((schedule, job.parse().ok()?))
}

/// The labels of the session that one run has to itself.
pub(crate) fn of_run(job: &JobId, run: u32) -> Value {
    json!({ JOB: job, RUN: run })
}

/// The job that a session is for, or a run of it.
pub(crate) fn job(session: &Session) -> Option<JobId> {
    session.info().labels[JOB].as_str()?.parse().ok()
}

/// The run that a session is for, if it is for one alone.
pub(crate) fn run(session: &Session) -> Option<u64> {
    session.info().labels[RUN].as_u64()
}
