//! A flow as it was written and found right: typed, with the places that later words may need.

mod executor;
mod expression;
mod fields;
mod kind;
mod name;
mod reference;
mod template;
mod vocabulary;

use std::collections::HashSet;
use std::time::Duration;

pub use executor::{
    Agent, Ask, Command, Executor, ExecutorKind, Launch, Poll, Program, Stdout, SubFlow,
};
pub use expression::{EvaluationError, Expression, Variable};
pub use fields::Field;
pub use kind::{Kind, Mismatch};
pub use name::{InputName, NameError, OutputName, StepId};
pub use reference::{Reference, Root, Source};
pub use template::{Template, TemplateError};

pub(crate) use fields::{field, fields, whole};
pub(crate) use vocabulary::{Asked, Variables};

use crate::problem::At;

/// A flow.
#[derive(Debug, Clone)]
pub struct Flow {
    /// Its name, for listings.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// What it has to be given.
    pub inputs: Vec<Declared<InputName>>,
    /// Where its steps work, unless they say otherwise; its inputs may stand in it.
    pub cwd: Option<At<Template>>,
    /// What bounds the job as a whole.
    pub limits: Limits,
    /// Its steps, in the order of the file.
    pub steps: Vec<Step>,
    /// What it gives when it has completed.
    pub outputs: Vec<FlowOutput>,
}

impl Flow {
    /// The step of this name.
    pub fn step(&self, id: &StepId) -> Option<&Step> {
        self.steps.iter().find(|step| step.id.value == *id)
    }
}

/// A value that has a name and a type: an input of a flow, an output of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared<N> {
    /// Its name.
    pub name: At<N>,
    /// What it may be.
    pub kind: Kind,
    /// What it is for.
    pub description: Option<String>,
    /// What it is when it is not given. Of an output: what it is when the step does not say it.
    pub default: Option<serde_json::Value>,
    /// Whether it may be missing; it is null then.
    pub optional: bool,
}

impl<N> Declared<N> {
    /// Whether it has to be given.
    pub fn is_required(&self) -> bool {
        self.default.is_none() && !self.optional
    }
}

/// What a flow gives.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowOutput {
    /// Its name.
    pub name: At<OutputName>,
    /// Where it comes from.
    pub source: Source,
    /// Whether it may be missing; it is null then.
    pub optional: bool,
}

/// One step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Its name.
    pub id: At<StepId>,
    /// What it is for.
    pub description: Option<String>,
    /// What does it.
    pub executor: At<Executor>,
    /// What it is given.
    pub inputs: Vec<StepInput>,
    /// What it gives, besides what its executor always does.
    pub outputs: Vec<Declared<OutputName>>,
    /// Steps that have to be over before it begins, besides those that it has inputs from.
    pub after: Vec<At<StepId>>,
    /// Whether it is done at all: else it is skipped.
    pub when: Option<At<Expression>>,
    /// Once for each of these.
    pub for_each: Option<ForEach>,
    /// The conversation that it shares with other steps of an agent.
    pub session: Option<At<String>>,
    /// What bounds one run of it.
    pub limits: Limits,
    /// What comes of the job when it fails.
    pub on_error: OnError,
    /// What becomes of a run of it that the death of the host has cut off.
    pub interrupted: Interrupted,
    /// How often it is tried.
    pub retry: Retry,
    /// What is tried when that has failed for good.
    pub fallback: Option<At<Executor>>,
    /// What follows.
    pub exits: Vec<ExitRule>,
}

impl Step {
    /// What it is given under this name.
    pub fn input(&self, name: &InputName) -> Option<&StepInput> {
        self.inputs.iter().find(|input| input.name.value == *name)
    }

    /// The steps that have to be over before this one begins: what it is after, and what it has inputs from. Each once.
    pub fn waits_for(&self) -> Vec<&At<StepId>> {
        let after = self.after.iter();
        let inputs = self
            .inputs
            .iter()
            .flat_map(|input| input.source.waits_for());
        let items = self.for_each.iter().flat_map(|each| each.over.value.step());
        let mut known = HashSet::new();
        let all = after.chain(inputs).chain(items);
        all.filter(|step| known.insert(&step.value)).collect()
    }
}

/// What a step is given.
#[derive(Debug, Clone, PartialEq)]
pub struct StepInput {
    /// Its name.
    pub name: At<InputName>,
    /// Where it comes from.
    pub source: Source,
    /// Whether it may be missing; it is the default, or null, then.
    pub optional: bool,
    /// What it is when it is missing.
    pub default: Option<serde_json::Value>,
}

/// A step that is done once for each item of a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ForEach {
    /// The list.
    pub over: At<Reference>,
    /// How many at once.
    pub parallel: u32,
    /// What a failure means for the others.
    pub on_failure: OnFailure,
}

/// What the failure of one item means for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The step has failed, and what of it runs is cancelled.
    #[default]
    FailFast,
    /// The others go on, and the failed one's outputs are null.
    Collect,
}

/// Bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// For so long.
    pub time: Option<Duration>,
    /// With so much memory, in bytes.
    pub memory: Option<u64>,
    /// With so many turns of an agent.
    pub turns: Option<u32>,
}

/// What comes of the job when a step has failed, and no exit rule says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// It has failed.
    #[default]
    Fail,
    /// It goes on; steps that need what this one did not give are skipped.
    Continue,
    /// It is paused and waits for a person.
    Pause,
}

/// What becomes of a run that the death of the host has cut off, and that cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interrupted {
    /// It is made again, which does not count as a time that it was tried.
    #[default]
    Again,
    /// It has failed.
    Fail,
}

/// How often a step is tried.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Retry {
    /// How often again, after the first time.
    pub times: u32,
    /// The pause before the first time again.
    pub backoff: Duration,
    /// Each further pause is so many times as long.
    pub factor: f64,
    /// The longest pause.
    pub longest: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            times: 0,
            backoff: Duration::from_secs(1),
            factor: 2.0,
            longest: Duration::from_secs(300),
        }
    }
}

impl Retry {
    /// The pause before the `again`th time again, from 1.
    pub fn pause(&self, again: u32) -> Duration {
        let times = i32::try_from(again.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.backoff.as_secs_f64() * self.factor.powi(times);
        Duration::try_from_secs_f64(seconds.min(self.longest.as_secs_f64())).unwrap_or(self.longest)
    }
}

/// What follows a step in one case.
#[derive(Debug, Clone)]
pub struct ExitRule {
    /// Its name, for the timeline.
    pub name: At<String>,
    /// In which case; without one, in any.
    pub when: Option<At<Expression>>,
    /// What follows.
    pub action: Action,
}

/// What an exit rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// The step is completed, and what waits for it may begin.
    Advance,
    /// An earlier step, and all between it and this one, are done again.
    Loop {
        /// The earlier step, or this one.
        target: At<StepId>,
        /// So often at the most, counting every time that the rule has been followed in this job.
        max_iterations: u32,
    },
    /// The job is paused and waits for a person.
    Escalate,
    /// The job has failed.
    Abandon,
}

impl Action {
    /// The words for the actions.
    pub const WORDS: [&'static str; 4] = ["advance", "loop", "escalate", "abandon"];

    /// The word for it in a file.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Advance => "advance",
            Self::Loop { .. } => "loop",
            Self::Escalate => "escalate",
            Self::Abandon => "abandon",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest() {
        let retry = Retry {
            times: 9,
            backoff: Duration::from_secs(2),
            factor: 3.0,
            longest: Duration::from_secs(20),
        };
        let pauses: Vec<u64> = (1..=4).map(|again| retry.pause(again).as_secs()).collect();
        assert_eq!(pauses, [2, 6, 18, 20]);
        assert_eq!(retry.pause(u32::MAX), retry.longest, "no overflow");
    }
}
