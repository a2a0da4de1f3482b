//! Transcripts as states: wholly, from a place on, or without what is over.

use std::sync::Arc;

use ahp::reducers::apply_action_to_chat;
use ahp_types::actions::StateAction;
use ahp_types::state::ChatState;
use hostler_agent::{Conversation, Entry, EntryKind, Seq};

use super::BATCH;
use super::note::Said;
use super::project::{Out, Projector};
use crate::ahp::config;
use crate::ahp::error::AhpError;

/// Reads a transcript up to an entry, one after the other.
pub(super) async fn each(
    conversation: &Conversation,
    upto: Seq,
    each: impl FnMut(Arc<Entry>),
) -> Result<(), AhpError> {
    each_after(conversation, Seq::START, upto, each).await
}

/// The same from behind another one.
pub(super) async fn each_after(
    conversation: &Conversation,
    after: Seq,
    upto: Seq,
    mut each: impl FnMut(Arc<Entry>),
) -> Result<(), AhpError> {
    let mut follower = conversation.follow(after);
    while follower.after() < upto {
        let left = usize::try_from(upto.0 - follower.after().0).unwrap_or(BATCH);
        let entries = follower.next(left.min(BATCH)).await?;
        if entries.is_empty() {
            break;
        }
        entries.into_iter().for_each(&mut each);
        // A long one leaves others their turn.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Places of a transcript at which nothing is under way, so that what follows can be read without what was before.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// How many turns have ended so far.
    pub(super) turns: usize,
    /// How many had ended there, and the last entry before it.
    known: Vec<(usize, Seq)>,
}

impl Places {
    /// Between one place and the next are so many turns.
    const APART: usize = 8;

    pub(super) fn pass(&mut self, action: &StateAction) {
        let ends = matches!(
            action,
            StateAction::ChatTurnComplete(_)
                | StateAction::ChatTurnCancelled(_)
                | StateAction::ChatError(_)
        );
        self.turns += usize::from(ends);
    }

    pub(super) fn note(&mut self, projector: &Projector, entry: &Entry) {
        let last = self.known.last().map_or(0, |(turns, _)| *turns);
        let ends = entry.kind == EntryKind::TurnEnded;
        if ends && self.turns >= last + Self::APART && projector.is_idle() {
            self.known.push((self.turns, entry.seq));
        }
    }

    /// The last place at which no more than so many turns had ended.
    pub(super) fn before(&self, turns: usize) -> (usize, Seq) {
        let behind = self.known.partition_point(|(known, _)| *known <= turns);
        let found = behind
            .checked_sub(1)
            .and_then(|place| self.known.get(place));
        found.copied().unwrap_or((0, Seq::START))
    }
}

/// A transcript that was projected and reduced.
#[derive(Debug, Default)]
pub(super) struct Folded {
    pub(super) projector: Projector,
    pub(super) places: Places,
    /// What clients dispatched to the session, and what the agent that is up told of what is chosen.
    pub(super) session: Vec<StateAction>,
}

impl Folded {
    pub(super) fn take(&mut self, entry: &Entry, state: &mut ChatState) {
        for out in self.projector.take(entry) {
            match out {
                Out::Chat(act) => {
                    self.places.pass(&act.action);
                    apply_action_to_chat(state, &act.action);
                }
                Out::Session(act) => self.session.push(act.action),
                Out::Agent(update) => self.session.extend(config::changed(&update)),
            }
        }
        if is_start(entry) {
            // An agent that comes up says anew what is chosen of it.
            self.session
                .retain(|action| !matches!(action, StateAction::SessionConfigChanged(_)));
        }
        self.places.note(&self.projector, entry);
    }

    /// Without what turns that have ended consisted of: only that they were.
    pub(super) async fn trimmed(
        &mut self,
        conversation: &Conversation,
        upto: Seq,
        state: &mut ChatState,
    ) -> Result<(), AhpError> {
        let mut trimming = Trimming::default();
        each(conversation, upto, |entry| {
            trimming.take(entry, self, state)
        })
        .await?;
        trimming.finish(self, state);
        Ok(())
    }
}

/// Leaves out what turns that have ended consisted of.
#[derive(Debug, Default)]
pub(super) struct Trimming {
    waiting: Vec<Arc<Entry>>,
}

/// Whether an entry is a part of a turn alone.
fn is_inner(entry: &Entry) -> bool {
    let kinds = [EntryKind::Update, EntryKind::Request, EntryKind::Answer];
    entry.turn.is_some() && kinds.contains(&entry.kind) && !config::may_be(&entry.data)
}

/// Whether an agent has come up.
fn is_start(entry: &Entry) -> bool {
    entry.kind == EntryKind::Notice
        && serde_json::from_str::<Said>(entry.data.get())
            .is_ok_and(|said| said.notice == "agent_started")
}

impl Trimming {
    pub(super) fn take(&mut self, entry: Arc<Entry>, folded: &mut Folded, state: &mut ChatState) {
        let ended = (entry.kind == EntryKind::TurnEnded).then_some(entry.turn);
        self.waiting.push(entry);
        let Some(turn) = ended else { return };
        self.waiting
            .retain(|entry| !is_inner(entry) || entry.turn != turn);
        if !self.waiting.iter().any(|entry| is_inner(entry)) {
            self.finish(folded, state);
        }
    }

    pub(super) fn finish(&mut self, folded: &mut Folded, state: &mut ChatState) {
        for entry in self.waiting.drain(..) {
            folded.take(&entry, state);
        }
        state.turns.clear();
    }
}
