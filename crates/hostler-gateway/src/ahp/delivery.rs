//! What is on its way to a client: bounded, in order, and coalesced where the client wants that.
//!
//! Who puts something in never waits. What a client does not take is kept up to a bound; beyond it the client is told to come back
//! ([`Outbox::close`]), and gets a replay or a snapshot then. Texts are shared by all clients that they go to.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahp_types::actions::StateAction;
use axum::extract::ws::Utf8Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::Notify;

use super::channel::Act;

/// How many bytes of actions may wait for a client.
const ROOM: usize = 8 << 20;
/// Below how many of them there is room for a stream that waits for its fastest reader.
const PACE: usize = 1 << 20;
/// How many bytes of answers may wait for a client before nothing more that it asks is looked at.
const ANSWERS: usize = 1 << 20;
/// How many of them are held back for coalescing.
const HELD: usize = 256 << 10;
/// The close code of a client that reads too slowly (RFC 6455, "try again later").
pub(super) const TOO_SLOW: (u16, &str) = (1013, "too slow: reconnect");

/// A piece of text that may be put together with the next one of the same part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    kind: Kind,
    turn: Arc<str>,
    part: Arc<str>,
    text: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delta,
    Reasoning,
    Data,
}

impl Piece {
    /// Of an action that only appends text.
    pub(super) fn of(action: &StateAction) -> Option<Self> {
        let (kind, turn, part, text): (_, &str, &str, &str) = match action {
            StateAction::ChatDelta(a) if a.meta.is_none() => {
                (Kind::Delta, &a.turn_id, &a.part_id, &a.content)
            }
            StateAction::ChatReasoning(a) if a.meta.is_none() => {
                (Kind::Reasoning, &a.turn_id, &a.part_id, &a.content)
            }
            StateAction::TerminalData(a) => (Kind::Data, "", "", &a.data),
            _ => return None,
        };
        Some(Self {
            kind,
            turn: turn.into(),
            part: part.into(),
            text: text.into(),
        })
    }

    fn goes_with(&self, next: &Self) -> bool {
        (self.kind, &self.turn, &self.part) == (next.kind, &next.turn, &next.part)
    }
}

/// An action on its way.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) channel: Arc<str>,
    pub(super) seq: u64,
    pub(super) text: Utf8Bytes,
    pub(super) piece: Option<Piece>,
}

/// A frame that waits, and what came after it for the same part.
#[derive(Debug)]
struct Held {
    frame: Frame,
    /// The text of all, where it is more than the frame's own.
    all: Option<String>,
}

impl Held {
    fn into_text(self) -> Utf8Bytes {
        let (Some(all), Some(piece)) = (self.all, &self.frame.piece) else {
            return self.frame.text;
        };
        let action = match piece.kind {
            Kind::Delta => {
                json!({"type": "chat/delta", "turnId": &*piece.turn, "partId": &*piece.part, "content": all})
            }
            Kind::Reasoning => {
                json!({"type": "chat/reasoning", "turnId": &*piece.turn, "partId": &*piece.part, "content": all})
            }
            Kind::Data => json!({"type": "terminal/data", "data": all}),
        };
        envelope(&self.frame.channel, &action, self.frame.seq, None, None).into()
    }
}

/// The beginning of every message with an envelope; what follows is the envelope, and one `}`.
pub(super) const ENVELOPE: &str = r#"{"jsonrpc":"2.0","method":"action","params":"#;

/// A message with an envelope.
pub(super) fn envelope(
    channel: &str,
    action: &impl Serialize,
    seq: u64,
    origin: Option<&ahp_types::actions::ActionOrigin>,
    rejection: Option<&str>,
) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Envelope<'a, A> {
        channel: &'a str,
        action: &'a A,
        server_seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<&'a ahp_types::actions::ActionOrigin>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rejection_reason: Option<&'a str>,
    }
    let envelope = Envelope {
        channel,
        action,
        server_seq: seq,
        origin,
        rejection_reason: rejection,
    };
    // Values of the protocol's own types always have a text.
    let text = serde_json::to_string(&envelope).unwrap_or_default();
    format!("{ENVELOPE}{text}}}")
}

/// The message with an action, as the client wrote it where one did.
pub(super) fn text_of(uri: &str, seq: u64, act: &Act, rejection: Option<&str>) -> Utf8Bytes {
    let text = match &act.raw {
        Some(raw) => envelope(uri, raw, seq, act.origin.as_ref(), rejection),
        None => envelope(uri, &act.action, seq, act.origin.as_ref(), rejection),
    };
    text.into()
}

#[derive(Debug)]
struct Item {
    /// Whose place it is; 0 is nobody's.
    slot: u64,
    /// `None` while its place is kept for it.
    text: Option<Utf8Bytes>,
    kind: Said,
}

/// What a message is, for the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The host tells it.
    Told,
    /// The client has asked for it.
    Answer,
}

#[derive(Debug, Default)]
struct Queue {
    ready: VecDeque<Item>,
    /// Of what is told.
    bytes: usize,
    /// Of answers.
    answers: usize,
    held: Vec<Held>,
    held_bytes: usize,
    due: Option<Instant>,
    slots: u64,
    closed: Option<(u16, &'static str)>,
    /// Why it is closed once all was sent.
    last_words: Option<(u16, &'static str)>,
}

impl Queue {
    /// The count of a kind.
    fn count(&mut self, kind: Said) -> &mut usize {
        match kind {
            Said::Told => &mut self.bytes,
            Said::Answer => &mut self.answers,
        }
    }

    fn put(&mut self, text: Utf8Bytes, kind: Said) {
        *self.count(kind) += text.len();
        self.ready.push_back(Item {
            slot: 0,
            text: Some(text),
            kind,
        });
    }

    /// What was held back goes, in the order of its numbers: so a client that has one has all before it.
    fn flush(&mut self) {
        self.due = None;
        self.held_bytes = 0;
        let mut held = std::mem::take(&mut self.held);
        held.sort_by_key(|held| held.frame.seq);
        for held in held {
            self.put(held.into_text(), Said::Told);
        }
    }

    fn hold(&mut self, frame: Frame, latency: Duration) {
        self.held_bytes += frame.text.len();
        let due = Instant::now() + latency;
        self.due = Some(self.due.map_or(due, |earlier| earlier.min(due)));
        let before = self
            .held
            .iter_mut()
            .rfind(|held| held.frame.channel == frame.channel);
        if let (Some(held), Some(piece)) = (before, &frame.piece)
            && let Some(first) = &held.frame.piece
            && first.goes_with(piece)
        {
            held.all
                .get_or_insert_with(|| first.text.to_string())
                .push_str(&piece.text);
            held.frame.seq = frame.seq;
            return;
        }
        self.held.push(Held { frame, all: None });
    }

    fn close(&mut self, why: (u16, &'static str)) {
        self.closed.get_or_insert(why);
        self.ready.clear();
        self.held.clear();
        self.bytes = 0;
        self.answers = 0;
        self.held_bytes = 0;
    }
}

/// What there is to wait for when nothing can be sent.
enum Rest {
    Closed,
    /// All was said that there was to say.
    Said,
    /// More, and what is held back until then.
    Due(Option<Instant>),
}

/// What is on its way to one client.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    news: Notify,
    broken: Notify,
    /// Told when something was taken out.
    taken: Notify,
}

/// A place that is kept for an answer: what is sent later comes after it. Dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Slot {
    outbox: Arc<Outbox>,
    slot: u64,
}

impl Slot {
    /// Puts the answer there.
    pub(crate) fn fill(self, text: impl Into<Utf8Bytes>) {
        let text = text.into();
        let mut queue = self.outbox.lock();
        let bytes = text.len();
        let item = queue.ready.iter_mut().find(|item| item.slot == self.slot);
        if let Some(item) = item {
            item.slot = 0;
            item.text = Some(text);
            queue.answers += bytes;
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.outbox
            .lock()
            .ready
            .retain(|item| item.slot != self.slot);
        self.outbox.news.notify_one();
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an action, at the latest after `latency`.
    pub(super) fn send(&self, frame: Frame, latency: Duration) {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return;
        }
        if latency.is_zero() || queue.held_bytes > HELD {
            queue.flush();
            queue.put(frame.text, Said::Told);
        } else {
            queue.hold(frame, latency);
        }
        self.bound(queue);
    }

    /// Sends a notification that is no action.
    pub(super) fn tell(&self, text: impl Into<Utf8Bytes>) {
        let mut queue = self.lock();
        if queue.closed.is_none() {
            queue.flush();
            queue.put(text.into(), Said::Told);
        }
        self.bound(queue);
    }

    /// Who does not read what it is told is to come back.
    fn bound(&self, mut queue: MutexGuard<'_, Queue>) {
        if queue.bytes > ROOM {
            queue.close(TOO_SLOW);
            drop(queue);
            self.broken.notify_one();
            self.taken.notify_waiters();
        } else {
            drop(queue);
        }
        self.news.notify_one();
    }

    /// Sends an answer. Before something is asked, [`Outbox::answered`] is to be waited for.
    pub(crate) fn say(&self, text: impl Into<Utf8Bytes>) {
        let mut queue = self.lock();
        if queue.closed.is_none() {
            queue.flush();
            queue.put(text.into(), Said::Answer);
        }
        drop(queue);
        self.news.notify_one();
    }

    /// Keeps a place for an answer.
    pub(crate) fn reserve(self: &Arc<Self>) -> Slot {
        let mut queue = self.lock();
        queue.flush();
        queue.slots += 1;
        let slot = queue.slots;
        if queue.closed.is_none() {
            queue.ready.push_back(Item {
                slot,
                text: None,
                kind: Said::Answer,
            });
        }
        Slot {
            outbox: self.clone(),
            slot,
        }
    }

    /// What can be sent now.
    pub(super) fn take(&self) -> Option<Utf8Bytes> {
        let mut queue = self.lock();
        if queue.due.is_some_and(|due| due <= Instant::now()) {
            queue.flush();
        }
        let text = queue.ready.front_mut()?.text.take()?;
        if let Some(item) = queue.ready.pop_front() {
            *queue.count(item.kind) -= text.len();
        }
        if queue.bytes < PACE || queue.answers < ANSWERS {
            self.taken.notify_waiters();
        }
        Some(text)
    }

    /// Waits until there is room for more of a stream.
    ///
    /// Cancel safe.
    pub(super) async fn room(&self) {
        self.until(|queue| queue.bytes < PACE).await;
    }

    /// Waits until the client has read most of what was answered. Returns at once where it is gone.
    ///
    /// Cancel safe.
    pub(super) async fn answered(&self) {
        self.until(|queue| queue.answers < ANSWERS).await;
    }

    async fn until(&self, holds: impl Fn(&Queue) -> bool) {
        loop {
            let taken = self.taken.notified();
            if holds(&self.lock()) {
                return;
            }
            taken.await;
        }
    }

    /// What there is to wait for.
    fn rest(&self) -> Rest {
        let mut queue = self.lock();
        if queue.closed.is_some() {
            return Rest::Closed;
        }
        if let (Some(why), true) = (queue.last_words, queue.ready.is_empty()) {
            queue.close(why);
            drop(queue);
            self.broken.notify_one();
            return Rest::Said;
        }
        Rest::Due(queue.due)
    }

    /// Waits for what can be sent. `None`: nothing will come.
    ///
    /// Cancel safe. One reader.
    pub(super) async fn next(&self) -> Option<Utf8Bytes> {
        loop {
            let news = self.news.notified();
            if let Some(text) = self.take() {
                return Some(text);
            }
            let due = match self.rest() {
                Rest::Closed => return None,
                // Who waits for that says why.
                Rest::Said => return std::future::pending().await,
                Rest::Due(due) => due,
            };
            match due {
                None => news.await,
                Some(due) => {
                    tokio::select! {
                        () = news => {}
                        () = tokio::time::sleep_until(due.into()) => {}
                    }
                }
            }
        }
    }

    /// Ends it when what waits has been sent.
    pub(super) fn close_after(&self, why: (u16, &'static str)) {
        self.lock().last_words = Some(why);
        self.news.notify_one();
    }

    /// Ends it: what waits is let go of, and the client is told why.
    pub(super) fn close(&self, why: (u16, &'static str)) {
        self.lock().close(why);
        self.broken.notify_one();
        self.taken.notify_waiters();
        self.news.notify_one();
    }

    /// Waits until it was ended from this side, and says why.
    ///
    /// Cancel safe.
    pub(super) async fn broken(&self) -> (u16, &'static str) {
        loop {
            let broken = self.broken.notified();
            if let Some(why) = self.lock().closed {
                return why;
            }
            broken.await;
        }
    }
}

#[cfg(test)]
#[path = "delivery_tests.rs"]
mod tests;
