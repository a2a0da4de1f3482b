//! What a step gives: the types of its outputs.

use super::executor::Executor;
use super::kind::Kind;
use super::{Flow, Step};

/// An output that a step has.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What `step` gives, for each item where it has `for_each`; `None` where that cannot be known, for a sub-flow that could not be read.
/// `flows` gives the sub-flow of a file.
pub(crate) fn fields<'f>(
    step: &Step,
    flows: impl Fn(&str) -> Option<&'f Flow>,
) -> Option<Vec<Field>> {
    let mut all = of(&step.executor.value, step, &flows)?;
    if let Some(fallback) = &step.fallback {
        // Only what is there whichever of the two has done it.
        let others = of(&fallback.value, step, &flows)?;
        all.retain(|field| others.iter().any(|other| other.name == field.name));
        for field in &mut all {
            let same = others.contains(field);
            if !same {
                field.kind = Kind::Any;
            }
        }
    }
    Some(all)
}

/// The fields of `step` as those who refer to it see them: with `for_each`, lists.
pub(crate) fn whole(step: &Step, fields: Vec<Field>) -> Vec<Field> {
    match step.for_each {
        None => fields,
        Some(_) => fields
            .into_iter()
            .map(|field| Field {
                kind: Kind::Array(Box::new(field.kind)),
                ..field
            })
            .collect(),
    }
}

/// The type of what `path` leads to among `fields`.
pub(crate) fn field(fields: &[Field], path: &[String]) -> Result<Kind, String> {
    let Some((first, rest)) = path.split_first() else {
        return Ok(Kind::Object(None));
    };
    let Some(found) = fields.iter().find(|field| field.name == *first) else {
        let there = fields.iter().map(|field| field.name.as_str());
        let meant = crate::problem::meant(first, there);
        return Err(format!("no output `{first}`{meant}"));
    };
    rest.iter()
        .try_fold(found.kind.clone(), |kind, name| kind.field(name))
}

fn of<'f>(
    executor: &Executor,
    step: &Step,
    flows: &impl Fn(&str) -> Option<&'f Flow>,
) -> Option<Vec<Field>> {
    let new = |name: &str, kind: Kind| Field {
        name: name.to_owned(),
        kind,
    };
    let mut all = match executor {
        Executor::Command(command) => {
            let files = command.files.iter();
            let files = files.map(|(name, _)| new(name.value.as_str(), Kind::String));
            let mut own = vec![new("exit_code", Kind::Integer), new("stdout", Kind::String)];
            if command.stdout == super::Stdout::Json {
                own.push(new("json", Kind::Any));
            }
            own.extend(files);
            own
        }
        Executor::Poll(_) => vec![
            new("exit_code", Kind::Integer),
            new("stdout", Kind::String),
            new("tries", Kind::Integer),
        ],
        Executor::Agent(_) => vec![new("text", Kind::String)],
        Executor::Input(_) if step.outputs.is_empty() => vec![new("answer", Kind::String)],
        Executor::Input(_) | Executor::Sleep(_) => Vec::new(),
        Executor::Flow(sub) => {
            let flow = flows(&sub.file.value)?;
            let outputs = flow.outputs.iter();
            outputs
                .map(|output| new(output.name.value.as_str(), Kind::Any))
                .collect()
        }
    };
    for declared in &step.outputs {
        let name = declared.name.value.as_str();
        if all.iter().all(|field| field.name != name) {
            all.push(new(name, declared.kind.clone()));
        }
    }
    Some(all)
}
