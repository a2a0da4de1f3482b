//! What is under way in a conversation, as the ledger keeps it with the offset of the agent's output.

use hostler_ledger::EntrySeq as Seq;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::transcript::RequestId;

/// How far a turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum At {
    /// It waits for those before it.
    Queued,
    /// It is being written to the agent: whether the agent has it is not known to the next host.
    Sending,
    /// The agent has it.
    Sent,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PendingTurn {
    pub(crate) turn: u64,
    pub(crate) seq: Seq,
    pub(crate) at: At,
}

/// A request of the agent that clients are to answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PendingRequest {
    pub(crate) id: RequestId,
    /// What the agent calls it.
    pub(crate) agent_id: Box<RawValue>,
    pub(crate) method: String,
}

/// A request of the agent that the host serves.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PendingServed {
    pub(crate) agent_id: Box<RawValue>,
    pub(crate) method: String,
    pub(crate) params: Box<RawValue>,
}

/// An answer that is in the transcript, and that the agent may not have got.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PendingAnswer {
    /// The line, without its end.
    pub(crate) line: Box<RawValue>,
}

/// All of it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Pending {
    pub(crate) next_turn: u64,
    pub(crate) turns: Vec<PendingTurn>,
    pub(crate) requests: Vec<PendingRequest>,
    pub(crate) served: Vec<PendingServed>,
    /// In the order in which they were given.
    pub(crate) answers: Vec<PendingAnswer>,
    /// Whether the agent is up: past its handshake.
    pub(crate) up: bool,
    /// Whether a long line is being written, of which the agent may get a part only.
    pub(crate) writing: bool,
    /// Whether the agent has to be told what was said before.
    pub(crate) untold: bool,
    /// What was said up to here is forgotten.
    pub(crate) forgotten: Seq,
}
