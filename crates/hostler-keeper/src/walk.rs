//! Going through the processes under one process: to list them, and to signal them.
//!
//! Listing is by pid and may be a moment out of date. Signalling never goes to a bare pid: a descendant is opened as a
//! pidfd first, then its parent is read, then it is made sure that the parent (itself opened and proven the same way) is
//! still there. A process that was once under a subreaper stays under it for as long as both live, so what is proven then
//! holds until the signal arrives, whatever is forked, reaped and recycled meanwhile.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::proc::{Proc, Stat};
use crate::signals::signal_handle;

/// How deep one walk holds pidfds. What is deeper comes up as those above it die, and is met by the next walk.
const DEPTH_MAX: usize = 256;

/// How often a listing looks for newcomers among the root's children. What forks without end is always new.
const ROUNDS_MAX: usize = 8;
/// The most processes that one such look goes through beyond those it began with.
const GENERATION_MAX: usize = 65_536;

/// Every living process under `root`, parents before their children. A process that changes its parent meanwhile is met
/// all the same: the walk goes on until a look at the root's own children shows nobody new (or it has looked often enough).
pub fn descendants(proc: &Proc, root: Pid, mut visit: impl FnMut(&Stat)) {
    let mut seen: HashSet<Pid> = HashSet::new();
    let mut queue = Vec::new();
    let mut next = 0;
    for _ in 0..ROUNDS_MAX {
        let known = queue.len();
        // The root is this process or one that it holds: it can be read, or it has no children.
        let mut own = Vec::new();
        let _ = proc.children(root, &mut own);
        queue.extend(own.into_iter().filter(|pid| seen.insert(*pid)));
        if queue.len() == known {
            return;
        }
        let end = queue.len() + GENERATION_MAX;
        while next < queue.len().min(end) {
            let pid = queue[next];
            next += 1;
            let Ok(stat) = proc.stat(pid) else { continue };
            if stat.is_dead() {
                continue;
            }
            visit(&stat);
            let mut children = Vec::new();
            if proc.children(pid, &mut children).is_ok() {
                queue.extend(children.into_iter().filter(|pid| seen.insert(*pid)));
            }
        }
    }
}

/// What to do with a process that a [`proven`] walk has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// Go on to its children.
    Enter,
    /// Leave its children alone.
    Skip,
}

/// A process that was proven to be under the root of a walk, and can be signalled.
#[derive(Debug)]
pub struct Proven<'a> {
    /// What the kernel says of it.
    pub stat: &'a Stat,
    handle: &'a OwnedFd,
}

impl Proven<'_> {
    /// Signals it.
    ///
    /// # Errors
    /// `SRCH` when it has ended, `PERM` when it belongs to somebody else.
    pub fn signal(&self, signal: i32) -> Result<(), Errno> {
        signal_handle(self.handle.as_fd(), signal)
    }
}

struct Frame {
    pid: Pid,
    /// `None` for the root, which is this process itself.
    handle: Option<OwnedFd>,
    children: Vec<Pid>,
}

impl Frame {
    fn is_there(&self) -> bool {
        // Signal 0 checks only. A process of another user answers PERM, and so is there too.
        let Some(handle) = &self.handle else {
            return true;
        };
        !matches!(signal_handle(handle.as_fd(), 0), Err(Errno::SRCH))
    }
}

/// Goes through the descendants of this very process, each proven before it is visited, parents before their children:
/// a parent that was sent SIGKILL can no longer fork (its threads all have it pending at once), so that its children,
/// read after that, are all it will ever have.
///
/// Processes that change their parent meanwhile may be missed; walk again until nothing is left.
pub fn proven(proc: &Proc, mut visit: impl FnMut(Proven<'_>) -> Visit) {
    let root = getpid();
    let mut children = Vec::new();
    let _ = proc.children(root, &mut children);
    let mut path = vec![Frame {
        pid: root,
        handle: None,
        children,
    }];
    while let Some(frame) = path.last_mut() {
        let Some(pid) = frame.children.pop() else {
            path.pop();
            continue;
        };
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let Ok(stat) = proc.stat(pid) else { continue };
        if stat.parent != frame.pid.as_raw_nonzero().get().cast_unsigned()
            || !frame.is_there()
            || stat.is_dead()
        {
            continue;
        }
        crate::hook!("walk.proven");
        if visit(Proven {
            stat: &stat,
            handle: &handle,
        }) == Visit::Enter
            && path.len() < DEPTH_MAX
        {
            let mut children = Vec::new();
            if proc.children(pid, &mut children).is_ok() && !children.is_empty() {
                path.push(Frame {
                    pid,
                    handle: Some(handle),
                    children,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn both_walks_meet_a_grandchild_and_only_what_is_below() {
        let mut child = Command::new("sh")
            // A shell gives what it starts in the background /dev/null for its input.
            .args(["-c", "exec 3<&0; cat <&3 & echo $!; wait"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        let proc = Proc::open().unwrap();
        let mut listed = Vec::new();
        descendants(&proc, getpid(), |stat| listed.push(stat.id.pid));
        let mut walked = Vec::new();
        proven(&proc, |process| {
            walked.push(process.stat.id.pid);
            Visit::Enter
        });
        for found in [&listed, &walked] {
            assert!(
                found.contains(&child.id()) && found.contains(&grandchild),
                "{found:?}"
            );
            assert!(!found.contains(&std::process::id()));
        }
        // Only these two are signalled: other tests have children of this process too.
        proven(&proc, |process| {
            if [child.id(), grandchild].contains(&process.stat.id.pid) {
                process.signal(libc::SIGKILL).unwrap();
            }
            Visit::Enter
        });
        child.wait().unwrap();
    }
}
