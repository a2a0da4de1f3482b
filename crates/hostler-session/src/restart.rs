//! Starting a process again after it has failed: the pause, of which the next host is to know, and the clock that both count by.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_process::{Key, Process};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use crate::event::{ExitInfo, SessionEvent};
use crate::life::Life;
use crate::mailbox::Message;
use crate::options::Restart;
use crate::process::lock;
use crate::resource::ResourceState;
use crate::streams::Streams;

/// A process that has failed and is to be started again.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Paused {
    /// When: by the clock of this module.
    pub(crate) until: u64,
    /// How long the pause is.
    pub(crate) pause: Duration,
    /// How it ended.
    pub(crate) exit: ExitInfo,
    /// Which it was, by its number in the tree: its keeper may know it yet, though all is done about its end.
    #[serde(default)]
    pub(crate) key: u64,
}

/// The clock that two hosts share: milliseconds since the boot in which the machine did not sleep.
pub(crate) fn clock() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.cast_unsigned() * 1000 + time.tv_nsec.cast_unsigned() / 1_000_000
}

/// What came of starting it again.
pub(crate) enum Again {
    Started(Arc<Process>, Streams),
    /// It cannot be, or its end was asked for.
    Over,
    Frozen,
}

impl Life {
    /// Whether and when it is started again.
    pub(crate) fn pause(&self, exit: &ExitInfo, ran: Duration) -> Option<Paused> {
        let Restart::OnFailure {
            pause,
            longest,
            most,
        } = self.shared.options.restart
        else {
            return None;
        };
        let stopped = *self.shared.stop.borrow();
        if stopped || exit.is_success() || exit.lost || self.starts > most {
            return None;
        }
        let pause = match self.paused {
            Some(last) if ran < longest * 10 => (last.pause * 2).min(longest),
            _ => pause.min(longest),
        };
        Some(Paused {
            until: clock() + pause.as_millis() as u64,
            pause,
            exit: *exit,
            key: self.shared.key.load(Ordering::Relaxed),
        })
    }

    /// Starts it again after a pause, of which the next host is to know.
    pub(crate) async fn again(&mut self, paused: Paused) -> Again {
        self.paused = Some(paused);
        lock(&self.shared.running).process = None;
        self.shared
            .status
            .send_modify(|status| status.state = ResourceState::Restarting);
        self.shared.owner().send(Message::Restarting);
        self.host.tell(SessionEvent::Restarting {
            session: self.shared.owner().id,
            resource: self.shared.id.clone(),
            exit: paused.exit,
            starts: self.starts,
        });
        let key = Key(self.shared.key.load(Ordering::Relaxed));
        self.host.ledger.write_later(vec![self.detail_change(key)]);
        let left = Duration::from_millis(paused.until.saturating_sub(clock()));
        let mut stop = self.shared.stop.subscribe();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return Again::Over,
            () = self.shared.freeze.notified() => return Again::Frozen,
            () = sleep(left) => {}
        }
        match self.start_again().await {
            Ok((process, streams)) => Again::Started(process, streams),
            Err(_) => Again::Over,
        }
    }
}
