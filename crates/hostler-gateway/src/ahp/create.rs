//! Making and ending sessions and chats.

use std::path::PathBuf;
use std::sync::Arc;

use ahp_types::actions::{
    ChatTurnsLoadedAction, SessionActiveClientSetAction, SessionCreationFailedAction,
    SessionReadyAction, StateAction,
};
use ahp_types::commands::{
    ChatSource, CreateChatParams, CreateSessionParams, DisposeChatParams, DisposeSessionParams,
    FetchTurnsParams, ResolveSessionConfigParams,
};
use ahp_types::common::JsonObject;
use ahp_types::notifications::ProgressParams;
use ahp_types::state::{ErrorInfo, Message};
use hostler_agent::{Conversation, Fork, NewConversation};
use hostler_session::{CloseReason, SessionOptions};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::chat::{Chat, prompt_of, view};
use super::config;
use super::connection::Connection;
use super::error::AhpError;
use super::hub::{Act, Who};
use super::methods::{Answer, read, write};
use super::session::{LABEL, NO_AGENT};
use super::uri::{self, ROOT};
use crate::acp::message::{notification, raw};
use crate::gateway::Gateway;
use crate::wire::{NewSession, duration};

/// Of `_meta` of `createSession`: what `POST /v1/sessions` takes.
const NEW: &str = "dev.hostler/new";
/// Of `_meta` of `disposeSession`: seconds between SIGTERM and SIGKILL.
const GRACE: &str = "dev.hostler/grace";

fn nothing() -> Answer {
    write(&Value::Null)
}

/// The directory that a client named first.
fn directory(named: Option<&Vec<String>>) -> Result<PathBuf, AhpError> {
    let Some(named) = named.and_then(|all| all.first()) else {
        return Ok(std::env::home_dir().unwrap_or_else(|| "/".into()));
    };
    let path = uri::path(named);
    path.ok_or_else(|| AhpError::params(format!("`{named}` is no `file:` URI of this machine")))
}

/// Says how far the making of a session is, to the client that wants to know.
struct Progress {
    connection: Arc<Connection>,
    token: Option<String>,
}

impl Progress {
    fn tell(&self, progress: i64, total: Option<i64>, message: &str) {
        let Some(token) = &self.token else { return };
        let params = ProgressParams {
            channel: ROOT.to_owned(),
            progress_token: token.clone(),
            progress,
            total,
            message: Some(message.to_owned()),
        };
        let params = serde_json::to_string(&params).unwrap_or_default();
        self.connection
            .outbox
            .say(notification("progress", &params));
    }
}

/// Takes a name back that is being given, unless that was done.
struct Creating<'a> {
    connection: &'a Connection,
    uri: String,
    kept: bool,
}

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.connection.gateway.ahp().creating().remove(&self.uri);
        }
    }
}

/// What a session is to be: as the REST API's `POST /v1/sessions` takes it, in `_meta`; and the directory of the protocol.
fn wanted(
    gateway: &Gateway,
    meta: Option<&JsonObject>,
    directories: Option<&Vec<String>>,
) -> Result<SessionOptions, AhpError> {
    let new = match meta.and_then(|meta| meta.get(NEW)) {
        Some(new) => serde_json::from_value(new.clone())
            .map_err(|error| AhpError::params(format!("`_meta.{NEW}`: {error}")))?,
        None => NewSession::default(),
    };
    let mut options = new.options(gateway.sessions(), gateway.defaults())?;
    if directories.is_some() || options.cwd.is_none() {
        options.cwd = Some(directory(directories)?);
    }
    Ok(options)
}

pub(super) async fn session(connection: &Arc<Connection>, who: &Who, params: &RawValue) -> Answer {
    let params: CreateSessionParams = read(params)?;
    let gateway = &connection.gateway;
    let uri = params.channel;
    if !uri::may_be_session(&uri) {
        let why = format!("`{uri}` is no URI that a session can have: `ahp-session:/` and a name");
        return Err(AhpError::params(why));
    }
    if let Some(active) = &params.active_client
        && active.client_id != *who.client
    {
        return Err(AhpError::params("`activeClient` is to be this client"));
    }
    let options = wanted(
        gateway,
        params.meta.as_ref(),
        params.working_directories.as_ref(),
    )?;
    let cwd = options.cwd.clone().unwrap_or_else(|| "/".into());
    let provider = params
        .provider
        .unwrap_or_else(|| gateway.acp().agent.clone());
    let has_agent = provider != NO_AGENT;
    if has_agent && gateway.agents().catalogue().get(&provider).is_none() {
        return Err(AhpError::no_provider(&provider));
    }
    let starting = gateway.starting()?;
    let hub = connection.hub();
    if hub.has(&uri) || !gateway.ahp().creating().insert(uri.clone()) {
        return Err(AhpError::session_exists(&uri));
    }
    let mut creating = Creating {
        connection,
        uri: uri.clone(),
        kept: false,
    };
    let progress = Progress {
        connection: connection.clone(),
        token: params.progress_token,
    };
    progress.tell(0, None, "the session is being opened");
    let options = SessionOptions {
        labels: json!({ LABEL: { "session": uri } }),
        ..options
    };
    let by = who.by("createSession");
    if !has_agent {
        let opened = gateway.sessions().open(options, by).await;
        opened.map_err(AhpError::from)?;
        gateway.ahp().creating().remove(&uri);
        gateway.ahp().reconcile(gateway).await;
        progress.tell(1, Some(1), "the session is open");
        return nothing();
    }
    let new = NewConversation {
        agent: provider,
        session: options,
        cwd,
        ..NewConversation::default()
    };
    let conversation = gateway.agents().open(new, by.clone()).await?;
    gateway.ahp().reconcile(gateway).await;
    if let Some(active_client) = params.active_client {
        let action = SessionActiveClientSetAction { active_client };
        hub.publish(&uri, StateAction::SessionActiveClientSet(action), None);
    }
    creating.kept = true;
    let (hub, overseer) = (hub.clone(), gateway.ahp().clone());
    let wanted = params.config.unwrap_or_default();
    tokio::spawn(async move {
        let _starting = starting;
        progress.tell(0, None, "the agent is being started");
        let came = come_up(&conversation, &wanted, by).await;
        overseer.creating().remove(&uri);
        let action = match came {
            Ok(()) => StateAction::SessionReady(SessionReadyAction {}),
            Err(message) => StateAction::SessionCreationFailed(SessionCreationFailedAction {
                error: ErrorInfo {
                    error_type: "agent".into(),
                    message,
                    stack: None,
                    meta: None,
                },
            }),
        };
        hub.publish(&uri, action, None);
        progress.tell(1, Some(1), "done");
    });
    nothing()
}

async fn come_up(
    conversation: &Conversation,
    wanted: &serde_json::Map<String, Value>,
    by: hostler_session::By,
) -> Result<(), String> {
    conversation
        .ready(by.clone())
        .await
        .map_err(|error| error.to_string())?;
    let chosen = config::choose(conversation, wanted, &by).await;
    chosen.map_err(|rejection| rejection.0)
}

/// Answered when all processes of the session are gone.
pub(super) async fn dispose_session(
    connection: &Arc<Connection>,
    who: &Who,
    params: &RawValue,
) -> Answer {
    let params: DisposeSessionParams = read(params)?;
    let overseer = connection.gateway.ahp();
    let session = overseer.session(&params.channel).await;
    let session = session.ok_or_else(|| AhpError::no_session(&params.channel))?;
    let by = who.by("disposeSession");
    let grace = params.meta.as_ref().and_then(|meta| meta.get(GRACE));
    let grace = match grace.map(|grace| grace.as_f64().unwrap_or(-1.0)) {
        Some(seconds) => Some(duration(GRACE, seconds)?),
        None => None,
    };
    let closing = session.session.close(CloseReason::Client, by, grace);
    let report = closing.await?;
    overseer.reconcile(&connection.gateway).await;
    if !report.is_clean() {
        let why = format!(
            "{} processes of the session cannot be ended; it is tried again",
            report.remaining
        );
        return Err(AhpError::internal(why));
    }
    nothing()
}

pub(super) async fn chat(connection: &Arc<Connection>, who: &Who, params: &RawValue) -> Answer {
    let params: CreateChatParams = read(params)?;
    let gateway = &connection.gateway;
    let session = gateway.ahp().session(&params.channel).await;
    let session = session.ok_or_else(|| AhpError::no_session(&params.channel))?;
    let uri = &params.chat;
    if !uri::may_be_chat(uri) {
        let why = format!("`{uri}` is no URI that a chat can have: `ahp-chat:/` and a name");
        return Err(AhpError::params(why));
    }
    if connection.hub().has(uri) {
        return Err(AhpError::exists(format!("there is a chat `{uri}` already")));
    }
    let default = session.default_chat();
    let default = default.ok_or_else(|| AhpError::params("this session has no agent"))?;
    let _starting = gateway.starting()?;
    let by = who.by("createChat");
    let parent = Some(session.session.id().clone());
    let conversation = match params.source {
        None => {
            let info = default.conversation.info();
            let new = NewConversation {
                agent: info.agent,
                session: SessionOptions {
                    cwd: Some(info.cwd.clone()),
                    parent,
                    policy: session.session.info().policy,
                    labels: json!({ LABEL: { "chat": uri } }),
                    ..SessionOptions::default()
                },
                cwd: info.cwd,
                ..NewConversation::default()
            };
            gateway.agents().open(new, by.clone()).await?
        }
        Some(ChatSource::Fork(source)) => {
            let from = gateway.ahp().chat(&source.chat).await;
            let from = from.filter(|from| *from.session == *params.channel);
            let from = from.ok_or_else(|| {
                AhpError::not_found(format!(
                    "there is no chat `{}` in this session",
                    source.chat
                ))
            })?;
            let upto = from.end_of(&source.turn_id).await?.ok_or_else(|| {
                let why = format!("there is no turn `{}` that has ended", source.turn_id);
                AhpError::params(why)
            })?;
            let origin = json!({"kind": "fork", "chat": source.chat, "turnId": source.turn_id});
            let fork = Fork {
                upto: Some(upto),
                parent,
                labels: json!({ LABEL: { "chat": uri, "origin": origin } }),
            };
            from.conversation.fork_as(fork, by.clone()).await?
        }
        Some(_) => return Err(AhpError::params("the agents here make no side chats")),
    };
    if let Some(message) = &params.initial_message
        && let Err(error) = say_first(&conversation, message, by.clone()).await
    {
        // Without what it was to begin with it is nothing.
        let _ = conversation.close(CloseReason::Client, by).await;
        return Err(error);
    }
    gateway.ahp().reconcile(gateway).await;
    nothing()
}

async fn say_first(
    conversation: &Conversation,
    message: &Message,
    by: hostler_session::By,
) -> Result<(), AhpError> {
    let blocks = prompt_of(message);
    if blocks.is_empty() {
        return Err(AhpError::params("`initialMessage` says nothing"));
    }
    let params = raw(json!({ "prompt": blocks }).to_string());
    conversation.prompt(params, by).await?;
    Ok(())
}

pub(super) async fn dispose_chat(
    connection: &Arc<Connection>,
    who: &Who,
    params: &RawValue,
) -> Answer {
    let params: DisposeChatParams = read(params)?;
    let chat = chat_of(connection, &params.channel).await?;
    if chat.is_default {
        let why = "this is the session's own chat: dispose the session";
        return Err(AhpError::params(why));
    }
    let by = who.by("disposeChat");
    chat.conversation.close(CloseReason::Client, by).await?;
    connection
        .gateway
        .ahp()
        .reconcile(&connection.gateway)
        .await;
    nothing()
}

async fn chat_of(connection: &Arc<Connection>, uri: &str) -> Result<Arc<Chat>, AhpError> {
    let chat = connection.gateway.ahp().chat(uri).await;
    chat.ok_or_else(|| AhpError::not_found(format!("there is no chat `{uri}`")))
}

/// Older turns go to the client that asked for them: the others have their own windows.
pub(super) async fn fetch_turns(
    connection: &Arc<Connection>,
    who: &Who,
    params: &RawValue,
) -> Answer {
    let params: FetchTurnsParams = read(params)?;
    let chat = chat_of(connection, &params.channel).await?;
    let Some(cursor) = &params.cursor else {
        // How far back this client's window goes only its cursor tells.
        return write(&json!({}));
    };
    chat.whole(None).await?;
    let page = chat.look(|state| view::before(state, cursor));
    let (turns, turns_next_cursor) = page
        .flatten()
        .ok_or_else(|| AhpError::params("there is no such cursor in this chat"))?;
    let act = Act::from(StateAction::ChatTurnsLoaded(ChatTurnsLoadedAction {
        turns,
        turns_next_cursor,
    }));
    connection.hub().tell(who, &params.channel, &act, None);
    write(&json!({}))
}

/// What can be chosen is known of an agent once it is up: before that, nothing is asked for.
pub(super) fn resolve_config(connection: &Connection, params: &RawValue) -> Answer {
    let params: ResolveSessionConfigParams = read(params)?;
    if let Some(provider) = &params.provider
        && provider != NO_AGENT
        && connection
            .gateway
            .agents()
            .catalogue()
            .get(provider)
            .is_none()
    {
        return Err(AhpError::no_provider(provider));
    }
    write(&json!({"schema": {"type": "object", "properties": {}}, "values": {}}))
}
