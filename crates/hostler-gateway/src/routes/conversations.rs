//! Agents and conversations, for clients that do not speak ACP.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json as Answer;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hostler_agent::{
    Answered as Taken, ClientCapabilities, ClientGuard, Conversation as Handle, ConversationFilter,
    ConversationId, Entry as Item, Error as AgentError, Follower, RequestId, Seq,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::blocking;
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Json, Path, Query};
use crate::gateway::Gateway;
use crate::wire::{
    Agent, AnswerRequest, Answered, Conversation, Entry, NewConversation, PoolMember,
    PromptRequest, Turn,
};

/// How many entries are given where nothing is said, and at the most.
const LIMIT: usize = 1000;
const MOST: usize = 10_000;
/// How many a follower is given at a time.
const BATCH: usize = 128;

/// The agents that can be talked to.
#[utoipa::path(get, path = "/v1/agents", tag = "agents", responses((status = 200, body = [Agent])))]
pub(crate) async fn agents(State(gateway): State<Gateway>) -> Answer<Vec<Agent>> {
    let default = &gateway.acp().agent;
    let agents = gateway.agents().catalogue().iter();
    let agents = agents.map(|(name, spec)| Agent {
        name: name.to_owned(),
        command: spec.command.clone(),
        default: name == default,
        warm: spec.warm,
    });
    Answer(agents.collect())
}

/// The agents that jobs share, the oldest first.
#[utoipa::path(get, path = "/v1/agents/pool", tag = "agents", responses((status = 200, body = [PoolMember])))]
pub(crate) async fn pool(State(gateway): State<Gateway>) -> Answer<Vec<PoolMember>> {
    let members = gateway.jobs().pool().members();
    Answer(members.into_iter().map(PoolMember::from).collect())
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Those that work there.
    #[param(value_type = Option<String>)]
    cwd: Option<PathBuf>,
    /// Those with this agent.
    agent: Option<String>,
    /// Only those that are open.
    live: bool,
    /// Those older than the one with this `cursor`.
    before: Option<u64>,
    /// How many at the most.
    limit: Option<usize>,
}

/// Conversations, the newest first.
#[utoipa::path(get, path = "/v1/conversations", tag = "agents", params(Listing), responses((status = 200, body = [Conversation])))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(listing): Query<Listing>,
) -> Result<Answer<Vec<Conversation>>, ApiError> {
    let filter = ConversationFilter {
        cwd: listing.cwd,
        agent: listing.agent,
        live: listing.live,
        before: listing.before,
        limit: listing.limit.unwrap_or(100).clamp(1, MOST),
    };
    let agents = gateway.agents().clone();
    let list = blocking(move || agents.list(&filter).map_err(ApiError::from)).await??;
    Ok(Answer(list.into_iter().map(Conversation::from).collect()))
}

/// Begin a conversation in a session of its own.
#[utoipa::path(post, path = "/v1/conversations", tag = "agents", request_body = NewConversation, responses((status = 201, body = Conversation)))]
pub(crate) async fn open(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    Json(new): Json<NewConversation>,
) -> Result<(StatusCode, Answer<Conversation>), ApiError> {
    let _starting = gateway.starting()?;
    let lazy = new.lazy;
    let agents = gateway.agents();
    let new = new.options(agents, gateway.defaults(), &gateway.acp().agent)?;
    let agent = new.agent.clone();
    let conversation = match lazy {
        true => agents.open(new, by).await?,
        false => {
            let (conversation, ready) = agents.open_ready(new, by).await?;
            gateway.learn_handshake(&agent, ready.initialize);
            conversation
        }
    };
    Ok((StatusCode::CREATED, Answer(conversation.info().into())))
}

/// One conversation, open or not, by its id; an open one by its session, too.
#[utoipa::path(get, path = "/v1/conversations/{conversation}", tag = "agents",
    params(("conversation" = String, Path, description = "Its id, or its session's id or name")), responses((status = 200, body = Conversation)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Answer<Conversation>, ApiError> {
    if let Ok(conversation) = gateway.agents().get(&name) {
        return Ok(Answer(conversation.info().into()));
    }
    let id = known(&name)?;
    let agents = gateway.agents().clone();
    let info = blocking(move || agents.info(&id).map_err(ApiError::from)).await??;
    Ok(Answer(info.into()))
}

fn known(name: &str) -> Result<ConversationId, ApiError> {
    name.parse()
        .map_err(|_| AgentError::NotFound(name.chars().take(100).collect()).into())
}

fn live(gateway: &Gateway, name: &str) -> Result<Handle, ApiError> {
    Ok(gateway.agents().get(name)?)
}

/// Open a conversation again whose session has closed, in a new one. An open one stays as it is.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/load", tag = "agents", params(("conversation" = String, Path)),
    responses((status = 200, body = Conversation)))]
pub(crate) async fn load(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<Answer<Conversation>, ApiError> {
    let _starting = gateway.starting()?;
    let conversation = match gateway.agents().get(&name) {
        Ok(conversation) => conversation,
        Err(_) => gateway.agents().load(&known(&name)?, by).await?,
    };
    Ok(Answer(conversation.info().into()))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Waiting {
    /// Whether to answer when the turn has ended, rather than when it is asked for.
    #[param(default = true)]
    wait: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { wait: true }
    }
}

/// Ask for a turn. It runs when those before it have ended.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/prompt", tag = "agents", params(("conversation" = String, Path), Waiting),
    request_body = PromptRequest, responses((status = 200, body = Turn), (status = 202, body = Turn)))]
pub(crate) async fn prompt(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Query(waiting): Query<Waiting>,
    Asker(by): Asker,
    Json(request): Json<PromptRequest>,
) -> Result<(StatusCode, Answer<Turn>), ApiError> {
    let starting = gateway.starting()?;
    let conversation = live(&gateway, &name)?;
    let params = request.params(conversation.id().as_str())?;
    let turn = conversation.prompt(params, by).await?;
    drop(starting);
    if !waiting.wait {
        return Ok((StatusCode::ACCEPTED, Answer(Turn::under_way(&turn))));
    }
    tokio::select! {
        end = turn.ended() => Ok((StatusCode::OK, Answer(Turn::ended(&turn, end)))),
        error = gateway.over() => Err(error),
    }
}

/// Cancel the turn that runs, and those that wait.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/cancel", tag = "agents", params(("conversation" = String, Path)),
    responses((status = 204)))]
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<StatusCode, ApiError> {
    live(&gateway, &name)?.cancel(by).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Answer a request of the agent. The first answer is taken.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/answer", tag = "agents", params(("conversation" = String, Path)),
    request_body = AnswerRequest, responses((status = 200, body = Answered)))]
pub(crate) async fn answer(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(request): Json<AnswerRequest>,
) -> Result<Answer<Answered>, ApiError> {
    let conversation = live(&gateway, &name)?;
    let answer = match (request.result, request.error) {
        (Some(result), None) => Ok(result),
        (None, Some(error)) => Err(serde_json::from_str(error.get())
            .map_err(|error| ApiError::bad(format!("`error`: {error}")))?),
        _ => return Err(ApiError::bad("either `result` or `error` is wanted")),
    };
    let taken = conversation
        .answer(RequestId(request.request), answer, by)
        .await?;
    Ok(Answer(Answered {
        first: taken == Taken::First,
    }))
}

/// End the agent, and nothing else of the session. At its next use it is started again and given the conversation.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/evict", tag = "agents", params(("conversation" = String, Path)),
    responses((status = 204)))]
pub(crate) async fn evict(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<StatusCode, ApiError> {
    live(&gateway, &name)?.evict(by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End the agent and let it forget: it begins anew under the same id. The transcript stays.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/reset", tag = "agents", params(("conversation" = String, Path)),
    responses((status = 204)))]
pub(crate) async fn reset(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<StatusCode, ApiError> {
    live(&gateway, &name)?.reset(by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new conversation, in a session of its own, that has this one's transcript up to here.
#[utoipa::path(post, path = "/v1/conversations/{conversation}/fork", tag = "agents", params(("conversation" = String, Path)),
    responses((status = 201, body = Conversation)))]
pub(crate) async fn fork(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<(StatusCode, Answer<Conversation>), ApiError> {
    let _starting = gateway.starting()?;
    let forked = live(&gateway, &name)?.fork(by).await?;
    Ok((StatusCode::CREATED, Answer(forked.info().into())))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Reading {
    /// Those behind this number.
    after: u64,
    /// How many at the most, where it is not followed.
    limit: Option<usize>,
    /// From there on and live, each entry once and in order, until the conversation is no longer open.
    follow: bool,
    /// While it is followed: whether this client counts as one that is attached and answers the agent's requests.
    answers: bool,
    /// While it is followed: whether this client counts as one that is attached, though it answers nothing.
    holds: bool,
}

/// The transcript: an entry a line (`application/x-ndjson`), or as server-sent events with `Accept: text/event-stream`.
#[utoipa::path(get, path = "/v1/conversations/{conversation}/transcript", tag = "agents", params(("conversation" = String, Path), Reading),
    responses((status = 200, content((Entry = "application/x-ndjson"), (String = "text/event-stream")))))]
pub(crate) async fn transcript(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Query(reading): Query<Reading>,
    Asker(by): Asker,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let events = text(header::ACCEPT).is_some_and(|accept| accept.contains("text/event-stream"));
    let last = text(header::HeaderName::from_static("last-event-id"));
    let after = last.and_then(|id| id.parse().ok()).unwrap_or(0);
    let after = Seq(reading.after.max(after));
    let live = gateway.agents().get(&name).ok();
    let (Some(conversation), true) = (&live, reading.follow || events) else {
        let id = match live {
            Some(conversation) => conversation.id().clone(),
            None => known(&name)?,
        };
        return page(&gateway, id, after, reading.limit).await;
    };
    let guard = match reading.answers || reading.holds {
        true => {
            let capabilities = ClientCapabilities {
                answers: reading.answers,
                raw: None,
            };
            Some(conversation.attach(&by.who, capabilities).await?)
        }
        false => None,
    };
    let following = Following {
        follower: conversation.follow(after),
        waiting: VecDeque::new(),
        gateway,
        _guard: guard,
    };
    if events {
        let stream = stream::unfold(following, async |mut following| {
            let entry = following.next().await?;
            let event = sse::Event::default().id(entry.seq.to_string());
            let event = event.data(line(&entry));
            Some((Ok::<_, Infallible>(event), following))
        });
        let sse = Sse::new(stream).keep_alive(KeepAlive::default());
        return Ok(sse.into_response());
    }
    let stream = stream::unfold(following, async |mut following| {
        let entry = following.next().await?;
        let mut text = line(&entry);
        text.push('\n');
        // What is there already goes with it.
        while let Some(entry) = following.waiting.pop_front() {
            text.push_str(&line(&entry));
            text.push('\n');
        }
        Some((Ok::<_, Infallible>(Bytes::from(text)), following))
    });
    Ok(lines(Body::from_stream(stream)))
}

async fn page(
    gateway: &Gateway,
    id: ConversationId,
    after: Seq,
    limit: Option<usize>,
) -> Result<Response, ApiError> {
    let agents = gateway.agents().clone();
    let wanted = id.clone();
    // It is there, or there is none of this id.
    blocking(move || agents.info(&wanted).map_err(ApiError::from)).await??;
    let limit = limit.unwrap_or(LIMIT).min(MOST);
    let entries = gateway.agents().entries(&id, after, limit).await?;
    let text = entries.iter().fold(String::new(), |mut text, entry| {
        text.push_str(&line(entry));
        text.push('\n');
        text
    });
    Ok(lines(Body::from(text)))
}

fn line(entry: &Item) -> String {
    let line = serde_json::to_string(&Entry::from(entry)).unwrap_or_default();
    // Between tokens there may be line ends, as a client wrote them; within strings there are none.
    match line.contains('\n') {
        true => line.replace(['\n', '\r'], " "),
        false => line,
    }
}

fn lines(body: Body) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// A transcript being followed, for as long as this host has the conversation.
struct Following {
    gateway: Gateway,
    follower: Follower,
    waiting: VecDeque<Arc<Item>>,
    _guard: Option<ClientGuard>,
}

impl Following {
    async fn next(&mut self) -> Option<Arc<Item>> {
        if self.waiting.is_empty() {
            let entries = tokio::select! {
                entries = self.follower.next(BATCH) => entries,
                _ = self.gateway.over() => return None,
            };
            match entries {
                Ok(entries) if !entries.is_empty() => self.waiting = entries.into(),
                _ => {
                    // Nothing that is held is let go of while another host takes over.
                    let mut phases = self.gateway.phases();
                    let _ = phases
                        .wait_for(|phase| *phase != crate::gateway::Phase::HandingOver)
                        .await;
                    return None;
                }
            }
        }
        self.waiting.pop_front()
    }
}

impl From<AgentError> for ApiError {
    fn from(error: AgentError) -> Self {
        let message = error.to_string();
        let code = match error {
            AgentError::Session(error) => return error.into(),
            AgentError::NoAgent(_) | AgentError::NotFound(_) => ErrorCode::NotFound,
            AgentError::Ledger(_) | AgentError::Read(_) => ErrorCode::Unavailable,
            AgentError::Handshake { .. } | AgentError::AgentEnded { .. } | AgentError::Rpc(_) => {
                ErrorCode::Agent
            }
            AgentError::Busy { .. } => ErrorCode::Limit,
            AgentError::Closed(_) => ErrorCode::Conflict,
            AgentError::Denied(_) => ErrorCode::Forbidden,
            AgentError::Invalid(_) => ErrorCode::BadRequest,
            _ => ErrorCode::Internal,
        };
        Self::new(code, message)
    }
}
