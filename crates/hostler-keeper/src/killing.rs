//! The pace at which SIGKILL is sent until nobody is left, and when it is said that it does not help.

use std::time::{Duration, Instant};

/// How long SIGKILL may go without any progress before what is left is called stuck.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// Between the first two rounds of SIGKILL: a chain of forks must be caught between two of them.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
/// Between later ones.
const LONGEST_PAUSE: Duration = Duration::from_millis(2);
/// Between attempts at what is stuck.
const RETRY: Duration = Duration::from_secs(1);

/// What one round came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Not done; look again then, or when a child ends.
    Wait(Instant),
    /// What is left does not die. It is tried again, but whoever waits is told.
    Stuck(Instant),
}

/// When the next round is due, and when there was progress last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    next: Instant,
    pause: Duration,
    progress: Instant,
}

impl Pace {
    /// The first round is due now.
    pub(crate) fn begin() -> Self {
        let now = Instant::now();
        Self {
            next: now,
            pause: FIRST_PAUSE,
            progress: now,
        }
    }

    /// When the next round is due.
    pub(crate) fn due(&self) -> Instant {
        self.next
    }

    /// Whether there was no round yet.
    pub(crate) fn is_first(&self) -> bool {
        self.pause == FIRST_PAUSE
    }

    /// Somebody has died.
    pub(crate) fn progressed(&mut self) {
        self.progress = Instant::now();
    }

    /// A round is over that began then.
    pub(crate) fn walked(&mut self, began: Instant) -> Round {
        let now = Instant::now();
        // Nobody is reaped during a walk, and that of many takes long: it is no time without progress.
        self.progress = now.min(self.progress + (now - began));
        // A walk costs as much as there are processes: each comes after twice the time of the one before, so that all of
        // them together cost no more than a few.
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        if now - self.progress > STUCK_AFTER {
            self.next = now + RETRY;
            return Round::Stuck(self.next);
        }
        Round::Wait(self.next)
    }
}
