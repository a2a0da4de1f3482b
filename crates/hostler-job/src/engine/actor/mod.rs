//! The task that alone owns a job.

mod asked;
mod session;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hostler_agent::{PoolUse, RequestId};
use hostler_ledger::{
    By, Change, ConversationId, JobEnd, JobStanding, JobState, Refusal, StepRunRow, StepRunState,
    StepRunUpdate, WriteError,
};
use hostler_session::Session;
use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Result, StepError};
use super::execute::{self, Context};
use super::job::Shared;
use super::jobs::{Jobs, now};
use super::progress::{Again, Effect, End, Live, Outcome, Plan, Progress};
use crate::flow::{Interrupted, StepId};

/// Between two tries to write what the disk did not take.
const AGAIN: Duration = Duration::from_millis(500);

/// What a job is told.
#[derive(Debug)]
pub(crate) enum Message {
    Pause {
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    Resume {
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    Retry {
        step: StepId,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    Answer {
        /// To which run, and to which question of its agent's.
        to: (Option<u32>, Option<RequestId>),
        values: Map<String, Value>,
        by: By,
        reply: oneshot::Sender<Result<u32>>,
    },
    /// It is to end.
    End { end: Box<End>, by: By },
    /// It has ended, with its parent: the ledger says so.
    Over,
    /// A run has ended.
    RunEnded { run: u32, outcome: Box<Outcome> },
    /// To be in the ledger before the run goes on.
    Note {
        run: u32,
        changes: Vec<Change>,
        update: Box<StepRunUpdate>,
        done: oneshot::Sender<()>,
    },
    /// Lets go of everything, for the next host.
    Freeze { reply: oneshot::Sender<Result<()>> },
}

/// Why the task stops.
#[derive(Debug)]
pub(crate) enum Left {
    /// The job is to end so. What is still to be written of its runs is written with that.
    End(Box<End>, By, Vec<Change>),
    /// It has ended already, as the ledger says.
    Over,
    /// The ledger is closed: there is a next host, or none.
    Gone,
    /// The next host goes on with it.
    Frozen(oneshot::Sender<Result<()>>),
}

/// What stops the task, wherever it is.
type Stops<T> = std::result::Result<T, Left>;

impl Left {
    pub(crate) fn end(end: End, by: By) -> Self {
        Self::End(Box::new(end), by, Vec::new())
    }
}

/// A job's task.
pub(crate) struct Actor {
    jobs: Jobs,
    shared: Arc<Shared>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Message>,
    /// What was heard while something else was waited for.
    heard: VecDeque<Message>,
    progress: Progress,
    by: By,
    pub(crate) session: Option<Session>,
    /// How the runs are told to end that have not ended.
    running: HashMap<u32, CancellationToken>,
    pub(crate) tasks: JoinSet<()>,
    deadline: Option<Instant>,
    again: Vec<Again>,
    /// Runs of an earlier host that are to be taken up.
    earlier: Vec<Live>,
    /// Agents that those had.
    adopted: HashMap<ConversationId, PoolUse>,
    /// Who is to be told when the end is written.
    replies: Vec<Box<dyn FnOnce() + Send>>,
    begun: bool,
}

impl Actor {
    pub(crate) fn new(
        jobs: Jobs,
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Message>,
        progress: Progress,
        by: By,
    ) -> Self {
        Self {
            again: shared.kept.again.clone(),
            jobs,
            shared,
            inbox,
            heard: VecDeque::new(),
            progress,
            by,
            session: None,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            deadline: None,
            earlier: Vec::new(),
            adopted: HashMap::new(),
            replies: Vec::new(),
            begun: false,
        }
    }

    /// Of a job that an earlier host had begun.
    pub(crate) fn resumed(
        mut self,
        session: Option<Session>,
        (earlier, adopted): (Vec<Live>, HashMap<ConversationId, PoolUse>),
        began: Option<u64>,
    ) -> Self {
        self.session = session;
        (self.earlier, self.adopted) = (earlier, adopted);
        self.begun = began.is_some();
        self.bound(began);
        self
    }

    /// The time limit of the job, which counts from its beginning.
    fn bound(&mut self, began: Option<u64>) {
        let Some(limit) = self.shared.loaded.flow.limits.time else {
            return;
        };
        let gone = began.map_or(0, |began| now().saturating_sub(began));
        let left = limit.saturating_sub(Duration::from_millis(gone));
        self.deadline = Some(Instant::now() + left);
    }

    /// Does the job, until it ends or is let go of.
    pub(crate) async fn live(&mut self) -> Left {
        match self.try_live().await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn try_live(&mut self) -> Stops<std::convert::Infallible> {
        self.open_session().await?;
        if self.deadline.is_none() {
            self.bound(None);
        }
        let earlier = std::mem::take(&mut self.earlier);
        let effects = self.take_up(earlier).await?;
        self.make(Vec::new(), effects).await?;
        loop {
            let effects = self.progress.advance();
            if !effects.is_empty() {
                self.make(Vec::new(), effects).await?;
                continue;
            }
            if let Some(message) = self.heard.pop_front() {
                self.handle(message).await?;
                continue;
            }
            // Ends first, however much else there is to hear.
            let message = tokio::select! {
                biased;
                () = at(self.deadline) => return Err(self.timed_out()),
                () = session::closed(self.session.as_ref()) => return Err(self.session_gone()),
                message = self.inbox.recv() => message,
            };
            // It has a sender itself.
            let Some(message) = message else {
                return Err(Left::Gone);
            };
            self.handle(message).await?;
        }
    }

    fn timed_out(&self) -> Left {
        let limit = self.shared.loaded.flow.limits.time.unwrap_or_default();
        let message = format!("it has run for {limit:?}, as long as it may");
        let end = End::new(JobEnd::Failed, "timeout", message);
        Left::end(end, By::new("host", "its time is over"))
    }

    /// Waits for a future, or for a message that ends the job.
    async fn unless_ended<T>(&mut self, future: impl Future<Output = T>) -> Stops<T> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                done = &mut future => return Ok(done),
                message = self.inbox.recv() => match message {
                    Some(Message::End { end, by }) => return Err(Left::End(end, by, Vec::new())),
                    Some(Message::Over) => return Err(Left::Over),
                    Some(Message::Freeze { reply }) => return Err(Left::Frozen(reply)),
                    Some(other) => self.heard.push_back(other),
                    None => return Err(Left::Gone),
                },
                () = at(self.deadline) => return Err(self.timed_out()),
            }
        }
    }

    fn standing(&self, standing: JobStanding, why: Value, by: By) -> Change {
        Change::JobStanding {
            id: self.shared.id.clone(),
            standing,
            why,
            by,
        }
    }

    /// Writes, and waits for room on the disk, unless the job is to end.
    async fn write(&mut self, changes: Vec<Change>) -> Stops<()> {
        loop {
            match self.jobs.ledger().write_unsynced(changes.clone()).await {
                Ok(_) => return Ok(()),
                Err(WriteError::Refused(Refusal::JobEnded(_))) => return Err(Left::Over),
                Err(WriteError::Full | WriteError::ReadOnly) => {
                    self.unless_ended(tokio::time::sleep(AGAIN)).await?;
                }
                Err(WriteError::Gone) => return Err(Left::Gone),
                Err(error) => {
                    let message = format!("what it does cannot be recorded: {error}");
                    let end = End::new(JobEnd::Failed, "ledger", message);
                    return Err(Left::end(end, By::new("host", "a failure of the ledger")));
                }
            }
        }
    }

    /// Does what is to be done: first what is to be written, with `changes`, all in one.
    async fn make(&mut self, mut changes: Vec<Change>, effects: Vec<Effect>) -> Stops<()> {
        let (mut ends, mut acts, mut paused) = (None, Vec::new(), None);
        for effect in effects {
            match effect {
                Effect::Write(change) => changes.push(change),
                Effect::Pause(why) => {
                    let by = By::new("flow", "a rule asks for a person");
                    changes.push(self.standing(JobStanding::Paused, why.clone(), by));
                    paused = Some(why);
                }
                Effect::End(end) => ends = Some(end),
                Effect::Start(plan) => acts.push(Act::Start(plan)),
                Effect::Cancel(run) => acts.push(Act::Cancel(run)),
            }
        }
        if let Some(end) = ends {
            let by = By::new("flow", "its steps say so");
            return Err(Left::End(Box::new(end), by, changes));
        }
        if !changes.is_empty() {
            self.write(changes).await?;
        }
        if let Some(why) = paused {
            self.shared.status.send_modify(|status| {
                status.state = JobState::Standing(JobStanding::Paused);
                status.why = why;
            });
        }
        for act in acts {
            match act {
                Act::Start(plan) => self.start(plan, None),
                Act::Cancel(run) => {
                    if let Some(cancel) = self.running.get(&run) {
                        cancel.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    /// Starts a run in a task of its own; or takes up what an earlier host began of it.
    fn start(&mut self, plan: Plan, earlier: Option<StepRunRow>) {
        let Some(session) = self.session.clone() else {
            return;
        };
        let run = plan.run;
        let cancel = CancellationToken::new();
        self.running.insert(run, cancel.clone());
        let adopted = earlier.as_ref().and_then(|row| {
            let conversation = execute::conversation_of(row)?;
            self.adopted.remove(&conversation)
        });
        let context = Context {
            jobs: self.jobs.clone(),
            job: self.shared.clone(),
            session,
            plan,
            cancel,
            earlier,
            begun: Notify::new(),
        };
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            // One that panics has failed; the job is not touched by that.
            let task = execute::run(context, adopted);
            let task = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(task));
            let outcome = task.await.unwrap_or_else(|_| {
                Outcome::failed(StepError::new("internal", "the host failed at it"))
            });
            let outcome = Box::new(outcome);
            shared.tell(Message::RunEnded { run, outcome });
        });
    }

    /// Goes on with the runs of an earlier host.
    async fn take_up(&mut self, earlier: Vec<Live>) -> Stops<Vec<Effect>> {
        for Live { plan, row } in earlier {
            let step = &self.shared.loaded.flow.steps[plan.step];
            let goes_on = match &self.session {
                Some(session) if plan.is_whole => {
                    execute::goes_on(&self.jobs, session, step, &plan, &row).await
                }
                _ => false,
            };
            if goes_on {
                self.start(plan, Some(row));
            } else {
                // What had not begun was not cut off.
                let again = step.interrupted == Interrupted::Again
                    || row.state == StepRunState::Pending
                    || !plan.is_whole;
                self.progress.interrupted(plan.run, again);
            }
        }
        // Those of runs that did not go on are free.
        self.adopted.clear();
        Ok(self.progress.go_on())
    }

    async fn handle(&mut self, message: Message) -> Stops<()> {
        match message {
            Message::End { end, by } => return Err(Left::End(end, by, Vec::new())),
            Message::Over => return Err(Left::Over),
            Message::Freeze { reply } => return Err(Left::Frozen(reply)),
            Message::RunEnded { run, outcome } => {
                self.running.remove(&run);
                self.shared.live().remove(&run);
                while self.tasks.try_join_next().is_some() {}
                let effects = self.progress.run_ended(run, *outcome);
                self.make(Vec::new(), effects).await?;
            }
            Message::Note {
                run,
                mut changes,
                update,
                done,
            } => {
                if *update != StepRunUpdate::default() {
                    changes.push(Change::StepChanged {
                        job: self.shared.id.clone(),
                        run,
                        update,
                    });
                }
                self.write(changes).await?;
                let _ = done.send(());
            }
            Message::Pause { by, reply } => {
                self.pause(by).await?;
                let _ = reply.send(Ok(()));
            }
            Message::Resume { by, reply } => self.resume(Vec::new(), by, reply).await?,
            Message::Retry { step, by, reply } => self.retry(&step, by, reply).await?,
            Message::Answer {
                to,
                values,
                by,
                reply,
            } => self.answer(to, values, &by, reply).await?,
        }
        Ok(())
    }

    /// Ends all that runs, as far as it is this job's.
    pub(crate) fn cancel_all(&mut self) {
        self.progress.end();
        for cancel in self.running.values() {
            cancel.cancel();
        }
    }

    /// Lets go of all that runs, and ends nothing of it.
    pub(crate) fn let_go(&mut self) {
        self.tasks.abort_all();
    }
}

/// What is to be done once it is written.
enum Act {
    Start(Plan),
    Cancel(u32),
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The state of a run that waits for somebody.
pub(crate) fn suspended() -> StepRunUpdate {
    StepRunUpdate {
        state: Some(StepRunState::Suspended),
        ..StepRunUpdate::default()
    }
}
