//! What became of processes: exits, ends, and the reports about them.

use std::time::Duration;

use crate::identity::{Comm, ProcessId};

/// How a process ended, as wait4(2) tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether a core was dumped.
        core: bool,
    },
    /// It ended, but whoever could have waited for it is gone: its keeper was killed.
    Lost,
}

impl ExitStatus {
    /// From a wait status.
    pub fn from_wait(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal {
                signal: libc::WTERMSIG(status),
                core: libc::WCOREDUMP(status),
            }
        } else {
            Self::Code(libc::WEXITSTATUS(status) as u8)
        }
    }

    /// The number a shell shows for it: the code, or 128 and the signal. A lost status is shown as that of SIGKILL,
    /// which is what the kernel sends to a keeper's children when it dies.
    pub fn shell_code(self) -> u8 {
        match self {
            Self::Code(code) => code,
            Self::Signal { signal, .. } => 128 + signal as u8,
            Self::Lost => 128 + libc::SIGKILL as u8,
        }
    }
}

/// What a process used, as getrusage(2) counts it: itself and all that it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// The largest resident set of one process, in bytes.
    pub peak_resident: u64,
}

/// The end of one process that the keeper had started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// What it used.
    pub usage: Usage,
}

/// How one process went when its tree was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// By itself, before it was asked to.
    Exited,
    /// After SIGTERM, within the grace.
    Terminated,
    /// By SIGKILL.
    Killed,
    /// Not at all: SIGKILL had no effect (state D), or this user may not signal it. It stays owned and is tried again.
    Stuck,
}

impl How {
    /// The word for it in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exited => "exited",
            Self::Terminated => "terminated",
            Self::Killed => "killed",
            Self::Stuck => "stuck",
        }
    }
}

/// One process in an [`EndReport`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Who it was.
    pub id: ProcessId,
    /// Its name.
    pub command: Comm,
    /// How it went.
    pub how: How,
    /// How long that took, from the start of the end.
    pub took: Duration,
}

/// Why a tree is being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// The host asked for it.
    Request,
    /// The process that the tree was for has exited.
    MainExited,
    /// The host is gone, and the policy is to go with it.
    HostGone,
    /// The process whose life the tree is tied to (`--die-with`) is gone.
    OwnerGone,
    /// It ran for as long as it may.
    Timeout,
    /// It did nothing for as long as it may.
    Idle,
    /// It is as old as it may get.
    Lifetime,
    /// Together its processes used more memory than they may.
    Memory {
        /// What they used, in bytes, when they were over it.
        used: u64,
        /// The one that held the most of it.
        largest: ProcessId,
        /// What that one held, in bytes.
        held: u64,
    },
    /// It had more processes than it may.
    Pids {
        /// How many they were.
        count: u64,
    },
    /// Its keeper was killed; the zygote above ended what was left.
    KeeperLost,
}

/// What ending a tree came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndReport {
    /// Why.
    pub reason: EndReason,
    /// What was still there when the end began, each with how it went.
    pub left: Vec<Left>,
    /// How many are still there. 0 is the kernel's word: no child of the keeper, no populated cgroup. Otherwise those that
    /// could be listed, and at least 1.
    pub remaining: u64,
    /// From the start of the end to its finish.
    pub took: Duration,
    /// CPU time of the whole tree: from its cgroup where it has one, else of all that was waited for.
    pub cpu: Duration,
    /// The most memory that the tree used at once, in bytes, as far as it was measured: by the cgroup's controller, by the
    /// sampler, else that of its largest process.
    pub peak_memory: u64,
}

/// One living process, as a census shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Who it is.
    pub id: ProcessId,
    /// Its parent's pid.
    pub parent: u32,
    /// Its name.
    pub command: Comm,
    /// The kernel's letter for its state: R, S, D, T, t, Z… (proc_pid_stat(5)).
    pub state: u8,
    /// Resident memory in bytes.
    pub resident: u64,
    /// CPU time it used so far.
    pub cpu: Duration,
    /// The host's number for it, where the keeper started it itself.
    pub key: Option<crate::identity::Key>,
}
