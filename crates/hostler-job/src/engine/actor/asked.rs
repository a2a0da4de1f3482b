//! What people ask of a job: to pause, to go on, to do a step again, to take an answer.

use hostler_agent::{Answer, RequestId};
use hostler_ledger::{By, Change, JobStanding, JobState};
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::{Actor, Left, Stops};
use crate::engine::error::{Error, Result};
use crate::engine::execute;
use crate::engine::execute::permission::Permission;
use crate::engine::jobs::why;
use crate::engine::new::Kept;
use crate::engine::progress::Outcome;
use crate::flow::StepId;

/// What an answer is.
enum Answered {
    /// What the run gives.
    Step(Map<String, Value>),
    /// What the agent is told that makes it.
    Permission(Permission, Answer),
}

impl Actor {
    /// Says how it stands.
    fn stands(&self, standing: JobStanding, why: Value) {
        self.shared.status.send_modify(|status| {
            status.state = JobState::Standing(standing);
            status.why = why;
        });
    }

    pub(super) async fn pause(&mut self, by: By) -> Stops<()> {
        if self.progress.is_held() {
            return Ok(());
        }
        let why = why("paused", &format!("paused by {}: {}", by.who, by.why));
        let change = self.standing(JobStanding::Paused, why.clone(), by);
        self.write(vec![change]).await?;
        self.progress.pause();
        self.stands(JobStanding::Paused, why);
        Ok(())
    }

    /// Goes on; all that follows at once is written with that. Whoever asked is told before it is done, for it may be the end.
    pub(super) async fn resume(
        &mut self,
        mut changes: Vec<Change>,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    ) -> Stops<()> {
        if !self.progress.is_held() {
            let message = format!("job {} is not paused", self.shared.id);
            let _ = reply.send(Err(Error::Conflict(message)));
            return Ok(());
        }
        changes.push(self.standing(JobStanding::Running, Value::Null, by));
        let effects = self.progress.resume();
        self.stands(JobStanding::Running, Value::Null);
        let made = self.make(changes, effects).await;
        self.tell(reply, Ok(()), &made);
        made
    }

    pub(super) async fn retry(
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
        self.resume(vec![Change::JobDetail { id, detail }], by, reply)
            .await
    }

    /// An answer is what its run gave; whoever gave it is told when that is in the ledger.
    pub(super) async fn answer(
        &mut self,
        (run, request): (Option<u32>, Option<RequestId>),
        values: Map<String, Value>,
        by: &By,
        reply: oneshot::Sender<Result<u32>>,
    ) -> Stops<()> {
        let answered = self.asking(run).and_then(|run| {
            let permission = self.shared.permissions().get(&run).cloned();
            if request.is_some() && permission.as_ref().map(Permission::request) != request {
                let message = format!("run {run} does not ask that any more");
                return Err(Error::Conflict(message));
            }
            let answered = match permission {
                Some(permission) => {
                    let answer = permission.answer(&values).map_err(Error::Invalid)?;
                    Answered::Permission(permission, answer)
                }
                None => Answered::Step(self.outputs(run, values)?),
            };
            Ok((run, answered))
        });
        let (run, values) = match answered {
            Ok((run, Answered::Step(values))) => (run, values),
            Ok((run, Answered::Permission(permission, answer))) => {
                let by = by.clone();
                tokio::spawn(async move {
                    let given = permission.give(answer, by).await;
                    let refused = |why| Error::Conflict(format!("run {run} asks no longer: {why}"));
                    let _ = reply.send(given.map(|()| run).map_err(refused));
                });
                return Ok(());
            }
            Err(error) => {
                let _ = reply.send(Err(error));
                return Ok(());
            }
        };
        if let Some(cancel) = self.running.remove(&run) {
            cancel.cancel();
        }
        self.shared.live().remove(&run);
        let outcome = Outcome {
            detail: Some(json!({ "answered_by": by.who })),
            ..Outcome::completed(values)
        };
        let effects = self.progress.run_ended(run, outcome);
        let made = self.make(Vec::new(), effects).await;
        self.tell(reply, Ok(run), &made);
        made
    }

    /// Tells whoever asked; where the job ends by that, once its end is written. Where it is left to the next host, it was not
    /// done.
    fn tell<T: Send + 'static>(
        &mut self,
        reply: oneshot::Sender<Result<T>>,
        answer: Result<T>,
        made: &Stops<()>,
    ) {
        match made {
            Ok(()) => drop(reply.send(answer)),
            Err(Left::End(..)) => {
                let told = move || drop(reply.send(answer));
                self.replies.push(Box::new(told));
            }
            Err(_) => {}
        }
    }

    /// The end is written: those are told who caused it.
    pub(crate) fn told(&mut self) {
        for reply in self.replies.drain(..) {
            reply();
        }
    }

    /// Which run is answered.
    fn asking(&self, run: Option<u32>) -> Result<u32> {
        let asks = |known: &Map<String, Value>| known.contains_key("asks");
        let live = self.shared.live();
        let waiting = live.iter().filter(|(_, known)| asks(known));
        let all: Vec<u32> = waiting.map(|(run, _)| *run).collect();
        drop(live);
        match (run, all.as_slice()) {
            (Some(run), all) if all.contains(&run) => Ok(run),
            (Some(run), _) => {
                let message = format!("run {run} does not wait for an answer");
                Err(Error::Conflict(message))
            }
            (None, [run]) => Ok(*run),
            (None, []) => {
                let message = format!("job {} does not wait for an answer", self.shared.id);
                Err(Error::Conflict(message))
            }
            (None, several) => {
                let runs: Vec<String> = several.iter().map(ToString::to_string).collect();
                Err(Error::Conflict(format!(
                    "several runs wait for an answer; say which: {}",
                    runs.join(", ")
                )))
            }
        }
    }

    /// What a run gives that is answered so.
    fn outputs(&self, run: u32, values: Map<String, Value>) -> Result<Map<String, Value>> {
        let place = self.progress.step_of(run).unwrap_or_default();
        let step = &self.shared.loaded.flow.steps[place];
        let values = execute::ask::checked(step, values);
        values.map_err(|error| Error::Invalid(error.message))
    }
}
