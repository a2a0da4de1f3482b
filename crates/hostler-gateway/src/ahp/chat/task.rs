//! The task of one chat: it follows the transcript, and publishes what its entries come to.

use std::sync::Arc;
use std::time::Instant;

use super::super::error::AhpError;
use super::super::hub::{Act, ChannelState, GRACE};
use super::fold::{Folded, Places, each_after};
use super::input::Inputs;
use super::project::{Out, Projector};
use super::{Ask, BATCH, Chat, PIECE, expect, view};
use ahp_types::actions::{
    PartialChatSummary, SessionChatUpdatedAction, SessionTitleChangedAction, StateAction,
};
use ahp_types::state::{ChatState, ChatSummary};
use hostler_agent::{Entry, EntryKind, Seq};
use tokio::sync::mpsc;

/// What one chat follows its transcript with.
pub(super) struct Task {
    pub(super) chat: Arc<Chat>,
    /// The state before anything happened.
    pub(super) empty: ChatState,
    pub(super) projector: Projector,
    pub(super) at: Seq,
    /// How many turns there were, and where one could begin to read.
    pub(super) places: Places,
    /// How many of the first turns are not in the state; `None` where none is, for it is trimmed.
    pub(super) whole_from: Option<usize>,
    pub(super) trim_at: Option<Instant>,
    pub(super) inputs: Inputs,
    pub(super) shown: Option<ChatSummary>,
}

impl Task {
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        let mut follower = self.chat.conversation.follow(self.at);
        self.shown = self.chat.summary();
        self.show_session();
        // The transcript has ended: the session closes, or is the next host's. The chat can be joined until it is gone.
        let mut ended = false;
        loop {
            let trim_at = self.trim_at;
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(Ask::Whole(turns, reply)) => {
                        self.trim_at = None;
                        let _ = reply.send(self.make_whole(turns).await);
                    }
                    Some(Ask::Left) => self.trim_at = Some(Instant::now() + GRACE),
                    Some(Ask::Over) | None => return,
                },
                entries = follower.next(BATCH), if !ended => {
                    let entries = match entries {
                        Ok(entries) => entries,
                        Err(error) => {
                            tracing::error!(chat = %self.chat.uri, %error, "a transcript cannot be read");
                            return;
                        }
                    };
                    ended = entries.is_empty();
                    let mut shown = 0;
                    for entry in entries {
                        self.at = entry.seq;
                        self.show(&entry);
                        shown += entry.data.get().len();
                        if shown > PIECE {
                            // As fast as the fastest of those who follow.
                            self.chat.hub.room(&self.chat.uri).await;
                            shown = 0;
                        }
                    }
                    self.leave_seen();
                    self.show_session();
                }
                () = tokio::time::sleep_until(trim_at.unwrap_or_else(Instant::now).into()), if trim_at.is_some() => {
                    self.trim_at = None;
                    if self.chat.hub.followers(&self.chat.uri) == 0 {
                        self.whole_from = None;
                        self.trim();
                    }
                }
            }
        }
    }

    fn show(&mut self, entry: &Entry) {
        for out in self.projector.take(entry) {
            match out {
                Out::Chat(mut act) => {
                    self.places.pass(&act.action);
                    self.claim(&mut act);
                    self.chat.hub.act(&self.chat.uri, act);
                }
                Out::Session(act) => drop(self.chat.hub.act(&self.chat.session, act)),
                Out::Agent(update) => {
                    if let Some(action) = super::super::config::changed(&update) {
                        self.chat.hub.publish(&self.chat.session, action, None);
                    }
                }
            }
        }
        self.places.note(&self.projector, entry);
        if self.whole_from.is_none() && entry.kind == EntryKind::TurnEnded {
            self.trim();
        }
    }

    /// An action that a client asked for is that client's.
    fn claim(&self, act: &mut Act) {
        let (key, as_asked) = match &act.action {
            StateAction::ChatTurnCancelled(a) => (expect::turn(&a.turn_id), true),
            StateAction::ChatTurnComplete(a) => (expect::turn(&a.turn_id), false),
            StateAction::ChatError(a) => (expect::turn(&a.turn_id), false),
            StateAction::ChatPendingMessageRemoved(a) => (expect::message(&a.id), true),
            _ => return,
        };
        let Some((who, expected)) = self.chat.seen().expected.remove(&key) else {
            return;
        };
        if as_asked {
            act.origin = expected.origin;
        } else {
            let why = "the turn had ended by itself";
            self.chat
                .hub
                .tell(&who, &self.chat.uri, &expected, Some(why));
        }
    }

    fn trim(&self) {
        self.chat.hub.exchange(&self.chat.uri, |state| {
            if let ChannelState::Chat(state) = state {
                state.turns = Vec::new();
                state.turns_next_cursor = None;
            }
        });
    }

    async fn make_whole(&mut self, turns: Option<usize>) -> Result<(), AhpError> {
        let wanted = turns.map_or(0, |turns| self.places.turns.saturating_sub(turns));
        if self.whole_from.is_some_and(|from| from <= wanted) {
            return Ok(());
        }
        let (from, after) = self.places.before(wanted);
        let mut state = self.empty.clone();
        let mut folded = Folded::default();
        let conversation = &self.chat.conversation;
        each_after(conversation, after, self.at, |entry| {
            folded.take(&entry, &mut state);
        })
        .await?;
        // What is under way, and what else was said, the state has.
        let first = state.turns.first().map(|turn| &*turn.id);
        let cursor = (from > 0).then(|| view::cursor(first));
        self.chat.hub.exchange(&self.chat.uri, |now| {
            if let ChannelState::Chat(now) = now {
                now.turns = state.turns;
                now.turns_next_cursor = cursor;
            }
        });
        self.whole_from = Some(from);
        Ok(())
    }

    /// For those who dispatch.
    pub(super) fn leave_seen(&mut self) {
        let mut seen = self.chat.seen();
        let active = self.projector.active.as_ref();
        seen.active = active.map(|active| (active.turn, active.id.clone()));
        seen.queue = self.projector.queue.iter().cloned().collect();
        let asked = self.projector.asked.iter();
        seen.asked = asked.map(|(id, asked)| (*id, asked.clone())).collect();
        drop(seen);
        self.chat.shown.send_replace(self.at);
    }

    /// What the session shows of the chat.
    fn show_session(&mut self) {
        let (hub, session) = (&self.chat.hub, &self.chat.session);
        for action in self.inputs.changes(&self.chat, &self.projector.asked) {
            hub.publish(session, action, None);
        }
        let Some(now) = self.chat.summary() else {
            return;
        };
        if self.shown.as_ref() == Some(&now) {
            return;
        }
        let before = self.shown.replace(now.clone());
        let before = before.as_ref();
        let changes = PartialChatSummary {
            title: (before.map(|before| &before.title) != Some(&now.title))
                .then(|| now.title.clone()),
            status: (before.map(|before| before.status) != Some(now.status)).then_some(now.status),
            modified_at: (before.map(|before| &before.modified_at) != Some(&now.modified_at))
                .then(|| now.modified_at.clone()),
            ..PartialChatSummary::default()
        };
        if self.chat.is_default && changes.title.is_some() {
            self.retitle(&now.title);
        }
        let action = SessionChatUpdatedAction {
            chat: self.chat.uri.to_string(),
            changes,
        };
        hub.publish(session, StateAction::SessionChatUpdated(action), None);
        self.chat.changed.notify_one();
    }

    fn retitle(&self, title: &str) {
        let look = |state: &ChannelState| match state {
            ChannelState::Session(state) => state.title != title,
            _ => false,
        };
        if self.chat.hub.look(&self.chat.session, look) == Some(true) {
            let action = SessionTitleChangedAction {
                title: title.to_owned(),
            };
            let action = StateAction::SessionTitleChanged(action);
            self.chat.hub.publish(&self.chat.session, action, None);
        }
    }
}
