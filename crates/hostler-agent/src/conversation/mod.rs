//! Conversations: what clients talk to.

mod actor;
mod asked;
mod idle;
mod incoming;
mod last;
mod life;
mod pending;
mod queue;
mod renewal;
mod resumed;
mod shared;
mod turns;
mod writing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hostler_ledger::{ConversationId, EntrySeq as Seq, SessionId};
use hostler_session::{Attachment, By, CloseReason, CloseReport, Session};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use crate::agents::ConversationInfo;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::link::Caller;
use crate::permission::PermissionPolicy;
use crate::rpc::{Answer, RpcError, for_session};
use crate::transcript::RequestId;

pub(crate) use actor::{Actor, Message, now};
use asked::Answers;
pub(crate) use idle::{Used, UsedCell};
pub(crate) use life::ready_of;
pub(crate) use pending::{At, Pending};
pub(crate) use shared::Shared;

/// An agent that is up.
#[derive(Debug, Clone)]
pub struct Ready {
    /// Its answer to `initialize`, as it came.
    pub initialize: Arc<RawValue>,
    /// Its answer to `session/new`, `session/load` or `session/resume`, with the conversation's id as `sessionId`.
    pub session: Arc<RawValue>,
}

/// How a turn ended.
#[derive(Debug, Clone)]
pub enum TurnEnd {
    /// The agent's result, with its `stopReason`; of a turn that was cancelled before the agent had it, one that says so.
    Result(Arc<RawValue>),
    /// The agent's error, or that of an agent that died or could not be started.
    Error(RpcError),
    /// It was cut off: by the death of the host, the close of the session, an evict. Why, in one line.
    Interrupted(String),
}

/// A turn that was asked for.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Its number in the conversation: from 1, upwards.
    pub id: u64,
    /// Its prompt in the transcript.
    pub seq: Seq,
    pub(crate) end: tokio::sync::watch::Receiver<Option<TurnEnd>>,
}

impl Turn {
    /// Waits for its end, which is in the transcript then.
    ///
    /// Cancel safe: the turn goes on.
    pub async fn ended(&self) -> TurnEnd {
        let mut end = self.end.clone();
        let gone = || TurnEnd::Interrupted("the conversation was handed over".into());
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or_else(gone),
            Err(_) => gone(),
        }
    }
}

/// Whether an answer to a request of the agent was the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// It was; the agent gets it.
    First,
    /// The request was settled before, or there is none of this number.
    Late,
}

/// What a client that attaches can do.
#[derive(Debug, Clone)]
pub struct ClientCapabilities {
    /// Whether somebody is there who answers the agent's requests, so that they wait for that.
    pub answers: bool,
    /// Its `clientCapabilities`, as they came. Without, it is one that answers whatever it is asked.
    pub raw: Option<Arc<RawValue>>,
}

impl Default for ClientCapabilities {
    fn default() -> Self {
        Self {
            answers: true,
            raw: None,
        }
    }
}

impl ClientCapabilities {
    /// Whether the client said that it can do this: a member that is neither `null` nor `false`.
    pub fn can(&self, what: &str) -> bool {
        let raw = self.raw.as_deref().map_or("null", RawValue::get);
        let said = serde_json::from_str::<serde_json::Value>(raw).unwrap_or_default();
        !matches!(
            said[what],
            serde_json::Value::Null | serde_json::Value::Bool(false)
        )
    }
}

/// A client that is attached: to the session, and to the conversation. Dropping it detaches both.
#[derive(Debug)]
pub struct ClientGuard {
    _stands_by: StandBy,
    _attachment: Attachment,
}

/// Somebody who can be asked for permission, until it is dropped: [`Conversation::stand_by`].
#[derive(Debug)]
pub struct StandBy {
    shared: Arc<Shared>,
    client: u64,
}

impl Drop for StandBy {
    fn drop(&mut self) {
        let client = self.client;
        self.shared.tell(Message::Detach { client });
    }
}

/// A conversation to fork off another one.
#[derive(Debug, Clone, Default)]
pub struct Fork {
    /// The last entry that they have in common. Without: the last one there is.
    pub upto: Option<Seq>,
    /// The session that the new one's belongs to, and closes before. Without: none.
    pub parent: Option<SessionId>,
    /// What its client wants to find in listings of the new session.
    pub labels: serde_json::Value,
}

/// Counts what is asked for, so that it can be taken back.
fn token() -> u64 {
    static TOKENS: AtomicU64 = AtomicU64::new(1);
    TOKENS.fetch_add(1, Ordering::Relaxed)
}

/// Takes something back when it is dropped before it is there.
struct TakeBack<'a> {
    shared: &'a Shared,
    message: Option<Message>,
}

impl Drop for TakeBack<'_> {
    fn drop(&mut self) {
        if let Some(message) = self.message.take() {
            self.shared.tell(message);
        }
    }
}

/// A conversation. Clones are the same one. It is a handle, not the ownership.
#[derive(Debug, Clone)]
pub struct Conversation {
    pub(crate) shared: Arc<Shared>,
}

impl Conversation {
    /// Its id: that of the session in which it began.
    pub fn id(&self) -> &ConversationId {
        &self.shared.id
    }

    /// The session in which it is.
    pub fn session(&self) -> Session {
        self.shared.session.clone()
    }

    /// What its agent said when it last came up.
    pub fn known(&self) -> Option<Ready> {
        ready_of(&self.shared.row().detail)
    }

    /// What a listing shows of it.
    pub fn info(&self) -> ConversationInfo {
        ConversationInfo::from(self.shared.row())
    }

    /// The `clientCapabilities` and `serverInfo` of its agent, where that is up: its answer to `initialize`.
    async fn up(&self, by: By) -> Result<(Ready, Caller)> {
        let token = token();
        let mut guard = TakeBack {
            shared: &self.shared,
            message: Some(Message::Unwait { token }),
        };
        let answer = self
            .ask(|reply| Message::Ready { token, by, reply })
            .await?;
        guard.message = None;
        answer
    }

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(message(reply));
        answer
            .await
            .map_err(|_| Error::Closed(self.shared.id.clone()))
    }

    /// Brings the agent up where it is not.
    ///
    /// Cancel safe: when nobody else waits for the agent, a handshake under way is broken off, and all that it started ended.
    ///
    /// # Errors
    /// [`Error::Handshake`], [`Error::AgentEnded`], [`Error::Session`], [`Error::Closed`].
    pub async fn ready(&self, by: By) -> Result<Ready> {
        Ok(self.up(by).await?.0)
    }

    /// Asks for a turn with the parameters of `session/prompt`; their `sessionId` does not matter. When this returns it is
    /// durable: it runs when those before it have ended.
    ///
    /// Cancel safe: dropped before it returns, the turn is cancelled, or was never asked for.
    ///
    /// # Errors
    /// [`Error::Busy`] for a full queue, [`Error::Invalid`], [`Error::Ledger`], [`Error::Closed`].
    pub async fn prompt(&self, params: Box<RawValue>, by: By) -> Result<Turn> {
        self.ask_turn(|reply| Message::Prompt { params, by, reply })
            .await
    }

    /// Asks for a turn, which is taken back where nobody hears of it.
    async fn ask_turn(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<Turn>>) -> Message,
    ) -> Result<Turn> {
        self.shared.session.touch();
        let (reply, answer) = oneshot::channel();
        let mut unheard = Unheard {
            shared: &self.shared,
            answer: Some(answer),
        };
        self.shared.tell(message(reply));
        let Some(answer) = &mut unheard.answer else {
            return Err(Error::Closed(self.shared.id.clone()));
        };
        let answer = answer.await;
        unheard.answer = None;
        answer.map_err(|_| Error::Closed(self.shared.id.clone()))?
    }

    /// Cancels the turn that runs and all that wait: `session/cancel`; if the turn has not ended after the grace, the agent is
    /// ended. Returns when that has begun; the ends are in the transcript.
    pub async fn cancel(&self, by: By) {
        let _ = self.ask(|reply| Message::Cancel { by, reply }).await;
    }

    /// Cancels one turn, whether it runs or waits, and no other. One that has ended is no failure.
    pub fn cancel_turn(&self, turn: u64) {
        self.shared.session.touch();
        self.shared.tell(Message::Withdraw { turn });
    }

    /// Any other request to the agent: its raw answer.
    ///
    /// Cancel safe: the answer is let go of.
    ///
    /// # Errors
    /// As [`Conversation::ready`]. That the agent answers with an error is no error here.
    pub async fn call(&self, method: &str, params: Box<RawValue>, by: By) -> Result<Answer> {
        self.call_until(method, params, by, std::future::pending())
            .await
    }

    /// The same for somebody who may take the request back, which is when `taken_back` is ready: the agent is told by
    /// `$/cancel_request`, and what it answers within its `cancel_grace` is the answer; else, and where it was not asked
    /// yet, [`RpcError::CANCELLED`].
    ///
    /// Cancel safe: as [`Conversation::call`].
    ///
    /// # Errors
    /// As [`Conversation::call`].
    pub async fn call_until(
        &self,
        method: &str,
        params: Box<RawValue>,
        by: By,
        taken_back: impl Future<Output = ()>,
    ) -> Result<Answer> {
        self.shared.session.touch();
        let mut taken_back = std::pin::pin!(taken_back);
        let (_, caller) = tokio::select! {
            biased;
            up = self.up(by) => up?,
            () = &mut taken_back => return Ok(Err(RpcError::cancelled())),
        };
        let name = self.shared.row().agent_session.unwrap_or_default();
        let params = for_session(method, params, &name)?;
        let grace = self.shared.spec.cancel_grace;
        let answer = caller.call_until(method, &params, taken_back, grace).await;
        answer.ok_or_else(|| Error::AgentEnded {
            agent: self.shared.row().agent,
            exit: None,
            stderr: String::new(),
        })
    }

    /// A notification to the agent, if it is up. `session/cancel` is a [`Conversation::cancel`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Busy`].
    pub async fn notify(&self, method: &str, params: Box<RawValue>) -> Result<()> {
        self.shared.session.touch();
        if method == "session/cancel" {
            self.cancel(By::new("client", "session/cancel")).await;
            return Ok(());
        }
        let method = method.to_owned();
        self.ask(|reply| Message::Notify {
            method,
            params,
            reply,
        })
        .await?
    }

    /// Answers a request of the agent. The first answer is taken; it is in the transcript when this returns.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn answer(&self, request: RequestId, answer: Answer, by: By) -> Result<Answered> {
        self.shared.session.touch();
        self.ask(|reply| Message::Answer {
            request,
            answer,
            by,
            reply,
        })
        .await?
    }

    /// The requests of the agent that wait for an answer.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn requests(&self) -> Result<Vec<RequestId>> {
        self.ask(|reply| Message::Requests { reply }).await
    }

    /// Follows the transcript behind `after`.
    pub fn follow(&self, after: Seq) -> Follower {
        self.shared.log.follow(after)
    }

    /// The last entry of the transcript.
    pub fn last(&self) -> Seq {
        self.shared.log.last()
    }

    /// Attaches a client: to the session, which is not detached meanwhile, and as somebody who can be asked.
    ///
    /// Cancel safe, as [`Session::attach`].
    ///
    /// # Errors
    /// [`Error::Session`] for one that is closing or closed.
    pub async fn attach(&self, who: &str, capabilities: ClientCapabilities) -> Result<ClientGuard> {
        let attachment = self.shared.session.attach(who).await?;
        Ok(ClientGuard {
            _stands_by: self.stands_by(Answers::of(&capabilities)),
            _attachment: attachment,
        })
    }

    /// Says that somebody is there who can be asked for permission, so that the agent's requests wait for the answer. Unlike one
    /// that is [attached](Self::attach), it does not count as a client of the session.
    pub fn stand_by(&self) -> StandBy {
        self.stands_by(Answers {
            any: true,
            elicitations: false,
            others: false,
        })
    }

    fn stands_by(&self, answers: Answers) -> StandBy {
        let client = token();
        self.shared.tell(Message::Attach { client, answers });
        StandBy {
            shared: self.shared.clone(),
            client,
        }
    }

    /// Who answers the agent's requests for permission when nobody is there.
    pub fn permission(&self) -> PermissionPolicy {
        self.shared.permission
    }

    /// Ends the agent, and nothing else of the session; returns when it is gone. The turn that runs is interrupted. At its
    /// next use the agent is started again and given the conversation.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn evict(&self, by: By) -> Result<()> {
        let forget = false;
        self.ask(|reply| Message::Evict { forget, by, reply })
            .await?
    }

    /// As [`Conversation::evict`], and the agent forgets: it begins anew under the same id. Turns that wait are cancelled.
    /// The transcript stays.
    ///
    /// # Errors
    /// As [`Conversation::evict`].
    pub async fn reset(&self, by: By) -> Result<()> {
        let forget = true;
        self.ask(|reply| Message::Evict { forget, by, reply })
            .await?
    }

    /// A new conversation in a session of its own that has this one's transcript up to here.
    ///
    /// Cancel safe, as [`crate::Agents::open`].
    ///
    /// # Errors
    /// As [`crate::Agents::open`].
    pub async fn fork(&self, by: By) -> Result<Conversation> {
        self.fork_as(Fork::default(), by).await
    }

    /// The same as it is asked for.
    ///
    /// Cancel safe, as [`crate::Agents::open`].
    ///
    /// # Errors
    /// As [`crate::Agents::open`].
    pub async fn fork_as(&self, fork: Fork, by: By) -> Result<Conversation> {
        let upto = self.ask(|reply| Message::Place { reply }).await?;
        let upto = fork.upto.map_or(upto, |wanted| wanted.min(upto));
        let agents = self.shared.agents()?;
        agents.fork(&self.shared, upto, fork, by).await
    }

    /// Closes the session, and with it the conversation here; it can be taken up again.
    ///
    /// # Errors
    /// As [`Session::close`].
    pub async fn close(&self, reason: CloseReason, by: By) -> Result<Arc<CloseReport>> {
        Ok(self.shared.session.close(reason, by, None).await?)
    }

    /// Lets go of it for the next host.
    pub(crate) async fn hand_over(&self) {
        let _ = self.ask(|reply| Message::HandOver { reply }).await;
    }
}

/// A turn that was asked for and not heard of.
struct Unheard<'a> {
    shared: &'a Shared,
    answer: Option<oneshot::Receiver<Result<Turn>>>,
}

impl Drop for Unheard<'_> {
    fn drop(&mut self) {
        // Told before it was dropped, and not heard: it is taken back. Else the one who tells finds nobody.
        if let Some(mut answer) = self.answer.take() {
            answer.close();
            if let Ok(Ok(turn)) = answer.try_recv() {
                self.shared.tell(Message::Withdraw { turn: turn.id });
            }
        }
    }
}
