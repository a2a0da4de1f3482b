//! What a conversation begins with, what the ledger keeps of that, and what listings show of it.

use std::path::PathBuf;

use hostler_ledger::{ConversationId, ConversationRow, EntrySeq as Seq, SessionId};
use hostler_session::SessionOptions;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

use crate::conversation::Ready;
use crate::error::{Error, Result};
use crate::permission::PermissionPolicy;

/// A conversation to begin.
#[derive(Debug, Clone, Default)]
pub struct NewConversation {
    /// The agent's name in the catalogue.
    pub agent: String,
    /// The session that is opened for it. Not looked at by [`begin`](super::Agents::begin).
    pub session: SessionOptions,
    /// The `mcpServers` of `session/new`, as they came.
    pub mcp_servers: Vec<Box<RawValue>>,
    /// The `_meta` of `session/new`.
    pub meta: Option<Box<RawValue>>,
    /// Other members of `session/new` that are passed on as they came, such as `additionalDirectories`: an object.
    pub more: Option<Box<RawValue>>,
    /// The `elicitation` of the `clientCapabilities` of who begins it: the agent is told, for it asks no such questions
    /// else.
    pub elicitation: Option<Box<RawValue>>,
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

impl From<ConversationRow> for ConversationInfo {
    fn from(row: ConversationRow) -> Self {
        Self {
            live: row.state == "live",
            id: row.id,
            session: row.session,
            agent: row.agent,
            cwd: row.cwd.into(),
            title: row.title,
            parent: row.parent,
            forked_at: row.forked_at,
            created: row.created,
            updated: row.updated,
            cursor: row.number,
        }
    }
}

/// What the ledger keeps of a [`NewConversation`], to take it up again.
#[derive(Serialize, Deserialize)]
struct Kept {
    session: SessionOptions,
    mcp_servers: Vec<String>,
    meta: Option<String>,
    more: Option<String>,
    #[serde(default)]
    elicitation: Option<String>,
    permission: Option<PermissionPolicy>,
}

/// Raw values are kept as text: byte for byte.
fn text(raw: &RawValue) -> String {
    raw.get().to_owned()
}

/// What the ledger keeps of a conversation besides its columns.
pub(crate) fn detail_of(new: &NewConversation, ready: Option<&Ready>) -> serde_json::Value {
    let kept = Kept {
        session: new.session.clone(),
        mcp_servers: new.mcp_servers.iter().map(|server| text(server)).collect(),
        meta: new.meta.as_deref().map(text),
        more: new.more.as_deref().map(text),
        elicitation: new.elicitation.as_deref().map(text),
        permission: new.permission,
    };
    let ready = ready.map(
        |ready| json!({ "initialize": ready.initialize.get(), "session": ready.session.get() }),
    );
    json!({ "new": kept, "ready": ready })
}

pub(crate) fn new_of(row: &ConversationRow) -> Result<NewConversation> {
    let broken = || {
        Error::Invalid(format!(
            "the record of conversation {} cannot be read",
            row.id
        ))
    };
    let kept: Kept = serde_json::from_value(row.detail["new"].clone()).map_err(|_| broken())?;
    let raw = |text: String| RawValue::from_string(text).map_err(|_| broken());
    Ok(NewConversation {
        agent: row.agent.clone(),
        session: kept.session,
        mcp_servers: kept
            .mcp_servers
            .into_iter()
            .map(raw)
            .collect::<Result<_>>()?,
        meta: kept.meta.map(raw).transpose()?,
        more: kept.more.map(raw).transpose()?,
        elicitation: kept.elicitation.map(raw).transpose()?,
        cwd: row.cwd.clone().into(),
        permission: kept.permission,
    })
}

/// The directories in which an agent reads and writes files through the host; in the first one its commands run.
pub(super) fn roots(new: &NewConversation) -> Vec<PathBuf> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct More {
        additional_directories: Vec<PathBuf>,
    }
    let more: More = new
        .more
        .as_ref()
        .and_then(|more| serde_json::from_str(more.get()).ok())
        .unwrap_or_default();
    let more = more.additional_directories.into_iter();
    std::iter::once(new.cwd.clone())
        .chain(more.filter(|path| path.is_absolute() && *path != new.cwd))
        .collect()
}
