//! `hostler mcp`, from an agent's side: the SDK's client over the built program, with the built program as host.

#[path = "../host/support.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod client;
mod delegated;
mod dying;
mod offered;
mod servers;
mod work;
