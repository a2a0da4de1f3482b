//! The processes that the keeper has started: starting them, and taking leave of them.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use super::front::Wake;
use super::{Child, Keeper};
use crate::config::Contain;
use crate::config::Standing;
use crate::identity::{Key, ProcessId};
use crate::message::{Event, Failure, Reply, Spawn, Started, Step};
use crate::outcome::{Exit, ExitStatus, Usage};
use crate::signals;
use crate::spawn::{Stack, Surroundings, spawn};

/// How many signals of the group are remembered.
const GROUP_SIGNALS_MAX: usize = 1024;

impl Keeper {
    pub(super) fn read_signals(&mut self) -> io::Result<()> {
        let mut reap = false;
        for received in self.signals.waiting()? {
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
    pub(super) fn reap(&mut self) {
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
                self.queue(0, &Event::Exited { key, exit }, None);
                if self.config.standing == Standing::Apart {
                    self.flush();
                } // A front is told with the tree's end, if that comes at once, and at the latest by the end of the round.
                if self.main == Some(key) {
                    // It may be stopped, and would not hear of it: it is woken once there is nothing more urgent.
                    self.front_stops.wake = self.front.as_ref().map(|_| Wake::Due);
                }
                if self.children[index].forget {
                    self.children.swap_remove(index);
                }
            }
        }
    }

    pub(super) fn start(&mut self, id: u32, request: &Spawn<'_>, mut fds: Vec<OwnedFd>) {
        self.tidy(&request.tidy);
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
        self.next_key = self.next_key.max(request.key.0.saturating_add(1));
        let mut all = std::mem::take(&mut self.staged);
        all.append(&mut fds);
        let Some(own) = all.len().checked_sub(request.stored.len()) else {
            return self.refuse(id, Step::Request, Errno::INVAL);
        };
        // Before the process is there: whoever dies next, its pipes lead on.
        for (name, fd) in request.stored.iter().zip(all.split_off(own)) {
            self.store(name, fd);
        }
        let mut started = self.start_child(request, &all);
        if let Err(Failure {
            step: Step::Cgroup, ..
        }) = started
            && self.config.contain == Contain::Tree
            && self.children.is_empty()
            && let Some(cgroup) = self.cgroup.take()
        {
            // It can be made, but not entered: a threaded parent, for one.
            let _ = cgroup.remove();
            started = self.start_child(request, &all);
        }
        match started {
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
            Err(failure) => {
                for name in &request.stored {
                    self.discard(name);
                }
                self.answer(id, &Reply::Failed(failure), None);
            }
        }
    }

    pub(super) fn start_child(
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
            // A front has one command and asks for it by no other name; a look into /proc is dear beside a short one.
            proc: (self.config.standing == Standing::Apart).then_some(&self.proc),
        };
        spawn(stack, around, request, fds)
    }

    /// The child that a host means, while it lives.
    pub(super) fn child(&self, key: Key) -> Result<Pid, Errno> {
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

pub(super) fn usage(used: &libc::rusage) -> Usage {
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
pub(super) fn children_usage() -> (Duration, u64) {
    // SAFETY: the kernel writes to a local.
    let used = unsafe {
        let mut used: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut used);
        usage(&used)
    };
    (used.user + used.system, used.peak_resident)
}

pub(super) fn children_cpu() -> Duration {
    children_usage().0
}
