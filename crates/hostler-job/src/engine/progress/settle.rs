//! A run has ended: is it tried again, is its step over, what follows?

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{JobEnd, StepRunState, StepRunUpdate};
use serde_json::{Map, Value, json};

use super::values::lists;
use super::{Again, At, Effect, End, Held, ItemState, Outcome, Outputs, Over, Progress};
use crate::engine::error::StepError;
use crate::flow::{Action, OnError, OnFailure, StepId};

/// What follows a step that has a result.
pub(super) struct Settled {
    /// The run in whose row it is kept.
    run: u32,
    pub(super) update: StepRunUpdate,
    then: Then,
}

enum Then {
    Over(Over),
    /// Done again, from this step on.
    Again(usize),
    /// A person says whether the job goes on, and then it is this.
    Held(Over, Value),
    /// The job has failed.
    Fail(End),
}

impl Progress {
    /// A run has ended by itself.
    pub(crate) fn run_ended(&mut self, run: u32, outcome: Outcome) -> Vec<Effect> {
        if let Some((place, item)) = self.live.remove(&run) {
            self.ended_as(place, item, run, outcome);
        }
        self.advance()
    }

    /// A run was cut off by the death of a host. It is made again, and that does not count; or it has failed.
    pub(crate) fn interrupted(&mut self, run: u32, again: bool) {
        let error = StepError::new("host_died", "it was cut off by the death of the host");
        let Some((place, item)) = self.live.remove(&run) else {
            return;
        };
        let broken =
            matches!(&self.steps[place].at, At::Running(attempt) if attempt.broken.is_some());
        if broken {
            let cancelled = Outcome::failed(StepError::cancelled());
            return self.ended_as(place, item, run, cancelled);
        }
        if !again {
            return self.ended_as(place, item, run, Outcome::failed(error));
        }
        self.change(
            run,
            StepRunUpdate {
                state: Some(StepRunState::Cancelled),
                error: Some(json!(error)),
                ..StepRunUpdate::default()
            },
        );
        if let At::Running(attempt) = &mut self.steps[place].at {
            attempt.items[item].tries -= 1;
            self.start_again(place, item, Duration::ZERO);
        }
    }

    fn ended_as(&mut self, place: usize, item: usize, run: u32, outcome: Outcome) {
        let Outcome {
            outputs,
            error,
            detail,
        } = outcome;
        let outputs = Arc::new(outputs);
        let fallback =
            matches!(&self.steps[place].at, At::Running(attempt) if attempt.items[item].fallback);
        let detail = detail.map(|mut detail| {
            if fallback {
                detail["fallback"] = true.into();
            }
            detail
        });
        let mut update = StepRunUpdate {
            state: Some(state_of(error.as_ref())),
            outputs: (!outputs.is_empty()).then(|| Value::Object((*outputs).clone())),
            error: error.as_ref().map(|error| json!(error)),
            detail,
            ..StepRunUpdate::default()
        };
        let flow = self.flow.clone();
        let step = &flow.steps[place];
        let At::Running(attempt) = &mut self.steps[place].at else {
            return self.change(run, update);
        };
        let of = &mut attempt.items[item];
        let broken = attempt.broken.is_some();
        if let Some(error) = error.as_ref().filter(|_| !broken)
            && let Some(pause) = of.tried_again(step, error)
        {
            self.change(run, update);
            return self.start_again(place, item, pause);
        }
        if attempt.head.is_some() {
            self.change(run, update);
            self.item_done(place, item, outputs, error);
            return self.start_items(place);
        }
        let settled = self.settled(place, run, outputs, error);
        // One row, one change.
        update.follows = settled.update.follows.clone();
        if settled.update.error.is_some() {
            update.error = settled.update.error.clone();
            update.state = settled.update.state;
        }
        self.change(run, update);
        self.follow(place, settled);
    }

    /// Tries an item again, which counts as under way; while the job is paused, once it goes on.
    fn start_again(&mut self, place: usize, item: usize, pause: Duration) {
        if self.ended {
            return;
        }
        if !self.held {
            self.start(place, item, pause);
            return self.end_attempt(place);
        }
        if let At::Running(attempt) = &mut self.steps[place].at {
            attempt.items[item].state = ItemState::Waiting;
            attempt.busy -= 1;
            attempt.again.push(item);
        }
    }

    /// An item has its result.
    pub(super) fn item_done(
        &mut self,
        place: usize,
        item: usize,
        outputs: Outputs,
        error: Option<StepError>,
    ) {
        let fail_fast = self.flow.steps[place]
            .for_each
            .as_ref()
            .is_some_and(|each| each.on_failure == OnFailure::FailFast);
        let At::Running(attempt) = &mut self.steps[place].at else {
            return;
        };
        attempt.busy = attempt.busy.saturating_sub(1);
        let was_broken = attempt.broken.is_some();
        let mut cancelled = Vec::new();
        if let Some(error) = &error
            && fail_fast
            && attempt.broken.is_none()
        {
            let message = format!("item {item}: {}", error.message);
            attempt.broken = Some(StepError::new(&error.code, message));
            cancelled = attempt
                .items
                .iter()
                .filter_map(|of| match of.state {
                    ItemState::Busy(run) => Some(run),
                    _ => None,
                })
                .collect();
        }
        attempt.items[item].state = ItemState::Done { outputs, error };
        let broke = (attempt.broken.clone(), attempt.head, attempt.items.len());
        if let (Some(broken), Some(head), count) = broke
            && !was_broken
        {
            // For the next host, which is to go on ending the others.
            let detail = json!({ "items": count, "broken": broken });
            let update = StepRunUpdate {
                detail: Some(detail),
                ..StepRunUpdate::default()
            };
            self.change(head, update);
        }
        for run in cancelled {
            if self.live.contains_key(&run) {
                self.effects.push(Effect::Cancel(run));
            }
        }
    }

    /// Ends a step with items once none is under way and none is left.
    pub(super) fn end_attempt(&mut self, place: usize) {
        let At::Running(attempt) = &self.steps[place].at else {
            return;
        };
        let Some(head) = attempt.head else { return };
        let left = attempt.broken.is_none()
            && (attempt.next < attempt.items.len() || !attempt.again.is_empty());
        if attempt.busy > 0 || left {
            return;
        }
        let results = attempt.items.iter().map(|item| match &item.state {
            ItemState::Done {
                outputs,
                error: None,
            } => Some(outputs.clone()),
            _ => None,
        });
        let results: Vec<Option<Outputs>> = results.collect();
        let error = attempt.broken.clone().or_else(|| {
            let all = !results.is_empty() && results.iter().all(Option::is_none);
            let first = attempt.items.iter().find_map(|item| match &item.state {
                ItemState::Done { error, .. } => error.clone(),
                _ => None,
            });
            all.then_some(first).flatten().map(|first| {
                let message = format!(
                    "all {} items have failed, the first: {}",
                    results.len(),
                    first.message
                );
                StepError::new(&first.code, message)
            })
        });
        let size: usize = results.iter().flatten().map(|outputs| size(outputs)).sum();
        let (outputs, error) = match size <= LARGEST {
            true => (Arc::new(lists(&results)), error),
            false => {
                let message = format!(
                    "what its items gave has {size} bytes together, and may have {LARGEST}"
                );
                let error = error.unwrap_or_else(|| StepError::new("too_large", message));
                (Outputs::default(), Some(error))
            }
        };
        let mut settled = self.settled(place, head, outputs.clone(), error);
        settled.update.outputs = (!outputs.is_empty()).then(|| Value::Object((*outputs).clone()));
        self.change(head, settled.update.clone());
        self.follow(place, settled);
    }

    /// What follows a step with this result: its exit rules, in their order.
    pub(super) fn settled(
        &mut self,
        place: usize,
        run: u32,
        outputs: Outputs,
        error: Option<StepError>,
    ) -> Settled {
        let flow = self.flow.clone();
        let step = &flow.steps[place];
        let mut error = error;
        let mut followed = None;
        if !step.exits.is_empty() {
            let inputs = self.inputs_of_exits(place);
            let attempt = json!(self.steps[place].attempt);
            let failure = error.as_ref().map_or(Value::Null, |error| json!(error));
            let variables = [
                ("outputs", (&*outputs).into()),
                ("inputs", (&inputs).into()),
                ("job", (&self.inputs).into()),
                ("attempt", (&attempt).into()),
                ("error", (&failure).into()),
            ];
            for (number, rule) in step.exits.iter().enumerate() {
                let holds = match &rule.when {
                    None => Ok(true),
                    Some(when) => when.value.is_true(variables),
                };
                match holds {
                    Ok(true) => {
                        followed = Some((number, rule));
                        break;
                    }
                    Ok(false) => {}
                    Err(wrong) => {
                        let message = format!("the exit rule `{}`: {wrong}", rule.name.value);
                        error = Some(StepError::new("expression", message));
                        break;
                    }
                }
            }
            let advances = step.exits.iter().any(|rule| rule.action == Action::Advance);
            if followed.is_none() && error.is_none() && advances {
                let message = "no exit rule holds, and one says when it advances";
                error = Some(StepError::new("no_exit", message));
            }
        }
        if error.is_none() {
            // Also where it is done again: what it gave is what it last gave.
            self.steps[place].last = Some(outputs.clone());
        }
        let id = &step.id.value;
        let over = |error: &Option<StepError>| match error {
            None => Over::Completed(outputs.clone()),
            Some(_) => Over::Failed,
        };
        let (then, mut follows) = match followed {
            Some((number, rule)) => {
                let name = &rule.name.value;
                let mut follows = json!({ "action": rule.action.word(), "rule": name });
                let then = match &rule.action {
                    Action::Advance => Then::Over(Over::Completed(outputs.clone())),
                    Action::Escalate => {
                        let why = json!({ "code": "escalated", "step": id.as_str(), "rule": name,
                            "message": format!("`{id}`: the exit rule `{name}` asks for a person") });
                        Then::Held(over(&error), why)
                    }
                    Action::Abandon => {
                        let message = match &error {
                            Some(error) => format!("`{id}`: the exit rule `{name}`: {error}"),
                            None => format!("`{id}`: the exit rule `{name}` abandons the job"),
                        };
                        Then::Fail(End::new(JobEnd::Failed, "abandoned", message))
                    }
                    Action::Loop {
                        target,
                        max_iterations,
                    } => {
                        let count = self.loops.entry((place, number)).or_default();
                        *count += 1;
                        follows["target"] = json!(target.value.as_str());
                        match self.places.get(&target.value) {
                            Some(target) if *count <= *max_iterations => Then::Again(*target),
                            _ => {
                                let message = format!(
                                    "`{id}`: the loop `{name}` was followed {max_iterations} times, as often as it may be"
                                );
                                Then::Fail(End::new(JobEnd::Failed, "loop_limit", message))
                            }
                        }
                    }
                };
                (then, follows)
            }
            None => match (&error, step.on_error) {
                (None, _) => (Then::Over(over(&None)), json!({ "action": "advance" })),
                (Some(error), OnError::Fail) => {
                    let message = format!("`{id}` has failed: {error}");
                    let mut end = End::new(JobEnd::Failed, "step_failed", message);
                    end.why["step"] = json!(id.as_str());
                    end.why["error"] = json!(error);
                    (Then::Fail(end), json!({ "action": "fail" }))
                }
                (Some(_), OnError::Continue) => {
                    (Then::Over(Over::Failed), json!({ "action": "continue" }))
                }
                (Some(error), OnError::Pause) => {
                    let why = json!({ "code": "step_failed", "step": id.as_str(),
                        "message": format!("`{id}` has failed: {error}") });
                    (Then::Held(Over::Failed, why), json!({ "action": "pause" }))
                }
            },
        };
        follows["step"] = match &then {
            Then::Over(over) => over.word().into(),
            Then::Again(_) => "again".into(),
            Then::Held(over, _) => {
                follows["then"] = over.word().into();
                "held".into()
            }
            Then::Fail(_) => "failed".into(),
        };
        Settled {
            run,
            update: StepRunUpdate {
                state: Some(state_of(error.as_ref())),
                error: error.map(|error| json!(error)),
                follows: Some(follows),
                ..StepRunUpdate::default()
            },
            then,
        }
    }

    /// What the rules of a step are told of its inputs, if they ask for any.
    fn inputs_of_exits(&self, place: usize) -> Map<String, Value> {
        let step = &self.flow.steps[place];
        let mut rules = step.exits.iter().filter_map(|rule| rule.when.as_ref());
        if rules.all(|when| when.value.asked("inputs").is_none()) {
            return Map::new();
        }
        self.given(step, None).unwrap_or_else(|_| Map::new())
    }

    /// Goes the way that was found.
    pub(super) fn follow(&mut self, place: usize, settled: Settled) {
        match settled.then {
            Then::Over(over) => self.is_over(place, over),
            Then::Again(target) => self.again(target, place),
            Then::Held(then, why) => {
                let run = settled.run;
                self.steps[place].at = At::Held(Box::new(Held { run, then }));
                self.held = true;
                self.effects.push(Effect::Pause(why));
            }
            Then::Fail(end) => {
                self.ended = true;
                self.effects.push(Effect::End(end));
            }
        }
    }

    /// Everything from `from` to `to` is done again.
    fn again(&mut self, from: usize, to: usize) {
        for place in self.between(from, to) {
            self.steps[place].at = At::Waiting;
        }
        self.find_ready();
    }

    /// `from`, `to`, and all that waits for the one and that the other waits for.
    pub(super) fn between(&self, from: usize, to: usize) -> Vec<usize> {
        let after = reached(&self.dependants, from);
        let before = reached(&self.waits, to);
        let all = 0..self.steps.len();
        let mut between: Vec<usize> = all.filter(|of| after[*of] && before[*of]).collect();
        if !between.contains(&to) {
            between.push(to);
        }
        between
    }

    /// Which steps are this one, or wait for it.
    pub(crate) fn waiting_for(&self, step: &StepId) -> Vec<bool> {
        match self.place(step) {
            Some(from) => reached(&self.dependants, from),
            None => vec![false; self.steps.len()],
        }
    }

    /// This step and all that waits for it, to be done again in a job that is paused.
    ///
    /// # Errors
    /// Why not, in one line.
    pub(crate) fn retry_from(&mut self, step: &StepId) -> Result<Again, String> {
        let from = self
            .place(step)
            .ok_or_else(|| format!("there is no step `{step}`"))?;
        let all = reached(&self.dependants, from);
        let all: Vec<usize> = (0..self.steps.len()).filter(|of| all[*of]).collect();
        for place in &all {
            // What is only to be tried again, once the job goes on, is done again too.
            if matches!(&self.steps[*place].at, At::Running(attempt) if attempt.busy > 0) {
                let id = &self.flow.steps[*place].id.value;
                return Err(format!(
                    "`{id}` is running; it can be done again when it is over"
                ));
            }
        }
        for place in &all {
            self.steps[*place].at = At::Waiting;
        }
        self.find_ready();
        let after = self.next - 1;
        Ok(Again { after, steps: all })
    }
}

/// How much the outputs of the items of a step may be together, in bytes.
const LARGEST: usize = 64 << 20;

/// About how large outputs are, in bytes.
fn size(outputs: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::String(text) => text.len(),
            Value::Array(values) => values.iter().map(of).sum(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| name.len() + of(value))
                .sum(),
            _ => 8,
        }
    }
    outputs.values().map(of).sum()
}

fn state_of(error: Option<&StepError>) -> StepRunState {
    match error {
        None => StepRunState::Completed,
        Some(error) if error.code == "cancelled" => StepRunState::Cancelled,
        Some(_) => StepRunState::Failed,
    }
}

/// What can be reached from `from` by these arrows, itself included.
fn reached(arrows: &[Vec<usize>], from: usize) -> Vec<bool> {
    let mut found = vec![false; arrows.len()];
    let mut next = vec![from];
    while let Some(place) = next.pop() {
        if !std::mem::replace(&mut found[place], true) {
            next.extend(&arrows[place]);
        }
    }
    found
}
