//! Conversations: what clients talk to.

use std::sync::Arc;

use hostler_ledger::{ConversationId, EntrySeq as Seq};
use hostler_session::{Attachment, By, CloseReason, CloseReport, Session};
use serde_json::value::RawValue;

use crate::agents::ConversationInfo;
use crate::error::{Error, Result};
use crate::follow::Follower;
use crate::rpc::{Answer, RpcError};
use crate::transcript::RequestId;

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
    /// Its `clientCapabilities`, as they came.
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

/// A client that is attached: to the session, and to the conversation. Dropping it detaches both.
#[derive(Debug)]
pub struct ClientGuard {
    _attachment: Attachment,
}

/// A conversation. Clones are the same one. It is a handle, not the ownership.
#[derive(Debug, Clone)]
pub struct Conversation {
    id: ConversationId,
    session: Session,
}

impl Conversation {
    /// Its id: that of the session in which it began.
    pub fn id(&self) -> &ConversationId {
        &self.id
    }

    /// The session in which it is.
    pub fn session(&self) -> Session {
        self.session.clone()
    }

    /// What a listing shows of it.
    pub fn info(&self) -> ConversationInfo {
        ConversationInfo {
            id: self.id.clone(),
            session: self.session.id().clone(),
            agent: String::new(),
            cwd: Default::default(),
            title: None,
            parent: None,
            forked_at: None,
            live: true,
            created: 0,
            updated: 0,
            cursor: 0,
        }
    }

    /// Brings the agent up where it is not.
    ///
    /// Cancel safe: when nobody else waits for the agent, a handshake under way is broken off, and all that it started ended.
    ///
    /// # Errors
    /// [`Error::Handshake`], [`Error::AgentEnded`], [`Error::Session`], [`Error::Closed`].
    pub async fn ready(&self, _by: By) -> Result<Ready> {
        Err(Error::Closed(self.id.clone()))
    }

    /// Asks for a turn with the parameters of `session/prompt`; their `sessionId` does not matter. When this returns it is
    /// durable: it runs when those before it have ended.
    ///
    /// Cancel safe: dropped before it returns, the turn is cancelled, or was never asked for.
    ///
    /// # Errors
    /// [`Error::Busy`] for a full queue, [`Error::Invalid`], [`Error::Ledger`], [`Error::Closed`].
    pub async fn prompt(&self, _params: Box<RawValue>, _by: By) -> Result<Turn> {
        Err(Error::Closed(self.id.clone()))
    }

    /// Cancels the turn that runs and all that wait: `session/cancel`; if the turn has not ended after the grace, the agent is
    /// ended. Returns when that has begun; the ends are in the transcript.
    pub async fn cancel(&self, _by: By) {}

    /// Any other request to the agent: its raw answer.
    ///
    /// Cancel safe: the answer is let go of.
    ///
    /// # Errors
    /// As [`Conversation::ready`]. That the agent answers with an error is no error here.
    pub async fn call(&self, _method: &str, _params: Box<RawValue>, _by: By) -> Result<Answer> {
        Err(Error::Closed(self.id.clone()))
    }

    /// A notification to the agent, if it is up. Of `session/cancel`, see [`Conversation::cancel`].
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Busy`].
    pub async fn notify(&self, _method: &str, _params: Box<RawValue>) -> Result<()> {
        Err(Error::Closed(self.id.clone()))
    }

    /// Answers a request of the agent. The first answer is taken; it is in the transcript when this returns.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Ledger`].
    pub async fn answer(&self, _request: RequestId, _answer: Answer, _by: By) -> Result<Answered> {
        Err(Error::Closed(self.id.clone()))
    }

    /// The requests of the agent that wait for an answer.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn requests(&self) -> Result<Vec<RequestId>> {
        Err(Error::Closed(self.id.clone()))
    }

    /// Follows the transcript behind `after`.
    pub fn follow(&self, after: Seq) -> Follower {
        Follower { after }
    }

    /// The last entry of the transcript.
    pub fn last(&self) -> Seq {
        Seq(0)
    }

    /// Attaches a client: to the session, which is not detached meanwhile, and as somebody who can be asked.
    ///
    /// Cancel safe, as [`Session::attach`].
    ///
    /// # Errors
    /// [`Error::Session`] for one that is closing or closed.
    pub async fn attach(
        &self,
        who: &str,
        _capabilities: ClientCapabilities,
    ) -> Result<ClientGuard> {
        Ok(ClientGuard {
            _attachment: self.session.attach(who).await?,
        })
    }

    /// Ends the agent, and nothing else of the session. The turn that runs is interrupted. At its next use the agent is
    /// started again and given the conversation.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Ledger`].
    pub async fn evict(&self, _by: By) -> Result<()> {
        Err(Error::Closed(self.id.clone()))
    }

    /// As [`Conversation::evict`], and the agent forgets: it begins anew under the same id. The transcript stays.
    ///
    /// # Errors
    /// As [`Conversation::evict`].
    pub async fn reset(&self, _by: By) -> Result<()> {
        Err(Error::Closed(self.id.clone()))
    }

    /// A new conversation in a session of its own that has this one's transcript up to here.
    ///
    /// Cancel safe, as [`crate::Agents::open`].
    ///
    /// # Errors
    /// As [`crate::Agents::open`].
    pub async fn fork(&self, _by: By) -> Result<Conversation> {
        Err(Error::Closed(self.id.clone()))
    }

    /// Closes the session, and with it the conversation here; it can be taken up again.
    ///
    /// # Errors
    /// As [`Session::close`].
    pub async fn close(&self, reason: CloseReason, by: By) -> Result<Arc<CloseReport>> {
        Ok(self.session.close(reason, by, None).await?)
    }
}
