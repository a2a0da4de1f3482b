//! Hosts elsewhere: the same commands over the Agent Host Protocol (`/ahp`), by the `ahp` crate's own client.
//!
//! A [`link::Link`] is a connection that comes back: what it was told it has once, in order, whatever became of the network. What
//! a command shows is drawn from states that the reducers of the `ahp` crate make of that, so that a state that comes anew
//! shows what was missed and nothing twice. What the protocol has no word for is said under `_meta`, in members that begin with
//! `dev.hostler/`; a host that does not know them is used without.

mod address;
pub(super) mod attach;
mod drawn;
mod find;
mod link;
pub(super) mod logs;
mod output;
pub(super) mod prompt;
pub(super) mod session;
mod transport;

pub(crate) use address::{Address, without_token};

/// The scheme of the channels of processes and terminals.
const TERMINAL: &str = "ahp-terminal:/";

/// A name that nobody else has.
fn fresh() -> String {
    let mut random = [0; 16];
    // Enough bits are there from the kernel's start on.
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    format!("{:032x}", u128::from_le_bytes(random))
}
