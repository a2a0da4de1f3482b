//! Bounded growth: taking away what is old and nobody needs.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::apply::stored;
use crate::id::{JobId, SessionId};
use crate::record::Pruned;

/// How many numbers of events one step goes through. About 10 ms, which is what a write may have to wait.
const EVENTS: i64 = 5_000;
/// How many resources one step takes away.
const RESOURCES: usize = 2_000;
/// How many sessions one step takes away, with what they owned, or looks into.
const SESSIONS: i64 = 500;
/// How many rows of a transcript one step takes away; each may be some hundred kilobytes.
const ENTRIES: i64 = 200;
/// How many jobs one step takes away.
const JOBS: usize = 500;
/// How many runs of steps one step takes away, with the jobs that it parts from their parents.
const RUNS: usize = 2_000;
/// How many pages one step gives back to the file system.
const PAGES: i64 = 1_000;

/// A prune that is under way.
#[derive(Debug)]
pub(crate) struct Prune {
    before: u64,
    done: Pruned,
    stage: At,
}

/// How far it is.
#[derive(Debug, Clone, Copy)]
enum At {
    Begin,
    /// Events from `from` up to, but without, `to`.
    Events {
        from: i64,
        to: i64,
    },
    /// Those of the sessions behind number `after`.
    Resources {
        after: i64,
    },
    Sessions,
    Conversations,
    Transcripts {
        conversation: i64,
    },
    Jobs,
    Hosts,
    Pages,
}

/// The resources, from the first session on.
const FIRST: At = At::Resources { after: 0 };

/// What a step has left.
pub(crate) enum Stage {
    More,
    Done(Pruned),
}

impl Prune {
    /// A prune of what is older than `before`, Unix time in milliseconds.
    pub(crate) fn new(before: u64) -> Self {
        Self {
            before,
            done: Pruned::default(),
            stage: At::Begin,
        }
    }
}

/// Does a bounded piece of `prune`, in a transaction of its own.
pub(crate) fn step(connection: &mut Connection, prune: &mut Prune) -> rusqlite::Result<Stage> {
    let before = stored(prune.before);
    let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let next = match prune.stage {
        At::Begin => events_until(&step, before)?,
        At::Events { from, to } => {
            let upto = to.min(from.saturating_add(EVENTS));
            prune.done.events += step
                .prepare_cached(
                    // Kept is who asked for a session or a job that is open, and all about what is alive.
                    "DELETE FROM events WHERE seq >= ?1 AND seq < ?2 AND NOT (
                        (kind = 'session.opened' AND EXISTS (
                            SELECT 1 FROM sessions WHERE id = events.session AND closed IS NULL))
                        OR (kind = 'job.created' AND EXISTS (
                            SELECT 1 FROM jobs WHERE id = events.job AND ended IS NULL))
                        OR EXISTS (
                            SELECT 1 FROM resources WHERE id = events.resource AND released IS NULL))",
                )?
                .execute(params![from, upto])? as u64;
            if upto < to {
                At::Events { from: upto, to }
            } else {
                FIRST
            }
        }
        At::Resources { after } => resources(&step, before, after, &mut prune.done)?,
        At::Sessions => {
            let old = "SELECT id FROM sessions WHERE closed < ?1 ORDER BY closed, number LIMIT ?2";
            // Those whose clock was ahead of the session's.
            prune.done.resources += step
                .prepare_cached(&format!("DELETE FROM resources WHERE session IN ({old})"))?
                .execute(params![before, SESSIONS])? as u64;
            let gone = step
                .prepare_cached(&format!("DELETE FROM sessions WHERE id IN ({old})"))?
                .execute(params![before, SESSIONS])?;
            prune.done.sessions += gone as u64;
            if gone as i64 == SESSIONS {
                At::Sessions
            } else {
                At::Conversations
            }
        }
        At::Conversations => {
            // One whose session is there, closed or not, is kept with it.
            let next: Option<i64> = step
                .prepare_cached(
                    "SELECT number FROM conversations WHERE updated < ?1 AND state <> 'live'
                        AND NOT EXISTS (SELECT 1 FROM sessions WHERE id = conversations.session) LIMIT 1",
                )?
                .query_row([before], |row| row.get(0))
                .optional()?;
            match next {
                Some(conversation) => At::Transcripts { conversation },
                None => At::Jobs,
            }
        }
        At::Transcripts { conversation } => {
            let gone = step
                .prepare_cached(
                    "DELETE FROM transcript WHERE rowid IN (
                        SELECT rowid FROM transcript WHERE conversation = ?1 LIMIT ?2)",
                )?
                .execute(params![conversation, ENTRIES])?;
            if gone as i64 == ENTRIES {
                At::Transcripts { conversation }
            } else {
                step.prepare_cached("DELETE FROM conversations WHERE number = ?1")?
                    .execute([conversation])?;
                prune.done.conversations += 1;
                At::Conversations
            }
        }
        At::Jobs => jobs(&step, before, &mut prune.done)?,
        At::Hosts => {
            step.prepare_cached("DELETE FROM runs WHERE ended < ?1 OR settled < ?1")?
                .execute([before])?;
            At::Pages
        }
        At::Pages => {
            let mut freed = 0;
            {
                let mut pages = step.prepare(&format!("PRAGMA incremental_vacuum({PAGES})"))?;
                // A row a page.
                let mut rows = pages.query([])?;
                while rows.next()?.is_some() {
                    freed += 1;
                }
            }
            step.commit()?;
            return Ok(if freed < PAGES {
                Stage::Done(prune.done)
            } else {
                Stage::More
            });
        }
    };
    step.commit()?;
    prune.stage = next;
    Ok(Stage::More)
}

/// Resources that were released long ago, session by session.
fn resources(
    connection: &Connection,
    before: i64,
    after: i64,
    done: &mut Pruned,
) -> rusqlite::Result<At> {
    let sessions = connection
        .prepare_cached(
            "SELECT number, id FROM sessions WHERE number > ?1 ORDER BY number LIMIT ?2",
        )?
        .query_map(params![after, SESSIONS], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, SessionId)>>>()?;
    let mut left = RESOURCES;
    let mut last = after;
    for (number, session) in &sessions {
        let gone = connection
            .prepare_cached(
                "DELETE FROM resources WHERE number IN (
                    SELECT number FROM resources WHERE session = ?1 AND released < ?2 LIMIT ?3)",
            )?
            .execute(params![session, before, left as i64])?;
        done.resources += gone as u64;
        left -= gone;
        if left == 0 {
            // It may have more.
            return Ok(At::Resources { after: last });
        }
        last = *number;
    }
    Ok(if (sessions.len() as i64) < SESSIONS {
        At::Sessions
    } else {
        At::Resources { after: last }
    })
}

/// Jobs that are old and part of no other. Those that are a part of one that goes are part of none then, and go next: none goes
/// before its parent.
fn jobs(connection: &Connection, before: i64, done: &mut Pruned) -> rusqlite::Result<At> {
    let old = connection
        .prepare_cached(
            "SELECT number, id FROM jobs WHERE ended < ?1 AND parent IS NULL ORDER BY ended, number LIMIT ?2",
        )?
        .query_map(params![before, JOBS as i64], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?
        .collect::<rusqlite::Result<Vec<(i64, JobId)>>>()?;
    if old.is_empty() {
        return Ok(At::Hosts);
    }
    let mut left = RUNS;
    for (number, id) in old {
        left -= connection
            .prepare_cached(
                "DELETE FROM step_runs WHERE rowid IN (
                    SELECT rowid FROM step_runs WHERE job = ?1 LIMIT ?2)",
            )?
            .execute(params![number, left as i64])?;
        if left == 0 {
            break;
        }
        // All of them at once, though there were many: parted ones are older than their parent, and would go before it.
        let parted = connection
            .prepare_cached("UPDATE jobs SET parent = NULL WHERE parent = ?1")?
            .execute([id])?;
        connection
            .prepare_cached("DELETE FROM jobs WHERE number = ?1")?
            .execute([number])?;
        done.jobs += 1;
        left = left.saturating_sub(parted);
        if left == 0 {
            break;
        }
    }
    Ok(At::Jobs)
}

/// The events up to the first that is not old. Numbers and times go together, but for clocks that were set.
fn events_until(connection: &Connection, before: i64) -> rusqlite::Result<At> {
    let first: Option<i64> =
        connection.query_row("SELECT min(seq) FROM events", [], |row| row.get(0))?;
    let Some(from) = first else {
        return Ok(FIRST);
    };
    let to: Option<i64> = connection
        .query_row(
            "SELECT seq FROM events WHERE at >= ?1 ORDER BY seq LIMIT 1",
            [before],
            |row| row.get(0),
        )
        .optional()?;
    let to = match to {
        Some(to) => to,
        None => connection.query_row("SELECT max(seq) + 1 FROM events", [], |row| row.get(0))?,
    };
    Ok(At::Events { from, to })
}
