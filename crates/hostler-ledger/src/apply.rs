//! Making a change, and its entry in the log.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Value, json};

use crate::change::{By, Change, EventRow, Identity, ResourceRow, SessionRow};
use crate::conversation;
use crate::error::Refusal;
use crate::id::{JobId, ResourceId, Seq, SessionId};
use crate::record::{Event, HostRun};

/// Why a change was not made.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It makes no sense.
    Refused(Refusal),
    /// SQLite could not.
    Sql(rusqlite::Error),
}

impl From<Refusal> for Failed {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failed>;

/// Unix time in milliseconds as SQLite has it. Beyond the end of time is the end of time.
pub(crate) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What an entry of the log is about.
#[derive(Default)]
pub(crate) struct About {
    session: Option<SessionId>,
    resource: Option<ResourceId>,
    job: Option<JobId>,
}

/// One transaction's hand.
pub(crate) struct Pen<'a> {
    pub(crate) connection: &'a Connection,
    /// The time of all that is written by it.
    pub(crate) now: u64,
}

impl<'a> Pen<'a> {
    pub(crate) fn new(connection: &'a Connection, now: u64) -> Self {
        Self { connection, now }
    }

    /// Makes `change` and writes it to the log: what it has written there is added to `events`.
    pub(crate) fn apply(&self, change: &Change, events: &mut Vec<Event>) -> Result<()> {
        match change {
            Change::ConversationChanged { id, update } => {
                conversation::update(self.connection, id, update, self.now)?;
            }
            Change::TranscriptAppended { id, entries, link } => {
                conversation::append(self.connection, id, entries, link.as_ref())?;
            }
            Change::TranscriptCopied { from, to, upto } => {
                conversation::copy(self.connection, from, to, *upto)?;
            }
            change => {
                if !self.apply_to_job(change, events)? {
                    events.push(self.logged(change)?);
                }
            }
        }
        Ok(())
    }

    fn logged(&self, change: &Change) -> Result<Event> {
        match change {
            Change::ConversationBegan { conversation, by } => {
                conversation::begin(self.connection, conversation)?;
                self.log(
                    About::session(&conversation.session),
                    "conversation.began",
                    by,
                    json!({ "conversation": conversation.id, "agent": conversation.agent, "parent": conversation.parent }),
                )
            }
            Change::SessionOpened { session, by } => self.session_opened(session, by),
            Change::SessionState { id, state, by } => {
                self.set_session(
                    id,
                    "UPDATE sessions SET state = ?2 WHERE id = ?1 AND closed IS NULL",
                    state,
                )?;
                self.log(
                    About::session(id),
                    "session.state",
                    by,
                    json!({ "state": state }),
                )
            }
            Change::SessionDetail { id, detail } => {
                let text = detail.to_string();
                self.set_session(
                    id,
                    "UPDATE sessions SET detail = ?2 WHERE id = ?1 AND closed IS NULL",
                    &text,
                )?;
                self.log(About::session(id), "session.detail", &host(), Value::Null)
            }
            Change::SessionNamed { id, name, by } => self.session_named(id, name.as_deref(), by),
            Change::SessionClosed {
                id,
                reason,
                report,
                by,
            } => self.session_closed(id, reason, report, by),
            Change::ResourceIntended { resource, by } => self.resource_intended(resource, by),
            Change::ResourceIdentified { id, identity } => self.resource_identified(id, identity),
            Change::ResourceDetail { id, detail } => {
                let sql = "UPDATE resources SET detail = ?2 WHERE id = ?1 AND released IS NULL RETURNING session";
                let session = self.set_resource(id, sql, params![id, detail.to_string()])?;
                self.log(
                    About::resource(session, id),
                    "resource.detail",
                    &host(),
                    Value::Null,
                )
            }
            Change::ResourceMoved { id, to, by } => self.resource_moved(id, to, by),
            Change::ResourceReleased { id, outcome, by } => {
                let sql = "UPDATE resources SET released = ?2, outcome = ?3 WHERE id = ?1 AND released IS NULL RETURNING session";
                let set = params![id, stored(self.now), outcome.to_string()];
                let session = self.set_resource(id, sql, set)?;
                let about = About::resource(session, id);
                self.log(about, "resource.released", by, outcome.clone())
            }
            Change::EarlierSettled { detail, by } => {
                // The last run is the present one.
                let sql = "UPDATE runs SET settled = ?1 WHERE ended IS NULL AND settled IS NULL
                           AND number < (SELECT max(number) FROM runs)";
                self.connection
                    .prepare_cached(sql)?
                    .execute([stored(self.now)])?;
                self.log(About::default(), "host.settled", by, detail.clone())
            }
            Change::Event(event) => self.event(event),
            Change::ConversationChanged { .. }
            | Change::TranscriptAppended { .. }
            | Change::TranscriptCopied { .. }
            | Change::JobCreated { .. }
            | Change::JobStanding { .. }
            | Change::JobDetail { .. }
            | Change::JobSession { .. }
            | Change::StepBegan { .. }
            | Change::StepChanged { .. }
            | Change::LeaseTaken { .. }
            | Change::LeaseReleased { .. }
            | Change::JobEnded { .. }
            | Change::JobDeleted { .. }
            | Change::ScheduleSet { .. }
            | Change::ScheduleArmed { .. }
            | Change::ScheduleRan { .. }
            | Change::ScheduleRemoved { .. } => unreachable!("made before"),
        }
    }

    fn session_opened(&self, session: &SessionRow, by: &By) -> Result<Event> {
        let SessionRow {
            id,
            name,
            parent,
            detail,
            opened,
        } = session;
        if self.has("SELECT 1 FROM sessions WHERE id = ?1", id.as_str())? {
            return Err(Refusal::SessionExists(id.clone()).into());
        }
        if let Some(name) = name {
            self.name_is_free(id, name)?;
        }
        if let Some(parent) = parent {
            self.is_open(parent)?;
        }
        self.connection
            .prepare_cached(
                "INSERT INTO sessions (id, name, parent, state, detail, opened) VALUES (?1, ?2, ?3, 'starting', ?4, ?5)",
            )?
            .execute(params![id, name, parent, detail.to_string(), stored(*opened)])?;
        let detail = json!({ "name": name, "parent": parent });
        self.log(About::session(id), "session.opened", by, detail)
    }

    fn session_named(&self, id: &SessionId, name: Option<&str>, by: &By) -> Result<Event> {
        self.is_open(id)?;
        if let Some(name) = name {
            self.name_is_free(id, name)?;
        }
        self.connection
            .prepare_cached("UPDATE sessions SET name = ?2 WHERE id = ?1")?
            .execute(params![id, name])?;
        self.log(
            About::session(id),
            "session.named",
            by,
            json!({ "name": name }),
        )
    }

    fn session_closed(
        &self,
        id: &SessionId,
        reason: &str,
        report: &Value,
        by: &By,
    ) -> Result<Event> {
        self.is_open(id)?;
        let count = |sql: &str| -> rusqlite::Result<u64> {
            self.connection
                .prepare_cached(sql)?
                .query_row([id], |row| row.get(0))
        };
        let resources =
            count("SELECT count(*) FROM resources WHERE session = ?1 AND released IS NULL")?;
        let children = count("SELECT count(*) FROM sessions WHERE parent = ?1 AND closed IS NULL")?;
        if resources + children > 0 {
            return Err(Refusal::StillOwns {
                id: id.clone(),
                resources,
                children,
            }
            .into());
        }
        self.connection
            .prepare_cached(
                "UPDATE sessions SET state = 'closed', closed = ?2, reason = ?3, report = ?4 WHERE id = ?1",
            )?
            .execute(params![id, stored(self.now), reason, report.to_string()])?;
        self.log(
            About::session(id),
            "session.closed",
            by,
            json!({ "reason": reason }),
        )
    }

    fn resource_intended(&self, resource: &ResourceRow, by: &By) -> Result<Event> {
        let ResourceRow {
            id,
            session,
            kind,
            name,
            detail,
        } = resource;
        self.is_open(session)?;
        if self.has("SELECT 1 FROM resources WHERE id = ?1", id.as_str())? {
            return Err(Refusal::ResourceExists(id.clone()).into());
        }
        self.connection
            .prepare_cached(
                "INSERT INTO resources (id, session, kind, name, detail, intended) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![id, session, kind, name, detail.to_string(), stored(self.now)])?;
        let about = About::resource(session.clone(), id);
        self.log(
            about,
            "resource.intended",
            by,
            json!({ "kind": kind, "name": name }),
        )
    }

    fn resource_identified(&self, id: &ResourceId, identity: &Identity) -> Result<Event> {
        let sql = "UPDATE resources SET identity = ?2 WHERE id = ?1 AND released IS NULL RETURNING session";
        let identity = json!(identity);
        let session = self.set_resource(id, sql, params![id, identity.to_string()])?;
        self.log(
            About::resource(session, id),
            "resource.identified",
            &host(),
            identity,
        )
    }

    fn resource_moved(&self, id: &ResourceId, to: &SessionId, by: &By) -> Result<Event> {
        self.is_open(to)?;
        let from: Option<SessionId> = self
            .connection
            .prepare_cached("SELECT session FROM resources WHERE id = ?1")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        let sql = "UPDATE resources SET session = ?2 WHERE id = ?1 AND released IS NULL RETURNING session";
        let session = self.set_resource(id, sql, params![id, to])?;
        self.log(
            About::resource(session, id),
            "resource.moved",
            by,
            json!({ "from": from }),
        )
    }

    fn event(&self, event: &EventRow) -> Result<Event> {
        let EventRow {
            session,
            resource,
            kind,
            who,
            why,
            detail,
        } = event;
        let about = About {
            session: session.clone(),
            resource: resource.clone(),
            job: None,
        };
        self.log(about, kind, &By::new(who, why), detail.clone())
    }

    /// A host begins on this ledger. Answers the number of its run.
    pub(crate) fn host_started(&self, run: &HostRun) -> Result<(i64, Event)> {
        self.connection
            .prepare_cached(
                "INSERT INTO runs (boot, pid, start_time, version, started) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![run.boot, run.pid, stored(run.start_time), run.version, stored(self.now)])?;
        let number = self.connection.last_insert_rowid();
        Ok((
            number,
            self.log(About::default(), "host.started", &host(), json!(run))?,
        ))
    }

    /// The host of run `number` says goodbye.
    pub(crate) fn host_ended(&self, number: i64) -> Result<Event> {
        self.connection
            .prepare_cached("UPDATE runs SET ended = ?2 WHERE number = ?1")?
            .execute(params![number, stored(self.now)])?;
        self.log(About::default(), "host.ended", &host(), Value::Null)
    }

    pub(crate) fn log(&self, about: About, kind: &str, by: &By, detail: Value) -> Result<Event> {
        self.connection
            .prepare_cached(
                "INSERT INTO events (at, session, resource, job, kind, who, why, detail) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                stored(self.now),
                about.session,
                about.resource,
                about.job,
                kind,
                by.who,
                by.why,
                detail.to_string()
            ])?;
        Ok(Event {
            seq: Seq(self.connection.last_insert_rowid().unsigned_abs()),
            at: self.now,
            session: about.session,
            resource: about.resource,
            job: about.job,
            kind: kind.to_owned(),
            who: by.who.clone(),
            why: by.why.clone(),
            detail,
        })
    }

    fn has(&self, sql: &str, key: &str) -> rusqlite::Result<bool> {
        self.connection.prepare_cached(sql)?.exists([key])
    }

    fn is_open(&self, id: &SessionId) -> Result<()> {
        if self.has(
            "SELECT 1 FROM sessions WHERE id = ?1 AND closed IS NULL",
            id.as_str(),
        )? {
            return Ok(());
        }
        Err(self.not_open(id)?.into())
    }

    fn not_open(&self, id: &SessionId) -> rusqlite::Result<Refusal> {
        Ok(
            if self.has("SELECT 1 FROM sessions WHERE id = ?1", id.as_str())? {
                Refusal::SessionClosed(id.clone())
            } else {
                Refusal::NoSession(id.clone())
            },
        )
    }

    /// Whether another open session than `id` has the name.
    fn name_is_free(&self, id: &SessionId, name: &str) -> Result<()> {
        let taken = self
            .connection
            .prepare_cached(
                "SELECT 1 FROM sessions WHERE name = ?1 AND closed IS NULL AND id <> ?2",
            )?
            .exists(params![name, id])?;
        if taken {
            return Err(Refusal::NameTaken(name.to_owned()).into());
        }
        Ok(())
    }

    fn set_session(&self, id: &SessionId, sql: &str, value: &str) -> Result<()> {
        if self
            .connection
            .prepare_cached(sql)?
            .execute(params![id, value])?
            == 1
        {
            return Ok(());
        }
        Err(self.not_open(id)?.into())
    }

    /// Runs an update that returns the session of the resource that it has changed.
    fn set_resource(
        &self,
        id: &ResourceId,
        sql: &str,
        set: &[&dyn rusqlite::ToSql],
    ) -> Result<SessionId> {
        let session = self
            .connection
            .prepare_cached(sql)?
            .query_row(set, |row| row.get(0))
            .optional()?;
        if let Some(session) = session {
            return Ok(session);
        }
        Err(
            if self.has("SELECT 1 FROM resources WHERE id = ?1", id.as_str())? {
                Refusal::ResourceReleased(id.clone())
            } else {
                Refusal::NoResource(id.clone())
            }
            .into(),
        )
    }
}

impl About {
    fn session(id: &SessionId) -> Self {
        Self {
            session: Some(id.clone()),
            ..Self::default()
        }
    }

    /// A job, and the session of which is spoken with it.
    pub(crate) fn job(id: &JobId, session: Option<&SessionId>) -> Self {
        Self {
            session: session.cloned(),
            job: Some(id.clone()),
            ..Self::default()
        }
    }

    fn resource(session: SessionId, id: &ResourceId) -> Self {
        Self {
            session: Some(session),
            resource: Some(id.clone()),
            ..Self::default()
        }
    }
}

/// For what nobody asks: the host notes it.
pub(crate) fn host() -> By {
    By::new("host", "")
}
