//! By what the sessions of jobs are known to the next host: labels, under names that are this program's own.

use hostler_ledger::JobId;
use hostler_session::Session;
use serde_json::{Value, json};

const JOB: &str = "dev.hostler/job";
const RUN: &str = "dev.hostler/run";

/// The labels of a job's session.
pub(crate) fn of_job(job: &JobId, flow: &str) -> Value {
    json!({ JOB: job, "flow": flow })
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
