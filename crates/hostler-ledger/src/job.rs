//! Jobs: what is kept of them, of the runs of their steps, and of what they lease.

mod read;
mod schedule;
mod write;

pub use schedule::{Overlap, ScheduleCame, ScheduleDue, ScheduleRecord, ScheduleRow, ScheduledFor};

use std::fmt;
use std::str::FromStr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{JobId, SessionId};
use crate::record::Which;

/// A word that is no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no state of a {of}")]
pub struct StateError {
    text: String,
    of: &'static str,
}

/// Where a job is that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStanding {
    /// It has not begun.
    Pending,
    /// It runs.
    Running,
    /// It waits to be told to go on.
    Paused,
}

impl JobStanding {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// How a job has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEnd {
    /// All was done.
    Completed,
    /// It could not be done.
    Failed,
    /// Somebody, or the end of its parent, has ended it.
    Cancelled,
}

impl JobEnd {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// As it is said of a job.
    pub(crate) fn said(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "was cancelled",
        }
    }
}

/// The state of a job. As text, and in JSON, it is the one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum JobState {
    /// It has not ended.
    Standing(JobStanding),
    /// It has, for good.
    Ended(JobEnd),
}

impl JobState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standing(standing) => standing.as_str(),
            Self::Ended(end) => end.as_str(),
        }
    }

    /// Whether it is an end.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

impl FromStr for JobState {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        Ok(match text {
            "pending" => Self::Standing(JobStanding::Pending),
            "running" => Self::Standing(JobStanding::Running),
            "paused" => Self::Standing(JobStanding::Paused),
            "completed" => Self::Ended(JobEnd::Completed),
            "failed" => Self::Ended(JobEnd::Failed),
            "cancelled" => Self::Ended(JobEnd::Cancelled),
            _ => return Err(unknown(text, "job")),
        })
    }
}

/// The state of one run of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepRunState {
    /// It has not begun.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// It waits for somebody.
    Suspended,
    /// It was done.
    Completed,
    /// It could not be done.
    Failed,
    /// It was ended from outside.
    Cancelled,
    /// There was nothing to do.
    Skipped,
}

impl StepRunState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }

    /// Whether it is an end.
    pub fn is_ended(self) -> bool {
        match self {
            Self::Pending | Self::Running | Self::Suspended => false,
            Self::Completed | Self::Failed | Self::Cancelled | Self::Skipped => true,
        }
    }
}

impl FromStr for StepRunState {
    type Err = StateError;

    fn from_str(text: &str) -> Result<Self, StateError> {
        Ok(match text {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "suspended" => Self::Suspended,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            "cancelled" => Self::Cancelled,
            "skipped" => Self::Skipped,
            _ => return Err(unknown(text, "step's run")),
        })
    }
}

fn unknown(text: &str, of: &'static str) -> StateError {
    StateError {
        text: text.chars().take(64).collect(),
        of,
    }
}

impl From<JobState> for &'static str {
    fn from(state: JobState) -> Self {
        state.as_str()
    }
}

impl TryFrom<String> for JobState {
    type Error = StateError;

    fn try_from(text: String) -> Result<Self, StateError> {
        text.parse()
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for StepRunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromSql for JobState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl FromSql for StepRunState {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl ToSql for StepRunState {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

/// Where a job comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrigin {
    /// Somebody has asked for it.
    #[default]
    Asked,
    /// This run of its parent, which waits for it.
    Run(u32),
    /// It does this job again, which had ended.
    Retry(JobId),
    /// A schedule.
    Schedule(ScheduledFor),
}

impl JobOrigin {
    /// For what the schedule has made it that did.
    pub fn scheduled(&self) -> Option<&ScheduledFor> {
        match self {
            Self::Schedule(scheduled) => Some(scheduled),
            Self::Asked | Self::Run(_) | Self::Retry(_) => None,
        }
    }
}

/// A job as it is created; it is pending.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRow {
    /// Its id.
    pub id: JobId,
    /// The name of its flow.
    pub name: String,
    /// The group that it belongs to, where it does.
    pub group: Option<String>,
    /// The job of which it is a part; it ends with that.
    pub parent: Option<JobId>,
    /// Where it comes from.
    pub origin: JobOrigin,
    /// What else is to be kept with it, such as its flow and its inputs.
    pub detail: Value,
    /// When: Unix time in milliseconds.
    pub created: u64,
}

/// A job as the ledger has it, but for what may be large: as it is in listings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSummary {
    /// Its place in listings; given by the ledger, and never used again.
    pub number: u64,
    /// Its id.
    pub id: JobId,
    /// The name of its flow.
    pub name: String,
    /// The group that it belongs to, where it does.
    pub group: Option<String>,
    /// The job of which it is a part. `None` also when that was pruned.
    pub parent: Option<JobId>,
    /// Where it comes from.
    pub origin: JobOrigin,
    /// The session that owns what it starts, once it has one.
    pub session: Option<SessionId>,
    /// Its state.
    pub state: JobState,
    /// Why it is in this state; null until something was said.
    pub why: Value,
    /// When it was created: Unix time in milliseconds.
    pub created: u64,
    /// When it first ran: Unix time in milliseconds.
    pub began: Option<u64>,
    /// When it ended: Unix time in milliseconds.
    pub ended: Option<u64>,
}

/// A job as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// As it is in listings.
    #[serde(flatten)]
    pub summary: JobSummary,
    /// What else is kept with it.
    pub detail: Value,
    /// What came of it.
    pub outputs: Option<Value>,
}

/// One run of a step, as it begins and as the ledger has it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StepRunRow {
    /// Its number in its job, from 1; given by who runs the job.
    pub number: u32,
    /// The step's name.
    pub step: String,
    /// Which item of the step's it is for, where that has some.
    pub item: Option<u32>,
    /// Which iteration of the step it is.
    pub attempt: u32,
    /// Which try of that.
    #[serde(rename = "try")]
    pub try_: u32,
    /// Its state.
    pub state: StepRunState,
    /// What else is kept with it.
    pub detail: Value,
    /// What came of it.
    pub outputs: Option<Value>,
    /// What went wrong.
    pub error: Option<Value>,
    /// What follows from it.
    pub follows: Option<Value>,
    /// When it first ran: Unix time in milliseconds. Set by the ledger where it is not given.
    pub began: Option<u64>,
    /// When it ended: Unix time in milliseconds. Set by the ledger where it is not given; there as soon as the state is an end.
    pub ended: Option<u64>,
}

/// What changes of a run. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StepRunUpdate {
    /// Its state.
    pub state: Option<StepRunState>,
    /// What else is kept with it.
    pub detail: Option<Value>,
    /// What came of it.
    pub outputs: Option<Value>,
    /// What went wrong.
    pub error: Option<Value>,
    /// What follows from it.
    pub follows: Option<Value>,
}

/// A job's claim on something that is shared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The holder.
    pub job: JobId,
    /// The session that is shared.
    pub session: SessionId,
    /// What distinguishes it from others of its kind.
    pub key: String,
    /// Since when: Unix time in milliseconds.
    pub taken: u64,
}

/// Which jobs are wanted, the newest first. The default is all that have not ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// Those that have not ended, those that have, or both.
    pub which: Which,
    /// Only the children of this one.
    pub parent: Option<JobId>,
    /// Only those of this group.
    pub group: Option<String>,
    /// Only those of the flow of this name.
    pub name: Option<String>,
    /// Only those whose id starts so.
    pub starts: Option<String>,
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// How many at the most; 0 is no limit.
    pub limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_one_word_each_and_read_back() {
        let standings = [
            JobStanding::Pending,
            JobStanding::Running,
            JobStanding::Paused,
        ];
        let ends = [JobEnd::Completed, JobEnd::Failed, JobEnd::Cancelled];
        let all = standings
            .map(JobState::Standing)
            .into_iter()
            .chain(ends.map(JobState::Ended));
        for state in all {
            assert_eq!(state.as_str().parse(), Ok(state));
            let json = serde_json::to_value(state).expect("json");
            assert_eq!(json, state.as_str());
            let inner = match state {
                JobState::Standing(standing) => serde_json::to_value(standing),
                JobState::Ended(end) => serde_json::to_value(end),
            };
            assert_eq!(inner.expect("json"), json);
            assert_eq!(
                serde_json::from_value::<JobState>(json).expect("a state"),
                state
            );
        }
        for state in [
            StepRunState::Pending,
            StepRunState::Running,
            StepRunState::Suspended,
            StepRunState::Completed,
            StepRunState::Failed,
            StepRunState::Cancelled,
            StepRunState::Skipped,
        ] {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).expect("json"), state.as_str());
        }
        let error = "done".parse::<JobState>().expect_err("no state");
        assert_eq!(error.to_string(), "`done` is no state of a job");
        assert!(serde_json::from_str::<JobState>("\"skipped\"").is_err());
        assert!("paused".parse::<StepRunState>().is_err());
    }

    #[test]
    fn a_run_is_written_with_the_word_try() {
        let run = StepRunRow {
            try_: 2,
            ..StepRunRow::default()
        };
        let json = serde_json::to_value(&run).expect("json");
        assert_eq!(json["try"], 2);
        assert_eq!(
            serde_json::from_value::<StepRunRow>(json).expect("a run"),
            run
        );
    }
}
