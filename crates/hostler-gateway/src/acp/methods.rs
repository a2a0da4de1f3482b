//! What clients ask for, by its method.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use hostler_agent::{
    Answer, ClientCapabilities, Conversation, ConversationFilter, ConversationId, ConversationInfo,
    Error as AgentError, NewConversation, Ready, RpcError, Seq,
};
use hostler_session::{CloseReason, SessionOptions};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connection::{Connection, Task};
use super::feed::{self, Feed, Start};
use super::message::{self, Members};
use crate::routes::blocking;
use crate::wire;

/// The version of ACP that is spoken here.
const VERSION: u64 = 1;
/// How many conversations a page of a listing has.
const PAGE: usize = 50;

#[derive(Deserialize)]
struct New<'a> {
    cwd: PathBuf,
    #[serde(borrow, rename = "mcpServers", default)]
    mcp_servers: Vec<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct List {
    cwd: Option<PathBuf>,
    cursor: Option<String>,
}

/// What a client that counts says when it comes back.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Back {
    /// The last entry that it has.
    after: Option<u64>,
    /// Its turns that have not ended, with the ids of their requests.
    turns: HashMap<u64, Box<RawValue>>,
    /// It takes this for a new conversation: the answer comes first, as that to `session/new`, and the history after it.
    join: bool,
}

impl Back {
    fn of(params: &RawValue) -> Self {
        let meta = Members::of(params).get("_meta");
        let hostler = meta.and_then(|meta| Members::of(meta).get("hostler"));
        let back = hostler.and_then(|hostler| serde_json::from_str(hostler.get()).ok());
        back.unwrap_or_default()
    }
}

/// A failure as ACP tells it. What the agent itself answered stays as it is.
pub(crate) fn failure(error: AgentError) -> RpcError {
    let line = error.to_string();
    match error {
        AgentError::Rpc(rpc) => rpc,
        AgentError::Handshake { rpc: Some(rpc), .. } => *rpc,
        AgentError::NotFound(_) => RpcError::new(RpcError::NOT_FOUND, line),
        AgentError::NoAgent(_) | AgentError::Invalid(_) => RpcError::invalid_params(line),
        _ => RpcError::internal(line),
    }
}

fn parse<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, RpcError> {
    let params = params.map_or("{}", RawValue::get);
    serde_json::from_str(params).map_err(|error| RpcError::invalid_params(error.to_string()))
}

fn to_raw(value: &Value) -> Box<RawValue> {
    message::raw(value.to_string())
}

/// Closes a conversation that nobody has come to yet, unless it is said that somebody has.
struct Unclaimed {
    conversation: Option<Conversation>,
    by: hostler_session::By,
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(conversation) = self.conversation.take() {
            let by = self.by.clone();
            tokio::spawn(async move {
                if let Err(error) = conversation.close(CloseReason::Client, by).await {
                    tracing::debug!(%error, "a conversation that nobody came to");
                }
            });
        }
    }
}

impl Connection {
    /// Whether the client said that it can do this.
    pub(super) fn can(&self, what: &str) -> bool {
        let raw = self.capabilities().raw;
        let raw = raw.as_deref().map(Members::of);
        let value = raw.as_ref().and_then(|members| members.get(what));
        value.is_some_and(|value| !matches!(value.get(), "null" | "false"))
    }

    pub(super) async fn initialize(&self, task: Task) {
        let Some(id) = &task.id else { return };
        let answer = self.introduce(task.params.as_deref());
        self.answer(id, answer).await;
    }

    fn introduce(&self, params: Option<&RawValue>) -> Answer {
        #[derive(Deserialize)]
        struct Hello<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            _version: &'a RawValue,
            #[serde(borrow, rename = "clientCapabilities")]
            capabilities: Option<&'a RawValue>,
        }
        let hello: Hello<'_> = parse(params)?;
        let agent = &self.client.agent;
        if self.gateway.agents().catalogue().get(agent).is_none() {
            return Err(failure(AgentError::NoAgent(agent.clone())));
        }
        self.initialized(ClientCapabilities {
            answers: true,
            raw: hello.capabilities.map(|raw| Arc::from(raw.to_owned())),
        });
        let known = self.gateway.handshake(agent);
        Ok(to_raw(&introduction(agent, known.as_deref())))
    }

    /// A message that is about no conversation.
    pub(super) async fn of_connection(self: &Arc<Self>, task: Task) {
        let Task { id, method, params } = task;
        let Some(id) = id else {
            if let Some(conversation) = self.only_conversation() {
                let params = params.unwrap_or_else(|| message::raw("{}".into()));
                let _ = conversation.notify(&method, params).await;
            }
            return;
        };
        let answer = match method.as_str() {
            "session/new" => {
                if let Some(Err(error)) = self.cancellable(&id, self.begin(&id, params)).await {
                    self.answer(&id, Err(error)).await;
                }
                return;
            }
            "session/list" => self.list(params.as_deref()).await,
            _ => match self.only_conversation() {
                Some(conversation) => {
                    let params = params.unwrap_or_else(|| message::raw("{}".into()));
                    let call = conversation.call(&method, params, self.by(&*method));
                    match self.cancellable(&id, call).await {
                        Some(answer) => answer.map_err(failure).and_then(|answer| answer),
                        None => return,
                    }
                }
                None if method == "authenticate" => Err(RpcError::invalid_params(
                    "an agent has its credentials from the host's configuration, or from the session that it is in",
                )),
                None => Err(RpcError::method_not_found(&method)),
            },
        };
        self.answer(&id, answer).await;
    }

    /// Does it, unless the client takes the request back; that is answered then.
    async fn cancellable<T>(&self, id: &str, work: impl Future<Output = T>) -> Option<T> {
        let Some(flight) = self.flight(id) else {
            return Some(work.await);
        };
        tokio::select! {
            done = work => Some(done),
            () = flight.cancelled.notified() => {
                let error = RpcError::new(RpcError::CANCELLED, "the request was cancelled");
                self.answer(id, Err(error)).await;
                None
            }
        }
    }

    /// `session/new`.
    async fn begin(
        self: &Arc<Self>,
        id: &str,
        params: Option<Box<RawValue>>,
    ) -> Result<(), RpcError> {
        let new: New<'_> = parse(params.as_deref())?;
        if !new.cwd.is_absolute() {
            let why = format!("`cwd`: {} is not an absolute path", new.cwd.display());
            return Err(RpcError::invalid_params(why));
        }
        let _starting = self
            .gateway
            .starting()
            .map_err(|error| RpcError::internal(error.message))?;
        let more = params.as_deref().map(Members::of);
        let more = more.map(|mut members| {
            let ours = ["cwd", "mcpServers", "_meta"];
            members.0.retain(|(key, _)| !ours.contains(&key.as_ref()));
            members.without("")
        });
        let by = self.by("session/new");
        let options = NewConversation {
            agent: self.client.agent.clone(),
            session: SessionOptions {
                cwd: Some(new.cwd.clone()),
                policy: self.gateway.defaults().clone(),
                ..SessionOptions::default()
            },
            mcp_servers: new.mcp_servers.into_iter().map(ToOwned::to_owned).collect(),
            meta: new.meta.map(ToOwned::to_owned),
            more: more.filter(|more| more.get() != "{}"),
            cwd: new.cwd,
            permission: None,
        };
        let agents = self.gateway.agents();
        let opened = agents.open_ready(options, by.clone()).await;
        let (conversation, ready) = opened.map_err(failure)?;
        self.enter(id, conversation, &ready, by).await
    }

    /// Attaches to a conversation that was made for this client, and answers the request that wanted it.
    async fn enter(
        self: &Arc<Self>,
        id: &str,
        conversation: Conversation,
        ready: &Ready,
        by: hostler_session::By,
    ) -> Result<(), RpcError> {
        let mut unclaimed = Unclaimed {
            conversation: Some(conversation.clone()),
            by,
        };
        self.learn(ready);
        let guard = conversation
            .attach(&self.client.who, self.capabilities())
            .await
            .map_err(failure)?;
        // What the agent said since it came up is the client's, too.
        let start = Start {
            after: Seq::START,
            history: Seq::START,
            until: Seq::START,
            opening: Some((id.to_owned(), Ok((*ready.session).to_owned()))),
            waiting: Vec::new(),
            turns: HashMap::new(),
        };
        let feed = Feed::new(self, &conversation, start);
        // Its client will open a stream for it.
        self.outbox.open(conversation.id().as_str());
        self.attach(guard, feed);
        unclaimed.conversation = None;
        Ok(())
    }

    fn learn(&self, ready: &Ready) {
        self.gateway
            .learn_handshake(&self.client.agent, ready.initialize.clone());
    }

    /// `session/load` and `session/resume`.
    async fn come_back(
        self: &Arc<Self>,
        id: &str,
        session: &str,
        params: &RawValue,
        history: bool,
    ) -> Result<(), RpcError> {
        let missing = || failure(AgentError::NotFound(session.to_owned()));
        let conversation: ConversationId = session.parse().map_err(|_| missing())?;
        let why = if history {
            "session/load"
        } else {
            "session/resume"
        };
        let by = self.by(why);
        let agents = self.gateway.agents();
        let conversation = agents.load(&conversation, by.clone()).await;
        let conversation = conversation.map_err(failure)?;
        // Before anything is done with it, so that it does not end under the client's hands.
        let guard = conversation
            .attach(&self.client.who, self.capabilities())
            .await
            .map_err(failure)?;
        let ready = conversation.ready(by).await.map_err(failure)?;
        self.learn(&ready);
        let back = Back::of(params);
        let last = conversation.last();
        let after = match (history, back.after) {
            (_, Some(after)) => Seq(after.min(last.0)),
            (true, None) => Seq::START,
            (false, None) => last,
        };
        let waiting = match after {
            Seq::START => Vec::new(),
            _ => feed::waiting(self, &conversation).await,
        };
        let answer = match back.join {
            true => (*ready.session).to_owned(),
            false => Members::of(&ready.session).without("sessionId"),
        };
        let turns = back.turns.into_iter();
        let start = Start {
            after,
            history: if history { last } else { Seq::START },
            until: if back.join { Seq::START } else { last },
            opening: Some((id.to_owned(), Ok(answer))),
            waiting: waiting
                .into_iter()
                .filter(|entry| entry.seq <= after)
                .collect(),
            turns: turns
                .map(|(turn, id)| (turn, id.get().to_owned()))
                .collect(),
        };
        let feed = Feed::new(self, &conversation, start);
        self.attach(guard, feed);
        Ok(())
    }

    /// A message for a conversation. Those of one conversation come one after the other.
    pub(super) async fn of_session(self: &Arc<Self>, session: &str, task: Task) {
        let Task { id, method, params } = task;
        let params = params.unwrap_or_else(|| message::raw("{}".into()));
        let Some(id) = id else {
            return self.told(session, &method, params).await;
        };
        if let history @ ("session/load" | "session/resume") = method.as_str() {
            let history = history == "session/load";
            let coming = self.come_back(&id, session, &params, history);
            let came = self.cancellable(&id, coming).await;
            if let Some(Err(error)) = came {
                self.answer(&id, Err(error)).await;
            }
            return self.give_up(session);
        }
        let Some(conversation) = self.conversation(session) else {
            let why = format!("`{session}` is not open here");
            let error = RpcError::new(RpcError::NOT_FOUND, why);
            return self.answer(&id, Err(error)).await;
        };
        match method.as_str() {
            "session/prompt" => {
                self.is_turn(&id, session);
                let by = self.by(feed::why(&id));
                // It is answered when the transcript has the turn's end.
                if let Err(error) = conversation.prompt(params, by).await {
                    self.answer(&id, Err(failure(error))).await;
                }
            }
            "session/close" => {
                let by = self.by("session/close");
                let closed = conversation.close(CloseReason::Client, by).await;
                let closed = closed.map(|_| message::raw("{}".into())).map_err(failure);
                let over = closed.is_ok();
                self.answer(&id, closed).await;
                if over {
                    self.detach(session);
                }
            }
            "session/fork" => {
                let forked = self.cancellable(&id, self.fork(&id, &conversation)).await;
                if let Some(Err(error)) = forked {
                    self.answer(&id, Err(error)).await;
                }
            }
            _ => {
                // In the order in which they came; their answers as they come.
                let by = self.by(&*method);
                let mut call =
                    Box::pin(async move { conversation.call(&method, params, by).await });
                let first = futures_util::poll!(call.as_mut());
                let (connection, id) = (self.clone(), id);
                let rest = async move {
                    let answer = match first {
                        std::task::Poll::Ready(answer) => Some(answer),
                        std::task::Poll::Pending => connection.cancellable(&id, call).await,
                    };
                    if let Some(answer) = answer {
                        let answer = answer.map_err(failure).and_then(|answer| answer);
                        connection.answer(&id, answer).await;
                    }
                };
                self.spawn(rest);
            }
        }
    }

    async fn fork(self: &Arc<Self>, id: &str, of: &Conversation) -> Result<(), RpcError> {
        let by = self.by("session/fork");
        let forked = of.fork(by.clone()).await.map_err(failure)?;
        let mut unclaimed = Unclaimed {
            conversation: Some(forked.clone()),
            by: by.clone(),
        };
        let ready = forked.ready(by.clone()).await.map_err(failure)?;
        unclaimed.conversation = None;
        self.enter(id, forked, &ready, by).await
    }

    /// A notification about a conversation.
    async fn told(&self, session: &str, method: &str, params: Box<RawValue>) {
        let Some(conversation) = self.conversation(session) else {
            return;
        };
        if method == "session/cancel" {
            return conversation.cancel(self.by("session/cancel")).await;
        }
        if let Err(error) = conversation.notify(method, params).await {
            tracing::debug!(%error, method, "a notification did not reach the agent");
        }
    }

    async fn list(&self, params: Option<&RawValue>) -> Answer {
        let list: List = parse(params)?;
        let before =
            match &list.cursor {
                None => None,
                Some(cursor) => Some(cursor.parse().map_err(|_| {
                    RpcError::invalid_params(format!("there is no cursor `{cursor}`"))
                })?),
            };
        let filter = ConversationFilter {
            cwd: list.cwd,
            before,
            limit: PAGE,
            ..ConversationFilter::default()
        };
        let agents = self.gateway.agents().clone();
        let page = blocking(move || agents.list(&filter)).await;
        let page = page.map_err(|error| RpcError::internal(error.message))?;
        let page = page.map_err(failure)?;
        let next = page.last().filter(|_| page.len() >= PAGE);
        let mut answer = json!({"sessions": page.iter().map(listed).collect::<Vec<_>>()});
        if let Some(next) = next {
            answer["nextCursor"] = next.cursor.to_string().into();
        }
        Ok(to_raw(&answer))
    }
}

fn listed(info: &ConversationInfo) -> Value {
    let mut value = json!({
        "sessionId": info.id.as_str(),
        "cwd": info.cwd,
        "updatedAt": wire::iso_8601(info.updated),
        "_meta": {"hostler": {"agent": info.agent, "session": info.session.as_str(), "live": info.live}},
    });
    if let Some(title) = &info.title {
        value["title"] = title.clone().into();
    }
    value
}

/// What the host says of itself, and of the agent behind it by what that said when it was last started here. Of an agent that was
/// not, everything that may be in a prompt is said to be welcome: what it cannot take it refuses itself.
fn introduction(agent: &str, known: Option<&RawValue>) -> Value {
    let known: Value = known
        .and_then(|known| serde_json::from_str(known.get()).ok())
        .unwrap_or_else(|| {
            json!({"agentCapabilities": {
                "promptCapabilities": {"image": true, "audio": true, "embeddedContext": true},
                "mcpCapabilities": {"http": true, "sse": true},
            }})
        });
    let mut capabilities = match known.get("agentCapabilities") {
        Some(Value::Object(members)) => members.clone(),
        _ => serde_json::Map::new(),
    };
    let mut session = match capabilities.get("sessionCapabilities") {
        Some(Value::Object(members)) => members.clone(),
        _ => serde_json::Map::new(),
    };
    // Whatever the agent can do: these are served from the ledger.
    for own in ["list", "resume", "close", "fork"] {
        session.insert(own.into(), json!({}));
    }
    session.remove("delete");
    capabilities.insert("loadSession".into(), true.into());
    capabilities.insert("sessionCapabilities".into(), session.into());
    let auth = known.get("authMethods").cloned();
    json!({
        "protocolVersion": VERSION,
        "agentCapabilities": capabilities,
        "agentInfo": {
            "name": "hostler",
            "title": format!("Hostler ({agent})"),
            "version": env!("CARGO_PKG_VERSION"),
        },
        "authMethods": auth.unwrap_or_else(|| json!([])),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_own_capabilities_are_kept_and_the_hosts_added() {
        let known = message::raw(
            json!({
                "protocolVersion": 1,
                "agentCapabilities": {
                    "promptCapabilities": {"image": true},
                    "sessionCapabilities": {"delete": {}, "additionalDirectories": {}},
                    "strange": [1]
                },
                "authMethods": [{"id": "key"}]
            })
            .to_string(),
        );
        let said = introduction("claude", Some(&known));
        let capabilities = &said["agentCapabilities"];
        assert_eq!(capabilities["strange"], json!([1]));
        assert_eq!(capabilities["promptCapabilities"], json!({"image": true}));
        assert_eq!(capabilities["loadSession"], true);
        let session = &capabilities["sessionCapabilities"];
        assert!(session["delete"].is_null() && session["additionalDirectories"].is_object());
        assert!(session["list"].is_object() && session["resume"].is_object());
        assert_eq!(said["authMethods"], json!([{"id": "key"}]));
        let unknown = introduction("claude", None);
        assert_eq!(
            unknown["agentCapabilities"]["promptCapabilities"]["image"],
            true
        );
    }

    #[test]
    fn what_a_client_says_that_comes_back_is_read() {
        let params = message::raw(
            r#"{"sessionId":"s","_meta":{"hostler":{"after":7,"turns":{"3":"a"}}}}"#.into(),
        );
        let back = Back::of(&params);
        assert_eq!(back.after, Some(7));
        assert_eq!(back.turns[&3].get(), "\"a\"");
        assert!(Back::of(&message::raw("{}".into())).after.is_none());
    }
}
