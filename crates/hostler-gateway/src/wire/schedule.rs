//! Schedules: jobs by the clock.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hostler_job::{Scheduled, ScheduledFlow};
use hostler_ledger::{JobState, Overlap, ScheduleRecord};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{Policy, PolicyChange};
use crate::error::ApiError;

/// A schedule to be set: of a `file`, or of the text of a `flow`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSchedule {
    /// When it is due: five fields, as crontab(5) has them, or `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`; `@never` is due
    /// by hand only.
    pub cron: String,
    /// In which time zone, such as `Europe/Berlin`. Without, and with `local`: that of the host.
    #[serde(default)]
    pub zone: Option<String>,
    /// The file of its flow, which the host reads each time: an absolute path.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The text of its flow. The files that it uses are named from `cwd`.
    #[serde(default)]
    pub flow: Option<String>,
    /// What its jobs are given, by name.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
    /// Where its steps work, unless the flow says otherwise: an absolute path. Without: the directory of `file`, else `/`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub cwd: Option<PathBuf>,
    /// The group of its jobs. 1 to 64 characters.
    #[serde(default)]
    pub group: Option<String>,
    /// What is to be different from the host's defaults in their sessions.
    #[serde(default)]
    pub policy: PolicyChange,
    /// What is done when the job of the time before has not ended: `skip` (the default), `allow`, or `cancel` that one first.
    #[serde(default)]
    #[schema(value_type = String)]
    pub overlap: Overlap,
    /// Whether it is due at all. True, unless it is said otherwise.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

fn enabled() -> bool {
    true
}

/// What is to be different of a schedule. What is not named stays.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleChange {
    /// When it is due.
    pub cron: Option<String>,
    /// In which time zone; `local` for that of the host.
    pub zone: Option<String>,
    /// What is done when the job of the time before has not ended.
    #[schema(value_type = Option<String>)]
    pub overlap: Option<Overlap>,
    /// Whether it is due at all.
    pub enabled: Option<bool>,
}

/// A schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// When it is due.
    pub cron: String,
    /// In which time zone. Not there: that of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The file of its flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub file: Option<PathBuf>,
    /// The text of its flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flow: Option<String>,
    /// What its jobs are given, by name.
    #[schema(value_type = Object)]
    pub inputs: BTreeMap<String, Value>,
    /// Where its steps work, unless the flow says otherwise.
    #[schema(value_type = String)]
    pub cwd: PathBuf,
    /// The group of its jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The policy of their sessions.
    pub policy: Policy,
    /// What is done when the job of the time before has not ended.
    #[schema(value_type = String)]
    pub overlap: Overlap,
    /// Whether it is due at all.
    pub enabled: bool,
    /// When it was first set: Unix time in milliseconds.
    pub created: u64,
    /// When it is due next. Not there: never, or it is not enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_at: Option<u64>,
    /// The last time that was dealt with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_at: Option<u64>,
    /// Why no job was made then, where none was: `code` (`overlap`, `bad_flow`, `wrong_input` or `missed`) and `message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub skipped: Option<Value>,
    /// The last job that was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_job: Option<String>,
    /// Its state, while the host knows of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_state: Option<String>,
}

impl Schedule {
    /// As the ledger has it, with the state of its last job.
    pub(crate) fn of(record: ScheduleRecord, state: Option<JobState>) -> Result<Self, ApiError> {
        let what = Scheduled::try_from(&record)?;
        let (file, flow) = match what.flow {
            ScheduledFlow::File(file) => (Some(file), None),
            ScheduledFlow::Flow(text) => (None, Some(text)),
        };
        let row = record.row;
        Ok(Self {
            name: row.name,
            cron: row.cron,
            zone: row.zone,
            file,
            flow,
            inputs: what.inputs,
            cwd: what.cwd,
            group: what.group,
            policy: Policy::from(&what.policy),
            overlap: row.overlap,
            enabled: row.enabled,
            created: record.created,
            next_at: row.next_at,
            last_at: record.last_at,
            skipped: record.skipped,
            last_job: record.last_job.map(String::from),
            last_state: state.map(|state| state.to_string()),
        })
    }
}
