//! The keeper: one process a session, under which everything that the session starts lives.
//!
//! It has one thread and one loop; it starts, signals, reaps, counts and ends, and never touches data. Whatever its
//! children orphan comes back to it, since it is a subreaper (prctl(2)), so "nothing left" is a fact of the kernel's:
//! waitpid(2) answers that there is no child, and the cgroup, where there is one, is not populated.

mod adoption;
mod children;
mod finish;
mod front;
mod requests;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use self::requests::Passed;
use crate::cgroup::{Cgroup, Enforced};
use crate::config::{AfterMain, Contain, KeeperConfig};
use crate::connection::{Connection, Packet};
use crate::descriptors;
use crate::ending::{Ending, Releasing};
use crate::identity::{Key, ProcessId};
use crate::message::{Event, Failure, Spawn, Started, Step};
use crate::namespace::Namespace;
use crate::outcome::{EndReason, EndReport};
use crate::proc::Proc;
use crate::rendezvous::Rendezvous;
use crate::signals::{self, Signals};
use crate::spawn::Stack;
use crate::watch::Watch;
use crate::wire::LEVEL;
use crate::witness::Witness;
use crate::zygote::FIRST;

use adoption::Door;
use children::children_cpu;
pub(crate) use children::{wait_any, wait_peek};
use front::FrontStops;

/// What a keeper is made with.
pub(crate) struct Birth<'a> {
    pub config: KeeperConfig,
    /// Its end of the connection to the host.
    pub host: Connection,
    /// The cgroup that its zygote has made for it.
    pub cgroup: Result<Option<Cgroup>, Errno>,
    /// The front, for a keeper that stands with one.
    pub front: Option<OwnedFd>,
    /// Where its zygote writes down who was killed, for a keeper that can be adopted.
    pub witness: Option<Witness>,
    /// A handle on the process whose death ends the tree.
    pub owner: Option<OwnedFd>,
    /// What to start at once, with all descriptors that the keeper was given and that are not close-on-exec.
    pub spawn: Option<Spawn<'a>>,
}

/// A process that this keeper has started.
struct Child {
    started: Started,
    pid: Pid,
    forget: bool,
}

struct Keeper {
    config: KeeperConfig,
    host: Option<Connection>,
    host_gone: Option<Instant>,
    /// How long the host that let go wants it to wait for the next one.
    handed_over: Option<Duration>,
    /// For one that can be adopted.
    door: Option<Door>,
    witness: Option<Witness>,
    /// Who it is and whose child, for the next host.
    known: Known,
    outbox: VecDeque<(Packet, Option<OwnedFd>)>,
    signals: Signals,
    proc: Proc,
    stack: Option<Stack>,
    cgroup: Option<Cgroup>,
    enforced: Enforced,
    namespace: Option<Namespace>,
    children: Vec<Child>,
    /// Above all keys that were used.
    next_key: u64,
    main: Option<Key>,
    stored: Vec<(Vec<u8>, OwnedFd)>,
    staged: Vec<OwnedFd>,
    owner: Option<OwnedFd>,
    front: Option<OwnedFd>,
    group_signals: VecDeque<(Instant, signals::Received)>,
    /// What the command was sent for the front lately.
    passed: VecDeque<(Instant, signals::Received, Passed)>,
    front_stops: FrontStops,
    watch: Watch,
    ending: Option<Ending>,
    releasing: Vec<Releasing>,
    ended: bool,
    /// The report on a tree that ended unasked, until a host has said that it has read it.
    unread: Option<EndReport>,
    /// The signals that this process ignores, once they were asked for.
    ignored: Option<u64>,
}

/// Runs a keeper in this process, which has just been forked for it, to its end.
/// `proc` and `signals` are its zygote's.
pub(crate) fn serve(birth: Birth<'_>, proc: &Proc, signals: &Signals) -> ! {
    let status = match Keeper::new(birth, proc, signals) {
        Ok((keeper, first)) => {
            // The kernel takes it all back at once.
            let mut keeper = std::mem::ManuallyDrop::new(keeper);
            if let Some(spawn) = first {
                keeper.start(FIRST, &spawn, Vec::new());
                keeper.close_others();
            }
            let title = keeper.config.title.to_bytes();
            crate::set_title(&[b"hostler: keeper of ", title].concat());
            let result = keeper.run();
            keeper.close_door();
            i32::from(result.is_err())
        }
        Err(()) => 1,
    };
    // SAFETY: ends this process without running what the one it was forked from has left to run.
    unsafe { libc::_exit(status) }
}

/// What holds a tree together besides a cgroup, and what the keeper sees it by.
struct Grounds {
    signals: Signals,
    proc: Proc,
    enforced: Enforced,
    namespace: Option<Namespace>,
}

impl Grounds {
    fn lay(
        config: &KeeperConfig,
        cgroup: Option<&Cgroup>,
        front: Option<&OwnedFd>,
        proc: &Proc,
        signals: &Signals,
    ) -> Result<Self, Failure> {
        let of = |step: Step| move |errno: Errno| Failure::new(step, errno);
        rustix::process::set_child_subreaper(Some(getpid())).map_err(of(Step::Fork))?;
        let signals = signals.inherited().map_err(|error| Failure {
            step: Step::Signals,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        let proc = proc.duplicate().map_err(of(Step::Mount))?;
        // Without these a tree can be started, and then neither seen nor ended.
        // That of the first process is the cheaper one to ask for, but it may be hidden (proc(5), `hidepid`).
        proc.can_list_children(Pid::INIT)
            .or_else(|_| proc.can_list_children(getpid()))
            .map_err(of(Step::Listing))?;
        let handled = match front {
            Some(front) => signals::signal_handle(front.as_fd(), 0),
            None => pidfd_open(getpid(), PidfdFlags::empty())
                .and_then(|own| signals::signal_handle(own.as_fd(), 0)),
        };
        // That a front has gone is noticed by its connection.
        if let Err(errno) = handled
            && errno != Errno::SRCH
        {
            return Err(Failure::new(Step::Handle, errno));
        }
        if cgroup.is_none() && config.contain == Contain::Cgroup {
            return Err(Failure::new(Step::Cgroup, Errno::NOENT));
        }
        let enforced = match cgroup {
            Some(cgroup) => cgroup.limit(&config.limits),
            None => Enforced::default(),
        };
        let namespace = match config.contain {
            Contain::Pidns => Some(Namespace::enter()?),
            Contain::Tree | Contain::Cgroup => None,
        };
        Ok(Self {
            signals,
            proc,
            enforced,
            namespace,
        })
    }
}

impl Keeper {
    fn new<'a>(
        birth: Birth<'a>,
        proc: &Proc,
        signals: &Signals,
    ) -> Result<(Self, Option<Spawn<'a>>), ()> {
        let Birth {
            config,
            host,
            cgroup,
            front,
            witness,
            owner,
            spawn: first,
        } = birth;
        let (cgroup, made) = match cgroup {
            Ok(cgroup) => (cgroup, Ok(())),
            // It is done without.
            Err(_) if config.contain == Contain::Tree => (None, Ok(())),
            Err(errno) => (None, Err(Failure::new(Step::Cgroup, errno))),
        };
        let laid = made
            .and_then(|()| Grounds::lay(&config, cgroup.as_ref(), front.as_ref(), proc, signals))
            .and_then(|grounds| Ok((Self::open_door(&config, &grounds.proc)?, grounds)));
        match laid {
            Ok(((door, known), grounds)) => {
                let Grounds {
                    signals,
                    proc,
                    enforced,
                    namespace,
                } = grounds;
                let watch = Watch::new(&config.limits, enforced, &config.rules);
                let mut keeper = Self {
                    config,
                    host: Some(host),
                    host_gone: None,
                    handed_over: None,
                    door,
                    witness,
                    known,
                    outbox: VecDeque::new(),
                    signals,
                    proc,
                    stack: None,
                    cgroup,
                    enforced,
                    namespace,
                    children: Vec::new(),
                    next_key: 0,
                    main: None,
                    stored: Vec::new(),
                    staged: Vec::new(),
                    owner,
                    front,
                    group_signals: VecDeque::new(),
                    passed: VecDeque::new(),
                    front_stops: FrontStops::default(),
                    watch,
                    ending: None,
                    releasing: Vec::new(),
                    ended: false,
                    unread: None,
                    ignored: None,
                };
                let level = LEVEL;
                keeper.queue(0, &Event::Ready { enforced, level }, None);
                if first.is_none() {
                    keeper.flush();
                }
                Ok((keeper, first))
            }
            Err(failure) => {
                if let Some(cgroup) = &cgroup {
                    let _ = cgroup.remove();
                }
                let _ = host.send(0, &Event::Unfit(failure), &[]);
                Err(())
            }
        }
    }

    fn open_door(config: &KeeperConfig, proc: &Proc) -> Result<(Option<Door>, Known), Failure> {
        let Some(path) = &config.rendezvous else {
            return Ok((None, Known::default()));
        };
        let of = |errno| Failure::new(Step::Rendezvous, errno);
        let known = Known::read(proc).map_err(of)?;
        let rendezvous = Rendezvous::listen(path).map_err(of)?;
        Ok((Some(Door::new(rendezvous)), known))
    }

    /// Closes what it has of the processes above it and what it was given for the first process, which has it now: what
    /// reads from or writes to that must see this process, and not the keeper, hold it.
    fn close_others(&self) {
        let own = [
            self.host.as_ref().map(AsFd::as_fd),
            Some(self.signals.as_fd()),
            Some(self.proc.as_fd()),
            self.cgroup.as_ref().map(AsFd::as_fd),
            self.namespace.as_ref().map(AsFd::as_fd),
            self.owner.as_ref().map(AsFd::as_fd),
            self.front.as_ref().map(AsFd::as_fd),
        ];
        descriptors::keep_only(own.iter().flatten().map(AsRawFd::as_raw_fd).collect());
        descriptors::fill_standard();
    }

    fn close_door(&self) {
        if let Some(door) = &self.door {
            door.remove();
        }
    }

    fn spare(&self) -> Option<Pid> {
        self.namespace.as_ref().map(|namespace| namespace.init)
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let due = self.round();
            if self.is_finished() {
                return Ok(());
            }
            let found = self.wait(due)?;
            // What is not there costs no call: short commands are asked for one after the other.
            if found.signals {
                self.read_signals()?;
            }
            if found.host {
                self.read_host();
            }
            if found.door {
                self.answer_door();
            }
        }
    }

    /// Whether there is nothing more to do, ever.
    fn is_finished(&self) -> bool {
        let told = self.outbox.is_empty() || self.host.is_none();
        self.ended
            && self.unread.is_none()
            && told
            && (self.host.is_some() || self.host_gone.is_some())
    }

    /// Waits for the next thing to happen, and says what.
    fn wait(&mut self, due: Option<Instant>) -> io::Result<Found> {
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut poll = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let host = self.host.as_ref().map(|host| {
            let out = if self.outbox.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            poll.push(PollFd::new(host, PollFlags::IN | out));
            poll.len() - 1
        });
        let namespace = self.namespace.as_ref().map(|namespace| {
            poll.push(PollFd::new(namespace, PollFlags::IN));
            poll.len() - 1
        });
        let owner = self.owner.as_ref().map(|owner| {
            poll.push(PollFd::new(owner, PollFlags::IN));
            poll.len() - 1
        });
        let at_door = poll.len();
        if let Some(door) = &self.door {
            door.poll(&mut poll);
        }
        match rustix::event::poll(&mut poll, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready =
            |index: Option<usize>| index.is_some_and(|index| !poll[index].revents().is_empty());
        let (owner_gone, reaped) = (is_ready(owner), is_ready(namespace));
        let found = Found {
            signals: is_ready(Some(0)),
            // Room to write alone is for the round.
            host: host.is_some_and(|at| {
                poll[at]
                    .revents()
                    .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
            }),
            door: poll[at_door..].iter().any(|fd| !fd.revents().is_empty()),
        };
        drop(poll);
        if reaped && let Some(namespace) = &self.namespace {
            namespace.drain();
        }
        if owner_gone {
            self.owner = None;
            self.end_by_rule(EndReason::OwnerGone, self.config.grace);
        }
        Ok(found)
    }

    /// Does all that is due by now, and says when the next thing is.
    fn round(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut due: Vec<Instant> = Vec::new();
        self.release_round(&mut due);
        due.extend(self.door.as_mut().and_then(|door| door.round(now)));
        if self.host_due().is_some_and(|due| now >= due) && self.unread.take().is_none() {
            crate::hook!("keeper.waited");
            self.begin_end(EndReason::HostGone, self.config.grace);
        }
        if self.ending.is_none() && !self.ended {
            let spent = if self.watch.due().is_some_and(|due| now >= due) {
                children_cpu()
            } else {
                Duration::ZERO
            };
            match self.watch.round(&self.proc, getpid(), self.spare(), spent) {
                // Over a limit, a grace would be time to go further over it.
                Some(reason @ (EndReason::Memory { .. } | EndReason::Pids { .. })) => {
                    self.end_by_rule(reason, Duration::ZERO);
                }
                Some(reason) => self.end_by_rule(reason, self.config.grace),
                None => due.extend(self.watch.due()),
            }
            if self.ending.is_none()
                && self.after_main()
                && self.begin_end(EndReason::MainExited, self.config.grace)
            {
                self.finish_end();
            }
        }
        due.extend(self.end_round());
        self.flush();
        due.extend(self.front_round(now));
        due.extend(self.host_due());
        due.into_iter().min()
    }

    /// Whether the main process is gone and the tree is to follow it now.
    fn after_main(&self) -> bool {
        let Some(main) = self.main else { return false };
        let exited = self
            .children
            .iter()
            .any(|child| child.started.key == main && child.started.exit.is_some());
        exited
            && match self.config.rules.after_main {
                AfterMain::Stay => false,
                AfterMain::End => true,
                AfterMain::Wait => self.is_empty(),
            }
    }
}

/// What there is to read.
#[derive(Debug, Clone, Copy)]
struct Found {
    signals: bool,
    host: bool,
    door: bool,
}

/// What a keeper tells its next host of itself; nothing where there can be none.
#[derive(Debug, Clone, Copy)]
struct Known {
    keeper: ProcessId,
    zygote: ProcessId,
}

impl Default for Known {
    fn default() -> Self {
        let nobody = ProcessId {
            pid: 0,
            start_time: 0,
        };
        Self {
            keeper: nobody,
            zygote: nobody,
        }
    }
}

impl Known {
    fn read(proc: &Proc) -> Result<Self, Errno> {
        let mut known = Self {
            keeper: proc.stat(getpid())?.id,
            ..Self::default()
        };
        // It may be dead already.
        if let Some(Ok(zygote)) = rustix::process::getppid().map(|pid| proc.stat(pid)) {
            known.zygote = zygote.id;
        }
        Ok(known)
    }
}
