//! Ending a tree: terminate, wait the grace, kill, until the kernel says that none is left.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use crate::identity::{Key, ProcessId};
use crate::killing::{Pace, Round};
use crate::outcome::{EndReason, EndReport, How, Left};
use crate::proc::{Proc, Stat};
use crate::walk::{Visit, descendants, proven};

/// How often newcomers are looked for while the grace runs: what is born then is asked to end too.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Walks in a row that look for those which changed their parent during the one before. Bounded, for what forks without
/// end is always new; it has the rest of the grace to be met.
const TERMINATE_WALKS: u32 = 8;

#[derive(Debug, Clone, Copy)]
enum Phase {
    Terminating {
        until: Instant,
        look: Instant,
        /// Walks in a row that met somebody new.
        walks: u32,
    },
    Killing(Pace),
}

#[derive(Debug)]
struct Entry {
    left: Left,
    done: bool,
    killed: bool,
}

/// A tree on its way out.
#[derive(Debug)]
pub(crate) struct Ending {
    /// Why.
    pub reason: EndReason,
    /// The requests to answer when it is done.
    pub waiting: Vec<u32>,
    /// Whether what is stuck was reported already.
    pub reported: bool,
    began: Instant,
    phase: Phase,
    entries: Vec<Entry>,
    by_pid: HashMap<u32, usize>,
}

impl Ending {
    /// Begins, with the next round: every process is sent SIGTERM, and SIGCONT where it is stopped. With no grace they are
    /// killed at once.
    pub(crate) fn begin(reason: EndReason, grace: Duration) -> Self {
        let now = Instant::now();
        let phase = if grace.is_zero() {
            Phase::Killing(Pace::begin())
        } else {
            Phase::Terminating {
                until: now + grace,
                look: now,
                walks: 0,
            }
        };
        Self {
            reason,
            waiting: Vec::new(),
            reported: false,
            began: now,
            phase,
            entries: Vec::new(),
            by_pid: HashMap::new(),
        }
    }

    /// Ends the grace after this much more time, if it would last longer.
    pub(crate) fn hurry(&mut self, grace: Duration) {
        let limit = Instant::now() + grace;
        if let Phase::Terminating { until, .. } = &mut self.phase {
            *until = limit.min(*until);
        }
    }

    /// Sends SIGTERM to all that had none yet, and says when to look again. One that ends at once hands its children on while
    /// the walk goes by: it is walked again until nobody new is met. Between two walks the dead are reaped, so that together
    /// they cost as much as there are processes.
    fn terminate(&mut self, proc: &Proc, spare: Option<Pid>, walks: u32) -> (Instant, u32) {
        let (began, known) = (Instant::now(), self.entries.len());
        self.terminate_once(proc, spare);
        let now = Instant::now();
        if self.entries.len() > known && walks < TERMINATE_WALKS {
            return (now, walks + 1);
        }
        crate::hook!("ending.terminated");
        // Never more than a tenth of the time.
        (now + LOOK_AGAIN.max((now - began) * 10), 0)
    }

    fn terminate_once(&mut self, proc: &Proc, spare: Option<Pid>) {
        let began = self.began;
        proven(proc, |process| {
            if is(spare, process.stat) {
                return Visit::Enter;
            }
            let (index, new) = self.note(process.stat);
            if new {
                match process.signal(libc::SIGTERM) {
                    Ok(()) if matches!(process.stat.state, b'T') => {
                        // It would not see the first before the second.
                        let _ = process.signal(libc::SIGCONT);
                    }
                    Err(Errno::SRCH) => {
                        let entry = &mut self.entries[index];
                        entry.left.how = How::Exited;
                        entry.left.took = began.elapsed();
                        entry.done = true;
                    }
                    _ => {}
                }
            }
            Visit::Enter
        });
    }

    fn note(&mut self, stat: &Stat) -> (usize, bool) {
        if let Some(index) = self.by_pid.get(&stat.id.pid)
            && self.entries[*index].left.id == stat.id
        {
            return (*index, false);
        }
        let left = Left {
            id: stat.id,
            command: stat.command,
            how: How::Terminated,
            took: Duration::ZERO,
        };
        self.entries.push(Entry {
            left,
            done: false,
            killed: false,
        });
        self.by_pid.insert(stat.id.pid, self.entries.len() - 1);
        (self.entries.len() - 1, true)
    }

    /// A child of the keeper has ended with this wait status.
    pub(crate) fn reaped(&mut self, pid: Pid, status: i32) {
        let by_kill = libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGKILL;
        let now = Instant::now();
        if let Phase::Killing(pace) = &mut self.phase {
            pace.progressed();
        }
        let Some(index) = self.by_pid.get(&pid.as_raw_nonzero().get().cast_unsigned()) else {
            return;
        };
        let entry = &mut self.entries[*index];
        if !entry.done {
            entry.done = true;
            entry.left.how = if by_kill && entry.killed {
                How::Killed
            } else {
                How::Terminated
            };
            entry.left.took = now - self.began;
        }
    }

    /// Does what is due. `kill_all` is the kernel's own way of killing all at once, where there is one.
    pub(crate) fn round(
        &mut self,
        proc: &Proc,
        spare: Option<Pid>,
        kill_all: &mut dyn FnMut(),
    ) -> Round {
        let now = Instant::now();
        if let Phase::Terminating { until, look, walks } = self.phase {
            if now < until {
                let mut next = look;
                if now >= look {
                    let (look, walks) = self.terminate(proc, spare, walks);
                    self.phase = Phase::Terminating { until, look, walks };
                    next = look;
                }
                return Round::Wait(until.min(next));
            }
            self.phase = Phase::Killing(Pace::begin());
        }
        self.kill(proc, spare, now, kill_all)
    }

    fn kill(
        &mut self,
        proc: &Proc,
        spare: Option<Pid>,
        now: Instant,
        kill_all: &mut dyn FnMut(),
    ) -> Round {
        let Phase::Killing(mut pace) = self.phase else {
            return Round::Wait(now);
        };
        if now < pace.due() {
            return Round::Wait(pace.due());
        }
        if pace.is_first() {
            // All are named before the first is killed: it hands its children on, past the walk, and a cgroup is then
            // quicker than the next one.
            descendants(proc, getpid(), |stat| {
                if !is(spare, stat) {
                    let (index, _) = self.note(stat);
                    self.entries[index].killed = true;
                }
            });
        }
        proven(proc, |process| {
            if !is(spare, process.stat) {
                let (index, _) = self.note(process.stat);
                self.entries[index].killed = true;
            }
            // One of another user can't be signalled; it shows up as stuck.
            let _ = process.signal(libc::SIGKILL);
            Visit::Enter
        });
        crate::hook!("ending.killed");
        kill_all();
        let round = pace.walked(now);
        self.phase = Phase::Killing(pace);
        round
    }

    /// The report, when nobody is left.
    pub(crate) fn report(&mut self) -> EndReport {
        self.report_on(&[], 0)
    }

    /// The report for what is stuck: these could be listed. That there is somebody is the kernel's word, and what belongs
    /// to another user may not be there to be seen (proc(5), `hidepid`).
    pub(crate) fn report_stuck(&mut self, alive: &[ProcessId]) -> EndReport {
        self.report_on(alive, alive.len().max(1) as u64)
    }

    fn report_on(&mut self, alive: &[ProcessId], remaining: u64) -> EndReport {
        let took = self.began.elapsed();
        for entry in &mut self.entries {
            if alive.contains(&entry.left.id) {
                entry.left.how = How::Stuck;
                entry.left.took = took;
            } else if !entry.done {
                // Reaped by a parent of its own: it went by the last that was sent to it.
                entry.done = true;
                entry.left.how = if entry.killed {
                    How::Killed
                } else {
                    How::Terminated
                };
                entry.left.took = took;
            }
        }
        EndReport {
            reason: self.reason,
            left: self.entries.iter().map(|entry| entry.left).collect(),
            remaining,
            took,
            cpu: Duration::ZERO,
            peak_memory: 0,
        }
    }
}

fn is(pid: Option<Pid>, stat: &Stat) -> bool {
    pid.is_some_and(|pid| pid.as_raw_nonzero().get().cast_unsigned() == stat.id.pid)
}

/// One process of a tree, and what is under it, on its way out while the tree stays.
#[derive(Debug)]
pub(crate) struct Releasing {
    /// The host's name for its root.
    pub key: Key,
    /// The requests to answer: none once their host is gone, or has heard that it is stuck.
    pub waiting: Vec<u32>,
    /// The root's pid: a child of the keeper, and so itself until it is reaped.
    root: u32,
    ending: Ending,
    members: HashMap<u32, ProcessId>,
}

impl Releasing {
    /// Begins to end `root`, a child of the keeper, and its descendants.
    pub(crate) fn begin(
        proc: &Proc,
        (id, key): (u32, Key),
        root: ProcessId,
        grace: Duration,
    ) -> Self {
        let now = Instant::now();
        let ending = Ending {
            reason: EndReason::Request,
            waiting: Vec::new(),
            reported: false,
            began: now,
            phase: Phase::Terminating {
                until: now + grace,
                look: now,
                walks: 0,
            },
            entries: Vec::new(),
            by_pid: HashMap::new(),
        };
        let mut releasing = Self {
            key,
            waiting: vec![id],
            root: root.pid,
            ending,
            members: HashMap::from([(root.pid, root)]),
        };
        if !grace.is_zero() {
            releasing.signal(proc, libc::SIGTERM);
        }
        releasing
    }

    /// Another request for the same: it ends no later than this one wants.
    pub(crate) fn join(&mut self, id: u32, grace: Duration) {
        self.waiting.push(id);
        self.ending.hurry(grace);
    }

    /// Signals all members, and takes their children in: those there are before anything is sent, since a parent that ends
    /// at once hands its children on.
    fn signal(&mut self, proc: &Proc, signal: i32) {
        descendants(proc, getpid(), |stat| {
            if self.members.contains_key(&stat.parent) {
                self.members.insert(stat.id.pid, stat.id);
            }
        });
        proven(proc, |process| {
            let stat = process.stat;
            let member = self.members.get(&stat.id.pid) == Some(&stat.id)
                || self.members.contains_key(&stat.parent);
            if !member {
                return Visit::Enter;
            }
            self.members.insert(stat.id.pid, stat.id);
            let (index, new) = self.ending.note(stat);
            self.ending.entries[index].killed |= signal == libc::SIGKILL;
            let sent = (new || signal != libc::SIGTERM) && process.signal(signal).is_ok();
            if sent && signal == libc::SIGTERM && stat.state == b'T' {
                let _ = process.signal(libc::SIGCONT);
            }
            Visit::Enter
        });
    }

    /// A child of the keeper has ended with this wait status.
    pub(crate) fn reaped(&mut self, pid: Pid, status: i32) {
        self.ending.reaped(pid, status);
        self.members
            .remove(&pid.as_raw_nonzero().get().cast_unsigned());
    }

    /// Does what is due; `None` when all members are gone.
    pub(crate) fn round(&mut self, proc: &Proc) -> Option<Round> {
        // Those with parents of their own are not told of.
        let root = self.root;
        self.members.retain(|pid, id| {
            let Some(named) = Pid::from_raw(pid.cast_signed()).filter(|_| *pid != root) else {
                return *pid == root;
            };
            match proc.stat(named) {
                Ok(stat) => stat.id == *id && !stat.is_dead(),
                // Gone, or hidden because it is another user's now.
                Err(Errno::NOENT | Errno::SRCH) => {
                    rustix::process::test_kill_process(named) == Err(Errno::PERM)
                }
                // For want of a descriptor, nobody is gone.
                Err(_) => true,
            }
        });
        if self.members.is_empty() {
            return None;
        }
        let now = Instant::now();
        let Phase::Terminating { until, look, walks } = self.ending.phase else {
            let Phase::Killing(mut pace) = self.ending.phase else {
                return None;
            };
            if now < pace.due() {
                return Some(Round::Wait(pace.due()));
            }
            // Stopped first, so that none is born, or handed on, while they are killed one by one.
            self.signal(proc, libc::SIGSTOP);
            self.signal(proc, libc::SIGKILL);
            let round = pace.walked(now);
            self.ending.phase = Phase::Killing(pace);
            return Some(round);
        };
        if now >= until {
            self.ending.phase = Phase::Killing(Pace::begin());
            return Some(Round::Wait(now));
        }
        // Members under parents of their own give no notice of their end.
        let next = if now >= look {
            now + Duration::from_millis(10)
        } else {
            look
        };
        self.ending.phase = Phase::Terminating {
            until,
            look: next,
            walks,
        };
        Some(Round::Wait(next.min(until)))
    }

    /// The report.
    pub(crate) fn report(&mut self) -> EndReport {
        if self.members.is_empty() {
            return self.ending.report();
        }
        let alive: Vec<ProcessId> = self.members.values().copied().collect();
        self.ending.report_stuck(&alive)
    }
}
