//! What is said on the wire: plain data, in the form that the API promises, whatever the crates below make of theirs.
//!
//! Durations are seconds, sizes bytes, times Unix time in milliseconds.

mod event;
mod host;
mod member;
mod policy;
mod process;
mod report;
mod session;

pub use event::Event;
pub use host::{Health, Host, ShutdownRequest};
pub use member::{Listening, Member};
pub use policy::{Policy, PolicyChange};
pub(crate) use process::timeout;
pub use process::{
    Encoding, ExecRequest, Exit, KeepOutput, KeepRequest, Pattern, Process, ProcessState, Restart,
    RunAnswer, RunRequest, SignalName, SignalRequest, Size,
};
pub use report::{CloseReport, Connected, LeftProcess, Listener, Released};
pub(crate) use session::report as recorded_report;
pub use session::{CensusEntry, NewSession, Session, SessionChange};

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::ApiError;

/// Who asked for something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct By {
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
}

impl From<hostler_session::By> for By {
    fn from(by: hostler_session::By) -> Self {
        Self {
            who: by.who,
            why: by.why,
        }
    }
}

/// The time in `seconds`, with `key` to name it by.
pub(crate) fn duration(key: &str, seconds: f64) -> Result<Duration, ApiError> {
    Duration::try_from_secs_f64(seconds)
        .map_err(|_| ApiError::bad(format!("`{key}`: {seconds} is not a number of seconds")))
}
