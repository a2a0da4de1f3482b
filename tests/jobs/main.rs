//! Jobs over real keepers, a real ledger and a real agent: what their flows say, and that nothing is left of them, however they end.

#[path = "../agent/support.rs"]
#[allow(dead_code)]
mod agents;
mod basics;
mod death;
mod ends;
#[path = "../support/hooks.rs"]
#[allow(dead_code)]
mod hooks;
mod permission;
mod place;
#[path = "../support/random.rs"]
#[allow(dead_code)]
mod random;
mod random_flows;
mod schedules;
mod schedules_death;
#[path = "../session/support.rs"]
#[allow(dead_code)]
mod stage;
mod support;
