//! Conversations: what is written and read of them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::apply::stored;
use crate::error::Refusal;
use crate::id::{ConversationId, EntrySeq, ResourceId, SessionId};

/// A conversation as the ledger has it, and as it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationRow {
    /// Its id.
    pub id: ConversationId,
    /// The session in which it is, or last was.
    pub session: SessionId,
    /// The agent's name.
    pub agent: String,
    /// Where it works.
    pub cwd: String,
    /// What the agent calls it, where it is known to one.
    pub agent_session: Option<String>,
    /// Its title.
    pub title: Option<String>,
    /// The conversation that it was forked from.
    pub parent: Option<ConversationId>,
    /// The last entry that it has in common with that.
    pub forked_at: Option<EntrySeq>,
    /// Its state: `live` or `closed`.
    pub state: String,
    /// What else is kept with it.
    pub detail: Value,
    /// When it began: Unix time in milliseconds.
    pub created: u64,
    /// When it was last used: Unix time in milliseconds.
    pub updated: u64,
    /// Its place in listings; given by the ledger.
    pub number: u64,
}

/// Entries that follow one another and are alike but for their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryRows {
    /// The number of the first.
    pub seq: EntrySeq,
    /// How many there are.
    pub n: u32,
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// The turn in which they came.
    pub turn: Option<u64>,
    /// Their kind.
    pub kind: String,
    /// The text of the one, or of each as a line.
    pub data: String,
}

/// How far a conversation is with its agent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkRow {
    /// The agent's process, where there is one.
    pub process: Option<ResourceId>,
    /// Up to here its output has become entries.
    pub offset: u64,
    /// What is under way: JSON of the one who keeps it.
    pub pending: Arc<str>,
}

/// What changes of a conversation. What is `None` stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConversationUpdate {
    /// The session in which it is.
    pub session: Option<SessionId>,
    /// What the agent calls it, or that none does.
    pub agent_session: Option<Option<String>>,
    /// Its title.
    pub title: Option<String>,
    /// Its state.
    pub state: Option<&'static str>,
    /// What else is kept with it.
    pub detail: Option<Value>,
}

/// Which conversations are wanted, the newest first. The default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConversationsFilter {
    /// Only those that are live.
    pub live: bool,
    /// Only those that work there.
    pub cwd: Option<String>,
    /// Only those with this agent.
    pub agent: Option<String>,
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// How many at the most; 0 is no limit.
    pub limit: usize,
}

const COLUMNS: &str = "SELECT id, session, agent, cwd, agent_session, title, parent, forked_at, state, detail, created, updated, number FROM conversations";

fn no(id: &ConversationId) -> Refusal {
    Refusal::NoConversation(id.clone())
}

/// Why a change was not made.
type Made<T> = Result<T, crate::apply::Failed>;

pub(crate) fn begin(connection: &Connection, row: &ConversationRow) -> Made<()> {
    let taken = connection
        .prepare_cached("SELECT 1 FROM conversations WHERE id = ?1")?
        .exists([&row.id])?;
    if taken {
        return Err(Refusal::ConversationExists(row.id.clone()).into());
    }
    connection
        .prepare_cached(
            "INSERT INTO conversations (id, session, agent, cwd, agent_session, title, parent, forked_at, state, detail, created, updated)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            row.id,
            row.session,
            row.agent,
            row.cwd,
            row.agent_session,
            row.title,
            row.parent,
            row.forked_at.map(|seq| stored(seq.0)),
            row.state,
            row.detail.to_string(),
            stored(row.created),
            stored(row.updated),
        ])?;
    Ok(())
}

pub(crate) fn update(
    connection: &Connection,
    id: &ConversationId,
    update: &ConversationUpdate,
    now: u64,
) -> Made<()> {
    let (set, agent_session) = match &update.agent_session {
        Some(name) => (true, name.as_deref()),
        None => (false, None),
    };
    let changed = connection
        .prepare_cached(
            "UPDATE conversations SET session = coalesce(?2, session),
                agent_session = iif(?3, ?4, agent_session), title = coalesce(?5, title),
                state = coalesce(?6, state), detail = coalesce(?7, detail), updated = ?8 WHERE id = ?1",
        )?
        .execute(params![
            id,
            update.session,
            set,
            agent_session,
            update.title,
            update.state,
            update.detail.as_ref().map(Value::to_string),
            stored(now),
        ])?;
    if changed == 1 {
        Ok(())
    } else {
        Err(no(id).into())
    }
}

fn number(connection: &Connection, id: &ConversationId) -> Made<i64> {
    connection
        .prepare_cached("SELECT number FROM conversations WHERE id = ?1")?
        .query_row([id], |row| row.get(0))
        .optional()?
        .ok_or_else(|| no(id).into())
}

pub(crate) fn append(
    connection: &Connection,
    id: &ConversationId,
    entries: &[EntryRows],
    link: Option<&LinkRow>,
) -> Made<()> {
    let number = number(connection, id)?;
    let mut insert = connection.prepare_cached(
        "INSERT INTO transcript (conversation, seq, n, at, turn, kind, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for rows in entries {
        insert.execute(params![
            number,
            stored(rows.seq.0),
            rows.n,
            stored(rows.at),
            rows.turn.map(stored),
            rows.kind,
            rows.data
        ])?;
    }
    if let Some(link) = link {
        connection
            .prepare_cached(
                "INSERT INTO agent_links (conversation, process, offset, pending) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (conversation) DO UPDATE SET process = ?2, offset = ?3, pending = ?4",
            )?
            .execute(params![number, link.process, stored(link.offset), &*link.pending])?;
    }
    Ok(())
}

pub(crate) fn copy(
    connection: &Connection,
    from: &ConversationId,
    to: &ConversationId,
    upto: EntrySeq,
) -> Made<()> {
    let (from, to) = (number(connection, from)?, number(connection, to)?);
    // A row of several that reaches beyond the place was written as a whole, so there is none.
    connection
        .prepare_cached(
            "INSERT INTO transcript (conversation, seq, n, at, turn, kind, data)
             SELECT ?2, seq, n, at, turn, kind, data FROM transcript
             WHERE conversation = ?1 AND seq + n - 1 <= ?3 ORDER BY seq",
        )?
        .execute(params![from, to, stored(upto.0)])?;
    Ok(())
}

pub(crate) fn one(
    connection: &Connection,
    id: &ConversationId,
) -> rusqlite::Result<Option<ConversationRow>> {
    connection
        .prepare_cached(&format!("{COLUMNS} WHERE id = ?1"))?
        .query_row([id], read)
        .optional()
}

pub(crate) fn list(
    connection: &Connection,
    filter: &ConversationsFilter,
) -> rusqlite::Result<Vec<ConversationRow>> {
    let mut sql = COLUMNS.to_owned();
    let mut values: Vec<&dyn ToSql> = Vec::new();
    let mut joint = " WHERE ";
    let mut when = |condition: &str| {
        sql.push_str(joint);
        sql.push_str(condition);
        joint = " AND ";
    };
    if filter.live {
        when("state = 'live'");
    }
    if let Some(cwd) = &filter.cwd {
        when("cwd = ?");
        values.push(cwd);
    }
    if let Some(agent) = &filter.agent {
        when("agent = ?");
        values.push(agent);
    }
    let before = filter.before.map(stored);
    if let Some(before) = &before {
        when("number < ?");
        values.push(before);
    }
    let limit = match filter.limit {
        0 => -1,
        limit => stored(limit as u64),
    };
    sql.push_str(" ORDER BY number DESC LIMIT ?");
    values.push(&limit);
    connection
        .prepare_cached(&sql)?
        .query_map(values.as_slice(), read)?
        .collect()
}

pub(crate) fn link(
    connection: &Connection,
    id: &ConversationId,
) -> rusqlite::Result<Option<LinkRow>> {
    connection
        .prepare_cached(
            "SELECT process, offset, pending FROM agent_links
             WHERE conversation = (SELECT number FROM conversations WHERE id = ?1)",
        )?
        .query_row([id], |row| {
            Ok(LinkRow {
                process: row.get(0)?,
                offset: row.get(1)?,
                pending: row.get_ref(2)?.as_str()?.into(),
            })
        })
        .optional()
}

pub(crate) fn entries(
    connection: &Connection,
    id: &ConversationId,
    after: EntrySeq,
    rows: usize,
) -> rusqlite::Result<Vec<EntryRows>> {
    connection
        .prepare_cached(
            "SELECT seq, n, at, turn, kind, data FROM transcript, (SELECT number FROM conversations WHERE id = ?1)
             WHERE conversation = number AND seq >= coalesce(
                (SELECT max(seq) FROM transcript WHERE conversation = number AND seq <= ?2), 0)
             ORDER BY seq LIMIT ?3",
        )?
        .query_map(
            params![id, stored(after.0 + 1), stored(rows as u64)],
            |row| {
                Ok(EntryRows {
                    seq: EntrySeq(row.get(0)?),
                    n: row.get(1)?,
                    at: row.get(2)?,
                    turn: row.get(3)?,
                    kind: row.get(4)?,
                    data: row.get(5)?,
                })
            },
        )?
        .filter(|rows| {
            rows.as_ref()
                .map_or(true, |rows| rows.seq.0 + u64::from(rows.n) > after.0 + 1)
        })
        .collect()
}

pub(crate) fn last(connection: &Connection, id: &ConversationId) -> rusqlite::Result<EntrySeq> {
    let last: Option<u64> = connection
        .prepare_cached(
            "SELECT seq + n - 1 FROM transcript
             WHERE conversation = (SELECT number FROM conversations WHERE id = ?1) ORDER BY seq DESC LIMIT 1",
        )?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(EntrySeq(last.unwrap_or(0)))
}

fn read(row: &Row<'_>) -> rusqlite::Result<ConversationRow> {
    let forked_at: Option<u64> = row.get(7)?;
    Ok(ConversationRow {
        id: row.get(0)?,
        session: row.get(1)?,
        agent: row.get(2)?,
        cwd: row.get(3)?,
        agent_session: row.get(4)?,
        title: row.get(5)?,
        parent: row.get(6)?,
        forked_at: forked_at.map(EntrySeq),
        state: row.get(8)?,
        detail: crate::read::json(row, 9)?,
        created: row.get(10)?,
        updated: row.get(11)?,
        number: row.get(12)?,
    })
}
