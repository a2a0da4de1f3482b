//! `hostler prompt`: one turn of a session's agent, from the prompt to its end.

use std::pin::pin;

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::error::{Failure, Result};
use super::host::{Host, PATIENCE, PAUSE, part, request};
use super::turn::{End, Shown, is_yes, said, typed};
use super::{Place, acp, remote, show, signals};
use hostler_run::say;

/// What to ask of whom.
#[derive(Debug, Args)]
pub(crate) struct Prompt {
    #[command(flatten)]
    place: Place,
    /// Print the entries of the transcript, as JSON lines
    #[arg(long)]
    pub(super) json: bool,
    /// The session
    pub(super) session: String,
    /// What to say; `-` for what is on standard input
    pub(super) text: String,
}

#[derive(Deserialize)]
struct Entry {
    seq: u64,
    #[serde(default)]
    turn: Option<u64>,
    kind: String,
    data: Value,
}

/// Lines as they come, from the entry behind the last one on, from whichever host has the conversation.
struct Lines<'p> {
    host: Host,
    path: &'p str,
    after: u64,
    /// Whether somebody is there who answers what the agent asks; else that is the session's policy's to decide.
    answers: bool,
    body: Option<Incoming>,
    rest: Vec<u8>,
}

impl Lines<'_> {
    async fn open(&mut self) -> Result<Incoming> {
        let path = format!(
            "{}/transcript?follow=true&answers={}&after={}",
            self.path, self.answers, self.after
        );
        let request = request(Method::GET, &path)
            .body(Full::default())
            .map_err(|error| Failure::Nonsense(error.to_string()))?;
        Ok(self.host.send(request).await?.into_body())
    }

    /// The next line. Cancel safe.
    async fn next(&mut self) -> Result<String> {
        let mut until = None;
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let Some(body) = &mut self.body else {
                let until = *until.get_or_insert(Instant::now() + PATIENCE);
                match self.open().await {
                    Ok(body) => self.body = Some(body),
                    Err(Failure::Gone | Failure::NoHost(_)) if Instant::now() < until => {
                        sleep(PAUSE).await;
                    }
                    Err(failure) => return Err(failure),
                }
                continue;
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.rest.extend_from_slice(&bytes);
                    }
                }
                // The host is gone, or another has it now; what came half comes again.
                Some(Err(_)) | None => {
                    self.rest.clear();
                    self.body = None;
                    self.host = self.host.another();
                    sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Prompts, and follows the turn to its end. 0 only for one that the agent ended by itself.
pub(crate) async fn run(prompt: &Prompt) -> Result<u8> {
    if let Some(address) = prompt.place.remote()? {
        return remote::prompt::run(address, prompt).await;
    }
    let mut host = prompt.place.host()?;
    let id = acp::conversation(&mut host, &prompt.session).await?;
    let path = format!("/v1/conversations/{}", part(&id));
    let text = said(&prompt.text)?;
    host.json(Method::POST, &format!("{path}/load"), None)
        .await?;
    let body = json!({"text": text});
    // From here on a signal cancels the turn, also one that comes while the turn is being asked for.
    let mut told = signals::receive()?;
    let mut interrupted = false;
    let asked = {
        let to = format!("{path}/prompt?wait=false");
        let mut asking = pin!(host.json(Method::POST, &to, Some(&body)));
        loop {
            tokio::select! {
                asked = &mut asking => break asked?,
                Some(signal) = told.recv() => {
                    if signals::is_deadly(signal) {
                        if interrupted || signal != signals::INT {
                            return Err(Failure::Signal(signal));
                        }
                        interrupted = true;
                    }
                }
            }
        }
    };
    let number = |key: &str| asked.get(key).and_then(Value::as_u64);
    let (Some(turn), Some(seq)) = (number("turn"), number("seq")) else {
        return Err(Failure::Nonsense("a turn without a number".into()));
    };
    let (mut answers, typed) = typed();
    let mut lines = Lines {
        host: host.another(),
        path: &path,
        after: seq.saturating_sub(1),
        answers: typed,
        body: None,
        rest: Vec::new(),
    };
    let mut asked: Option<Value> = None;
    let mut shown = Shown::default();
    let mut cancelled = interrupted;
    if interrupted {
        let to = format!("{path}/cancel");
        host.json(Method::POST, &to, None).await?;
    }
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            Some(signal) = told.recv() => {
                if !signals::is_deadly(signal) {
                    continue;
                }
                if cancelled || signal != signals::INT {
                    return Err(Failure::Signal(signal));
                }
                cancelled = true;
                host.json(Method::POST, &format!("{path}/cancel"), None).await?;
                continue;
            }
            Some(answer) = answers.recv(), if asked.is_some() => {
                if let Some(entry) = asked.take() {
                    let body = json!({"request": entry["id"], "result": decided(&entry, &answer)});
                    host.json(Method::POST, &format!("{path}/answer"), Some(&body)).await?;
                }
                continue;
            }
        };
        let entry: Entry =
            serde_json::from_str(&line).map_err(|error| Failure::Nonsense(error.to_string()))?;
        lines.after = entry.seq;
        if entry.turn.is_some_and(|of| of != turn) {
            continue;
        }
        if prompt.json {
            show::print(&format!("{line}\n"))?;
        }
        match entry.kind.as_str() {
            "update" if !prompt.json => show_update(&mut shown, &entry.data["update"])?,
            "request" if entry.data["method"] == "session/request_permission" => {
                let call = &entry.data["params"]["toolCall"]["title"];
                let call = call.as_str().unwrap_or("something");
                shown.asks(call, typed)?;
                if typed {
                    asked = Some(entry.data);
                }
            }
            "request" if typed => {
                shown.end_line()?;
                let method = show::plain(&show::at(&entry.data, "method"));
                say(&format!(
                    "the agent asks what cannot be answered here: {method}"
                ));
                let error = json!({"code": -32601, "message": "this client cannot show it"});
                let body = json!({"request": entry.data["id"], "error": error});
                host.json(Method::POST, &format!("{path}/answer"), Some(&body))
                    .await?;
            }
            "answer"
                if asked
                    .as_ref()
                    .is_some_and(|asked| asked["id"] == entry.data["id"]) =>
            {
                asked = None;
                shown.answered();
            }
            "turn_ended" if entry.data["turn"] == turn => {
                shown.end_line()?;
                return ended(&entry.data).status();
            }
            _ => {}
        }
    }
}

/// How the turn ended.
fn ended(data: &Value) -> End {
    if let Some(why) = data.get("interrupted").and_then(Value::as_str) {
        return End::Cut(why.to_owned());
    }
    if let Some(error) = data.get("error") {
        return End::Failed(show::at(error, "message"));
    }
    End::Stopped(data["result"]["stopReason"].as_str().map(str::to_owned))
}

/// The option of a request for permission that an answer means.
fn decided(request: &Value, answer: &str) -> Value {
    let wanted = if is_yes(answer) { "allow" } else { "reject" };
    let options = request["params"]["options"].as_array();
    let of = |kind: String| {
        let mut options = options.into_iter().flatten();
        options.find(|option| option["kind"] == kind.as_str())
    };
    let option = of(format!("{wanted}_once")).or_else(|| of(format!("{wanted}_always")));
    match option {
        Some(option) => {
            json!({"outcome": {"outcome": "selected", "optionId": option["optionId"]}})
        }
        None => json!({"outcome": {"outcome": "cancelled"}}),
    }
}

/// Shows an update of the agent.
fn show_update(shown: &mut Shown, update: &Value) -> Result<()> {
    let text = update["content"]["text"].as_str().unwrap_or_default();
    let title = update["title"].as_str().unwrap_or_default();
    match update["sessionUpdate"].as_str() {
        Some("agent_message_chunk") => shown.says(text),
        Some("agent_thought_chunk") => shown.note("thinks", text),
        Some("tool_call") => shown.note(update["kind"].as_str().unwrap_or("tool"), title),
        Some("tool_call_update") => match update["status"].as_str() {
            Some(status @ ("completed" | "failed")) => shown.note(status, title),
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_chooses_the_agents_own_option() {
        let request = json!({"params": {"options": [
            {"optionId": "always", "kind": "allow_always"},
            {"optionId": "once", "kind": "allow_once"},
            {"optionId": "no", "kind": "reject_once"}
        ]}});
        let chosen = |answer| decided(&request, answer)["outcome"]["optionId"].clone();
        assert_eq!(chosen("y\n"), "once");
        assert_eq!(chosen("N"), "no");
        assert_eq!(chosen("what?"), "no");
        let none = decided(&json!({"params": {}}), "y");
        assert_eq!(none["outcome"]["outcome"], "cancelled");
    }

    #[test]
    fn only_a_turn_that_the_agent_ended_is_a_success() {
        let status = |data: Value| ended(&data).status().map_err(|failure| failure.to_string());
        assert_eq!(status(json!({"result": {"stopReason": "end_turn"}})), Ok(0));
        assert_eq!(
            status(json!({"result": {"stopReason": "cancelled"}})),
            Ok(1)
        );
        assert!(status(json!({"error": {"code": 1, "message": "no"}})).is_err());
        assert!(status(json!({"interrupted": "the host died"})).is_err());
    }
}
