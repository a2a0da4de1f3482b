//! The ground on which Hostler stands: the processes under which everything that a session starts lives.
//!
//! # Theory of operation
//!
//! A *host* forks one [`zygote`] before it has threads. The zygote forks one [keeper](message::Request) for each session, on
//! request. The keeper starts the session's processes; whatever they orphan comes back to it, because it is a subreaper.
//! So the session's processes are the keeper's descendants, by construction, and nobody has to keep books.
//!
//! ```text
//! host (subreaper) ── zygote (subreaper) ─┬─ keeper (subreaper) ─┬─ process ── …
//!                                         │                      └─ orphan
//!                                         └─ keeper …
//! ```
//!
//! * A keeper that dies hands its orphans to the zygote, which kills them.
//! * A zygote that dies hands its keepers to the host, or to init; they go on, for each has its own connection to the host.
//! * A host that dies is seen by the keepers: their connections hang up. They end their trees, or wait for the next host.
//!
//! Both loops have one thread, block all signals and read them from a descriptor. Connections carry whole
//! [messages](message), with descriptors beside them, over `SOCK_SEQPACKET` Unix sockets; every answer names its request.
//!
//! No process is signalled by a bare pid: see [`walk`].

pub mod cgroup;
mod codec;
pub mod config;
pub mod connection;
mod ending;
pub mod hook;
pub mod identity;
pub mod inherit;
mod keeper;
pub mod message;
mod namespace;
pub mod outcome;
pub mod proc;
pub mod rendezvous;
pub mod signals;
mod spawn;
mod title;
pub mod walk;
mod watch;
pub mod wire;
pub mod witness;
pub mod zygote;

pub(crate) use title::{process_name, set_title};
