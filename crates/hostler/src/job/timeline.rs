//! What happened in a job, in lines for people.

use serde_json::Value;

use super::api::{Job, Run, message};
use crate::client::api::Event;
use crate::client::show::{self, Table, left, right};

/// An event in a few words, if it is one for people; `took` is how long the run has lasted that it is about.
pub(super) fn event(event: &Event, took: Option<u64>) -> Option<String> {
    let detail = &event.detail;
    let step = || {
        let number = |key: &str| detail[key].as_u64();
        label(
            detail["step"].as_str().unwrap_or("?"),
            number("item"),
            number("attempt").unwrap_or(1),
            number("try").unwrap_or(1),
        )
    };
    let took = took.map_or_else(String::new, |ms| format!(" after {}", show::span(ms)));
    let why = match message(&detail["error"]) {
        why if why.is_empty() => why,
        why => format!(": {why}"),
    };
    let then = follows(&detail["follows"]).map_or_else(String::new, |then| format!("; {then}"));
    Some(match event.kind.as_str() {
        "step.running" if took.is_empty() => format!("{}: begins", step()),
        "step.running" => format!("{}: goes on", step()),
        "step.suspended" => format!("{}: waits for an answer", step()),
        "step.completed" => format!("{}: completed{took}{then}", step()),
        "step.failed" => format!("{}: failed{took}{why}{then}", step()),
        "step.cancelled" => format!("{}: cancelled{took}{why}", step()),
        "step.skipped" => match detail["why"].as_str() {
            Some(why) => format!("{}: skipped: {why}", step()),
            None => format!("{}: skipped", step()),
        },
        "job.state" => match detail["state"].as_str()? {
            "paused" => match message(&detail["why"]) {
                why if why.is_empty() => "paused".to_owned(),
                why => format!("paused: {why}"),
            },
            "running" => "running".to_owned(),
            _ => return None,
        },
        "job.completed" => "completed".to_owned(),
        "job.failed" => "failed".to_owned(),
        "job.cancelled" => "cancelled".to_owned(),
        _ => return None,
    })
}

/// A run of a step, by name: `test[3], attempt 2, try 3`.
fn label(step: &str, item: Option<u64>, attempt: u64, try_: u64) -> String {
    let mut text = step.to_owned();
    if let Some(item) = item {
        text.push_str(&format!("[{item}]"));
    }
    if attempt > 1 {
        text.push_str(&format!(", attempt {attempt}"));
    }
    if try_ > 1 {
        text.push_str(&format!(", try {try_}"));
    }
    text
}

/// The same of a run in a listing.
pub(super) fn label_of(run: &Run) -> String {
    let item = run.item.map(u64::from);
    label(&run.step, item, run.attempt.into(), run.try_.into())
}

/// What a job gave: a line each, `NAME: VALUE`; of a text of several lines, those below.
pub(super) fn outputs(outputs: &Value) -> String {
    let mut text = String::new();
    for (name, value) in outputs.as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.trim_end().to_owned(),
            other => other.to_string(),
        };
        if !value.contains('\n') {
            text.push_str(&format!("{name}: {}\n", show::plain(&value)));
            continue;
        }
        text.push_str(&format!("{name}:\n"));
        for line in value.lines() {
            text.push_str(&format!("  {}\n", show::plain(line)));
        }
    }
    text
}

/// The runs of a job as a table.
pub(super) fn table(job: &Job) -> Table {
    let mut table = Table::new(&[
        right("RUN"),
        left("STEP"),
        left("STATE"),
        right("AFTER"),
        right("TOOK"),
        left("WHAT"),
    ]);
    for run in &job.runs {
        let began = run.began.or(run.ended);
        let after = began.map(|began| show::span(began.saturating_sub(job.created)));
        let took = match (run.began, run.ended) {
            (Some(began), Some(ended)) => show::span(ended.saturating_sub(began)),
            (Some(began), None) => show::ago(began),
            _ => "-".into(),
        };
        table.row([
            run.run.to_string(),
            label_of(run),
            run.state.clone(),
            after.unwrap_or_else(|| "-".into()),
            took,
            what(run),
        ]);
    }
    table
}

/// What is to be said of a run, besides how it stands.
fn what(run: &Run) -> String {
    let mut parts = Vec::new();
    if let Some(error) = &run.error {
        parts.push(message(error));
    }
    if let Some(asks) = &run.asks {
        parts.push(format!("asks: {asks}"));
    }
    if let Some(why) = &run.why {
        parts.push(why.clone());
    }
    if let Some(items) = run.items {
        parts.push(format!("{items} items"));
    }
    if run.fallback {
        parts.push("by its fallback".to_owned());
    }
    if let Some(tries) = run.tries {
        parts.push(format!("looked {tries} times"));
    }
    if let Some(by) = &run.answered_by {
        parts.push(format!("answered by {by}"));
    }
    if let Some(follows) = run.follows.as_ref().and_then(follows) {
        parts.push(follows);
    }
    parts.extend(
        [&run.process, &run.conversation, &run.job]
            .into_iter()
            .flatten()
            .cloned(),
    );
    parts.join("; ")
}

/// What followed, where it was not simply the next step.
fn follows(follows: &Value) -> Option<String> {
    let rule = follows["rule"].as_str();
    let by = rule.map_or_else(String::new, |rule| format!(" ({rule})"));
    Some(match follows["action"].as_str()? {
        "advance" => return rule.map(|rule| format!("then on ({rule})")),
        "loop" => format!("then again from {}{by}", show::at(follows, "target")),
        "escalate" => format!("then a person is asked{by}"),
        "abandon" => format!("then the job is abandoned{by}"),
        "continue" => "the job goes on all the same".to_owned(),
        "pause" => "the job is paused".to_owned(),
        "resumed" => "then it was let go on".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(kind: &str, detail: Value) -> Option<String> {
        let event_json = json!({"seq": 1, "kind": kind, "detail": detail});
        let read: Event = serde_json::from_value(event_json).expect("an event");
        event(&read, Some(1500))
    }

    #[test]
    fn events_are_told_in_a_line() {
        let run = json!({"run": 1, "step": "test", "item": 2, "attempt": 3, "try": 2, "error": {"message": "no"}});
        assert_eq!(
            told("step.failed", run.clone()).as_deref(),
            Some("test[2], attempt 3, try 2: failed after 1.5s: no")
        );
        let mut looped = run;
        looped["error"] = Value::Null;
        looped["follows"] = json!({"action": "loop", "rule": "again", "target": "code"});
        let line = told("step.completed", looped).expect("a line");
        assert!(line.ends_with("; then again from code (again)"), "{line}");
        let run = json!({"run": 1, "step": "test", "item": null, "attempt": 1, "try": 1});
        assert_eq!(
            told("step.running", run.clone()).as_deref(),
            Some("test: goes on")
        );
        let begins: Event = serde_json::from_value(
            json!({"seq": 1, "time": 1, "kind": "step.running", "detail": run}),
        )
        .expect("an event");
        assert_eq!(event(&begins, None).as_deref(), Some("test: begins"));
        let paused = json!({"state": "paused", "why": {"message": "a person is asked"}});
        assert_eq!(
            told("job.state", paused).as_deref(),
            Some("paused: a person is asked")
        );
        assert_eq!(told("lease.taken", Value::Null), None);
    }

    #[test]
    fn outputs_are_lines_and_texts_of_several_stand_below() {
        let given = json!({"a": "x\n", "b": "one\n\x1btwo\n", "n": 3, "o": null});
        assert_eq!(
            outputs(&given),
            "a: x\nb:\n  one\n  \u{fffd}two\nn: 3\no: null\n"
        );
        assert_eq!(outputs(&Value::Null), "");
    }
}
