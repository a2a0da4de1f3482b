//! The Agent Host Protocol 1.0 for clients, over WebSocket at `/ahp`. `docs/ahp.md` lists what is offered.
//!
//! # Theory of operation
//!
//! A [`connection`] is one client. What it asks about one channel is done in its order; channels do not wait for each other.
//!
//! The [`hub`] knows all channels: their states, their followers, the numbers of their actions. Every action passes it, and every
//! snapshot is taken from it, under one lock that is never held over an await; states are reduced by the reducers of the `ahp`
//! crate itself, which clients use too. So a client's state at a number is the host's.
//!
//! What happens in a session is not made here: the transcript of its conversation is the only source. The [`chat`] follows it, and
//! projects entries to actions by a function that depends on nothing else; what clients dispatch becomes an entry first, and an
//! action when it comes back from there. So a state that is built from the ledger equals one that grew with it.
//!
//! What a client does not take in time waits in a bounded outbox ([`delivery`]); past the bound it is told to come back, and gets
//! a replay or a snapshot then ([`replay`]). It slows nobody.

mod agents;
mod automation;
mod background;
mod channel;
mod chat;
mod config;
mod connection;
mod create;
mod delivery;
mod error;
mod hub;
mod list;
mod meta;
mod methods;
mod numbers;
mod replay;
mod resource;
mod root;
mod session;
mod terminal;
mod tops;
mod uri;
pub(crate) mod ws;

pub(crate) use root::Overseer;
