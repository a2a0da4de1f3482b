//! Sessions: actors that own, close once, survive and prove it.

#![forbid(unsafe_code)]

mod actor;
mod adopt;
mod closing;
mod dirs;
mod error;
mod event;
mod identity;
mod judge;
mod keep;
mod life;
mod mailbox;
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
mod session;
mod sessions;
mod sweep;
mod takeover;
mod tree;

pub use error::{Error, Result};
pub use event::{ExitInfo, SessionEvent, SessionState};
pub use hostler_ledger::{By, ResourceId, SessionId};
pub use hostler_process::{ProcessId, ProcessInfo, Signal};
pub use options::{ExecOptions, KeepOutput, Mode, Pattern, Restart, SessionOptions, TerminalSize};
pub use output::{Chunk, Follower, Output, Progress, TextChunk};
pub use policy::{Containment, OnDisconnect, OnHostExit, Policy, SessionLimits};
pub use process::{EndOnDrop, Foreground, ProcessHandle, ProcessStatus};
pub use recover::Recovery;
pub use report::{CloseReason, CloseReport, LeftProcess, Outcome, Released};
pub use resource::{Releasing, Resource, ResourceInfo, ResourceState};
pub use session::{Attachment, Busy, Session, SessionInfo};
pub use sessions::{HostOptions, Sessions};
