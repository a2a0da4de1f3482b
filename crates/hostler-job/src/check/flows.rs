//! Flows in files, with those that they use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::expressions::executors;
use super::{Checked, Other, field, references, with_others};
use crate::flow::{Executor, Flow, Source};
use crate::problem::{Code, Place, Problem, Problems, meant};

/// How deep flows may use one another.
const DEEPEST: usize = 8;

/// A flow that was read from a file, with all that it uses.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The flow.
    pub flow: Flow,
    /// The text of its file.
    pub source: String,
    /// The flows that it uses, by the names under which it does.
    pub flows: BTreeMap<String, Loaded>,
}

/// Something that is wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wrong {
    /// Which file.
    pub file: PathBuf,
    /// What is wrong there.
    #[serde(flatten)]
    pub problem: Problem,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.problem)
    }
}

/// Reads a flow from a file, and those that it uses, whose files are named from its directory.
///
/// # Errors
/// Everything that is wrong with it and with them, file by file; also that a file cannot be read.
pub fn load(file: &Path) -> Result<Loaded, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let loaded = one(file, &mut Vec::new(), &mut wrong);
    match loaded {
        Some(loaded) if wrong.is_empty() => Ok(loaded),
        _ => {
            let mut told: Vec<Wrong> = Vec::new();
            for each in wrong {
                if !told.contains(&each) {
                    told.push(each);
                }
            }
            Err(told)
        }
    }
}

/// As [`load`], of a flow that stands in no file: the files that it uses are named from `directory`.
///
/// # Errors
/// As of [`load`]; the flow itself is called `flow`.
pub fn load_text(source: &str, directory: &Path) -> Result<Loaded, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let place = (Path::new("flow"), directory);
    match text(source.to_owned(), place, &mut Vec::new(), &mut wrong) {
        Some(loaded) if wrong.is_empty() => Ok(loaded),
        _ => Err(wrong),
    }
}

impl Loaded {
    /// Its text and those of the flows that it uses, for [`Loaded::restore`]: files may change while a job runs.
    pub fn stored(&self) -> Value {
        let flows = self.flows.iter();
        let flows = flows.map(|(name, flow)| (name.clone(), flow.stored()));
        json!({ "source": self.source, "flows": Value::Object(flows.collect()) })
    }

    /// What was [`stored`](Self::stored).
    ///
    /// # Errors
    /// Why it is none, in one line: for one of another release, which allowed what this one does not.
    pub fn restore(stored: &Value) -> Result<Self, String> {
        let source = stored["source"]
            .as_str()
            .ok_or("it has no text")?
            .to_owned();
        let mut flows = BTreeMap::new();
        for (name, flow) in stored["flows"].as_object().into_iter().flatten() {
            flows.insert(name.clone(), Self::restore(flow)?);
        }
        let others = |name: &str| match flows.get(name) {
            Some(loaded) => Other::Flow(&loaded.flow),
            None => Other::Unknown,
        };
        let flow = with_others(&source, &others).map_err(|problems| {
            problems
                .first()
                .map_or_else(String::new, ToString::to_string)
        })?;
        Ok(Self {
            flow,
            source,
            flows,
        })
    }
}

/// What stands in `file`, and in `wrong` what is wrong with it; `above` are the files by which it came to that.
fn one(file: &Path, above: &mut Vec<PathBuf>, wrong: &mut Vec<Wrong>) -> Option<Loaded> {
    let refuse = |code: Code, message: String| Wrong {
        file: file.to_owned(),
        problem: Problem {
            place: Place::START,
            code,
            field: String::new(),
            message,
        },
    };
    let source = match std::fs::read(file).map(String::from_utf8) {
        Ok(Ok(source)) => source,
        Ok(Err(_)) => {
            wrong.push(refuse(Code::Syntax, "the file is not UTF-8".into()));
            return None;
        }
        Err(error) => {
            wrong.push(refuse(
                Code::BadFlow,
                format!("the file cannot be read: {error}"),
            ));
            return None;
        }
    };
    let own = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    above.push(own);
    let directory = file.parent().unwrap_or(Path::new(""));
    let loaded = text(source, (file, directory), above, wrong);
    above.pop();
    loaded
}

/// The flow of this text, with those that it uses.
fn text(
    source: String,
    (file, directory): (&Path, &Path),
    above: &mut Vec<PathBuf>,
    wrong: &mut Vec<Wrong>,
) -> Option<Loaded> {
    let mut flows = BTreeMap::new();
    let mut failed: BTreeMap<String, String> = BTreeMap::new();
    for name in used(&source) {
        let below = directory.join(&name);
        let canonical = std::fs::canonicalize(&below).unwrap_or_else(|_| below.clone());
        if above.contains(&canonical) {
            failed.insert(name, "a flow cannot use itself, nor what uses it".into());
        } else if above.len() >= DEEPEST {
            failed.insert(
                name,
                format!("flows use one another more than {DEEPEST} deep"),
            );
        } else if !below.is_file() {
            failed.insert(name, format!("there is no file {}", below.display()));
        } else {
            let before = wrong.len();
            match one(&below, above, wrong) {
                Some(loaded) if wrong.len() == before => drop(flows.insert(name, loaded)),
                _ => drop(failed.insert(name, "this flow is wrong itself".into())),
            }
        }
    }
    let others = |name: &str| match flows.get(name) {
        Some(loaded) => Other::Flow(&loaded.flow),
        None if failed.contains_key(name) => Other::Wrong,
        None => Other::Unknown,
    };
    let found = with_others(&source, &others);
    let mut failures = |flow: &[(String, Place, String)]| {
        for (name, place, field) in flow {
            if let Some(why) = failed.get(name) {
                wrong.push(Wrong {
                    file: file.to_owned(),
                    problem: Problem {
                        place: *place,
                        code: Code::BadFlow,
                        field: field.clone(),
                        message: format!("`{name}`: {why}"),
                    },
                });
            }
        }
    };
    failures(&places(&source));
    match found {
        Ok(flow) => Some(Loaded {
            flow,
            source,
            flows,
        }),
        Err(problems) => {
            wrong.extend(problems.into_iter().map(|problem| Wrong {
                file: file.to_owned(),
                problem,
            }));
            None
        }
    }
}

/// The files that a flow uses, each once: also where other parts of it are wrong.
fn used(source: &str) -> Vec<String> {
    let mut names: Vec<String> = places(source).into_iter().map(|(name, ..)| name).collect();
    names.sort();
    names.dedup();
    names
}

/// Each use of a file: its name, where it stands, and in which field.
fn places(source: &str) -> Vec<(String, Place, String)> {
    // What is wrong here is told when the flow is checked.
    let mut ignored = Problems::default();
    let root = crate::yaml::read(source, &mut ignored);
    let Some(read) = root.and_then(|root| crate::read::flow(&root, &mut ignored)) else {
        return Vec::new();
    };
    let steps = read.flow.steps.iter();
    let uses = steps.flat_map(|step| executors(step).map(move |found| (step, found)));
    uses.filter_map(|(step, (executor, part))| match &executor.value {
        Executor::Flow(sub) => Some((sub.file.value.clone(), sub.file.place, field(step, part))),
        _ => None,
    })
    .collect()
}

/// Whether sub-flows are given what they need.
pub(super) fn given(checked: &Checked<'_, '_>, problems: &mut Problems) {
    for step in &checked.flow.steps {
        for (executor, part) in executors(step) {
            let Executor::Flow(sub) = &executor.value else {
                continue;
            };
            let Some(flow) = (checked.others)(&sub.file.value).flow() else {
                continue;
            };
            for wanted in &flow.inputs {
                let name = &wanted.name.value;
                let Some(input) = step.input(name) else {
                    if wanted.is_required() {
                        let why = format!(
                            "the flow `{}` needs the input `{name}` ({})",
                            flow.name, wanted.kind
                        );
                        problems.add(sub.file.place, Code::MissingInput, field(step, part), why);
                    }
                    continue;
                };
                let mismatch = match &input.source {
                    Source::Value(value) => wanted
                        .kind
                        .check(value)
                        .err()
                        .map(|wrong| wrong.to_string()),
                    source => {
                        let kind = references::source_kind(checked, source, step);
                        let fits = wanted.kind.takes(&kind);
                        (!fits).then(|| format!("{} is wanted, and this is {kind}", wanted.kind))
                    }
                };
                if let Some(why) = mismatch {
                    let why = format!("for the flow `{}`: {why}", flow.name);
                    let place = field(step, &format!("inputs.{name}"));
                    problems.add(input.name.place, Code::WrongType, place, why);
                }
            }
            for input in &step.inputs {
                let name = input.name.value.as_str();
                if flow
                    .inputs
                    .iter()
                    .all(|wanted| wanted.name.value.as_str() != name)
                {
                    let there = flow.inputs.iter().map(|wanted| wanted.name.value.as_str());
                    let why = format!(
                        "the flow `{}` has no input `{name}`{}",
                        flow.name,
                        meant(name, there)
                    );
                    let place = field(step, &format!("inputs.{name}"));
                    problems.add(input.name.place, Code::UnknownInput, place, why);
                }
            }
        }
    }
}
