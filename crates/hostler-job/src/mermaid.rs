//! A flow as a Mermaid diagram (<https://mermaid.js.org/syntax/flowchart.html>).

use std::fmt::Write;

use crate::flow::{Action, Flow, Source, Step};

/// Draws it: a box for each step, an arrow from each step to those that wait for it, dotted arrows for what exit rules do and for
/// values of an earlier iteration.
pub fn mermaid(flow: &Flow) -> String {
    let mut text = format!("---\ntitle: {}\n---\nflowchart TD\n", flow.name);
    let (mut pauses, mut fails) = (false, false);
    for step in &flow.steps {
        let _ = writeln!(
            text,
            "    {}[\"{}\"]",
            node(step.id.value.as_str()),
            label(step)
        );
    }
    for step in &flow.steps {
        let own = node(step.id.value.as_str());
        for other in step.waits_for() {
            let _ = writeln!(text, "    {} --> {own}", node(other.value.as_str()));
        }
        for input in &step.inputs {
            if let (Source::Last(_), Some(other)) =
                (&input.source, input.source.references().next())
                && let Some(other) = other.value.step()
            {
                let other = node(other.value.as_str());
                let _ = writeln!(text, "    {other} -. \"last\" .-> {own}");
            }
        }
        for rule in &step.exits {
            let name = escaped(&rule.name.value);
            let _ = match &rule.action {
                Action::Advance => Ok(()),
                Action::Loop {
                    target,
                    max_iterations,
                } => {
                    let target = node(target.value.as_str());
                    writeln!(
                        text,
                        "    {own} -. \"{name} (at most {max_iterations})\" .-> {target}"
                    )
                }
                Action::Escalate => {
                    pauses = true;
                    writeln!(text, "    {own} -. \"{name}\" .-> paused")
                }
                Action::Abandon => {
                    fails = true;
                    writeln!(text, "    {own} -. \"{name}\" .-> failed")
                }
            };
        }
    }
    if pauses {
        text.push_str("    paused([\"paused\"])\n");
    }
    if fails {
        text.push_str("    failed([\"failed\"])\n");
    }
    text
}

/// The diagram's own name for a step: some names, such as `end`, mean something else in Mermaid.
fn node(id: &str) -> String {
    format!("step_{id}")
}

fn label(step: &Step) -> String {
    let mut label = format!(
        "{}<br/>{}",
        step.id.value,
        step.executor.value.kind().word()
    );
    if let Some(each) = &step.for_each {
        let _ = write!(
            label,
            "<br/>for each of {}",
            escaped(&each.over.value.to_string())
        );
    }
    if let Some(when) = &step.when {
        let _ = write!(label, "<br/>when {}", escaped(when.value.source()));
    }
    label
}

/// A text in which nothing ends a label, and nothing is a tag: Mermaid has entities for that, with `#` for `&`.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for char in text.chars() {
        match char {
            '"' | '#' | '<' | '>' | '&' | ';' | '`' => {
                let _ = write!(escaped, "#{};", u32::from(char));
            }
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_drawn_with_what_its_rules_do() {
        let flow = crate::check(
            "name: x\nsteps:\n  end: {command: 'true', inputs: {was: {last: b.stdout}}}\n  b:\n    command: {run: 'false', exit_codes: [0, 1]}\n    after: end\n    when: '1 < 2 && \"a\" != \"b\"'\n    exits:\n      - {name: 'no \"luck\"', when: 'outputs.exit_code != 0', action: loop, target: end, max_iterations: 3}\n      - {when: 'attempt > 5', action: abandon}\n",
        )
        .expect("a flow");
        let drawn = mermaid(&flow);
        let should = "---\ntitle: x\n---\nflowchart TD\n    step_end[\"end<br/>command\"]\n    step_b[\"b<br/>command<br/>when 1 #60; 2 #38;#38; #34;a#34; != #34;b#34;\"]\n    step_b -. \"last\" .-> step_end\n    step_end --> step_b\n    step_b -. \"no #34;luck#34; (at most 3)\" .-> step_end\n    step_b -. \"exit 2\" .-> failed\n    failed([\"failed\"])\n";
        assert_eq!(drawn, should);
    }
}
