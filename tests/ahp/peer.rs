//! A client: the `ahp` crate's own, with the states that it reduces from what it is sent.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, LazyLock, Mutex};

use ahp::reducers::{
    apply_action_to_chat, apply_action_to_root, apply_action_to_session, apply_action_to_terminal,
};
use ahp::{
    Client, ClientConfig, ClientError, ClientEvent, ClientEventStream, SubscriptionEvent,
    TransportError,
};
use ahp_types::actions::{ActionEnvelope, StateAction};
use ahp_types::commands::{
    InitializeResult, ReconnectResult, SubscribeView, SubscriptionDeliveryOptions,
};
use ahp_types::state::{
    ActiveTurn, ChatState, Message, RootState, SessionState, Snapshot, SnapshotState, ToolCallState,
};
use ahp_ws::WebSocketTransport;
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::coop::unconstrained;
use tokio::time::timeout;

use crate::support::{self, long};

pub(crate) const ROOT: &str = "ahp-root://";

/// States as JSON, by channel.
pub(crate) type States = BTreeMap<String, Value>;

pub(crate) struct Peer {
    pub(crate) client: Client,
    pub(crate) name: String,
    events: ClientEventStream,
    pub(crate) states: HashMap<String, SnapshotState>,
    /// All that came, in its order.
    pub(crate) heard: Vec<SubscriptionEvent>,
    /// The last number that it has.
    pub(crate) seq: u64,
    /// How each channel stood at each number, as JSON; `None` from where on nothing is known.
    pub(crate) past: HashMap<String, BTreeMap<u64, Option<Arc<str>>>>,
    remembers: bool,
    /// Channels that it followed: what was on its way means nothing any more.
    left: HashSet<String>,
}

/// The same text once, however many know it.
fn interned(text: String) -> Arc<str> {
    static ALL: LazyLock<Mutex<HashSet<Arc<str>>>> = LazyLock::new(Mutex::default);
    let mut all = ALL.lock().expect("texts");
    match all.get(text.as_str()) {
        Some(known) => known.clone(),
        None => {
            let new: Arc<str> = text.into();
            all.insert(new.clone());
            new
        }
    }
}

/// Where a host is.
pub(crate) fn url(host: &support::Client) -> String {
    format!("ws://{}/ahp?token={}", host.tcp, host.token)
}

/// With room for all that comes: the crate lets go of what does not fit.
pub(crate) fn config() -> ClientConfig {
    ClientConfig {
        subscription_buffer: 1 << 16,
        default_request_timeout: Some(long()),
    }
}

async fn try_connect(host: &support::Client) -> Result<Client, ClientError> {
    let transport = WebSocketTransport::connect(&url(host)).await;
    let transport = transport.map_err(|error| TransportError::Io(error.to_string()))?;
    Client::connect(transport, config()).await
}

/// Connects without saying who it is.
pub(crate) async fn connect(host: &support::Client) -> Client {
    try_connect(host).await.expect("a client")
}

pub(crate) fn versions() -> Vec<String> {
    ahp_types::SUPPORTED_PROTOCOL_VERSIONS
        .iter()
        .map(|version| (*version).to_owned())
        .collect()
}

impl Peer {
    /// Connects, initializes, and follows the root.
    pub(crate) async fn new(host: &support::Client, name: &str) -> Self {
        let client = connect(host).await;
        let events = client.events();
        let result = client
            .initialize(name.into(), versions(), vec![ROOT.into()])
            .await
            .expect("initialized");
        let mut peer = Self::with(client, events, name);
        peer.begin(&result);
        peer
    }

    fn with(client: Client, events: ClientEventStream, name: &str) -> Self {
        Self {
            client,
            name: name.to_owned(),
            events,
            states: HashMap::new(),
            heard: Vec::new(),
            seq: 0,
            past: HashMap::new(),
            remembers: false,
            left: HashSet::new(),
        }
    }

    fn begin(&mut self, result: &InitializeResult) {
        assert_eq!(result.protocol_version, ahp_types::PROTOCOL_VERSION);
        self.seq = u64::try_from(result.server_seq).expect("a number");
        for snapshot in &result.snapshots {
            self.take(snapshot);
        }
    }

    /// Remembers how channels stood at each number from now on.
    pub(crate) fn remember(&mut self) {
        self.remembers = true;
    }

    pub(crate) fn take(&mut self, snapshot: &Snapshot) {
        self.left.remove(&snapshot.resource);
        let seq = u64::try_from(snapshot.from_seq).expect("a number");
        self.seq = self.seq.max(seq);
        self.states
            .insert(snapshot.resource.clone(), snapshot.state.clone());
        self.note(&snapshot.resource.clone(), seq);
    }

    fn note(&mut self, channel: &str, seq: u64) {
        if self.remembers {
            let state = interned(self.state(channel).to_string());
            let past = self.past.entry(channel.to_owned()).or_default();
            past.insert(seq, Some(state));
        }
    }

    /// It knows nothing of a channel from now on.
    fn forget(&mut self, channel: &str) {
        self.states.remove(channel);
        if let Some(past) = self.past.get_mut(channel) {
            past.insert(self.seq + 1, None);
        }
    }

    fn apply(&mut self, envelope: &ActionEnvelope) {
        assert!(
            envelope.server_seq > self.seq,
            "{} came after {}: {envelope:?}",
            envelope.server_seq,
            self.seq
        );
        self.seq = envelope.server_seq;
        if envelope.rejection_reason.is_some() {
            return;
        }
        let Some(state) = self.states.get_mut(&envelope.channel) else {
            let left = self.left.contains(&envelope.channel);
            assert!(left, "not followed: {envelope:?}");
            return;
        };
        let action = &envelope.action;
        match state {
            SnapshotState::Root(state) => drop(apply_action_to_root(state, action)),
            SnapshotState::Session(state) => drop(apply_action_to_session(state, action)),
            SnapshotState::Chat(state) => drop(apply_action_to_chat(state, action)),
            SnapshotState::Terminal(state) => drop(apply_action_to_terminal(state, action)),
            state => crate::automations::reduce(state, action),
        }
        self.note(&envelope.channel, envelope.server_seq);
    }

    /// Takes what comes next. `false`: nothing more will.
    pub(crate) async fn hear(&mut self) -> bool {
        let event = timeout(long(), self.events.recv())
            .await
            .unwrap_or_else(|_| panic!("{}: nothing came; it has {}", self.name, self.shown()));
        let Some(event) = event else { return false };
        self.listen(event);
        true
    }

    fn listen(&mut self, event: ClientEvent) {
        if let SubscriptionEvent::Action(envelope) = &event.event {
            self.apply(envelope);
        }
        self.heard.push(event.event);
    }

    /// What has come and was not taken in yet.
    fn next(&mut self) -> Option<ClientEvent> {
        unconstrained(self.events.recv()).now_or_never().flatten()
    }

    /// Takes in what has come.
    pub(crate) fn catch_up(&mut self) {
        while let Some(event) = self.next() {
            self.listen(event);
        }
    }

    fn shown(&self) -> String {
        let states: States = self
            .states
            .keys()
            .map(|channel| (channel.clone(), self.state(channel)))
            .collect();
        format!("{states:#?}")
    }

    /// Waits until something holds of what it has.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            assert!(self.hear().await, "closed before {what}: {}", self.shown());
        }
    }

    /// Takes in all that the host had sent before now.
    pub(crate) async fn settle(&mut self) {
        // What is answered comes after all that was sent before.
        let pong: Result<Value, _> = self.client.request("ping", json!({})).await;
        pong.expect("a pong");
        self.catch_up();
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Result<Value, (i32, String)> {
        match self.client.request::<Value, Value>(method, params).await {
            Ok(value) => Ok(value),
            Err(ahp::ClientError::Rpc(error)) => Err((error.code, error.message)),
            Err(error) => panic!("{method}: {error}"),
        }
    }

    /// Follows a channel.
    pub(crate) async fn follow(&mut self, channel: &str) {
        self.follow_as(channel, None, None).await;
    }

    pub(crate) async fn follow_as(
        &mut self,
        channel: &str,
        latency: Option<i64>,
        turns: Option<i64>,
    ) {
        self.try_follow(channel, latency, turns)
            .await
            .unwrap_or_else(|error| panic!("{channel}: {error}"));
    }

    pub(crate) async fn try_follow(
        &mut self,
        channel: &str,
        latency: Option<i64>,
        turns: Option<i64>,
    ) -> Result<(), ClientError> {
        let delivery = latency.map(|ms| SubscriptionDeliveryOptions {
            max_latency_ms: Some(ms),
        });
        let view = turns.map(|turns| SubscribeView { turns: Some(turns) });
        let (result, _) = self
            .client
            .subscribe_with_options(channel.to_owned(), delivery, view)
            .await?;
        let snapshot = result.snapshot.expect("a snapshot");
        let from = u64::try_from(snapshot.from_seq).expect("a number");
        // All that was sent before the answer has come; what has a larger number was sent after it.
        let mut taken = false;
        while let Some(event) = self.next() {
            if let SubscriptionEvent::Action(envelope) = &event.event
                && envelope.server_seq > from
                && !taken
            {
                self.take(&snapshot);
                taken = true;
            }
            self.listen(event);
        }
        if !taken {
            self.take(&snapshot);
        }
        Ok(())
    }

    /// No longer follows a channel.
    pub(crate) async fn leave(&mut self, channel: &str) -> Result<(), ClientError> {
        self.catch_up();
        self.forget(channel);
        self.left.insert(channel.to_owned());
        self.client.unsubscribe(channel.to_owned()).await
    }

    /// Makes a session with the built-in agent, and follows it and its chat.
    pub(crate) async fn open(&mut self, name: &str) -> (String, String) {
        self.open_with(name, "shell").await
    }

    pub(crate) async fn open_with(&mut self, name: &str, agent: &str) -> (String, String) {
        let session = format!("ahp-session:/{name}");
        let params =
            json!({"channel": session, "provider": agent, "workingDirectories": ["file:///tmp"]});
        self.ask("createSession", params).await.expect("created");
        self.follow(&session).await;
        let chat = self.session(&session).default_chat.clone().expect("a chat");
        self.follow(&chat).await;
        (session, chat)
    }

    pub(crate) async fn dispatch(&self, channel: &str, action: Value) -> i64 {
        let action: StateAction = serde_json::from_value(action).expect("an action");
        let sent = self.client.dispatch(channel.to_owned(), action).await;
        sent.expect("sent").client_seq
    }

    /// Begins a turn.
    pub(crate) async fn prompt(&self, chat: &str, turn: &str, text: &str) -> i64 {
        self.dispatch(chat, prompt(turn, text)).await
    }

    /// Begins a turn and waits for its end; what was said.
    pub(crate) async fn turn(&mut self, chat: &str, turn: &str, text: &str) -> String {
        self.prompt(chat, turn, text).await;
        let ended = |peer: &Self| peer.chat(chat).turns.iter().any(|one| one.id == turn);
        self.until("the turn's end", ended).await;
        said(&self.chat(chat), turn)
    }

    /// Why its action was refused.
    pub(crate) async fn refusal(&mut self, client_seq: i64) -> String {
        let name = self.name.clone();
        let refused = |peer: &Self| {
            peer.heard.iter().find_map(|event| match event {
                SubscriptionEvent::Action(envelope) => {
                    let origin = envelope.origin.as_ref()?;
                    let own = origin.client_id == name && origin.client_seq == client_seq;
                    own.then(|| envelope.rejection_reason.clone())
                }
                _ => None,
            })
        };
        self.until("an answer to its action", |peer| refused(peer).is_some())
            .await;
        refused(self).flatten().expect("a refusal")
    }

    pub(crate) fn chat(&self, channel: &str) -> ChatState {
        match self.states.get(channel) {
            Some(SnapshotState::Chat(state)) => (**state).clone(),
            other => panic!("{channel}: {other:?}"),
        }
    }

    pub(crate) fn session(&self, channel: &str) -> SessionState {
        match self.states.get(channel) {
            Some(SnapshotState::Session(state)) => (**state).clone(),
            other => panic!("{channel}: {other:?}"),
        }
    }

    pub(crate) fn root(&self) -> RootState {
        match self.states.get(ROOT) {
            Some(SnapshotState::Root(state)) => (**state).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// How a channel stands, as JSON.
    pub(crate) fn state(&self, channel: &str) -> Value {
        bare(&self.states[channel])
    }

    /// Comes back with another connection.
    pub(crate) async fn back(mut self, host: &support::Client) -> (Self, ReconnectResult) {
        let result = self.try_back(host).await.expect("reconnected");
        (self, result)
    }

    pub(crate) async fn try_back(
        &mut self,
        host: &support::Client,
    ) -> Result<ReconnectResult, ClientError> {
        self.client.shutdown().await;
        self.client = try_connect(host).await?;
        self.events = self.client.events();
        let followed: Vec<String> = self.states.keys().cloned().collect();
        let last = i64::try_from(self.seq).expect("a number");
        let result = self
            .client
            .reconnect(self.name.clone(), last, followed.clone())
            .await?;
        match &result {
            ReconnectResult::Replay(replay) => {
                for envelope in &replay.actions {
                    self.apply(envelope);
                }
                for channel in &replay.missing {
                    self.forget(channel);
                }
            }
            ReconnectResult::Snapshot(all) => {
                for channel in &followed {
                    self.forget(channel);
                }
                for snapshot in &all.snapshots {
                    self.take(snapshot);
                }
            }
        }
        Ok(result)
    }
}

/// A state as JSON. What is looked at once a second is left out: processes.
pub(crate) fn bare(state: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(state).expect("JSON");
    if let Value::Object(state) = &mut value {
        state.remove("_meta");
        state.remove("backgroundWork");
    }
    value
}

pub(crate) fn message(text: &str) -> Value {
    json!({"text": text, "origin": {"kind": "user"}})
}

pub(crate) fn prompt(turn: &str, text: &str) -> Value {
    json!({
        "type": "chat/turnStarted",
        "turnId": turn,
        "startedAt": "2026-01-01T00:00:00.000Z",
        "message": message(text),
    })
}

/// What was said in a turn.
pub(crate) fn said(chat: &ChatState, turn: &str) -> String {
    let turn = chat
        .turns
        .iter()
        .find(|one| one.id == turn)
        .expect("a turn");
    text_of(&serde_json::to_value(&turn.response_parts).expect("JSON"))
}

/// What is being said.
pub(crate) fn saying(turn: Option<&ActiveTurn>) -> String {
    let parts = turn.map(|turn| serde_json::to_value(&turn.response_parts).expect("JSON"));
    text_of(&parts.unwrap_or_default())
}

fn text_of(parts: &Value) -> String {
    let parts = parts.as_array().cloned().unwrap_or_default();
    parts
        .iter()
        .filter(|part| part["kind"] == "markdown")
        .filter_map(|part| part["content"].as_str().map(str::to_owned))
        .collect()
}

/// The tool calls of the turn that runs.
pub(crate) fn calls(chat: &ChatState) -> Vec<ToolCallState> {
    let parts = chat
        .active_turn
        .iter()
        .flat_map(|turn| &turn.response_parts);
    parts
        .filter_map(|part| match part {
            ahp_types::state::ResponsePart::ToolCall(part) => Some(part.tool_call.clone()),
            _ => None,
        })
        .collect()
}

/// The text of the messages that wait.
pub(crate) fn queue(chat: &ChatState) -> Vec<String> {
    let queued = chat.queued_messages.iter().flatten();
    queued
        .map(|pending| {
            let Message { text, .. } = &pending.message;
            text.clone()
        })
        .collect()
}
