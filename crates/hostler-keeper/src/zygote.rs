//! The zygote: forks keepers, and ends what a keeper that was killed has left behind.
//!
//! It is forked from its host before that has threads and before it has grown, so that a keeper, forked from the zygote,
//! costs a few pages. A child of the zygote that is no keeper is by definition ownerless: its keeper is dead.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, getppid, pidfd_open};

use crate::cgroup::{Cgroup, Made};
use crate::config::{KeeperConfig, Standing};
use crate::connection::{Connection, ConnectionError, Received};
use crate::identity::ProcessId;
use crate::inherit;
use crate::keeper::{self, Birth, wait_any};
use crate::message::{Failure, Message, Step, ZygoteReply, ZygoteRequest};
use crate::outcome::{EndReason, EndReport, ExitStatus, How, Left};
use crate::proc::Proc;
use crate::rendezvous;
use crate::signals::{Signals, last_errno, signal_child};
use crate::walk::{Visit, proven};
use crate::witness::Witness;

/// The descriptor at which a zygote that was started as a program finds its connection.
pub const INHERITED: i32 = 3;

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

/// A host's hold on its zygote. Dropping it hangs up: the zygote stays for as long as one of its keepers does.
#[derive(Debug)]
pub struct Zygote {
    /// Requests go here, [`ZygoteReply`]s come from here.
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
    /// Returns the host's end of the keeper's connection too. Whoever calls this has made sure that this process has one
    /// thread.
    ///
    /// # Errors
    /// [`ZygoteError`]; nothing is left behind then.
    pub fn fork_with(config: KeeperConfig) -> Result<(Self, Connection), ZygoteError> {
        let (ours, theirs) = Connection::pair()?;
        let zygote = Self::fork_as(Some((config, theirs)))?;
        Ok((zygote, ours))
    }

    fn fork_as(first: Option<(KeeperConfig, Connection)>) -> Result<Self, io::Error> {
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

    /// Sends off a zygote whose keepers have all ended their trees, and waits until it and they are gone. `adopts` says
    /// that this process is a subreaper that has no other children: then nothing is lost by not waiting for the zygote to
    /// take its leave.
    pub fn dismiss(self, adopts: bool) {
        drop(self.connection);
        let none = rustix::process::WaitOptions::empty();
        if !adopts {
            let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(self.pid), none));
            return;
        }
        let _ = signal_child(self.pid, libc::SIGKILL);
        while rustix::io::retry_on_intr(|| rustix::process::wait(none)).is_ok() {}
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

/// Is the zygote of the process that started this one with [`Zygote::exec`].
pub fn serve_inherited() -> ! {
    use std::os::fd::FromRawFd;
    // SAFETY: by the contract with `exec` the descriptor is there and nobody else's. If it isn't, reading says so.
    let socket = unsafe { OwnedFd::from_raw_fd(INHERITED) };
    let _ = rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC);
    serve(Connection::from(socket), None, None)
}

/// Ends what has come to this process because zygote and keeper were both killed: every child
/// it has. For a front which had no children when it made itself a subreaper, so that all others are its command's.
pub fn end_adopted() -> EndReport {
    let began = Instant::now();
    let mut left: Vec<Left> = Vec::new();
    if let Ok(proc) = Proc::open() {
        loop {
            proven(&proc, |process| {
                if !left.iter().any(|known| known.id == process.stat.id) {
                    let (id, command) = (process.stat.id, process.stat.command);
                    left.push(Left {
                        id,
                        command,
                        how: How::Killed,
                        took: began.elapsed(),
                    });
                }
                let _ = process.signal(libc::SIGKILL);
                Visit::Enter
            });
            while wait_any().is_some() {}
            let mut children = Vec::new();
            let _ = proc.children(getpid(), &mut children);
            if children.is_empty() {
                break;
            }
            let pause = Timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            let _ = rustix::event::poll(&mut [], Some(&pause));
        }
    }
    EndReport {
        reason: EndReason::KeeperLost,
        left,
        remaining: 0,
        took: began.elapsed(),
        cpu: Duration::ZERO,
        peak_memory: 0,
    }
}

/// Whether this process has children: it may have been given some by the program that it was executed in place of.
pub fn has_children() -> bool {
    keeper::wait_peek() != Err(Errno::CHILD)
}

struct Kept {
    id: ProcessId,
    pid: Pid,
    /// The one that was made for it. What is at that path otherwise is none of ours.
    cgroup: Option<Made>,
    rendezvous: Option<CString>,
}

struct ZygoteLoop {
    host: Option<Connection>,
    signals: Signals,
    proc: Proc,
    keepers: Vec<Kept>,
    /// Keepers that have died, whose orphans are not all gone yet.
    mourned: Vec<(Kept, ExitStatus, Instant)>,
    left: Vec<Left>,
    next_kill: Option<Instant>,
    /// Made for the first keeper that can be adopted.
    witness: Option<Witness>,
}

fn serve(host: Connection, first: Option<(KeeperConfig, Connection)>, parent: Option<Pid>) -> ! {
    crate::process_name(c"hostler-zygote");
    let first = first.map(|(config, connection)| {
        // Only now: what a keeper of a front watches is the front, and only if it is still there.
        let front = parent.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let front = front.filter(|_| getppid() == parent && config.standing == Standing::WithFront);
        Birth {
            config,
            host: connection,
            cgroup: Ok(None),
            front,
            witness: None,
        }
    });
    let result = ZygoteLoop::new(host, first).and_then(|mut zygote| zygote.run());
    // SAFETY: ends this process without running what the one it was forked from has left to run.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

impl ZygoteLoop {
    fn new(host: Connection, first: Option<Birth>) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(getpid()))?;
        // A host that was started with children of its own (by exec in a shell) has handed none down to a fork.
        let signals = Signals::take()?;
        let keep: Vec<i32> = [
            Some(host.as_fd().as_raw_fd()),
            Some(signals.as_fd().as_raw_fd()),
        ]
        .into_iter()
        .chain(first.iter().flat_map(|birth| {
            [
                Some(birth.host.as_fd().as_raw_fd()),
                birth.front.as_ref().map(AsRawFd::as_raw_fd),
            ]
        }))
        .flatten()
        .collect();
        close_others(keep);
        let mut zygote = Self {
            host: Some(host),
            signals,
            proc: Proc::open()?,
            keepers: Vec::new(),
            mourned: Vec::new(),
            left: Vec::new(),
            next_kill: None,
            witness: None,
        };
        if let Some(birth) = first {
            let with_front = birth.config.standing == Standing::WithFront;
            let id = zygote
                .fork_keeper(birth)
                .map_err(|failure| io::Error::from_raw_os_error(failure.errno))?;
            zygote.tell(0, &ZygoteReply::Forked(id));
            if with_front {
                // A group of its own, in the front's session: what is sent to the front's group spares the zygote, and
                // the keeper's group is not an orphaned one.
                rustix::process::setpgid(None, None)?;
                return Ok(zygote);
            }
        }
        let _ = rustix::process::setsid();
        rustix::process::chdir(c"/")?;
        crate::set_title(b"hostler: zygote");
        Ok(zygote)
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.end_orphans();
            if self.host.is_none() && self.keepers.is_empty() && self.mourned.is_empty() {
                return Ok(());
            }
            let timeout = due.map(|due| {
                let left = due.saturating_duration_since(Instant::now());
                Timespec {
                    tv_sec: left.as_secs().cast_signed(),
                    tv_nsec: left.subsec_nanos().into(),
                }
            });
            let mut poll = vec![PollFd::new(&self.signals, PollFlags::IN)];
            if let Some(host) = &self.host {
                poll.push(PollFd::new(host, PollFlags::IN));
            }
            match rustix::event::poll(&mut poll, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            drop(poll);
            while self.signals.next()?.is_some() {}
            self.reap();
            self.read_host();
        }
    }

    fn reap(&mut self) {
        while let Some((pid, status, _)) = wait_any() {
            if libc::WIFSTOPPED(status) || libc::WIFCONTINUED(status) {
                continue;
            }
            if let Some(index) = self.keepers.iter().position(|keeper| keeper.pid == pid) {
                let keeper = self.keepers.swap_remove(index);
                self.mourned
                    .push((keeper, ExitStatus::from_wait(status), Instant::now()));
                self.next_kill = Some(Instant::now());
            } else if let Some(left) = self.left.iter_mut().find(|left| {
                left.id.pid == pid.as_raw_nonzero().get().cast_unsigned() && left.took.is_zero()
            }) {
                left.took = self
                    .mourned
                    .last()
                    .map_or(Duration::ZERO, |(_, _, since)| since.elapsed());
            }
        }
    }

    /// Kills every child that is no keeper, with what is under it, until there is none; then tells of the keepers whose
    /// they were. Says when to go on.
    fn end_orphans(&mut self) -> Option<Instant> {
        if self.mourned.is_empty() {
            return None;
        }
        let now = Instant::now();
        for (keeper, ..) in &self.mourned {
            if let Some(cgroup) = keeper.cgroup.as_ref().and_then(Made::open) {
                let _ = cgroup.kill();
            }
        }
        // By pid: these are not waited for yet, so nobody else can have it.
        let keepers: Vec<u32> = self.keepers.iter().map(|keeper| keeper.id.pid).collect();
        let left = &mut self.left;
        let mut found = false;
        proven(&self.proc, |process| {
            if keepers.contains(&process.stat.id.pid) {
                return Visit::Skip;
            }
            found = true;
            if !left.iter().any(|known| known.id == process.stat.id) {
                let (id, command) = (process.stat.id, process.stat.command);
                left.push(Left {
                    id,
                    command,
                    how: How::Killed,
                    took: Duration::ZERO,
                });
            }
            let _ = process.signal(libc::SIGKILL);
            Visit::Enter
        });
        self.reap();
        if found || self.has_orphans() {
            return Some(now + Duration::from_millis(2));
        }
        for (keeper, status, since) in std::mem::take(&mut self.mourned) {
            if let Some(cgroup) = keeper.cgroup.as_ref().and_then(Made::open) {
                let _ = cgroup.remove();
            }
            let report = EndReport {
                reason: EndReason::KeeperLost,
                left: std::mem::take(&mut self.left),
                remaining: 0,
                took: since.elapsed(),
                cpu: Duration::ZERO,
                peak_memory: 0,
            };
            let in_order = status == ExitStatus::Code(0);
            let word = ZygoteReply::KeeperGone {
                id: keeper.id,
                status,
                report,
            };
            if let (Some(path), false) = (&keeper.rendezvous, in_order) {
                // First what may be read, then what shows that it can be.
                if let Some(witness) = &self.witness {
                    witness.tell(&word);
                }
                rendezvous::remove_dead(path);
            }
            self.tell(0, &word);
        }
        None
    }

    /// Whether any child is not a keeper, the dead included.
    fn has_orphans(&self) -> bool {
        let mut children = Vec::new();
        let _ = self.proc.children(getpid(), &mut children);
        children
            .iter()
            .any(|pid| self.keepers.iter().all(|keeper| keeper.pid != *pid))
    }

    fn read_host(&mut self) {
        while let Some(host) = &self.host {
            match host.try_receive() {
                Ok(Some(received)) => self.handle(received),
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return;
                }
                Err(ConnectionError::Wire(_)) => {}
                Ok(None) | Err(ConnectionError::Io(_)) => {
                    self.host = None;
                    for keeper in &self.keepers {
                        // The front's whole group may have been stopped, and its keeper with it.
                        let _ = signal_child(keeper.pid, libc::SIGCONT);
                    }
                }
            }
        }
    }

    fn handle(&mut self, received: Received) {
        let id = received.header.id;
        let Received {
            header,
            body,
            mut fds,
        } = received;
        let reply = match (ZygoteRequest::decode(header.kind, &body), fds.pop()) {
            (Ok(ZygoteRequest::Keeper(config)), Some(socket)) => {
                let birth = Birth {
                    config: *config,
                    host: Connection::from(socket),
                    cgroup: Ok(None),
                    front: None,
                    witness: None,
                };
                match self.fork_keeper(birth) {
                    Ok(keeper) => ZygoteReply::Forked(keeper),
                    Err(failure) => ZygoteReply::Failed(failure),
                }
            }
            _ => ZygoteReply::Failed(Failure::new(Step::Request, Errno::PROTO)),
        };
        self.tell(id, &reply);
    }

    fn fork_keeper(&mut self, mut birth: Birth) -> Result<ProcessId, Failure> {
        if birth.config.rendezvous.is_some() {
            let witness = self
                .witness()
                .map_err(|e| Failure::new(Step::Rendezvous, e))?;
            birth.witness = Some(witness);
        }
        let made = match birth.config.cgroup.as_deref().map(make_group) {
            Some(Ok((cgroup, made))) => {
                birth.cgroup = Ok(Some(cgroup));
                Some(made)
            }
            // The keeper tells.
            Some(Err(errno)) => {
                birth.cgroup = Err(errno);
                None
            }
            None => None,
        };
        crate::hook!("zygote.fork");
        // SAFETY: this process has one thread, so the child may go on in Rust.
        match unsafe { libc::fork() } {
            -1 => {
                let failure = Failure::new(Step::Fork, last_errno());
                if let Ok(Some(cgroup)) = &birth.cgroup {
                    let _ = cgroup.remove();
                }
                Err(failure)
            }
            0 => {
                crate::process_name(c"hostler-keeper");
                if birth.config.standing == Standing::Apart {
                    let _ = rustix::process::setsid();
                }
                // What is the zygote's is closed here; its memory is never used again.
                drop(self.host.take());
                let _ = rustix::io::fcntl_setfd(&self.signals, rustix::io::FdFlags::CLOEXEC);
                crate::set_title(&[b"hostler: keeper of ", birth.config.title.to_bytes()].concat());
                keeper::serve(birth)
            }
            raw => {
                let pid = Pid::from_raw(raw).expect("fork gave a pid");
                let id = match self.proc.stat(pid) {
                    Ok(stat) => stat.id,
                    Err(errno) => {
                        // Out of descriptors, or of memory. Nothing runs under it yet.
                        end_nameless(pid, made.as_ref(), birth.config.rendezvous.as_deref());
                        return Err(Failure::new(Step::Fork, errno));
                    }
                };
                self.keepers.push(Kept {
                    id,
                    pid,
                    cgroup: made,
                    rendezvous: birth.config.rendezvous,
                });
                Ok(id)
            }
        }
    }

    fn witness(&mut self) -> Result<Witness, Errno> {
        let witness = match self.witness.take() {
            Some(witness) => witness,
            None => Witness::new()?,
        };
        self.witness.insert(witness).duplicate()
    }

    fn tell(&mut self, id: u32, reply: &ZygoteReply) {
        if let Some(host) = &self.host {
            // A host that is gone is noticed by reading.
            let _ = host.send(id, reply, &[]);
        }
    }
}

/// Ends a keeper that was just forked, and of which nobody will know.
fn end_nameless(pid: Pid, cgroup: Option<&Made>, rendezvous: Option<&CStr>) {
    let _ = signal_child(pid, libc::SIGKILL);
    let none = rustix::process::WaitOptions::empty();
    let _ = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), none));
    if let Some(cgroup) = cgroup.and_then(Made::open) {
        let _ = cgroup.remove();
    }
    if let Some(path) = rendezvous {
        rendezvous::remove_dead(path);
    }
}

/// Makes a keeper's cgroup. One that is there already is not touched, now or later.
fn make_group(path: &CStr) -> Result<(Cgroup, Made), Errno> {
    let cgroup = Cgroup::make(path)?;
    match cgroup.made() {
        Ok(made) => Ok((cgroup, made)),
        Err(errno) => {
            let _ = cgroup.remove();
            Err(errno)
        }
    }
}

/// Closes all descriptors but these, and puts /dev/null in the places of the standard ones.
fn close_others(mut keep: Vec<i32>) {
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if fd > from {
            // SAFETY: closes descriptors that this freshly forked process holds no object for.
            let closed =
                unsafe { libc::close_range(from.cast_unsigned(), (fd - 1).cast_unsigned(), 0) };
            if closed == -1 {
                // Containers whose filter does not know it.
                let open = inherit::listed().unwrap_or_default();
                for other in open.into_iter().filter(|other| (from..fd).contains(other)) {
                    inherit::close(other);
                }
            }
        }
        from = fd.saturating_add(1);
    }
    // SAFETY: takes the lowest free numbers, which are the standard ones unless a kept descriptor has one of them.
    unsafe {
        while let fd @ 0..=2 = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) {
            if fd == 2 {
                break;
            }
        }
    }
}
