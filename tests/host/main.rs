//! The host as its clients know it: the built program on a state directory of its own, over its sockets.

mod access;
mod adopted;
mod api;
mod death;
mod errors;
mod exhausted;
mod handover;
mod streams;
mod support;
mod systemd;
mod takeover;
