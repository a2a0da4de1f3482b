//! What clients ask for, by its method.

use std::path::PathBuf;
use std::sync::Arc;

use hostler_agent::{Answer, ConversationFilter, ConversationInfo, Error as AgentError, RpcError};
use hostler_session::CloseReason;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::connection::{Connection, Task};
use super::{feed, message};
use crate::routes::blocking;
use crate::wire;

/// How many conversations a page of a listing has.
const PAGE: usize = 50;

#[derive(Deserialize, Default)]
#[serde(default)]
struct List {
    cwd: Option<PathBuf>,
    cursor: Option<String>,
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

pub(super) fn parse<'a, T: Deserialize<'a>>(params: Option<&'a RawValue>) -> Result<T, RpcError> {
    let params = params.map_or("{}", RawValue::get);
    serde_json::from_str(params).map_err(|error| RpcError::invalid_params(error.to_string()))
}

pub(super) fn to_raw(value: &Value) -> Box<RawValue> {
    message::raw(value.to_string())
}

impl Connection {
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
            _ => {
                let params = params.unwrap_or_else(|| message::raw("{}".into()));
                self.about_the_agent(&id, &method, params).await
            }
        };
        self.answer(&id, answer).await;
    }

    /// What is about the agent rather than a session goes to that of the client's only session; who is logged in, to those of
    /// all its sessions, for each is a program of its own.
    async fn about_the_agent(&self, id: &str, method: &str, params: Box<RawValue>) -> Answer {
        let conversations = match method {
            "authenticate" | "logout" => self.conversations(),
            _ => self.only_conversation().into_iter().collect(),
        };
        let mut answer = None;
        for conversation in conversations {
            let by = self.by(method);
            let call = conversation.call_until(method, params.clone(), by, self.taken_back(id));
            let result = call.await.map_err(failure)??;
            answer.get_or_insert(result);
        }
        match answer {
            Some(answer) => Ok(answer),
            None if method == "authenticate" => self.log_in(id, params).await,
            None => Err(RpcError::method_not_found(method)),
        }
    }

    /// `authenticate` before there is a session: an agent is started to be told, and ended.
    async fn log_in(&self, id: &str, params: Box<RawValue>) -> Answer {
        let _starting = self
            .gateway
            .starting()
            .map_err(|error| RpcError::internal(error.message))?;
        let agents = self.gateway.agents();
        let asking = agents.authenticate(&self.client.agent, params, self.by("authenticate"));
        tokio::select! {
            answer = asking => answer.map_err(failure)?,
            () = self.taken_back(id) => Err(RpcError::cancelled()),
        }
    }

    /// Does it, unless the client takes the request back; that is answered then.
    pub(super) async fn cancellable<T>(
        &self,
        id: &str,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.taken_back(id) => {
                self.answer(id, Err(RpcError::cancelled())).await;
                None
            }
        }
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
                let by = self.by(feed::why(&id));
                // It is answered when the transcript has the turn's end.
                match conversation.prompt(params, by).await {
                    Ok(turn) => self.is_turn(&id, &conversation, turn.id),
                    Err(error) => self.answer(&id, Err(failure(error))).await,
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
                let (by, taken_back) = (self.by(&*method), self.taken_back(&id));
                let mut call = Box::pin(async move {
                    conversation
                        .call_until(&method, params, by, taken_back)
                        .await
                });
                let first = futures_util::poll!(call.as_mut());
                let connection = self.clone();
                let rest = async move {
                    let answer = match first {
                        std::task::Poll::Ready(answer) => answer,
                        std::task::Poll::Pending => call.await,
                    };
                    let answer = answer.map_err(failure).and_then(|answer| answer);
                    connection.answer(&id, answer).await;
                };
                self.spawn(rest);
            }
        }
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
        let page = blocking(move || agents.list(&filter).map_err(failure)).await;
        let page = page.map_err(|error| RpcError::internal(error.message))?;
        let page = page?;
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
