//! A step begins, and each item and each try of it.

use std::time::Duration;

use hostler_ledger::{StepRunRow, StepRunState};
use serde_json::{Map, Value, json};

use super::values::{ItemOf, Missing};
use super::{At, Attempt, Effect, Item, ItemState, Outputs, Over, Plan, Progress};
use crate::engine::error::StepError;
use crate::flow::{Executor, Step};

impl Progress {
    /// A step that waits for nothing more: is it done, and with what?
    pub(super) fn begin(&mut self, place: usize) {
        self.steps[place].attempt += 1;
        let flow = self.flow.clone();
        let step = &flow.steps[place];
        let given = match self.given(step, None) {
            Ok(given) => given,
            Err(Missing::Absent(why)) => return self.skip(place, &why),
            Err(Missing::Error(error)) => return self.cannot_begin(place, error),
        };
        if let Some(when) = &step.when {
            let steps = self.states(when.value.asked("steps"));
            let variables = [
                ("inputs", (&given).into()),
                ("job", (&self.inputs).into()),
                ("steps", (&steps).into()),
            ];
            match when.value.is_true(variables) {
                Ok(true) => {}
                Ok(false) => return self.skip(place, &format!("`{}` is false", when.value)),
                Err(error) => {
                    let error = StepError::new("expression", error.to_string());
                    return self.cannot_begin(place, error);
                }
            }
        }
        let items = match self.items(step) {
            Ok(items) => items,
            Err(Missing::Absent(why)) => return self.skip(place, &why),
            Err(Missing::Error(error)) => return self.cannot_begin(place, error),
        };
        let head = step.for_each.is_some().then(|| {
            let head = self.number();
            let attempt = self.steps[place].attempt;
            let count = items.len();
            let row = self.row(step, head, attempt, StepRunState::Running);
            self.insert(StepRunRow {
                detail: json!({ "items": count }),
                ..row
            });
            head
        });
        let attempt = Attempt {
            head,
            items,
            next: 0,
            again: Vec::new(),
            busy: 0,
            broken: None,
        };
        self.steps[place].at = At::Running(Box::new(attempt));
        self.start_items(place);
    }

    /// What a step is done for: each item, or once.
    pub(super) fn items(&self, step: &Step) -> Result<Vec<Item>, Missing> {
        let one = |value: Option<Value>| Item {
            value,
            tries: 0,
            fallback: false,
            state: ItemState::Waiting,
        };
        let Some(each) = &step.for_each else {
            return Ok(vec![one(None)]);
        };
        let over = &each.over.value;
        match self.lookup(over, None, false) {
            Ok(Some(Value::Array(values))) => {
                Ok(values.into_iter().map(|value| one(Some(value))).collect())
            }
            Ok(Some(Value::Null) | None) => Err(Missing::Absent(format!(
                "`{over}` is not there for `for_each`"
            ))),
            Ok(Some(_)) => {
                let message = format!("`{over}` is to be a list, for `for_each`");
                Err(Missing::Error(StepError::new("wrong_type", message)))
            }
            Err(error) => Err(Missing::Error(error)),
        }
    }

    /// It is not done.
    fn skip(&mut self, place: usize, why: &str) {
        let number = self.number();
        let step = &self.flow.steps[place];
        let attempt = self.steps[place].attempt;
        let row = self.row(step, number, attempt, StepRunState::Skipped);
        self.insert(StepRunRow {
            detail: json!({ "why": why }),
            follows: Some(json!({ "step": "skipped" })),
            ..row
        });
        self.is_over(place, Over::Skipped);
    }

    /// It has failed before anything was started.
    fn cannot_begin(&mut self, place: usize, error: StepError) {
        let number = self.number();
        let flow = self.flow.clone();
        let attempt = self.steps[place].attempt;
        let mut row = self.row(&flow.steps[place], number, attempt, StepRunState::Failed);
        let settled = self.settled(place, number, Outputs::default(), Some(error));
        row.error = settled.update.error.clone();
        row.follows = settled.update.follows.clone();
        self.insert(row);
        self.follow(place, settled);
    }

    pub(super) fn row(
        &self,
        step: &Step,
        number: u32,
        attempt: u32,
        state: StepRunState,
    ) -> StepRunRow {
        StepRunRow {
            number,
            step: step.id.value.as_str().to_owned(),
            attempt,
            try_: 1,
            state,
            ..StepRunRow::default()
        }
    }

    /// Begins as many items as may be under way at once. Ends the step where nothing is left to be done.
    pub(super) fn start_items(&mut self, place: usize) {
        let parallel = self.flow.steps[place]
            .for_each
            .as_ref()
            .map_or(1, |each| each.parallel.max(1) as usize);
        loop {
            let At::Running(attempt) = &mut self.steps[place].at else {
                return;
            };
            if self.held || self.ended || attempt.broken.is_some() || attempt.busy >= parallel {
                break;
            }
            let Some(item) = attempt.next_item() else {
                break;
            };
            attempt.busy += 1;
            self.start(place, item, Duration::ZERO);
        }
        self.end_attempt(place);
    }

    /// Items of steps that are under way, which could not begin while the job was paused.
    pub(super) fn begin_items(&mut self) {
        for place in 0..self.steps.len() {
            if matches!(self.steps[place].at, At::Running(_)) {
                self.start_items(place);
            }
        }
    }

    /// Begins a try of an item that counts as under way already.
    pub(super) fn start(&mut self, place: usize, item: usize, pause: Duration) {
        let number = self.number();
        let flow = self.flow.clone();
        let step = &flow.steps[place];
        let attempt_number = self.steps[place].attempt;
        let each = step.for_each.is_some();
        let index = each.then_some(item as u32);
        let At::Running(attempt) = &mut self.steps[place].at else {
            return;
        };
        let of = &mut attempt.items[item];
        of.tries += 1;
        of.state = ItemState::Busy(number);
        let (try_, fallback) = (of.tries, of.fallback);
        let value = of.value.clone().unwrap_or_default();
        let state = match executor(step, fallback) {
            _ if !pause.is_zero() => StepRunState::Pending,
            Executor::Agent(_) => StepRunState::Pending,
            Executor::Input(_) => StepRunState::Suspended,
            _ => StepRunState::Running,
        };
        let mut row = StepRunRow {
            item: index,
            try_,
            detail: match fallback {
                true => json!({ "fallback": true }),
                false => Value::Null,
            },
            ..self.row(step, number, attempt_number, state)
        };
        match self.item_inputs(place, index, &value) {
            Ok(inputs) => {
                self.live.insert(number, (place, item));
                self.insert(row);
                let job = self.job.clone();
                self.effects.push(Effect::Start(Plan {
                    run: number,
                    job,
                    is_whole: true,
                    step: place,
                    fallback,
                    pause,
                    inputs,
                }));
            }
            // It would be the same the next time.
            Err(error) => {
                row.state = StepRunState::Failed;
                row.error = Some(json!(error));
                let single = !each;
                if single {
                    let settled = self.settled(place, number, Outputs::default(), Some(error));
                    row.follows = settled.update.follows.clone();
                    row.error = settled.update.error.clone();
                    self.insert(row);
                    self.follow(place, settled);
                } else {
                    self.insert(row);
                    self.item_done(place, item, Outputs::default(), Some(error));
                }
            }
        }
    }

    /// What a run of a step is given.
    pub(super) fn item_inputs(
        &self,
        place: usize,
        index: Option<u32>,
        value: &Value,
    ) -> Result<Map<String, Value>, StepError> {
        let of_item = index.map(|index| ItemOf { value, index });
        let given = self.given(&self.flow.steps[place], of_item.as_ref());
        given.map_err(|missing| match missing {
            Missing::Absent(why) => StepError::new("missing_input", why),
            Missing::Error(error) => error,
        })
    }
}

/// What does a step.
pub(crate) fn executor(step: &Step, fallback: bool) -> &Executor {
    match &step.fallback {
        Some(other) if fallback => &other.value,
        _ => &step.executor.value,
    }
}
