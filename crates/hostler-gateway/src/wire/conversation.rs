//! Agents and conversations.

use std::path::PathBuf;

use hostler_agent::{Agents, ConversationInfo, PermissionPolicy, TurnEnd};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::NewSession;
use crate::error::ApiError;

/// An agent of the catalogue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Agent {
    /// Its name.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it is the one of clients that name none.
    pub default: bool,
    /// How many are kept started ahead.
    pub warm: u32,
}

/// Who answers an agent's requests for permission while nobody is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// They wait for somebody, up to a deadline.
    Ask,
    /// They are allowed.
    Allow,
    /// They are rejected.
    Deny,
}

impl From<Permission> for PermissionPolicy {
    fn from(permission: Permission) -> Self {
        match permission {
            Permission::Ask => Self::Ask,
            Permission::Allow => Self::Allow,
            Permission::Deny => Self::Deny,
        }
    }
}

/// A conversation to begin, in a session of its own.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewConversation {
    /// The agent. Without: the configuration's `default_agent`.
    pub agent: Option<String>,
    /// The session.
    pub session: NewSession,
    /// The `mcpServers` that the agent is given, as ACP has them.
    #[schema(value_type = Vec<Object>)]
    pub mcp_servers: Vec<Box<RawValue>>,
    /// Who answers for nobody. Without: as the agent's entry in the configuration says.
    pub permission: Option<Permission>,
    /// Whether to return once the conversation is there; its agent is started at its first use then. Else the agent is up.
    pub lazy: bool,
    /// Whether it is work that a turn of the parent's conversation hands on: it is closed when that turn is cancelled.
    pub delegated: bool,
}

impl NewConversation {
    /// As the agents want it.
    pub(crate) fn options(
        self,
        agents: &Agents,
        defaults: &hostler_session::Policy,
        default: &str,
    ) -> Result<hostler_agent::NewConversation, ApiError> {
        let mut session = self.session.options(agents.sessions(), defaults)?;
        if self.delegated {
            session.labels = hostler_agent::delegated();
        }
        let cwd = session.cwd.clone().unwrap_or_else(|| PathBuf::from("/"));
        Ok(hostler_agent::NewConversation {
            agent: self.agent.unwrap_or_else(|| default.to_owned()),
            session,
            mcp_servers: self.mcp_servers,
            cwd,
            permission: self.permission.map(PermissionPolicy::from),
            ..hostler_agent::NewConversation::default()
        })
    }
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id, which is ACP's `sessionId`, too.
    pub id: String,
    /// The session in which it is, or last was.
    pub session: String,
    /// Its agent's name.
    pub agent: String,
    /// Where it works.
    pub cwd: String,
    /// Its title.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The conversation that it was forked from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The last entry that it has in common with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forked_at: Option<u64>,
    /// Whether it is open; else it can be loaded.
    pub live: bool,
    /// When it began: Unix time in milliseconds.
    pub created: u64,
    /// When its last turn began or ended.
    pub updated: u64,
    /// Its place in listings, which go from the newest to the oldest.
    pub cursor: u64,
}

impl From<ConversationInfo> for Conversation {
    fn from(info: ConversationInfo) -> Self {
        Self {
            id: info.id.as_str().to_owned(),
            session: info.session.to_string(),
            agent: info.agent,
            cwd: info.cwd.to_string_lossy().into_owned(),
            title: info.title,
            parent: info.parent.map(|parent| parent.as_str().to_owned()),
            forked_at: info.forked_at.map(|seq| seq.0),
            live: info.live,
            created: info.created,
            updated: info.updated,
            cursor: info.cursor,
        }
    }
}

/// What to prompt: a text, or the blocks that ACP has.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PromptRequest {
    /// A text.
    pub text: Option<String>,
    /// ACP's content blocks.
    #[schema(value_type = Option<Vec<Object>>)]
    pub prompt: Option<Box<RawValue>>,
}

impl PromptRequest {
    /// The parameters of `session/prompt`.
    pub(crate) fn params(&self, conversation: &str) -> Result<Box<RawValue>, ApiError> {
        let id = Value::from(conversation).to_string();
        let blocks = match (&self.text, &self.prompt) {
            (Some(text), None) => {
                let block = serde_json::json!([{"type": "text", "text": text}]);
                block.to_string()
            }
            (None, Some(blocks)) => blocks.get().to_owned(),
            _ => return Err(ApiError::bad("either `text` or `prompt` is wanted")),
        };
        RawValue::from_string(format!(r#"{{"sessionId":{id},"prompt":{blocks}}}"#))
            .map_err(|error| ApiError::bad(error.to_string()))
    }
}

/// A turn.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Turn {
    /// Its number in the conversation.
    pub turn: u64,
    /// The number of its prompt in the transcript.
    pub seq: u64,
    /// The agent's result, with its `stopReason`, once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Box<RawValue>>,
    /// The error that it ended with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Why it was cut off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<String>,
}

impl Turn {
    /// One that goes on.
    pub(crate) fn under_way(turn: &hostler_agent::Turn) -> Self {
        Self {
            turn: turn.id,
            seq: turn.seq.0,
            result: None,
            error: None,
            interrupted: None,
        }
    }

    /// One that has ended.
    pub(crate) fn ended(turn: &hostler_agent::Turn, end: TurnEnd) -> Self {
        let mut ended = Self::under_way(turn);
        match end {
            TurnEnd::Result(result) => ended.result = Some((*result).to_owned()),
            TurnEnd::Error(error) => ended.error = serde_json::to_value(error).ok(),
            TurnEnd::Interrupted(why) => ended.interrupted = Some(why),
        }
        ended
    }
}

/// An answer to a request of the agent: a result or an error.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerRequest {
    /// The number of the request's entry in the transcript.
    pub request: u64,
    /// What is answered.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub result: Option<Box<RawValue>>,
    /// Or the error, with `code` and `message`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub error: Option<Box<RawValue>>,
}

/// What became of an answer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Answered {
    /// Whether it was the first, which the agent gets.
    pub first: bool,
}

/// An entry of a transcript.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Entry {
    /// Its number in the conversation, from 1, without gaps.
    pub seq: u64,
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// The turn in which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// `prompt`, `update`, `notification`, `request`, `answer`, `turn_ended` or `notice`.
    pub kind: &'static str,
    /// What it says, by kind: an update's are the parameters of `session/update`.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

impl From<&hostler_agent::Entry> for Entry {
    fn from(entry: &hostler_agent::Entry) -> Self {
        Self {
            seq: entry.seq.0,
            at: entry.at,
            turn: entry.turn,
            kind: entry.kind.as_str(),
            data: (*entry.data).to_owned(),
        }
    }
}
