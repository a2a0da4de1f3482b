//! How far a job was, from its runs in the ledger.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hostler_ledger::{StepRunRow, StepRunState, StepRunUpdate};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{At, Attempt, Effect, Held, ItemState, Outputs, Over, Plan, Progress};
use crate::engine::error::StepError;
use crate::flow::Action;

/// Steps that a person had done again: those whose runs are not later than the number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Again {
    pub(crate) after: u32,
    pub(crate) steps: Vec<usize>,
}

/// A run that had not ended.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) plan: Plan,
    pub(crate) row: StepRunRow,
}

/// Rows of one attempt at a step, in their order.
type Rows<'a> = Vec<&'a StepRunRow>;

impl Progress {
    /// Takes up what these rows say. `self` has just been made. Gives the runs that had not ended.
    pub(crate) fn replay(&mut self, rows: &[StepRunRow], again: &[Again], held: bool) -> Vec<Live> {
        self.held = held;
        self.next = rows.iter().map(|row| row.number + 1).max().unwrap_or(1);
        let mut latest: HashMap<usize, Rows<'_>> = HashMap::new();
        let mut resets: Vec<Again> = again.to_vec();
        for row in rows {
            let Ok(id) = row.step.parse() else { continue };
            let Some(place) = self.place(&id) else {
                continue;
            };
            let of = latest.entry(place).or_default();
            if of.last().is_some_and(|last| last.attempt != row.attempt) {
                of.clear();
            }
            of.push(row);
            let step = &mut self.steps[place];
            step.attempt = row.attempt;
            let Some(follows) = &row.follows else {
                continue;
            };
            if row.state == StepRunState::Completed || follows["step"] == "completed" {
                step.last = Some(outputs(row));
            }
            if follows["action"] == "loop" {
                self.replay_loop(place, row, follows, &mut resets);
            }
        }
        let latest: BTreeMap<usize, Rows<'_>> = latest.into_iter().collect();
        let mut live = Vec::new();
        for (place, rows) in &latest {
            let stood = self.stood(*place, rows, &resets, &mut live);
            if matches!(stood, At::Waiting) {
                self.give_up(rows);
            }
            self.steps[*place].at = stood;
        }
        self.find_ready();
        live.into_iter()
            .map(|(place, item, row)| {
                self.live.insert(row.number, (place, item));
                let plan = self.plan_of(place, item, row);
                let row = row.clone();
                Live { plan, row }
            })
            .collect()
    }

    fn replay_loop(
        &mut self,
        place: usize,
        row: &StepRunRow,
        follows: &Value,
        resets: &mut Vec<Again>,
    ) {
        let rules = self.flow.steps[place].exits.iter().enumerate();
        let rule = rules
            .filter(|(_, rule)| follows["rule"] == rule.name.value.as_str())
            .find_map(|(number, rule)| match &rule.action {
                Action::Loop { target, .. } => Some((number, target.value.clone())),
                _ => None,
            });
        let Some((number, target)) = rule else { return };
        *self.loops.entry((place, number)).or_default() += 1;
        if follows["step"] == "again"
            && let Some(target) = self.place(&target)
        {
            let (after, steps) = (row.number, self.between(target, place));
            resets.push(Again { after, steps });
        }
    }

    /// How a step stood after these runs of its last attempt.
    fn stood<'r>(
        &self,
        place: usize,
        rows: &[&'r StepRunRow],
        resets: &[Again],
        live: &mut Vec<(usize, usize, &'r StepRunRow)>,
    ) -> At {
        let each = self.flow.steps[place].for_each.is_some();
        let main = match each {
            // What could not begin, or was skipped, has one row too.
            true => rows.iter().find(|row| row.item.is_none()),
            false => rows.last(),
        };
        let Some(main) = main else { return At::Waiting };
        let again = resets
            .iter()
            .any(|again| again.after >= main.number && again.steps.contains(&place));
        if again {
            return At::Waiting;
        }
        if let Some(follows) = &main.follows {
            let over = |word: &Value| match word.as_str() {
                Some("completed") => Over::Completed(outputs(main)),
                Some("skipped") => Over::Skipped,
                _ => Over::Failed,
            };
            return match follows["step"].as_str() {
                Some("held") => At::Held(Box::new(Held {
                    run: main.number,
                    then: over(&follows["then"]),
                })),
                _ => At::Over(over(&follows["step"])),
            };
        }
        let Ok(items) = self.items(&self.flow.steps[place]) else {
            // What it was done for is being made anew; it begins again, then.
            return At::Waiting;
        };
        let mut attempt = Attempt {
            head: each.then_some(main.number),
            items,
            next: 0,
            again: Vec::new(),
            busy: 0,
            broken: None,
        };
        let broken = main.detail["broken"].clone();
        attempt.broken = serde_json::from_value(broken).ok();
        let broken = attempt.broken.is_some();
        let step = &self.flow.steps[place];
        for row in rows.iter().filter(|row| !each || row.item.is_some()) {
            let number = row.item.unwrap_or_default() as usize;
            let Some(item) = attempt.items.get_mut(number) else {
                continue;
            };
            item.fallback = row.detail["fallback"] == true;
            item.tries = row.try_;
            let error = (row.state != StepRunState::Completed).then(|| error(row));
            let cut_off = error
                .as_ref()
                .is_some_and(|error| error.code == "host_died")
                && row.state == StepRunState::Cancelled;
            item.state = match row.state {
                StepRunState::Pending | StepRunState::Running | StepRunState::Suspended => {
                    ItemState::Busy(row.number)
                }
                // It was to be made again once the job goes on.
                StepRunState::Cancelled if cut_off && !broken => {
                    item.tries -= 1;
                    ItemState::Waiting
                }
                StepRunState::Failed
                    if !broken
                        && error
                            .as_ref()
                            .is_some_and(|error| item.tried_again(step, error).is_some()) =>
                {
                    ItemState::Waiting
                }
                _ => ItemState::Done {
                    outputs: outputs(row),
                    error,
                },
            };
        }
        for (number, item) in attempt.items.iter().enumerate() {
            if let ItemState::Busy(run) = item.state {
                attempt.busy += 1;
                let row = rows.iter().find(|row| row.number == run);
                live.extend(row.map(|row| (place, number, *row)));
            }
        }
        At::Running(Box::new(attempt))
    }

    fn plan_of(&self, place: usize, item: usize, row: &StepRunRow) -> Plan {
        let value = match &self.steps[place].at {
            At::Running(attempt) => attempt.items[item].value.clone(),
            _ => None,
        };
        let inputs = self.item_inputs(place, row.item, &value.unwrap_or_default());
        Plan {
            run: row.number,
            job: self.job.clone(),
            is_whole: inputs.is_ok(),
            step: place,
            fallback: row.detail["fallback"] == true,
            pause: std::time::Duration::ZERO,
            inputs: inputs.unwrap_or_default(),
        }
    }

    /// Ends runs whose step cannot be taken up where it was: what it is done for is being made anew.
    fn give_up(&mut self, rows: &[&StepRunRow]) {
        let error = StepError::new("host_died", "it was cut off by the death of the host");
        for row in rows.iter().filter(|row| !row.state.is_ended()) {
            let update = StepRunUpdate {
                state: Some(StepRunState::Cancelled),
                error: Some(serde_json::json!(error)),
                ..StepRunUpdate::default()
            };
            self.change(row.number, update);
        }
    }

    /// Goes on from where [`Progress::replay`] stood, once what it gave is taken up or was interrupted.
    pub(crate) fn go_on(&mut self) -> Vec<Effect> {
        for step in &self.steps {
            if let At::Running(attempt) = &step.at
                && attempt.broken.is_some()
            {
                let busy = attempt.items.iter().filter_map(|item| match item.state {
                    ItemState::Busy(run) => Some(Effect::Cancel(run)),
                    _ => None,
                });
                self.effects.extend(busy);
            }
        }
        self.begin_items();
        self.advance()
    }
}

fn outputs(row: &StepRunRow) -> Outputs {
    match &row.outputs {
        Some(Value::Object(outputs)) => Arc::new(outputs.clone()),
        _ => Arc::new(Map::new()),
    }
}

fn error(row: &StepRunRow) -> StepError {
    let known = row
        .error
        .clone()
        .and_then(|error| serde_json::from_value(error).ok());
    known.unwrap_or_else(|| StepError::new("failed", "it has failed"))
}
