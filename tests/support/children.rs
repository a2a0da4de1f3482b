//! Programs that a test has started itself.

use std::process::Child;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{SOON, wait_until};

/// Signals a child.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id().cast_signed()).expect("a pid");
    let _ = kill_process(pid, signal);
}

/// Waits for a child, and gives its status.
pub(crate) fn ended(child: &mut Child) -> std::process::ExitStatus {
    let mut status = None;
    wait_until("the client ends", SOON, || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    status.expect("just seen")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
