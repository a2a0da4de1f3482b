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
mod task;
mod tool;
pub(super) mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahp_types::actions::StateAction;
use ahp_types::commands::SubscribeView;
use ahp_types::state::{BackgroundWork, ChatState, ChatSummary, Message, SessionStatus};
use hostler_agent::{ClientCapabilities, Conversation, RequestId, Seq};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::ask::Asked;
use self::fold::{Folded, each};
use self::input::Inputs;
use self::project::{Out, Projector, Waiting};
use self::task::Task;
use super::error::{AhpError, Rejection};
use super::hub::{Act, Channel, ChannelState, Dispatched, Held, Hub, Taken, Who, Work};
use super::session::held;
use crate::wire::iso_8601;

pub(super) use note::Note;

/// How many entries are read at once.
const BATCH: usize = 1024;
/// How long a dispatch waits for what was dispatched before to be shown.
const BEHIND: std::time::Duration = std::time::Duration::from_secs(2);
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
    /// The chat is no more.
    Over,
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
    /// The last entry that was shown.
    shown: watch::Sender<Seq>,
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
            shown: watch::Sender::new(upto),
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

    /// Takes it from the channels.
    pub(super) fn remove(&self) {
        self.hub.remove(&self.uri);
        let _ = self.asks.send(Ask::Over);
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
                answers: who.answers,
                raw: None,
            };
            let held = held(self.conversation.attach(&who.by, capabilities).await)?;
            self.whole(turns).await?;
            Ok(held)
        })
    }

    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(async move {
            // What was dispatched before is seen.
            let (last, mut shown) = (self.conversation.last(), self.shown.subscribe());
            let seen = shown.wait_for(|shown| *shown >= last);
            let _ = tokio::time::timeout(BEHIND, seen).await;
            self.dispatched(who, dispatched).await
        })
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
