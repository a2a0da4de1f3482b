//! What the host asks, and what it is told.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::getpid;

use super::{Child, Keeper};
use crate::connection::{ConnectionError, Packet, Received};
use crate::ending::Releasing;
use crate::identity::Key;
use crate::message::{Event, Failure, Message, Reply, Request, Step, Target, Tidy};
use crate::outcome::{EndReason, ProcessInfo};
use crate::signals::{self, group_of, signal_child, signal_group};
use crate::walk::{Visit, descendants, proven};

/// How long a signal that reached the keeper as a member of the front's group is remembered, to be matched with the
/// front's word of it.
const GROUP_SIGNAL_AGE: Duration = Duration::from_secs(2);

/// On whose word the command was sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Passed {
    /// The front's.
    Forwarded,
    /// The zygote's.
    Insisted,
}

impl Keeper {
    /// Takes one message. Whether there is another one the next wait says, which costs no more than to try.
    pub(super) fn read_host(&mut self) {
        let Some(host) = &self.host else { return };
        match host.try_receive() {
            Ok(Some(received)) => self.handle(received),
            Ok(None) => self.lose_host(),
            Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(ConnectionError::Io(_)) => self.lose_host(),
            Err(ConnectionError::Descriptors { id }) => {
                // What it was for would be done with the wrong ones.
                self.staged.clear();
                self.refuse(id, Step::Descriptors, Errno::MFILE);
            }
            Err(ConnectionError::Wire(_)) => {
                // Without a header there is nobody to answer; with one, `handle` answers.
            }
        }
    }

    pub(super) fn lose_host(&mut self) {
        crate::hook!("keeper.host-gone");
        self.host = None;
        self.forget_host();
        self.host_gone = Some(Instant::now());
        if self.waits().is_none() {
            self.begin_end(EndReason::HostGone, self.config.grace);
        }
    }

    pub(super) fn handle(&mut self, received: Received) {
        let id = received.header.id;
        let Received { header, body, fds } = received;
        match Request::decode(header.kind, &body) {
            Ok(request) => self.carry_out(id, request, fds),
            Err(_) => self.refuse(id, Step::Request, Errno::PROTO),
        }
    }

    pub(super) fn refuse(&mut self, id: u32, step: Step, errno: Errno) {
        self.answer(id, &Reply::Failed(Failure::new(step, errno)), None);
    }

    pub(super) fn acknowledge(&mut self, id: u32, step: Step, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.answer(id, &Reply::Done, None),
            Err(errno) => self.refuse(id, step, errno),
        }
    }

    pub(super) fn carry_out(&mut self, id: u32, request: Request<'_>, mut fds: Vec<OwnedFd>) {
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
            Request::Insist { signal, sender } => {
                self.insist(signals::Received { signal, sender });
                self.answer(id, &Reply::Done, None);
            }
            Request::WentOn => {
                self.front_went_on();
                self.answer(id, &Reply::Done, None);
            }
            Request::Census => {
                let list = self.census();
                self.answer(id, &Reply::Census(list), None);
            }
            Request::End { grace } => {
                if let Some(report) = self.unread.take() {
                    self.answer(id, &Reply::Ended(report), None);
                    return self.leave();
                }
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
                    self.store(name, fd);
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
                let found = if self.discard(name) {
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
                let known = self.children.iter().filter(|child| !child.forget);
                let list = known.map(|child| child.started).collect();
                self.answer(id, &Reply::Processes(list), None);
            }
            Request::Forget { key } => {
                self.forget(key);
                self.answer(id, &Reply::Done, None);
            }
            Request::Tidy(tidy) => {
                self.tidy(&tidy);
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
            // It is the host already.
            Request::Hello(_) => self.refuse(id, Step::Request, Errno::ISCONN),
            Request::SetOnHostExit(on_host_exit) => {
                self.config.on_host_exit = on_host_exit;
                self.answer(id, &Reply::Done, None);
            }
            Request::HandOver { wait } => {
                let result = if self.door.is_some() {
                    self.handed_over = Some(wait);
                    Ok(())
                } else {
                    Err(Errno::OPNOTSUPP)
                };
                self.acknowledge(id, Step::Rendezvous, result);
            }
        }
    }

    pub(super) fn tidy(&mut self, tidy: &Tidy<'_>) {
        for key in &tidy.forget {
            self.forget(*key);
        }
        for name in &tidy.discard {
            self.discard(name);
        }
    }

    fn forget(&mut self, key: Key) {
        let known = |child: &Child| child.started.key == key;
        if let Some(index) = self.children.iter().position(known) {
            if self.children[index].started.exit.is_some() {
                self.children.swap_remove(index);
            } else {
                self.children[index].forget = true;
            }
        }
    }

    pub(super) fn store(&mut self, name: &[u8], fd: OwnedFd) {
        self.discard(name);
        self.stored.push((name.to_vec(), fd));
    }

    /// Lets go of what is kept under the name; whether there was anything.
    pub(super) fn discard(&mut self, name: &[u8]) -> bool {
        let before = self.stored.len();
        self.stored.retain(|(known, _)| known != name);
        self.stored.len() < before
    }

    pub(super) fn signal(&self, target: Target, signal: i32) -> Result<(), Errno> {
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
    pub(super) fn forward(&mut self, received: signals::Received) {
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
        self.passed
            .retain(|(when, ..)| now.duration_since(*when) < GROUP_SIGNAL_AGE);
        let passed = |(_, seen, by): &(Instant, signals::Received, Passed)| {
            *seen == received && *by == Passed::Insisted
        };
        if let Some(index) = self.passed.iter().position(passed) {
            self.passed.remove(index);
            return;
        }
        let witnessed = witnessed.is_some() || self.was_taken_back(received.signal);
        let main = self.main.and_then(|key| self.child(key).ok());
        let Some(main) = main else {
            // The command is gone, and it is its children that are waited for.
            let ends = matches!(
                received.signal,
                libc::SIGTERM | libc::SIGINT | libc::SIGHUP | libc::SIGQUIT
            );
            if let Some(key) = self.main
                && received.signal == libc::SIGTSTP
            {
                let signal = received.signal;
                return self.tell_stopped(key, signal);
            }
            if ends && self.main.is_some() {
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
        let by_terminal = received.sender == signals::KERNEL
            && matches!(
                received.signal,
                libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP | libc::SIGWINCH
            );
        if own == ours && (witnessed || by_terminal) {
            // It has it already. What a terminal sends, it sends to whole groups, and two of a kind become one on the way.
        } else if witnessed && own == Some(main.as_raw_nonzero().get()) {
            // The command has made a group of its own, as a shell does, and it was meant for the job that it stands for.
            let _ = signal_group(main, received.signal);
        } else {
            let _ = signal_child(main, received.signal);
            self.passed.push_back((now, received, Passed::Forwarded));
        }
    }

    /// Passes on a signal that was not meant for a group, unless that was done.
    pub(super) fn insist(&mut self, received: signals::Received) {
        let passed = |(_, seen, by): &(Instant, signals::Received, Passed)| {
            *seen == received && *by == Passed::Forwarded
        };
        if let Some(index) = self.passed.iter().position(passed) {
            self.passed.remove(index);
        } else if let Some(main) = self.main.and_then(|key| self.child(key).ok()) {
            let _ = signal_child(main, received.signal);
            self.passed
                .push_back((Instant::now(), received, Passed::Insisted));
        }
    }

    /// Whether the keeper would no longer know that it got this signal too: the kernel takes a SIGCONT that waits to be read
    /// back when a stop signal comes, and the other way round (signal(7)). To send the first again would take the second
    /// back from the command.
    fn was_taken_back(&self, signal: i32) -> bool {
        let stops = [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        let by: &[i32] = match signal {
            libc::SIGCONT => &stops,
            _ if stops.contains(&signal) => &[libc::SIGCONT],
            _ => return false,
        };
        self.group_signals
            .iter()
            .any(|(_, seen)| by.contains(&seen.signal))
    }

    pub(super) fn census(&self) -> Vec<ProcessInfo> {
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

    pub(super) fn release(&mut self, id: u32, key: Key, grace: Duration) {
        self.reap();
        // Where the root has gone before the others, these are still its.
        if let Some(releasing) = self.releasing.iter_mut().find(|known| known.key == key) {
            return releasing.join(id, grace);
        }
        let child = self
            .children
            .iter()
            .find(|child| child.started.key == key && child.started.exit.is_none());
        match child {
            Some(child) => {
                let root = child.started.id;
                self.releasing
                    .push(Releasing::begin(&self.proc, (id, key), root, grace));
            }
            None => self.refuse(id, Step::Signal, Errno::SRCH),
        }
    }

    pub(super) fn tell(&mut self, event: &Event) {
        self.post(0, event, None);
    }

    /// Answers, unless the request has the number 0: its host does not want to be woken for that.
    pub(super) fn answer(&mut self, id: u32, reply: &Reply, fd: Option<OwnedFd>) {
        if id == 0 {
            return;
        }
        self.post(id, reply, fd);
    }

    pub(super) fn post<'m>(&mut self, id: u32, message: &impl Message<'m>, fd: Option<OwnedFd>) {
        self.queue(id, message, fd);
        self.flush();
    }

    /// Has a message sent together with the next one: whoever reads is woken once.
    pub(super) fn queue<'m>(&mut self, id: u32, message: &impl Message<'m>, fd: Option<OwnedFd>) {
        if self.host.is_none() {
            return;
        }
        // What can't be packed for want of memory can't be told either; the host sees its request unanswered.
        let Ok(packet) = Packet::new(id, message) else {
            return;
        };
        self.outbox.push_back((packet, fd));
    }

    /// Sends what is ready, as far as the socket takes it.
    pub(super) fn flush(&mut self) {
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
