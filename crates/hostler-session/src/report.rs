//! Why a session ended, and what that came to.

use std::time::Duration;

use hostler_ledger::{By, ResourceId, SessionId};
use serde::{Deserialize, Serialize};

use crate::policy::seconds;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// A client asked for it.
    Client,
    /// The last client left, and its policy is to go then, or its grace is over.
    Disconnect,
    /// Nothing happened in it for as long as may be.
    Idle,
    /// It is as old as it may get.
    Expired,
    /// The hour of its daily reset has come.
    Reset,
    /// Whoever wanted it opened is gone.
    SpawnCancelled,
    /// The job that it was for has ended.
    JobEnd,
    /// The session that it belongs to closes.
    ParentClosed,
    /// The agent that it was for is gone, or its keeper is.
    AgentGone,
    /// It was over a limit, or made room for another one.
    Limit,
    /// The host stops.
    Shutdown,
    /// Its host died.
    HostDied,
}

impl CloseReason {
    /// The word for it in reports and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Disconnect => "disconnect",
            Self::Idle => "idle",
            Self::Expired => "expired",
            Self::Reset => "reset",
            Self::SpawnCancelled => "spawn_cancelled",
            Self::JobEnd => "job_end",
            Self::ParentClosed => "parent_closed",
            Self::AgentGone => "agent_gone",
            Self::Limit => "limit",
            Self::Shutdown => "shutdown",
            Self::HostDied => "host_died",
        }
    }
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What became of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Outcome {
    /// It had ended by itself before.
    Exited {
        /// Its exit code, where it is a process that ended by one.
        code: Option<u8>,
        /// The number of the signal that ended it, where it is a process that one ended.
        signal: Option<i32>,
    },
    /// It ended after it was asked to (for a process: by SIGTERM).
    Terminated,
    /// It was ended (for a process: by SIGKILL).
    Killed,
    /// It was released, and there is no more to say.
    Released,
    /// It was handed to another session.
    Kept {
        /// Which.
        session: SessionId,
    },
    /// It was never there: it could not be made.
    NeverStarted {
        /// Why.
        why: String,
    },
    /// Its end is known, but nobody could say how: its keeper was lost.
    Lost,
    /// It could not be released within its time, or its release failed.
    Failed {
        /// Why.
        why: String,
    },
    /// What it is cannot be killed. It stays owned and is tried again.
    Stuck,
}

/// One resource in a [`CloseReport`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Released {
    /// Which.
    pub id: ResourceId,
    /// Its kind.
    pub kind: String,
    /// For people: its name, or the start of its command.
    pub shown: String,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long that took, from the start of the close.
    #[serde(with = "seconds", rename = "took_seconds")]
    pub took: Duration,
}

/// A process that was still there when the session closed: one that a resource was, or that one left behind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LeftProcess {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its name.
    pub command: String,
    /// `exited`, `terminated`, `killed` or `stuck`.
    pub how: String,
    /// How long that took.
    #[serde(with = "seconds", rename = "took_seconds")]
    pub took: Duration,
    /// The resource that it is, if it is one itself.
    pub resource: Option<ResourceId>,
}

/// A process that was connected to one that the close ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connected {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// The session that it is of, where it is of one of this host's.
    pub session: Option<SessionId>,
    /// What it was connected to.
    pub to: Listener,
}

/// A process of the session, on a socket of which others were connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub command: String,
}

/// What closing a session came to. All who close it get the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloseReport {
    /// The session.
    pub session: SessionId,
    /// Its name.
    pub name: Option<String>,
    /// Why it was closed.
    pub reason: CloseReason,
    /// Who asked for it, and why.
    pub by: By,
    /// From the start to the end.
    #[serde(with = "seconds", rename = "took_seconds")]
    pub took: Duration,
    /// Every resource that it owned, with what became of it.
    pub released: Vec<Released>,
    /// Every process that was still alive when the close began.
    pub processes: Vec<LeftProcess>,
    /// Who else was connected to a process of it that listened on a socket. Looked for only where another session was open,
    /// and for a short time only, so that one may be missing.
    #[serde(default)]
    pub connected: Vec<Connected>,
    /// How many processes are still alive, counted by the kernel. 0 is the proof.
    pub remaining: u64,
    /// Whether the count comes from the kernel. It does not where the keeper and the zygote were both lost.
    pub proven: bool,
    /// The resources that could not be released.
    pub stuck: Vec<ResourceId>,
    /// What was handed to sessions of its own.
    pub kept: Vec<ResourceId>,
    /// The sessions that belonged to it, which closed before it.
    pub children: Vec<CloseReport>,
    /// Whether the report is in the ledger.
    pub recorded: bool,
}

impl CloseReport {
    /// Whether nothing is left of the session.
    pub fn is_clean(&self) -> bool {
        self.remaining == 0 && self.stuck.is_empty()
    }
}
