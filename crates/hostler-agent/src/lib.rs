//! Agents as resources of sessions: conversations over raw ACP, transcripts, and what agents ask for.

#![forbid(unsafe_code)]

mod agents;
mod catalogue;
mod conversation;
mod error;
mod follow;
mod handshake;
mod link;
mod permission;
mod recover;
mod replay;
pub mod rpc;
pub mod served;
pub mod shell;
mod transcript;

pub use agents::{
    Agents, AgentsOptions, ConversationFilter, ConversationInfo, NewConversation, Resumed,
};
pub use catalogue::{AgentSpec, Catalogue, CatalogueError};
pub use conversation::{
    Answered, ClientCapabilities, ClientGuard, Conversation, Ready, Turn, TurnEnd,
};
pub use error::{Error, Result, Step};
pub use follow::Follower;
pub use hostler_ledger::{By, ConversationId, EntrySeq as Seq};
pub use permission::PermissionPolicy;
pub use rpc::{Answer, RpcError};
pub use transcript::{Entry, EntryKind, RequestId};
