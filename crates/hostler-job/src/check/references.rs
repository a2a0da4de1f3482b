//! What inputs and outputs refer to: whether it is there, and of the right type.

use super::{Checked, field, graph};
use crate::flow::{self, Kind, Reference, Root, Source, Step};
use crate::problem::{At, Code, Problems, meant};

pub(super) fn check(checked: &Checked<'_, '_>, problems: &mut Problems) {
    for step in &checked.flow.steps {
        for input in &step.inputs {
            let place = field(step, &format!("inputs.{}", input.name.value));
            for reference in input.source.references() {
                kind(checked, reference, Some(step), &place, problems);
            }
        }
        if let Some(each) = &step.for_each {
            let place = field(step, "for_each");
            if matches!(each.over.value.root, Root::Item | Root::Index) {
                let why = format!("`{}` is what the list has, not the list", each.over.value);
                problems.add(each.over.place, Code::BadValue, place, why);
                continue;
            }
            let found = kind(checked, &each.over, Some(step), &place, problems);
            if !found.takes(&Kind::Array(Box::new(Kind::Any))) {
                let why = format!("a list is wanted, and `{}` is {found}", each.over.value);
                problems.add(each.over.place, Code::WrongType, place, why);
            }
        }
    }
    for output in &checked.flow.outputs {
        let place = format!("outputs.{}", output.name.value);
        for reference in output.source.references() {
            kind(checked, reference, None, &place, problems);
        }
    }
}

/// What an input is, as far as it is known. References that are wrong have been told.
pub(super) fn source_kind(checked: &Checked<'_, '_>, source: &Source, step: &Step) -> Kind {
    let mut ignored = Problems::default();
    match source {
        Source::From(reference) => kind(checked, reference, Some(step), "", &mut ignored),
        _ => Kind::Any,
    }
}

/// What a reference is to: anything, where it is wrong or not known.
fn kind(
    checked: &Checked<'_, '_>,
    reference: &At<Reference>,
    of: Option<&Step>,
    place: &str,
    problems: &mut Problems,
) -> Kind {
    let path = &reference.value.path;
    let mut refuse = |code: Code, why: String| {
        problems.add(reference.place, code, place, why);
        Kind::Any
    };
    match &reference.value.root {
        Root::Step(step) => {
            if !checked.has_step(step.value.as_str()) {
                graph::unknown_step(checked, step, place.to_owned(), problems);
                return Kind::Any;
            }
            // One that could not be read is told already.
            let found = checked.step(&step.value);
            let Some(fields) = found.and_then(|step| checked.fields(step)) else {
                return Kind::Any;
            };
            flow::field(&fields, path).unwrap_or_else(|why| {
                let why = format!("step `{}`: {why}", step.value);
                refuse(Code::UnknownOutput, why)
            })
        }
        Root::Job(name) => {
            let inputs = &checked.flow.inputs;
            let Some(input) = inputs.iter().find(|input| input.name.value == *name) else {
                let there = inputs.iter().map(|input| input.name.value.as_str());
                let meant = meant(name.as_str(), there);
                let why = format!("the flow has no input `{name}`{meant}");
                return refuse(Code::UnknownInput, why);
            };
            let mut path = path.iter();
            let found = path.try_fold(input.kind.clone(), |kind, name| kind.field(name));
            found.unwrap_or_else(|why| refuse(Code::UnknownInput, format!("input `{name}`: {why}")))
        }
        Root::Item | Root::Index => {
            if of.is_none_or(|step| step.for_each.is_none()) {
                let why = format!("`{}` is for steps with `for_each`", reference.value);
                return refuse(Code::BadValue, why);
            }
            match reference.value.root {
                Root::Index => Kind::Integer,
                _ => Kind::Any,
            }
        }
    }
}
