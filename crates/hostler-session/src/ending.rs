//! How a session's task begins a close, hears what it came to, and tries again where something is stuck.

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::By;
use hostler_process::Tree;
use tokio::time::Instant;

use crate::actor::{Actor, Kept};
use crate::closing::{self, Finished, Ownership, Plan};
use crate::event::{SessionEvent, SessionState};
use crate::mailbox::Message;
use crate::process::lock;
use crate::report::{CloseReason, CloseReport};

/// The pauses between tries to end what is stuck.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Something is stuck; what is needed to try again.
pub(crate) struct Stuck {
    pub(crate) plan: Option<Plan>,
    pub(crate) report: CloseReport,
    pub(crate) next: Instant,
    pause: Duration,
}

impl Actor {
    /// Every end passes here.
    pub(crate) fn close(&mut self, reason: CloseReason, by: By, grace: Option<Duration>) {
        match self.state() {
            SessionState::Closed => {}
            SessionState::Closing => {
                // A shorter grace takes the earlier one's place.
                if let (Some(grace), Some(tree)) = (grace, self.tree())
                    && !matches!(self.kept, Kept::From(_) | Kept::To(_))
                {
                    tokio::spawn(async move { drop(tree.end(grace).await) });
                }
            }
            SessionState::Stuck => self.try_again(),
            SessionState::Starting | SessionState::Active | SessionState::Detached => {
                self.begin_close(reason, by, grace);
            }
        }
    }

    fn tree(&self) -> Option<Arc<Tree>> {
        self.tree.as_ref().and_then(|tree| tree.get().ok())
    }

    /// Whose the tree is, now that this one closes.
    fn ownership(&self) -> Ownership {
        match &self.kept {
            Kept::From(_) => Ownership::Lent,
            Kept::To(to) if to.state().is_to_stay() => Ownership::Left(to.clone()),
            _ => Ownership::Whole,
        }
    }

    fn begin_close(&mut self, reason: CloseReason, by: By, grace: Option<Duration>) {
        self.set_state(SessionState::Closing, Some(reason));
        if self.in_ledger {
            // With the report, where that comes at once: the next host judges by the policy, not by this.
            let change = self.state_change(SessionState::Closing, by.clone());
            self.host.ledger.write_soon(vec![change]);
        }
        for entry in self.entries.values_mut() {
            if let Some(process) = &entry.process {
                process.stop.send_replace(true);
            }
        }
        let policy = self.status.borrow().policy.clone();
        let mut dirs = vec![self.dir.clone()];
        dirs.append(&mut self.more_dirs);
        let plan = Plan {
            host: self.host.clone(),
            id: self.id(),
            name: self.session.name().map(str::to_owned),
            reason,
            by,
            grace: grace.unwrap_or(policy.grace),
            tree: self.tree(),
            ownership: self.ownership(),
            resources: self.owned(),
            children: self.children.values().cloned().collect(),
            kept: self.kept_ids.clone(),
            dirs,
            began: Instant::now(),
            in_ledger: self.in_ledger,
        };
        let blank = plan.blank();
        self.carry_out(blank, closing::close(plan));
    }

    /// Runs a close as a task of its own. One that panics is tried again, as one that is stuck is.
    fn carry_out(
        &self,
        blank: CloseReport,
        close: impl Future<Output = Finished> + Send + 'static,
    ) {
        let mailbox = self.session.fixed.mailbox.clone();
        let task = tokio::spawn(close);
        tokio::spawn(async move {
            let finished = task.await.unwrap_or_else(|_| {
                let mut report = blank;
                report.proven = false;
                report.remaining = 1;
                Finished {
                    report,
                    again: None,
                }
            });
            mailbox.send(Message::Done(Box::new(finished)));
        });
    }

    pub(crate) fn try_again(&mut self) {
        let Some(stuck) = &mut self.stuck else { return };
        let Some(plan) = stuck.plan.take() else {
            return;
        };
        let report = stuck.report.clone();
        self.carry_out(report.clone(), closing::again(plan, report));
    }

    pub(crate) fn done(&mut self, finished: Finished) {
        let Finished { report, again } = finished;
        let shared = Arc::new(report.clone());
        if report.is_clean() && again.is_none() {
            self.abort_tasks();
            self.unregister();
            self.status.send_modify(|status| {
                status.state = SessionState::Closed;
                status.report = Some(shared);
                status.tree = None;
            });
            self.host.tell(SessionEvent::State {
                session: self.id(),
                state: SessionState::Closed,
                reason: Some(report.reason),
            });
            self.tell_parent_it_is_gone();
            self.give_up_loan();
            self.over = true;
            return;
        }
        let pause = self
            .stuck
            .as_ref()
            .map_or(FIRST_RETRY, |stuck| (stuck.pause * 2).min(LONGEST_RETRY));
        let first = self.stuck.is_none();
        let plan = again.or_else(|| self.plan_for_retry(&report));
        self.stuck = Some(Stuck {
            plan,
            next: Instant::now() + pause,
            pause,
            report,
        });
        self.status.send_modify(|status| {
            status.state = SessionState::Stuck;
            status.report = Some(shared.clone());
        });
        if first {
            self.host.tell(SessionEvent::State {
                session: self.id(),
                state: SessionState::Stuck,
                reason: Some(shared.reason),
            });
            let why = format!("{} processes cannot be ended", shared.remaining);
            self.record_state(SessionState::Stuck, By::new("host", why));
        }
    }

    /// Whichever session goes by the parent's id: one that was not reached is another when it is.
    pub(crate) fn tell_parent_it_is_gone(&self) {
        let parent = self.session.fixed.options.parent.as_ref();
        let parent =
            parent.and_then(|parent| lock(&self.host.registry).sessions.get(parent).cloned());
        if let Some(parent) = parent {
            let id = self.id();
            parent.fixed.mailbox.send(Message::ChildGone { id });
        }
    }

    /// After a close that panicked.
    fn plan_for_retry(&mut self, report: &CloseReport) -> Option<Plan> {
        Some(Plan {
            host: self.host.clone(),
            id: self.id(),
            name: report.name.clone(),
            reason: report.reason,
            by: report.by.clone(),
            grace: Duration::ZERO,
            tree: self.tree(),
            ownership: self.ownership(),
            resources: self.owned(),
            children: self.children.values().cloned().collect(),
            kept: self.kept_ids.clone(),
            dirs: vec![self.dir.clone()],
            began: Instant::now(),
            in_ledger: self.in_ledger,
        })
    }
}
