//! The messages between a host, the zygote and the keepers.
//!
//! A host sends [`Request`]s, each with an id of its own; every request but [`Request::Stage`] is answered by one
//! [`Reply`] with that id, in whatever order they get done. [`Event`]s come unasked, with id 0. A request whose host has
//! lost interest is carried out all the same: what it made is named by a [`Key`] that the host chose, so it can always be
//! found and released.

use std::ffi::{CStr, CString};
use std::time::Duration;

use crate::cgroup::Enforced;
use crate::config::{KeeperConfig, OnHostExit};
use crate::identity::{Key, ProcessId};
use crate::outcome::{EndReason, EndReport, Exit, ProcessInfo};
use crate::wire::{WireError, Writer};

/// A step of making a process or a keeper: what is named when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Step {
    /// The request itself makes no sense.
    Request = 1,
    /// fork(2), clone(2).
    Fork,
    /// setsid(2), setpgid(2).
    Session,
    /// Making a terminal the controlling one, or the group its foreground.
    Terminal,
    /// Putting descriptors in their places.
    Descriptors,
    /// setrlimit(2).
    Limit,
    /// setpriority(2).
    Nice,
    /// chdir(2).
    Directory,
    /// Signal mask and dispositions.
    Signals,
    /// Making, limiting or entering a cgroup.
    Cgroup,
    /// Making a namespace.
    Namespace,
    /// Mounting the namespace's own /proc.
    Mount,
    /// sched_setaffinity(2), where it stands in for a CPU limit.
    Affinity,
    /// execve(2): the program was not found or can't be run.
    Exec,
    /// Signalling.
    Signal,
    /// Keeping or giving back a descriptor.
    Store,
    /// Making the socket at which the next host finds the keeper.
    Rendezvous,
    /// Reading who a process's children are.
    Listing,
    /// pidfd_open(2), pidfd_send_signal(2).
    Handle,
}

impl Step {
    const ALL: [Step; 19] = [
        Step::Request,
        Step::Fork,
        Step::Session,
        Step::Terminal,
        Step::Descriptors,
        Step::Limit,
        Step::Nice,
        Step::Directory,
        Step::Signals,
        Step::Cgroup,
        Step::Namespace,
        Step::Mount,
        Step::Affinity,
        Step::Exec,
        Step::Signal,
        Step::Store,
        Step::Rendezvous,
        Step::Listing,
        Step::Handle,
    ];

    /// The step with this number.
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|step| *step as u8 == number)
    }

    /// What was being done, to be read after "cannot".
    pub fn as_str(self) -> &'static str {
        match self {
            Step::Request => "understand the request",
            Step::Fork => "create a process",
            Step::Session => "set its session or process group",
            Step::Terminal => "set its terminal",
            Step::Descriptors => "pass its descriptors",
            Step::Limit => "set its limits",
            Step::Nice => "set its priority",
            Step::Directory => "change to its directory",
            Step::Signals => "set its signals",
            Step::Cgroup => "make its cgroup",
            Step::Namespace => "make its namespace",
            Step::Mount => "mount its /proc",
            Step::Affinity => "bind it to CPUs",
            Step::Exec => "execute",
            Step::Signal => "signal it",
            Step::Store => "keep the descriptor",
            Step::Rendezvous => "listen at its rendezvous",
            Step::Listing => "list its processes in /proc",
            Step::Handle => "use pidfd_open, which the kernel or a filter refuses",
        }
    }
}

/// What failed, and the kernel's reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot {}: {}", step.as_str(), std::io::Error::from_raw_os_error(*errno))]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// The kernel's error number.
    pub errno: i32,
}

impl Failure {
    /// `step` failed with `errno`.
    pub fn new(step: Step, errno: rustix::io::Errno) -> Self {
        Self {
            step,
            errno: errno.raw_os_error(),
        }
    }
}

/// The process group and session that a process starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Group {
    /// The keeper's own. For a keeper that stands with its front this is the front's.
    Inherit,
    /// A process group of its own.
    Group,
    /// A session of its own.
    #[default]
    Session,
    /// A session of its own, whose controlling terminal is the one on this descriptor number of the process.
    Terminal(i32),
}

/// One limit for the process alone (getrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rlimit {
    /// Which: a `RLIMIT_` number.
    pub resource: u32,
    /// The soft limit; `u64::MAX` for none.
    pub soft: u64,
    /// The hard limit.
    pub hard: u64,
}

/// A process to start. Its descriptors travel beside the message: the first goes to the number `fds[0]` and so on; what is
/// not named there is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spawn<'a> {
    /// The host's number for it.
    pub key: Key,
    /// Whether this is the process that the tree is for ([`crate::config::AfterMain`]).
    pub main: bool,
    /// What to run: a path, or a name to be looked up in the `PATH` of `env`.
    pub program: &'a CStr,
    /// Its arguments, the first being its own name.
    pub args: Vec<&'a CStr>,
    /// Its whole environment.
    pub env: Vec<&'a CStr>,
    /// Its directory; `None` is the keeper's.
    pub cwd: Option<&'a CStr>,
    /// The numbers at which it finds the descriptors that came along.
    pub fds: Vec<i32>,
    /// Group and session.
    pub group: Group,
    /// Nice value to set, -20 to 19.
    pub nice: Option<i32>,
    /// File mode mask to set.
    pub umask: Option<u32>,
    /// Limits to set.
    pub rlimits: Vec<Rlimit>,
    /// Signals that it starts with blocked, bit n-1 for signal n.
    pub blocked: u64,
    /// Signals that it starts with ignored; `None` for those that the keeper does.
    pub ignored: Option<u64>,
    /// The names under which the last of the descriptors beside it are kept ([`Request::Store`]), from before it runs; where it
    /// does not come to run, they are not. Only for keepers of [`LEVEL`](crate::wire::LEVEL) 1.
    pub stored: Vec<&'a [u8]>,
    /// What is let go of first. Only for keepers of level 1.
    pub tidy: Tidy<'a>,
}

/// What a host has no use for any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tidy<'a> {
    /// Processes, as with [`Request::Forget`].
    pub forget: Vec<Key>,
    /// Names of descriptors, as with [`Request::Discard`]; those that are not there are none to tell of.
    pub discard: Vec<&'a [u8]>,
}

impl Tidy<'_> {
    /// Whether there is nothing to be let go of.
    pub fn is_empty(&self) -> bool {
        self.forget.is_empty() && self.discard.is_empty()
    }
}

/// What a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A process that the keeper started.
    Process(Key),
    /// The process group that such a process leads.
    Group(Key),
    /// Any living descendant, by identity.
    Descendant(ProcessId),
    /// Every living descendant.
    All,
}

/// What a host asks of a keeper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request<'a> {
    /// Start a process.
    Spawn(Box<Spawn<'a>>),
    /// Send a signal.
    Signal {
        /// To what.
        target: Target,
        /// Which.
        signal: i32,
    },
    /// The front received this signal: let the command have it, unless it got it too (as a member of the same group).
    Forward {
        /// Which.
        signal: i32,
        /// Who sent it ([`crate::signals::Received::sender`]).
        sender: i32,
    },
    /// The zygote, which is in no group of the front's, received this signal as well: so it was sent to process after
    /// process, and that the keeper got it does not say that the command did.
    Insist {
        /// Which.
        signal: i32,
        /// Who sent it.
        sender: i32,
    },
    /// The front's answer to each [`Event::Stopped`]: it goes on, whether it stopped or not.
    WentOn,
    /// List every living descendant.
    Census,
    /// End the whole tree: SIGTERM, so much grace, SIGKILL.
    End {
        /// Between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// End one process and what is under it now; what it orphaned earlier stays with the tree.
    Release {
        /// Which.
        key: Key,
        /// Between SIGTERM and SIGKILL.
        grace: Duration,
    },
    /// The descriptors beside this belong to the next [`Request::Spawn`], in front of its own (253 fit in one message,
    /// unix(7)). Not answered.
    Stage,
    /// Keep the descriptor beside this under a name, in place of what is there.
    Store {
        /// The name.
        name: &'a [u8],
    },
    /// Give back a duplicate of what is kept under the name.
    Fetch {
        /// The name.
        name: &'a [u8],
    },
    /// Let go of what is kept under the name.
    Discard {
        /// The name.
        name: &'a [u8],
    },
    /// The names of all that is kept.
    Names,
    /// Every process that the keeper started and that is not forgotten, with its exit where it has ended.
    Processes,
    /// The host has what it needs of this process: drop its record once it has ended.
    Forget {
        /// Which.
        key: Key,
    },
    /// Let go of all this. Only for keepers of [`LEVEL`](crate::wire::LEVEL) 1.
    Tidy(Tidy<'a>),
    /// The tree is tied to the life of the process on the pidfd beside this.
    Owner,
    /// The first message on a connection to the keeper's rendezvous: who knocks is the next host, and speaks these versions.
    /// Answered by [`Reply::Welcome`] or [`Reply::Incompatible`].
    Hello(Hello<'a>),
    /// What a dead host means from now on.
    SetOnHostExit(OnHostExit),
    /// The host lets go: the keeper waits so long for the next one, whatever a dead host means.
    HandOver {
        /// How long.
        wait: Duration,
    },
}

/// Who knocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The oldest protocol version that it speaks.
    pub oldest: u8,
    /// The newest.
    pub newest: u8,
    /// Its name, for people.
    pub name: &'a [u8],
}

/// What a keeper tells its next host. All that it knows at that moment: what follows as [`Event`]s comes after it. Where its
/// zygote has a [`Witness`](crate::witness::Witness), that is beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The protocol version to be spoken on this connection from here on.
    pub version: u8,
    /// Who the keeper is.
    pub keeper: ProcessId,
    /// Who its zygote is, or was.
    pub zygote: ProcessId,
    /// What it was made with, as it stands now.
    pub config: KeeperConfig,
    /// Which limits the kernel enforces.
    pub enforced: Enforced,
    /// The process that the tree is for.
    pub main: Option<Key>,
    /// A key above all that were used.
    pub next_key: u64,
    /// What it started and was not told to forget.
    pub processes: Vec<Started>,
    /// Why the tree is being ended, if it is.
    pub ending: Option<EndReason>,
    /// The report, where the tree ended and no host has read it. The keeper goes when it is asked to end.
    pub ended: Option<EndReport>,
    /// The keeper's [`LEVEL`](crate::wire::LEVEL); 0 where it does not say.
    pub level: u8,
}

/// One process that a keeper started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// The host's number.
    pub key: Key,
    /// Who it is.
    pub id: ProcessId,
    /// Its end, where it has ended.
    pub exit: Option<Exit>,
}

/// A keeper's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done. For [`Request::Fetch`], the descriptor is beside it.
    Done,
    /// It could not be done.
    Failed(Failure),
    /// The process runs: its exec has succeeded.
    Spawned(ProcessId),
    /// The census.
    Census(Vec<ProcessInfo>),
    /// The answer to [`Request::End`] and [`Request::Release`].
    Ended(EndReport),
    /// The names of what is kept.
    Names(Vec<CString>),
    /// The started processes.
    Processes(Vec<Started>),
    /// The connection is the host's now.
    Welcome(Box<Welcome>),
    /// The keeper speaks none of those versions, but these. It closes the connection.
    Incompatible {
        /// The oldest.
        oldest: u8,
        /// The newest.
        newest: u8,
    },
}

/// What a keeper tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The keeper is up; nothing runs under it yet.
    Ready {
        /// Which limits the kernel enforces.
        enforced: Enforced,
        /// The keeper's [`LEVEL`](crate::wire::LEVEL); 0 where it does not say.
        level: u8,
    },
    /// The keeper could not be set up; it has exited.
    Unfit(Failure),
    /// A process that it started has ended. Kept until it is forgotten, so a new host learns it too.
    Exited {
        /// Which.
        key: Key,
        /// How.
        exit: Exit,
    },
    /// The process was stopped by a signal.
    Stopped {
        /// Which.
        key: Key,
        /// By what.
        signal: i32,
    },
    /// The process goes on.
    Continued {
        /// Which.
        key: Key,
    },
    /// The tree is being ended by its own rules.
    Ending(EndReason),
    /// The report on a tree that ended by its own rules. A keeper that waits for the next host when this one dies stays until
    /// it is asked to end: then the report was read.
    Ended(EndReport),
    /// Another host has the tree from here on; nothing more comes on this connection.
    Superseded,
}

/// What a host asks of the zygote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZygoteRequest {
    /// Make a keeper, whose end of the connection to the host is beside this.
    Keeper(Box<KeeperConfig>),
}

/// What the zygote tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZygoteReply {
    /// The keeper was forked; that it is fit it says itself ([`Event::Ready`]).
    Forked(ProcessId),
    /// It could not be.
    Failed(Failure),
    /// Unasked, from a front's zygote: a process has sent it this signal.
    Signalled {
        /// Which.
        signal: i32,
        /// Who sent it.
        sender: i32,
    },
    /// Unasked, and once for each keeper: it has ended, and nothing is left of what was under it; or what is left does not
    /// die (`remaining` is not 0), and is tried on.
    KeeperGone {
        /// Which.
        id: ProcessId,
        /// How it ended.
        status: crate::outcome::ExitStatus,
        /// What it had left behind.
        report: EndReport,
    },
}

/// A message with its place in the numbering of kinds.
pub trait Message<'a>: Sized {
    /// Writes the body, and returns the kind.
    fn encode(&self, writer: &mut Writer) -> u8;

    /// Reads a body of this kind.
    ///
    /// # Errors
    /// [`WireError`] for a kind or a body that the protocol does not have.
    fn decode(kind: u8, body: &'a [u8]) -> Result<Self, WireError>;
}
