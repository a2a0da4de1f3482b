//! The keeper: one process a session, under which everything that the session starts lives.
//!
//! It has one thread and one loop; it starts, signals, reaps, counts and ends, and never touches data. Whatever its
//! children orphan comes back to it, since it is a subreaper (prctl(2)), so "nothing left" is a fact of the kernel's:
//! waitpid(2) answers that there is no child, and the cgroup, where there is one, is not populated.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use crate::cgroup::{Cgroup, Enforced};
use crate::config::{AfterMain, Contain, KeeperConfig, OnHostExit, Standing};
use crate::connection::{Connection, ConnectionError, Packet, Received};
use crate::ending::{Ending, Releasing, Round};
use crate::identity::{Key, ProcessId};
use crate::message::{Event, Failure, Message, Reply, Request, Spawn, Started, Step, Target};
use crate::namespace::Namespace;
use crate::outcome::{EndReason, EndReport, Exit, ExitStatus, ProcessInfo, Usage};
use crate::proc::Proc;
use crate::signals::{self, Signals, group_of, signal_child, signal_group, signal_handle};
use crate::spawn::{Stack, Surroundings, spawn};
use crate::walk::{Visit, descendants, proven};
use crate::watch::Watch;

/// How long a signal that reached the keeper as a member of the front's group is remembered, to be matched with the
/// front's word of it.
const GROUP_SIGNAL_AGE: Duration = Duration::from_secs(2);

/// How often it is tried to remove a cgroup, 2 ms apart.
const CGROUP_REMOVALS: u32 = 250;
/// How many are remembered.
const GROUP_SIGNALS_MAX: usize = 1024;

/// What a keeper is made with.
pub(crate) struct Birth {
    pub config: KeeperConfig,
    /// Its end of the connection to the host.
    pub host: Connection,
    /// The front, for a keeper that stands with one.
    pub front: Option<OwnedFd>,
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
    outbox: VecDeque<(Packet, Option<OwnedFd>)>,
    signals: Signals,
    proc: Proc,
    stack: Option<Stack>,
    cgroup: Option<Cgroup>,
    enforced: Enforced,
    namespace: Option<Namespace>,
    children: Vec<Child>,
    main: Option<Key>,
    stored: Vec<(Vec<u8>, OwnedFd)>,
    staged: Vec<OwnedFd>,
    owner: Option<OwnedFd>,
    front: Option<OwnedFd>,
    group_signals: VecDeque<(Instant, signals::Received)>,
    /// When to make sure that the front goes on with its command, which it may have missed.
    wake_front: Option<Instant>,
    watch: Watch,
    ending: Option<Ending>,
    releasing: Vec<Releasing>,
    ended: bool,
    /// The signals that this process ignores, once they were asked for.
    ignored: Option<u64>,
}

/// Runs a keeper in this process, which has just been forked for it, to its end.
pub(crate) fn serve(birth: Birth) -> ! {
    let status = match Keeper::new(birth) {
        Ok(keeper) => {
            // The kernel takes it all back at once.
            let mut keeper = std::mem::ManuallyDrop::new(keeper);
            i32::from(keeper.run().is_err())
        }
        Err(()) => 1,
    };
    // SAFETY: ends this process without running what the one it was forked from has left to run.
    unsafe { libc::_exit(status) }
}

impl Keeper {
    fn new(birth: Birth) -> Result<Self, ()> {
        let Birth {
            config,
            host,
            front,
        } = birth;
        match Self::contained(&config) {
            Ok((signals, proc, cgroup, enforced, namespace)) => {
                let watch = Watch::new(&config.limits, enforced, &config.rules);
                let mut keeper = Self {
                    config,
                    host: Some(host),
                    host_gone: None,
                    outbox: VecDeque::new(),
                    signals,
                    proc,
                    stack: None,
                    cgroup,
                    enforced,
                    namespace,
                    children: Vec::new(),
                    main: None,
                    stored: Vec::new(),
                    staged: Vec::new(),
                    owner: None,
                    front,
                    group_signals: VecDeque::new(),
                    wake_front: None,
                    watch,
                    ending: None,
                    releasing: Vec::new(),
                    ended: false,
                    ignored: None,
                };
                keeper.tell(&Event::Ready(enforced));
                Ok(keeper)
            }
            Err(failure) => {
                let _ = host.send(0, &Event::Unfit(failure), &[]);
                Err(())
            }
        }
    }

    /// Sets up what holds the tree together.
    #[allow(clippy::type_complexity)]
    fn contained(
        config: &KeeperConfig,
    ) -> Result<(Signals, Proc, Option<Cgroup>, Enforced, Option<Namespace>), Failure> {
        let of = |step: Step| {
            move |error: io::Error| Failure {
                step,
                errno: error.raw_os_error().unwrap_or(libc::EIO),
            }
        };
        rustix::process::set_child_subreaper(Some(getpid()))
            .map_err(|e| Failure::new(Step::Fork, e))?;
        let signals = Signals::take().map_err(of(Step::Signals))?;
        let proc = Proc::open().map_err(|e| Failure::new(Step::Mount, e))?;
        let mut enforced = Enforced::default();
        let cgroup = match &config.cgroup {
            Some(path) => {
                let cgroup = Cgroup::make(path).map_err(|e| Failure::new(Step::Cgroup, e))?;
                enforced = cgroup.limit(&config.limits);
                Some(cgroup)
            }
            None if config.contain == Contain::Cgroup => {
                return Err(Failure::new(Step::Cgroup, Errno::NOENT));
            }
            None => None,
        };
        let namespace = match config.contain {
            Contain::Pidns => match Namespace::enter() {
                Ok(namespace) => Some(namespace),
                Err(failure) => {
                    if let Some(cgroup) = &cgroup {
                        let _ = cgroup.remove();
                    }
                    return Err(failure);
                }
            },
            Contain::Tree | Contain::Cgroup => None,
        };
        Ok((signals, proc, cgroup, enforced, namespace))
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
            self.wait(due)?;
            self.read_signals()?;
            self.read_host();
        }
    }

    /// Whether there is nothing more to do, ever.
    fn is_finished(&self) -> bool {
        let told = self.outbox.is_empty() || self.host.is_none();
        self.ended && told && (self.host.is_some() || self.host_gone.is_some())
    }

    /// Waits for the next thing to happen.
    fn wait(&mut self, due: Option<Instant>) -> io::Result<()> {
        let timeout = due.map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs().cast_signed(),
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut poll = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(host) = &self.host {
            let out = if self.outbox.is_empty() {
                PollFlags::empty()
            } else {
                PollFlags::OUT
            };
            poll.push(PollFd::new(host, PollFlags::IN | out));
        }
        let namespace = self.namespace.as_ref().map(|namespace| {
            poll.push(PollFd::new(namespace, PollFlags::IN));
            poll.len() - 1
        });
        let owner = self.owner.as_ref().map(|owner| {
            poll.push(PollFd::new(owner, PollFlags::IN));
            poll.len() - 1
        });
        match rustix::event::poll(&mut poll, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready =
            |index: Option<usize>| index.is_some_and(|index| !poll[index].revents().is_empty());
        let (owner_gone, reaped) = (is_ready(owner), is_ready(namespace));
        drop(poll);
        if reaped && let Some(namespace) = &self.namespace {
            namespace.drain();
        }
        if owner_gone {
            self.owner = None;
            self.end_by_rule(EndReason::OwnerGone, self.config.grace);
        }
        Ok(())
    }

    /// Does all that is due by now, and says when the next thing is.
    fn round(&mut self) -> Option<Instant> {
        self.flush();
        let now = Instant::now();
        let mut due: Vec<Instant> = Vec::new();
        if let Some(when) = self.wake_front {
            if now >= when {
                self.check_front();
            }
            due.extend(self.wake_front);
        }
        self.release_round(&mut due);
        if let Some(gone) = self.host_gone
            && let OnHostExit::Keep(wait) = self.config.on_host_exit
            && self.ending.is_none()
            && !self.ended
        {
            if now >= gone + wait {
                self.begin_end(EndReason::HostGone, self.config.grace);
            } else {
                due.push(gone + wait);
            }
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

    fn release_round(&mut self, due: &mut Vec<Instant>) {
        let mut index = 0;
        while index < self.releasing.len() {
            let done = match self.releasing[index].round(&self.proc) {
                Some(Round::Wait(next)) => {
                    due.push(next);
                    false
                }
                Some(Round::Stuck(_)) | None => true,
            };
            if done {
                let mut releasing = self.releasing.swap_remove(index);
                let report = releasing.report();
                self.answer(releasing.id, &Reply::Ended(report), None);
            } else {
                index += 1;
            }
        }
    }

    // --- ending ---

    /// Begins to end the tree by one of its own rules, and tells the host.
    fn end_by_rule(&mut self, reason: EndReason, grace: Duration) {
        if self.ending.is_none() && !self.ended {
            self.tell(&Event::Ending(reason));
        }
        self.begin_end(reason, grace);
    }

    /// Begins to end the tree, or hurries on; says whether nobody is left as it begins.
    fn begin_end(&mut self, reason: EndReason, grace: Duration) -> bool {
        if self.ended {
            return false;
        }
        if let Some(ending) = &mut self.ending {
            ending.hurry(grace);
            return false;
        }
        self.reap();
        if self.is_empty() {
            // The common case, nothing left behind: no look at anybody.
            self.ending = Some(Ending::begin(reason, Duration::ZERO));
            return true;
        }
        crate::hook!("keeper.end");
        self.ending = Some(Ending::begin(reason, grace));
        false
    }

    /// Whether no process but the namespace's init is left, by the kernel's word.
    fn is_empty(&self) -> bool {
        let Some(namespace) = &self.namespace else {
            // The cheaper question first.
            return matches!(wait_peek(), Err(Errno::CHILD))
                && !self.cgroup.as_ref().is_some_and(Cgroup::is_populated);
        };
        let mut pids = Vec::new();
        let _ = self.proc.children(getpid(), &mut pids);
        pids.retain(|pid| *pid != namespace.init);
        let _ = self.proc.children(namespace.init, &mut pids);
        pids.is_empty()
    }

    fn end_round(&mut self) -> Option<Instant> {
        self.ending.as_ref()?;
        if self.is_empty() {
            self.finish_end();
            return None;
        }
        let spare = self.spare();
        let cgroup = self.cgroup.as_ref();
        let ending = self.ending.as_mut()?;
        let round = ending.round(&self.proc, spare, &mut || {
            if let Some(cgroup) = cgroup {
                let _ = cgroup.kill();
            }
        });
        match round {
            Round::Wait(next) => Some(next),
            Round::Stuck(next) => {
                self.report_stuck();
                Some(next)
            }
        }
    }

    /// Everything is gone: says so, and leaves.
    fn finish_end(&mut self) {
        if let Some(namespace) = self.namespace.take() {
            let _ = signal_child(namespace.init, libc::SIGKILL);
            let _ = rustix::process::waitpid(
                Some(namespace.init),
                rustix::process::WaitOptions::empty(),
            );
        }
        let Some(mut ending) = self.ending.take() else {
            return;
        };
        let report = self.complete(ending.report(&[]));
        if let Some(cgroup) = self.cgroup.take() {
            // What is on its last instructions keeps it busy for a moment.
            for _ in 0..CGROUP_REMOVALS {
                if cgroup.remove() != Err(Errno::BUSY) {
                    break;
                }
                let _ = cgroup.kill();
                let pause = Timespec {
                    tv_sec: 0,
                    tv_nsec: 2_000_000,
                };
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
        }
        for id in std::mem::take(&mut ending.waiting) {
            self.answer(id, &Reply::Ended(report.clone()), None);
        }
        self.tell(&Event::Ended(report));
        self.ended = true;
        self.stored.clear();
        self.flush();
    }

    /// SIGKILL does not help: whoever waits is told who is left, and it is tried on.
    fn report_stuck(&mut self) {
        let mut alive = Vec::new();
        let spare = self.spare();
        descendants(&self.proc, getpid(), |stat| {
            if spare.is_none_or(|pid| pid.as_raw_nonzero().get().cast_unsigned() != stat.id.pid) {
                alive.push(stat.id);
            }
        });
        let Some(ending) = &mut self.ending else {
            return;
        };
        let waiting = std::mem::take(&mut ending.waiting);
        let first = !std::mem::replace(&mut ending.reported, true);
        let report = ending.report(&alive);
        let report = self.complete(report);
        for id in waiting {
            self.answer(id, &Reply::Ended(report.clone()), None);
        }
        if first {
            self.tell(&Event::Ended(report));
        }
    }

    /// Adds what the whole tree used, and the kernel's word on what it died of.
    fn complete(&self, mut report: EndReport) -> EndReport {
        let (cpu, largest) = children_usage();
        // Reading what nobody asked for is a good part of what a short command costs.
        let measured = self.cgroup.as_ref().filter(|_| {
            self.config.rules.measure
                || self.config.standing == Standing::Apart
                || self.enforced.memory
        });
        report.cpu = measured.and_then(Cgroup::cpu).unwrap_or(cpu);
        let peak = measured
            .and_then(Cgroup::peak_memory)
            .unwrap_or(self.watch.peak);
        report.peak_memory = peak.max(largest);
        let Some(cgroup) = &self.cgroup else {
            return report;
        };
        if report.reason != EndReason::MainExited {
            return report;
        }
        let main = self
            .children
            .iter()
            .find(|child| Some(child.started.key) == self.main);
        if let Some(main) = main
            && self.enforced.memory
            && cgroup.ran_out_of_memory()
        {
            report.reason = EndReason::Memory {
                used: peak,
                largest: main.started.id,
                held: peak,
            };
        } else if self.enforced.pids && cgroup.ran_out_of_pids() {
            report.reason = EndReason::Pids {
                count: self.config.limits.pids.unwrap_or_default(),
            };
        }
        report
    }

    // --- children ---

    fn read_signals(&mut self) -> io::Result<()> {
        let mut reap = false;
        while let Some(received) = self.signals.next()? {
            if received.signal == libc::SIGCHLD {
                reap = true;
            } else if self.config.standing == Standing::WithFront {
                self.group_signals.push_back((Instant::now(), received));
                if self.group_signals.len() > GROUP_SIGNALS_MAX {
                    self.group_signals.pop_front();
                }
            }
        }
        if reap {
            self.reap();
        }
        Ok(())
    }

    /// Takes leave of every child that has ended, and notes who was stopped.
    fn reap(&mut self) {
        while let Some((pid, status, usage)) = wait_any() {
            let index = self
                .children
                .iter()
                .position(|child| child.pid == pid && child.started.exit.is_none());
            if libc::WIFSTOPPED(status) || libc::WIFCONTINUED(status) {
                if let Some(index) = index {
                    self.stopped_or_continued(index, status);
                }
                continue;
            }
            if let Some(ending) = &mut self.ending {
                ending.reaped(pid, status);
            }
            for releasing in &mut self.releasing {
                releasing.reaped(pid, status);
            }
            if let Some(index) = index {
                crate::hook!("keeper.reaped");
                let exit = Exit {
                    status: ExitStatus::from_wait(status),
                    usage,
                };
                self.children[index].started.exit = Some(exit);
                let key = self.children[index].started.key;
                self.tell(&Event::Exited { key, exit });
                if self.main == Some(key) {
                    // It may be stopped, and would not hear of it.
                    self.wake_front();
                }
                if self.children[index].forget {
                    self.children.swap_remove(index);
                }
            }
        }
    }

    fn stopped_or_continued(&mut self, index: usize, status: i32) {
        let key = self.children[index].started.key;
        if libc::WIFSTOPPED(status) {
            self.wake_front = None;
            self.tell(&Event::Stopped {
                key,
                signal: libc::WSTOPSIG(status),
            });
        } else {
            self.tell(&Event::Continued { key });
            self.wake_front();
        }
    }

    /// Lets the front go on. It may be about to stop, on an earlier word: it is looked after for a while.
    fn wake_front(&mut self) {
        if let Some(front) = &self.front {
            let _ = signal_handle(front.as_fd(), libc::SIGCONT);
            self.wake_front = Some(Instant::now() + Duration::from_millis(20));
        }
    }

    fn check_front(&mut self) {
        self.wake_front = None;
        let Some(front) = &self.front else { return };
        let parent = rustix::process::getppid().and_then(|zygote| self.proc.stat(zygote).ok());
        let pid = parent.and_then(|zygote| Pid::from_raw(zygote.parent.cast_signed()));
        // Only a look: the signal goes through the handle.
        if pid
            .and_then(|pid| self.proc.stat(pid).ok())
            .is_some_and(|stat| stat.state == b'T')
        {
            let _ = signal_handle(front.as_fd(), libc::SIGCONT);
        }
    }

    // --- the host ---

    fn read_host(&mut self) {
        loop {
            let Some(host) = &self.host else { return };
            match host.try_receive() {
                Ok(Some(received)) => self.handle(received),
                Ok(None) => return self.lose_host(),
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return;
                }
                Err(ConnectionError::Io(_)) => return self.lose_host(),
                Err(ConnectionError::Wire(_)) => {
                    // Without a header there is nobody to answer; with one, `handle` answers.
                }
            }
        }
    }

    fn lose_host(&mut self) {
        crate::hook!("keeper.host-gone");
        self.host = None;
        self.outbox.clear();
        self.host_gone = Some(Instant::now());
        if self.config.on_host_exit == OnHostExit::Kill {
            self.begin_end(EndReason::HostGone, self.config.grace);
        }
    }

    fn handle(&mut self, received: Received) {
        let id = received.header.id;
        let Received { header, body, fds } = received;
        match Request::decode(header.kind, &body) {
            Ok(request) => self.carry_out(id, request, fds),
            Err(_) => self.refuse(id, Step::Request, Errno::PROTO),
        }
    }

    fn refuse(&mut self, id: u32, step: Step, errno: Errno) {
        self.answer(id, &Reply::Failed(Failure::new(step, errno)), None);
    }

    fn acknowledge(&mut self, id: u32, step: Step, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.answer(id, &Reply::Done, None),
            Err(errno) => self.refuse(id, step, errno),
        }
    }

    fn carry_out(&mut self, id: u32, request: Request<'_>, mut fds: Vec<OwnedFd>) {
        match request {
            Request::Spawn(spawn) => self.start(id, &spawn, fds),
            Request::Signal { target, signal } => {
                self.reap();
                let result = self.signal(target, signal);
                self.acknowledge(id, Step::Signal, result);
            }
            Request::Forward { signal, sender } => {
                self.forward(signals::Received { signal, sender });
                self.answer(id, &Reply::Done, None);
            }
            Request::Census => {
                let list = self.census();
                self.answer(id, &Reply::Census(list), None);
            }
            Request::End { grace } => {
                self.begin_end(EndReason::Request, grace);
                match &mut self.ending {
                    Some(ending) => ending.waiting.push(id),
                    None => self.refuse(id, Step::Request, Errno::SHUTDOWN),
                }
            }
            Request::Release { key, grace } => self.release(id, key, grace),
            Request::Stage => self.staged.append(&mut fds),
            Request::Store { name } => match fds.pop() {
                Some(fd) => {
                    self.stored.retain(|(known, _)| known != name);
                    self.stored.push((name.to_vec(), fd));
                    self.answer(id, &Reply::Done, None);
                }
                None => self.refuse(id, Step::Store, Errno::BADF),
            },
            Request::Fetch { name } => {
                let found = self.stored.iter().find(|(known, _)| known == name);
                match found.map(|(_, fd)| fd.try_clone()) {
                    Some(Ok(fd)) => self.answer(id, &Reply::Done, Some(fd)),
                    Some(Err(_)) => self.refuse(id, Step::Store, Errno::MFILE),
                    None => self.refuse(id, Step::Store, Errno::NOENT),
                }
            }
            Request::Discard { name } => {
                let before = self.stored.len();
                self.stored.retain(|(known, _)| known != name);
                let found = if self.stored.len() < before {
                    Ok(())
                } else {
                    Err(Errno::NOENT)
                };
                self.acknowledge(id, Step::Store, found);
            }
            Request::Names => {
                let names = self
                    .stored
                    .iter()
                    .filter_map(|(name, _)| std::ffi::CString::new(name.clone()).ok());
                let names = names.collect();
                self.answer(id, &Reply::Names(names), None);
            }
            Request::Processes => {
                let list = self.children.iter().map(|child| child.started).collect();
                self.answer(id, &Reply::Processes(list), None);
            }
            Request::Forget { key } => {
                if let Some(index) = self
                    .children
                    .iter()
                    .position(|child| child.started.key == key)
                {
                    if self.children[index].started.exit.is_some() {
                        self.children.swap_remove(index);
                    } else {
                        self.children[index].forget = true;
                    }
                }
                self.answer(id, &Reply::Done, None);
            }
            Request::Owner => {
                self.owner = fds.pop();
                let result = if self.owner.is_some() {
                    Ok(())
                } else {
                    Err(Errno::BADF)
                };
                self.acknowledge(id, Step::Request, result);
            }
            Request::Hello(_) | Request::SetOnHostExit(_) | Request::HandOver { .. } => {
                self.refuse(id, Step::Request, Errno::NOSYS);
            }
        }
    }

    fn start(&mut self, id: u32, request: &Spawn<'_>, mut fds: Vec<OwnedFd>) {
        if self.ending.is_some() || self.ended {
            return self.refuse(id, Step::Request, Errno::SHUTDOWN);
        }
        if self
            .children
            .iter()
            .any(|child| child.started.key == request.key)
        {
            return self.refuse(id, Step::Request, Errno::EXIST);
        }
        let mut all = std::mem::take(&mut self.staged);
        all.append(&mut fds);
        match self.start_child(request, &all) {
            Ok((pid, process)) => {
                let started = Started {
                    key: request.key,
                    id: process,
                    exit: None,
                };
                self.children.push(Child {
                    started,
                    pid,
                    forget: false,
                });
                if request.main {
                    self.main = Some(request.key);
                }
                self.answer(id, &Reply::Spawned(process), None);
            }
            Err(failure) => self.answer(id, &Reply::Failed(failure), None),
        }
    }

    fn start_child(
        &mut self,
        request: &Spawn<'_>,
        fds: &[OwnedFd],
    ) -> Result<(Pid, ProcessId), Failure> {
        if self.stack.is_none() {
            self.stack = Some(Stack::new().map_err(|e| Failure::new(Step::Fork, e))?);
        }
        let Some(stack) = &self.stack else {
            return Err(Failure::new(Step::Fork, Errno::NOMEM));
        };
        let cpus = self.config.limits.cpu_millis.filter(|_| !self.enforced.cpu);
        let turned = request.ignored.map_or(0, |wanted| {
            wanted ^ *self.ignored.get_or_insert_with(signals::ignored)
        });
        let around = Surroundings {
            cgroup: self.cgroup.as_ref().map(AsFd::as_fd),
            turned,
            keeper: if self.namespace.is_some() {
                0
            } else {
                getpid().as_raw_nonzero().get()
            },
            cpus: cpus.map(|millis| millis.div_ceil(1000).max(1) as usize),
        };
        let pid = spawn(stack, around, request, fds)?;
        // Not waited for yet, so it is there to be read, even when it has ended.
        let process = self.proc.stat(pid).map_or_else(
            |_| ProcessId {
                pid: pid.as_raw_nonzero().get().cast_unsigned(),
                start_time: 0,
            },
            |stat| stat.id,
        );
        Ok((pid, process))
    }

    /// The child that a host means, while it lives.
    fn child(&self, key: Key) -> Result<Pid, Errno> {
        let child = self
            .children
            .iter()
            .find(|child| child.started.key == key)
            .ok_or(Errno::SRCH)?;
        if child.started.exit.is_some() {
            Err(Errno::SRCH)
        } else {
            Ok(child.pid)
        }
    }

    fn signal(&self, target: Target, signal: i32) -> Result<(), Errno> {
        if !(0..=64).contains(&signal) {
            return Err(Errno::INVAL);
        }
        match target {
            Target::Process(key) => signal_child(self.child(key)?, signal),
            Target::Group(key) => signal_group(self.child(key)?, signal),
            Target::Descendant(id) => {
                let mut result = Err(Errno::SRCH);
                proven(&self.proc, |process| {
                    if process.stat.id == id {
                        result = process.signal(signal);
                    }
                    Visit::Enter
                });
                result
            }
            Target::All => {
                let spare = self
                    .spare()
                    .map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
                proven(&self.proc, |process| {
                    if Some(process.stat.id.pid) != spare {
                        let _ = process.signal(signal);
                    }
                    Visit::Enter
                });
                Ok(())
            }
        }
    }

    /// Passes on a signal that the front received, unless the command received it too: the terminal and kill(2) may send
    /// to a whole process group, of which the keeper is a member as well and so a witness.
    fn forward(&mut self, received: signals::Received) {
        let _ = self.read_signals();
        let now = Instant::now();
        self.group_signals
            .retain(|(when, _)| now - *when < GROUP_SIGNAL_AGE);
        let witnessed = self
            .group_signals
            .iter()
            .position(|(_, seen)| *seen == received);
        if let Some(index) = witnessed {
            self.group_signals.remove(index);
        }
        let main = self.main.and_then(|key| self.child(key).ok());
        let Some(main) = main else {
            // The command is gone, and it is its children that are waited for.
            let ends = matches!(
                received.signal,
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
            );
            if ends && witnessed.is_none() && self.main.is_some() {
                let grace = if self.ending.is_some() {
                    Duration::ZERO
                } else {
                    self.config.grace
                };
                self.end_by_rule(EndReason::Request, grace);
            }
            return;
        };
        let (own, ours) = (group_of(Some(main)), group_of(None));
        let by_terminal = received.sender == 0
            && matches!(
                received.signal,
                libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGWINCH
            );
        if own == ours && (witnessed.is_some() || by_terminal) {
            // It has it already. What a terminal sends, it sends to whole groups, and two of a kind become one on the way.
        } else if witnessed.is_some() && own == Some(main.as_raw_nonzero().get()) {
            // The command has made a group of its own, as a shell does, and it was meant for the job that it stands for.
            let _ = signal_group(main, received.signal);
        } else {
            let _ = signal_child(main, received.signal);
        }
    }

    fn census(&self) -> Vec<ProcessInfo> {
        let spare = self
            .spare()
            .map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
        let mut list = Vec::new();
        descendants(&self.proc, getpid(), |stat| {
            if Some(stat.id.pid) == spare {
                return;
            }
            let key = self
                .children
                .iter()
                .find(|child| child.started.id == stat.id)
                .map(|child| child.started.key);
            list.push(ProcessInfo {
                id: stat.id,
                parent: stat.parent,
                command: stat.command,
                state: stat.state,
                resident: stat.resident,
                cpu: stat.cpu,
                key,
            });
        });
        list
    }

    fn release(&mut self, id: u32, key: Key, grace: Duration) {
        self.reap();
        let child = self
            .children
            .iter()
            .find(|child| child.started.key == key && child.started.exit.is_none());
        match child {
            Some(child) => {
                let root = child.started.id;
                self.releasing
                    .push(Releasing::begin(&self.proc, id, root, grace));
            }
            None => self.refuse(id, Step::Signal, Errno::SRCH),
        }
    }

    fn tell(&mut self, event: &Event) {
        self.post(0, event, None);
    }

    fn answer(&mut self, id: u32, reply: &Reply, fd: Option<OwnedFd>) {
        self.post(id, reply, fd);
    }

    fn post<'m>(&mut self, id: u32, message: &impl Message<'m>, fd: Option<OwnedFd>) {
        if self.host.is_none() {
            return;
        }
        // What can't be packed for want of memory can't be told either; the host sees its request unanswered.
        let Ok(packet) = Packet::new(id, message) else {
            return;
        };
        self.outbox.push_back((packet, fd));
        self.flush();
    }

    /// Sends what is ready, as far as the socket takes it.
    fn flush(&mut self) {
        while let (Some(host), Some((packet, fd))) = (&self.host, self.outbox.front()) {
            let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
            match host.try_send(packet, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // A host that is gone is noticed by reading.
                _ => drop(self.outbox.pop_front()),
            }
        }
    }
}

/// One child that has ended, stopped or gone on, with what it used: wait4(2) without waiting.
pub(crate) fn wait_any() -> Option<(Pid, i32, Usage)> {
    let mut status = 0;
    // SAFETY: the kernel writes to two locals; zeroes are a valid rusage.
    let (pid, used) = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        let flags = libc::WNOHANG | libc::WUNTRACED | libc::WCONTINUED;
        (libc::wait4(-1, &raw mut status, flags, &raw mut used), used)
    };
    Some((Pid::from_raw(pid.max(0))?, status, usage(&used)))
}

/// Whether there is any child, without taking leave of one: `CHILD` when there is none.
pub(crate) fn wait_peek() -> Result<(), Errno> {
    // SAFETY: the kernel writes to a local.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let flags = libc::WNOHANG | libc::WNOWAIT | libc::WEXITED;
        if libc::waitid(libc::P_ALL, 0, &raw mut info, flags) == -1 {
            Err(signals::last_errno())
        } else {
            Ok(())
        }
    }
}

fn usage(used: &libc::rusage) -> Usage {
    let time = |t: libc::timeval| {
        Duration::from_secs(t.tv_sec.cast_unsigned())
            + Duration::from_micros(t.tv_usec.cast_unsigned())
    };
    Usage {
        user: time(used.ru_utime),
        system: time(used.ru_stime),
        peak_resident: used.ru_maxrss.cast_unsigned() * 1024,
    }
}

/// What all children that were waited for have used: CPU time, and the largest of them in bytes.
fn children_usage() -> (Duration, u64) {
    // SAFETY: the kernel writes to a local.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut used);
        usage(&used)
    };
    (used.user + used.system, used.peak_resident)
}

fn children_cpu() -> Duration {
    children_usage().0
}
