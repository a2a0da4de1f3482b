//! The zygote: forks keepers, and ends what a keeper that was killed has left behind.
//!
//! It is forked from its host before that has threads and before it has grown, so that a keeper, forked from the zygote,
//! costs a few pages. A child of the zygote that is no keeper is by definition ownerless: its keeper is dead.

mod orphans;
mod serve;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use crate::config::{KeeperConfig, Standing};
use crate::connection::Connection;
use crate::keeper::wait_any;
use crate::message::Spawn;
use crate::proc::Proc;
use crate::signals::{Signals, signal_child};

pub use orphans::{end_adopted, has_children};
use serve::serve;

/// The descriptor at which a zygote that was started as a program finds its connection.
pub const INHERITED: i32 = 3;

/// How long a zygote that was sent off is waited for. Whoever has its signals blocked must not wait for ever.
const DISMISSAL: Duration = Duration::from_secs(5);

/// Why there is no zygote.
#[derive(Debug, thiserror::Error)]
pub enum ZygoteError {
    /// A zygote is forked while its host has one thread only: in a fork of several, the others' locks stay locked.
    #[error("the process already has {0} threads; a zygote must be forked before there are any")]
    Threads(u32),
    /// The kernel refused.
    #[error("cannot start the zygote: {0}")]
    Io(#[from] io::Error),
}

impl From<Errno> for ZygoteError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// The keeper that a zygote forks at once, and the process that this starts at once: it need not be told of either.
#[derive(Debug)]
pub struct First<'a> {
    /// What the keeper is like.
    pub config: KeeperConfig,
    /// A handle on the process whose death ends the tree.
    pub owner: Option<OwnedFd>,
    /// How to see processes.
    pub proc: Proc,
    /// This process has taken its signals.
    pub signals: &'a Signals,
    /// The process. It names no descriptors: it has all that this process has and does not close on exec. The zygote and the
    /// keeper close theirs.
    pub spawn: Spawn<'a>,
}

/// The id of the [`Reply`](crate::message::Reply) on the process that was started without a request.
pub const FIRST: u32 = 2;

/// A host's hold on its zygote. Dropping it hangs up: the zygote stays for as long as one of its keepers does.
#[derive(Debug)]
pub struct Zygote {
    /// Requests go here, [`ZygoteReply`](crate::message::ZygoteReply)s come from here.
    pub connection: Connection,
    /// The zygote, a child of this process that is to be waited for.
    pub pid: Pid,
}

impl Zygote {
    /// Forks a zygote from this process.
    ///
    /// # Errors
    /// [`ZygoteError`]; nothing is left behind then.
    pub fn fork() -> Result<Self, ZygoteError> {
        one_thread()?;
        Ok(Self::fork_as(None)?)
    }

    /// Forks a zygote which forks its first keeper at once, and is there for this one alone: the way of `hostler run`.
    /// Returns the host's end of the keeper's connection too, by which comes the answer with the id [`FIRST`]. Whoever calls
    /// this has made sure that this process has one thread.
    ///
    /// # Errors
    /// [`ZygoteError`]; nothing is left behind then.
    pub fn fork_with(mut first: First<'_>) -> Result<(Self, Connection), ZygoteError> {
        first.config.standing = Standing::WithFront;
        let (ours, theirs) = Connection::pair()?;
        let zygote = Self::fork_as(Some((first, theirs)))?;
        Ok((zygote, ours))
    }

    fn fork_as(first: Option<(First<'_>, Connection)>) -> Result<Self, io::Error> {
        let (ours, theirs) = Connection::pair()?;
        let host = getpid();
        // SAFETY: this process has one thread, so the child may go on in Rust.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // The host's own end would keep the zygote from seeing it hang up.
                drop(ours);
                serve(theirs, first, Some(host))
            }
            pid => Ok(Self {
                connection: ours,
                pid: Pid::from_raw(pid).expect("fork gave a pid"),
            }),
        }
    }

    /// Sends off a zygote whose keepers have all ended their trees, and waits until it and they are gone; for a few seconds
    /// at most. `adopts` says that this process is a subreaper that has no other children: then nothing is lost by not
    /// waiting for the zygote to take its leave.
    pub fn dismiss(self, adopts: bool) {
        drop(self.connection);
        let until = Instant::now() + DISMISSAL;
        if adopts {
            let _ = signal_child(self.pid, libc::SIGKILL);
        }
        while Instant::now() < until {
            let gone = if adopts {
                while wait_any().is_some() {}
                !has_children()
            } else {
                let now = rustix::process::WaitOptions::NOHANG;
                !matches!(rustix::process::waitpid(Some(self.pid), now), Ok(None))
            };
            if gone {
                return;
            }
            await_child();
        }
    }

    /// Starts a zygote as a program, which calls [`serve_inherited`]: for a process that has threads.
    ///
    /// # Errors
    /// [`ZygoteError`].
    pub fn exec(program: &Path, args: &[&str]) -> Result<Self, ZygoteError> {
        use std::os::unix::process::CommandExt;
        let (ours, theirs) = Connection::pair()?;
        let theirs: OwnedFd = theirs.into();
        let mut command = std::process::Command::new(program);
        command
            .args(args)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null());
        // SAFETY: dup2 and fcntl are safe between fork and exec.
        unsafe {
            command.pre_exec(move || {
                if theirs.as_raw_fd() == INHERITED {
                    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
                } else if libc::dup2(theirs.as_raw_fd(), INHERITED) == -1 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed()).ok_or(Errno::CHILD)?;
        Ok(Self {
            connection: ours,
            pid,
        })
    }
}

/// Makes sure that this process has one thread.
fn one_thread() -> Result<(), ZygoteError> {
    let threads = Proc::open()?.stat(getpid())?.threads;
    if threads > 1 {
        Err(ZygoteError::Threads(threads))
    } else {
        Ok(())
    }
}

/// Waits until a child has ended, or a little: where this process does not block the signal, it may not hear of it.
fn await_child() {
    let pause = libc::timespec {
        tv_sec: 0,
        tv_nsec: 5_000_000,
    };
    // SAFETY: a set in a local, which the call only reads.
    unsafe {
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        libc::sigtimedwait(&raw const child, std::ptr::null_mut(), &raw const pause);
    }
}

/// Is the zygote of the process that started this one with [`Zygote::exec`].
pub fn serve_inherited() -> ! {
    use std::os::fd::FromRawFd;
    // SAFETY: by the contract with `exec` the descriptor is there and nobody else's. If it isn't, reading says so.
    let socket = unsafe { OwnedFd::from_raw_fd(INHERITED) };
    let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
    serve(Connection::from(socket), None, None)
}
