//! The agent `shell`, as clients meet it: line by line, and by the client of the official SDK.

mod lines;
#[path = "../support/processes.rs"]
#[allow(dead_code)]
mod processes;
mod sdk;
