//! Writing: entries, and how far the agent was read, are in the ledger in one before anything is shown or done.

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{Change, EntryRows, EntrySeq as Seq, LinkRow, WriteError};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::sleep;

use super::actor::{Actor, Agent};
use super::pending::Pending;
use super::turns::{Queued, Running};
use crate::rpc::raw;
use crate::transcript::{Entry, EntryKind};

/// Between tries to write what the disk has no room for.
const AGAIN: Duration = Duration::from_millis(200);

impl Actor {
    /// Adds an entry; it is shown once it is in the ledger.
    pub(crate) fn push(&mut self, kind: EntryKind, turn: Option<u64>, data: Arc<RawValue>) -> Seq {
        self.last = Seq(self.last.0 + 1);
        self.batch.push(Arc::new(Entry {
            seq: self.last,
            at: self.at,
            turn,
            kind,
            data,
        }));
        self.last
    }

    pub(crate) fn push_json(
        &mut self,
        kind: EntryKind,
        turn: Option<u64>,
        data: &impl Serialize,
    ) -> Seq {
        self.push(kind, turn, raw(data).into())
    }

    /// Does something once what was added so far is in the ledger.
    pub(crate) fn then(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.effects.push(Box::new(effect));
    }

    fn pending(&self) -> Pending {
        let running = self.running.iter().map(Running::pending);
        Pending {
            next_turn: self.next_turn,
            turns: running
                .chain(self.queue.iter().map(Queued::pending))
                .collect(),
            requests: self
                .requests
                .iter()
                .map(|(id, asked)| asked.pending(*id))
                .collect(),
            served: self
                .served
                .values()
                .map(|(served, _)| served.clone())
                .collect(),
            answers: self.unsent.values().cloned().collect(),
            up: matches!(self.agent, Agent::Up(_)),
            writing: self.long > 0,
            untold: self.untold,
            forgotten: self.forgotten,
        }
    }

    fn changes(&mut self, offset: u64) -> Vec<Change> {
        let id = self.shared.id.clone();
        let mut changes = Vec::with_capacity(2);
        if let Some(update) = &self.update {
            changes.push(Change::ConversationChanged {
                id: id.clone(),
                update: Box::new(update.clone()),
            });
        }
        if self.dirty {
            let text = serde_json::to_string(&self.pending()).unwrap_or_default();
            self.pending_text = text.into();
        }
        let moved = self.dirty || offset != self.offset;
        let link = moved.then(|| LinkRow {
            process: self.link.as_ref().map(|link| link.process.id().clone()),
            offset,
            pending: self.pending_text.clone(),
        });
        if link.is_some() || !self.batch.is_empty() {
            changes.push(Change::TranscriptAppended {
                id,
                entries: rows(&self.batch),
                link,
            });
        }
        changes
    }

    fn read_to(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.lines.done())
    }

    /// Tries once to write what was added.
    pub(crate) async fn write(&mut self) -> std::result::Result<(), WriteError> {
        let offset = self.read_to();
        let changes = self.changes(offset);
        if !changes.is_empty() {
            self.shared.ledger().write_unsynced(changes).await?;
        }
        if offset != self.offset
            && let Some(link) = &self.link
        {
            link.settle();
        }
        self.offset = offset;
        self.dirty = false;
        self.update = None;
        self.shared.log.publish(std::mem::take(&mut self.batch));
        for effect in std::mem::take(&mut self.effects) {
            effect();
        }
        Ok(())
    }

    /// Writes what was added, shows it, and does what was to be done then. Waits for room on the disk: meanwhile the agent
    /// is not read from, and waits too.
    pub(crate) async fn commit(&mut self) {
        self.show_use();
        loop {
            match self.write().await {
                Ok(()) => return,
                Err(WriteError::Full | WriteError::ReadOnly | WriteError::Io(_))
                    if self.shared.session.state().is_open() =>
                {
                    sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::error!(conversation = %self.shared.id, %error, "a transcript cannot be written");
                    self.batch.clear();
                    self.effects.clear();
                    self.over = true;
                    return;
                }
            }
        }
    }
}

/// Entries as rows: updates that follow one another share one.
fn rows(entries: &[Arc<Entry>]) -> Vec<EntryRows> {
    let alike = |a: &Arc<Entry>, b: &Arc<Entry>| {
        a.kind == EntryKind::Update && b.kind == EntryKind::Update && a.turn == b.turn
    };
    entries
        .chunk_by(alike)
        .filter_map(|group| {
            let first = group.first()?;
            let length: usize = group.iter().map(|entry| entry.data.get().len() + 1).sum();
            let mut data = String::with_capacity(length);
            for (index, entry) in group.iter().enumerate() {
                if index > 0 {
                    data.push('\n');
                }
                data.push_str(entry.data.get());
            }
            Some(EntryRows {
                seq: first.seq,
                n: group.len() as u32,
                at: first.at,
                turn: first.turn,
                kind: first.kind.as_str().into(),
                data,
            })
        })
        .collect()
}
