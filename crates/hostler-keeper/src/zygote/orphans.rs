//! Ending what the dead have left to this process: the zygote has what killed keepers leave, the front what both leave.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, getpid};

use crate::cgroup::Cgroup;
use crate::identity::ProcessId;
use crate::keeper::{wait_any, wait_peek};
use crate::killing::{Pace, Round};
use crate::outcome::{EndReason, EndReport, How, Left};
use crate::proc::{Proc, Stat};
use crate::walk::{Visit, proven};

use super::serve::Dead;

/// What a keeper has left that died, or to the front the zygote. Of those that are orphaned while the ends of several are
/// awaited, nobody knows any more whose they were: each of these has them.
pub(super) struct Bereaved {
    /// Of whom it is still to be told that nothing is left, or that something is stuck.
    pub dead: Option<Dead>,
    /// The cgroup that it had.
    pub group: Option<Cgroup>,
    began: Instant,
    pace: Pace,
    orphans: Vec<Left>,
    /// Where those that are not known to be gone stand among the orphans.
    by_pid: HashMap<u32, usize>,
}

impl Bereaved {
    pub(super) fn begin(dead: Option<Dead>, group: Option<Cgroup>) -> Self {
        Self {
            dead,
            group,
            began: Instant::now(),
            pace: Pace::begin(),
            orphans: Vec::new(),
            by_pid: HashMap::new(),
        }
    }

    /// When they are to be killed next.
    pub(super) fn due(&self) -> Instant {
        self.pace.due()
    }

    /// Takes note of a round that began then.
    pub(super) fn walked(&mut self, began: Instant) -> Round {
        self.pace.walked(began)
    }

    fn note(&mut self, stat: &Stat) {
        if let Some(index) = self.by_pid.get(&stat.id.pid)
            && self.orphans[*index].id == stat.id
        {
            return;
        }
        self.by_pid.insert(stat.id.pid, self.orphans.len());
        self.orphans.push(Left {
            id: stat.id,
            command: stat.command,
            how: How::Killed,
            took: Duration::ZERO,
        });
    }

    /// The report, when so many are left.
    pub(super) fn report(&self, proc: Option<&Proc>, remaining: u64) -> EndReport {
        let took = self.began.elapsed();
        let mut left = self.orphans.clone();
        if remaining > 0 {
            for index in self.by_pid.values() {
                let orphan = &mut left[*index];
                // Those with parents of their own are not told of.
                if proc.is_none_or(|proc| is_there(proc, orphan.id)) {
                    orphan.how = How::Stuck;
                    orphan.took = took;
                }
            }
        }
        EndReport {
            reason: EndReason::KeeperLost,
            left,
            remaining,
            took,
            cpu: Duration::ZERO,
            peak_memory: 0,
        }
    }
}

/// Who may have left the process with this pid: who is known to have it or its parent, else all whose end is awaited.
fn owners(all: &[Bereaved], pid: u32, parent: Option<u32>) -> Vec<usize> {
    let those = |who: &dyn Fn(&Bereaved) -> bool| -> Vec<usize> {
        (0..all.len()).filter(|index| who(&all[*index])).collect()
    };
    let has = |pid: u32| those(&|bereaved| bereaved.by_pid.contains_key(&pid));
    let mut owners = has(pid);
    if let (true, Some(parent)) = (owners.is_empty(), parent) {
        owners = has(parent);
    }
    if owners.is_empty() {
        owners = those(&|bereaved| bereaved.dead.is_some());
    }
    if owners.is_empty() {
        owners.extend(all.len().checked_sub(1));
    }
    owners
}

/// A child of this process, that is none of its own, was waited for.
pub(super) fn reaped(all: &mut [Bereaved], pid: Pid) {
    let pid = number(pid);
    for index in owners(all, pid, None) {
        let bereaved = &mut all[index];
        bereaved.pace.progressed();
        let took = bereaved.began.elapsed();
        if let Some(index) = bereaved.by_pid.remove(&pid) {
            bereaved.orphans[index].took = took;
        }
    }
}

/// Sends SIGKILL to every descendant that is not under one of `spared`.
pub(super) fn kill(proc: &Proc, spared: &[Pid], all: &mut [Bereaved]) {
    for group in all.iter().filter_map(|bereaved| bereaved.group.as_ref()) {
        let _ = group.kill();
    }
    proven(proc, |process| {
        let stat = process.stat;
        if spared.iter().any(|pid| number(*pid) == stat.id.pid) {
            return Visit::Skip;
        }
        for index in owners(all, stat.id.pid, Some(stat.parent)) {
            all[index].note(stat);
        }
        let _ = process.signal(libc::SIGKILL);
        Visit::Enter
    });
}

/// This process's children without those that are `spared`, the dead included; nothing where they can't be listed.
fn children(proc: &Proc, spared: &[Pid]) -> Option<Vec<Pid>> {
    let mut children = Vec::new();
    proc.children(getpid(), &mut children).ok()?;
    children.retain(|pid| !spared.contains(pid));
    Some(children)
}

/// How many each of them has left yet. `spared` are children of this process that live.
pub(super) fn count(proc: &Proc, spared: &[Pid], all: &[Bereaved]) -> Vec<u64> {
    let mut counts: Vec<u64> = all
        .iter()
        .map(|bereaved| u64::from(bereaved.group.as_ref().is_some_and(Cgroup::is_populated)))
        .collect();
    // With nobody to spare it is the kernel's to say.
    if spared.is_empty() && !has_children() {
        return counts;
    }
    let listed = children(proc, spared);
    let mut children: Vec<u64> = vec![0; all.len()];
    for pid in listed.iter().flatten() {
        for index in owners(all, number(*pid), None) {
            children[index] += 1;
        }
    }
    // There is somebody, whom the list does not show.
    let hidden = spared.is_empty() && listed.as_ref().is_some_and(Vec::is_empty);
    let unknown = listed.is_none() || hidden;
    for (count, children) in counts.iter_mut().zip(children) {
        *count = (*count).max(children).max(u64::from(unknown));
    }
    counts
}

/// Names the children that were dead before they were met, and are held so: from here on they are known to be those of
/// whom it is said now that something is stuck.
pub(super) fn name_the_held(proc: &Proc, spared: &[Pid], all: &mut [Bereaved]) {
    for pid in children(proc, spared).unwrap_or_default() {
        if let Ok(stat) = proc.stat(pid) {
            for index in owners(all, stat.id.pid, None) {
                all[index].note(&stat);
            }
        }
    }
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().cast_unsigned()
}

/// Whether this process has children: it may have been given some by the program that it was executed in place of.
pub fn has_children() -> bool {
    wait_peek() != Err(Errno::CHILD)
}

/// Whether a process is there, or may be.
fn is_there(proc: &Proc, id: ProcessId) -> bool {
    match Pid::from_raw(id.pid.cast_signed()).map(|pid| proc.stat(pid)) {
        Some(Ok(stat)) => stat.id == id,
        Some(Err(Errno::NOENT | Errno::SRCH)) | None => false,
        Some(Err(_)) => true,
    }
}

/// Ends what has come to this process because zygote and keeper were both killed: every child it has. For a front which had
/// no children when it made itself a subreaper, so that all others are its command's.
///
/// Returns when the kernel says that there is no child, or when those that there are have not died of SIGKILL for 2 s: the
/// report then says that they remain.
pub fn end_adopted() -> EndReport {
    let mut all = [Bereaved::begin(None, None)];
    let Ok(proc) = Proc::open() else {
        return all[0].report(None, u64::from(has_children()));
    };
    loop {
        let began = Instant::now();
        kill(&proc, &[], &mut all);
        while let Some((pid, status, _)) = wait_any() {
            if !libc::WIFSTOPPED(status) && !libc::WIFCONTINUED(status) {
                reaped(&mut all, pid);
            }
        }
        let remaining = count(&proc, &[], &all)[0];
        if remaining == 0 {
            return all[0].report(None, 0);
        }
        match all[0].walked(began) {
            Round::Wait(next) => {
                let pause = next.saturating_duration_since(Instant::now());
                let pause = rustix::event::Timespec {
                    tv_sec: 0,
                    tv_nsec: pause.subsec_nanos().into(),
                };
                let _ = rustix::event::poll(&mut [], Some(&pause));
            }
            Round::Stuck(_) => {
                name_the_held(&proc, &[], &mut all);
                return all[0].report(Some(&proc), remaining);
            }
        }
    }
}
