//! From a tree of YAML to a flow: every field by its name, everything that is wrong told at once.

mod declared;
mod executor;
mod mapping;
mod step;

use mapping::{Mapping, Part};

use crate::flow::{Flow, FlowOutput, Source, Step};
use crate::problem::{At, Code, Problems};
use crate::yaml::Node;

/// The fields of a flow.
pub(crate) const FLOW: &[&str] = &[
    "name",
    "description",
    "inputs",
    "cwd",
    "limits",
    "steps",
    "outputs",
];
/// The fields of the limits of a flow.
pub(crate) const FLOW_LIMITS: &[&str] = &["time", "memory"];

#[cfg(test)]
pub(crate) use declared::{FROM, INPUT_DECLARED, OUTPUT_DECLARED};
#[cfg(test)]
pub(crate) use executor::{AGENT, COMMAND, FLOW_FILE, INPUT, POLL};
#[cfg(test)]
pub(crate) use step::{EXIT, FOR_EACH, LIMITS, RETRY, STEP};

/// What could be read of a flow.
pub(crate) struct Read {
    /// The flow, without the parts that are wrong.
    pub(crate) flow: Flow,
    /// All steps that the file names, also those that could not be read.
    pub(crate) named: Vec<String>,
}

/// Reads a flow. Where there is nothing to read, the problems say why.
pub(crate) fn flow(root: &Node, problems: &mut Problems) -> Option<Read> {
    let mut map = Mapping::open(root, "", FLOW, problems)?;
    let name = map.required("name").and_then(|at| map.flow_name(at));
    let description = map.text_of("description");
    let inputs = map
        .get("inputs")
        .map(|at| declared::inputs(at, map.problems))
        .unwrap_or_default();
    let cwd = map.template_of("cwd");
    let limits = map
        .get("limits")
        .map(|at| step::limits(at, FLOW_LIMITS, map.problems))
        .unwrap_or_default();
    let (mut steps, mut named) = (Vec::new(), Vec::new());
    if let Some(at) = map.required("steps") {
        (steps, named) = self::steps(at, map.problems);
    }
    let outputs = map
        .get("outputs")
        .map(|at| outputs(at, map.problems))
        .unwrap_or_default();
    let flow = Flow {
        name: name.unwrap_or_default(),
        description,
        inputs,
        cwd,
        limits,
        steps,
        outputs,
    };
    Some(Read { flow, named })
}

fn steps(at: Part<'_>, problems: &mut Problems) -> (Vec<Step>, Vec<String>) {
    let entries = mapping::entries(&at, problems);
    if entries.is_empty() {
        let why = "a flow has at least one step";
        problems.add(at.node.place, Code::BadValue, at.path.as_str(), why);
    }
    let named = entries.iter().map(|entry| entry.key.clone()).collect();
    let steps = entries
        .iter()
        .filter_map(|entry| step::step(entry, problems))
        .collect();
    (steps, named)
}

fn outputs(at: Part<'_>, problems: &mut Problems) -> Vec<FlowOutput> {
    let entries = mapping::entries(&at, problems);
    let read = entries.iter().filter_map(|entry| {
        let place = Part::below(&at.path, entry);
        let name = mapping::name(entry, &place.path, problems);
        let (source, optional, _) = declared::source(place, problems)?;
        if let Source::Last(reference) = &source {
            let why = "`last` is for inputs of steps: a job that has completed has no other";
            problems.add(
                reference.place,
                Code::Conflict,
                format!("{}.{}", at.path, entry.key),
                why,
            );
        }
        Some(FlowOutput {
            name: At::new(name?, entry.key_place),
            source,
            optional,
        })
    });
    read.collect()
}
