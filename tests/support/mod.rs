//! What every suite stands on: the misbehaving program, processes found by a mark and by kernel parentage, a scene that
//! cleans up after itself, and waiting for conditions with a deadline.
//!
//! The suites touch no process but their own. Each scene has a mark of 128 random bits, which its processes carry in their
//! environment or, where that is scrubbed, in their arguments; and, where the machine lets it, a cgroup of its own, by
//! which the kernel counts what is left, whatever it calls itself.
//!
//! `HOSTLER_TEST_SLACK` (default 5) multiplies every deadline, for loaded machines. What was measured is printed.

mod files;
mod front;
mod group;
mod kit;
mod processes;
mod scene;
mod slack;
mod terminal;

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub(crate) use files::{Lines, read_text};
pub(crate) use front::{Front, Outcome};
pub(crate) use kit::{Kit, Shape};
pub(crate) use processes::{Found, alive, children_of, find};
pub(crate) use scene::{Cell, Contain, Scene, User};
pub(crate) use slack::slack;
pub(crate) use terminal::Pty;

/// How long the suites let a stubborn process live after SIGTERM.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// For conditions that have no deadline of their own.
pub(crate) const SOON: Duration = Duration::from_secs(4);

/// Waits until `condition` holds, or panics with what `describe` has to say, after `deadline` times the slack. Gives back how
/// long it took.
pub(crate) fn wait_until_or(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> bool,
    describe: impl FnOnce() -> String,
) -> Duration {
    let start = Instant::now();
    let deadline = deadline * slack();
    loop {
        if condition() {
            return start.elapsed();
        }
        if start.elapsed() > deadline {
            panic!("not within {deadline:?}: {what}\n{}", describe());
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Waits until `condition` holds, or panics.
pub(crate) fn wait_until(
    what: &str,
    deadline: Duration,
    condition: impl FnMut() -> bool,
) -> Duration {
    wait_until_or(what, deadline, condition, String::new)
}

/// A turn for a test that keeps both cores busy: one such at a time.
pub(crate) fn heavy() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
