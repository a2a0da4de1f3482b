//! One client's connection: what it sends, in the order of each channel.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ahp_types::actions::{ActionOrigin, StateAction};
use ahp_types::common::JsonObject;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::automation::Automations;
use super::delivery::Outbox;
use super::error::AhpError;
use super::hub::{Act, Dispatched, Hub, Taken, Who};
use super::methods;
use super::uri::ROOT;
use crate::acp::message::{self, Incoming};
use crate::gateway::Gateway;

/// How much that a client asked for may be under way before its next message is not read.
const FLIGHTS: usize = 1024;
/// Of `_meta` of what a client begins with: `false` where nobody is there who answers what agents ask.
const ANSWERS: &str = "dev.hostler/answers";
/// The close code of a client that speaks another protocol (RFC 6455, "policy violation").
const NO_VERSION: (u16, &str) = (1008, "no protocol version in common");

/// Something that a client asked for, about a channel.
pub(super) struct Task {
    /// The id of the answer, for a request.
    pub(super) answer: Option<String>,
    pub(super) method: String,
    pub(super) params: Box<RawValue>,
    _flight: OwnedSemaphorePermit,
}

#[derive(Default)]
struct State {
    /// What waits for its channel.
    lanes: HashMap<String, VecDeque<Task>>,
    ended: bool,
}

/// A client's connection.
pub(crate) struct Connection {
    key: u64,
    by: Arc<str>,
    pub(super) gateway: Gateway,
    pub(super) outbox: Arc<Outbox>,
    who: OnceLock<Who>,
    flights: Arc<Semaphore>,
    state: Mutex<State>,
    tasks: Mutex<JoinSet<()>>,
}

impl Connection {
    /// A new one, of whoever that is.
    pub(super) fn new(gateway: Gateway, by: String) -> Arc<Self> {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            key: CONNECTIONS.fetch_add(1, Ordering::Relaxed),
            by: by.into(),
            gateway,
            outbox: Arc::default(),
            who: OnceLock::new(),
            flights: Arc::new(Semaphore::new(FLIGHTS)),
            state: Mutex::default(),
            tasks: Mutex::default(),
        })
    }

    pub(super) fn hub(&self) -> &Hub {
        self.gateway.ahp().hub()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who the client is, once it has said so.
    pub(super) fn who(&self) -> Option<&Who> {
        self.who.get()
    }

    /// The client says who it is, and in `meta` whether somebody is there who answers what agents ask.
    ///
    /// # Errors
    /// It has said so before.
    pub(super) async fn introduce(
        &self,
        client: &str,
        meta: Option<&JsonObject>,
    ) -> Result<&Who, AhpError> {
        if client.is_empty() || client.len() > 256 {
            return Err(AhpError::params("`clientId` is to have 1 to 256 bytes"));
        }
        let answers = meta.and_then(|meta| meta.get(ANSWERS));
        let who = Who {
            answers: answers.and_then(Value::as_bool) != Some(false),
            connection: self.key,
            client: client.into(),
            by: format!(
                "{}, ahp {}",
                self.by,
                client.chars().take(40).collect::<String>()
            )
            .into(),
        };
        if self.who.set(who).is_err() {
            let why = "this connection is initialized already";
            return Err(AhpError::invalid_request(why));
        }
        self.gateway.ahp().wake(&self.gateway).await;
        let Some(who) = self.who.get() else {
            return Err(AhpError::internal("it is not known who this is"));
        };
        self.hub().enter(who, &self.outbox);
        Ok(who)
    }

    /// Takes one message of the client. Returns when the next one may come: what takes long goes on by itself.
    pub(super) async fn receive(self: &Arc<Self>, text: &str) {
        let (id, method, params) = match message::parse(text) {
            Err(malformed) => {
                self.outbox.answered().await;
                return self.outbox.say(malformed.answer());
            }
            // Nothing is asked of clients.
            Ok(Incoming::Response { .. }) => return,
            Ok(Incoming::Request { id, method, params }) => (Some(id.get()), method, params),
            Ok(Incoming::Notification { method, params }) => (None, method, params),
        };
        let Ok(flight) = self.flights.clone().acquire_owned().await else {
            return;
        };
        let task = Task {
            answer: id.map(str::to_owned),
            method: method.into_owned(),
            params: params.map_or_else(|| message::raw("{}".into()), ToOwned::to_owned),
            _flight: flight,
        };
        let begins = matches!(&*task.method, "initialize" | "reconnect");
        if begins || task.method == "ping" || self.who().is_none() {
            return self.carry_out(task).await;
        }
        match channel_of(&task.params) {
            // Requests to the host itself do not wait for each other.
            Some(channel) if channel == ROOT && !methods::in_order(&task.method) => {
                let connection = self.clone();
                self.spawn(async move { connection.carry_out(task).await });
            }
            channel => self.line_up(channel.unwrap_or_default(), task),
        }
    }

    /// What is about one channel is done in its order.
    fn line_up(self: &Arc<Self>, channel: String, task: Task) {
        let mut state = self.state();
        if let Some(lane) = state.lanes.get_mut(&channel) {
            lane.push_back(task);
            return;
        }
        state.lanes.insert(channel.clone(), VecDeque::new());
        drop(state);
        let connection = self.clone();
        // It goes on when the client is gone: what was said was heard.
        tokio::spawn(async move {
            let mut next = Some(task);
            while let Some(task) = next {
                connection.carry_out(task).await;
                let mut state = connection.state();
                next = state.lanes.get_mut(&channel).and_then(VecDeque::pop_front);
                if next.is_none() {
                    state.lanes.remove(&channel);
                }
            }
        });
    }

    /// Runs a task for as long as the connection lives.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let handle = tasks.spawn(task);
        if self.state().ended {
            handle.abort();
        }
    }

    async fn carry_out(self: &Arc<Self>, task: Task) {
        let Task {
            answer,
            method,
            params,
            _flight,
        } = task;
        let Some(id) = answer else {
            return self.told(&method, &params).await;
        };
        // Who does not read its answers is given no more of them.
        self.outbox.answered().await;
        let mut place = None;
        let result = methods::call(self, &method, &params, &mut place).await;
        if result.is_err() && !self.goes_on().await {
            // What failed because another host takes over is to be asked of that one.
            return;
        }
        let no_version = matches!(&result, Err(error)
            if error.code == ahp_types::errors::ahp_error_codes::UNSUPPORTED_PROTOCOL_VERSION);
        let text = match &result {
            Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, result.get()),
            Err(error) => {
                let error = serde_json::to_string(error).unwrap_or_default();
                format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
            }
        };
        match place {
            Some(place) => place.fill(text),
            // Nothing waits for an answer that has no place of its own, however long it takes.
            None => self.outbox.say(text),
        }
        if no_version {
            self.outbox.close_after(NO_VERSION);
        }
    }

    /// Whether this host still has the sessions; waits until that is known.
    async fn goes_on(&self) -> bool {
        use crate::gateway::Phase;
        let mut phases = self.gateway.phases();
        let phase = phases.wait_for(|phase| *phase != Phase::HandingOver).await;
        phase.is_ok_and(|phase| !phase.is_over())
    }

    /// A notification of the client.
    async fn told(&self, method: &str, params: &RawValue) {
        match (method, self.who()) {
            ("dispatchAction", Some(who)) => self.dispatched(who, params).await,
            ("unsubscribe", Some(who)) => methods::unsubscribe(self, who, params).await,
            _ => tracing::debug!(method, "a notification that means nothing here"),
        }
    }

    async fn dispatched(&self, who: &Who, params: &RawValue) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params<'a> {
            channel: String,
            client_seq: i64,
            #[serde(borrow)]
            action: &'a RawValue,
        }
        let Ok(params) = serde_json::from_str::<Params<'_>>(params.get()) else {
            tracing::debug!(client = %who.client, "an action that cannot be read");
            return;
        };
        let origin = ActionOrigin {
            client_id: who.client.to_string(),
            client_seq: params.client_seq,
        };
        let action = serde_json::from_str::<StateAction>(params.action.get());
        let (action, wrong) = match action {
            Ok(action) => (action, None),
            Err(error) => {
                let value = serde_json::from_str(params.action.get()).unwrap_or_default();
                (StateAction::Unknown(value), Some(error.to_string()))
            }
        };
        let dispatched = Dispatched {
            action,
            raw: params.action.to_owned(),
            origin,
        };
        let hub = self.hub();
        if Automations::is_one(&params.channel) {
            // These are there as soon as somebody wants something of them; one that cannot be opened is not there.
            let automations = self.gateway.ahp().automations();
            let opened = automations.open(&self.gateway, &params.channel).await;
            drop(opened);
        }
        let channel = hub.channel(&params.channel);
        let taken = match (wrong, &dispatched.action, channel) {
            (Some(why), _, _) => Err(format!("the action cannot be read: {why}")),
            (_, StateAction::Unknown(_), _) => {
                Err("no action of this type with such fields is known here".to_owned())
            }
            (_, _, None) => Err(super::hub::missing(&params.channel).message),
            (_, _, Some(channel)) => channel
                .dispatch(who, dispatched.clone())
                .await
                .map_err(|rejection| rejection.0),
        };
        match taken {
            Ok(Taken::Echo) => drop(hub.act(&params.channel, dispatched.into())),
            Ok(Taken::Shown) => {}
            Err(why) => {
                let act = Act::from(dispatched);
                hub.tell(who, &params.channel, &act, Some(&why));
            }
        }
    }

    /// The client is gone: it no longer follows anything, and what it held alone is released after its grace.
    pub(super) fn end(self: &Arc<Self>) {
        self.state().ended = true;
        self.outbox.close((1000, "the connection has ended"));
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        drop(tasks);
        if let Some(who) = self.who() {
            let grace = self.hub().leave(who);
            self.gateway.ahp().expire_after(grace);
        }
    }
}

/// The channel that parameters name.
fn channel_of(params: &RawValue) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        channel: std::borrow::Cow<'a, str>,
    }
    let named: Named<'_> = serde_json::from_str(params.get()).ok()?;
    Some(named.channel.into_owned())
}
