//! Trees and processes, as a host's async code has them.

#[path = "../support/async_tree.rs"]
#[allow(dead_code)]
mod support;

mod deaths;
mod ending;
mod holding;
mod starting;

use std::time::Duration;

use hostler_process::Signal;
use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};

const GRACE: Duration = Duration::from_millis(200);

/// Kills a process that is a child of this one or held by a test's own zygote, and so still itself.
fn kill(pid: u32, signal: Signal) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    pidfd_send_signal(pidfd_open(pid, PidfdFlags::empty()).unwrap(), signal).unwrap();
}
