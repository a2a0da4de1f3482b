//! Changes of jobs.

use rusqlite::{OptionalExtension, params};
use serde_json::{Value, json};

use super::{JobEnd, JobOrigin, JobRow, JobStanding, StepRunRow, StepRunState, StepRunUpdate};
use crate::apply::{About, Pen, Result, host, stored};
use crate::change::{By, Change};
use crate::error::Refusal;
use crate::id::{JobId, SessionId};
use crate::record::Event;

/// A job as it is found before a change.
struct Found {
    number: i64,
    session: Option<SessionId>,
    ended: bool,
}

impl Pen<'_> {
    /// Makes a change of a job, and answers whether it was one.
    pub(crate) fn apply_to_job(&self, change: &Change, events: &mut Vec<Event>) -> Result<bool> {
        match change {
            Change::JobCreated { job, by } => events.push(self.job_created(job, by)?),
            Change::JobStanding {
                id,
                standing,
                why,
                by,
            } => events.push(self.job_standing(id, *standing, why, by)?),
            Change::JobDetail { id, detail } => {
                let job = self.open_job(id)?;
                self.connection
                    .prepare_cached("UPDATE job_details SET detail = ?2 WHERE job = ?1")?
                    .execute(params![job.number, detail.to_string()])?;
            }
            Change::JobSession { id, session } => {
                let job = self.open_job(id)?;
                self.connection
                    .prepare_cached("UPDATE jobs SET session = ?2 WHERE number = ?1")?
                    .execute(params![job.number, session])?;
                let about = About::job(id, Some(session));
                events.push(self.log(about, "job.session", &host(), Value::Null)?);
            }
            Change::StepBegan { job, run } => events.push(self.step_began(job, run)?),
            Change::StepChanged { job, run, update } => {
                events.extend(self.step_changed(job, *run, update)?);
            }
            Change::LeaseTaken { job, session, key } => {
                events.push(self.lease_taken(job, session, key)?);
            }
            Change::LeaseReleased { job, session } => {
                events.push(self.lease_released(job, session)?);
            }
            Change::JobEnded {
                id,
                end,
                why,
                outputs,
                by,
            } => self.job_ended(id, *end, why, outputs.as_ref(), by, events)?,
            Change::JobDeleted { id, by } => events.push(self.job_deleted(id, by)?),
            change => match self.apply_to_schedule(change)? {
                Some(event) => events.push(event),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    fn job_created(&self, job: &JobRow, by: &By) -> Result<Event> {
        let JobRow {
            id,
            name,
            group,
            parent,
            origin,
            detail,
            created,
        } = job;
        if self.find_job(id)?.is_some() {
            return Err(Refusal::JobExists(id.clone()).into());
        }
        if let Some(parent) = parent {
            self.open_job(parent)?;
        }
        let (run, retry_of, scheduled) = match origin {
            JobOrigin::Asked => (None, None, None),
            JobOrigin::Run(run) => (Some(*run), None, None),
            JobOrigin::Retry(job) => (None, Some(job), None),
            JobOrigin::Schedule(scheduled) => (None, None, Some(scheduled)),
        };
        if let Some(scheduled) = scheduled {
            self.not_requested(scheduled)?;
        }
        let number = self
            .connection
            .prepare_cached(
                "INSERT INTO jobs (id, name, \"group\", parent, state, why, created, run, retry_of, schedule, due, late, request)
                 VALUES (?1, ?2, ?3, ?4, ?5, 'null', ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .insert(params![
                id,
                name,
                group,
                parent,
                JobStanding::Pending.as_str(),
                stored(*created),
                run,
                retry_of,
                scheduled.map(|of| &of.schedule),
                scheduled.and_then(|of| of.due).map(stored),
                scheduled.is_some_and(|of| of.late),
                scheduled.and_then(|of| of.request.as_ref()),
            ])?;
        self.connection
            .prepare_cached("INSERT INTO job_details (job, detail) VALUES (?1, ?2)")?
            .execute(params![number, detail.to_string()])?;
        let detail = json!({ "name": name, "group": group, "parent": parent });
        self.log(About::job(id, None), "job.created", by, detail)
    }

    fn job_standing(
        &self,
        id: &JobId,
        standing: JobStanding,
        why: &Value,
        by: &By,
    ) -> Result<Event> {
        let job = self.open_job(id)?;
        let began = (standing == JobStanding::Running).then(|| stored(self.now));
        self.connection
            .prepare_cached(
                "UPDATE jobs SET state = ?2, why = ?3, began = coalesce(began, ?4) WHERE number = ?1",
            )?
            .execute(params![
                job.number,
                standing.as_str(),
                why.to_string(),
                began
            ])?;
        let detail = json!({ "state": standing, "why": why });
        self.log(
            About::job(id, job.session.as_ref()),
            "job.state",
            by,
            detail,
        )
    }

    fn step_began(&self, id: &JobId, run: &StepRunRow) -> Result<Event> {
        let job = self.open_job(id)?;
        let StepRunRow {
            number,
            step,
            item,
            attempt,
            try_,
            state,
            detail,
            outputs,
            error,
            follows,
            began,
            ended,
        } = run;
        if self.run_state(job.number, *number)?.is_some() {
            return Err(Refusal::StepRunExists {
                job: id.clone(),
                run: *number,
            }
            .into());
        }
        let begins = [StepRunState::Running, StepRunState::Suspended];
        let runs = begins.contains(state).then_some(self.now);
        // What has not ended has no such time, whatever was said.
        let ended = state.is_ended().then(|| ended.unwrap_or(self.now));
        self.connection
            .prepare_cached(
                "INSERT INTO step_runs (job, number, step, item, attempt, try, state, detail, outputs, error, follows, began, ended)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
            )?
            .execute(params![
                job.number,
                number,
                step,
                item,
                attempt,
                try_,
                state,
                detail.to_string(),
                text(outputs),
                text(error),
                text(follows),
                began.or(runs).map(stored),
                ended.map(stored),
            ])?;
        let about = About::job(id, job.session.as_ref());
        let why = detail
            .get("why")
            .filter(|_| *state == StepRunState::Skipped);
        let more = [
            ("error", error.as_ref()),
            ("follows", follows.as_ref()),
            ("why", why),
        ];
        self.log_step(
            about,
            *state,
            (*number, step, *item, *attempt, *try_),
            &more,
        )
    }

    fn step_changed(&self, id: &JobId, run: u32, update: &StepRunUpdate) -> Result<Option<Event>> {
        let job = self.open_job(id)?;
        let StepRunUpdate {
            state,
            detail,
            outputs,
            error,
            follows,
        } = update;
        let is = self.run_state(job.number, run)?;
        let Some(is) = is else {
            return Err(Refusal::NoStepRun {
                job: id.clone(),
                run,
            }
            .into());
        };
        if state.is_some() && is.is_ended() {
            return Err(Refusal::StepRunEnded {
                job: id.clone(),
                run,
            }
            .into());
        }
        let begins = [Some(StepRunState::Running), Some(StepRunState::Suspended)];
        let began = begins.contains(state).then(|| stored(self.now));
        let ended = state
            .is_some_and(StepRunState::is_ended)
            .then(|| stored(self.now));
        let (step, item, attempt, try_, error) = self
            .connection
            .prepare_cached(
                "UPDATE step_runs SET state = coalesce(?3, state), detail = coalesce(?4, detail),
                    outputs = coalesce(?5, outputs), error = coalesce(?6, error),
                    follows = coalesce(?7, follows), began = coalesce(began, ?8), ended = coalesce(ended, ?9)
                 WHERE job = ?1 AND number = ?2 RETURNING step, item, attempt, try, error",
            )?
            .query_row(
                params![
                    job.number,
                    run,
                    state,
                    text(detail),
                    text(outputs),
                    text(error),
                    text(follows),
                    began,
                    ended
                ],
                |row| {
                    let step: String = row.get(0)?;
                    let error = super::read::some_json(row, 4)?;
                    Ok((step, row.get(1)?, row.get(2)?, row.get(3)?, error))
                },
            )?;
        let Some(state) = *state else {
            return Ok(None);
        };
        let about = About::job(id, job.session.as_ref());
        let named = (run, step.as_str(), item, attempt, try_);
        let more = [("error", error.as_ref()), ("follows", follows.as_ref())];
        self.log_step(about, state, named, &more).map(Some)
    }

    fn log_step(
        &self,
        about: About,
        state: StepRunState,
        (run, step, item, attempt, try_): (u32, &str, Option<u32>, u32, u32),
        more: &[(&str, Option<&Value>)],
    ) -> Result<Event> {
        let mut detail =
            json!({ "run": run, "step": step, "item": item, "attempt": attempt, "try": try_ });
        for (name, value) in more {
            if let Some(value) = value {
                detail[*name] = (*value).clone();
            }
        }
        self.log(about, &format!("step.{state}"), &host(), detail)
    }

    fn lease_taken(&self, id: &JobId, session: &SessionId, key: &str) -> Result<Event> {
        let job = self.open_job(id)?;
        let taken = self
            .connection
            .prepare_cached("SELECT 1 FROM leases WHERE job = ?1 AND session = ?2")?
            .exists(params![job.number, session])?;
        if taken {
            return Err(Refusal::LeaseExists {
                job: id.clone(),
                session: session.clone(),
            }
            .into());
        }
        self.connection
            .prepare_cached(
                "INSERT INTO leases (job, session, key, taken) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![job.number, session, key, stored(self.now)])?;
        let about = About::job(id, Some(session));
        self.log(about, "lease.taken", &host(), json!({ "key": key }))
    }

    fn lease_released(&self, id: &JobId, session: &SessionId) -> Result<Event> {
        let job = self
            .find_job(id)?
            .ok_or_else(|| Refusal::NoJob(id.clone()))?;
        let key: Option<String> = self
            .connection
            .prepare_cached("DELETE FROM leases WHERE job = ?1 AND session = ?2 RETURNING key")?
            .query_row(params![job.number, session], |row| row.get(0))
            .optional()?;
        let Some(key) = key else {
            return Err(Refusal::NoLease {
                job: id.clone(),
                session: session.clone(),
            }
            .into());
        };
        let about = About::job(id, Some(session));
        self.log(about, "lease.released", &host(), json!({ "key": key }))
    }

    /// The one way in which a job ends, and all that are a part of it.
    fn job_ended(
        &self,
        id: &JobId,
        end: JobEnd,
        why: &Value,
        outputs: Option<&Value>,
        by: &By,
        events: &mut Vec<Event>,
    ) -> Result<()> {
        let job = self.open_job(id)?;
        let message = match why["message"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("the job {}", end.said()),
        };
        // A job that has not ended has no parent that has: so what is open below it is reached by what is open.
        let below = self.open_below(id)?;
        let parent_ended = match why["message"].as_str() {
            Some(message) => format!("job {id} {}: {message}", end.said()),
            None => format!("job {id} {}", end.said()),
        };
        let of_parent = json!({ "code": "parent_ended", "message": parent_ended });
        for (child, found) in below.iter().rev() {
            let said = (&of_parent, parent_ended.as_str());
            events.push(self.end_one(child, found, JobEnd::Cancelled, said, None, by)?);
        }
        events.push(self.end_one(id, &job, end, (why, &message), outputs, by)?);
        Ok(())
    }

    /// The descendants of a job that have not ended, parents before their children.
    fn open_below(&self, id: &JobId) -> Result<Vec<(JobId, Found)>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT id, number, session FROM jobs INDEXED BY jobs_open_children
             WHERE parent = ?1 AND ended IS NULL",
        )?;
        let mut below: Vec<(JobId, Found)> = Vec::new();
        let mut looked = 0;
        let mut parent = id.clone();
        loop {
            let children = statement.query_map([&parent], |row| {
                let found = Found {
                    number: row.get(1)?,
                    session: row.get(2)?,
                    ended: false,
                };
                Ok((row.get(0)?, found))
            })?;
            for child in children {
                below.push(child?);
            }
            let Some((next, _)) = below.get(looked) else {
                return Ok(below);
            };
            parent = next.clone();
            looked += 1;
        }
    }

    /// Ends one job, its runs and its leases. `why` is what is kept, and in words.
    fn end_one(
        &self,
        id: &JobId,
        job: &Found,
        end: JobEnd,
        (why, message): (&Value, &str),
        outputs: Option<&Value>,
        by: &By,
    ) -> Result<Event> {
        let now = stored(self.now);
        self.connection
            .prepare_cached("UPDATE jobs SET state = ?2, why = ?3, ended = ?4 WHERE number = ?1")?
            .execute(params![job.number, end.as_str(), why.to_string(), now])?;
        if let Some(outputs) = outputs {
            self.connection
                .prepare_cached("UPDATE job_details SET outputs = ?2 WHERE job = ?1")?
                .execute(params![job.number, outputs.to_string()])?;
        }
        let error = json!({ "code": "cancelled", "message": message });
        let cancelled = self
            .connection
            .prepare_cached(
                "UPDATE step_runs SET state = ?2, error = ?3, ended = ?4 WHERE job = ?1 AND ended IS NULL",
            )?
            .execute(params![
                job.number,
                StepRunState::Cancelled,
                error.to_string(),
                now
            ])?;
        let leases = self
            .connection
            .prepare_cached("DELETE FROM leases WHERE job = ?1")?
            .execute([job.number])?;
        let detail = json!({ "why": why, "cancelled_runs": cancelled, "leases": leases });
        let about = About::job(id, job.session.as_ref());
        self.log(about, &format!("job.{}", end.as_str()), by, detail)
    }

    fn job_deleted(&self, id: &JobId, by: &By) -> Result<Event> {
        let job = self
            .find_job(id)?
            .ok_or_else(|| Refusal::NoJob(id.clone()))?;
        if !job.ended {
            return Err(Refusal::JobNotEnded(id.clone()).into());
        }
        // None is open below one that has ended; should there be one all the same, it is not lost.
        if let Some((open, _)) = self.open_below(id)?.first() {
            return Err(Refusal::JobNotEnded(open.clone()).into());
        }
        // Runs go with their jobs.
        let deleted = self
            .connection
            .prepare_cached(
                "WITH RECURSIVE tree (id) AS (
                    VALUES (?1) UNION SELECT jobs.id FROM jobs JOIN tree ON jobs.parent = tree.id)
                 DELETE FROM jobs WHERE id IN (SELECT id FROM tree)",
            )?
            .execute([id])?;
        let detail = json!({ "descendants": deleted.saturating_sub(1) });
        let about = About::job(id, job.session.as_ref());
        self.log(about, "job.deleted", by, detail)
    }

    fn find_job(&self, id: &JobId) -> rusqlite::Result<Option<Found>> {
        self.connection
            .prepare_cached("SELECT number, session, ended IS NOT NULL FROM jobs WHERE id = ?1")?
            .query_row([id], |row| {
                Ok(Found {
                    number: row.get(0)?,
                    session: row.get(1)?,
                    ended: row.get(2)?,
                })
            })
            .optional()
    }

    fn open_job(&self, id: &JobId) -> Result<Found> {
        match self.find_job(id)? {
            Some(job) if job.ended => Err(Refusal::JobEnded(id.clone()).into()),
            Some(job) => Ok(job),
            None => Err(Refusal::NoJob(id.clone()).into()),
        }
    }

    fn run_state(&self, job: i64, run: u32) -> rusqlite::Result<Option<StepRunState>> {
        self.connection
            .prepare_cached("SELECT state FROM step_runs WHERE job = ?1 AND number = ?2")?
            .query_row(params![job, run], |row| row.get(0))
            .optional()
    }
}

fn text(value: &Option<Value>) -> Option<String> {
    value.as_ref().map(Value::to_string)
}
