//! Starting, watching and ending processes from async code, so that none of them is ever left behind.
//!
//! # Theory of operation
//!
//! A host starts one [`Zygote`] and makes a [`Tree`] for each thing that owns processes. A tree is a *keeper*, a small
//! process of its own, and all that is under it, however it got there: see [`hostler_keeper`]. Each tree has one task, which
//! alone owns the connection to its keeper, the requests that wait for an answer, and the table of processes. The handles
//! ([`Tree`], [`Process`]) put questions into its mailbox. So there is no lock, and what is asked is carried out whether or
//! not the asker still waits.
//!
//! * **Ownership is a guard.** [`Tree`] and [`Process`] own what they name; dropping one releases it. A future that is
//!   dropped at any await leaves nothing half-owned: the task turns every answer into a guard before it looks for who wants
//!   it, and a guard that nobody takes is dropped, which releases.
//! * **Ends are reported once and alike.** [`Tree::end`] may be called by many, at once and again: there is one end and one
//!   report. It goes on when its callers are gone.
//! * **Exits are never lost.** The keeper waits for its children and keeps their exits until the host has them;
//!   [`Process::wait`] answers anyone, however late.
//! * **Nobody's death leaks.** A keeper that dies leaves its orphans to the zygote, which kills and counts them; the tree
//!   then reports what the zygote says, and processes end as [`ExitStatus::Lost`]. A keeper that does not answer is killed
//!   through a pidfd that was opened while it was proven to be alive. A zygote that dies takes nothing with it. A host that
//!   dies hangs up, and the keepers end their trees or wait for the next host ([`OnHostExit`]).
//! * **Never the wrong process.** Nothing here signals a pid. The keeper signals children that it has not yet waited for, and
//!   descendants through pidfds whose parentage it has proven.
//!
//! # From host to host
//!
//! A tree with a [rendezvous](TreeOptions::rendezvous) can be taken over by another process: [`Tree::adopt`]. It finds the
//! processes, running and ended, and what was [stored](Tree::store); pipes that were [stored](Command::stored) before their
//! process ran are made again with [`tokio::net::unix::pipe::Receiver::from_owned_fd`] and its like, terminals with
//! [`Terminal::from_master`]. A host leaves a tree to the next one by dying ([`OnHostExit::Keep`]), by [`Tree::hand_over`], or
//! when the next one just takes it: then all that it asks fails with [`Error::Superseded`], and its guards own nothing.
//!
//! What a host has read from a pipe and not yet put down dies with it; what it has not read is there. So one that hands over
//! stops reading first.
//!
//! | killed | what becomes of a tree that is kept |
//! | --- | --- |
//! | host | it waits for the next host, then ends |
//! | host, later the keeper | the old zygote ends what is left; the adopter learns it ([`EndReason::KeeperLost`]) |
//! | host and zygote | it waits for the next host, and is whole |
//! | host, zygote, and later the keeper | direct children die with it; a pid namespace or cgroup takes the rest, the latter from the adopter or by [`contain::end_group`]; without either, orphans are init's and the end is [`Error::Unproven`] |
//!
//! Data takes no detour: pipes and terminals lead straight from the process to this one.
//!
//! Ways to contain, and what each leaves open: [`contain`]. Limits: [`TreeOptions::limits`].
//!
//! ```no_run
//! use std::time::Duration;
//! use hostler_process::{Command, Stdio, TreeOptions, Zygote};
//! use tokio::io::AsyncReadExt;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let zygote = hostler_keeper::zygote::Zygote::exec("/usr/bin/hostler".as_ref(), &["__zygote"])?;
//! let zygote = Zygote::new(zygote)?;
//! let tree = zygote.tree(TreeOptions::default()).await?;
//! let mut process = tree.spawn(Command::new("ls").arg("/").stdout(Stdio::Piped)).await?;
//! let mut listing = String::new();
//! process.take_stdout().expect("a pipe").read_to_string(&mut listing).await?;
//! println!("{listing}{:?}", process.wait().await.status);
//! assert_eq!(tree.end(Duration::from_secs(1)).await?.remaining, 0);
//! # Ok(())
//! # }
//! ```

mod actor;
mod adopt;
mod aftermath;
mod ask;
mod command;
pub mod contain;
mod error;
pub mod lineage;
mod link;
mod process;
mod record;
pub mod sockets;
mod terminal;
mod tree;
mod zygote;

pub use adopt::Adopted;
pub use command::{Command, Stdio};
pub use contain::Contain;
pub use error::{Error, Result};
pub use hostler_keeper::config::{AfterMain, Limits, OnHostExit, Rules};
pub use hostler_keeper::identity::{Comm, Key, ProcessId};
pub use hostler_keeper::message::{Failure, Group, Started, Step, Target};
pub use hostler_keeper::outcome::{
    EndReason, EndReport, Exit, ExitStatus, How, Left, ProcessInfo, Usage,
};
pub use link::register;
pub use process::{Process, Watcher};
pub use terminal::{Size, Terminal};
pub use tree::{Signal, Tree, TreeEvent, TreeOptions};
pub use zygote::Zygote;
