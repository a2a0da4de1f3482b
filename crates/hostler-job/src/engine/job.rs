//! A job, as its users see it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_agent::RequestId;
use hostler_ledger::{By, JobEnd, JobId, JobOrigin, JobState, SessionId};
use hostler_session::CloseReport;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::actor::Message;
use super::error::{Error, Result};
use super::execute::permission::Permission;
use super::new::Kept;
use super::progress::End;
use crate::Loaded;
use crate::flow::StepId;

/// How a job stands.
#[derive(Debug, Clone)]
pub struct JobStatus {
    /// Its state.
    pub state: JobState,
    /// Why it ended, or is paused: an object with `code` and `message`; null else.
    pub why: Value,
    /// What it gave, once it has completed.
    pub outputs: Option<Value>,
    /// The session that holds what it starts, once it has begun.
    pub session: Option<SessionId>,
    /// Whether all that it held is gone, too: proven by the kernel.
    pub released: bool,
    /// Whether it has ended, and something that it started cannot be ended. That is tried on.
    pub stuck: bool,
    /// The close report of its session, once it is released.
    pub report: Option<Arc<CloseReport>>,
}

/// What the job's task and its handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: JobId,
    pub(crate) group: Option<String>,
    pub(crate) parent: Option<JobId>,
    pub(crate) origin: JobOrigin,
    pub(crate) loaded: Arc<Loaded>,
    pub(crate) kept: Kept,
    pub(crate) mailbox: mpsc::UnboundedSender<Message>,
    pub(crate) status: watch::Sender<JobStatus>,
    /// What is known of runs that have not ended, and is not in the ledger.
    pub(crate) live: Mutex<BTreeMap<u32, Map<String, Value>>>,
    /// What agents ask for while they make runs.
    pub(crate) permissions: Mutex<BTreeMap<u32, Permission>>,
    /// Set when the next host goes on with it.
    pub(crate) left: CancellationToken,
}

impl Shared {
    pub(crate) fn live(&self) -> MutexGuard<'_, BTreeMap<u32, Map<String, Value>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn permissions(&self) -> MutexGuard<'_, BTreeMap<u32, Permission>> {
        self.permissions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, message: Message) {
        let _ = self.mailbox.send(message);
    }

    /// What is known of a run that goes on.
    pub(crate) fn know(&self, run: u32, name: &str, value: impl Into<Value>) {
        let mut live = self.live();
        live.entry(run)
            .or_default()
            .insert(name.to_owned(), value.into());
    }

    /// The schedule that has made it.
    pub(crate) fn schedule(&self) -> Option<&str> {
        let scheduled = self.origin.scheduled()?;
        Some(&scheduled.schedule)
    }

    pub(crate) fn cwd(&self) -> &PathBuf {
        &self.kept.cwd
    }
}

/// A job. Clones are the same one. It is a handle, not the ownership: a job goes on when all are dropped.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) shared: Arc<Shared>,
}

impl Job {
    /// Its id.
    pub fn id(&self) -> &JobId {
        &self.shared.id
    }

    /// The name of its flow.
    pub fn name(&self) -> &str {
        &self.shared.loaded.flow.name
    }

    /// The group that it is of.
    pub fn group(&self) -> Option<&str> {
        self.shared.group.as_deref()
    }

    /// The job below which it runs.
    pub fn parent(&self) -> Option<&JobId> {
        self.shared.parent.as_ref()
    }

    /// The schedule that has made it.
    pub fn schedule(&self) -> Option<&str> {
        self.shared.schedule()
    }

    /// How it stands.
    pub fn status(&self) -> JobStatus {
        self.shared.status.borrow().clone()
    }

    /// Changes of how it stands.
    pub fn watch(&self) -> watch::Receiver<JobStatus> {
        self.shared.status.subscribe()
    }

    /// What is known of runs that go on, besides what the ledger has: the process, the conversation, the question.
    pub fn live(&self) -> BTreeMap<u32, Map<String, Value>> {
        self.shared.live().clone()
    }

    /// Waits until it has ended, and all that it held is gone, or cannot be ended ([`JobStatus::stuck`]).
    ///
    /// Cancel safe: the job goes on.
    ///
    /// # Errors
    /// [`Error::Stopping`] where it lives on in the next host.
    pub async fn wait(&self) -> Result<JobStatus> {
        self.until(|status| status.released || status.stuck).await
    }

    /// Waits until all is gone.
    pub(crate) async fn gone(&self) {
        let _ = self.until(|status| status.released).await;
    }

    /// Its session, once it has one; `None` where it ends before.
    pub(crate) async fn opened(&self) -> Option<SessionId> {
        let opened = self.until(|status| status.session.is_some() || status.state.is_ended());
        opened.await.ok()?.session
    }

    async fn until(&self, what: impl FnMut(&JobStatus) -> bool) -> Result<JobStatus> {
        let mut status = self.shared.status.subscribe();
        tokio::select! {
            biased;
            told = status.wait_for(what) => told.map(|status| status.clone()).map_err(|_| Error::Stopping),
            () = self.shared.left.cancelled() => Err(Error::Stopping),
        }
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T>>) -> Message,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.shared.tell(message(reply));
        match answer.await {
            Ok(answer) => answer,
            Err(_) if self.status().state.is_ended() => Err(Error::Ended(self.id().clone())),
            Err(_) => Err(Error::Stopping),
        }
    }

    /// Ends it: what runs is ended, and so are the jobs below it. Returns when all that it held is gone. One that has ended stays as
    /// it is; whoever asks, and how often, gets the one status.
    ///
    /// Cancel safe: dropped, it goes on.
    ///
    /// # Errors
    /// [`Error::Stopping`] where it lives on in the next host.
    pub async fn cancel(&self, by: By) -> Result<JobStatus> {
        self.begin_cancel(by);
        self.wait().await
    }

    /// The same, for somebody who does not wait.
    pub fn begin_cancel(&self, by: By) {
        let message = format!("cancelled by {}: {}", by.who, by.why);
        let end = Box::new(End::new(JobEnd::Cancelled, "cancelled", message));
        self.shared.tell(Message::End { end, by });
    }

    /// Nothing more of it begins; what runs goes on, and its result is kept.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Stopping`].
    pub async fn pause(&self, by: By) -> Result<()> {
        self.ask(|reply| Message::Pause { by, reply }).await
    }

    /// Goes on, also past steps for which a person was asked.
    ///
    /// # Errors
    /// [`Error::Conflict`] for one that is not paused, [`Error::Ended`], [`Error::Stopping`].
    pub async fn resume(&self, by: By) -> Result<()> {
        self.ask(|reply| Message::Resume { by, reply }).await
    }

    /// Does a step again, and all that waits for it, and goes on: in a job that is paused.
    ///
    /// # Errors
    /// [`Error::Conflict`], [`Error::Invalid`] for a step that there is not, [`Error::Ended`], [`Error::Stopping`].
    pub async fn retry_from(&self, step: &StepId, by: By) -> Result<()> {
        let step = step.clone();
        self.ask(|reply| Message::Retry { step, by, reply }).await
    }

    /// Answers a step that waits for a person: with its outputs, or with `answer`. Without a run, the one that waits.
    ///
    /// # Errors
    /// [`Error::Conflict`] where none waits, or several and none was named; [`Error::Invalid`] for an answer that is none;
    /// [`Error::Ended`], [`Error::Stopping`].
    pub async fn answer(
        &self,
        run: Option<u32>,
        values: Map<String, Value>,
        by: By,
    ) -> Result<u32> {
        self.answer_that((run, None), values, by).await
    }

    /// The same of one question: of what the agent of a run has asked permission for, which is refused when that is not what the run
    /// asks any more.
    ///
    /// # Errors
    /// As [`Self::answer`].
    pub async fn answer_that(
        &self,
        (run, request): (Option<u32>, Option<RequestId>),
        values: Map<String, Value>,
        by: By,
    ) -> Result<u32> {
        self.ask(|reply| Message::Answer {
            to: (run, request),
            values,
            by,
            reply,
        })
        .await
    }

    pub(crate) async fn freeze(&self) {
        let _ = self.ask(|reply| Message::Freeze { reply }).await;
    }
}
