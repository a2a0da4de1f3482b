//! What expressions and templates speak of.

use super::{Checked, field, graph};
use crate::flow::{Action, Executor, Expression, Root, Step, Template, Variables};
use crate::problem::{At, Code, Problems, meant};

pub(super) fn check(checked: &Checked<'_, '_>, problems: &mut Problems) {
    let job = names(
        checked
            .flow
            .inputs
            .iter()
            .map(|input| input.name.value.as_str()),
    );
    if let Some(cwd) = &checked.flow.cwd {
        template(cwd, &job, "the flow", "cwd", problems);
    }
    let order = graph::Order::new(checked);
    for step in &checked.flow.steps {
        let inputs = names(step.inputs.iter().map(|input| input.name.value.as_str()));
        for (executor, part) in executors(step) {
            for text in executor.value.templates() {
                let of = format!("the step `{}`", step.id.value);
                template(text, &inputs, &of, &field(step, part), problems);
            }
            if let Executor::Poll(poll) = &executor.value {
                let own = [("exit_code", None), ("stdout", None), ("tries", None)];
                let part = format!("{part}.until");
                expression(poll.until.as_ref(), &own, &field(step, &part), problems);
            }
        }
        when(checked, &order, step, &job, problems);
        exits(checked, step, &job, &inputs, problems);
    }
}

fn names<'n>(names: impl Iterator<Item = &'n str>) -> Vec<String> {
    names.map(str::to_owned).collect()
}

/// What may do a step, and in which field it stands.
pub(super) fn executors(step: &Step) -> impl Iterator<Item = (&At<Executor>, &'static str)> {
    let first = (&step.executor, step.executor.value.kind().word());
    let fallback = step.fallback.iter().map(|executor| (executor, "fallback"));
    std::iter::once(first).chain(fallback)
}

fn template(
    text: &At<Template>,
    inputs: &[String],
    of: &str,
    place: &str,
    problems: &mut Problems,
) {
    for name in text.value.inputs() {
        if !inputs.iter().any(|input| input == name.as_str()) {
            let meant = meant(name.as_str(), inputs.iter().map(String::as_str));
            let why = format!("`${{{name}}}`: {of} has no input `{name}`{meant}");
            problems.add(text.place, Code::UnknownInput, place, why);
        }
    }
}

fn expression(
    expression: Option<&At<Expression>>,
    variables: &Variables<'_>,
    place: &str,
    problems: &mut Problems,
) {
    let Some(expression) = expression else {
        return;
    };
    for why in expression.value.unknown(variables) {
        problems.add(expression.place, Code::BadExpression, place, why);
    }
}

fn when(
    checked: &Checked<'_, '_>,
    order: &graph::Order<'_>,
    step: &Step,
    job: &[String],
    problems: &mut Problems,
) {
    let Some(when) = &step.when else {
        return;
    };
    let place = field(step, "when");
    // It is asked once, before there is any item.
    let of_items = |input: &crate::flow::StepInput| {
        let mut references = input.source.references();
        references.any(|reference| matches!(reference.value.root, Root::Item | Root::Index))
    };
    let inputs = step.inputs.iter().filter(|input| !of_items(input));
    let inputs = names(inputs.map(|input| input.name.value.as_str()));
    let variables = [
        ("inputs", Some(inputs)),
        ("job", Some(job.to_vec())),
        ("steps", None),
    ];
    expression(Some(when), &variables, &place, problems);
    for name in when.value.fields_of("steps") {
        if !checked.has_step(&name) {
            let meant = meant(&name, checked.named.iter().map(String::as_str));
            let why = format!("there is no step `{name}`{meant}");
            problems.add(when.place, Code::UnknownStep, &*place, why);
        } else if order.comes_before(&name, &step.id.value) == Some(false) {
            let why = format!(
                "`steps.{name}` is not known here: the step does not wait for `{name}` (`after: {name}`)"
            );
            problems.add(when.place, Code::BadExpression, &*place, why);
        }
    }
}

fn exits(
    checked: &Checked<'_, '_>,
    step: &Step,
    job: &[String],
    inputs: &[String],
    problems: &mut Problems,
) {
    let outputs = checked.fields(step);
    let outputs = outputs.map(|fields| fields.into_iter().map(|field| field.name).collect());
    let variables = [
        ("outputs", outputs),
        ("inputs", Some(inputs.to_vec())),
        ("job", Some(job.to_vec())),
        ("attempt", None),
        ("error", Some(names(["code", "message"].into_iter()))),
    ];
    let mut always: Option<&str> = None;
    for (index, rule) in step.exits.iter().enumerate() {
        let place = field(step, &format!("exits[{index}]"));
        let when = format!("{place}.when");
        expression(rule.when.as_ref(), &variables, &when, problems);
        let name = rule.name.value.as_str();
        if step.exits[..index]
            .iter()
            .any(|other| other.name.value == name)
        {
            let why = format!("there is a rule `{name}` already");
            problems.add(rule.name.place, Code::Duplicate, &*place, why);
        }
        if let Some(always) = always {
            let why = format!("never reached: the rule `{always}` before it holds in any case");
            problems.add(rule.name.place, Code::Conflict, &*place, why);
        }
        // A loop whose rule always holds goes on until its limit, and nothing follows it.
        if rule.when.is_none() {
            always = Some(name);
            if matches!(rule.action, Action::Loop { .. }) {
                let why = "a loop needs `when`: without, it never ends but by its limit";
                problems.add(rule.name.place, Code::MissingField, &*place, why);
            }
        }
    }
}
