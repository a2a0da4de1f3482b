//! Chats: conversations as clients see them.
//!
//! A chat is one task that follows the transcript of a conversation, projects its entries ([`project`]) and publishes what they
//! come to. The state that the hub holds has all turns only while somebody follows; else it is trimmed to what is under way, and
//! made whole again from the ledger, by the same projection, before the next one joins.

mod ask;
mod dispatch;
mod fold;
mod input;
mod message;
mod note;
mod project;
mod tool;
pub(super) mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ahp_types::actions::{
    PartialChatSummary, SessionChatUpdatedAction, SessionTitleChangedAction, StateAction,
};
use ahp_types::commands::SubscribeView;
use ahp_types::state::{BackgroundWork, ChatState, ChatSummary, Message, SessionStatus};
use hostler_agent::{ClientCapabilities, Conversation, Entry, EntryKind, RequestId, Seq};
use tokio::sync::{Notify, mpsc, oneshot};

use self::ask::Asked;
use self::fold::{Folded, Places, each, each_after};
use self::input::Inputs;
use self::project::{Out, Projector, Waiting};
use super::error::{AhpError, Rejection};
use super::hub::{Act, Channel, ChannelState, Dispatched, GRACE, Held, Hub, Taken, Who, Work};
use crate::wire::iso_8601;

pub(super) use note::Note;

/// How many entries are read at once.
const BATCH: usize = 1024;
/// How much of a transcript is shown before those who follow are waited for, in bytes.
const PIECE: usize = 64 << 10;

/// The content blocks of a prompt that says this.
pub(super) fn prompt_of(message: &Message) -> Vec<serde_json::Value> {
    message::to_prompt(message)
}

/// What the task is asked.
#[derive(Debug)]
enum Ask {
    /// Make the state whole, or so many turns of it.
    Whole(Option<usize>, oneshot::Sender<Result<(), AhpError>>),
    /// Nobody follows any more.
    Left,
}

/// What dispatches look at, and leave for the task.
#[derive(Debug, Default)]
struct Seen {
    /// The turn that runs: its number, and what clients call it.
    active: Option<(u64, String)>,
    queue: Vec<Waiting>,
    asked: Vec<(RequestId, Asked)>,
    /// Whose actions are expected, by what they are about.
    expected: HashMap<String, (Who, Act)>,
}

/// A chat.
pub(super) struct Chat {
    pub(super) uri: Arc<str>,
    /// The session's channel.
    pub(super) session: Arc<str>,
    pub(super) conversation: Conversation,
    /// Whether it is the session's own conversation.
    pub(super) is_default: bool,
    hub: Hub,
    asks: mpsc::UnboundedSender<Ask>,
    seen: Mutex<Seen>,
    /// Told when what the session shows of it has changed.
    changed: Arc<Notify>,
}

/// What a chat begins with.
pub(super) struct Begin {
    pub(super) uri: Arc<str>,
    pub(super) session: Arc<str>,
    pub(super) conversation: Conversation,
    pub(super) is_default: bool,
    /// Its state before anything happened.
    pub(super) state: ChatState,
    pub(super) changed: Arc<Notify>,
}

impl Chat {
    /// Registers the channel of a conversation, as it stands now. [`Started::follow`] goes on from there.
    ///
    /// # Errors
    /// Where its transcript cannot be read.
    pub(super) async fn start(hub: &Hub, begin: Begin) -> Result<Started, AhpError> {
        let (asks, inbox) = mpsc::unbounded_channel();
        let empty = begin.state.clone();
        let upto = begin.conversation.last();
        let chat = Arc::new(Self {
            uri: begin.uri,
            session: begin.session,
            conversation: begin.conversation,
            is_default: begin.is_default,
            hub: hub.clone(),
            asks,
            seen: Mutex::default(),
            changed: begin.changed,
        });
        let mut state = begin.state;
        let mut folded = Folded::default();
        folded.trimmed(&chat.conversation, upto, &mut state).await?;
        state.turns.clear();
        let state = ChannelState::Chat(Box::new(state));
        hub.register(chat.uri.clone(), state, chat.clone());
        let mut task = Task {
            chat: chat.clone(),
            empty,
            projector: folded.projector,
            at: upto,
            places: folded.places,
            whole_from: None,
            trim_at: None,
            inputs: Inputs::default(),
            shown: None,
        };
        task.leave_seen();
        Ok(Started {
            chat,
            session: folded.session,
            task,
            inbox,
        })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the chat's state.
    pub(super) fn look<T>(&self, look: impl FnOnce(&ChatState) -> T) -> Option<T> {
        let look = |state: &ChannelState| match state {
            ChannelState::Chat(state) => Some(look(state)),
            _ => None,
        };
        self.hub.look(&self.uri, look).flatten()
    }

    /// What its session shows of it.
    pub(super) fn summary(&self) -> Option<ChatSummary> {
        let title = self.conversation.info().title;
        self.look(|state| ChatSummary {
            resource: state.resource.clone(),
            title: title.unwrap_or_else(|| state.title.clone()),
            status: state.status,
            activity: state.activity.clone(),
            modified_at: state.modified_at.clone(),
            changes: None,
            origin: state.origin.clone(),
            movable: state.movable,
            interactivity: state.interactivity,
            working_directories: state.working_directories.clone(),
        })
    }

    /// Makes the state whole: with all turns, or so many of the last at the least.
    pub(super) async fn whole(&self, turns: Option<usize>) -> Result<(), AhpError> {
        let (reply, answer) = oneshot::channel();
        let gone = || AhpError::not_found(format!("chat `{}` has closed", self.uri));
        self.asks
            .send(Ask::Whole(turns, reply))
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// The last entry of a turn that has ended, by what clients call the turn.
    ///
    /// # Errors
    /// Where the transcript cannot be read.
    pub(super) async fn end_of(&self, turn: &str) -> Result<Option<Seq>, AhpError> {
        let mut projector = Projector::default();
        let mut found = None;
        let upto = self.conversation.last();
        each(&self.conversation, upto, |entry| {
            for out in projector.take(&entry) {
                let Out::Chat(act) = out else { continue };
                let ended = match &act.action {
                    StateAction::ChatTurnComplete(a) => &a.turn_id,
                    StateAction::ChatTurnCancelled(a) => &a.turn_id,
                    StateAction::ChatError(a) => &a.turn_id,
                    _ => continue,
                };
                if ended == turn {
                    found = Some(entry.seq);
                }
            }
        })
        .await?;
        Ok(found)
    }
}

impl Channel for Chat {
    fn join_view<'a>(
        &'a self,
        who: &'a Who,
        view: Option<&'a SubscribeView>,
    ) -> Work<'a, Result<Option<Held>, AhpError>> {
        let turns = view.and_then(|view| usize::try_from(view.turns?).ok());
        Box::pin(async move {
            let capabilities = ClientCapabilities {
                answers: true,
                raw: None,
            };
            let guard = self.conversation.attach(&who.by, capabilities).await?;
            self.whole(turns).await?;
            let held: Held = Box::new(guard);
            Ok(Some(held))
        })
    }

    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(self.dispatched(who, dispatched))
    }

    fn followed(&self, by: usize) {
        if by == 0 {
            let _ = self.asks.send(Ask::Left);
        }
    }
}

/// A chat that stands as its transcript says, and does not follow it yet.
pub(super) struct Started {
    pub(super) chat: Arc<Chat>,
    /// What clients dispatched to its session.
    pub(super) session: Vec<StateAction>,
    task: Task,
    inbox: mpsc::UnboundedReceiver<Ask>,
}

impl Started {
    /// Its session is there: it follows, and tells the session what is new.
    pub(super) fn follow(self) -> Arc<Chat> {
        tokio::spawn(self.task.run(self.inbox));
        self.chat
    }
}

struct Task {
    chat: Arc<Chat>,
    /// The state before anything happened.
    empty: ChatState,
    projector: Projector,
    at: Seq,
    /// How many turns there were, and where one could begin to read.
    places: Places,
    /// How many of the first turns are not in the state; `None` where none is, for it is trimmed.
    whole_from: Option<usize>,
    trim_at: Option<Instant>,
    inputs: Inputs,
    shown: Option<ChatSummary>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Ask>) {
        let mut follower = self.chat.conversation.follow(self.at);
        self.shown = self.chat.summary();
        self.show_session();
        loop {
            let trim_at = self.trim_at;
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(Ask::Whole(turns, reply)) => {
                        self.trim_at = None;
                        let _ = reply.send(self.make_whole(turns).await);
                    }
                    Some(Ask::Left) => self.trim_at = Some(Instant::now() + GRACE),
                    None => return,
                },
                entries = follower.next(BATCH) => {
                    let entries = match entries {
                        Ok(entries) => entries,
                        Err(error) => {
                            tracing::error!(chat = %self.chat.uri, %error, "a transcript cannot be read");
                            return;
                        }
                    };
                    if entries.is_empty() {
                        // The session has closed, or is the next host's.
                        return;
                    }
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
                    if let Some(action) = super::config::changed(&update) {
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
    fn leave_seen(&mut self) {
        let mut seen = self.chat.seen();
        let active = self.projector.active.as_ref();
        seen.active = active.map(|active| (active.turn, active.id.clone()));
        seen.queue = self.projector.queue.iter().cloned().collect();
        let asked = self.projector.asked.iter();
        seen.asked = asked.map(|(id, asked)| (*id, asked.clone())).collect();
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

/// By what an action is known that a client asked for.
mod expect {
    pub(super) fn turn(id: &str) -> String {
        format!("turn {id}")
    }

    pub(super) fn message(id: &str) -> String {
        format!("message {id}")
    }
}

/// A chat in which nothing happened yet.
pub(super) fn empty(uri: &str, title: String, created: u64) -> ChatState {
    ChatState {
        resource: uri.to_owned(),
        title,
        status: SessionStatus::Idle.bits(),
        activity: None,
        modified_at: iso_8601(created),
        changes: None,
        origin: None,
        movable: Some(false),
        interactivity: None,
        working_directories: None,
        changesets: None,
        background_work: None::<Vec<BackgroundWork>>,
        canvases: None,
        turns: Vec::new(),
        turns_next_cursor: None,
        active_turn: None,
        steering_message: None,
        queued_messages: None,
        draft: None,
        meta: None,
    }
}
