//! `hostler run`, from outside: the built program, over commands that misbehave in every way known.

#[path = "../support/mod.rs"]
mod support;

mod bad_input;
mod bystanders;
mod exits;
mod filtered;
mod handed_on;
// The program comes by hooks in debug builds only.
#[cfg(debug_assertions)]
#[path = "../support/hooks.rs"]
mod hooks;
mod inherited;
mod job_control;
mod killers;
mod limits;
mod odd_starts;
mod report;
mod shapes;
mod signals;
