//! Turns by their number: how they ended, and what was said in them, also in an earlier host.

use std::sync::Arc;

use hostler_ledger::{ConversationId, EntryRows, EntrySeq as Seq, Ledger};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::agents::Agents;
use crate::conversation::{Conversation, TurnEnd};
use crate::error::Result;
use crate::follow::unpack;
use crate::rpc::RpcError;
use crate::transcript::EntryKind;

/// How many entries or rows are read at once.
const AT_ONCE: usize = 64;
/// How much of a turn's text is given, in bytes.
const MOST: usize = 4 << 20;

#[derive(Deserialize)]
struct Ended {
    #[serde(default)]
    result: Option<Box<RawValue>>,
    #[serde(default)]
    error: Option<RpcError>,
    #[serde(default)]
    interrupted: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    update: Update,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    session_update: String,
    #[serde(default)]
    content: Content,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Content {
    text: String,
}

/// What an entry of kind turn_ended says.
fn end_of(data: &RawValue) -> Option<TurnEnd> {
    let ended: Ended = serde_json::from_str(data.get()).ok()?;
    match ended {
        Ended {
            result: Some(result),
            ..
        } => Some(TurnEnd::Result(Arc::from(result))),
        Ended {
            error: Some(error), ..
        } => Some(TurnEnd::Error(error)),
        Ended { interrupted, .. } => interrupted.map(TurnEnd::Interrupted),
    }
}

/// Goes through the rows of a turn behind `after`, up to its end or until `each` has what it wants. Blocks for the disk.
fn rows_of<T>(
    ledger: &Ledger,
    id: &ConversationId,
    turn: u64,
    after: Seq,
    mut each: impl FnMut(EntryKind, &EntryRows) -> Option<T>,
) -> Result<Option<T>> {
    let mut at = after;
    loop {
        let rows = ledger.transcript(id, at, AT_ONCE)?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        at = Seq(last.seq.0 + u64::from(last.n) - 1);
        for row in rows.iter().filter(|row| row.turn == Some(turn)) {
            let kind = row.kind.parse().unwrap_or(EntryKind::Notice);
            if let Some(found) = each(kind, row) {
                return Ok(Some(found));
            }
            if kind == EntryKind::TurnEnded {
                return Ok(None);
            }
        }
    }
}

impl Conversation {
    /// Waits for the end of a turn whose prompt is behind `after`, or is `after` itself: also of one that has ended before, and
    /// of one that an earlier host was asked for. `None` where the conversation ends here without it: closed before it was
    /// asked for, or handed to the next host.
    ///
    /// Cancel safe: the turn goes on.
    pub fn turn(
        &self,
        id: u64,
        after: Seq,
    ) -> impl Future<Output = Option<TurnEnd>> + Send + use<> {
        let mut follower = self.follow(after);
        async move {
            loop {
                let entries = follower.next(AT_ONCE).await.ok()?;
                if entries.is_empty() {
                    return None;
                }
                let end = entries
                    .iter()
                    .find(|entry| entry.kind == EntryKind::TurnEnded && entry.turn == Some(id));
                if let Some(end) = end {
                    return end_of(&end.data);
                }
            }
        }
    }
}

impl Agents {
    /// How a turn ended whose prompt is behind `after`, of any conversation, live or not, from the ledger; `None` where it has
    /// not. Blocks for the disk, as other listings do.
    ///
    /// # Errors
    /// [`crate::Error::Read`].
    pub fn turn_end(&self, id: &ConversationId, turn: u64, after: Seq) -> Result<Option<TurnEnd>> {
        let end = rows_of(self.ledger(), id, turn, after, |kind, row| {
            let ended = kind == EntryKind::TurnEnded;
            ended.then(|| unpack(row).next().and_then(|entry| end_of(&entry.data)))
        })?;
        Ok(end.flatten())
    }

    /// What the agent said in a turn whose prompt is behind `after`: the text of its `agent_message_chunk`s, joined, up to
    /// 4 MiB; of more, a note at the end says how much there was. Blocks for the disk.
    ///
    /// # Errors
    /// [`crate::Error::Read`].
    pub fn turn_text(&self, id: &ConversationId, turn: u64, after: Seq) -> Result<String> {
        let (mut text, mut cut) = (String::new(), 0_usize);
        rows_of(self.ledger(), id, turn, after, |kind, row| {
            if kind != EntryKind::Update {
                return None::<()>;
            }
            for entry in unpack(row).filter(|entry| entry.seq > after) {
                let Ok(said) = serde_json::from_str::<Said>(entry.data.get()) else {
                    continue;
                };
                if said.update.session_update != "agent_message_chunk" {
                    continue;
                }
                let said = said.update.content.text;
                let room = if cut > 0 { 0 } else { MOST - text.len() };
                let fits = said.floor_char_boundary(room.min(said.len()));
                text.push_str(&said[..fits]);
                cut += said.len() - fits;
            }
            None
        })?;
        if cut > 0 {
            text.push_str(&format!("\n[{cut} bytes more were cut off]"));
        }
        Ok(text)
    }
}
