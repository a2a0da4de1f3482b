//! Sessions, over real keepers and a real ledger. What is left is counted by the kernel.

mod agreement;
mod basics;
mod cancel;
mod connected;
mod counted_on;
mod death;
mod keeping;
mod measure;
mod once;
mod output;
mod reaping;
mod schedule;
mod schedules;
mod support;
mod takeover;
mod unreached;
