//! One step.

use std::time::Duration;

use super::declared;
use super::executor::executor;
use super::mapping::{Mapping, Part, name};
use crate::flow::{
    Action, Executor, ExitRule, ForEach, Interrupted, Limits, OnError, OnFailure, Retry, Step,
    StepId,
};
use crate::problem::{At, Code, Problems};
use crate::yaml::Entry;

/// The fields of a step.
pub(crate) const STEP: &[&str] = &[
    "description",
    "command",
    "agent",
    "poll",
    "input",
    "flow",
    "sleep",
    "inputs",
    "outputs",
    "after",
    "when",
    "for_each",
    "session",
    "limits",
    "on_error",
    "interrupted",
    "retry",
    "fallback",
    "exits",
];
/// The fields of the limits of a step.
pub(crate) const LIMITS: &[&str] = &["time", "memory", "turns"];
/// The fields of `retry`.
pub(crate) const RETRY: &[&str] = &["times", "backoff", "factor", "longest"];
/// The fields of `for_each`.
pub(crate) const FOR_EACH: &[&str] = &["in", "parallel", "on_failure"];
/// The fields of an exit rule.
pub(crate) const EXIT: &[&str] = &["name", "when", "action", "target", "max_iterations"];

const FALLBACK: &[&str] = &["command", "agent", "poll", "input", "flow", "sleep"];
/// How often a loop is followed when its rule does not say.
const ITERATIONS: u32 = 10;

/// Reads a step; `None` when it cannot be told what it does.
pub(super) fn step(entry: &Entry, problems: &mut Problems) -> Option<Step> {
    let part = Part::below("steps", entry);
    let id = name(entry, &part.path, problems);
    let mut map = Mapping::open(part.node, &part.path, STEP, problems)?;
    let description = map.text_of("description");
    let executor = executor(&mut map);
    let inputs = map
        .get("inputs")
        .map(|part| declared::given(&part, map.problems));
    let outputs = map
        .get("outputs")
        .map(|part| declared::outputs(part, map.problems));
    let after = map.get("after").map(|part| names(&part, map.problems));
    let when = map
        .get("when")
        .and_then(|part| part.expression(map.problems));
    let for_each = map
        .get("for_each")
        .and_then(|part| self::for_each(&part, map.problems));
    let session = map.get("session").and_then(|part| {
        let name: At<StepId> = part.name(map.problems)?;
        Some(At::new(name.value.to_string(), name.place))
    });
    let limits = map
        .get("limits")
        .map(|part| limits(part, LIMITS, map.problems));
    let on_error = map
        .get("on_error")
        .and_then(|part| part.word(&["fail", "continue", "pause"], map.problems));
    let interrupted = map
        .get("interrupted")
        .and_then(|part| part.word(&["again", "fail"], map.problems));
    let retry = map.get("retry").map(|part| retry(&part, map.problems));
    let fallback = map
        .get("fallback")
        .and_then(|part| fallback(&part, map.problems));
    let exits = map.get("exits").map(|part| exits(&part, map.problems));
    Some(Step {
        id: At::new(id?, entry.key_place),
        description,
        executor: executor?,
        inputs: inputs.unwrap_or_default(),
        outputs: outputs.unwrap_or_default(),
        after: after.unwrap_or_default(),
        when,
        for_each,
        session,
        limits: limits.unwrap_or_default(),
        on_error: match on_error {
            Some(1) => OnError::Continue,
            Some(2) => OnError::Pause,
            _ => OnError::Fail,
        },
        interrupted: match interrupted {
            Some(1) => Interrupted::Fail,
            _ => Interrupted::Again,
        },
        retry: retry.unwrap_or_default(),
        fallback,
        exits: exits.unwrap_or_default(),
    })
}

fn names(part: &Part<'_>, problems: &mut Problems) -> Vec<At<StepId>> {
    let all = part.list_or_one();
    all.iter().filter_map(|part| part.name(problems)).collect()
}

pub(super) fn limits(part: Part<'_>, allowed: &[&str], problems: &mut Problems) -> Limits {
    let Some(map) = Mapping::open(part.node, &part.path, allowed, problems) else {
        return Limits::default();
    };
    Limits {
        time: map
            .get("time")
            .and_then(|part| part.some_time(map.problems)),
        memory: map.get("memory").and_then(|part| part.size(map.problems)),
        turns: map
            .get("turns")
            .and_then(|part| part.count(1, 10_000, map.problems)),
    }
}

fn for_each(part: &Part<'_>, problems: &mut Problems) -> Option<ForEach> {
    if !part.is_map() {
        return Some(ForEach {
            over: part.reference(problems)?,
            parallel: 1,
            on_failure: OnFailure::FailFast,
        });
    }
    let mut map = Mapping::open(part.node, &part.path, FOR_EACH, problems)?;
    let over = map
        .required("in")
        .and_then(|part| part.reference(map.problems));
    let parallel = map
        .get("parallel")
        .and_then(|part| part.count(1, 1000, map.problems));
    let on_failure = map
        .get("on_failure")
        .and_then(|part| part.word(&["fail_fast", "collect"], map.problems));
    Some(ForEach {
        over: over?,
        parallel: parallel.unwrap_or(1),
        on_failure: match on_failure {
            Some(1) => OnFailure::Collect,
            _ => OnFailure::FailFast,
        },
    })
}

fn retry(part: &Part<'_>, problems: &mut Problems) -> Retry {
    let most = 1000;
    let usual = Retry::default();
    if !part.is_map() {
        let times = part.count(0, most, problems).unwrap_or(0);
        return Retry { times, ..usual };
    }
    let Some(mut map) = Mapping::open(part.node, &part.path, RETRY, problems) else {
        return usual;
    };
    let times = map
        .required("times")
        .and_then(|part| part.count(0, most, map.problems));
    let time = |name: &str, map: &mut Mapping<'_, '_>, usual: Duration| {
        let part = map.get(name);
        part.and_then(|part| part.time(map.problems))
            .unwrap_or(usual)
    };
    let backoff = time("backoff", &mut map, usual.backoff);
    let longest = time("longest", &mut map, usual.longest.max(backoff));
    let factor = map.get("factor").and_then(|part| {
        let factor = part.number(map.problems)?;
        if (1.0..=100.0).contains(&factor) {
            return Some(factor);
        }
        part.refuse(
            Code::BadValue,
            "a factor from 1 to 100 is allowed",
            map.problems,
        );
        None
    });
    Retry {
        times: times.unwrap_or(0),
        backoff,
        factor: factor.unwrap_or(usual.factor),
        longest,
    }
}

fn fallback(part: &Part<'_>, problems: &mut Problems) -> Option<At<Executor>> {
    let mut map = Mapping::open(part.node, &part.path, FALLBACK, problems)?;
    executor(&mut map)
}

fn exits(part: &Part<'_>, problems: &mut Problems) -> Vec<ExitRule> {
    let Some(all) = part.list(problems) else {
        return Vec::new();
    };
    let rules = all.iter().enumerate();
    rules
        .filter_map(|(index, part)| exit(index, part, problems))
        .collect()
}

fn exit(index: usize, part: &Part<'_>, problems: &mut Problems) -> Option<ExitRule> {
    let mut map = Mapping::open(part.node, &part.path, EXIT, problems)?;
    let name = match map.get("name") {
        Some(part) => part.text(map.problems)?,
        None => At::new(format!("exit {}", index + 1), part.node.place),
    };
    let when = map.get("when").map(|part| part.expression(map.problems));
    let word = map
        .required("action")
        .and_then(|part| part.word(&Action::WORDS, map.problems));
    let target = map.get("target").map(|part| part.name(map.problems));
    let most = map
        .get("max_iterations")
        .map(|part| part.count(1, 10_000, map.problems).unwrap_or(ITERATIONS));
    let action = match word? {
        1 => {
            let Some(target) = target else {
                let why = "`target` is missing: the step from which on is done again";
                part.refuse(Code::MissingField, why, map.problems);
                return None;
            };
            Action::Loop {
                target: target?,
                max_iterations: most.unwrap_or(ITERATIONS),
            }
        }
        word => {
            for field in ["target", "max_iterations"] {
                if let Some(part) = map.get(field) {
                    let why = format!("`{field}` is for the action `loop`");
                    part.refuse(Code::Conflict, why, map.problems);
                }
            }
            match word {
                0 => Action::Advance,
                2 => Action::Escalate,
                _ => Action::Abandon,
            }
        }
    };
    // An expression that cannot be read has been told; its rule is not one that always holds.
    let when = match when {
        None => None,
        Some(expression) => Some(expression?),
    };
    Some(ExitRule { name, when, action })
}
