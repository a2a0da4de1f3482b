//! Declarations of inputs and outputs, and where values come from.

use serde_json::Value;

use super::mapping::{Mapping, Part, entries, name};
use crate::flow::{Declared, InputName, Kind, OutputName, Source, StepInput};
use crate::problem::{At, Code, Problems};

const KIND: [&str; 4] = ["type", "items", "fields", "choices"];
/// The fields of a declared input of a flow.
pub(crate) const INPUT_DECLARED: &[&str] = &[
    "type",
    "items",
    "fields",
    "choices",
    "description",
    "default",
    "optional",
];
/// The fields of a declared output of a step.
pub(crate) const OUTPUT_DECLARED: &[&str] = &[
    "type",
    "items",
    "fields",
    "choices",
    "description",
    "default",
    "optional",
];
/// The fields of where a value comes from.
pub(crate) const FROM: &[&str] = &["from", "any", "last", "value", "optional", "default"];

/// The inputs of a flow.
pub(super) fn inputs(at: Part<'_>, problems: &mut Problems) -> Vec<Declared<InputName>> {
    declared(&at, INPUT_DECLARED, problems)
}

/// The outputs of a step.
pub(super) fn outputs(at: Part<'_>, problems: &mut Problems) -> Vec<Declared<OutputName>> {
    declared(&at, OUTPUT_DECLARED, problems)
}

fn declared<N: std::str::FromStr<Err = crate::flow::NameError>>(
    at: &Part<'_>,
    allowed: &[&str],
    problems: &mut Problems,
) -> Vec<Declared<N>> {
    let mut all = Vec::new();
    for entry in entries(at, problems) {
        let place = Part::below(&at.path, entry);
        let name = name(entry, &place.path, problems);
        if let (Some(declared), Some(name)) = (one(&place, allowed, problems), name) {
            let name = At::new(name, entry.key_place);
            all.push(Declared {
                name,
                kind: declared.kind,
                description: declared.description,
                default: declared.default,
                optional: declared.optional,
            });
        }
    }
    all
}

struct One {
    kind: Kind,
    description: Option<String>,
    default: Option<Value>,
    optional: bool,
}

fn one(at: &Part<'_>, allowed: &[&str], problems: &mut Problems) -> Option<One> {
    let kind = kind(at, allowed, problems);
    if !at.is_map() {
        return Some(One {
            kind: kind?,
            description: None,
            default: None,
            optional: false,
        });
    }
    // Its fields were looked at with its type.
    let mut map = Mapping::open(at.node, &at.path, INPUT_DECLARED, &mut *problems)?;
    let description = map.text_of("description");
    let default = map.get("default");
    let optional = map
        .get("optional")
        .and_then(|at| at.boolean(map.problems))
        .unwrap_or(false);
    let kind = kind?;
    if let Some(at) = &default
        && let Err(mismatch) = kind.check(&at.node.json())
    {
        at.refuse(Code::WrongType, mismatch.to_string(), map.problems);
    }
    Some(One {
        kind,
        description,
        default: default.map(|at| at.node.json()),
        optional,
    })
}

/// A type: a word, or a mapping with `allowed` fields.
fn kind(at: &Part<'_>, allowed: &[&str], problems: &mut Problems) -> Option<Kind> {
    if !at.is_map() {
        let word = at.word(&Kind::WORDS, problems)?;
        return Kind::from_word(Kind::WORDS[word]);
    }
    let mut map = Mapping::open(at.node, &at.path, allowed, problems)?;
    map.one_of(&["items", "fields", "choices"]);
    let word = match map.get("type") {
        Some(at) => Some(Kind::WORDS[at.word(&Kind::WORDS, map.problems)?]),
        None => None,
    };
    let details = [
        ("items", "array"),
        ("fields", "object"),
        ("choices", "string"),
    ];
    for (detail, of) in details {
        let Some(part) = map.get(detail) else {
            continue;
        };
        if word.is_some_and(|word| word != of) {
            let why = format!("`{detail}` is for the type `{of}`");
            part.refuse(Code::Conflict, why, map.problems);
            return None;
        }
        return detailed(&part, of, map.problems);
    }
    match word {
        Some(word) => Kind::from_word(word),
        None => {
            let why = "`type` is missing";
            at.refuse(Code::MissingField, why, map.problems);
            None
        }
    }
}

fn detailed(part: &Part<'_>, of: &str, problems: &mut Problems) -> Option<Kind> {
    match of {
        "array" => Some(Kind::Array(Box::new(kind(part, &KIND, problems)?))),
        "object" => {
            let mut fields = Vec::new();
            for entry in entries(part, problems) {
                let place = Part::below(&part.path, entry);
                if let Some(kind) = kind(&place, &KIND, problems) {
                    fields.push((entry.key.clone(), kind));
                }
            }
            Some(Kind::Object(Some(fields)))
        }
        _ => {
            let words: Vec<String> = part
                .list(problems)?
                .iter()
                .filter_map(|part| Some(part.text(problems)?.value))
                .collect();
            if words.is_empty() {
                part.refuse(Code::BadValue, "at least one choice is needed", problems);
                return None;
            }
            Some(Kind::Choice(words))
        }
    }
}

/// The inputs of a step.
pub(super) fn given(at: &Part<'_>, problems: &mut Problems) -> Vec<StepInput> {
    let mut all = Vec::new();
    for entry in entries(at, problems) {
        let place = Part::below(&at.path, entry);
        let name = name(entry, &place.path, problems);
        if let (Some((source, optional, default)), Some(name)) = (source(place, problems), name) {
            all.push(StepInput {
                name: At::new(name, entry.key_place),
                source,
                optional,
                default,
            });
        }
    }
    all
}

/// Where a value comes from; whether it may be missing; what it is then.
pub(super) fn source(
    at: Part<'_>,
    problems: &mut Problems,
) -> Option<(Source, bool, Option<Value>)> {
    if !at.is_map() {
        return Some((Source::From(at.reference(problems)?), false, None));
    }
    let mut map = Mapping::open(at.node, &at.path, FROM, problems)?;
    map.one_of(&["from", "any", "last", "value"]);
    let default = map.get("default").map(|at| at.node.json());
    let said = map.get("optional").and_then(|at| at.boolean(map.problems));
    let source = if let Some(part) = map.get("from") {
        Source::From(part.reference(map.problems)?)
    } else if let Some(part) = map.get("last") {
        Source::Last(part.reference(map.problems)?)
    } else if let Some(part) = map.get("any") {
        let all: Vec<_> = part
            .list(map.problems)?
            .iter()
            .filter_map(|part| part.reference(map.problems))
            .collect();
        if all.is_empty() {
            part.refuse(
                Code::BadValue,
                "at least one reference is needed",
                map.problems,
            );
            return None;
        }
        Source::Any(all)
    } else if let Some(part) = map.get("value") {
        Source::Value(part.node.json())
    } else {
        let why = "one of `from`, `any`, `last` and `value` is missing";
        at.refuse(Code::MissingField, why, map.problems);
        return None;
    };
    Some((source, said.unwrap_or(default.is_some()), default))
}
