//! Which step waits for which: unknown ones, and those that wait for one another.

use std::collections::HashMap;

use super::{Checked, field};
use crate::flow::{Action, Step, StepId};
use crate::problem::{At, Code, Problems, meant};

/// Which steps wait for which, by their places.
pub(super) struct Order<'a> {
    places: HashMap<&'a str, usize>,
    /// For each, those that it waits for. `None` for one that could not be read.
    waits: Vec<Option<Vec<usize>>>,
}

impl<'a> Order<'a> {
    pub(super) fn new(checked: &Checked<'a, '_>) -> Self {
        let mut places: HashMap<&str, usize> = HashMap::new();
        for name in checked.steps.keys() {
            let next = places.len();
            places.insert(name, next);
        }
        // One more, for all that is not there.
        let nowhere = places.len();
        let mut waits: Vec<Option<Vec<usize>>> = vec![None; nowhere + 1];
        for step in &checked.flow.steps {
            let of = |other: &At<StepId>| places.get(other.value.as_str()).copied();
            let all = step.waits_for().into_iter();
            let all = all.map(|other| of(other).unwrap_or(nowhere));
            if let Some(place) = places.get(step.id.value.as_str()) {
                waits[*place] = Some(all.collect());
            }
        }
        Self { places, waits }
    }

    /// Whether the step `name` is over before `step` begins. `None` where that cannot be told, since something is wrong on the way.
    pub(super) fn comes_before(&self, name: &str, step: &StepId) -> Option<bool> {
        let wanted = self.places.get(name).copied();
        let mut whole = true;
        let mut seen = vec![false; self.waits.len()];
        let mut next = vec![*self.places.get(step.as_str())?];
        while let Some(place) = next.pop() {
            let Some(waits) = &self.waits[place] else {
                whole = false;
                continue;
            };
            if wanted.is_some_and(|wanted| waits.contains(&wanted)) {
                return Some(true);
            }
            for of in waits {
                if !std::mem::replace(&mut seen[*of], true) {
                    next.push(*of);
                }
            }
        }
        whole.then_some(false)
    }
}

pub(super) fn check(checked: &Checked<'_, '_>, problems: &mut Problems) {
    let order = Order::new(checked);
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
            } else if !may_go_back(checked, &order, step, &target.value) {
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
    step: &At<StepId>,
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
fn may_go_back(checked: &Checked<'_, '_>, order: &Order<'_>, step: &Step, target: &StepId) -> bool {
    *target == step.id.value
        || checked.step(target).is_none()
        || order.comes_before(target.as_str(), &step.id.value) != Some(false)
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
