//! Channels: what they have in common, whatever they show.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use ahp::reducers::{
    ReduceOutcome, apply_action_to_automation, apply_action_to_automation_run,
    apply_action_to_chat, apply_action_to_resource_watch, apply_action_to_root,
    apply_action_to_session, apply_action_to_terminal,
};
use ahp_types::actions::{ActionOrigin, StateAction};
use ahp_types::commands::SubscribeView;
use ahp_types::state::{
    AutomationRunState, AutomationState, ChatState, ResourceWatchState, RootState, SessionState,
    TerminalState,
};
use serde::Serialize;
use serde_json::value::RawValue;

use super::chat::view;
use super::error::{AhpError, Rejection};

/// A future of a channel.
pub(crate) type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How a channel stands.
#[derive(Debug)]
pub(crate) enum ChannelState {
    Root(Box<RootState>),
    Session(Box<SessionState>),
    Chat(Box<ChatState>),
    Terminal(Box<TerminalState>),
    Watch(Box<ResourceWatchState>),
    Automations(Box<AutomationState>),
    AutomationRun(Box<AutomationRunState>),
    /// It has no state, and only passes on.
    None,
}

impl ChannelState {
    pub(super) fn reduce(&mut self, action: &StateAction) -> ReduceOutcome {
        match self {
            Self::Root(state) => apply_action_to_root(state, action),
            Self::Session(state) => apply_action_to_session(state, action),
            Self::Chat(state) => apply_action_to_chat(state, action),
            Self::Terminal(state) => apply_action_to_terminal(state, action),
            Self::Watch(state) => apply_action_to_resource_watch(state, action),
            Self::Automations(state) => apply_action_to_automation(state, action),
            Self::AutomationRun(state) => apply_action_to_automation_run(state, action),
            Self::None => ReduceOutcome::NoOp,
        }
    }

    /// The snapshot as JSON.
    pub(super) fn snapshot(
        &self,
        uri: &str,
        seq: u64,
        view: Option<&SubscribeView>,
    ) -> Option<Box<RawValue>> {
        match self {
            Self::Root(state) => snapshot(uri, seq, state),
            Self::Session(state) => snapshot(uri, seq, state),
            Self::Chat(state) => match view::windowed(state, view) {
                Some(window) => snapshot(uri, seq, &window),
                None => snapshot(uri, seq, state),
            },
            Self::Terminal(state) => snapshot(uri, seq, state),
            Self::Watch(state) => snapshot(uri, seq, state),
            Self::Automations(state) => snapshot(uri, seq, state),
            Self::AutomationRun(state) => snapshot(uri, seq, state),
            Self::None => None,
        }
    }
}

fn snapshot(uri: &str, seq: u64, state: &impl Serialize) -> Option<Box<RawValue>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Snapshot<'a, S> {
        resource: &'a str,
        state: &'a S,
        from_seq: u64,
    }
    let snapshot = Snapshot {
        resource: uri,
        state,
        from_seq: seq,
    };
    serde_json::value::to_raw_value(&snapshot).ok()
}

/// A client that asks something of a channel.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// Its connection.
    pub(crate) connection: u64,
    /// What it calls itself.
    pub(crate) client: Arc<str>,
    /// For the ledger.
    pub(crate) by: Arc<str>,
    /// Whether somebody is there who answers what agents ask.
    pub(crate) answers: bool,
}

impl Who {
    /// Who asks, and for what, for the ledger.
    pub(crate) fn by(&self, why: impl Into<String>) -> hostler_session::By {
        hostler_session::By::new(&*self.by, why)
    }
}

/// An action that a client dispatched.
#[derive(Debug, Clone)]
pub(crate) struct Dispatched {
    /// The action.
    pub(crate) action: StateAction,
    /// The same as it came, with what is not known here.
    pub(crate) raw: Box<RawValue>,
    /// Who dispatched it.
    pub(crate) origin: ActionOrigin,
}

/// What became of an action that a client dispatched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is to be shown to all, as it came.
    Echo,
    /// Its channel shows it itself, when it has come about.
    Shown,
}

/// What is held for as long as a subscription lasts; dropping it lets go.
pub(crate) type Held = Box<dyn Any + Send>;

/// What a channel does.
pub(crate) trait Channel: Send + Sync {
    /// A client wants to follow: makes the state whole, and gives what is to be held for the client meanwhile.
    fn join<'a>(&'a self, who: &'a Who) -> Work<'a, Result<Option<Held>, AhpError>> {
        let _ = who;
        Box::pin(async { Ok(None) })
    }

    /// The same for a client that wants to be given less at first.
    fn join_view<'a>(
        &'a self,
        who: &'a Who,
        view: Option<&'a SubscribeView>,
    ) -> Work<'a, Result<Option<Held>, AhpError>> {
        let _ = view;
        self.join(who)
    }

    /// A client dispatched an action. The channel does what it says, or refuses it.
    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>>;

    /// How many follow it now. Called under the hub's lock: it must not wait, and not call the hub.
    fn followed(&self, by: usize) {
        let _ = by;
    }

    /// A client is gone and did not come back in time, or no longer follows this channel: what it held alone is released.
    fn left<'a>(&'a self, client: &'a str) -> Work<'a, ()> {
        let _ = client;
        Box::pin(async {})
    }
}

/// A channel whose actions only the host makes.
#[derive(Debug)]
pub(crate) struct ReadOnly;

impl Channel for ReadOnly {
    fn dispatch<'a>(&'a self, _: &'a Who, _: Dispatched) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(async { Err(Rejection::new("nothing can be dispatched to this channel")) })
    }
}

/// An action to publish.
#[derive(Debug)]
pub(crate) struct Act {
    /// The action.
    pub(crate) action: StateAction,
    /// The same as a client wrote it, where one did.
    pub(crate) raw: Option<Box<RawValue>>,
    /// Whose action it is, where a client dispatched it.
    pub(crate) origin: Option<ActionOrigin>,
}

impl From<StateAction> for Act {
    fn from(action: StateAction) -> Self {
        Self {
            action,
            raw: None,
            origin: None,
        }
    }
}

impl From<Dispatched> for Act {
    fn from(dispatched: Dispatched) -> Self {
        Self {
            action: dispatched.action,
            raw: Some(dispatched.raw),
            origin: Some(dispatched.origin),
        }
    }
}

/// A client that went and did not come back, and the channels that it followed.
pub(crate) type Gone = (Arc<str>, Vec<Arc<dyn Channel>>);

/// What a client that comes back is given.
#[derive(Debug)]
pub(crate) enum Back {
    /// What it missed, as JSON envelopes; and the channels that are no more.
    Replay(Vec<Box<RawValue>>, Vec<String>),
    /// It has been away for too long: how all stands now.
    Snapshots(Vec<Box<RawValue>>),
}

/// There is no such channel.
pub(crate) fn missing(uri: &str) -> AhpError {
    let shown: String = uri.chars().take(300).collect();
    if super::uri::session_part(uri).is_some() {
        return AhpError::no_session(&shown);
    }
    AhpError::not_found(format!("there is no channel `{shown}`"))
}
