//! Following a transcript: the newest entries from memory, older ones from the ledger.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hostler_ledger::{ConversationId, EntryRows, EntrySeq as Seq, Ledger};
use serde_json::value::RawValue;
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::error::Result;
use crate::transcript::{Entry, EntryKind};

/// How many rows are read from the ledger at once: one may hold some 256 KiB of updates.
const ROWS: usize = 8;
/// What an entry costs besides its text.
const EACH: usize = 128;

/// How far a transcript is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    last: Seq,
    ended: bool,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
}

/// Entries that follow one another, read from the ledger.
type Older = Vec<Arc<Entry>>;

/// What of them comes behind `after`, up to `max`.
fn behind(entries: &Older, after: Seq, max: usize) -> Vec<Arc<Entry>> {
    let first = entries.partition_point(|entry| entry.seq <= after);
    entries[first..].iter().take(max).cloned().collect()
}

/// Whether they have the one that comes behind `after`, and not only later ones.
fn reaches(entries: &Older, after: Seq) -> bool {
    let first = entries.partition_point(|entry| entry.seq <= after);
    entries
        .get(first)
        .is_some_and(|entry| entry.seq.0 == after.0 + 1)
}

/// The end of a transcript in memory, and who waits for more.
#[derive(Debug)]
pub(crate) struct Log {
    id: ConversationId,
    ledger: Ledger,
    ring: Mutex<Ring>,
    /// What was read from the ledger last, while a follower still goes through it: others are about there, too.
    older: AsyncMutex<Weak<Older>>,
    most: usize,
    head: watch::Sender<Head>,
}

impl Log {
    pub(crate) fn new(id: ConversationId, ledger: Ledger, last: Seq, most: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            ledger,
            ring: Mutex::default(),
            older: AsyncMutex::default(),
            most,
            head: watch::Sender::new(Head { last, ended: false }),
        })
    }

    pub(crate) fn last(&self) -> Seq {
        self.head.borrow().last
    }

    /// Shows entries, which are in the ledger.
    pub(crate) fn publish(&self, entries: Vec<Arc<Entry>>) {
        let Some(last) = entries.last().map(|entry| entry.seq) else {
            return;
        };
        let mut ring = self.lock();
        for entry in entries {
            ring.bytes += entry.data.get().len() + EACH;
            ring.entries.push_back(entry);
        }
        while ring.bytes > self.most && ring.entries.len() > 1 {
            if let Some(old) = ring.entries.pop_front() {
                ring.bytes -= old.data.get().len() + EACH;
            }
        }
        drop(ring);
        self.head.send_modify(|head| head.last = last);
    }

    /// No more will come here.
    pub(crate) fn end(&self) {
        self.head.send_modify(|head| head.ended = true);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is in memory behind `after`; `None` when that begins later.
    fn recent(&self, after: Seq, max: usize) -> Option<Vec<Arc<Entry>>> {
        let ring = self.lock();
        let first = ring.entries.front()?.seq.0;
        let skip = (after.0 + 1).checked_sub(first)? as usize;
        Some(ring.entries.iter().skip(skip).take(max).cloned().collect())
    }

    /// What comes behind `after` from the ledger, with more around it. Who asks meanwhile waits, and mostly finds it in the same.
    async fn older(&self, after: Seq, max: usize) -> Result<Arc<Older>> {
        let mut last = self.older.lock().await;
        if let Some(older) = last.upgrade()
            && reaches(&older, after)
        {
            return Ok(older);
        }
        let older = Arc::new(read_rows(&self.ledger, &self.id, after, max).await?);
        *last = Arc::downgrade(&older);
        Ok(older)
    }

    pub(crate) fn follow(self: &Arc<Self>, after: Seq) -> Follower {
        Follower {
            head: self.head.subscribe(),
            log: self.clone(),
            after,
            ahead: None,
        }
    }
}

/// Reads entries from the ledger, up to `max`.
pub(crate) async fn read(
    ledger: &Ledger,
    id: &ConversationId,
    after: Seq,
    max: usize,
) -> Result<Vec<Arc<Entry>>> {
    let mut entries = read_rows(ledger, id, after, max).await?;
    entries.truncate(max);
    Ok(entries)
}

/// Reads entries from the ledger, at least `max` where there are so many, in whole rows: what was read of a row is not read
/// again for the rest of it.
async fn read_rows(
    ledger: &Ledger,
    id: &ConversationId,
    after: Seq,
    max: usize,
) -> Result<Vec<Arc<Entry>>> {
    let (ledger, id) = (ledger.clone(), id.clone());
    let read = move || {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut after = after;
        while entries.len() < max {
            let rows = ledger.transcript(&id, after, ROWS.min(max))?;
            let before = entries.len();
            for row in &rows {
                entries.extend(unpack(row).filter(|entry| entry.seq > after));
            }
            match entries.last() {
                Some(last) if entries.len() > before => after = last.seq,
                _ => break,
            }
        }
        Ok(entries)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(entries) => entries,
        // The runtime is shut down.
        Err(_) => Ok(Vec::new()),
    }
}

/// The entries of a row.
pub(crate) fn unpack(row: &EntryRows) -> impl Iterator<Item = Arc<Entry>> + '_ {
    let kind = row.kind.parse().unwrap_or(EntryKind::Notice);
    let texts: Vec<&str> = match row.n {
        1 => vec![&row.data],
        _ => row.data.split('\n').collect(),
    };
    texts.into_iter().zip(row.seq.0..).map(move |(text, seq)| {
        let data = RawValue::from_string(text.to_owned());
        Arc::new(Entry {
            seq: Seq(seq),
            at: row.at,
            turn: row.turn,
            kind,
            data: data.unwrap_or_else(|_| RawValue::NULL.to_owned()).into(),
        })
    })
}

/// Reads a conversation's transcript from a place on, as it grows. Any number may, each at its own speed: nobody waits for
/// them.
#[derive(Debug)]
pub struct Follower {
    log: Arc<Log>,
    head: watch::Receiver<Head>,
    after: Seq,
    /// What comes next, read from the ledger already.
    ahead: Option<Arc<Older>>,
}

impl Follower {
    /// The number of the last entry that it has given.
    pub fn after(&self) -> Seq {
        self.after
    }

    /// The next entries, up to `max` (1 at the least), as soon as there are any; none when no more will come, for the
    /// conversation has closed here.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    ///
    /// # Errors
    /// [`crate::Error::Read`] where older ones cannot be read from the ledger.
    pub async fn next(&mut self, max: usize) -> Result<Vec<Arc<Entry>>> {
        let max = max.max(1);
        loop {
            let head = *self.head.borrow_and_update();
            if self.after < head.last || self.ahead.is_some() {
                let entries = match self
                    .ahead
                    .is_none()
                    .then(|| self.log.recent(self.after, max))
                {
                    Some(Some(entries)) => entries,
                    _ => self.read_older(max).await?,
                };
                if let Some(last) = entries.last() {
                    self.after = last.seq;
                    return Ok(entries);
                }
            }
            if head.ended || self.head.changed().await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    /// The next entries out of what was read from the ledger.
    async fn read_older(&mut self, max: usize) -> Result<Vec<Arc<Entry>>> {
        let older = match &self.ahead {
            Some(older) => older.clone(),
            None => self.log.older(self.after, max).await?,
        };
        let entries = behind(&older, self.after, max);
        // It is held for as long as there is more of it.
        let last = entries.last().map(|entry| entry.seq);
        let more = last.is_some_and(|last| older.last().is_some_and(|end| last < end.seq));
        self.ahead = more.then_some(older);
        Ok(entries)
    }
}
