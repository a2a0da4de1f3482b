//! Queries about jobs.

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;

use super::{JobFilter, JobOrigin, JobRecord, JobSummary, LeaseRow, ScheduledFor, StepRunRow};
use crate::apply::stored;
use crate::error::ReadError;
use crate::id::JobId;
use crate::ledger::Ledger;
use crate::read::{Query, json};
use crate::record::Which;

pub(super) const JOB: &str = "SELECT number, id, name, \"group\", parent, session, state, why, created, began, ended, run, retry_of, schedule, due, late,
    request FROM jobs";
const WHOLE: &str = "SELECT number, id, name, \"group\", parent, session, state, why, created, began, ended, run, retry_of, schedule, due, late,
    request, detail, outputs FROM jobs JOIN job_details ON job_details.job = jobs.number WHERE id = ?1";
const RUN: &str = "SELECT number, step, item, attempt, try, state, detail, outputs, error, follows, began, ended FROM step_runs";

impl Ledger {
    /// One job; `None` when there is none, or it was deleted or pruned.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn job(&self, id: &JobId) -> Result<Option<JobRecord>, ReadError> {
        self.read(|connection| one(connection, id))
    }

    /// One job as it is in listings: how it stands, whatever its size.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn job_summary(&self, id: &JobId) -> Result<Option<JobSummary>, ReadError> {
        self.read(|connection| summary(connection, id))
    }

    /// The job that this run of `parent` has made.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn job_of_run(&self, parent: &JobId, run: u32) -> Result<Option<JobSummary>, ReadError> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "{JOB} WHERE parent = ?1 AND run = ?2 ORDER BY number DESC LIMIT 1"
                ))?
                .query_row(params![parent, run], read_job)
                .optional()
        })
    }

    /// The jobs that `filter` wants, the newest first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobSummary>, ReadError> {
        self.read(|connection| list(connection, filter))
    }

    /// The runs of the steps of a job, in the order of their numbers.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn step_runs(&self, id: &JobId) -> Result<Vec<StepRunRow>, ReadError> {
        self.read(|connection| runs(connection, id))
    }

    /// The leases of a job, or of all.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn leases(&self, job: Option<&JobId>) -> Result<Vec<LeaseRow>, ReadError> {
        self.read(|connection| leases(connection, job))
    }
}

fn summary(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<JobSummary>> {
    connection
        .prepare_cached(&format!("{JOB} WHERE id = ?1"))?
        .query_row([id], read_job)
        .optional()
}

fn one(connection: &Connection, id: &JobId) -> rusqlite::Result<Option<JobRecord>> {
    let read = |row: &Row<'_>| {
        Ok(JobRecord {
            summary: read_job(row)?,
            detail: json(row, 17)?,
            outputs: some_json(row, 18)?,
        })
    };
    connection
        .prepare_cached(WHOLE)?
        .query_row([id], read)
        .optional()
}

fn list(connection: &Connection, filter: &JobFilter) -> rusqlite::Result<Vec<JobSummary>> {
    let mut query = Query::new(JOB);
    match filter.which {
        // Few are open at any time, and many may have ended that are of one name, group or parent.
        Which::Open => {
            query.push(" INDEXED BY jobs_open");
            query.when("ended IS NULL");
        }
        // Of all jobs, few have such an id, and they are looked for among those.
        _ if filter.starts.is_some() => query.push(" INDEXED BY sqlite_autoindex_jobs_1"),
        Which::Closed | Which::All => {}
    }
    if filter.which == Which::Closed {
        query.when("ended IS NOT NULL");
    }
    let before = filter.before.map_or(i64::MAX, stored);
    query.when("number < ?");
    query.values.push(&before);
    query.equal("parent", filter.parent.as_ref());
    query.equal("\"group\"", filter.group.as_ref());
    query.equal("name", filter.name.as_ref());
    // Ids are plain letters and digits; this is behind all of them.
    let starts = filter
        .starts
        .as_ref()
        .map(|starts| (starts, format!("{starts}~")));
    if let Some((from, to)) = &starts {
        query.when("id >= ?");
        query.values.push(from);
        query.when("id < ?");
        query.values.push(to);
    }
    let limit = match filter.limit {
        0 => -1,
        limit => stored(limit as u64),
    };
    query.values.push(&limit);
    query.all(connection, " ORDER BY number DESC LIMIT ?", read_job)
}

fn runs(connection: &Connection, id: &JobId) -> rusqlite::Result<Vec<StepRunRow>> {
    connection
        .prepare_cached(&format!(
            "{RUN} WHERE job = (SELECT number FROM jobs WHERE id = ?1) ORDER BY number"
        ))?
        .query_map([id], read_run)?
        .collect()
}

fn leases(connection: &Connection, job: Option<&JobId>) -> rusqlite::Result<Vec<LeaseRow>> {
    let mut query = Query::new(
        "SELECT jobs.id, leases.session, leases.key, leases.taken FROM leases
         JOIN jobs ON jobs.number = leases.job",
    );
    query.equal("jobs.id", job);
    query.all(
        connection,
        " ORDER BY leases.job, leases.session",
        read_lease,
    )
}

pub(super) fn read_job(row: &Row<'_>) -> rusqlite::Result<JobSummary> {
    let (run, retry_of, schedule) = (
        row.get(11)?,
        row.get(12)?,
        row.get::<_, Option<String>>(13)?,
    );
    let origin = match (run, retry_of, schedule) {
        (Some(run), _, _) => JobOrigin::Run(run),
        (_, Some(job), _) => JobOrigin::Retry(job),
        (_, _, Some(schedule)) => JobOrigin::Schedule(ScheduledFor {
            schedule,
            due: row.get(14)?,
            late: row.get(15)?,
            request: row.get(16)?,
        }),
        (None, None, None) => JobOrigin::Asked,
    };
    Ok(JobSummary {
        number: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        group: row.get(3)?,
        parent: row.get(4)?,
        session: row.get(5)?,
        origin,
        state: row.get(6)?,
        why: json(row, 7)?,
        created: row.get(8)?,
        began: row.get(9)?,
        ended: row.get(10)?,
    })
}

fn read_run(row: &Row<'_>) -> rusqlite::Result<StepRunRow> {
    Ok(StepRunRow {
        number: row.get(0)?,
        step: row.get(1)?,
        item: row.get(2)?,
        attempt: row.get(3)?,
        try_: row.get(4)?,
        state: row.get(5)?,
        detail: json(row, 6)?,
        outputs: some_json(row, 7)?,
        error: some_json(row, 8)?,
        follows: some_json(row, 9)?,
        began: row.get(10)?,
        ended: row.get(11)?,
    })
}

fn read_lease(row: &Row<'_>) -> rusqlite::Result<LeaseRow> {
    Ok(LeaseRow {
        job: row.get(0)?,
        session: row.get(1)?,
        key: row.get(2)?,
        taken: row.get(3)?,
    })
}

pub(super) fn some_json(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Value>> {
    match row.get_ref(column)?.as_str_or_null()? {
        Some(_) => json(row, column).map(Some),
        None => Ok(None),
    }
}
