//! Processes, read from the kernel.

use std::fmt;
use std::fs;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// The kernel's flag (field 9 of stat) for a thread that is on its way out, whatever its state.
const PF_EXITING: u64 = 4;

/// A process as /proc shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its pid.
    pub(crate) pid: i32,
    /// Its parent's.
    pub(crate) parent: i32,
    /// When it started, in clock ticks since boot: with the pid, who it is.
    pub(crate) start: u64,
    /// The kernel's letter.
    pub(crate) state: char,
    /// Its name.
    pub(crate) name: String,
    /// Its threads, a leader that has ended counted.
    pub(crate) threads: u32,
    /// Whether its end has begun: no code of it runs any more, though it may wait in the kernel for others to be reaped.
    pub(crate) exiting: bool,
}

impl Found {
    /// The process of that pid, whoever it is now.
    pub(crate) fn read(pid: i32) -> Option<Self> {
        let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&bytes);
        let (left, right) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = right.split_ascii_whitespace().collect();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            name: left.split_once('(')?.1.to_owned(),
            threads: fields.get(17)?.parse().ok()?,
            exiting: fields.get(6)?.parse::<u64>().ok()? & PF_EXITING != 0,
        })
    }

    /// Whether it runs, or could: one that has ended does not, unless it's only its first thread that has.
    pub(crate) fn lives(&self) -> bool {
        !(self.exiting || matches!(self.state, 'Z' | 'X')) || self.threads > 1
    }

    /// Whether the same process is still there and lives.
    pub(crate) fn still_lives(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.start == self.start && now.lives())
    }

    /// Its arguments.
    pub(crate) fn command_line(&self) -> String {
        let bytes = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    }

    /// Sends it a signal, unless its pid is another's by now.
    pub(crate) fn signal(&self, signal: Signal) {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return;
        };
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return;
        };
        if Self::read(self.pid).is_some_and(|now| now.start == self.start) {
            let _ = pidfd_send_signal(fd, signal);
        }
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid,
            parent,
            state,
            name,
            threads,
            ..
        } = self;
        write!(
            f,
            "\n  pid {pid} parent {parent} state {state} threads {threads} `{name}`: {}",
            self.command_line()
        )
    }
}

/// Every process, this one excepted, that carries `mark` in its environment or arguments.
pub(crate) fn find(mark: &str) -> Vec<Found> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&pid| pid != own && carries(pid, mark))
        .filter_map(Found::read)
        .collect()
}

fn carries(pid: i32, mark: &str) -> bool {
    let holds =
        |path: String| fs::read(path).is_ok_and(|bytes| holds_part(&bytes, mark.as_bytes()));
    if holds(format!("/proc/{pid}/environ")) || holds(format!("/proc/{pid}/cmdline")) {
        return true;
    }
    // A process whose first thread has ended shows its memory only through the others.
    let threads = || {
        fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
    };
    threads().count() > 1
        && threads().any(|thread| holds(format!("{}/environ", thread.path().display())))
}

fn holds_part(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The children of a process, by the kernel's own list.
pub(crate) fn children_of(pid: i32) -> Vec<Found> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| {
            list.split(' ')
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    pids.into_iter().filter_map(Found::read).collect()
}

/// Whether a process of that pid lives.
pub(crate) fn alive(pid: i32) -> bool {
    Found::read(pid).is_some_and(|found| found.lives())
}
