//! Sessions, over real keepers and a real ledger. What is left is counted by the kernel.

mod basics;
mod cancel;
mod death;
mod once;
mod support;
