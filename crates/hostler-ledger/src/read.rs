//! Queries.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, Row, ToSql};
use serde::de::DeserializeOwned;

use crate::apply::stored;
use crate::change::Identity;
use crate::id::{ResourceId, Seq, SessionId};
use crate::record::{
    Closed, Event, EventFilter, HostRun, Released, Report, ResourceFilter, ResourceRecord,
    SessionFilter, SessionRecord, Which,
};

const SESSION: &str =
    "SELECT id, name, parent, state, detail, opened, closed, reason, report FROM sessions";
const RESOURCE: &str =
    "SELECT id, session, kind, name, detail, intended, identity, released, outcome FROM resources";
const EVENT: &str = "SELECT seq, at, session, resource, job, kind, who, why, detail FROM events";

/// A statement with its conditions, as they are added.
pub(crate) struct Query<'a> {
    sql: String,
    pub(crate) values: Vec<&'a dyn ToSql>,
    joint: &'static str,
}

impl<'a> Query<'a> {
    pub(crate) fn new(select: &str) -> Self {
        Self {
            sql: select.to_owned(),
            values: Vec::new(),
            joint: " WHERE ",
        }
    }

    /// Adds to what is selected from, before the first condition.
    pub(crate) fn push(&mut self, sql: &str) {
        self.sql.push_str(sql);
    }

    pub(crate) fn when(&mut self, condition: &str) {
        self.sql.push_str(self.joint);
        self.sql.push_str(condition);
        self.joint = " AND ";
    }

    pub(crate) fn equal<T: ToSql>(&mut self, column: &str, value: Option<&'a T>) {
        if let Some(value) = value {
            self.when(&format!("{column} = ?"));
            self.values.push(value);
        }
    }

    pub(crate) fn all<T>(
        self,
        connection: &Connection,
        tail: &str,
        read: fn(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        let mut statement = connection.prepare_cached(&(self.sql + tail))?;
        statement.query_map(self.values.as_slice(), read)?.collect()
    }
}

pub(crate) fn sessions(
    connection: &Connection,
    filter: &SessionFilter,
) -> rusqlite::Result<Vec<SessionRecord>> {
    let mut query = Query::new(SESSION);
    match filter.which {
        Which::Open => query.when("closed IS NULL"),
        Which::Closed => query.when("closed IS NOT NULL"),
        Which::All => {}
    }
    query.equal("parent", filter.parent.as_ref());
    query.equal("name", filter.name.as_ref());
    query.all(connection, " ORDER BY number", read_session)
}

pub(crate) fn session(
    connection: &Connection,
    id: &SessionId,
) -> rusqlite::Result<Option<SessionRecord>> {
    connection
        .prepare_cached(&format!("{SESSION} WHERE id = ?1"))?
        .query_row([id], read_session)
        .optional()
}

pub(crate) fn resources(
    connection: &Connection,
    filter: &ResourceFilter,
) -> rusqlite::Result<Vec<ResourceRecord>> {
    let mut query = Query::new(RESOURCE);
    query.equal("session", filter.session.as_ref());
    if !filter.released {
        query.when("released IS NULL");
        if filter.session.is_none() {
            // A closed one owns nothing that lives.
            query.when("session IN (SELECT id FROM sessions WHERE closed IS NULL)");
        }
    }
    query.all(connection, " ORDER BY number", read_resource)
}

pub(crate) fn resource(
    connection: &Connection,
    id: &ResourceId,
) -> rusqlite::Result<Option<ResourceRecord>> {
    connection
        .prepare_cached(&format!("{RESOURCE} WHERE id = ?1"))?
        .query_row([id], read_resource)
        .optional()
}

pub(crate) fn events(
    connection: &Connection,
    after: Seq,
    limit: usize,
    filter: &EventFilter,
) -> rusqlite::Result<Vec<Event>> {
    let (after, limit) = (stored(after.0), stored(limit as u64));
    let mut query = Query::new(EVENT);
    query.when("seq > ?");
    query.values.push(&after);
    query.equal("session", filter.session.as_ref());
    query.equal("job", filter.job.as_ref());
    query.equal("kind", filter.kind.as_ref());
    query.values.push(&limit);
    query.all(connection, " ORDER BY seq LIMIT ?", read_event)
}

/// The number of the last event that was ever written, pruned or not.
pub(crate) fn last_seq(connection: &Connection) -> rusqlite::Result<Seq> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(Seq(last.map_or(0, i64::unsigned_abs)))
}

pub(crate) fn reports(connection: &Connection, limit: usize) -> rusqlite::Result<Vec<Report>> {
    let limit = stored(limit as u64);
    let sql = "SELECT id, name, closed, reason, report FROM sessions WHERE closed IS NOT NULL
               ORDER BY closed DESC, number DESC LIMIT ?1";
    connection
        .prepare_cached(sql)?
        .query_map([limit], |row| {
            Ok(Report {
                session: row.get(0)?,
                name: row.get(1)?,
                closed: Closed {
                    at: row.get(2)?,
                    reason: row.get(3)?,
                    report: json(row, 4)?,
                },
            })
        })?
        .collect()
}

/// Hosts that never said goodbye and whose leavings were not settled.
pub(crate) fn earlier(connection: &Connection) -> rusqlite::Result<Vec<HostRun>> {
    let sql = "SELECT boot, pid, start_time, version FROM runs
               WHERE ended IS NULL AND settled IS NULL ORDER BY number";
    connection
        .prepare(sql)?
        .query_map([], |row| {
            Ok(HostRun {
                boot: row.get(0)?,
                pid: row.get(1)?,
                start_time: row.get(2)?,
                version: row.get(3)?,
            })
        })?
        .collect()
}

fn read_session(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let closed = match row.get(6)? {
        Some(at) => Some(Closed {
            at,
            reason: row.get(7)?,
            report: json(row, 8)?,
        }),
        None => None,
    };
    Ok(SessionRecord {
        id: row.get(0)?,
        name: row.get(1)?,
        parent: row.get(2)?,
        state: row.get(3)?,
        detail: json(row, 4)?,
        opened: row.get(5)?,
        closed,
    })
}

fn read_resource(row: &Row<'_>) -> rusqlite::Result<ResourceRecord> {
    let identity: Option<Identity> = match row.get_ref(6)?.as_str_or_null()? {
        Some(_) => Some(json(row, 6)?),
        None => None,
    };
    let released = match row.get(7)? {
        Some(at) => Some(Released {
            at,
            outcome: json(row, 8)?,
        }),
        None => None,
    };
    Ok(ResourceRecord {
        id: row.get(0)?,
        session: row.get(1)?,
        kind: row.get(2)?,
        name: row.get(3)?,
        detail: json(row, 4)?,
        intended: row.get(5)?,
        identity,
        released,
    })
}

fn read_event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event {
        seq: Seq(row.get(0)?),
        at: row.get(1)?,
        session: row.get(2)?,
        resource: row.get(3)?,
        job: row.get(4)?,
        kind: row.get(5)?,
        who: row.get(6)?,
        why: row.get(7)?,
        detail: json(row, 8)?,
    })
}

pub(crate) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            Type::Text,
            FromSqlError::other(error).into(),
        )
    })
}
