//! What a step is given: from what was given to the job, and from what other steps gave.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{At, Over, Progress};
use crate::engine::error::StepError;
use crate::flow::{Asked, InputName, Reference, Root, Source, Step, StepInput};

/// Why a step cannot be given what it needs.
pub(super) enum Missing {
    /// What would give it has not: it was skipped, or has failed.
    Absent(String),
    /// What gave it did not give this.
    Error(StepError),
}

/// One of the items of a step with `for_each`.
pub(super) struct ItemOf<'a> {
    pub(super) value: &'a Value,
    pub(super) index: u32,
}

impl Progress {
    /// What `step` is given; inputs that are of an item only where there is one.
    pub(super) fn given(
        &self,
        step: &Step,
        item: Option<&ItemOf<'_>>,
    ) -> Result<Map<String, Value>, Missing> {
        let mut given = Map::new();
        for input in &step.inputs {
            let of_item = input
                .source
                .references()
                .any(|reference| matches!(reference.value.root, Root::Item | Root::Index));
            if of_item && item.is_none() {
                continue;
            }
            let value = self.one(input, item)?;
            given.insert(input.name.value.as_str().to_owned(), value);
        }
        Ok(given)
    }

    fn one(&self, input: &StepInput, item: Option<&ItemOf<'_>>) -> Result<Value, Missing> {
        let found = match &input.source {
            Source::Value(value) => Ok(Some(value.clone())),
            Source::From(reference) => self.lookup(&reference.value, item, false),
            Source::Last(reference) => self
                .lookup(&reference.value, item, true)
                .map(|found| found.or(Some(Value::Null))),
            Source::Any(references) => {
                let mut found = Ok(None);
                for reference in references {
                    found = match self.lookup(&reference.value, item, false) {
                        Ok(None | Some(Value::Null)) | Err(_) => continue,
                        there => there,
                    };
                    break;
                }
                found
            }
        };
        let missing = |why: String| match (&input.default, input.optional) {
            (Some(default), _) => Ok(default.clone()),
            (None, true) => Ok(Value::Null),
            (None, false) => Err(why),
        };
        match found {
            Ok(Some(Value::Null)) if input.default.is_some() => {
                Ok(input.default.clone().unwrap_or_default())
            }
            Ok(Some(value)) => Ok(value),
            Ok(None) => {
                let sources: Vec<String> = input
                    .source
                    .references()
                    .map(|reference| reference.value.to_string())
                    .collect();
                missing(format!(
                    "`{}` is not there for its input `{}`",
                    sources.join("`, `"),
                    input.name.value
                ))
                .map_err(Missing::Absent)
            }
            Err(error) => missing(error.message)
                .map_err(|message| Missing::Error(StepError::new("missing_input", message))),
        }
    }

    /// What `reference` leads to. `None` where the step gave nothing; an error where it gave something else.
    pub(super) fn lookup(
        &self,
        reference: &Reference,
        item: Option<&ItemOf<'_>>,
        last: bool,
    ) -> Result<Option<Value>, StepError> {
        let found = self.find(reference, item, last)?;
        Ok(found.map(Cow::into_owned))
    }

    /// The same, where it is: of what is large a small part may be wanted.
    fn find<'a>(
        &'a self,
        reference: &Reference,
        item: Option<&ItemOf<'a>>,
        last: bool,
    ) -> Result<Option<Cow<'a, Value>>, StepError> {
        let (root, path) = match &reference.root {
            Root::Job(input) => (self.inputs.get(input.as_str()), &reference.path[..]),
            Root::Index => return Ok(item.map(|item| Cow::Owned(json!(item.index)))),
            Root::Item => (item.map(|item| item.value), &reference.path[..]),
            Root::Step(step) => {
                let Some(place) = self.place(&step.value) else {
                    return Ok(None);
                };
                let of = &self.steps[place];
                let outputs = match (&of.at, last) {
                    (_, true) => of.last.as_ref(),
                    (At::Over(Over::Completed(outputs)), false) => Some(outputs),
                    (At::Over(Over::Failed | Over::Skipped), false) => None,
                    // It is done again while who asks is taken up: what it gave before is what was asked for.
                    (_, false) => of.last.as_ref(),
                };
                let (Some(outputs), Some((first, rest))) = (outputs, reference.path.split_first())
                else {
                    return Ok(None);
                };
                let each = self.flow.steps[place].for_each.is_some();
                match outputs.get(first) {
                    Some(value) => (Some(value), rest),
                    // Of no items, nobody knows what they would have given.
                    None if each => return Ok(Some(Cow::Owned(json!([])))),
                    None => {
                        let message =
                            format!("`{reference}`: `{}` did not give `{first}`", step.value);
                        return Err(StepError::new("missing_input", message));
                    }
                }
            }
        };
        let Some(mut value) = root else {
            return Ok(None);
        };
        for part in path {
            value = match value {
                Value::Object(fields) if fields.contains_key(part) => &fields[part],
                Value::Null => return Ok(None),
                _ => {
                    let message = format!("`{reference}`: there is no `{part}`");
                    return Err(StepError::new("missing_input", message));
                }
            };
        }
        Ok(Some(Cow::Borrowed(value)))
    }

    /// `steps` in an expression, as far as it asks for that: the state of each that is over.
    pub(super) fn states(&self, asked: Option<&Asked>) -> Map<String, Value> {
        let state = |place: usize| {
            let name = self.flow.steps[place].id.value.as_str().to_owned();
            match &self.steps[place].at {
                At::Over(over) => Some((name, json!({ "state": over.word() }))),
                _ => None,
            }
        };
        match asked {
            None => Map::new(),
            Some(Asked::Whole(_)) => (0..self.steps.len()).filter_map(state).collect(),
            Some(Asked::Fields(names)) => names
                .iter()
                .filter_map(|name| self.place(&name.parse().ok()?))
                .filter_map(state)
                .collect(),
        }
    }

    /// What the flow gives, now that it has completed.
    pub(super) fn flow_outputs(&self) -> Result<Map<String, Value>, StepError> {
        let mut outputs = Map::new();
        for output in &self.flow.outputs {
            let name = output.name.value.as_str();
            let input = StepInput {
                name: crate::problem::At::new(
                    name.parse::<InputName>()
                        .map_err(|error| StepError::new("missing_output", error.to_string()))?,
                    output.name.place,
                ),
                source: output.source.clone(),
                optional: output.optional,
                default: None,
            };
            let value = self.one(&input, None).map_err(|missing| {
                let why = match missing {
                    Missing::Absent(why) => why,
                    Missing::Error(error) => error.message,
                };
                StepError::new(
                    "missing_output",
                    format!("the output `{name}` of the flow: {why}"),
                )
            })?;
            outputs.insert(name.to_owned(), value);
        }
        Ok(outputs)
    }
}

/// What the items of a step gave, as lists; null for what one did not give.
pub(super) fn lists(all: &[Option<Arc<Map<String, Value>>>]) -> Map<String, Value> {
    let names: std::collections::BTreeSet<&String> = all
        .iter()
        .flatten()
        .flat_map(|outputs| outputs.keys())
        .collect();
    let list = |name: &String| {
        let of = |outputs: &Option<Arc<Map<String, Value>>>| {
            let found = outputs.as_ref().and_then(|outputs| outputs.get(name));
            found.cloned().unwrap_or_default()
        };
        all.iter().map(of).collect::<Vec<Value>>()
    };
    names
        .into_iter()
        .map(|name| (name.clone(), list(name).into()))
        .collect()
}
