//! Who a process is.

use std::fmt;

/// A process for as long as it exists, within one boot: its pid and its start time.
///
/// A pid alone is never enough, since the kernel gives it out again. Even the pair is a *name* only: start times are
/// counted in clock ticks (10 ms), in which a pid can in theory come round. Nothing is ever signalled by it; signals go
/// through a pidfd whose parentage was checked after it was opened (see [`crate::walk`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The pid, as the keeper's own pid namespace numbers it.
    pub pid: u32,
    /// Clock ticks between boot and the process's start: field 22 of `/proc/PID/stat` (proc_pid_stat(5)).
    pub start_time: u64,
}

impl ProcessId {
    /// A child of this process whose start time was not asked for: 0.
    pub(crate) fn unread(pid: rustix::process::Pid) -> Self {
        Self {
            pid: pid.as_raw_nonzero().get().cast_unsigned(),
            start_time: 0,
        }
    }
}

impl fmt::Display for ProcessId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.pid, self.start_time)
    }
}

/// A process's short name as the kernel keeps it: `/proc/PID/comm`, 15 bytes at most.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Comm {
    bytes: [u8; 15],
    len: u8,
}

impl Comm {
    /// The name held in `bytes`; what is beyond 15 bytes is cut, as the kernel does.
    pub fn new(bytes: &[u8]) -> Self {
        let len = bytes.len().min(15);
        let mut comm = Self {
            bytes: [0; 15],
            len: len as u8,
        };
        comm.bytes[..len].copy_from_slice(&bytes[..len]);
        comm
    }

    /// The name's bytes. A process may set any (prctl(2), `PR_SET_NAME`), so they need not be text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl fmt::Display for Comm {
    /// As text that is safe to print: control characters and what isn't UTF-8 are replaced.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in String::from_utf8_lossy(self.as_bytes()).chars() {
            let shown = if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            };
            write!(f, "{shown}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

/// The number by which a host names one process that it had a keeper start; unique within the keeper, chosen by the host
/// before the process exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);
