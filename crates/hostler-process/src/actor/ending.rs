//! What a tree's task does to end processes, and the tree.

use std::time::Duration;

use hostler_keeper::identity::Key;
use hostler_keeper::message::Request;
use hostler_keeper::outcome::EndReport;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::time::Instant;

use super::{Actor, Asked, PATIENCE, QUESTION, Watchdog};
use crate::ask::{Answer, Pending};
use crate::record::nothing_left;

impl Actor {
    pub(super) fn release(&mut self, key: Key, grace: Duration, reply: Answer<EndReport>) {
        let until = after(grace);
        let Some(record) = self.processes.get_mut(&key) else {
            let _ = reply.send(Ok(nothing_left()));
            return;
        };
        if let Some(report) = &record.released {
            let _ = reply.send(Ok(report.clone()));
            return;
        }
        record.waiting.push(reply);
        if record.releasing.is_none_or(|earlier| until < earlier) {
            record.releasing = Some(until);
            self.post(
                &Request::Release { key, grace },
                Vec::new(),
                Pending::Release(key),
            );
        }
    }

    pub(super) fn let_go(&mut self, key: Key, grace: Duration) {
        let Some(record) = self.processes.get_mut(&key) else {
            return;
        };
        record.guarded = false;
        let over = record.exit.borrow().is_some();
        let until = after(grace);
        if !over && record.releasing.is_none_or(|earlier| until < earlier) {
            record.releasing = Some(until);
            self.post(
                &Request::Release { key, grace },
                Vec::new(),
                Pending::Release(key),
            );
        }
        // The keeper drops its record once the process has ended, and so is ours then.
        if over {
            self.spend(Some(key), None);
            self.processes.remove(&key);
        } else {
            self.post_unheard(&Request::Forget { key });
        }
    }

    pub(super) fn detach(&mut self, key: Key) {
        let Some(record) = self.processes.get_mut(&key) else {
            return;
        };
        record.guarded = false;
        if record.exit.borrow().is_some() {
            self.processes.remove(&key);
        }
        self.post_unheard(&Request::Forget { key });
    }

    pub(super) fn end(&mut self, grace: Duration) {
        if self.report.is_some() {
            // Only the keeper's own end is awaited still.
            return;
        }
        self.post(&Request::End { grace }, Vec::new(), Pending::End);
        let at = after(grace) + PATIENCE - QUESTION;
        if self
            .watchdog
            .as_ref()
            .is_none_or(|watchdog| at < watchdog.at)
        {
            self.watch(at);
        }
    }

    /// Asks for a sign of life at that time.
    pub(super) fn watch(&mut self, at: Instant) {
        let asked = Asked::NotYet;
        self.watchdog = Some(Watchdog { at, asked });
    }

    /// The end takes longer than it should: is it the keeper that hangs, or what it ends?
    pub(super) fn look_after(&mut self) {
        match self.watchdog.as_ref().map(|watchdog| watchdog.asked) {
            None => {}
            Some(Asked::NotYet) => {
                let ping = self.post(&Request::Names, Vec::new(), Pending::Ping);
                self.watchdog = Some(Watchdog {
                    at: Instant::now() + QUESTION,
                    asked: Asked::By(ping),
                });
            }
            Some(Asked::Answered) => self.watch(Instant::now() + PATIENCE - QUESTION),
            Some(Asked::By(_)) => {
                self.watchdog = None;
                // Its connection hangs up by that, and the zygote takes over.
                let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
            }
        }
    }
}

/// The end of a grace from now; one that is not to end ends in a century.
fn after(grace: Duration) -> Instant {
    Instant::now() + grace.min(Duration::from_secs(100 * 365 * 24 * 3600))
}
