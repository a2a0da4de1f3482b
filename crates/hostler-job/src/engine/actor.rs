//! The task that alone owns a job.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{
    By, Change, JobEnd, JobStanding, JobState, Refusal, StepRunState, StepRunUpdate, WriteError,
};
use hostler_session::{CloseReason, Session, SessionOptions};
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Result, StepError};
use super::execute::{self, Context};
use super::job::Shared;
use super::jobs::{Jobs, now, why};
use super::new::Kept;
use super::progress::{Again, Effect, End, Live, Outcome, Plan, Progress};
use crate::flow::StepId;

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
        run: Option<u32>,
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
    /// The job is to end so.
    End(Box<End>, By),
    /// It has ended already, as the ledger says.
    Over,
    /// The next host goes on with it.
    Frozen(oneshot::Sender<Result<()>>),
}

/// What stops the task, wherever it is.
type Stops<T> = std::result::Result<T, Left>;

/// A run that has not ended.
struct Running {
    cancel: CancellationToken,
    answer: Option<oneshot::Sender<Map<String, Value>>>,
}

/// A job's task.
pub(crate) struct Actor {
    jobs: Jobs,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Message>,
    progress: Progress,
    by: By,
    pub(crate) session: Option<Session>,
    running: HashMap<u32, Running>,
    pub(crate) tasks: JoinSet<()>,
    deadline: Option<Instant>,
    again: Vec<Again>,
    /// Runs of an earlier host that are to be taken up.
    earlier: Vec<Live>,
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
            progress,
            by,
            session: None,
            running: HashMap::new(),
            tasks: JoinSet::new(),
            deadline: None,
            earlier: Vec::new(),
            begun: false,
        }
    }

    /// Of a job that an earlier host had begun.
    pub(crate) fn resumed(
        mut self,
        session: Option<Session>,
        earlier: Vec<Live>,
        began: Option<u64>,
    ) -> Self {
        self.session = session;
        self.earlier = earlier;
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
        self.make(effects).await?;
        loop {
            let effects = self.progress.advance();
            if !effects.is_empty() {
                self.make(effects).await?;
                continue;
            }
            let message = tokio::select! {
                biased;
                message = self.inbox.recv() => message,
                () = at(self.deadline) => return Err(self.timed_out()),
                () = closed(self.session.as_ref()) => return Err(self.session_gone()),
            };
            match message {
                Some(message) => self.handle(message).await?,
                // Nobody is left who could ask; it goes on as long as there is a host.
                None => return Err(Left::Over),
            }
        }
    }

    fn timed_out(&self) -> Left {
        let limit = self.shared.loaded.flow.limits.time.unwrap_or_default();
        let message = format!("it has run for {limit:?}, as long as it may");
        let end = End::new(JobEnd::Failed, "timeout", message);
        Left::End(Box::new(end), By::new("host", "its time is over"))
    }

    fn session_gone(&self) -> Left {
        let reason = self
            .session
            .as_ref()
            .and_then(|session| session.info().reason);
        if reason == Some(CloseReason::Shutdown) {
            let end = End::new(JobEnd::Cancelled, "shutdown", "the host was told to stop");
            return Left::End(Box::new(end), By::new("host", "it stops"));
        }
        if reason == Some(CloseReason::ParentClosed) && self.shared.parent.is_some() {
            let end = End::new(
                JobEnd::Cancelled,
                "parent_ended",
                "the job above it has ended",
            );
            return Left::End(Box::new(end), By::new("host", "its parent has ended"));
        }
        let why = reason.map_or_else(|| "gone".to_owned(), |reason| reason.to_string());
        let message = format!("its session was closed: {why}");
        let end = End::new(JobEnd::Failed, "session_closed", message);
        Left::End(Box::new(end), By::new("host", "its session was closed"))
    }

    /// Waits for a future, or for a message that ends the job.
    async fn unless_ended<T>(&mut self, future: impl Future<Output = T>) -> Stops<T> {
        let mut future = std::pin::pin!(future);
        let mut later = Vec::new();
        let done = loop {
            tokio::select! {
                biased;
                done = &mut future => break Ok(done),
                message = self.inbox.recv() => match message {
                    Some(Message::End { end, by }) => break Err(Left::End(end, by)),
                    Some(Message::Over) | None => break Err(Left::Over),
                    Some(Message::Freeze { reply }) => break Err(Left::Frozen(reply)),
                    Some(other) => later.push(other),
                },
                () = at(self.deadline) => break Err(self.timed_out()),
            }
        };
        for message in later {
            self.shared.tell(message);
        }
        done
    }

    /// The session that holds all that the job starts.
    async fn open_session(&mut self) -> Stops<()> {
        if self.session.is_some() {
            return Ok(());
        }
        let above = self.shared.parent.clone();
        let above = above.and_then(|above| self.jobs.get(above.as_str()).ok());
        let parent = match above {
            // After the death of a host, that one opens a new one too.
            Some(above) => {
                let opened = async move { above.opened().await };
                self.unless_ended(opened).await?
            }
            None => None,
        };
        let options = SessionOptions {
            parent,
            cwd: Some(self.shared.cwd().clone()),
            policy: self.shared.kept.policy.clone(),
            labels: json!({ "job": self.shared.id, "flow": self.shared.loaded.flow.name }),
            ..SessionOptions::default()
        };
        let by = By::new(format!("job {}", self.shared.id), "it begins");
        let sessions = self.jobs.sessions().clone();
        let session = match self.unless_ended(sessions.open(options, by)).await? {
            Ok(session) => session,
            Err(hostler_session::Error::Stopping) => {
                let end = End::new(JobEnd::Cancelled, "shutdown", "the host was told to stop");
                return Err(Left::End(Box::new(end), By::new("host", "it stops")));
            }
            Err(error) => {
                let message = format!("no session could be opened for it: {error}");
                let end = End::new(JobEnd::Failed, "no_session", message);
                return Err(Left::End(Box::new(end), self.by.clone()));
            }
        };
        let id = session.id().clone();
        self.session = Some(session);
        let mut changes = vec![Change::JobSession {
            id: self.shared.id.clone(),
            session: id.clone(),
        }];
        if !self.begun {
            changes.push(self.standing(JobStanding::Running, Value::Null, self.by.clone()));
        }
        self.write(changes).await?;
        let begun = self.begun;
        self.begun = true;
        self.shared.status.send_modify(|status| {
            status.session = Some(id);
            if !begun {
                status.state = JobState::Standing(JobStanding::Running);
            }
        });
        Ok(())
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
                Err(error) => {
                    let message = format!("what it does cannot be recorded: {error}");
                    let end = End::new(JobEnd::Failed, "ledger", message);
                    return Err(Left::End(
                        Box::new(end),
                        By::new("host", "a failure of the ledger"),
                    ));
                }
            }
        }
    }

    /// Does what is to be done: first what is to be written.
    async fn make(&mut self, effects: Vec<Effect>) -> Stops<()> {
        let (mut changes, mut ends) = (Vec::new(), None);
        let mut acts = Vec::new();
        let mut paused = None;
        for effect in effects {
            match effect {
                Effect::Write(change) => changes.push(change),
                Effect::Pause(why) => {
                    let by = By::new("flow", "a rule asks for a person");
                    changes.push(self.standing(JobStanding::Paused, why.clone(), by));
                    paused = Some(why);
                }
                Effect::End(end) => ends = Some(end),
                act @ (Effect::Start(_) | Effect::Cancel(_)) => acts.push(act),
            }
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
        if let Some(end) = ends {
            let by = By::new("flow", "its steps say so");
            return Err(Left::End(Box::new(end), by));
        }
        for act in acts {
            match act {
                Effect::Start(plan) => self.start(plan, None),
                Effect::Cancel(run) => {
                    if let Some(running) = self.running.get(&run) {
                        running.cancel.cancel();
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a run in a task of its own; or takes up what an earlier host began of it.
    fn start(&mut self, plan: Plan, earlier: Option<hostler_ledger::StepRunRow>) {
        let Some(session) = self.session.clone() else {
            return;
        };
        let run = plan.run;
        let cancel = CancellationToken::new();
        let (answer, answered) = oneshot::channel();
        self.running.insert(
            run,
            Running {
                cancel: cancel.clone(),
                answer: Some(answer),
            },
        );
        let context = Context {
            jobs: self.jobs.clone(),
            job: self.shared.clone(),
            session,
            plan,
            cancel,
            earlier,
        };
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            // One that panics has failed; the job is not touched by that.
            let task = execute::run(context, answered);
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
                Some(session) => {
                    let known = execute::goes_on(&self.jobs, session, step, &plan, &row).await;
                    known
                }
                None => false,
            };
            if goes_on {
                self.start(plan, Some(row));
            } else {
                let again = step.interrupted == crate::flow::Interrupted::Again;
                self.progress.interrupted(plan.run, again);
            }
        }
        Ok(self.progress.go_on())
    }

    async fn handle(&mut self, message: Message) -> Stops<()> {
        match message {
            Message::End { end, by } => return Err(Left::End(end, by)),
            Message::Over => return Err(Left::Over),
            Message::Freeze { reply } => return Err(Left::Frozen(reply)),
            Message::RunEnded { run, outcome } => {
                self.running.remove(&run);
                self.shared.live().remove(&run);
                while self.tasks.try_join_next().is_some() {}
                let effects = self.progress.run_ended(run, *outcome);
                self.make(effects).await?;
            }
            Message::Note {
                run,
                changes,
                update,
                done,
            } => {
                let mut all = changes;
                if *update != StepRunUpdate::default() {
                    all.push(Change::StepChanged {
                        job: self.shared.id.clone(),
                        run,
                        update,
                    });
                }
                self.write(all).await?;
                let _ = done.send(());
            }
            Message::Pause { by, reply } => {
                let done = self.pause(by).await?;
                let _ = reply.send(done);
            }
            Message::Resume { by, reply } => {
                self.resume(by, reply).await?;
            }
            Message::Retry { step, by, reply } => {
                self.retry(&step, by, reply).await?;
            }
            Message::Answer {
                run,
                values,
                by,
                reply,
            } => {
                let done = self.answer(run, values, &by);
                let _ = reply.send(done);
            }
        }
        Ok(())
    }

    async fn pause(&mut self, by: By) -> Stops<Result<()>> {
        if self.progress.is_held() {
            return Ok(Ok(()));
        }
        let why = why("paused", &format!("paused by {}: {}", by.who, by.why));
        let change = self.standing(JobStanding::Paused, why.clone(), by);
        self.write(vec![change]).await?;
        self.progress.pause();
        self.shared.status.send_modify(|status| {
            status.state = JobState::Standing(JobStanding::Paused);
            status.why = why;
        });
        Ok(Ok(()))
    }

    /// Goes on. Whoever asked is told before what follows, which may be the end.
    async fn resume(&mut self, by: By, reply: oneshot::Sender<Result<()>>) -> Stops<()> {
        if !self.progress.is_held() {
            let message = format!("job {} is not paused", self.shared.id);
            let _ = reply.send(Err(Error::Conflict(message)));
            return Ok(());
        }
        let change = self.standing(JobStanding::Running, Value::Null, by);
        self.write(vec![change]).await?;
        self.shared.status.send_modify(|status| {
            status.state = JobState::Standing(JobStanding::Running);
            status.why = Value::Null;
        });
        let _ = reply.send(Ok(()));
        let effects = self.progress.resume();
        self.make(effects).await
    }

    async fn retry(
        &mut self,
        step: &StepId,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    ) -> Stops<()> {
        if !self.progress.is_held() {
            let id = &self.shared.id;
            let message = format!("job {id} is not paused: a step can be done again while it is");
            let _ = reply.send(Err(Error::Conflict(message)));
            return Ok(());
        }
        match self.progress.retry_from(step) {
            Ok(again) => self.again.push(again),
            Err(why) => {
                let known = self.shared.loaded.flow.step(step).is_some();
                let refused = if known {
                    Error::Conflict
                } else {
                    Error::Invalid
                };
                let _ = reply.send(Err(refused(why)));
                return Ok(());
            }
        }
        let kept = Kept {
            again: self.again.clone(),
            ..self.shared.kept.clone()
        };
        let detail = serde_json::to_value(kept).unwrap_or_default();
        let id = self.shared.id.clone();
        self.write(vec![Change::JobDetail { id, detail }]).await?;
        self.resume(by, reply).await
    }

    fn answer(&mut self, run: Option<u32>, values: Map<String, Value>, by: &By) -> Result<u32> {
        let flow = &self.shared.loaded.flow;
        let waiting = |run: &u32, running: &Running| {
            let asked = self
                .shared
                .live()
                .get(run)
                .is_some_and(|known| known.contains_key("asks"));
            asked && running.answer.is_some()
        };
        let mut all: Vec<u32> = self
            .running
            .iter()
            .filter(|(run, running)| waiting(run, running))
            .map(|(run, _)| *run)
            .collect();
        all.sort_unstable();
        let run = match (run, all.as_slice()) {
            (Some(run), all) if all.contains(&run) => run,
            (Some(run), _) => {
                return Err(Error::Conflict(format!(
                    "run {run} does not wait for an answer"
                )));
            }
            (None, [run]) => *run,
            (None, []) => {
                let message = format!("job {} does not wait for an answer", self.shared.id);
                return Err(Error::Conflict(message));
            }
            (None, several) => {
                let runs: Vec<String> = several.iter().map(ToString::to_string).collect();
                return Err(Error::Conflict(format!(
                    "several runs wait for an answer; say which: {}",
                    runs.join(", ")
                )));
            }
        };
        let place = self.progress.step_of(run).unwrap_or_default();
        let values = execute::ask::checked(&flow.steps[place], values)
            .map_err(|error| Error::Invalid(error.message))?;
        self.shared.know(run, "answered_by", by.who.clone());
        let answer = self
            .running
            .get_mut(&run)
            .and_then(|running| running.answer.take());
        match answer.map(|answer| answer.send(values)) {
            Some(Ok(())) => Ok(run),
            _ => Err(Error::Conflict(format!(
                "run {run} waits for nothing any more"
            ))),
        }
    }

    /// Ends all that runs, as far as it is this job's.
    pub(crate) fn cancel_all(&mut self) {
        self.progress.end();
        for running in self.running.values() {
            running.cancel.cancel();
        }
    }

    /// Lets go of all that runs, and ends nothing of it.
    pub(crate) fn let_go(&mut self) {
        self.tasks.abort_all();
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until the session is no longer open.
async fn closed(session: Option<&Session>) {
    match session {
        Some(session) => {
            let mut state = session.state();
            while state.is_open() {
                state = session.changed_from(state).await;
            }
        }
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
