//! ACP from the clients' side, over the built program and its built-in agent.

#[path = "../host/support.rs"]
#[allow(dead_code)]
mod support;

mod clients;
mod death;
mod http;
mod official;
mod peer;
mod protocol;
mod scripted;
mod sdk;
mod stdio;
