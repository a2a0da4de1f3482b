//! Jobs by the clock.
//!
//! What is due when is in the ledger, not in a timer: a schedule has the next time at which it is due, and a job is made for that
//! time in the same write that moves it on, which is refused unless it is still due then. So whoever is killed, and whenever, a
//! time has one job or none. [`timer`] sleeps until the next of these times and looks at what is due.

mod now;
mod timer;
mod when;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hostler_ledger::{
    By, Change, JobState, Overlap, Refusal, ScheduleRecord, ScheduleRow, WriteError,
};
use hostler_session::Policy;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::{Error, Result};
use super::jobs::Jobs;
use super::new::{FlowSource, NewJob};
use when::When;
pub use when::{Clock, machine_zone};

/// How long after its time a job is still made, where nothing else is said.
const CATCH_UP: Duration = Duration::from_secs(3600);
/// The longest name.
const LONGEST: usize = 64;

/// What holds for all schedules of a host.
#[derive(Debug, Clone)]
pub struct ScheduleOptions {
    /// A time that has gone by while the host was not there, or was suspended, is made up for if it was not longer ago. What
    /// is due within a minute is always on time; at most a week is made up for.
    pub catch_up: Duration,
    /// Where the time comes from.
    pub clock: Clock,
}

impl Default for ScheduleOptions {
    fn default() -> Self {
        Self {
            catch_up: CATCH_UP,
            clock: Clock::default(),
        }
    }
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduledFlow {
    /// The flow in this file, absolute, as it is when it is due.
    File(PathBuf),
    /// The flow that is this text.
    Flow(String),
}

/// What a schedule runs: as a [`NewJob`], but as it is kept until it is due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Its flow.
    #[serde(flatten)]
    pub flow: ScheduledFlow,
    /// What it is given.
    pub inputs: BTreeMap<String, Value>,
    /// Where its steps work, unless the flow says otherwise; absolute.
    pub cwd: PathBuf,
    /// The group of its jobs.
    pub group: Option<String>,
    /// The policy of its sessions.
    pub policy: Policy,
    /// Whether a time that has gone by is made up for, as [`ScheduleOptions::catch_up`] says. Else it is skipped.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub make_up: bool,
    /// What whoever has set it wants to be kept with it. It means nothing here.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub about: Value,
}

fn yes() -> bool {
    true
}

/// Whether times of a schedule that have gone by are made up for.
fn makes_up(record: &ScheduleRecord) -> bool {
    Scheduled::try_from(record).map_or(true, |what| what.make_up)
}

impl Scheduled {
    fn new_job(&self) -> NewJob {
        NewJob {
            flow: match &self.flow {
                ScheduledFlow::File(file) => FlowSource::File(file.clone()),
                ScheduledFlow::Flow(text) => FlowSource::Text(text.clone()),
            },
            inputs: self.inputs.clone(),
            cwd: self.cwd.clone(),
            group: self.group.clone(),
            policy: self.policy.clone(),
        }
    }
}

/// A schedule to be set.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name: 1 to 64 letters, digits, `-`, `_` and `.`; the first is a letter or a digit.
    pub name: String,
    /// When it is due: five fields, as crontab(5) has them, or a name such as `@hourly`; `@never` for what is run by hand only.
    pub cron: String,
    /// In which time zone, such as `Europe/Berlin`; `None` for that of the machine.
    pub zone: Option<String>,
    /// What it runs.
    pub what: Scheduled,
    /// What is done when the job of the time before has not ended.
    pub overlap: Overlap,
    /// Whether it is due at all.
    pub enabled: bool,
}

/// What changes of a schedule. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ScheduleChange {
    /// When it is due.
    pub cron: Option<String>,
    /// In which time zone.
    pub zone: Option<Option<String>>,
    /// What is done when the job of the time before has not ended.
    pub overlap: Option<Overlap>,
    /// Whether it is due at all.
    pub enabled: Option<bool>,
    /// What it runs.
    pub what: Option<Scheduled>,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct State {
    options: ScheduleOptions,
    /// Something has changed, and what is due next may be another.
    changed: Notify,
    /// Held from reading a schedule to writing what follows from that.
    turn: tokio::sync::Mutex<()>,
    /// Set when nothing is to be made any more.
    over: CancellationToken,
    /// The timer, and what it has begun.
    tasks: TaskTracker,
    begun: AtomicBool,
}

impl State {
    pub(crate) fn new(options: ScheduleOptions) -> Self {
        Self {
            options,
            changed: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
            begun: AtomicBool::new(false),
        }
    }

    /// Nothing is made any more from here on; what is being made is there when this returns.
    pub(crate) async fn end(&self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// The schedules of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Schedules {
    jobs: Jobs,
}

impl Jobs {
    /// Jobs by the clock.
    pub fn schedules(&self) -> Schedules {
        Schedules { jobs: self.clone() }
    }
}

impl Schedules {
    fn state(&self) -> &State {
        &self.jobs.inner.schedules
    }

    fn now(&self) -> u64 {
        self.state().options.clock.now()
    }

    /// Makes jobs when they are due, from here on until [`Jobs::stop`] or [`Jobs::hand_over`]. To be called after
    /// [`Jobs::recover`]; again, it does nothing. Must be called in a runtime.
    pub fn begin(&self) {
        if !self.state().begun.swap(true, Ordering::SeqCst) {
            let timer = timer::run(self.clone());
            self.state().tasks.spawn(timer);
        }
    }

    /// Looks at the clock now: it was set. Else that is noticed within a minute.
    pub fn look(&self) {
        self.state().changed.notify_one();
    }

    /// All, by their names. Blocks.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn list(&self) -> Result<Vec<ScheduleRecord>> {
        Ok(self.jobs.ledger().schedules()?)
    }

    /// One. Blocks.
    ///
    /// # Errors
    /// [`Error::NoSchedule`], [`Error::Read`].
    pub fn get(&self, name: &str) -> Result<ScheduleRecord> {
        let none = || Error::NoSchedule(name.to_owned());
        self.jobs.ledger().schedule(name)?.ok_or_else(none)
    }

    /// Sets a schedule; one of this name is replaced. Its flow and inputs have to be right now, too.
    ///
    /// Cancel safe: it is set or not.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name, a time or a zone that is none, and a time that never comes; what is wrong with the flow as from
    /// [`Jobs::create`]; [`Error::Ledger`].
    pub async fn set(&self, new: NewSchedule, by: By) -> Result<ScheduleRecord> {
        let row = checked(new).await?;
        self.put(move |_| Ok(row), by).await
    }

    /// Sets a schedule of a new name.
    ///
    /// Cancel safe: it is set or not.
    ///
    /// # Errors
    /// [`Error::Conflict`] where there is one of this name, and as [`Schedules::set`].
    pub async fn create(&self, new: NewSchedule, by: By) -> Result<ScheduleRecord> {
        let row = checked(new).await?;
        let is_new = move |schedules: &Self| match schedules.get(&row.name) {
            Err(Error::NoSchedule(_)) => Ok(row),
            Ok(there) => {
                let name = there.row.name;
                Err(Error::Conflict(format!(
                    "there is a schedule `{name}` already"
                )))
            }
            Err(error) => Err(error),
        };
        self.put(is_new, by).await
    }

    /// Changes a schedule that there is.
    ///
    /// Cancel safe: it is changed or not.
    ///
    /// # Errors
    /// [`Error::NoSchedule`], and as [`Schedules::set`].
    pub async fn change(
        &self,
        name: &str,
        change: ScheduleChange,
        by: By,
    ) -> Result<ScheduleRecord> {
        let wanted = name.to_owned();
        self.get(name)?;
        let what = match change.what {
            Some(what) => Some(runnable(&what).await?),
            None => None,
        };
        self.put(
            move |schedules| {
                let mut row = schedules.get(&wanted)?.row;
                row.cron = change.cron.unwrap_or(row.cron);
                row.zone = change.zone.unwrap_or(row.zone);
                row.what = what.unwrap_or(row.what);
                row.overlap = change.overlap.unwrap_or(row.overlap);
                row.enabled = change.enabled.unwrap_or(row.enabled);
                Ok(row)
            },
            by,
        )
        .await
    }

    async fn put(
        &self,
        row: impl FnOnce(&Self) -> Result<ScheduleRow> + Send + 'static,
        by: By,
    ) -> Result<ScheduleRecord> {
        let this = self.clone();
        // Whoever asked may be gone: it is set all the same, and in its turn.
        let task = tokio::spawn(async move {
            let _turn = this.state().turn.lock().await;
            let mut row = row(&this)?;
            let when = When::read(&row.cron, row.zone.as_deref())?;
            let old = this.jobs.ledger().schedule(&row.name)?;
            let next = when.next_now(this.now(), old.as_ref().and_then(|old| old.last_at));
            if next.is_none() && !when.is_never() {
                let message = format!("cron: `{}` is never due", row.cron);
                return Err(Error::Invalid(message));
            }
            row.next_at = match old {
                // It may be due now, and be dealt with in a moment.
                Some(old)
                    if old.row.enabled
                        && row.enabled
                        && (&old.row.cron, &old.row.zone) == (&row.cron, &row.zone) =>
                {
                    old.row.next_at.or(next)
                }
                _ if row.enabled => next,
                _ => None,
            };
            let name = row.name.clone();
            let schedule = Box::new(row);
            let change = Change::ScheduleSet { schedule, by };
            this.jobs.ledger().write(vec![change]).await?;
            this.look();
            this.get(&name)
        });
        task.await
            .map_err(|error| Error::Invalid(format!("a task of the host failed: {error}")))?
    }

    /// Forgets a schedule; its jobs stay.
    ///
    /// # Errors
    /// [`Error::NoSchedule`], [`Error::Ledger`].
    pub async fn remove(&self, name: &str, by: By) -> Result<()> {
        let name = name.to_owned();
        let change = Change::ScheduleRemoved { name, by };
        self.jobs.ledger().write(vec![change]).await.map_err(gone)?;
        self.look();
        Ok(())
    }

    /// Whether times of this schedule that went by while no host was there are made up for.
    pub fn makes_up(&self, record: &ScheduleRecord) -> bool {
        self.state().options.catch_up > timer::LONGEST && makes_up(record)
    }

    /// The state of its last job; `None` when it had none, or that was deleted or pruned. Blocks.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn last_state(&self, record: &ScheduleRecord) -> Result<Option<JobState>> {
        let Some(id) = &record.last_job else {
            return Ok(None);
        };
        Ok(self.jobs.ledger().job_summary(id)?.map(|job| job.state))
    }

    /// Whether anything is made any more.
    fn goes_on(&self) -> Result<()> {
        match self.state().over.is_cancelled() {
            true => Err(Error::Stopping),
            false => Ok(()),
        }
    }
}

/// What is to be written of a schedule whose name, flow and inputs are right.
async fn checked(new: NewSchedule) -> Result<ScheduleRow> {
    let good = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    let begins = new.name.chars().next();
    if new.name.len() > LONGEST
        || !begins.is_some_and(|first| first.is_ascii_alphanumeric())
        || !new.name.chars().all(good)
    {
        let message = format!(
            "a schedule has a name of 1 to {LONGEST} letters, digits, `-`, `_` and `.`, the first a letter or a digit"
        );
        return Err(Error::Invalid(message));
    }
    Ok(ScheduleRow {
        what: runnable(&new.what).await?,
        name: new.name,
        cron: new.cron,
        zone: new.zone,
        overlap: new.overlap,
        enabled: new.enabled,
        next_at: None,
    })
}

/// What a schedule runs, as it is written, if it can be run now.
async fn runnable(what: &Scheduled) -> Result<Value> {
    let job = what.new_job();
    let checked = tokio::task::spawn_blocking(move || job.check()).await;
    checked.map_err(|error| Error::Invalid(error.to_string()))??;
    serde_json::to_value(what).map_err(|error| Error::Invalid(error.to_string()))
}

impl TryFrom<&ScheduleRecord> for Scheduled {
    type Error = Error;

    fn try_from(record: &ScheduleRecord) -> Result<Self> {
        serde_json::from_value(record.row.what.clone()).map_err(|_| {
            let name = &record.row.name;
            Error::Invalid(format!("the record of schedule {name} cannot be read"))
        })
    }
}

/// Of a schedule that was removed meanwhile.
fn gone(error: WriteError) -> Error {
    match error {
        WriteError::Refused(Refusal::NoSchedule(name)) => Error::NoSchedule(name),
        error => Error::Ledger(error),
    }
}
