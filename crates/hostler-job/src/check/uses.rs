//! Fields that an executor has no use for, and names that stand for two things.

use super::expressions::executors;
use super::{Checked, field};
use crate::flow::{Executor, ExecutorKind, Stdout, Step, Template};
use crate::problem::{At, Code, Problems};

pub(super) fn check(checked: &Checked<'_, '_>, problems: &mut Problems) {
    for step in &checked.flow.steps {
        outputs(step, problems);
        limits(step, problems);
        for (executor, part) in executors(step) {
            files(step, executor, part, problems);
        }
    }
    sessions(checked, problems);
}

fn outputs(step: &Step, problems: &mut Problems) {
    for (executor, part) in executors(step) {
        let why = match &executor.value {
            Executor::Command(command) if command.stdout == Stdout::Text => {
                "outputs of a command are fields of the JSON that it prints: `stdout: json` says that it does"
            }
            Executor::Poll(_) | Executor::Flow(_) | Executor::Sleep(_) => {
                "no outputs can be declared for this: what it gives is fixed"
            }
            _ => "",
        };
        let first = step.outputs.first();
        if let (Some(declared), false) = (first, why.is_empty()) {
            let why = format!("`{part}`: {why}");
            problems.add(
                declared.name.place,
                Code::Conflict,
                field(step, "outputs"),
                why,
            );
        }
        let own: &[&str] = match executor.value.kind() {
            ExecutorKind::Command => &["exit_code", "stdout", "json"],
            ExecutorKind::Agent => &["text"],
            _ => &[],
        };
        for declared in &step.outputs {
            let name = declared.name.value.as_str();
            if own.contains(&name) {
                let why = format!("`{part}` gives a `{name}` of its own");
                let place = field(step, &format!("outputs.{name}"));
                problems.add(declared.name.place, Code::Conflict, place, why);
            }
        }
    }
}

fn files(step: &Step, executor: &At<Executor>, part: &str, problems: &mut Problems) {
    let Executor::Command(command) = &executor.value else {
        return;
    };
    for (name, _) in &command.files {
        let taken = ["exit_code", "stdout", "json"].contains(&name.value.as_str())
            || step
                .outputs
                .iter()
                .any(|output| output.name.value == name.value);
        if taken {
            let why = format!("there is an output `{}` already", name.value);
            problems.add(
                name.place,
                Code::Conflict,
                field(step, &format!("{part}.files")),
                why,
            );
        }
    }
}

fn limits(step: &Step, problems: &mut Problems) {
    let any = |kinds: &[ExecutorKind]| {
        executors(step).any(|(executor, _)| kinds.contains(&executor.value.kind()))
    };
    use ExecutorKind::{Agent, Command, Poll};
    let mut refuse = |name: &str, of: &str| {
        let why = format!("`{name}` is for {of}");
        let place = field(step, &format!("limits.{name}"));
        problems.add(step.id.place, Code::Conflict, place, why);
    };
    if step.limits.memory.is_some() && !any(&[Agent, Command, Poll]) {
        refuse("memory", "what runs programs: command, poll, agent");
    }
    if step.limits.turns.is_some() && !any(&[Agent]) {
        refuse("turns", "agents");
    }
}

/// Steps that share a conversation are of one agent, one after the other.
fn sessions(checked: &Checked<'_, '_>, problems: &mut Problems) {
    let mut known: Vec<(&str, &Step, &At<Template>)> = Vec::new();
    for step in &checked.flow.steps {
        let Some(session) = &step.session else {
            continue;
        };
        let place = field(step, "session");
        let Executor::Agent(agent) = &step.executor.value else {
            let why = "only steps of an agent have a conversation";
            problems.add(session.place, Code::Conflict, place, why);
            continue;
        };
        if step.for_each.as_ref().is_some_and(|each| each.parallel > 1) {
            let why =
                "one conversation cannot be in several places at once: `parallel: 1` is needed";
            problems.add(session.place, Code::Conflict, place, why);
            continue;
        }
        let earlier = known.iter().find(|(name, ..)| *name == session.value);
        match earlier {
            Some((_, other, name)) if name.value != agent.name.value => {
                let why = format!(
                    "the conversation `{}` is with the agent of step `{}`, and this is another",
                    session.value, other.id.value
                );
                problems.add(session.place, Code::Conflict, place, why);
            }
            Some(_) => {}
            None => known.push((session.value.as_str(), step, &agent.name)),
        }
    }
}
