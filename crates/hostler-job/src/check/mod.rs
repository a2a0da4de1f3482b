//! Whether what was read makes sense: names that there are, types that go together, no step that waits for itself.

mod expressions;
mod flows;
mod graph;
mod references;
mod uses;

use std::collections::HashMap;

use crate::flow::{Flow, Step, StepId};
use crate::problem::{Problem, Problems};
use crate::{read, yaml};

pub use flows::{Loaded, Wrong, load, load_text};

/// What is known of the flow in another file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Other<'f> {
    /// It was not looked at.
    Unknown,
    /// It cannot be read, which is told elsewhere.
    Wrong,
    /// This.
    Flow(&'f Flow),
}

impl<'f> Other<'f> {
    fn flow(self) -> Option<&'f Flow> {
        match self {
            Self::Flow(flow) => Some(flow),
            Self::Unknown | Self::Wrong => None,
        }
    }
}

/// What all checks look at.
struct Checked<'a, 'o> {
    flow: &'a Flow,
    /// All steps that the file names, in its order, also those that could not be read.
    named: &'a [String],
    /// The same; for those that could be read, what they are.
    steps: HashMap<&'a str, Option<&'a Step>>,
    /// The flow of a file, as it is named in this one.
    others: &'o dyn Fn(&str) -> Other<'o>,
}

impl<'a> Checked<'a, '_> {
    /// Whether the file has a step of this name.
    fn has_step(&self, name: &str) -> bool {
        self.steps.contains_key(name)
    }

    /// The step, if it could be read.
    fn step(&self, id: &StepId) -> Option<&'a Step> {
        self.steps.get(id.as_str()).copied().flatten()
    }

    /// What a step gives, as others see it; `None` where that is not known.
    fn fields(&self, step: &Step) -> Option<Vec<crate::flow::Field>> {
        let fields = crate::flow::fields(step, |file| (self.others)(file).flow())?;
        Some(crate::flow::whole(step, fields))
    }
}

/// Reads a flow and finds all that is wrong with it. Files of sub-flows are not looked at: [`load`] does that.
///
/// # Errors
/// Everything that is wrong, in the order of the file.
pub fn check(text: &str) -> Result<Flow, Vec<Problem>> {
    with_others(text, &|_| Other::Unknown)
}

fn with_others<'o>(
    text: &str,
    others: &'o dyn Fn(&str) -> Other<'o>,
) -> Result<Flow, Vec<Problem>> {
    let mut problems = Problems::default();
    let root = yaml::read(text, &mut problems);
    let read = root.and_then(|root| read::flow(&root, &mut problems));
    if let Some(read) = &read {
        let named = read.named.iter().map(|name| (name.as_str(), None));
        let steps = read.flow.steps.iter();
        let known = steps.map(|step| (step.id.value.as_str(), Some(step)));
        let checked = Checked {
            flow: &read.flow,
            named: &read.named,
            steps: named.chain(known).collect(),
            others,
        };
        graph::check(&checked, &mut problems);
        references::check(&checked, &mut problems);
        expressions::check(&checked, &mut problems);
        uses::check(&checked, &mut problems);
        flows::given(&checked, &mut problems);
    }
    match read {
        Some(read) if problems.is_empty() => Ok(read.flow),
        _ => Err(problems.sorted()),
    }
}

/// The field of a step's part, for a problem.
fn field(step: &Step, part: &str) -> String {
    format!("steps.{}.{part}", step.id.value)
}
