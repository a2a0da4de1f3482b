//! Sessions: actors that own, close once, survive and prove it.
//!
//! # Theory of operation
//!
//! [`Sessions`] is all sessions of a host. A [`Session`] is one task that alone owns the session's state, and a keeper, under
//! which all its processes live. Handles ([`Session`], [`ProcessHandle`]) put messages into its mailbox; none of them is the
//! ownership, and no lock is held over an await.
//!
//! * **Intent first.** Opening writes to the ledger before a keeper is forked; starting a process, before there is one; with its
//!   number in the tree, by which the next host finds it. What is made is made by a task of its own, which goes all the way:
//!   whoever asked may be gone, and then what was made is released.
//! * **How durable.** All that is written before something is made survives the death of the host, by whatever signal. That a
//!   session is open, and its close report, are on the disk before anybody is told. What is written of one process is on the
//!   disk within a tenth of a second: a loss of power before that ends the process too, so nothing can leak; the record of its
//!   last moments may be lost. An exit is told when the keeper has told it, and its release is queued by then or right after.
//!   What the next host finds out by asking the keeper (who a process or a keeper is, that a session is active) or does not
//!   judge by (that it is closing) may be committed up to 2 ms later, with what comes next.
//! * **One way out.** Every end is a [`CloseReason`] in one function. The first begins the close; all who ask, then or later,
//!   get its one [`CloseReport`]. Children close first; then what plugs in ([`Resource`]), each as soon as nothing depends on it,
//!   bounded by a deadline and guarded against panics; then the tree with all processes, whose end the kernel proves; then the
//!   directories; then the record. What cannot be ended makes the session [`SessionState::Stuck`]: visible, tried again after
//!   growing pauses, in nobody's way.
//! * **Output is files.** Pipes are moved into files by splice(2), so that each byte is in the pipe or in the file: [`Output`].
//!   A terminal is moved into a pipe of the host's own first, and that into the file, for only pipes can be. The
//!   host's ends of pipes, the terminals' masters and those pipes are kept by the keeper too, from before the process runs. So a
//!   host that is killed loses no output, and the next one goes on where it ended. (On a kernel before 5.11, which cannot
//!   splice a terminal, the at most 4 KiB that are being copied out of it are lost with a host that is killed in that moment.)
//!   A file is made for the first byte that is written.
//! * **Exits are told once.** [`SessionEvent::Exited`] comes once for each process, also when it ends before its starter returns,
//!   and its release is in the ledger. Waiting ends with the exit, not with the end of the pipe; what was written before it is
//!   in the output then.
//! * **Reapers judge and close in one step**, within the session's task, by monotonic time: [`Policy`]. An end that has to wait is
//!   judged again whenever something changes.
//! * **The next host** ([`Sessions::recover`]) adopts what was to be kept, or was [handed over](Sessions::hand_over), and whose
//!   keeper answers; it ends and records the rest. A process of which nobody had heard that it was started is ended.
//! * **Kept on purpose** ([`Session::keep`]): a process is handed to a named session, which gets the keeper, and nothing else in
//!   it, when the first one closes.
//!
//! ```no_run
//! use hostler_session::{By, CloseReason, ExecOptions, HostOptions, SessionOptions, Sessions};
//! # async fn example(zygote: hostler_process::Zygote, run: hostler_ledger::HostRun) -> Result<(), Box<dyn std::error::Error>> {
//! let opened = hostler_ledger::Ledger::open("/var/lib/hostler".as_ref(), &run)?;
//! let sessions = Sessions::new(zygote, opened.ledger, HostOptions::new("/var/lib/hostler", run))?;
//! sessions.recover(&opened.earlier).await?;
//! let by = By::new("me", "to see what is there");
//! let session = sessions.open(SessionOptions::default(), by.clone()).await?;
//! let mut ls = session.run(ExecOptions::new(["/bin/ls", "/"]), by.clone()).await?;
//! while let Some(chunk) = ls.stdout.next_text(4096).await? {
//!     print!("{}", chunk.text);
//! }
//! let report = session.close(CloseReason::Client, by, None).await?;
//! assert_eq!(report.remaining, 0);
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod actor;
mod adopt;
mod closing;
mod connected;
mod dirs;
mod ending;
mod error;
mod event;
mod farewell;
mod holdings;
mod identity;
mod judge;
mod keep;
mod lending;
mod life;
mod mailbox;
mod members;
mod open;
mod options;
mod output;
mod own;
mod patterns;
mod policy;
mod pressure;
mod process;
mod prune;
mod recover;
mod report;
mod resource;
mod restart;
mod revived;
mod session;
mod sessions;
mod streams;
mod sweep;
mod takeover;
mod tree;
mod unreached;

pub use error::{Error, Result};
pub use event::{ExitInfo, SessionEvent, SessionState};
pub use farewell::{Act, Doing, Farewell};
pub use hostler_ledger::{By, ResourceId, SessionId};
pub use hostler_process::{ProcessId, ProcessInfo, Signal};
pub use members::{Listening, Member};
pub use options::{ExecOptions, KeepOutput, Mode, Pattern, Restart, SessionOptions, TerminalSize};
pub use output::{Chunk, Follower, Output, Progress, TextChunk};
pub use policy::{Containment, OnDisconnect, OnHostExit, Policy, SessionLimits};
pub use process::{EndOnDrop, Foreground, ProcessHandle, ProcessStatus};
pub use recover::Recovery;
pub use report::{CloseReason, CloseReport, Connected, LeftProcess, Listener, Outcome, Released};
pub use resource::{Releasing, Resource, ResourceInfo, ResourceState};
pub use session::{Attachment, Busy, Session, SessionInfo};
pub use sessions::{HostOptions, Sessions};
