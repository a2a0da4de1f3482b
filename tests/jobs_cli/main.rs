//! `hostler job`, from outside: the built program as client of the built program as host.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

#[path = "../support/children.rs"]
mod children;

#[path = "../cli/place.rs"]
#[allow(dead_code)]
mod place;

mod asking;
mod bench;
mod errors;
mod hosts;
mod listing;
mod running;
