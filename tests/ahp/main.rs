//! The Agent Host Protocol from the clients' side: the `ahp` crate's own client, unchanged, over the built program.

#[path = "../host/support.rs"]
#[allow(dead_code)]
mod support;

#[path = "../support/random.rs"]
mod random;

mod ask;
mod automations;
mod back;
mod chats;
mod crowd;
mod death;
mod ends;
mod extension;
mod hosts;
mod mirror;
mod peer;
mod protocol;
mod storm;
mod turns;
