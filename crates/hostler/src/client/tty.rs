//! The user's terminal: its size, its raw mode, and the way back from there, which every end of this process takes.

use std::os::fd::BorrowedFd;
use std::sync::{Mutex, Once, PoisonError};

use rustix::stdio::{stderr, stdin, stdout};
use rustix::termios::{
    OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};

use super::error::{Failure, Result};

/// How the terminal was before it was made raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether standard input is a terminal.
pub(crate) fn stdin_is() -> bool {
    isatty(stdin())
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is() -> bool {
    isatty(stdout())
}

/// Lines and columns of the terminal, if one of the standard streams is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    [stdout(), stdin(), stderr()]
        .into_iter()
        .filter_map(|fd| tcgetwinsize(fd).ok())
        .find(|size| size.ws_row > 0 && size.ws_col > 0)
        .map(|size| (size.ws_row, size.ws_col))
}

/// Whether this process is in the terminal's foreground, and so may read it and change it.
pub(crate) fn is_foreground(fd: BorrowedFd<'_>) -> bool {
    // One that is not its own controlling terminal has no say in that.
    tcgetpgrp(fd).map_or(true, |group| group == rustix::process::getpgrp())
}

/// The terminal is raw while this lives.
#[derive(Debug)]
#[must_use = "dropping it restores the terminal"]
pub(crate) struct Raw(());

impl Raw {
    /// Makes the terminal at standard input raw: every key comes at once and as it is.
    pub(crate) fn enter() -> Result<Self> {
        let failed = |error: rustix::io::Errno| Failure::io("set the terminal", error);
        let before = tcgetattr(stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        // Before the change, so that there is no moment at which the way back is not known.
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        restore_on_panic();
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(guard)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back to how it was, if it was made raw.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // In the background it is the shell's, which has set it as it likes; to touch it would stop this process.
        if is_foreground(stdin()) {
            let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
        }
    }
}

/// Where a panic aborts, nothing is dropped.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            earlier(panic);
        }));
    });
}
