//! Agents as resources of sessions: conversations over raw ACP, transcripts, and what agents ask for.
//!
//! # Theory of operation
//!
//! [`Agents`] is all conversations of a host. A [`Conversation`] is one task that alone owns its state; handles put messages into
//! its mailbox. It lives in a session, which owns the agent's process (a [`hostler_session::Mode::Service`]), and it outlives
//! that session in the ledger: [`Agents::load`] takes it up again in a new one.
//!
//! * **One log.** All that happens is an [`Entry`] with a number: prompts, the agent's updates, what it asks, what was answered,
//!   ends of turns, notices. An entry is in the ledger before anybody sees it. Clients [follow](Conversation::follow) the log
//!   from any place, from memory or from the ledger; one that is slow or gone costs the others nothing.
//! * **The agent's output is a file.** It is read from its spool, and the offset up to which it has become entries is written in
//!   the same transaction as they are. So the next host goes on at the byte where this one was killed: nothing is missing and
//!   nothing there twice. The agent writes on only as fast as it is read, and what is read is not given back before it is in the
//!   ledger.
//! * **Raw.** Lines are parsed with borrowed values ([`rpc`]). Parameters and results go on byte for byte, but that the agent's
//!   name for the session is replaced by the conversation's id, and back, at its exact place. Only what Hostler acts on is
//!   looked into; unknown methods and members pass in both directions.
//! * **All at once.** What one read of the spool brings is parsed in one pass and written in one transaction; a row of the
//!   transcript holds a run of updates. What is to be done because of an entry (an answer to be handed on, a line to be sent, an
//!   end to be told) is done when the entry is in the ledger.
//! * **Turns** run one at a time; others wait, in the ledger too. A turn that was being written to the agent when the host died is
//!   interrupted and not asked for again; one that the agent has goes on with the next host.
//! * **An end is that of the whole chain.** The agent is started through [`AgentsOptions::wrap`], which ends what the agent has
//!   started when the agent itself has ended; so an agent that crashes, is evicted, does not come up in time, or whose handshake
//!   is broken off by whoever waited for it, leaves nothing, and the rest of its session is not touched.
//! * **Cancelling** is `session/cancel`, then a deadline, then the end of the agent. The watchdogs of a turn (silence, length) do the
//!   same.
//! * **A fresh context** ([`Conversation::renew`]) is another session of the same process. A [`pool`] lends agents so to one job after
//!   the other.
//! * **What the agent asks** the host for itself ([`served`]) is answered in tasks of their own. What it asks of people goes to
//!   whoever is attached, and the first answer is taken; while nobody is, [`PermissionPolicy`] decides.
//! * **What makes no sense** is noted and let go of: lines that are no messages, messages that are too long, answers to nothing.
//!
//! The disk being full stops the reading, and so the agent, until there is room; a prompt that cannot be written is refused.

#![forbid(unsafe_code)]

mod agents;
mod catalogue;
mod conversation;
mod delegate;
mod ends;
mod error;
mod follow;
mod handshake;
mod link;
mod permission;
pub mod pool;
mod recover;
mod replay;
pub mod rpc;
pub mod served;
pub mod shell;
mod transcript;
mod warm;

pub use agents::{
    Agents, AgentsOptions, ConversationFilter, ConversationInfo, NewConversation, Resumed, Tools,
};
pub use catalogue::{AgentSpec, BeforeClose, Catalogue, CatalogueError};
pub use conversation::{
    Answered, ClientCapabilities, ClientGuard, Conversation, Fork, Ready, StandBy, Turn, TurnEnd,
};
pub use delegate::{Delegation, delegated};
pub use error::{Error, Result, Step};
pub use follow::Follower;
pub use hostler_ledger::{By, ConversationId, EntrySeq as Seq};
pub use permission::PermissionPolicy;
pub use pool::{AgentPool, MemberInfo, MemberState, PoolKey, PoolOptions, PoolUse, Wanted};
pub use rpc::{Answer, RpcError};
pub use transcript::{Entry, EntryKind, RequestId};
