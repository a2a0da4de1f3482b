//! Terminals of the Agent Host Protocol, over the built program and the protocol's own client, unchanged.

#[path = "../host/support.rs"]
#[allow(dead_code)]
mod support;

mod claims;
mod ends;
mod handover;
mod joining;
mod life;
mod peer;
mod resources;
