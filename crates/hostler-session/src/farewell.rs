//! What is done before a session ends without being asked: once, for a bounded time.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use hostler_ledger::By;
use tokio::time::timeout;

use crate::actor::Actor;
use crate::mailbox::Message;
use crate::report::CloseReason;
use crate::session::Session;

/// What is done, from the reason on.
pub type Act = Box<dyn FnOnce(CloseReason) -> Doing + Send + Sync>;

/// It being done.
pub type Doing = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done, and for how long it may be.
pub struct Farewell {
    /// When it is over, or the time is, the session closes.
    pub limit: Duration,
    /// What is done, told why the session is to close. It may start processes and turns.
    pub act: Act,
}

impl fmt::Debug for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Farewell")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Does this once before the session ends by its idle time, its age or its daily reset; a second one takes the place of
    /// the first. Any other close does not wait for it, and cuts it off where it is under way.
    pub fn before_end(&self, farewell: Farewell) {
        self.fixed.mailbox.send(Message::BeforeEnd(farewell));
    }
}

impl Actor {
    /// Closes for a reason of the policy's, after what is to be done before.
    pub(crate) fn end(&mut self, reason: CloseReason) {
        let own = matches!(
            reason,
            CloseReason::Idle | CloseReason::Expired | CloseReason::Reset
        );
        let farewell = self.farewell.take_if(|_| own);
        let Some(farewell) = farewell else {
            return self.close_by_policy(reason);
        };
        self.parting = true;
        let mailbox = self.session.fixed.mailbox.clone();
        let act = (farewell.act)(reason);
        tokio::spawn(async move {
            let mut task = tokio::spawn(act);
            if timeout(farewell.limit, &mut task).await.is_err() {
                task.abort();
            }
            mailbox.send(Message::Parted { reason });
        });
    }

    /// It was done, or took too long.
    pub(crate) fn parted(&mut self, reason: CloseReason) {
        if self.parting && self.state().is_open() {
            self.close_by_policy(reason);
        }
    }

    fn close_by_policy(&mut self, reason: CloseReason) {
        let by = By::new("host", format!("the session's policy: {reason}"));
        self.close(reason, by, None);
    }
}
