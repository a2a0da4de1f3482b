//! Entries: what happened in a conversation, in its order.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hostler_ledger::{By, EntrySeq as Seq};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::rpc::RpcError;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A turn was asked for: `{"turn","by":{"who","why"},"params"}`, with the parameters of `session/prompt`.
    Prompt,
    /// The agent's `session/update`: its parameters as they came, with the conversation's id as `sessionId`.
    Update,
    /// Any other notification of the agent: `{"method","params"}`.
    Notification,
    /// A request of the agent that clients are to answer: `{"id","method","params"}`, the id being a [`RequestId`].
    Request,
    /// Such a request is settled: `{"id","by":{"who","why"},"result"}` or with `"error"`.
    Answer,
    /// A turn has ended: `{"turn","result"}`, `{"turn","error"}` or `{"turn","interrupted"}`.
    TurnEnded,
    /// Something that Hostler did or saw: `{"notice":"agent_started|agent_ended|evicted|reset|renewed|queue_reordered|…", …}`;
    /// or what a client wants kept: `{"notice":"ahp", …}`.
    Notice,
}

impl EntryKind {
    /// As in the ledger and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Update => "update",
            Self::Notification => "notification",
            Self::Request => "request",
            Self::Answer => "answer",
            Self::TurnEnded => "turn_ended",
            Self::Notice => "notice",
        }
    }
}

impl FromStr for EntryKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "prompt" => Self::Prompt,
            "update" => Self::Update,
            "notification" => Self::Notification,
            "request" => Self::Request,
            "answer" => Self::Answer,
            "turn_ended" => Self::TurnEnded,
            "notice" => Self::Notice,
            _ => return Err(format!("`{text}` is no kind of entry")),
        })
    }
}

impl fmt::Display for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One entry of a conversation's transcript: durable before anybody sees it.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Its number in the conversation: from 1, without gaps.
    pub seq: Seq,
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// The turn in which it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u64>,
    /// What it is.
    pub kind: EntryKind,
    /// What it says, by kind.
    pub data: Arc<RawValue>,
}

/// An agent's request to the clients, by the number of its entry: unique in its conversation, whatever the agent calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RequestId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What an entry of kind notification says.
#[derive(Serialize)]
pub(crate) struct NotificationData<'a> {
    pub(crate) method: &'a str,
    pub(crate) params: &'a RawValue,
}

/// What an entry of kind request says.
#[derive(Serialize)]
pub(crate) struct RequestData<'a> {
    pub(crate) id: RequestId,
    pub(crate) method: &'a str,
    pub(crate) params: &'a RawValue,
}

/// What an entry of kind answer says.
#[derive(Serialize)]
pub(crate) struct AnswerData<'a> {
    pub(crate) id: RequestId,
    pub(crate) by: &'a By,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<&'a RpcError>,
}

/// What an entry of kind prompt says.
#[derive(Serialize)]
pub(crate) struct PromptData<'a> {
    pub(crate) turn: u64,
    pub(crate) by: &'a By,
    pub(crate) params: &'a RawValue,
}
