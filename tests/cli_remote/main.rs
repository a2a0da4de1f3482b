//! The client commands with a host elsewhere, from outside: the built program as client of the built program as host, over TCP and
//! through a network that can be cut.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

#[path = "../support/children.rs"]
mod children;

mod attach;
mod errors;
mod far;
mod logs;
mod prompt;
mod sessions;
