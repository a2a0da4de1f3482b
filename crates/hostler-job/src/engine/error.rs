//! What can go wrong.

use hostler_ledger::{JobId, ReadError, WriteError};
use serde::{Deserialize, Serialize};

use crate::Wrong;
use crate::problem::Problem;

/// Why a step, or one run of it, has failed. As it is in the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// What kind of failure, in one word, for programs and expressions.
    pub code: String,
    /// One clear line.
    pub message: String,
}

impl StepError {
    /// A failure of this kind. Of several lines the message becomes one.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains('\n') {
            let lines: Vec<&str> = message.lines().map(str::trim).collect();
            message = lines.join(" ");
        }
        Self {
            code: code.to_owned(),
            message,
        }
    }

    /// It was ended before it was over.
    pub(crate) fn cancelled() -> Self {
        Self::new("cancelled", "it was cancelled")
    }
}

/// Why something was not done with jobs.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such job.
    #[error("there is no job `{0}`")]
    NoJob(String),
    /// There is no such schedule.
    #[error("there is no schedule `{0}`")]
    NoSchedule(String),
    /// The flow is wrong.
    #[error("{}", told(.0))]
    Wrong(Vec<Wrong>),
    /// The inputs are wrong.
    #[error("{}", told(.0))]
    Inputs(Vec<Problem>),
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// It does not go with how the job stands.
    #[error("{0}")]
    Conflict(String),
    /// The job has ended.
    #[error("job {0} has ended")]
    Ended(JobId),
    /// The host is stopping, or being taken over.
    #[error("the host is stopping")]
    Stopping,
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] WriteError),
    /// The ledger cannot be read.
    #[error("{0}")]
    Read(String),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(error.to_string())
    }
}

/// What most of the engine returns.
pub type Result<T> = std::result::Result<T, Error>;

fn told(problems: &[impl std::fmt::Display]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}
