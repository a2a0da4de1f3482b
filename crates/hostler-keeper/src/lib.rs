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
//! # The next host
//!
//! A keeper whose configuration names a rendezvous listens there, on a Unix socket, from before it is ready until it goes.
//! Whoever connects is its user or root ([`rendezvous`]), says [`Hello`](message::Hello) with the protocol versions that it
//! speaks, and is answered by [`Welcome`](message::Welcome): all that the keeper knows at that moment. From then on it is the
//! host. One that was there before is told so ([`Event::Superseded`](message::Event::Superseded)), and nothing is ended.
//! Before a greeting is understood and answered, a stranger changes nothing: eight may stand there in silence for 2 s, nobody is
//! waited for, and one who did not wait for the answer was never the host.
//!
//! * Exits, and descriptors that were stored, are kept until a host says that it is done with them. The report on a tree that
//!   ended unasked is kept until a host has read it, for as long as the tree would wait for its next host.
//! * The wait for the next host begins anew with each host's end, and stops when one comes. What had been asked by the host
//!   before goes on, and is answered to nobody.
//! * The zygote of a dead host stays for as long as one of its keepers does, and ends what a killed one leaves. It writes down
//!   that nothing is left where the keeper's next host reads it ([`witness`]).
//! * What a killed keeper leaves and SIGKILL does not end (it is another user's, or a tracer holds it) is reported as stuck
//!   after 2 s without progress, and tried again each second. The ends of other keepers are told meanwhile. A process that is
//!   orphaned while several such ends are awaited is in the reports of all of them.
//! * Nothing ties a keeper to its zygote: when host and zygote are both killed, the keepers go on, and are found. What is open
//!   then: should such a keeper be killed too, only its direct children die with it, and what has a pid namespace; nobody is
//!   above it who would end its orphans. A cgroup still names those, for the adopter, or for a later host that has recorded its
//!   path. Without either they are init's.
//!
//! Both loops have one thread, block all signals and read them from a descriptor. Connections carry whole
//! [messages](message), with descriptors beside them, over `SOCK_SEQPACKET` Unix sockets; every answer names its request.
//!
//! No process is signalled by a bare pid: see [`walk`].

pub mod cgroup;
mod codec;
pub mod config;
pub mod connection;
mod descriptors;
mod ending;
pub mod entry;
mod frame;
pub mod hook;
pub mod identity;
pub mod inherit;
mod keeper;
mod killing;
pub mod message;
mod namespace;
mod numbering;
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
