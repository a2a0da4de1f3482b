//! Ending what the keeper has: one process with what is under it, or the whole tree.

use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::process::getpid;

use super::Keeper;
use super::children::{children_usage, wait_peek};
use crate::cgroup::Cgroup;
use crate::config::Standing;
use crate::ending::Ending;
use crate::killing::Round;
use crate::message::{Event, Reply};
use crate::outcome::{EndReason, EndReport};
use crate::signals::signal_child;
use crate::walk::descendants;

/// How often it is tried to remove a cgroup, 2 ms apart.
const CGROUP_REMOVALS: u32 = 250;

impl Keeper {
    pub(super) fn release_round(&mut self, due: &mut Vec<Instant>) {
        let mut index = 0;
        while index < self.releasing.len() {
            let releasing = &mut self.releasing[index];
            let round = releasing.round(&self.proc);
            if let Some(Round::Wait(next) | Round::Stuck(next)) = round {
                due.push(next);
                index += 1;
            }
            // What is stuck is told to whoever waits, and tried on.
            let mut waiting = Vec::new();
            if !matches!(round, Some(Round::Wait(_))) {
                waiting = std::mem::take(&mut releasing.waiting);
            }
            let report = (!waiting.is_empty()).then(|| Reply::Ended(releasing.report()));
            if round.is_none() {
                self.releasing.swap_remove(index);
            }
            for (id, report) in waiting.into_iter().zip(report.iter().cycle()) {
                self.answer(id, report, None);
            }
        }
    }

    /// Begins to end the tree by one of its own rules, and tells the host.
    pub(super) fn end_by_rule(&mut self, reason: EndReason, grace: Duration) {
        if self.ending.is_none() && !self.ended {
            self.tell(&Event::Ending(reason));
        }
        self.begin_end(reason, grace);
    }

    /// Begins to end the tree, or hurries on; says whether nobody is left as it begins.
    pub(super) fn begin_end(&mut self, reason: EndReason, grace: Duration) -> bool {
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
        self.flush();
        crate::hook!("keeper.end");
        self.ending = Some(Ending::begin(reason, grace));
        false
    }

    /// Whether no process but the namespace's init is left, by the kernel's word.
    pub(super) fn is_empty(&self) -> bool {
        let Some(namespace) = &self.namespace else {
            // The cheaper question first.
            return matches!(wait_peek(), Err(Errno::CHILD))
                && !self.cgroup.as_ref().is_some_and(Cgroup::is_populated);
        };
        let mut pids = Vec::new();
        // What can't be read is not known to be empty.
        if self.proc.children(getpid(), &mut pids).is_err() {
            return false;
        }
        pids.retain(|pid| *pid != namespace.init);
        match self.proc.children(namespace.init, &mut pids) {
            // Without its init nothing is left in a namespace.
            Ok(()) | Err(Errno::NOENT | Errno::SRCH) => pids.is_empty(),
            Err(_) => false,
        }
    }

    pub(super) fn end_round(&mut self) -> Option<Instant> {
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
    pub(super) fn finish_end(&mut self) {
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
        let report = self.complete(ending.report());
        let standing = self.config.standing;
        if standing == Standing::Apart {
            self.remove_cgroup();
        }
        self.ended = true;
        // What happened unasked, and what was written to the end, is for the next host to read if this one does not.
        if ending.waiting.is_empty() && report.reason != EndReason::HostGone && self.is_awaited() {
            self.unread = Some(report.clone());
        }
        for id in std::mem::take(&mut ending.waiting) {
            self.answer(id, &Reply::Ended(report.clone()), None);
        }
        self.tell(&Event::Ended(report));
        if self.unread.is_none() {
            self.leave();
        }
        if standing == Standing::WithFront {
            // A front waits until its keeper is gone, and may as well begin with what it has to do itself.
            crate::hook!("keeper.told-end");
            self.remove_cgroup();
        }
    }

    /// Removes the cgroup, of which nobody is left.
    fn remove_cgroup(&mut self) {
        let Some(cgroup) = self.cgroup.take() else {
            return;
        };
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

    /// Lets go of all that is kept, and hides from whoever looks for it.
    pub(super) fn leave(&mut self) {
        self.stored.clear();
        self.close_door();
        self.flush();
    }

    /// Whether the next host may come and ask.
    fn is_awaited(&self) -> bool {
        self.door.is_some() && self.waits().is_some()
    }

    /// SIGKILL does not help: whoever waits is told who is left, and it is tried on.
    pub(super) fn report_stuck(&mut self) {
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
        let report = ending.report_stuck(&alive);
        let report = self.complete(report);
        for id in waiting {
            self.answer(id, &Reply::Ended(report.clone()), None);
        }
        if first {
            self.tell(&Event::Ended(report));
        }
    }

    /// Adds what the whole tree used, and the kernel's word on what it died of.
    pub(super) fn complete(&self, mut report: EndReport) -> EndReport {
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
}
