//! Sessions as clients see them.

use std::sync::{Arc, Mutex, PoisonError};

use ahp::reducers::apply_action_to_session;
use ahp_types::actions::{SessionActiveClientRemovedAction, StateAction};
use ahp_types::state::{
    ChatInteractivity, ChatOrigin, ChatSummary, SessionLifecycle, SessionState, SessionStatus,
};
use hostler_agent::{ClientCapabilities, Conversation};
use hostler_session::{Error, Session};
use serde_json::Value;

use super::chat::{Chat, Note};
use super::config;
use super::error::{AhpError, Rejection};
use super::hub::{Channel, ChannelState, Dispatched, Held, Hub, Taken, Who, Work};
use super::{automation, meta, uri};

/// The agent of a session that has none.
pub(super) const NO_AGENT: &str = "none";
/// Under what the names that clients gave are kept, among the labels of a session.
pub(super) const LABEL: &str = "ahp";

fn label<'a>(labels: &'a Value, name: &str) -> Option<&'a str> {
    labels.get(LABEL)?.get(name)?.as_str()
}

/// The channel of a session.
pub(super) fn uri_of(session: &Session) -> String {
    let own = label(&session.info().labels, "session").map(str::to_owned);
    own.unwrap_or_else(|| uri::session(session.id().as_str()))
}

/// The channel of a conversation.
pub(super) fn chat_uri_of(conversation: &Conversation) -> String {
    let own = label(&conversation.session().info().labels, "chat").map(str::to_owned);
    own.unwrap_or_else(|| uri::chat(conversation.id().as_str()))
}

/// How a conversation below another one came about, and what can be done with it.
pub(super) fn origin_of(
    conversation: &Conversation,
) -> (Option<ChatOrigin>, Option<ChatInteractivity>) {
    let labels = conversation.session().info().labels;
    if label(&labels, "chat").is_none() {
        // Another agent has handed work on.
        return (None, Some(ChatInteractivity::ReadOnly));
    }
    let origin = labels.get(LABEL).and_then(|label| label.get("origin"));
    let origin = origin.and_then(|origin| serde_json::from_value(origin.clone()).ok());
    (origin.or(Some(ChatOrigin::User)), None)
}

/// What a follower holds of a session. One that closes, or is stuck, takes no client; it is followed to its end all the same.
pub(super) fn held<T: Send + 'static>(
    attached: Result<T, hostler_agent::Error>,
) -> Result<Option<Held>, AhpError> {
    match attached {
        Ok(guard) => Ok(Some(Box::new(guard))),
        Err(hostler_agent::Error::Session(Error::Closing(_))) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A session's channel.
pub(super) struct SessionChannel {
    pub(super) uri: Arc<str>,
    pub(super) session: Session,
    pub(super) hub: Hub,
    default_chat: Mutex<Option<Arc<Chat>>>,
}

impl SessionChannel {
    pub(super) fn new(uri: Arc<str>, session: Session, hub: Hub) -> Arc<Self> {
        Arc::new(Self {
            uri,
            session,
            hub,
            default_chat: Mutex::default(),
        })
    }

    /// The session's own conversation.
    pub(super) fn default_chat(&self) -> Option<Arc<Chat>> {
        let chat = self.default_chat.lock();
        chat.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_default_chat(&self, chat: Option<Arc<Chat>>) {
        let now = self.default_chat.lock();
        *now.unwrap_or_else(PoisonError::into_inner) = chat;
    }

    /// How it begins: with these chats, and what clients dispatched to it before.
    pub(super) fn state(
        &self,
        lifecycle: SessionLifecycle,
        chats: Vec<ChatSummary>,
        before: &[StateAction],
    ) -> ChannelState {
        let info = self.session.info();
        let chat = self.default_chat();
        let conversation = chat.as_ref().map(|chat| &chat.conversation);
        let of = conversation.map(Conversation::info);
        let title = of.as_ref().and_then(|of| of.title.clone()).or(info.name);
        let cwd = of.as_ref().map(|of| of.cwd.clone()).or(info.cwd);
        let provider = of.map_or_else(|| NO_AGENT.to_owned(), |of| of.agent);
        let mut state = SessionState {
            provider,
            title: title.unwrap_or_default(),
            status: activity(chats.iter().map(|chat| chat.status)),
            activity: None,
            origin: automation::origin_of(&self.session),
            project: None,
            working_directories: cwd.map(|cwd| vec![uri::of_path(&cwd)]),
            annotations: None,
            lifecycle,
            creation_error: None,
            server_tools: None,
            active_clients: Vec::new(),
            chats,
            default_chat: chat.as_ref().map(|chat| chat.uri.to_string()),
            config: conversation.and_then(config::of),
            customizations: None,
            changesets: None,
            input_needed: None,
            meta: Some(meta::brief(&self.session)),
        };
        for action in before {
            apply_action_to_session(&mut state, action);
        }
        ChannelState::Session(Box::new(state))
    }

    fn conversation(&self) -> Result<Conversation, Rejection> {
        let chat = self.default_chat();
        let chat =
            chat.ok_or_else(|| Rejection::new("this session has no agent: nothing keeps this"))?;
        Ok(chat.conversation.clone())
    }

    async fn dispatched(&self, who: &Who, dispatched: Dispatched) -> Result<Taken, Rejection> {
        let note = || Note::of_session(&dispatched).raw();
        match &dispatched.action {
            StateAction::SessionTitleChanged(changed) => {
                let title = changed.title.trim();
                if title.is_empty() || title.len() > 1000 {
                    return Err(Rejection::new("a title is to have 1 to 1000 bytes"));
                }
                let conversation = self.conversation()?;
                conversation
                    .note(note(), Some(changed.title.clone()))
                    .await?;
                Ok(Taken::Shown)
            }
            StateAction::SessionIsReadChanged(_) | StateAction::SessionIsArchivedChanged(_) => {
                self.conversation()?.note(note(), None).await?;
                Ok(Taken::Shown)
            }
            StateAction::SessionActiveClientSet(set) => {
                if set.active_client.client_id != *who.client {
                    return Err(Rejection::new("a client can speak for itself only"));
                }
                Ok(Taken::Echo)
            }
            StateAction::SessionActiveClientRemoved(removed) => {
                if removed.client_id != *who.client {
                    return Err(Rejection::new("a client can speak for itself only"));
                }
                Ok(Taken::Echo)
            }
            StateAction::SessionConfigChanged(changed) => {
                if changed.replace == Some(true) {
                    return Err(Rejection::new("options are changed one by one here"));
                }
                let by = who.by("session/configChanged");
                let conversation = self.conversation()?;
                config::choose(&conversation, &changed.config, &by).await?;
                // Not every agent tells of it itself.
                conversation.note(note(), None).await?;
                Ok(Taken::Shown)
            }
            StateAction::SessionWorkingDirectorySet(_)
            | StateAction::SessionWorkingDirectoryRemoved(_)
            | StateAction::SessionWorkingDirectoryReplaced(_) => Err(Rejection::new(
                "a session has one working directory here, and keeps it",
            )),
            StateAction::SessionCustomizationToggled(_)
            | StateAction::SessionMcpServerStartRequested(_)
            | StateAction::SessionMcpServerStopRequested(_)
            | StateAction::SessionMcpServerBackgroundRequested(_) => {
                Err(Rejection::new("there are no customizations here"))
            }
            _ => Err(Rejection::new("only the host makes this action")),
        }
    }

    /// Whether a client is active in it.
    fn is_active(&self, client: &str) -> bool {
        let look = |state: &ChannelState| match state {
            ChannelState::Session(state) => state
                .active_clients
                .iter()
                .any(|active| active.client_id == client),
            _ => false,
        };
        self.hub.look(&self.uri, look) == Some(true)
    }
}

impl Channel for SessionChannel {
    fn join<'a>(&'a self, who: &'a Who) -> Work<'a, Result<Option<Held>, AhpError>> {
        Box::pin(async move {
            if let Some(chat) = self.default_chat() {
                let capabilities = ClientCapabilities {
                    answers: who.answers,
                    raw: None,
                };
                return held(chat.conversation.attach(&who.by, capabilities).await);
            }
            let attached = self.session.attach(&*who.by).await;
            held(attached.map_err(hostler_agent::Error::from))
        })
    }

    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(self.dispatched(who, dispatched))
    }

    fn left<'a>(&'a self, client: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            if self.is_active(client) {
                let client_id = client.to_owned();
                let action = SessionActiveClientRemovedAction { client_id };
                let action = StateAction::SessionActiveClientRemoved(action);
                self.hub.publish(&self.uri, action, None);
            }
        })
    }
}

/// What a session does, by what its chats do.
pub(super) fn activity(chats: impl Iterator<Item = u32>) -> u32 {
    let all: Vec<SessionStatus> = chats.map(SessionStatus::from_bits).collect();
    let any = |status: SessionStatus| all.iter().any(|one| one.contains(status));
    let status = if any(SessionStatus::InputNeeded) {
        SessionStatus::InputNeeded
    } else if any(SessionStatus::InProgress) {
        SessionStatus::InProgress
    } else if any(SessionStatus::Error) {
        SessionStatus::Error
    } else {
        SessionStatus::Idle
    };
    status.bits()
}
