//! One run of a step, by whatever does it.
//!
//! A run ends by itself, or when it is cancelled, and has nothing left then but what belongs to the job's session. It is never
//! dropped in the middle but when the job is left to the next host, which takes it up where that can be done ([`goes_on`]).

mod agent;
mod answer;
pub(crate) mod ask;
mod command;
mod flow;
mod output;
pub(crate) mod permission;
mod poll;

use std::sync::Arc;
use std::time::Duration;

use hostler_agent::PoolUse;
use hostler_ledger::{Change, ConversationId, StepRunRow, StepRunState, StepRunUpdate};
use hostler_session::{By, Session};
use serde_json::{Map, Value};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::actor::Message;
use super::error::StepError;
use super::job::Shared;
use super::jobs::{Jobs, now};
use super::progress::{Outcome, Plan, executor};
use crate::flow::{Executor, Step};

/// A run of an earlier host that is beyond its time has so long to show that it ended before.
const LOOK: Duration = Duration::from_secs(2);

/// A run, and all that it may use.
pub(crate) struct Context {
    pub(crate) jobs: Jobs,
    pub(crate) job: Arc<Shared>,
    /// The job's session.
    pub(crate) session: Session,
    pub(crate) plan: Plan,
    pub(crate) cancel: CancellationToken,
    /// What is known of it from an earlier host.
    pub(crate) earlier: Option<StepRunRow>,
    /// Told when its time begins: it may wait for an agent first.
    pub(crate) begun: Notify,
}

impl Context {
    pub(crate) fn step(&self) -> &Step {
        &self.job.loaded.flow.steps[self.plan.step]
    }

    fn executor(&self) -> &Executor {
        executor(self.step(), self.plan.fallback)
    }

    /// What it is called among the processes of the session: by that the next host finds it.
    fn name(&self) -> String {
        name(self.step(), &self.plan)
    }

    /// Who asks, for the ledger.
    fn by(&self) -> By {
        let (job, run) = (&self.job.id, self.plan.run);
        By::new(
            format!("job {job}"),
            format!("step {}, run {run}", self.step().id.value),
        )
    }

    /// Puts this into the ledger before it goes on. Where the job ends meanwhile, it is cancelled.
    async fn note(&self, changes: Vec<Change>, update: StepRunUpdate) -> Result<(), StepError> {
        let (done, written) = oneshot::channel();
        self.job.tell(Message::Note {
            run: self.plan.run,
            changes,
            update: Box::new(update),
            done,
        });
        tokio::select! {
            written = written => written.map_err(|_| StepError::cancelled()),
            () = self.cancel.cancelled() => Err(StepError::cancelled()),
        }
    }

    /// Says that it waits no longer, and runs.
    async fn runs(&self) -> Result<(), StepError> {
        let update = StepRunUpdate {
            state: Some(StepRunState::Running),
            ..StepRunUpdate::default()
        };
        self.note(Vec::new(), update).await
    }
}

/// The conversation that a run had.
pub(crate) fn conversation_of(row: &StepRunRow) -> Option<ConversationId> {
    row.detail["agent"]["conversation"].as_str()?.parse().ok()
}

fn name(step: &Step, plan: &Plan) -> String {
    format!("{}/{}", step.id.value, plan.run)
}

/// How it came to a result that is no success: with what there is all the same.
pub(crate) struct Failure {
    error: StepError,
    outputs: Map<String, Value>,
    detail: Option<Value>,
}

impl From<StepError> for Failure {
    fn from(error: StepError) -> Self {
        Self {
            error,
            outputs: Map::new(),
            detail: None,
        }
    }
}

/// What a run gave, and more to be kept with it.
pub(crate) type Given = Result<(Map<String, Value>, Option<Value>), Failure>;

/// Makes a run.
pub(crate) async fn run(context: Context, adopted: Option<PoolUse>) -> Outcome {
    if !context.plan.pause.is_zero() {
        tokio::select! {
            () = tokio::time::sleep(context.plan.pause) => {}
            () = context.cancel.cancelled() => return Outcome::failed(StepError::cancelled()),
        }
        if !matches!(context.executor(), Executor::Agent(_) | Executor::Input(_))
            && let Err(error) = context.runs().await
        {
            return Outcome::failed(error);
        }
    }
    if !matches!(context.executor(), Executor::Agent(_)) || context.earlier.is_some() {
        context.begun.notify_one();
    }
    let limit = context.step().limits.time;
    let given = {
        let mut body = std::pin::pin!(execute(&context, adopted));
        let left = limit.map(|limit| match context.earlier {
            // It may have ended in time, which is to be seen.
            Some(_) => limit.saturating_sub(context.gone()).max(LOOK),
            None => limit,
        });
        tokio::select! {
            biased;
            given = &mut body => given,
            () = time(&context.begun, left) => {
                context.cancel.cancel();
                let failure = match body.await {
                    Err(failure) => failure,
                    Ok(_) => StepError::cancelled().into(),
                };
                let message = format!("it took longer than {:?}", limit.unwrap_or_default());
                Err(Failure { error: StepError::new("timeout", message), ..failure })
            }
        }
    };
    let given = match given {
        Ok((outputs, detail)) => match output::declared(context.step(), outputs) {
            Ok(outputs) => Ok((outputs, detail)),
            Err((error, outputs)) => Err(Failure {
                error,
                outputs,
                detail,
            }),
        },
        failed => failed,
    };
    match given {
        Ok((outputs, detail)) => Outcome {
            detail,
            ..Outcome::completed(outputs)
        },
        Err(Failure {
            error,
            outputs,
            detail,
        }) => Outcome {
            outputs,
            detail,
            ..Outcome::failed(error)
        },
    }
}

impl Context {
    /// How long it has been going on in earlier hosts.
    fn gone(&self) -> Duration {
        let began = self.earlier.as_ref().and_then(|row| row.began);
        began.map_or(Duration::ZERO, |began| {
            Duration::from_millis(now().saturating_sub(began))
        })
    }
}

async fn time(begun: &Notify, left: Option<Duration>) {
    match left {
        Some(left) => {
            begun.notified().await;
            tokio::time::sleep(left).await;
        }
        None => std::future::pending().await,
    }
}

async fn execute(context: &Context, adopted: Option<PoolUse>) -> Given {
    match context.executor() {
        Executor::Command(what) => command::run(context, what).await,
        Executor::Poll(poll) => poll::run(context, poll).await,
        Executor::Agent(agent) => agent::run(context, agent, adopted).await,
        Executor::Input(what) => ask::run(context, what).await,
        Executor::Flow(sub) => flow::run(context, sub).await,
        Executor::Sleep(time) => {
            tokio::select! {
                () = tokio::time::sleep(time.saturating_sub(context.gone())) => Ok((Map::new(), None)),
                () = context.cancel.cancelled() => Err(StepError::cancelled().into()),
            }
        }
    }
}

/// Whether a run of an earlier host can be taken up where it is.
pub(crate) async fn goes_on(
    jobs: &Jobs,
    session: &Session,
    step: &Step,
    plan: &Plan,
    row: &StepRunRow,
) -> bool {
    match executor(step, plan.fallback) {
        Executor::Command(command) => {
            let Some(found) = command::find(jobs, session, &name(step, plan), plan).await else {
                return false;
            };
            let fed = row.detail["fed"] == true || command.program.stdin.is_none();
            if fed || command::has_ended(&found.process) {
                return true;
            }
            let by = By::new("host", "what it reads was cut off");
            let _ = found.process.end(None, by).await;
            false
        }
        Executor::Agent(_) => agent::goes_on(jobs, row),
        Executor::Flow(_) => flow::find(jobs, plan, row).is_some(),
        // It is asked again; what it had come to does not matter.
        Executor::Poll(_) | Executor::Input(_) | Executor::Sleep(_) => true,
    }
}
