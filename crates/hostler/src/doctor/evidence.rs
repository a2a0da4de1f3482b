//! What speaks for a leak, and what against it. Every reason is read from the kernel; [`Reason::Hint`] is one that a process
//! could have from anywhere, and never makes a leak likely.

use std::fmt;
use std::time::Duration;

use super::show::{bytes, span};

/// How sure it is that a process was leaked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Certainty {
    /// It could be meant to run.
    Possible,
    /// Nobody can use it any more.
    Likely,
}

impl Certainty {
    /// The word for it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
        }
    }
}

/// What shows that a process's parent is not the one that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The parent started after it.
    Younger,
    /// It is in a session or a group that neither of the two has made.
    Session(u32),
    /// The parent is a program that only takes orphans in.
    Reaper,
}

/// One piece of evidence for a leak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Whoever started it is gone; init has it.
    Orphan { init: String },
    /// Whoever started it is gone; the user's service manager has it.
    OrphanOfUserManager { manager: u32 },
    /// Whoever started it is gone; another process has it.
    OrphanOfSubreaper {
        pid: u32,
        name: String,
        proof: Proof,
    },
    /// The leader of its session is gone.
    SessionOver { session: u32 },
    /// Its input comes from a pipe to which nobody can write.
    InputEnded,
    /// Its input is empty for ever.
    NoInput,
    /// Its output goes to a pipe from which nobody reads.
    OutputEnded,
    /// The pipe over which it was driven has nobody at the other end.
    DriverGone { fd: u32 },
    /// It was started with a profile for one run, or a port to be told to its starter alone.
    ForOneRun { word: String },
    /// It listens, and nobody is connected.
    NoClient { address: String },
    /// It did nothing between the two looks.
    Quiet { looked: Duration },
    /// It computed, or read and wrote, between the two looks.
    Busy {
        looked: Duration,
        cpu: Duration,
        moved: u64,
    },
    /// One of many of the same program under one parent.
    PiledUp {
        count: usize,
        parent: u32,
        name: String,
    },
    /// It is in the cgroup of a `hostler` that is gone.
    GroupOfGone { group: String, pid: u32 },
    /// An agent's mark is in its environment.
    Hint { variable: &'static str },
    /// It is in a systemd scope of a program or a terminal.
    InScope { scope: String },
}

impl Reason {
    /// A short name that stays the same between releases.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Orphan { .. } => "orphan_of_init",
            Self::OrphanOfUserManager { .. } => "orphan_of_user_manager",
            Self::OrphanOfSubreaper { .. } => "orphan_of_subreaper",
            Self::SessionOver { .. } => "session_over",
            Self::InputEnded => "input_ended",
            Self::NoInput => "no_input",
            Self::OutputEnded => "output_ended",
            Self::DriverGone { .. } => "driver_gone",
            Self::ForOneRun { .. } => "for_one_run",
            Self::NoClient { .. } => "no_client",
            Self::Quiet { .. } => "quiet",
            Self::Busy { .. } => "busy",
            Self::PiledUp { .. } => "piled_up",
            Self::GroupOfGone { .. } => "group_of_gone",
            Self::Hint { .. } => "hint",
            Self::InScope { .. } => "in_scope",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan { init } => write!(f, "its starter is gone: its parent is pid 1 ({init})"),
            Self::OrphanOfUserManager { manager } => write!(
                f,
                "its starter is gone: its parent is the user's service manager (pid {manager})"
            ),
            Self::OrphanOfSubreaper { pid, name, proof } => {
                write!(f, "its starter is gone: its parent {name} (pid {pid}) ")?;
                match proof {
                    Proof::Younger => f.write_str("started after it"),
                    Proof::Session(session) => {
                        write!(f, "has never been in its session or group ({session})")
                    }
                    Proof::Reaper => f.write_str("only takes orphans in"),
                }
            }
            Self::SessionOver { session } => {
                write!(f, "the leader of its session ({session}) is gone")
            }
            Self::InputEnded => f.write_str("nobody can write to its input any more"),
            Self::NoInput => f.write_str("it has no input, and listens nowhere"),
            Self::OutputEnded => f.write_str("nobody reads its output any more"),
            Self::DriverGone { fd } => write!(
                f,
                "nobody holds the other end of what drove it (descriptor {fd})"
            ),
            Self::ForOneRun { word } => write!(f, "it was started for one run: {word}"),
            Self::NoClient { address } => write!(f, "nobody is connected to it ({address})"),
            Self::Quiet { looked } => write!(f, "it did nothing in {}", span(*looked)),
            Self::Busy { looked, cpu, moved } => write!(
                f,
                "it is busy: in {} it used {} of CPU and moved {}",
                span(*looked),
                span(*cpu),
                bytes(*moved)
            ),
            Self::PiledUp {
                count,
                parent,
                name,
            } => write!(
                f,
                "one of {count} of the same program that do nothing under {name} (pid {parent})"
            ),
            Self::GroupOfGone { group, pid } => {
                write!(
                    f,
                    "it is in the cgroup {group}, whose hostler (pid {pid}) is gone"
                )
            }
            Self::Hint { variable } => write!(f, "{variable} is in its environment (a hint only)"),
            Self::InScope { scope } => {
                write!(
                    f,
                    "it is in {scope}, where it may have been started on purpose"
                )
            }
        }
    }
}

/// Through what somebody holds a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Input,
    Output,
    Pair(u32),
    Connection,
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("its input"),
            Self::Output => f.write_str("its output"),
            Self::Pair(fd) => write!(f, "the other end of its descriptor {fd}"),
            Self::Connection => f.write_str("a connection to it"),
        }
    }
}

/// Whose a process is that was not leaked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This very process lives in it.
    Yourself,
    /// A program of Hostler is above it.
    Hostler { pid: u32 },
    /// The program that started it lives.
    Parent { pid: u32, name: String },
    /// It was started along with the first process.
    Init { name: String },
    /// The unit of a service manager.
    Unit { name: String },
    /// A terminal in which someone works.
    Terminal { leader: u32, name: String },
    /// Somebody who holds the other end.
    Holder {
        pid: u32,
        name: String,
        channel: Channel,
    },
    /// Somebody whose descriptors this user may not see.
    Unseen { channel: Channel },
    /// Another pid namespace, such as a container.
    Namespace,
    /// Its parent is outside of this pid namespace.
    Outside,
}

impl Owner {
    /// A short name that stays the same between releases.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Yourself => "yourself",
            Self::Hostler { .. } => "hostler",
            Self::Parent { .. } => "parent",
            Self::Init { .. } => "init",
            Self::Unit { .. } => "unit",
            Self::Terminal { .. } => "terminal",
            Self::Holder { .. } => "holder",
            Self::Unseen { .. } => "unseen_holder",
            Self::Namespace => "pid_namespace",
            Self::Outside => "outside",
        }
    }

    /// Its pid, where it has one.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self {
            Self::Hostler { pid } | Self::Parent { pid, .. } | Self::Holder { pid, .. } => {
                Some(*pid)
            }
            Self::Terminal { leader, .. } => Some(*leader),
            _ => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yourself => f.write_str("this command runs in it"),
            Self::Hostler { pid } => write!(f, "hostler (pid {pid}) owns it"),
            Self::Parent { pid, name } => write!(f, "its parent {name} (pid {pid}) lives"),
            Self::Init { name } => write!(f, "it was started along with pid 1 ({name})"),
            Self::Unit { name } => write!(f, "it belongs to the unit {name}"),
            Self::Terminal { leader, name } => {
                write!(
                    f,
                    "its terminal is in use: {name} (pid {leader}) leads the session"
                )
            }
            Self::Holder { pid, name, channel } => write!(f, "{name} (pid {pid}) holds {channel}"),
            Self::Unseen { channel } => {
                write!(f, "somebody into whom this user may not look has {channel}")
            }
            Self::Namespace => f.write_str("it belongs to another pid namespace (a container?)"),
            Self::Outside => f.write_str("its parent is outside of this pid namespace"),
        }
    }
}

/// What was concluded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Owned(Owner),
    Leaked {
        certainty: Certainty,
        reasons: Vec<Reason>,
    },
}
