//! Where values come from.

use std::fmt;

use serde_json::Value;

use super::name::{InputName, NameError, StepId};
use crate::problem::At;

/// A value that is elsewhere: `plan.text`, `$job.task`, `$item.name`, `$index`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Of what.
    pub root: Root,
    /// Which field, and which field of that. Of a step, the first is its output.
    pub path: Vec<String>,
}

/// What a reference is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// The outputs of a step.
    Step(At<StepId>),
    /// An input of the job.
    Job(InputName),
    /// The item for which a step with `for_each` is done.
    Item,
    /// The number of that item, from 0.
    Index,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error(
        "`{0}` refers to nothing: it should be like `step.field`, `$job.input`, `$item` or `$index`; a value as it is stands in `{{ value: … }}`"
    )]
    Shape(String),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Reference {
    /// Reads `text`, which stands at the place that the parts of the reference get.
    pub(crate) fn read(text: &At<String>) -> Result<Self, ReferenceError> {
        let shape = || ReferenceError::Shape(text.value.chars().take(80).collect());
        let mut parts = text.value.split('.');
        let first = parts.next().unwrap_or_default();
        let mut path: Vec<String> = parts.map(str::to_owned).collect();
        let strange = |part: &String| {
            part.is_empty() || part.contains(|char: char| char.is_whitespace() || char == '$')
        };
        if path.iter().any(strange) {
            return Err(shape());
        }
        let root = match first {
            "$item" => Root::Item,
            "$index" if path.is_empty() => Root::Index,
            "$job" if !path.is_empty() => Root::Job(path.remove(0).parse()?),
            _ if first.starts_with('$') || path.is_empty() => return Err(shape()),
            _ => Root::Step(At::new(first.parse()?, text.place)),
        };
        Ok(Self { root, path })
    }

    /// The step that it is to, where it is to one.
    pub fn step(&self) -> Option<&At<StepId>> {
        match &self.root {
            Root::Step(step) => Some(step),
            _ => None,
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.root {
            Root::Step(step) => write!(f, "{}", step.value)?,
            Root::Job(input) => write!(f, "$job.{input}")?,
            Root::Item => f.write_str("$item")?,
            Root::Index => f.write_str("$index")?,
        }
        self.path.iter().try_for_each(|part| write!(f, ".{part}"))
    }
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// From there, once that step is over.
    From(At<Reference>),
    /// From the first of these that is there, once all those steps are over.
    Any(Vec<At<Reference>>),
    /// What it was when that step was last completed in this job, or null: for loops. Nothing is waited for.
    Last(At<Reference>),
    /// This value.
    Value(Value),
}

impl Source {
    /// Everything that it refers to.
    pub fn references(&self) -> impl Iterator<Item = &At<Reference>> {
        let all = match self {
            Self::From(reference) | Self::Last(reference) => std::slice::from_ref(reference),
            Self::Any(references) => references,
            Self::Value(_) => &[],
        };
        all.iter()
    }

    /// The steps that have to be over before it is known.
    pub fn waits_for(&self) -> impl Iterator<Item = &At<StepId>> {
        let waits = !matches!(self, Self::Last(_));
        self.references()
            .filter(move |_| waits)
            .filter_map(|reference| reference.value.step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Place;

    fn read(text: &str) -> Result<Reference, ReferenceError> {
        Reference::read(&At::new(text.to_owned(), Place::START))
    }

    #[test]
    fn references_read_back_as_they_were_written() {
        for text in [
            "plan.text",
            "plan.files.first.name",
            "$job.task",
            "$job.task.x",
            "$item",
            "$item.name",
            "$index",
        ] {
            assert_eq!(read(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "", "plan", "plan.", ".x", "$job", "$job.X", "$index.x", "$steps.x", "a b.c", "Plan.x",
            "a.b c", "a.$b",
        ] {
            read(text).expect_err(text);
        }
    }
}
