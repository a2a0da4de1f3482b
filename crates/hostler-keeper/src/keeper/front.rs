//! Has the front stop and go on with its command.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::Keeper;
use crate::message::Event;
use crate::signals::signal_handle;

/// How long the front has to stop before it is looked whether it missed that it is to go on.
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// What is still to be done to have the front go on with its command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wake {
    /// To wake it.
    Due,
    /// To make sure, at this time, that it has not missed that.
    Look(Instant),
}

/// How the front stands to the stops of its command.
#[derive(Debug, Default)]
pub(super) struct FrontStops {
    pub(super) wake: Option<Wake>,
    /// How many stops it was told of and has not answered: it has stopped, or is about to.
    told: u32,
}

impl Keeper {
    pub(super) fn stopped_or_continued(&mut self, index: usize, status: i32) {
        let key = self.children[index].started.key;
        if libc::WIFSTOPPED(status) {
            self.front_stops.wake = None;
            self.tell_stopped(key, libc::WSTOPSIG(status));
        } else {
            self.tell(&Event::Continued { key });
            self.wake_front();
        }
    }

    pub(super) fn tell_stopped(&mut self, key: crate::identity::Key, signal: i32) {
        if self.front.is_some() {
            self.front_stops.told += 1;
        }
        self.tell(&Event::Stopped { key, signal });
    }

    /// The front has stopped and goes on, or had no reason to stop any more.
    pub(super) fn front_went_on(&mut self) {
        self.front_stops.told = self.front_stops.told.saturating_sub(1);
    }

    /// Lets the front go on. It may be about to stop, on an earlier word: it is looked after until it has answered that.
    pub(super) fn wake_front(&mut self) {
        if let Some(front) = &self.front {
            let _ = signal_handle(front.as_fd(), libc::SIGCONT);
            self.front_stops.wake = Some(Wake::Look(Instant::now() + LOOK_AFTER));
        }
    }

    /// Does what is due to have the front go on, and says when to look again.
    pub(super) fn front_round(&mut self, now: Instant) -> Option<Instant> {
        match self.front_stops.wake? {
            Wake::Due => self.wake_front(),
            Wake::Look(when) if now >= when => self.check_front(now),
            Wake::Look(_) => {}
        }
        match self.front_stops.wake? {
            Wake::Due => None,
            Wake::Look(when) => Some(when),
        }
    }

    fn check_front(&mut self, now: Instant) {
        let answers = self.front_stops.told > 0;
        self.front_stops.wake = answers.then_some(Wake::Look(now + LOOK_AFTER));
        let Some(front) = &self.front else { return };
        let parent = rustix::process::getppid().and_then(|zygote| self.proc.stat(zygote).ok());
        let pid = parent.and_then(|zygote| Pid::from_raw(zygote.parent.cast_signed()));
        // Only a look: the signal goes through the handle.
        if pid
            .and_then(|pid| self.proc.stat(pid).ok())
            .is_some_and(|stat| stat.state == b'T')
        {
            let _ = signal_handle(front.as_fd(), libc::SIGCONT);
        }
    }
}
