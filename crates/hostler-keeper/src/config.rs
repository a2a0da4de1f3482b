//! What a keeper is told when it is made: how to contain, what to allow, when to end.

use std::ffi::CString;
use std::time::Duration;

/// How the processes of a tree are held together. Each keeps what the one before it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Contain {
    /// By parentage: the keeper is a subreaper, so whatever is orphaned comes back to it. No privilege is needed and the
    /// child sees no difference.
    ///
    /// Leaves open: if host, zygote and keeper are all killed at once, only the keeper's direct children die with it
    /// (`PR_SET_PDEATHSIG`). A process that forks faster than it can be followed dies after several passes, not at once.
    Tree,
    /// As [`Contain::Tree`], and in a cgroup (v2) of its own, entered before exec and ended by `cgroup.kill`, which no
    /// fork outruns. Hard limits where the controllers are there. The child sees no difference but its own
    /// `/proc/self/cgroup`.
    ///
    /// Leaves open: as [`Contain::Tree`], but what survives stays named by its cgroup, for the next host to sweep.
    Cgroup,
    /// As the strongest of the others that the machine allows, and in a pid namespace (and a user namespace where needed)
    /// whose init dies with the keeper: then the kernel takes the rest, even when everything of Hostler is killed at once.
    ///
    /// Leaves open: nothing. The price is what a namespace changes for the child: its pids, setuid programs such as sudo,
    /// and sandboxes that it nests itself.
    Pidns,
}

impl Contain {
    /// The word for it on the command line and in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Cgroup => "cgroup",
            Self::Pidns => "pidns",
        }
    }
}

/// What becomes of a tree whose host is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHostExit {
    /// It is ended.
    Kill,
    /// It waits this long for the next host, then it is ended.
    Keep(Duration),
}

/// What a tree may use together. `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Memory in bytes: `memory.max`, or else measured by the keeper (resident, then proportional set size).
    pub memory: Option<u64>,
    /// Number of processes: `pids.max`, or else counted by the keeper.
    pub pids: Option<u64>,
    /// Thousandths of a CPU: `cpu.max`, or else the tree is bound to as many CPUs, rounded up.
    pub cpu_millis: Option<u64>,
}

/// What a tree does when its first process exits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterMain {
    /// Nothing: the tree lives until the host ends it.
    #[default]
    Stay,
    /// What is left is ended.
    End,
    /// What is left is waited for.
    Wait,
}

/// When a tree ends without being asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// What follows the first process's exit.
    pub after_main: AfterMain,
    /// End after so long.
    pub timeout: Option<Duration>,
    /// End when nothing in the tree has read, written, started or computed for so long. The kernel does not count what is
    /// sent and received on sockets by send(2) and recv(2) (`/proc/PID/io`, proc_pid_io(5)).
    pub idle_timeout: Option<Duration>,
    /// End after so long, at the next quiet second; at the latest a tenth (at most a minute) after.
    pub max_lifetime: Option<Duration>,
    /// Measure the memory of the whole tree as it runs, for the report.
    pub measure: bool,
}

/// Where a keeper stands towards the session and process group of the one who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Standing {
    /// In a session of its own: for hosts.
    #[default]
    Apart,
    /// In the front's process group, so that terminal and job control reach the command as though nobody stood between:
    /// for `hostler run`. The keeper then tells the front when the command stops, and wakes it when it goes on.
    WithFront,
}

/// All that a keeper is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeeperConfig {
    /// What to show after `hostler: ` in the process list.
    pub title: CString,
    /// How to contain.
    pub contain: Contain,
    /// The cgroup to make and use: an absolute path below the v2 mount. Required by [`Contain::Cgroup`]; with
    /// [`Contain::Tree`] it is used where it can be made and entered, and done without elsewhere.
    pub cgroup: Option<CString>,
    /// What a dead host means.
    pub on_host_exit: OnHostExit,
    /// Between SIGTERM and SIGKILL, when the keeper ends the tree by its own rules.
    pub grace: Duration,
    /// What the tree may use.
    pub limits: Limits,
    /// When it ends by itself.
    pub rules: Rules,
    /// Session and process group.
    pub standing: Standing,
    /// Where the next host finds the keeper: an absolute path for a Unix socket, which the keeper makes and removes.
    pub rendezvous: Option<CString>,
}

impl KeeperConfig {
    /// A plain tree that dies with its host.
    pub fn new(contain: Contain, grace: Duration) -> Self {
        Self {
            title: CString::default(),
            contain,
            cgroup: None,
            on_host_exit: OnHostExit::Kill,
            grace,
            limits: Limits::default(),
            rules: Rules::default(),
            standing: Standing::default(),
            rendezvous: None,
        }
    }
}
