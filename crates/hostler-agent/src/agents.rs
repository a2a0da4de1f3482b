//! All conversations of a host.

use std::path::PathBuf;
use std::sync::Arc;

use hostler_ledger::{ConversationId, EntrySeq as Seq, SessionId};
use hostler_session::{By, Session, SessionOptions, Sessions};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::catalogue::Catalogue;
use crate::conversation::{Conversation, Ready};
use crate::error::{Error, Result};
use crate::permission::PermissionPolicy;

/// What holds for all conversations.
#[derive(Debug, Clone)]
pub struct AgentsOptions {
    /// How many turns of a conversation may wait for the one that runs.
    pub queue: usize,
    /// The longest message of an agent, in bytes. A longer one is let go of and noted.
    pub max_message: usize,
    /// How much of each transcript is kept in memory for followers, in bytes; what is older comes from the ledger.
    pub ring: usize,
    /// How much may wait for an agent to read it, in bytes.
    pub max_unread: usize,
}

impl Default for AgentsOptions {
    fn default() -> Self {
        Self {
            queue: 32,
            max_message: 64 << 20,
            ring: 1 << 20,
            max_unread: 64 << 20,
        }
    }
}

/// A conversation to begin.
#[derive(Debug, Clone, Default)]
pub struct NewConversation {
    /// The agent's name in the catalogue.
    pub agent: String,
    /// The session that is opened for it. Not looked at by [`Agents::begin`].
    pub session: SessionOptions,
    /// The `mcpServers` of `session/new`, as they came.
    pub mcp_servers: Vec<Box<RawValue>>,
    /// The `_meta` of `session/new`.
    pub meta: Option<Box<RawValue>>,
    /// Other members of `session/new` that are passed on as they came, such as `additionalDirectories`: an object.
    pub more: Option<Box<RawValue>>,
    /// Where it works: absolute. The agent's files are below it.
    pub cwd: PathBuf,
    /// Who answers for nobody. Without: as the agent's entry in the catalogue says.
    pub permission: Option<PermissionPolicy>,
}

/// Which conversations are listed.
#[derive(Debug, Clone, Default)]
pub struct ConversationFilter {
    /// Only those that work there.
    pub cwd: Option<PathBuf>,
    /// Only those with this agent.
    pub agent: Option<String>,
    /// Only those that are live.
    pub live: bool,
    /// Only those older than the one with this [`ConversationInfo::cursor`].
    pub before: Option<u64>,
    /// How many at the most; 0 for 100.
    pub limit: usize,
}

/// A conversation in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationInfo {
    /// Its id.
    pub id: ConversationId,
    /// The session in which it is, or last was.
    pub session: SessionId,
    /// The agent's name in the catalogue.
    pub agent: String,
    /// Where it works.
    pub cwd: PathBuf,
    /// Its title, where the agent gave it one, or the beginning of its first prompt.
    pub title: Option<String>,
    /// The conversation that it was forked from.
    pub parent: Option<ConversationId>,
    /// The last entry of that one that it has in common with it.
    pub forked_at: Option<Seq>,
    /// Whether it is open here; else it can be taken up again.
    pub live: bool,
    /// When it began: Unix time in milliseconds.
    pub created: u64,
    /// When its last turn began or ended: Unix time in milliseconds.
    pub updated: u64,
    /// Its place in listings, which are from the newest to the oldest.
    pub cursor: u64,
}

/// A conversation of an earlier host.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// Which.
    pub id: ConversationId,
    /// The conversation, where its session was adopted.
    pub conversation: Option<Conversation>,
    /// Turns that were cut off: they have ended as interrupted.
    pub interrupted: Vec<u64>,
}

/// All conversations of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    sessions: Sessions,
    catalogue: Catalogue,
    options: AgentsOptions,
}

impl Agents {
    /// None yet: [`Agents::recover`] is to be called once the sessions have recovered. Must be called in a runtime.
    pub fn new(sessions: Sessions, catalogue: Catalogue, options: AgentsOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                sessions,
                catalogue,
                options,
            }),
        }
    }

    /// Takes up the conversations of sessions that were adopted, in the middle of their turns; the turns of others that an
    /// earlier host did not finish become interrupted.
    ///
    /// # Errors
    /// [`Error::Ledger`], [`Error::Read`].
    pub async fn recover(&self) -> Result<Vec<Resumed>> {
        Ok(Vec::new())
    }

    /// The agents that there are.
    pub fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// The sessions in which they are.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// The options that it was made with.
    pub fn options(&self) -> &AgentsOptions {
        &self.inner.options
    }

    /// Opens a session and begins a conversation in it. The agent is started at its first use: [`Conversation::ready`].
    ///
    /// Cancel safe: dropped at any await, what was made is closed.
    ///
    /// # Errors
    /// [`Error::NoAgent`], [`Error::Session`], [`Error::Ledger`], [`Error::Invalid`].
    pub async fn open(&self, new: NewConversation, _by: By) -> Result<Conversation> {
        Err(Error::NoAgent(new.agent))
    }

    /// The same with the agent up: [`Agents::open`] and [`Conversation::ready`] in one.
    ///
    /// Cancel safe: dropped at any await, also in the middle of the handshake, what was made is closed. So it is on an error.
    ///
    /// # Errors
    /// As both.
    pub async fn open_ready(&self, new: NewConversation, by: By) -> Result<(Conversation, Ready)> {
        let conversation = self.open(new, by.clone()).await?;
        let ready = conversation.ready(by).await?;
        Ok((conversation, ready))
    }

    /// Begins a conversation in a session that is open and has none.
    ///
    /// Cancel safe: it has begun or not.
    ///
    /// # Errors
    /// As [`Agents::open`]; [`Error::Invalid`] where the session has one.
    pub async fn begin(
        &self,
        _session: Session,
        new: NewConversation,
        _by: By,
    ) -> Result<Conversation> {
        Err(Error::NoAgent(new.agent))
    }

    /// A live one, by its own id, its session's id or its session's name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<Conversation> {
        Err(Error::NotFound(id.to_owned()))
    }

    /// A live one, or one from the ledger, taken up again in a new session.
    ///
    /// Cancel safe, as [`Agents::open`].
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Agents::open`].
    pub async fn load(&self, id: &ConversationId, _by: By) -> Result<Conversation> {
        Err(Error::NotFound(id.to_string()))
    }

    /// Conversations, the newest first, from the ledger.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn list(&self, _filter: &ConversationFilter) -> Result<Vec<ConversationInfo>> {
        Ok(Vec::new())
    }

    /// One conversation, live or not.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Read`].
    pub fn info(&self, id: &ConversationId) -> Result<ConversationInfo> {
        Err(Error::NotFound(id.to_string()))
    }

    /// Entries of any conversation, live or not, from the ledger: up to `limit` with numbers above `after`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn entries(
        &self,
        _id: &ConversationId,
        _after: Seq,
        _limit: usize,
    ) -> Result<Vec<Arc<crate::transcript::Entry>>> {
        Ok(Vec::new())
    }

    /// Lets go of all conversations for the next host: what was read is written, and nothing more is read or sent. To be
    /// called before [`Sessions::hand_over`].
    pub async fn hand_over(&self) {}
}
