//! The task that sleeps until something is due.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_ledger::{
    By, Change, Overlap, ScheduleCame, ScheduleDue, ScheduleRecord, ScheduledFor, WriteError,
};
use jiff::Timestamp;
use serde_json::Value;

use super::now::{What, still_runs};
use super::{Schedules, When};
use crate::engine::error::{Error, Result};
use crate::engine::jobs::why;
use crate::engine::make::Making;

/// The longest sleep: a clock that was set, or a machine that was suspended, is noticed after it.
pub(super) const LONGEST: Duration = Duration::from_secs(60);
/// The longest time that is made up for.
const MOST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Between two tries to write what the disk did not take.
const AGAIN: Duration = Duration::from_secs(5);

/// The schedules that are being dealt with, by their names.
#[derive(Debug, Clone, Default)]
struct Busy(Arc<Mutex<HashSet<String>>>);

impl Busy {
    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its name away again, however its task ends.
struct Done {
    busy: Busy,
    name: String,
    schedules: Schedules,
}

impl Drop for Done {
    fn drop(&mut self) {
        self.busy.names().remove(&self.name);
        self.schedules.look();
    }
}

/// Looks at what is due, and sleeps until the next time, until the host stops.
pub(super) async fn run(schedules: Schedules) {
    let busy = Busy::default();
    let over = schedules.state().over.clone();
    loop {
        let sleep = look(&schedules, &busy).await;
        let sleep = async {
            match sleep {
                Some(sleep) => tokio::time::sleep(sleep).await,
                // Until one is set.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = over.cancelled() => return,
            () = schedules.state().changed.notified() => {}
            () = sleep => {}
        }
    }
}

/// Begins what is due; how long until the next.
async fn look(schedules: &Schedules, busy: &Busy) -> Option<Duration> {
    let listing = schedules.clone();
    let list = tokio::task::spawn_blocking(move || listing.list()).await;
    let list = match list {
        Ok(Ok(list)) => list,
        Ok(Err(error)) => {
            tracing::error!(%error, "cannot say what is due");
            return Some(LONGEST);
        }
        Err(_) => return Some(LONGEST),
    };
    let mut next: Option<Duration> = None;
    for record in list {
        let name = record.row.name.clone();
        let Some(mut at) = record.row.next_at.filter(|_| record.row.enabled) else {
            continue;
        };
        if busy.names().contains(&name) {
            continue;
        }
        let now = schedules.now();
        if at <= now {
            busy.names().insert(name.clone());
            let done = Done {
                busy: busy.clone(),
                name,
                schedules: schedules.clone(),
            };
            schedules.state().tasks.spawn(async move {
                deal_with(&done.schedules, &done.name).await;
            });
            continue;
        }
        match arm(schedules, &record, now).await {
            Ok(Some(armed)) => at = armed,
            // Never again.
            Ok(None) => continue,
            Err(error) => tracing::error!(schedule = name, %error, "cannot say when it is due"),
        }
        let sleep = Duration::from_millis(at.saturating_sub(now)).min(LONGEST);
        next = Some(next.map_or(sleep, |next| next.min(sleep)));
    }
    next
}

/// When it is due by the clock and the time zone as they are now, which is written where it is another time than was thought.
async fn arm(schedules: &Schedules, record: &ScheduleRecord, now: u64) -> Result<Option<u64>> {
    let row = &record.row;
    let next = When::read(&row.cron, row.zone.as_deref())?.next_now(now, record.last_at);
    let Some(was) = row.next_at.filter(|was| Some(*was) != next) else {
        return Ok(next);
    };
    let change = Change::ScheduleArmed {
        name: row.name.clone(),
        was,
        next,
        by: By::new("host", "the clock or the time zone was set"),
    };
    match schedules.jobs.ledger().write(vec![change]).await {
        // Another one has been quicker, and has said so.
        Ok(_) | Err(WriteError::Refused(_)) => Ok(next),
        Err(error) => Err(error.into()),
    }
}

/// Deals with a time at which one is due, until that is written.
async fn deal_with(schedules: &Schedules, name: &str) {
    let over = &schedules.state().over;
    loop {
        match try_once(schedules, name).await {
            Ok(Tried::Done) => return,
            Ok(Tried::Again) => continue,
            // The next host does it.
            Err(Error::Stopping) => return,
            // It was set or removed meanwhile.
            Err(Error::NoSchedule(_) | Error::Ledger(WriteError::Refused(_))) => return,
            Err(error) => {
                tracing::error!(schedule = name, %error, "its job cannot be made now; it is tried again");
                tokio::select! {
                    biased;
                    () = over.cancelled() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }
}

enum Tried {
    Done,
    /// Something has changed meanwhile.
    Again,
}

/// What is due of a schedule.
struct Due {
    /// The time that it stands for; `None` where that is too long ago.
    at: Option<u64>,
    /// Whether that has gone by, and is made up for.
    late: bool,
    due: ScheduleDue,
}

fn due(schedules: &Schedules, record: &ScheduleRecord) -> Result<Option<Due>> {
    let now = schedules.now();
    let row = &record.row;
    let Some(was) = row.next_at.filter(|at| row.enabled && *at <= now) else {
        return Ok(None);
    };
    let when = When::read(&row.cron, row.zone.as_deref())?;
    let catch_up = match super::makes_up(record) {
        true => schedules.state().options.catch_up.clamp(LONGEST, MOST),
        false => LONGEST,
    };
    let from = now.saturating_sub(catch_up.as_millis() as u64);
    // Of several that have gone by, one is made up for: the last.
    let last = when.last_between(was.max(from), now);
    let at = last.or((was >= from).then_some(was));
    let next = when.next_now(now, Some(at.unwrap_or(was)));
    let due = ScheduleDue { was, next };
    let late = at.is_some_and(|at| at.saturating_add(LONGEST.as_millis() as u64) < now);
    Ok(Some(Due { at, late, due }))
}

async fn try_once(schedules: &Schedules, name: &str) -> Result<Tried> {
    schedules.goes_on()?;
    let record = schedules.get(name)?;
    let Some(found) = due(schedules, &record)? else {
        return Ok(Tried::Done);
    };
    let what = What::read(&record).await?;
    if let (Some(_), Ok(_), Overlap::Cancel) = (found.at, &what.checked, record.row.overlap)
        && let Some(job) = schedules.running(&record)?
    {
        tokio::select! {
            biased;
            () = schedules.state().over.cancelled() => return Err(Error::Stopping),
            cancelled = schedules.cancel(&job, name) => cancelled?,
        }
    }
    let _turn = schedules.state().turn.lock().await;
    let now = schedules.get(name)?;
    if now.row != record.row {
        return Ok(Tried::Again);
    }
    let Some(Due { at, late, due }) = due(schedules, &now)? else {
        return Ok(Tried::Done);
    };
    let Some(at) = at else {
        let message = "it was due while the host was not there, and that is too long ago";
        return skip(schedules, name, (due.was, due), why("missed", message)).await;
    };
    let (loaded, kept) = match what.checked {
        Ok(checked) => checked,
        Err(error) => {
            let skipped = why(code(&error), &one_line(&error.to_string()));
            return skip(schedules, name, (at, due), skipped).await;
        }
    };
    match (now.row.overlap, schedules.running(&now)?) {
        (Overlap::Allow, _) | (_, None) => {}
        (Overlap::Cancel, Some(_)) => return Ok(Tried::Again),
        (Overlap::Skip, Some(job)) => {
            let skipped = why("overlap", &still_runs(&job));
            return skip(schedules, name, (at, due), skipped).await;
        }
    }
    let by = by(name, at);
    let scheduled = ScheduledFor {
        schedule: name.to_owned(),
        due: Some(at),
        late,
        request: None,
    };
    let mut making = Making::of_schedule(loaded, kept, what.group, scheduled);
    making.more.push(ran(
        name,
        at,
        due,
        ScheduleCame::Job(making.id.clone()),
        &by,
    ));
    let job = schedules.jobs.make(making, by).await?;
    tracing::info!(schedule = name, job = %job.id(), "made");
    Ok(Tried::Done)
}

/// Deals with a time without a job.
async fn skip(
    schedules: &Schedules,
    name: &str,
    (at, due): (u64, ScheduleDue),
    why: Value,
) -> Result<Tried> {
    tracing::warn!(
        schedule = name,
        why = why["message"].as_str(),
        "no job is made"
    );
    let change = ran(name, at, due, ScheduleCame::Skipped(why), &by(name, at));
    schedules.jobs.ledger().write(vec![change]).await?;
    Ok(Tried::Done)
}

fn ran(name: &str, at: u64, due: ScheduleDue, came: ScheduleCame, by: &By) -> Change {
    Change::ScheduleRan {
        name: name.to_owned(),
        at,
        due: Some(due),
        came,
        by: by.clone(),
    }
}

fn by(name: &str, at: u64) -> By {
    let time = Timestamp::from_millisecond(i64::try_from(at).unwrap_or(i64::MAX));
    let time = time.map_or_else(|_| at.to_string(), |time| time.to_string());
    By::new(format!("schedule {name}"), format!("it is due at {time}"))
}

/// What kind of a reason it is, for programs.
fn code(error: &Error) -> &'static str {
    match error {
        Error::Inputs(_) => "wrong_input",
        _ => "bad_flow",
    }
}

fn one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" ")
}
