//! Conversations with agents, over real keepers and a real ledger; the agent is on the official SDK. What is left is counted
//! by the kernel.

mod basics;
mod death;
mod handshake;
mod last;
mod life;
mod permission;
mod pool;
mod pool_ends;
mod pool_random;
mod renew;
mod resend;
mod served;
mod speed;
#[path = "../session/support.rs"]
#[allow(dead_code)]
mod stage;
mod support;
mod tools;
mod warm;
