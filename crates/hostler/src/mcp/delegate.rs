//! Work that is handed to another agent.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::asked::Delegate;
use super::server::Server;
use super::told::Told;
use crate::client::error::{Failure, Result};
use crate::client::exec;
use crate::client::host::{Host, PATIENCE, PAUSE, part};

/// How long it may take where nothing is said, and at the most, in seconds.
const TIME: f64 = 600.0;
const LONGEST: f64 = 7200.0;
/// A session whose server is gone before it held it is closed so long after its turn, in seconds.
const FORGOTTEN: f64 = 300.0;
/// How many entries are read at a time.
const PAGE: usize = 1000;

/// What came of it.
#[derive(Debug, Serialize)]
struct Done {
    conversation: String,
    /// Why it ended, as ACP says it; or `error`, `interrupted`.
    stop_reason: String,
    /// What the agent said.
    result: String,
}

fn text(value: &Value) -> Result<String> {
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| Failure::Nonsense("a text is missing".into()))
}

impl Server {
    /// Ends with the work's end, or when it is `taken_back`; its session is closed either way.
    pub(super) async fn hand_on(
        &self,
        asked: Delegate,
        taken_back: impl Future<Output = ()>,
    ) -> Result<Told> {
        let seconds = asked.timeout.unwrap_or(TIME).clamp(0.0, LONGEST);
        let cwd = exec::directory(asked.cwd.as_deref().unwrap_or(".").as_ref())?;
        let mut host = self.host.another();
        let mut body = json!({
            "delegated": true,
            "session": {
                "parent": self.session, "cwd": cwd,
                "policy": { "idle": FORGOTTEN, "on_disconnect": "close" },
            },
        });
        if let Some(agent) = &asked.agent {
            body["agent"] = json!(agent);
        }
        let opened = host.json(Method::POST, "/v1/conversations", Some(&body));
        let opened = opened.await?;
        let (id, session) = (text(&opened["id"])?, text(&opened["session"])?);
        let held = Held::new(self.host.another(), &id);
        let limit = Duration::from_secs_f64(seconds);
        let work = timeout(limit, turn(&mut host, &id, &asked.prompt));
        let done = tokio::select! {
            done = work => done,
            () = taken_back => Ok(Err(Failure::Refused {
                code: "cancelled".into(),
                message: "it was taken back; its session is closed".into(),
            })),
        };
        // A connection on which an answer is still to come is of no use for another question.
        let mut host = self.host.another();
        let path = format!("/v1/sessions/{}", part(&session));
        let closed = host.json(Method::DELETE, &path, None).await;
        drop(held);
        let done = done.unwrap_or_else(|_| {
            Err(Failure::Refused {
                code: "timeout".into(),
                message: format!("it was not done after {seconds} s; its session is closed"),
            })
        })?;
        closed?;
        Told::new(done.result.clone(), &done)
    }
}

/// Counts as a client of the session for as long as this program lives: when that is killed, the session closes at once.
struct Held(tokio::task::AbortHandle);

impl Held {
    fn new(mut host: Host, id: &str) -> Self {
        // Of the transcript nothing is wanted here.
        let after = i64::MAX;
        let path = format!(
            "/v1/conversations/{}/transcript?follow=true&holds=true&after={after}",
            part(id)
        );
        let task = tokio::spawn(async move {
            let mut until = Instant::now() + PATIENCE;
            while Instant::now() < until {
                // It ends when the session does, and when another host takes over.
                if host.call(Method::GET, &path, Bytes::new()).await.is_ok() {
                    until = Instant::now() + PATIENCE;
                }
                host = host.another();
                sleep(PAUSE).await;
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One turn, and what was said in it.
async fn turn(host: &mut Host, id: &str, prompt: &str) -> Result<Done> {
    let at = format!("/v1/conversations/{}", part(id));
    let asked = json!({ "text": prompt });
    let path = format!("{at}/prompt");
    let turn = host.json(Method::POST, &path, Some(&asked)).await?;
    if let Some(error) = turn.get("error").filter(|error| !error.is_null()) {
        let message = error["message"].as_str().unwrap_or("no reason was given");
        return Err(Failure::Refused {
            code: "agent".into(),
            message: format!("the agent failed: {message}"),
        });
    }
    if let Some(why) = turn.get("interrupted").and_then(Value::as_str) {
        return Err(Failure::Refused {
            code: "agent".into(),
            message: format!("it was cut off: {why}"),
        });
    }
    let mut after = turn["seq"].as_u64().unwrap_or(0);
    let mut result = String::new();
    loop {
        let path = format!("{at}/transcript?after={after}&limit={PAGE}");
        let page = host.call(Method::GET, &path, Bytes::new());
        let page = page.await?.body;
        let lines: Vec<&[u8]> = page
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .collect();
        for line in &lines {
            let entry: Value = serde_json::from_slice(line)
                .map_err(|error| Failure::Nonsense(error.to_string()))?;
            after = entry["seq"].as_u64().unwrap_or(after);
            let update = &entry["data"]["update"];
            let said = entry["kind"] == "update"
                && entry["turn"] == turn["turn"]
                && update["sessionUpdate"] == "agent_message_chunk";
            if said && let Some(text) = update["content"]["text"].as_str() {
                result.push_str(text);
            }
        }
        if lines.len() < PAGE {
            break;
        }
    }
    let reason = turn["result"]["stopReason"].as_str();
    Ok(Done {
        conversation: id.to_owned(),
        stop_reason: reason.unwrap_or("end_turn").to_owned(),
        result,
    })
}
