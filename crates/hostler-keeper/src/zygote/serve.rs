//! The zygote's own side: its loop.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, getppid, pidfd_open};

use crate::cgroup::{Cgroup, Made};
use crate::config::Standing;
use crate::connection::{Connection, ConnectionError, Received};
use crate::descriptors;
use crate::identity::ProcessId;
use crate::keeper::{self, Birth, wait_any};
use crate::killing::Round;
use crate::message::{Failure, Message, Step, ZygoteReply, ZygoteRequest};
use crate::outcome::{EndReport, ExitStatus};
use crate::proc::Proc;
use crate::rendezvous;
use crate::signals::{self, Signals, last_errno, signal_child};
use crate::witness::Witness;

use super::First;
use super::orphans::{self, Bereaved};

struct Kept {
    id: ProcessId,
    pid: Pid,
    /// The one that was made for it. What is at that path otherwise is none of ours.
    cgroup: Option<Made>,
    rendezvous: Option<CString>,
}

/// A keeper that has died.
pub(super) struct Dead {
    id: ProcessId,
    rendezvous: Option<CString>,
    status: ExitStatus,
}

struct ZygoteLoop {
    host: Option<Connection>,
    signals: Signals,
    proc: Proc,
    /// Whether the host is a front.
    for_front: bool,
    keepers: Vec<Kept>,
    /// What keepers have left that have died, as far as it is not all gone.
    bereaved: Vec<Bereaved>,
    /// Made for the first keeper that can be adopted.
    witness: Option<Witness>,
}

pub(super) fn serve(
    host: Connection,
    first: Option<(First<'_>, Connection)>,
    parent: Option<Pid>,
) -> ! {
    crate::process_name(c"hostler-zygote");
    let zygote = match first {
        Some((first, connection)) => ZygoteLoop::for_front(host, first, connection, parent),
        None => ZygoteLoop::for_host(host),
    };
    let result = zygote.and_then(|mut zygote| zygote.run());
    // SAFETY: ends this process without running what the one it was forked from has left to run.
    unsafe { libc::_exit(i32::from(result.is_err())) }
}

impl ZygoteLoop {
    fn new(host: Connection, proc: Proc, signals: Signals, for_front: bool) -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(getpid()))?;
        // A host that was started with children of its own (by exec in a shell) has handed none down to a fork.
        Ok(Self {
            host: Some(host),
            signals,
            proc,
            for_front,
            keepers: Vec::new(),
            bereaved: Vec::new(),
            witness: None,
        })
    }

    fn for_host(host: Connection) -> io::Result<Self> {
        let zygote = Self::new(host, Proc::open()?, Signals::take()?, false)?;
        zygote.close_others();
        let _ = rustix::process::setsid();
        rustix::process::chdir(c"/")?;
        crate::set_title(b"hostler: zygote");
        Ok(zygote)
    }

    /// Forks the keeper before all that can wait.
    fn for_front(
        host: Connection,
        first: First<'_>,
        connection: Connection,
        parent: Option<Pid>,
    ) -> io::Result<Self> {
        let mut zygote = Self::new(host, first.proc, first.signals.inherited()?, true)?;
        // Only now: what a keeper of a front watches is the front, and only if it is still there.
        let front = parent.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let id = zygote
            .fork_keeper(Birth {
                config: first.config,
                host: connection,
                cgroup: Ok(None),
                front: front.filter(|_| getppid() == parent),
                witness: None,
                owner: first.owner,
                spawn: Some(first.spawn),
            })
            .map_err(|failure| io::Error::from_raw_os_error(failure.errno))?;
        zygote.close_others();
        zygote.tell(0, &ZygoteReply::Forked(id));
        // A session of its own: what is sent to the front's group spares the zygote, and whether that group is an
        // orphaned one, which a terminal cannot stop, is as it would be without.
        rustix::process::setsid()?;
        Ok(zygote)
    }

    /// Closes what it has of the process that it was forked from, and puts /dev/null where the standard descriptors were.
    fn close_others(&self) {
        let own = [
            self.host.as_ref().map(AsFd::as_fd),
            Some(self.signals.as_fd()),
            Some(self.proc.as_fd()),
        ];
        descriptors::keep_only(own.iter().flatten().map(AsRawFd::as_raw_fd).collect());
        descriptors::fill_standard();
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.end_orphans();
            if self.host.is_none() && self.keepers.is_empty() && self.bereaved.is_empty() {
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
            for signals::Received { signal, sender } in self.signals.waiting()? {
                if self.for_front && signal != libc::SIGCHLD && sender != signals::KERNEL {
                    self.tell(0, &ZygoteReply::Signalled { signal, sender });
                }
            }
            self.reap();
            self.read_host();
        }
    }

    fn reap(&mut self) {
        while let Some((pid, status, _)) = wait_any() {
            if libc::WIFSTOPPED(status) || libc::WIFCONTINUED(status) {
                continue;
            }
            let Some(index) = self.keepers.iter().position(|keeper| keeper.pid == pid) else {
                orphans::reaped(&mut self.bereaved, pid);
                continue;
            };
            let keeper = self.keepers.swap_remove(index);
            let dead = Dead {
                id: keeper.id,
                rendezvous: keeper.rendezvous,
                status: ExitStatus::from_wait(status),
            };
            let group = keeper.cgroup.as_ref().and_then(Made::open);
            self.bereaved.push(Bereaved::begin(Some(dead), group));
        }
    }

    /// Kills every child that is no keeper, with what is under it, until there is none, and tells of the keepers whose they
    /// were: when all of a keeper's are gone, or will not go. Says when to go on.
    fn end_orphans(&mut self) -> Option<Instant> {
        let due = self.bereaved.iter().map(Bereaved::due).min()?;
        let began = Instant::now();
        let is_due = began >= due;
        if is_due {
            let keepers = self.keeper_pids();
            orphans::kill(&self.proc, &keepers, &mut self.bereaved);
            self.reap();
        }
        let keepers = self.keeper_pids();
        let counts = orphans::count(&self.proc, &keepers, &self.bereaved);
        for (index, count) in counts.into_iter().enumerate().rev() {
            let bereaved = &mut self.bereaved[index];
            if count == 0 {
                let bereaved = self.bereaved.remove(index);
                let report = bereaved.report(None, 0);
                if let Some(group) = bereaved.group {
                    let _ = group.remove();
                }
                if let Some(dead) = bereaved.dead {
                    self.tell_of(dead, report);
                }
            } else if is_due
                && let Round::Stuck(_) = bereaved.walked(began)
                && bereaved.dead.is_some()
            {
                orphans::name_the_held(&self.proc, &keepers, &mut self.bereaved);
                let bereaved = &mut self.bereaved[index];
                let report = bereaved.report(Some(&self.proc), count);
                if let Some(dead) = bereaved.dead.take() {
                    self.tell_of(dead, report);
                }
            }
        }
        self.bereaved.iter().map(Bereaved::due).min()
    }

    /// The living ones: they are not waited for yet, so that nobody else can have their pids.
    fn keeper_pids(&self) -> Vec<Pid> {
        self.keepers.iter().map(|keeper| keeper.pid).collect()
    }

    fn tell_of(&mut self, dead: Dead, report: EndReport) {
        let in_order = dead.status == ExitStatus::Code(0);
        let word = ZygoteReply::KeeperGone {
            id: dead.id,
            status: dead.status,
            report,
        };
        if let (Some(path), false) = (&dead.rendezvous, in_order) {
            // First what may be read, then what shows that it can be.
            if let Some(witness) = &self.witness {
                witness.tell(&word);
            }
            rendezvous::remove_dead(path);
        }
        self.tell(0, &word);
    }

    fn read_host(&mut self) {
        while let Some(host) = &self.host {
            match host.try_receive() {
                Ok(Some(received)) => self.handle(received),
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return;
                }
                Err(ConnectionError::Wire(_)) => {}
                Err(ConnectionError::Descriptors { id }) => {
                    let failure = Failure::new(Step::Descriptors, Errno::MFILE);
                    self.tell(id, &ZygoteReply::Failed(failure));
                }
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
                    owner: None,
                    spawn: None,
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

    fn fork_keeper(&mut self, mut birth: Birth<'_>) -> Result<ProcessId, Failure> {
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
                keeper::serve(birth, &self.proc, &self.signals)
            }
            raw => {
                let pid = Pid::from_raw(raw).expect("fork gave a pid");
                let found = if self.for_front {
                    // It has one keeper, and a look into /proc is dear beside a short command.
                    Ok(ProcessId::unread(pid))
                } else {
                    self.proc.stat(pid).map(|stat| stat.id)
                };
                let id = match found {
                    Ok(id) => id,
                    Err(errno) => {
                        // Out of descriptors, or of memory. Nothing runs under it yet.
                        end_nameless(pid, made.as_ref(), birth.config.rendezvous.as_deref());
                        // Where this one is not to be seen, nobody is.
                        let step = match errno {
                            Errno::NOENT => Step::Listing,
                            _ => Step::Fork,
                        };
                        return Err(Failure::new(step, errno));
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
