//! Processes by their kernel identity, where no keeper is there to be asked.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The start time and the state of the process that has this pid now.
fn stat(pid: u32) -> Option<(u64, char)> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let bytes = std::fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // Field 22 of proc_pid_stat(5); the state was the third.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some((start_time, state))
}

/// The parent of the process that has this pid now.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let bytes = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let (_, fields) = text.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The name of the process that has this pid now.
pub(crate) fn command(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// Whether this very process lives, in this boot.
pub(crate) fn lives(pid: u32, start_time: u64) -> bool {
    stat(pid).is_some_and(|(start, state)| start == start_time && !matches!(state, 'Z' | 'X'))
}

/// A pidfd of this very process; `None` where it is gone.
pub(crate) fn hold(pid: u32, start_time: u64) -> Option<OwnedFd> {
    let handle = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::NONBLOCK).ok()?;
    // Looked at after it was opened: if it is the one now, the handle is its own.
    lives(pid, start_time).then_some(handle)
}
