//! How far a job is: which steps may begin, what follows one that is over. Nothing here waits, starts or writes anything; what is to
//! be done is an [`Effect`].
//!
//! A step is *waiting* until all that it waits for are over, then *running*, then *over* (completed, failed, skipped) or *held* for a
//! person. Each time it begins is an attempt; each attempt has a run, or one for each item, and more where runs are tried again. A
//! loop makes steps that are over wait again. What was so far can be told from the runs and what followed each ([`replay`]): so the
//! ledger's rows are all that the next host needs.

mod begin;
mod replay;
mod settle;
#[cfg(test)]
mod tests;
mod values;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{Change, JobEnd, JobId, StepRunRow, StepRunUpdate};
use serde_json::{Map, Value};

use super::error::StepError;
use crate::flow::{Flow, Step, StepId};

pub(crate) use begin::executor;
pub(crate) use replay::{Again, Live};

/// What is to be done, in this order: what is written first is in the ledger before anything is started.
#[derive(Debug)]
pub(crate) enum Effect {
    /// To be written.
    Write(Change),
    /// A run begins.
    Start(Plan),
    /// A run is to be ended.
    Cancel(u32),
    /// The job is paused: it waits for a person.
    Pause(Value),
    /// The job ends.
    End(End),
}

/// How a job is to end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct End {
    pub(crate) end: JobEnd,
    pub(crate) why: Value,
    pub(crate) outputs: Option<Value>,
}

impl End {
    pub(crate) fn new(end: JobEnd, code: &str, message: impl Into<String>) -> Self {
        let why = serde_json::json!({ "code": code, "message": message.into() });
        Self {
            end,
            why,
            outputs: None,
        }
    }
}

/// One run to be made.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Its number.
    pub(crate) run: u32,
    /// Of which job.
    pub(crate) job: JobId,
    /// The step, by its place in the flow.
    pub(crate) step: usize,
    /// Whether the fallback does it.
    pub(crate) fallback: bool,
    /// It begins after so long.
    pub(crate) pause: Duration,
    pub(crate) inputs: Map<String, Value>,
    /// Whether all that it is given is known: of a run of an earlier host it may be no more.
    pub(crate) is_whole: bool,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// What it gave; also of one that has failed, as far as it goes.
    pub(crate) outputs: Map<String, Value>,
    /// Why it failed, if it did.
    pub(crate) error: Option<StepError>,
    /// More, to be kept with it.
    pub(crate) detail: Option<Value>,
}

impl Outcome {
    pub(crate) fn completed(outputs: Map<String, Value>) -> Self {
        Self {
            outputs,
            error: None,
            detail: None,
        }
    }

    pub(crate) fn failed(error: StepError) -> Self {
        Self {
            outputs: Map::new(),
            error: Some(error),
            detail: None,
        }
    }
}

/// What a step gave.
type Outputs = Arc<Map<String, Value>>;

/// How a step stands.
#[derive(Debug)]
enum At {
    Waiting,
    Running(Box<Attempt>),
    /// It has a result, and a person says whether the job goes on.
    Held(Box<Held>),
    Over(Over),
}

#[derive(Debug, Clone)]
enum Over {
    Completed(Outputs),
    Failed,
    Skipped,
}

impl Over {
    fn word(&self) -> &'static str {
        match self {
            Self::Completed(_) => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug)]
struct Held {
    /// The run in which it is kept what follows.
    run: u32,
    /// What it is when the job goes on.
    then: Over,
}

/// One time that a step is done.
#[derive(Debug)]
struct Attempt {
    /// The row of the step as a whole, where it has items.
    head: Option<u32>,
    items: Vec<Item>,
    /// The first item that was not begun.
    next: usize,
    /// Items that are to be tried again, once the job goes on.
    again: Vec<usize>,
    /// How many items are under way.
    busy: usize,
    /// Why the items that run are being ended, and no more begin.
    broken: Option<StepError>,
}

impl Attempt {
    /// The next item to be begun.
    fn next_item(&mut self) -> Option<usize> {
        if let Some(item) = self.again.pop() {
            return Some(item);
        }
        while self.next < self.items.len() {
            let item = self.next;
            self.next += 1;
            if matches!(self.items[item].state, ItemState::Waiting) {
                return Some(item);
            }
        }
        None
    }
}

#[derive(Debug)]
struct Item {
    value: Option<Value>,
    /// How often it was tried.
    tries: u32,
    fallback: bool,
    state: ItemState,
}

impl Item {
    /// Whether it is tried again, now that it has failed with this error, and after how long. Where the fallback is next, it is taken
    /// on to that. The one place that says so: for a run that ends, and for one that an earlier host saw end.
    fn tried_again(&mut self, step: &Step, error: &StepError) -> Option<Duration> {
        // Without what it needs it would be the same the next time.
        if self.fallback || error.code == "missing_input" {
            return None;
        }
        if self.tries <= step.retry.times {
            return Some(step.retry.pause(self.tries));
        }
        step.fallback.as_ref()?;
        (self.fallback, self.tries) = (true, 0);
        Some(Duration::ZERO)
    }
}

#[derive(Debug)]
enum ItemState {
    Waiting,
    /// With this run, which may not have begun yet.
    Busy(u32),
    Done {
        outputs: Outputs,
        error: Option<StepError>,
    },
}

#[derive(Debug)]
struct StepProgress {
    attempt: u32,
    at: At,
    /// How many of the steps that it waits for are not over.
    blockers: usize,
    /// What it gave when it last completed.
    last: Option<Outputs>,
}

/// How far a job is.
#[derive(Debug)]
pub(crate) struct Progress {
    job: JobId,
    flow: Arc<Flow>,
    inputs: Map<String, Value>,
    places: HashMap<StepId, usize>,
    /// For each step, those that it waits for, and those that wait for it.
    waits: Vec<Vec<usize>>,
    dependants: Vec<Vec<usize>>,
    steps: Vec<StepProgress>,
    /// How often each loop was followed: by step and rule.
    loops: HashMap<(usize, usize), u32>,
    /// Runs that have not ended: of which step, and which item of it.
    live: HashMap<u32, (usize, usize)>,
    /// The number of the next run.
    next: u32,
    ready: VecDeque<usize>,
    /// Steps that are not over.
    open: usize,
    /// Paused: nothing begins.
    held: bool,
    ended: bool,
    effects: Vec<Effect>,
}

impl Progress {
    /// Of a job that begins.
    pub(crate) fn new(job: JobId, flow: Arc<Flow>, inputs: Map<String, Value>) -> Self {
        let places: HashMap<StepId, usize> = flow
            .steps
            .iter()
            .enumerate()
            .map(|(place, step)| (step.id.value.clone(), place))
            .collect();
        let waits: Vec<Vec<usize>> = flow
            .steps
            .iter()
            .map(|step| {
                let waits = step.waits_for().into_iter();
                waits
                    .filter_map(|of| places.get(&of.value).copied())
                    .collect()
            })
            .collect();
        let mut dependants = vec![Vec::new(); waits.len()];
        for (place, waits) in waits.iter().enumerate() {
            for of in waits {
                dependants[*of].push(place);
            }
        }
        let steps = waits.iter().map(|waits| StepProgress {
            attempt: 0,
            at: At::Waiting,
            blockers: waits.len(),
            last: None,
        });
        let steps: Vec<StepProgress> = steps.collect();
        let mut progress = Self {
            job,
            open: steps.len(),
            flow,
            inputs,
            places,
            waits,
            dependants,
            steps,
            loops: HashMap::new(),
            live: HashMap::new(),
            next: 1,
            ready: VecDeque::new(),
            held: false,
            ended: false,
            effects: Vec::new(),
        };
        progress.find_ready();
        progress
    }

    fn place(&self, step: &StepId) -> Option<usize> {
        self.places.get(step).copied()
    }

    /// Begins what may begin, and says what is to be done.
    pub(crate) fn advance(&mut self) -> Vec<Effect> {
        while !self.held && !self.ended {
            let Some(place) = self.ready.pop_front() else {
                break;
            };
            if matches!(self.steps[place].at, At::Waiting) && self.steps[place].blockers == 0 {
                self.begin(place);
            }
        }
        let idle = self.live.is_empty() && self.ready.is_empty();
        if !self.ended && !self.held && idle {
            self.over();
        }
        std::mem::take(&mut self.effects)
    }

    /// Nothing begins until [`Progress::resume`]. What runs goes on.
    pub(crate) fn pause(&mut self) {
        self.held = true;
    }

    /// Goes on, also past what is held for a person.
    pub(crate) fn resume(&mut self) -> Vec<Effect> {
        self.held = false;
        for place in 0..self.steps.len() {
            let at = &mut self.steps[place].at;
            if !matches!(at, At::Held(_)) {
                continue;
            }
            let At::Held(held) = std::mem::replace(at, At::Waiting) else {
                continue;
            };
            let follows = serde_json::json!({ "action": "resumed", "step": held.then.word() });
            let update = StepRunUpdate {
                follows: Some(follows),
                ..StepRunUpdate::default()
            };
            self.change(held.run, update);
            self.is_over(place, held.then);
        }
        self.begin_items();
        self.advance()
    }

    /// Whether a person is waited for, to say whether the job goes on.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    /// The step of a run that has not ended.
    pub(crate) fn step_of(&self, run: u32) -> Option<usize> {
        self.live.get(&run).map(|(place, _)| *place)
    }

    /// Nothing more begins: the job has ended.
    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.ready.clear();
    }

    fn write(&mut self, change: Change) {
        self.effects.push(Effect::Write(change));
    }

    fn insert(&mut self, row: StepRunRow) {
        let job = self.job.clone();
        self.write(Change::StepBegan {
            job,
            run: Box::new(row),
        });
    }

    fn change(&mut self, run: u32, update: StepRunUpdate) {
        let job = self.job.clone();
        self.write(Change::StepChanged {
            job,
            run,
            update: Box::new(update),
        });
    }

    fn number(&mut self) -> u32 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Counts what is not over, and finds what may begin.
    fn find_ready(&mut self) {
        self.ready.clear();
        self.open = 0;
        for place in 0..self.steps.len() {
            let waits = self.waits[place].iter();
            let blockers = waits
                .filter(|of| !matches!(self.steps[**of].at, At::Over(_)))
                .count();
            let step = &mut self.steps[place];
            step.blockers = blockers;
            self.open += usize::from(!matches!(step.at, At::Over(_)));
            if blockers == 0 && matches!(step.at, At::Waiting) {
                self.ready.push_back(place);
            }
        }
    }

    /// A step is over: what waits for it may begin.
    fn is_over(&mut self, place: usize, over: Over) {
        if let Over::Completed(outputs) = &over {
            self.steps[place].last = Some(outputs.clone());
        }
        self.steps[place].at = At::Over(over);
        self.open -= 1;
        for of in &self.dependants[place] {
            let step = &mut self.steps[*of];
            step.blockers = step.blockers.saturating_sub(1);
            if step.blockers == 0 && matches!(step.at, At::Waiting) {
                self.ready.push_back(*of);
            }
        }
    }

    /// Nothing runs, and nothing may begin.
    fn over(&mut self) {
        self.ended = true;
        if self.open > 0 {
            let waiting = self.flow.steps.iter().zip(&self.steps);
            let waiting = waiting.filter(|(_, at)| !matches!(at.at, At::Over(_)));
            let names: Vec<&str> = waiting.map(|(step, _)| step.id.value.as_str()).collect();
            let message = format!(
                "no step is left that could begin; waiting: {}",
                names.join(", ")
            );
            let end = End::new(JobEnd::Failed, "no_step_left", message);
            return self.effects.push(Effect::End(end));
        }
        let end = match self.flow_outputs() {
            Ok(outputs) => End {
                outputs: Some(Value::Object(outputs)),
                ..End::new(JobEnd::Completed, "completed", "all steps are over")
            },
            Err(error) => End::new(JobEnd::Failed, &error.code, error.message),
        };
        self.effects.push(Effect::End(end));
    }
}
