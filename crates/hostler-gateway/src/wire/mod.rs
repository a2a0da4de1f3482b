//! What is said on the wire: plain data, in the form that the API promises, whatever the crates below make of theirs.
//!
//! Durations are seconds, sizes bytes, times Unix time in milliseconds.

mod conversation;
mod event;
mod host;
mod job;
mod member;
mod policy;
mod process;
mod report;
mod schedule;
mod session;

pub use conversation::{
    Agent, AnswerRequest, Answered, Conversation, Entry, NewConversation, Permission,
    PromptRequest, Turn,
};
pub use event::Event;
pub use host::{Health, Host, ShutdownRequest};
pub use job::{
    CancelledJobs, GroupRequest, Job, JobAnswer, JobAnswered, JobSummary, Lease, NewJob,
    PoolMember, Question, RetryRequest, StepLog, StepRun, WantedAnswer,
};
pub use member::{Listening, Member};
pub use policy::{Policy, PolicyChange};
pub use process::{
    Encoding, ExecRequest, Exit, KeepOutput, KeepRequest, Pattern, Process, ProcessState, Restart,
    RunAnswer, RunRequest, SignalName, SignalRequest, Size,
};
pub use report::{CloseReport, Connected, LeftProcess, Listener, Released};
pub use schedule::{NewSchedule, Schedule, ScheduleChange};
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

/// A Unix time in milliseconds as ISO 8601 writes it, in UTC.
pub(crate) fn iso_8601(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    // Howard Hinnant's `civil_from_days`, for days from 1970 on: years begin in March, eras have 400 of them.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hours, minutes) = (rest / 3_600_000, rest / 60_000 % 60);
    let (seconds, ms) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_written_as_dates() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_700_000_000_123, "2023-11-14T22:13:20.123Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] {
            assert_eq!(super::iso_8601(ms), text);
        }
    }
}
