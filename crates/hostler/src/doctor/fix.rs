//! Ends what was chosen: each process through a pidfd that was opened before it was proven to be the one that was meant.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hostler_keeper::identity::ProcessId;
use hostler_keeper::proc::Proc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::evidence::Verdict;
use super::judge::Finding;
use super::processes::printable;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(3);
/// How often a tree is looked through for what it has forked meanwhile.
const ROUNDS: usize = 16;

/// What became of a finding.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub root: ProcessId,
    pub end: End,
    pub processes: Vec<Ended>,
    /// Memory that was freed, in bytes.
    pub freed: u64,
}

/// How it went with a tree.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All of it is gone.
    Ended,
    /// It had ended before.
    Gone,
    /// Another process has its pid now.
    Another,
    /// By now it is somebody's: left alone.
    Owned(String),
    /// Some of it is still there.
    Remains(usize),
    /// It may not be opened.
    Refused(String),
}

/// What became of a process.
#[derive(Debug)]
pub(crate) struct Ended {
    pub id: ProcessId,
    pub command: String,
    /// `terminated`, `killed`, `stuck`, or why it was not signalled.
    pub how: String,
}

/// A process that was opened and proven.
struct Member {
    id: ProcessId,
    handle: OwnedFd,
    command: String,
    bytes: u64,
    how: How,
}

#[derive(PartialEq, Eq)]
enum How {
    Lives,
    Terminated,
    Killed,
    Refused(Errno),
}

struct Target {
    root: ProcessId,
    members: Vec<Member>,
    /// Whom to leave alone.
    spared: HashSet<u32>,
}

/// Ends the chosen trees, all at once. `again` looks and judges once more, and is asked after the roots were opened.
pub(crate) fn end(
    proc: &Proc,
    chosen: &[&Finding],
    again: impl FnOnce() -> io::Result<Vec<Finding>>,
) -> io::Result<Vec<Outcome>> {
    let opened: Vec<Result<Member, End>> = chosen.iter().map(|one| open(proc, one.root)).collect();
    hostler_keeper::hook!("doctor.opened");
    let now = again()?;
    let spared = own(proc);
    let mut outcomes = Vec::new();
    let mut targets = Vec::new();
    for (finding, opened) in chosen.iter().zip(opened) {
        let refused = |end| Outcome {
            root: finding.root,
            end,
            processes: Vec::new(),
            freed: 0,
        };
        match opened {
            Err(end) => outcomes.push(refused(end)),
            Ok(member) => match still_leaked(&now, finding, &member) {
                Ok(()) => targets.push(Target {
                    root: finding.root,
                    members: vec![member],
                    spared: spared.clone(),
                }),
                Err(end) => outcomes.push(refused(end)),
            },
        }
    }
    for target in &mut targets {
        target.grow(proc);
        target.signal(Signal::TERM);
    }
    wait(&mut targets, GRACE, &How::Terminated);
    for target in &mut targets {
        target.kill(proc);
    }
    wait(&mut targets, DYING, &How::Killed);
    outcomes.extend(targets.into_iter().map(Target::outcome));
    Ok(outcomes)
}

/// Opens the process, if it is still the one.
fn open(proc: &Proc, id: ProcessId) -> Result<Member, End> {
    let pid = Pid::from_raw(id.pid.cast_signed()).ok_or(End::Gone)?;
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Err(End::Gone),
        Err(errno) => return Err(End::Refused(errno.to_string())),
    };
    let stat = proc.stat(pid).map_err(|_| End::Gone)?;
    if stat.id != id {
        return Err(End::Another);
    }
    if stat.is_dead() {
        return Err(End::Gone);
    }
    Ok(Member {
        id,
        handle,
        command: printable(&stat.command.to_string()),
        bytes: proc.proportional(pid).unwrap_or(stat.resident),
        how: How::Lives,
    })
}

/// Whether the judgement of before still holds, of the very process that was opened.
fn still_leaked(now: &[Finding], before: &Finding, member: &Member) -> Result<(), End> {
    if !member.lives() {
        return Err(End::Gone);
    }
    let found = now
        .iter()
        .find(|finding| finding.tree.contains(&member.id.pid));
    match found {
        None => Err(End::Owned("it no longer looks leaked".to_owned())),
        Some(finding) if finding.root != before.root => {
            Err(End::Owned("it belongs to another tree now".to_owned()))
        }
        Some(finding) => match &finding.verdict {
            Verdict::Leaked { .. } => Ok(()),
            Verdict::Owned(owner) => Err(End::Owned(owner.to_string())),
        },
    }
}

/// This process and those above it.
fn own(proc: &Proc) -> HashSet<u32> {
    let mut found = HashSet::new();
    let mut pid = std::process::id();
    while pid != 0 && found.insert(pid) {
        let stat = Pid::from_raw(pid.cast_signed()).and_then(|pid| proc.stat(pid).ok());
        pid = stat.map_or(0, |stat| stat.parent);
    }
    found
}

impl Member {
    fn lives(&self) -> bool {
        let mut poll_fd = [PollFd::new(&self.handle, PollFlags::IN)];
        poll(&mut poll_fd, Some(&Timespec::default())) == Ok(0)
    }

    fn signal(&mut self, signal: Signal) {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(errno) => self.how = How::Refused(errno),
        }
    }
}

impl Target {
    /// Opens what is below its members, each proven to be a child of one of them: it was opened before its parent was
    /// read, and the parent was there after that. Tells whether there was anything new.
    fn grow(&mut self, proc: &Proc) -> bool {
        let before = self.members.len();
        let mut next = 0;
        while next < self.members.len() {
            let parent = self.members[next].id.pid;
            next += 1;
            let mut children = Vec::new();
            if let Some(pid) = Pid::from_raw(parent.cast_signed()) {
                let _ = proc.children(pid, &mut children);
            }
            for pid in children {
                let raw = pid.as_raw_nonzero().get().cast_unsigned();
                if self.spared.contains(&raw)
                    || self
                        .members
                        .iter()
                        .any(|one| one.id.pid == raw && one.lives())
                {
                    continue;
                }
                let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
                    continue;
                };
                let Ok(stat) = proc.stat(pid) else { continue };
                let name = stat.command;
                let hostler =
                    name.as_bytes() == b"hostler" || name.as_bytes().starts_with(b"hostler-");
                if stat.parent != parent
                    || !self.members[next - 1].lives()
                    || stat.is_dead()
                    || hostler
                {
                    continue;
                }
                self.members.push(Member {
                    id: stat.id,
                    handle,
                    command: printable(&name.to_string()),
                    bytes: proc.proportional(pid).unwrap_or(stat.resident),
                    how: How::Lives,
                });
            }
        }
        self.members.len() > before
    }

    /// To all that live, parents before their children.
    fn signal(&mut self, signal: Signal) {
        for member in &mut self.members {
            if member.how == How::Lives && member.lives() {
                member.signal(signal);
            }
        }
        // One that is stopped does not hear it otherwise.
        if signal == Signal::TERM {
            for member in &mut self.members {
                if member.how == How::Lives {
                    member.signal(Signal::CONT);
                }
            }
        }
    }

    fn kill(&mut self, proc: &Proc) {
        for _ in 0..ROUNDS {
            let new = self.grow(proc);
            self.signal(Signal::KILL);
            if !new {
                break;
            }
        }
    }

    fn outcome(self) -> Outcome {
        let remaining = self.members.iter().filter(|one| one.lives()).count();
        let freed = self.members.iter().filter(|one| !one.lives());
        Outcome {
            root: self.root,
            freed: freed.map(|one| one.bytes).sum(),
            end: if remaining == 0 {
                End::Ended
            } else {
                End::Remains(remaining)
            },
            processes: self
                .members
                .iter()
                .map(|one| Ended {
                    id: one.id,
                    command: one.command.clone(),
                    how: match one.how {
                        How::Terminated => "terminated".to_owned(),
                        How::Killed => "killed".to_owned(),
                        How::Refused(errno) => format!("cannot be signalled: {errno}"),
                        How::Lives => "stuck".to_owned(),
                    },
                })
                .collect(),
        }
    }
}

/// Waits until all are gone, or for so long; those that go meanwhile went so.
fn wait(targets: &mut [Target], time: Duration, how: &How) {
    let until = Instant::now() + time;
    loop {
        let mut living = Vec::new();
        for member in targets.iter_mut().flat_map(|target| &mut target.members) {
            if member.how == How::Lives && !member.lives() {
                member.how = match how {
                    How::Terminated => How::Terminated,
                    _ => How::Killed,
                };
            }
        }
        for member in targets.iter().flat_map(|target| &target.members) {
            if member.how == How::Lives {
                living.push(PollFd::new(&member.handle, PollFlags::IN));
            }
        }
        let left = until.saturating_duration_since(Instant::now());
        if living.is_empty() || left.is_zero() {
            return;
        }
        let left = Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        if !matches!(poll(&mut living, Some(&left)), Ok(_) | Err(Errno::INTR)) {
            return;
        }
    }
}
