//! The control API of a host: REST, WebSockets and events, on a Unix socket and on TCP.
//!
//! # Theory of operation
//!
//! A [`Gateway`] is what all requests share: the sessions, what is known of the host, the token, and the [`Phase`]. It owns
//! nothing that a session owns: it asks, and holds guards. A client that goes away drops its request's future, and with it the
//! guards: its attachment, and the end of its foreground process.
//!
//! * **Who may.** Each connection has a [`Peer`]. On the Unix socket the kernel says who it is; on TCP it has to show the
//!   token, and its `Host` and `Origin` have to be this host's. What is refused is logged. See [`access`].
//! * **One error type.** [`ApiError`] is what any request can fail with, and the one place where a status is chosen.
//! * **Output is read from its spool by offset**, a frame at a time, and the next one when the socket took the last. So a slow
//!   client costs no memory here, and slows nobody but the process that it runs in the foreground.
//! * **ACP** for editors and remote clients is a gateway within: a client's connection follows transcripts by cursor. See [`AcpOptions`].
//! * **AHP** for clients of the Agent Host Protocol: a hub of channels, whose states are projections of transcripts.
//! * **Phases.** While the host is taken over, connections stand still ([`Phase::HandingOver`]) until its sessions are frozen;
//!   then clients are told to come back ([`Phase::HandedOver`]). So no guard is dropped while its session could still act on it.

#![forbid(unsafe_code)]

pub mod access;
mod acp;
mod ahp;
mod document;
mod error;
mod extract;
mod gateway;
mod routes;
mod server;
pub mod wire;
mod ws;

pub use acp::AcpOptions;
pub use document::document;
pub use error::{ApiError, ErrorBody, ErrorCode, FlowProblem};
pub use gateway::{Facts, Gateway, Phase, ShutdownAsked};
pub use routes::router;
pub use server::{Listening, Peer, Server};
