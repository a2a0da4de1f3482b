//! Agents that nobody uses: ended after a time, or where too many are up. Their conversations stay.

use std::sync::OnceLock;

use hostler_session::By;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::actor::{Actor, Agent, Message};
use crate::transcript::EntryKind;

/// Whether a conversation's agent is up, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Used {
    /// There is none.
    Absent,
    /// It does nothing since then: microseconds since the first of all.
    Idle(u64),
    /// Something is under way.
    Busy,
    /// Its session has closed.
    Gone,
}

/// The same, for others to look at and to wait for.
#[derive(Debug)]
pub(crate) struct UsedCell(watch::Sender<Used>);

impl Default for UsedCell {
    fn default() -> Self {
        Self(watch::Sender::new(Used::Absent))
    }
}

impl UsedCell {
    pub(crate) fn get(&self) -> Used {
        *self.0.borrow()
    }

    /// Tells of each change.
    pub(crate) fn watch(&self) -> watch::Receiver<Used> {
        self.0.subscribe()
    }

    pub(crate) fn set(&self, used: Used) {
        self.0
            .send_if_modified(|now| std::mem::replace(now, used) != used);
    }
}

fn micros(at: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(Instant::now);
    at.saturating_duration_since(first).as_micros() as u64 + 1
}

impl Actor {
    /// Whether its agent is up, and nothing waits for it or is waited for by it.
    fn is_idle(&self) -> bool {
        matches!(self.agent, Agent::Up(_))
            && self.running.is_none()
            && self.queue.is_empty()
            && self.waiting.is_empty()
            && self.renewing.is_none()
            && self.requests.is_empty()
            && self.served.is_empty()
            && self.unsent.is_empty()
            && self
                .link
                .as_ref()
                .is_none_or(|link| link.caller.calls.is_empty())
    }

    /// Lets others see how the agent stands.
    pub(crate) fn show_use(&self) {
        self.shared.used.set(match &self.agent {
            Agent::Absent => Used::Absent,
            _ if self.is_idle() => Used::Idle(micros(self.used)),
            _ => Used::Busy,
        });
    }

    /// When the agent has done nothing for too long.
    pub(crate) fn idle_until(&self) -> Option<Instant> {
        let idle = self.shared.options.agent_idle;
        (!idle.is_zero() && self.is_idle()).then(|| self.used + idle)
    }

    pub(crate) fn idle_due(&mut self, now: Instant) {
        if self.idle_until().is_some_and(|until| until <= now) {
            let by = By::new("host", "nobody has used the agent for a while");
            self.retire(&by);
        }
    }

    /// Ends the agent if it does nothing.
    pub(crate) fn retire(&mut self, by: &By) {
        if !self.is_idle() {
            return;
        }
        self.drop_agent(by);
        let notice = json!({ "notice": "evicted", "by": by });
        self.push_json(EntryKind::Notice, None, &notice);
    }

    /// Somebody uses the agent.
    pub(crate) fn note_use(&mut self, message: &Message) {
        if matches!(
            message,
            Message::Ready { .. }
                | Message::Prompt { .. }
                | Message::Notify { .. }
                | Message::Answer { .. }
                | Message::Built { .. }
        ) {
            self.used = Instant::now();
        }
    }
}
