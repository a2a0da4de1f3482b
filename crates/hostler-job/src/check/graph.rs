//! Which step waits for which: unknown ones, and those that wait for one another.

use std::collections::{BTreeSet, HashMap};

use super::{Checked, field};
use crate::flow::{Action, Step, StepId};
use crate::problem::{Code, Problems, meant};

/// All steps that are over before `step` begins.
pub(super) fn before(checked: &Checked<'_, '_>, step: &StepId) -> BTreeSet<StepId> {
    let mut found = BTreeSet::new();
    let mut next = vec![step.clone()];
    while let Some(id) = next.pop() {
        let waits = checked.step(&id).map(|step| step.waits_for());
        for other in waits.into_iter().flatten() {
            if found.insert(other.value.clone()) {
                next.push(other.value.clone());
            }
        }
    }
    found
}

pub(super) fn check(checked: &Checked<'_, '_>, problems: &mut Problems) {
    for step in &checked.flow.steps {
        for after in &step.after {
            if !checked.has_step(after.value.as_str()) {
                unknown_step(checked, after, field(step, "after"), problems);
            }
        }
        for (index, rule) in step.exits.iter().enumerate() {
            let Action::Loop { target, .. } = &rule.action else {
                continue;
            };
            let place = field(step, &format!("exits[{index}].target"));
            if !checked.has_step(target.value.as_str()) {
                unknown_step(checked, target, place, problems);
            } else if !may_go_back(checked, step, &target.value) {
                let why = format!(
                    "`{}` cannot be done again from here: `{}` does not wait for it",
                    target.value, step.id.value
                );
                problems.add(target.place, Code::BadValue, place, why);
            }
        }
    }
    cycles(checked, problems);
}

pub(super) fn unknown_step(
    checked: &Checked<'_, '_>,
    step: &crate::problem::At<StepId>,
    field: String,
    problems: &mut Problems,
) {
    let why = format!(
        "there is no step `{}`{}",
        step.value,
        meant(
            step.value.as_str(),
            checked.named.iter().map(String::as_str)
        )
    );
    problems.add(step.place, Code::UnknownStep, field, why);
}

#[derive(Clone, Copy, PartialEq)]
enum Visit {
    Open,
    Done,
}

/// Whether `target` is `step` or before it; also where that cannot be told, since something else is wrong on the way.
fn may_go_back(checked: &Checked<'_, '_>, step: &Step, target: &StepId) -> bool {
    if *target == step.id.value || checked.step(target).is_none() {
        return true;
    }
    let before = before(checked, &step.id.value);
    before.contains(target) || before.iter().any(|other| checked.step(other).is_none())
}

/// Tells each cycle once, at the name that closes it. Without recursion: a chain may be long.
fn cycles(checked: &Checked<'_, '_>, problems: &mut Problems) {
    let mut visits: HashMap<&StepId, Visit> = HashMap::new();
    for start in &checked.flow.steps {
        if visits.contains_key(&start.id.value) {
            continue;
        }
        // Each with what it still has to look at.
        let mut way = vec![(start, start.waits_for())];
        visits.insert(&start.id.value, Visit::Open);
        while let Some((step, rest)) = way.last_mut() {
            let step = *step;
            let Some(next) = rest.pop() else {
                visits.insert(&step.id.value, Visit::Done);
                way.pop();
                continue;
            };
            match visits.get(&next.value) {
                Some(Visit::Done) => {}
                Some(Visit::Open) => {
                    let from = way.iter().position(|(step, _)| step.id.value == next.value);
                    let mut names: Vec<&str> = way[from.unwrap_or(0)..]
                        .iter()
                        .map(|(step, _)| step.id.value.as_str())
                        .collect();
                    names.push(next.value.as_str());
                    let why = format!(
                        "steps that wait for one another never begin: {} (a loop is an exit rule, and what an earlier iteration gave is `last`)",
                        names.join(" waits for ")
                    );
                    problems.add(
                        next.place,
                        Code::Cycle,
                        field(step, "").trim_end_matches('.'),
                        why,
                    );
                }
                None => {
                    if let Some(next) = checked.step(&next.value) {
                        visits.insert(&next.id.value, Visit::Open);
                        way.push((next, next.waits_for()));
                    }
                }
            }
        }
    }
}
