//! One client's connection, whatever carries it: what it asked for, and what it is attached to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use hostler_agent::{Answer, ClientCapabilities, ClientGuard, Conversation, RequestId, RpcError};
use hostler_session::By;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use super::message::{self, Incoming};
use super::outbox::{Outbox, Scope};
use super::{Client, feed};
use crate::gateway::{Gateway, Phase};

/// How many of a client's requests may be under way.
const FLIGHTS: usize = 1024;
/// How many messages of a client wait for their conversation before the client's next one is not read.
const LANE: usize = 64;

/// A message for a conversation.
#[derive(Debug)]
pub(super) struct Task {
    /// The id of its answer, as JSON, where one is wanted.
    pub(super) id: Option<String>,
    pub(super) method: String,
    pub(super) params: Option<Box<RawValue>>,
}

/// A request that is not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    /// The turn that it is, once it is one.
    pub(super) turn: Option<(Conversation, u64)>,
    pub(super) scope: Scope,
    /// Told when the client takes it back.
    pub(super) cancelled: Arc<Notify>,
}

/// A conversation that the client is attached to. Dropping it detaches.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) conversation: Conversation,
    _guard: ClientGuard,
    feed: AbortHandle,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

#[derive(Debug, Default)]
struct State {
    /// What it can do, once it has said so.
    capabilities: Option<ClientCapabilities>,
    lanes: HashMap<String, mpsc::Sender<Task>>,
    attached: HashMap<String, Attached>,
    flights: HashMap<String, Flight>,
    /// What it was asked, by the id that it answers to.
    asked: HashMap<String, (Conversation, RequestId)>,
    ended: bool,
}

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Its name on the wire.
    pub(super) id: String,
    pub(super) gateway: Gateway,
    /// Who it is and what it wants.
    pub(super) client: Client,
    pub(super) outbox: Outbox,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

impl Connection {
    /// A new one.
    pub(super) fn new(gateway: Gateway, mut client: Client, outbox: Outbox) -> Arc<Self> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let random = crate::access::Token::random();
        let random = random.map_or_else(
            |_| CONNECTIONS.fetch_add(1, Ordering::Relaxed).to_string(),
            |random| random.reveal().to_owned(),
        );
        let id = format!("c-{}", &random[..random.len().min(32)]);
        // Its own prompts are known by this; a client that counts comes back under the same name.
        if !client.counts {
            let short = &id[..id.len().min(10)];
            client.who = format!("{}, acp {short}", client.who);
        }
        Arc::new(Self {
            id,
            gateway,
            client,
            outbox,
            state: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who asks, and for what.
    pub(super) fn by(&self, why: impl Into<String>) -> By {
        By::new(self.client.who.clone(), why.into())
    }

    /// Runs a task for as long as the connection lives.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let handle = tasks.spawn(task);
        if self.state().ended {
            handle.abort();
        }
        handle
    }

    /// Takes one message of the client. Returns when the next one may come: what takes long goes on by itself.
    ///
    /// `scope`: the conversation that the transport says it is about.
    pub(super) async fn receive(self: &Arc<Self>, text: &str, scope: Option<&str>) {
        let (id, method, params) = match message::parse(text) {
            Err(malformed) => {
                self.outbox.connection().push(malformed.answer()).await;
                return;
            }
            Ok(Incoming::Response { id, answer }) => return self.answered(id, answer),
            Ok(Incoming::Request { id, method, params }) => (Some(id.get()), method, params),
            Ok(Incoming::Notification { method, params }) => (None, method, params),
        };
        if method == "$/cancel_request" {
            if id.is_none() {
                self.cancel_request(params);
            }
            return;
        }
        let mut params = params.map(ToOwned::to_owned);
        if let (Some(scope), None) = (scope, message::session_of(params.as_deref())) {
            params = message::with_session(params.as_deref(), scope).or(params);
        }
        let task = Task {
            id: id.map(str::to_owned),
            method: method.into_owned(),
            params,
        };
        self.take(task).await;
    }

    async fn take(self: &Arc<Self>, task: Task) {
        let session = message::session_of(task.params.as_deref());
        if let Some(id) = &task.id {
            let scope = match &session {
                Some(session) => Scope::Session(session.clone()),
                None => Scope::Connection,
            };
            if let Err(error) = self.takes_off(id, &task.method, scope.clone()) {
                self.say(&scope, message::response(id, &Err(error))).await;
                return;
            }
        }
        let connections = ["initialize", "session/new", "session/list"];
        let session = session.filter(|_| !connections.contains(&task.method.as_str()));
        match session {
            Some(session) => {
                let begins = matches!(task.method.as_str(), "session/load" | "session/resume");
                match self.lane(&session, begins) {
                    Some(lane) => {
                        let _ = lane.send(task).await;
                    }
                    None => self.unknown(task, &session).await,
                }
            }
            None if task.method == "initialize" => self.initialize(task).await,
            None => {
                let connection = self.clone();
                self.spawn(async move { connection.of_connection(task).await });
            }
        }
    }

    /// Whether a request may be looked at; it is under way then.
    fn takes_off(&self, id: &str, method: &str, scope: Scope) -> Result<(), RpcError> {
        let invalid = |why: &str| Err(RpcError::new(RpcError::INVALID_REQUEST, why));
        let mut state = self.state();
        match (method, &state.capabilities) {
            ("initialize", Some(_)) => return invalid("this connection is initialized already"),
            ("initialize", None) | (_, Some(_)) => {}
            (_, None) => return invalid("`initialize` comes first"),
        }
        if state.flights.contains_key(id) {
            return invalid("a request of this id is under way");
        }
        if state.flights.len() >= FLIGHTS {
            let why = format!("at most {FLIGHTS} requests may be under way");
            return Err(RpcError::internal(why));
        }
        let flight = Flight {
            turn: None,
            scope,
            cancelled: Arc::default(),
        };
        state.flights.insert(id.to_owned(), flight);
        Ok(())
    }

    async fn unknown(&self, task: Task, session: &str) {
        if let Some(id) = &task.id {
            let why = format!("`{session}` is not open here: session/load or session/resume it");
            self.answer(id, Err(RpcError::new(RpcError::NOT_FOUND, why)))
                .await;
        }
    }

    /// The line of the messages for a conversation, which are taken one after the other.
    fn lane(self: &Arc<Self>, session: &str, make: bool) -> Option<mpsc::Sender<Task>> {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get(session) {
            return Some(lane.clone());
        }
        if !make {
            return None;
        }
        let (lane, mut tasks) = mpsc::channel(LANE);
        state.lanes.insert(session.to_owned(), lane.clone());
        drop(state);
        let (connection, session) = (self.clone(), session.to_owned());
        self.spawn(async move {
            while let Some(task) = tasks.recv().await {
                connection.of_session(&session, task).await;
            }
        });
        Some(lane)
    }

    /// It has said what it can do.
    pub(super) fn initialized(&self, capabilities: ClientCapabilities) {
        self.state().capabilities = Some(capabilities);
    }

    /// Whether it has.
    pub(super) fn is_initialized(&self) -> bool {
        self.state().capabilities.is_some()
    }

    /// What it can do.
    pub(super) fn capabilities(&self) -> ClientCapabilities {
        self.state().capabilities.clone().unwrap_or_default()
    }

    /// The request's flight.
    pub(super) fn flight(&self, id: &str) -> Option<Flight> {
        self.state().flights.get(id).cloned()
    }

    /// Ready when the client takes the request back.
    pub(super) fn taken_back(&self, id: &str) -> impl Future<Output = ()> + Send + use<> {
        let flight = self.flight(id);
        async move {
            match flight {
                Some(flight) => flight.cancelled.notified().await,
                None => std::future::pending().await,
            }
        }
    }

    /// The request has become this turn. One that was taken back before is cancelled.
    pub(super) fn is_turn(&self, id: &str, conversation: &Conversation, turn: u64) {
        let mut state = self.state();
        let Some(flight) = state.flights.get_mut(id) else {
            return;
        };
        flight.turn = Some((conversation.clone(), turn));
        let cancelled = flight.cancelled.clone();
        drop(state);
        if cancelled.notified().now_or_never().is_some() {
            conversation.cancel_turn(turn);
        }
    }

    /// The client comes back with a request that became this turn over an earlier connection.
    pub(super) fn still_flies(&self, id: &str, conversation: &Conversation, turn: u64) {
        let flight = Flight {
            turn: Some((conversation.clone(), turn)),
            scope: Scope::Session(conversation.id().to_string()),
            cancelled: Arc::default(),
        };
        self.state().flights.insert(id.to_owned(), flight);
    }

    /// Sends a message.
    pub(super) async fn say(&self, scope: &Scope, message: String) -> bool {
        self.outbox.line(scope).push(message).await
    }

    /// Answers a request. Nothing is said of what failed because another host takes over: that one is to be asked.
    pub(super) async fn answer(&self, id: &str, answer: Answer) {
        if answer.is_err() && !self.goes_on().await {
            return;
        }
        let flight = self.state().flights.remove(id);
        let scope = flight.map_or(Scope::Connection, |flight| flight.scope);
        self.say(&scope, message::response(id, &answer)).await;
    }

    /// It was answered elsewhere, or by nobody.
    pub(super) fn landed(&self, id: &str) -> Option<Flight> {
        self.state().flights.remove(id)
    }

    /// Whether this host still has the sessions; waits until that is known.
    pub(super) async fn goes_on(&self) -> bool {
        let mut phases = self.gateway.phases();
        let phase = phases.wait_for(|phase| *phase != Phase::HandingOver).await;
        phase.is_ok_and(|phase| !phase.is_over())
    }

    /// The client asked for something and no longer wants it.
    fn cancel_request(&self, params: Option<&RawValue>) {
        let Some(id) = params.and_then(|params| message::Members::of(params).get("requestId"))
        else {
            return;
        };
        let Some(flight) = self.flight(id.get()) else {
            return;
        };
        flight.cancelled.notify_one();
        // Only now: it may have become one meanwhile.
        let turn = self.flight(id.get()).and_then(|flight| flight.turn);
        if let Some((conversation, turn)) = turn {
            conversation.cancel_turn(turn);
        }
    }

    /// The client was asked this.
    pub(super) fn asks(&self, id: &str, conversation: &Conversation, request: RequestId) -> bool {
        let asked = (conversation.clone(), request);
        self.state().asked.insert(id.to_owned(), asked).is_none()
    }

    /// The question is settled. Whether the client still had it.
    pub(super) fn settles(&self, id: &str) -> bool {
        self.state().asked.remove(id).is_some()
    }

    /// The client answers something that it was asked; or nothing, which is nobody's concern.
    fn answered(self: &Arc<Self>, id: &RawValue, answer: Answer) {
        let asked = self.state().asked.remove(id.get());
        let Some((conversation, request)) = asked else {
            tracing::debug!(connection = self.id, id = id.get(), "an answer to nothing");
            return;
        };
        let by = self.by("an answer");
        self.spawn(async move {
            if let Err(error) = conversation.answer(request, answer, by).await {
                tracing::debug!(%error, "an answer was not taken");
            }
        });
    }

    /// A conversation that it is attached to.
    pub(super) fn conversation(&self, session: &str) -> Option<Conversation> {
        let state = self.state();
        let attached = state.attached.get(session)?;
        Some(attached.conversation.clone())
    }

    /// All that it is attached to.
    pub(super) fn conversations(&self) -> Vec<Conversation> {
        let state = self.state();
        let attached = state.attached.values();
        attached
            .map(|attached| attached.conversation.clone())
            .collect()
    }

    /// The one that it is attached to, if it is one.
    pub(super) fn only_conversation(&self) -> Option<Conversation> {
        let state = self.state();
        let mut attached = state.attached.values();
        let only = attached.next()?.conversation.clone();
        attached.next().is_none().then_some(only)
    }

    /// Whether it has to do with this conversation.
    pub(super) fn knows(&self, session: &str) -> bool {
        self.state().lanes.contains_key(session)
    }

    /// Attaches it: what the feed says follows.
    pub(super) fn attach(self: &Arc<Self>, guard: ClientGuard, feed: feed::Feed) {
        let conversation = feed.conversation().clone();
        let session = conversation.id().to_string();
        self.lane(&session, true);
        let before = self.state().attached.remove(&session);
        drop(before);
        // It tells the client that it is there, which has to be true by then.
        let (attached, there) = oneshot::channel();
        let feed = self.spawn(async move {
            if there.await.is_ok() {
                feed.run().await;
            }
        });
        let new = Attached {
            conversation,
            _guard: guard,
            feed,
        };
        let mut state = self.state();
        if state.ended {
            drop(state);
            drop(new);
            return;
        }
        state.attached.insert(session, new);
        drop(state);
        let _ = attached.send(());
    }

    /// Detaches it. What it was asked there is taken back.
    pub(super) fn detach(&self, session: &str) {
        let mut state = self.state();
        state.lanes.remove(session);
        let attached = state.attached.remove(session);
        let of = |conversation: &Conversation| conversation.id().as_str() == session;
        state.asked.retain(|_, (conversation, _)| !of(conversation));
        drop(state);
        drop(attached);
        self.outbox.forget_unread(session);
    }

    /// The same when it has ended by itself, unless the client has come back to it meanwhile.
    pub(super) fn ended(&self, of: &Conversation) {
        let session = of.id().as_str();
        let same = self
            .conversation(session)
            .is_some_and(|now| now.session().id() == of.session().id());
        if same {
            self.detach(session);
        }
    }

    /// It failed to attach, so there is nothing to have a lane for.
    pub(super) fn give_up(&self, session: &str) {
        let mut state = self.state();
        if !state.attached.contains_key(session) {
            state.lanes.remove(session);
        }
    }

    /// The client is gone: everything of it ends, and what it was attached to is told.
    pub(super) async fn end(&self) {
        self.outbox.close();
        // While another host takes over nothing may be acted on.
        self.goes_on().await;
        let (attached, lanes) = {
            let mut state = self.state();
            state.ended = true;
            state.asked.clear();
            let attached = std::mem::take(&mut state.attached);
            (attached, std::mem::take(&mut state.lanes))
        };
        let mut tasks = {
            let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        tasks.shutdown().await;
        drop((attached, lanes));
    }
}
