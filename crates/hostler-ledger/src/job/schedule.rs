//! Schedules: what is to be run when, and what came of the last time.

use std::fmt;
use std::str::FromStr;

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::read::{JOB, read_job, some_json};
use super::{JobSummary, StateError, unknown};
use crate::apply::{About, Pen, Result, stored};
use crate::change::{By, Change};
use crate::error::{ReadError, Refusal};
use crate::id::JobId;
use crate::ledger::Ledger;
use crate::read::json as read_json;
use crate::record::Event;

/// What is done at a time when the job of the time before has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlap {
    /// No job is made.
    #[default]
    Skip,
    /// One is made beside it.
    Allow,
    /// That one is cancelled first.
    Cancel,
}

impl Overlap {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Allow => "allow",
            Self::Cancel => "cancel",
        }
    }
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Overlap {
    type Err = StateError;

    fn from_str(text: &str) -> std::result::Result<Self, StateError> {
        Ok(match text {
            "skip" => Self::Skip,
            "allow" => Self::Allow,
            "cancel" => Self::Cancel,
            _ => return Err(unknown(text, "schedule's overlap")),
        })
    }
}

impl FromSql for Overlap {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        value.as_str()?.parse().map_err(FromSqlError::other)
    }
}

impl ToSql for Overlap {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(self.as_str().into())
    }
}

/// A schedule as it is set.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    /// Its name, of which there is one.
    pub name: String,
    /// When it is due, as cron writes it.
    pub cron: String,
    /// In which time zone; `None` for that of the machine.
    pub zone: Option<String>,
    /// What is to be run.
    pub what: Value,
    /// What is done when the job of the time before has not ended.
    pub overlap: Overlap,
    /// Whether it is due at all.
    pub enabled: bool,
    /// When it is due next: Unix time in milliseconds. `None` for never.
    pub next_at: Option<u64>,
}

/// A schedule as the ledger has it.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRecord {
    /// What was set, with when it is due next.
    pub row: ScheduleRow,
    /// The last time that was dealt with, whether a job was made or not: Unix time in milliseconds.
    pub last_at: Option<u64>,
    /// The last job that was made; it may be gone from the ledger.
    pub last_job: Option<JobId>,
    /// Why none was made the last time, where none was.
    pub skipped: Option<Value>,
    /// When it was first set: Unix time in milliseconds.
    pub created: u64,
    /// When it was last set: Unix time in milliseconds.
    pub modified: u64,
}

/// The schedule that makes a job, and for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledFor {
    /// Its name.
    pub schedule: String,
    /// The time that the job stands for: Unix time in milliseconds. `None` where somebody wanted it at once.
    pub due: Option<u64>,
    /// Whether that time had gone by, and is made up for.
    pub late: bool,
    /// What whoever asked for it called that: of one schedule, one such job is made.
    pub request: Option<String>,
}

/// What came of a time at which a schedule was due.
#[derive(Debug, Clone, PartialEq)]
pub enum ScheduleCame {
    /// This job.
    Job(JobId),
    /// No job; `message` says why in words.
    Skipped(Value),
}

/// A time at which a schedule was due, and which is dealt with by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleDue {
    /// When it was due, as the ledger had it: Unix time in milliseconds. It has to be so still, which is why nothing is made twice.
    pub was: u64,
    /// When it is due next. `None` for never.
    pub next: Option<u64>,
}

const SCHEDULE: &str = "SELECT name, cron, zone, what, overlap, enabled, next_at, last_at, last_job, skipped, created, coalesce(modified, created) FROM schedules";
/// Those of the schedule that there is now, and of none before it that had the same name.
const OF: &str =
    "schedule = ?1 AND number > coalesce((SELECT jobs_after FROM schedules WHERE name = ?1), 0)";

impl Ledger {
    /// All schedules, by their names.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn schedules(&self) -> std::result::Result<Vec<ScheduleRecord>, ReadError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("{SCHEDULE} ORDER BY name"))?
                .query_map([], read)?
                .collect()
        })
    }

    /// One schedule; `None` when there is none.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn schedule(&self, name: &str) -> std::result::Result<Option<ScheduleRecord>, ReadError> {
        self.read(|connection| one(connection, name))
    }

    /// The jobs that a schedule has made since it was first set, the newest first: those with a lower number than `before`, `limit`
    /// at the most.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn scheduled_jobs(
        &self,
        schedule: &str,
        before: Option<u64>,
        limit: usize,
    ) -> std::result::Result<Vec<JobSummary>, ReadError> {
        let before = before.map_or(i64::MAX, stored);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "{JOB} WHERE {OF} AND number < ?2 ORDER BY number DESC LIMIT ?3"
                ))?
                .query_map(params![schedule, before, limit], read_job)?
                .collect()
        })
    }

    /// The job of a schedule that was made for what somebody called this.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn requested_job(
        &self,
        schedule: &str,
        request: &str,
    ) -> std::result::Result<Option<JobId>, ReadError> {
        self.read(|connection| requested(connection, schedule, request))
    }
}

fn requested(
    connection: &Connection,
    schedule: &str,
    request: &str,
) -> rusqlite::Result<Option<JobId>> {
    connection
        .prepare_cached(&format!("SELECT id FROM jobs WHERE {OF} AND request = ?2"))?
        .query_row([schedule, request], |row| row.get(0))
        .optional()
}

fn one(connection: &Connection, name: &str) -> rusqlite::Result<Option<ScheduleRecord>> {
    connection
        .prepare_cached(&format!("{SCHEDULE} WHERE name = ?1"))?
        .query_row([name], read)
        .optional()
}

fn read(row: &Row<'_>) -> rusqlite::Result<ScheduleRecord> {
    Ok(ScheduleRecord {
        row: ScheduleRow {
            name: row.get(0)?,
            cron: row.get(1)?,
            zone: row.get(2)?,
            what: read_json(row, 3)?,
            overlap: row.get(4)?,
            enabled: row.get(5)?,
            next_at: row.get(6)?,
        },
        last_at: row.get(7)?,
        last_job: row.get(8)?,
        skipped: some_json(row, 9)?,
        created: row.get(10)?,
        modified: row.get(11)?,
    })
}

impl Pen<'_> {
    /// Makes a change of a schedule, and answers its event; `None` when it is no such change.
    pub(super) fn apply_to_schedule(&self, change: &Change) -> Result<Option<Event>> {
        Ok(Some(match change {
            Change::ScheduleSet { schedule, by } => self.schedule_set(schedule, by)?,
            Change::ScheduleArmed {
                name,
                was,
                next,
                by,
            } => self.schedule_armed(name, *was, *next, by)?,
            Change::ScheduleRan {
                name,
                at,
                due,
                came,
                by,
            } => self.schedule_ran(name, *at, *due, came, by)?,
            Change::ScheduleRemoved { name, by } => self.schedule_removed(name, by)?,
            _ => return Ok(None),
        }))
    }

    fn schedule_set(&self, schedule: &ScheduleRow, by: &By) -> Result<Event> {
        let ScheduleRow {
            name,
            cron,
            zone,
            what,
            overlap,
            enabled,
            next_at,
        } = schedule;
        self.connection
            .prepare_cached(
                "INSERT INTO schedules (name, cron, zone, what, overlap, enabled, next_at, created, modified, jobs_after)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, coalesce((SELECT max(number) FROM jobs), 0))
                 ON CONFLICT (name) DO UPDATE SET cron = excluded.cron, zone = excluded.zone, what = excluded.what,
                    overlap = excluded.overlap, enabled = excluded.enabled, next_at = excluded.next_at, modified = excluded.modified",
            )?
            .execute(params![
                name,
                cron,
                zone,
                what.to_string(),
                overlap,
                enabled,
                next_at.map(stored),
                stored(self.now)
            ])?;
        let detail = json!({
            "name": name, "cron": cron, "zone": zone, "overlap": overlap, "enabled": enabled, "next_at": next_at,
        });
        self.log(About::default(), "schedule.set", by, detail)
    }

    fn schedule_armed(&self, name: &str, was: u64, next: Option<u64>, by: &By) -> Result<Event> {
        self.due(name, was)?;
        self.connection
            .prepare_cached("UPDATE schedules SET next_at = ?2 WHERE name = ?1")?
            .execute(params![name, next.map(stored)])?;
        let detail = json!({ "name": name, "was": was, "next_at": next });
        self.log(About::default(), "schedule.armed", by, detail)
    }

    fn schedule_ran(
        &self,
        name: &str,
        at: u64,
        due: Option<ScheduleDue>,
        came: &ScheduleCame,
        by: &By,
    ) -> Result<Event> {
        match due {
            Some(due) => {
                self.due(name, due.was)?;
                self.connection
                    .prepare_cached("UPDATE schedules SET next_at = ?2 WHERE name = ?1")?
                    .execute(params![name, due.next.map(stored)])?;
            }
            None => {
                self.exists(name)?;
            }
        }
        let (job, why) = match came {
            ScheduleCame::Job(job) => (Some(job), None),
            ScheduleCame::Skipped(why) => (None, Some(why)),
        };
        self.connection
            .prepare_cached(
                "UPDATE schedules SET last_at = ?2, last_job = coalesce(?3, last_job), skipped = ?4 WHERE name = ?1",
            )?
            .execute(params![name, stored(at), job, why.map(Value::to_string)])?;
        let mut detail = json!({ "name": name, "at": at });
        if let Some(due) = due {
            detail["next_at"] = json!(due.next);
            // More than one time may have gone by.
            if due.was != at {
                detail["since"] = json!(due.was);
            }
        }
        match came {
            ScheduleCame::Job(job) => self.log(About::job(job, None), "schedule.ran", by, detail),
            ScheduleCame::Skipped(why) => {
                detail["why"] = why.clone();
                self.log(About::default(), "schedule.skipped", by, detail)
            }
        }
    }

    fn schedule_removed(&self, name: &str, by: &By) -> Result<Event> {
        self.exists(name)?;
        self.connection
            .prepare_cached("DELETE FROM schedules WHERE name = ?1")?
            .execute([name])?;
        let detail = json!({ "name": name });
        self.log(About::default(), "schedule.removed", by, detail)
    }

    /// That no job was made for what is asked for now.
    pub(super) fn not_requested(&self, scheduled: &ScheduledFor) -> Result<()> {
        let Some(request) = &scheduled.request else {
            return Ok(());
        };
        match requested(self.connection, &scheduled.schedule, request)? {
            Some(job) => Err(Refusal::AlreadyRequested(job).into()),
            None => Ok(()),
        }
    }

    fn exists(&self, name: &str) -> Result<Option<u64>> {
        let next: Option<Option<u64>> = self
            .connection
            .prepare_cached("SELECT next_at FROM schedules WHERE name = ?1")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        next.ok_or_else(|| Refusal::NoSchedule(name.to_owned()).into())
    }

    fn due(&self, name: &str, was: u64) -> Result<()> {
        match self.exists(name)? {
            Some(next) if next == was => Ok(()),
            _ => Err(Refusal::ScheduleMoved(name.to_owned()).into()),
        }
    }
}
