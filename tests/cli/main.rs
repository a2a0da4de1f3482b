//! The client commands, from outside: the built program as client of the built program as host.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

#[path = "../support/children.rs"]
mod children;

mod agents;
mod attach;
mod exec;
mod job;
mod listing;
mod place;
mod prompt;
mod schedule;
mod takeover;
