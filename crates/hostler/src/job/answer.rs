//! Answers to steps that ask: `hostler job answer`, and what is typed while a job is watched.

use std::io::Write;

use clap::Args;
use hostler_gateway::wire::WantedAnswer;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::api::{self, Job, Question};
use crate::client::error::{Failure, Result};
use crate::client::{Place, show, turn};

/// What `hostler job answer` is told.
#[derive(Debug, Args)]
pub(crate) struct Answer {
    #[command(flatten)]
    place: Place,
    /// The run that is answered, where several ask
    #[arg(long, value_name = "N")]
    run: Option<u32>,
    /// The job
    job: String,
    /// What is said: a text (`-` for what is on standard input), or NAME=VALUE for each thing that is wanted
    #[arg(required = true, value_name = "TEXT | NAME=VALUE")]
    words: Vec<String>,
}

/// Gives it.
pub(super) async fn run(answer: &Answer) -> Result<u8> {
    let mut host = answer.place.host()?.because("hostler job answer");
    let id = api::resolve(&mut host, &answer.job).await?;
    let job: Job = host.read(&format!("{}?brief=true", api::path(&id))).await?;
    let question = match (answer.run, job.asks.as_slice()) {
        // Its own before those of the jobs below it.
        (Some(run), asks) => asks
            .iter()
            .filter(|of| of.run == run)
            .min_by_key(|of| of.job.is_some()),
        (None, [one]) => Some(one),
        (None, _) => None,
    };
    let wants = question.map_or(&[][..], |question| question.wants.as_slice());
    let mut body = body(wants, &answer.words)?;
    if let Some(run) = answer.run {
        body["run"] = run.into();
    }
    if let Some(request) = question.and_then(|question| question.request) {
        body["request"] = request.into();
    }
    let asks = question.and_then(|question| question.job.as_deref());
    let path = format!("{}/answer", api::path(asks.unwrap_or(&id)));
    host.json(Method::POST, &path, Some(&body)).await?;
    Ok(0)
}

/// What the words of a command line say, where this is wanted.
fn body(wants: &[WantedAnswer], words: &[String]) -> Result<Value> {
    let named = words.iter().map(|word| {
        let (name, value) = word.split_once('=')?;
        let wanted = wants.iter().find(|wanted| wanted.name == name)?;
        Some((name.to_owned(), value_of(wanted, value)))
    });
    let named: Option<Map<String, Value>> = named.collect();
    if let Some(outputs) = named {
        return Ok(json!({ "outputs": outputs }));
    }
    match (wants, words) {
        ([] | [_], [text]) => {
            let text = turn::said(text)?;
            let value = match wants {
                [one] => value_of(one, text.trim_end_matches('\n')),
                _ => text.into(),
            };
            Ok(json!({ "answer": value }))
        }
        ([] | [_], words) => Ok(json!({ "answer": words.join(" ") })),
        (several, _) => {
            let names: Vec<&str> = several.iter().map(|of| of.name.as_str()).collect();
            let why = format!(
                "the answer is to be NAME=VALUE for each of: {}",
                names.join(", ")
            );
            Err(Failure::Usage(why))
        }
    }
}

/// A text as what is wanted. What it is not is left for the host to refuse, with its reason.
fn value_of(wanted: &WantedAnswer, text: &str) -> Value {
    if wanted.kind == "boolean" {
        match text.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" | "true" => return true.into(),
            "n" | "no" | "false" => return false.into(),
            _ => {}
        }
    }
    text.into()
}

/// A question that somebody at the terminal is being asked, one thing after the other.
#[derive(Debug)]
pub(super) struct Asking {
    question: Question,
    values: Map<String, Value>,
    at: usize,
}

/// What a typed line came to.
#[derive(Debug, PartialEq)]
pub(super) enum Taken {
    /// More is wanted.
    More,
    /// This is the answer.
    Whole(Value),
}

impl Asking {
    /// Nothing is said yet.
    pub(super) fn new(question: Question) -> Self {
        Self {
            question,
            values: Map::new(),
            at: 0,
        }
    }

    /// The run that asks.
    pub(super) fn run(&self) -> u32 {
        self.question.run
    }

    /// Which of what its agent asks permission for.
    pub(super) fn request(&self) -> Option<u64> {
        self.question.request
    }

    /// The job that asks, if that is one below.
    pub(super) fn below(&self) -> Option<&str> {
        self.question.job.as_deref()
    }

    /// The command that answers it.
    pub(super) fn command(&self, job: &str) -> String {
        let wants = &self.question.wants;
        let of = |wanted: &WantedAnswer| match wanted.required {
            true => format!("{}={}", wanted.name, hint(wanted)),
            false => format!("[{}={}]", wanted.name, hint(wanted)),
        };
        let words = match wants.as_slice() {
            [] => "TEXT".to_owned(),
            wants => wants.iter().map(of).collect::<Vec<_>>().join(" "),
        };
        let job = self.below().unwrap_or(job);
        format!("hostler job answer --run {} {job} {words}", self.run())
    }

    /// Says what is wanted next.
    pub(super) fn prompt(&self) {
        let text = match self.question.wants.get(self.at) {
            None => "> ".to_owned(),
            Some(wanted) => {
                let about = wanted.description.as_deref();
                let about = about.map_or_else(String::new, |about| format!("{about} "));
                let optional = if wanted.required { "" } else { ", or nothing" };
                format!("{about}{} ({}{optional}): ", wanted.name, hint(wanted))
            }
        };
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "{}", show::plain(&text));
        let _ = out.flush();
    }

    /// Takes a line.
    pub(super) fn take(&mut self, line: &str) -> Taken {
        let wants = &self.question.wants;
        let Some(wanted) = wants.get(self.at) else {
            return self.whole("answer", line.into());
        };
        if wanted.required || !line.is_empty() {
            let value = value_of(wanted, line);
            self.values.insert(wanted.name.clone(), value);
        }
        self.at += 1;
        if self.at < wants.len() {
            return Taken::More;
        }
        self.whole("outputs", Value::Object(self.values.clone()))
    }

    fn whole(&self, name: &str, said: Value) -> Taken {
        let mut body = json!({ "run": self.run(), name: said });
        if let Some(request) = self.request() {
            body["request"] = request.into();
        }
        Taken::Whole(body)
    }

    /// It is asked from the start, for the answer was none.
    pub(super) fn again(&mut self) {
        self.values.clear();
        self.at = 0;
    }
}

/// What may be said.
fn hint(wanted: &WantedAnswer) -> String {
    match wanted.kind.as_str() {
        "boolean" => "y|n".to_owned(),
        "choice" => wanted.choices.join("|"),
        "string" | "any" => "TEXT".to_owned(),
        "integer" | "number" => "NUMBER".to_owned(),
        _ => "JSON".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str, kind: &str, required: bool) -> WantedAnswer {
        WantedAnswer {
            name: name.into(),
            kind: kind.into(),
            required,
            ..WantedAnswer::default()
        }
    }

    fn words(wants: &[WantedAnswer], words: &[&str]) -> std::result::Result<Value, String> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        body(wants, &words).map_err(|failure| failure.to_string())
    }

    #[test]
    fn words_are_taken_as_what_is_wanted() {
        let keep = wanted("keep", "boolean", true);
        let remark = wanted("remark", "string", false);
        assert_eq!(words(&[], &["a=b"]), Ok(json!({"answer": "a=b"})));
        assert_eq!(words(&[], &["go", "on"]), Ok(json!({"answer": "go on"})));
        let one = std::slice::from_ref(&keep);
        assert_eq!(words(one, &["yes"]), Ok(json!({"answer": true})));
        assert_eq!(
            words(one, &["keep=n"]),
            Ok(json!({"outputs": {"keep": false}}))
        );
        assert_eq!(words(one, &["maybe"]), Ok(json!({"answer": "maybe"})));
        let both = [keep, remark];
        assert_eq!(
            words(&both, &["keep=y", "remark=a=b"]),
            Ok(json!({"outputs": {"keep": true, "remark": "a=b"}}))
        );
        let refused = words(&both, &["yes"]).expect_err("two are wanted");
        assert!(refused.ends_with("keep, remark"), "{refused}");
    }

    #[test]
    fn a_person_is_asked_one_thing_after_the_other() {
        let question = Question {
            job: None,
            run: 7,
            request: None,
            step: "review".into(),
            text: "Keep it?".into(),
            wants: vec![
                wanted("keep", "boolean", true),
                wanted("remark", "string", false),
            ],
        };
        let mut asking = Asking::new(question);
        assert_eq!(
            asking.command("j-1"),
            "hostler job answer --run 7 j-1 keep=y|n [remark=TEXT]"
        );
        assert_eq!(asking.take("y"), Taken::More);
        let whole = json!({"run": 7, "outputs": {"keep": true}});
        assert_eq!(asking.take(""), Taken::Whole(whole));
    }
}
