//! A session, as its users see it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_ledger::{By, ResourceId, SessionId};
use hostler_process::ProcessInfo;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::{Mailbox, Message};
use crate::options::{ExecOptions, Mode, SessionOptions};
use crate::policy::Policy;
use crate::process::{Foreground, ProcessHandle};
use crate::report::{CloseReason, CloseReport, Outcome};
use crate::resource::{Resource, ResourceInfo};
use crate::tree::SharedTree;

/// A session in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id.
    pub id: SessionId,
    /// Its name.
    pub name: Option<String>,
    /// The session that it belongs to.
    pub parent: Option<SessionId>,
    /// How it stands.
    pub state: SessionState,
    /// Why it is closing, closed or stuck.
    pub reason: Option<CloseReason>,
    /// When it was opened: Unix time in milliseconds.
    pub opened: u64,
    /// What it is allowed.
    pub policy: Policy,
    /// Where its processes start.
    pub cwd: Option<PathBuf>,
    /// What its client keeps with it.
    pub labels: Value,
    /// The way of containing that is in force: `tree`, `cgroup` or `pidns`.
    pub contain: Option<String>,
    /// The keeper's pid.
    pub keeper: Option<u32>,
    /// How many clients are attached.
    pub clients: u32,
    /// How many foreground processes run.
    pub foreground: u32,
    /// How many background processes and terminals run.
    pub background: u32,
    /// Whether an earlier host had it.
    pub adopted: bool,
    /// How many processes could not be ended, where it is stuck.
    pub remaining: u64,
}

/// What changes of a session.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) state: SessionState,
    pub(crate) reason: Option<CloseReason>,
    pub(crate) report: Option<Arc<CloseReport>>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) tree: Option<SharedTree>,
    pub(crate) clients: u32,
    pub(crate) foreground: u32,
    pub(crate) background: u32,
    pub(crate) adopted: bool,
    /// Whether its tree is another session's still, from which it keeps processes.
    pub(crate) lent: bool,
}

/// What does not change of a session.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) mailbox: Mailbox,
    pub(crate) options: SessionOptions,
    pub(crate) opened: u64,
    pub(crate) status: watch::Receiver<Status>,
    /// When it was last used, in a count that all sessions share.
    pub(crate) used: AtomicU64,
}

/// A session. Clones are the same one. It is a handle, not the ownership: a session lives until it is closed, by whatever
/// reason.
#[derive(Debug, Clone)]
pub struct Session {
    pub(crate) fixed: Arc<Fixed>,
}

impl Session {
    /// Its id.
    pub fn id(&self) -> &SessionId {
        &self.fixed.mailbox.id
    }

    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.fixed.options.name.as_deref()
    }

    /// The variables that it was opened with, for all its processes.
    pub fn env(&self) -> &std::collections::BTreeMap<String, String> {
        &self.fixed.options.env
    }

    /// How it stands.
    pub fn state(&self) -> SessionState {
        self.fixed.status.borrow().state
    }

    /// All that a listing shows of it.
    pub fn info(&self) -> SessionInfo {
        let status = self.fixed.status.borrow().clone();
        let options = &self.fixed.options;
        let tree = status.tree.and_then(|tree| tree.get().ok());
        SessionInfo {
            id: self.id().clone(),
            name: options.name.clone(),
            parent: options.parent.clone(),
            state: status.state,
            reason: status.reason,
            opened: self.fixed.opened,
            policy: (*status.policy).clone(),
            cwd: options.cwd.clone(),
            labels: options.labels.clone(),
            contain: tree.as_ref().map(|tree| tree.contain().as_str().into()),
            keeper: tree.as_ref().map(|tree| tree.keeper().pid),
            clients: status.clients,
            foreground: status.foreground,
            background: status.background,
            adopted: status.adopted,
            remaining: status.report.map_or(0, |report| report.remaining),
        }
    }

    /// Its close report, once it has closed or is stuck.
    pub fn report(&self) -> Option<Arc<CloseReport>> {
        self.fixed.status.borrow().report.clone()
    }

    /// Waits until it stands differently from `state`, and says how.
    ///
    /// Cancel safe.
    pub async fn changed_from(&self, state: SessionState) -> SessionState {
        let mut status = self.fixed.status.clone();
        match status.wait_for(|status| status.state != state).await {
            Ok(status) => status.state,
            Err(_) => self.state(),
        }
    }

    /// Attaches a client: while any is, the session is not detached. Dropping the guard detaches it.
    ///
    /// Cancel safe: dropped at any await, it is as though the client had come and left.
    ///
    /// # Errors
    /// [`Error::Closing`] and [`Error::Closed`].
    pub async fn attach(&self, who: impl Into<String>) -> Result<Attachment> {
        static CLIENTS: AtomicU64 = AtomicU64::new(1);
        let attachment = Attachment {
            session: self.clone(),
            client: CLIENTS.fetch_add(1, Ordering::Relaxed),
        };
        let (client, who) = (attachment.client, who.into());
        self.ask(|reply| Message::Attach { client, who, reply })
            .await??;
        Ok(attachment)
    }

    /// Says that a client did something: the idle time begins anew.
    pub fn touch(&self) {
        self.fixed.mailbox.send(Message::Touch);
    }

    /// Holds an automatic end off while the guard lives: a turn is under way.
    pub fn busy(&self) -> Busy {
        self.fixed.mailbox.send(Message::Busy);
        Busy {
            mailbox: self.fixed.mailbox.clone(),
        }
    }

    /// Starts a process or a terminal. When this returns its program has been executed; it may even have ended.
    ///
    /// Cancel safe: dropped at any await, either nothing was started, or what was started is ended at once.
    ///
    /// # Errors
    /// [`Error::Process`] with the step that failed, [`Error::Limit`] (then nothing was started), [`Error::Ledger`],
    /// [`Error::Closing`], [`Error::Closed`], [`Error::Invalid`].
    pub async fn exec(&self, options: ExecOptions, by: By) -> Result<ProcessHandle> {
        Ok(self.start(options, by, false).await?.process)
    }

    /// Starts a foreground process, with readers that miss nothing; on a terminal if asked.
    ///
    /// Cancel safe, as [`Session::exec`].
    ///
    /// # Errors
    /// As [`Session::exec`].
    pub async fn run(&self, options: ExecOptions, by: By) -> Result<Foreground> {
        let mode = Mode::Foreground;
        self.start(ExecOptions { mode, ..options }, by, true).await
    }

    async fn start(&self, options: ExecOptions, by: By, paced: bool) -> Result<Foreground> {
        let options = Box::new(options);
        let (unclaimed, followers) = self
            .ask(|reply| Message::Exec {
                options,
                by,
                paced,
                reply,
            })
            .await??;
        let process = unclaimed.release();
        let (stdout, stderr) = followers.unwrap_or_else(|| (process.stdout().follow(0), None));
        Ok(Foreground {
            process,
            stdout,
            stderr,
        })
    }

    /// Gives a resource to the session, which releases it when it closes. Where that fails, it is released at once.
    ///
    /// Cancel safe: it is owned, or was released.
    ///
    /// # Errors
    /// [`Error::Ledger`], [`Error::Closing`], [`Error::Closed`].
    pub async fn own(
        &self,
        resource: Box<dyn Resource>,
        name: Option<String>,
        by: By,
    ) -> Result<ResourceId> {
        self.ask(|reply| Message::Own {
            resource,
            name,
            by,
            reply,
        })
        .await?
    }

    /// Releases one resource before its session closes; of a process, ends it.
    ///
    /// Cancel safe: dropped, it goes on.
    ///
    /// # Errors
    /// [`Error::NoResource`], [`Error::Closing`], [`Error::Closed`].
    pub async fn release(&self, id: &ResourceId, by: By) -> Result<Outcome> {
        let id = id.clone();
        self.ask(|reply| Message::Release { id, by, reply }).await?
    }

    /// All that it owns, in the order in which it was started; also what has ended and is kept for looking at.
    ///
    /// # Errors
    /// [`Error::Closed`].
    pub async fn resources(&self) -> Result<Vec<ResourceInfo>> {
        self.ask(|reply| Message::Resources { reply }).await
    }

    /// Every living process of it, from the kernel.
    ///
    /// # Errors
    /// [`Error::Closed`] and [`Error::Process`].
    pub async fn census(&self) -> Result<Vec<ProcessInfo>> {
        let tree = self.fixed.status.borrow().tree.clone();
        let tree = tree.ok_or_else(|| Error::Closed(self.id().clone()))?;
        Ok(tree.get()?.census().await?)
    }

    /// Changes what it is allowed. Limits and containment stay as they were when it was opened.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Closing`], [`Error::Closed`].
    pub async fn set_policy(&self, policy: Policy, by: By) -> Result<()> {
        let policy = Box::new(policy);
        self.ask(|reply| Message::SetPolicy { policy, by, reply })
            .await?
    }

    /// Closes it: releases all that it owns and proves it. All callers, at whatever time, await one outcome and get the same
    /// report; the reason is the first one's. A shorter grace (`None`: the session's) than what is left of an earlier one
    /// takes its place. Where something cannot be ended the report says so (`remaining`, `stuck`), and it is tried on; a later
    /// call gives the newest report.
    ///
    /// Cancel safe: dropped, the close goes on.
    ///
    /// # Errors
    /// [`Error::Stopping`] when it was handed to the next host instead.
    pub async fn close(
        &self,
        reason: CloseReason,
        by: By,
        grace: Option<Duration>,
    ) -> Result<Arc<CloseReport>> {
        let mut status = self.fixed.status.clone();
        let before = status.borrow_and_update().clone();
        if let (SessionState::Closed, Some(report)) = (before.state, &before.report) {
            return Ok(report.clone());
        }
        self.fixed.mailbox.send(Message::Close {
            reason,
            by,
            grace,
            judge: false,
        });
        let told = status
            .wait_for(|status| {
                let same = match (&status.report, &before.report) {
                    (Some(now), Some(before)) => Arc::ptr_eq(now, before),
                    (now, _) => now.is_none(),
                };
                !same
            })
            .await;
        match told {
            Ok(status) => status.report.clone().ok_or(Error::Stopping),
            Err(_) => self.report().ok_or(Error::Stopping),
        }
    }

    /// Hands a running process (with all that is under it) to the session of this name, which is made if there is none, and
    /// else must keep processes of this one already: it
    /// outlives this one, visibly owned. Until this one closes they share a keeper; then the keeper is the other one's, and
    /// everything else in it is ended. One session can keep processes of this one at a time.
    ///
    /// Cancel safe: dropped, it is kept or not.
    ///
    /// # Errors
    /// [`Error::NoResource`], [`Error::Ended`], [`Error::NameTaken`], [`Error::Closing`], [`Error::Closed`].
    pub async fn keep(
        &self,
        sessions: &crate::Sessions,
        process: &ResourceId,
        name: &str,
        policy: Policy,
        by: By,
    ) -> Result<Session> {
        sessions.keep(self, process, name, policy, by).await
    }

    /// Asks its task.
    pub(crate) async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.fixed.mailbox.send(message(reply));
        answer.await.map_err(|_| match self.state() {
            SessionState::Closed => Error::Closed(self.id().clone()),
            // It lives on, in the next host.
            _ => Error::Stopping,
        })
    }
}

/// A client's place in a session. Dropping it detaches the client.
#[derive(Debug)]
#[must_use = "dropping it detaches"]
pub struct Attachment {
    session: Session,
    client: u64,
}

impl Attachment {
    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let client = self.client;
        self.session.fixed.mailbox.send(Message::Detach { client });
    }
}

/// Something is under way in a session. Dropping it says that it is over.
#[derive(Debug)]
#[must_use = "dropping it says that it is over"]
pub struct Busy {
    mailbox: Mailbox,
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.mailbox.send(Message::Quiet);
    }
}
