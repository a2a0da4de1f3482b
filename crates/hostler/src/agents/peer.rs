//! The client's side of ACP, as much as is needed to try an agent: one request at a time, over the agent's stdin and stdout.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How many lines of what an agent says on stderr are kept.
const LINES: usize = 8;
/// How much of one line of it is read.
const LINE: usize = 400;
/// The longest message.
const LONGEST: u64 = 64 << 20;

/// An agent.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    heard: Receiver<Value>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    /// Hung up when all of stderr was read.
    drained: Receiver<()>,
    asked: u64,
}

impl Peer {
    /// Starts this command as one.
    pub(crate) fn start(mut command: Command) -> Result<Self, String> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start it: {error}"))?;
        let input = child.stdin.take();
        let (tell, heard) = channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let mut output = BufReader::new(output);
                let mut line = Vec::new();
                loop {
                    line.clear();
                    let read = output.by_ref().take(LONGEST).read_until(b'\n', &mut line);
                    if !matches!(read, Ok(count) if count > 0) {
                        return;
                    }
                    // What is no message is what some agents print, and is let go of.
                    if let Ok(message) = serde_json::from_slice(&line)
                        && tell.send(message).is_err()
                    {
                        return;
                    }
                }
            });
        }
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let (reading, drained) = channel();
        if let Some(said) = child.stderr.take() {
            let kept = stderr.clone();
            std::thread::spawn(move || {
                keep(said, &kept);
                drop(reading);
            });
        }
        Ok(Self {
            child,
            input,
            heard,
            stderr,
            drained,
            asked: 0,
        })
    }

    fn send(&mut self, message: &Value) {
        if let Some(input) = &mut self.input {
            // Where it does not read any more, its end is heard of.
            let _ = input.write_all(format!("{message}\n").as_bytes());
        }
    }

    /// Asks it, and gives what it tells meanwhile to `told`. Its own requests are refused.
    pub(crate) fn call(
        &mut self,
        method: &str,
        params: &Value,
        within: Duration,
        mut told: impl FnMut(&Value),
    ) -> Result<Value, String> {
        self.asked += 1;
        let id = self.asked;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        let until = Instant::now() + within;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let message = match self.heard.recv_timeout(left) {
                Ok(message) => message,
                Err(RecvTimeoutError::Timeout) => {
                    let why = format!("no answer to {method} within {} s", within.as_secs_f64());
                    return Err(self.with_stderr(why));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.ended(method)),
            };
            if message.get("method").is_some() {
                match message.get("id") {
                    Some(asked) => self.refuse(asked.clone(), &message["method"]),
                    None => told(&message),
                }
            } else if message["id"] == id {
                return match message.get("error") {
                    Some(error) => Err(refusal(method, error)),
                    None => Ok(message["result"].clone()),
                };
            }
        }
    }

    fn refuse(&mut self, id: Value, method: &Value) {
        let message = format!("there is no method {method} here");
        let error = json!({"code": -32601, "message": message});
        self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
    }

    /// It has closed its output.
    fn ended(&mut self, method: &str) -> String {
        self.input = None;
        let until = Instant::now() + Duration::from_secs(5);
        let status = loop {
            match self.child.try_wait() {
                Ok(Some(status)) => break Some(status),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => break None,
            }
        };
        // Its last words may still be on their way; what it has left behind may hold the pipe.
        let _ = self.drained.recv_timeout(Duration::from_secs(1));
        let how = match status.and_then(|status| status.code()) {
            Some(code) => format!("it ended with code {code}"),
            None => "it closed its output".into(),
        };
        self.with_stderr(format!("{how} before it answered {method}"))
    }

    fn with_stderr(&self, why: String) -> String {
        let lines = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let said: Vec<&str> = lines.iter().map(String::as_str).collect();
        match said.is_empty() {
            true => why,
            false => format!("{why}; it said: {}", said.join(" | ")),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None;
        // What it is in has closed, or will; this ends the connection to it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Drains it, and keeps the last lines.
fn keep(said: impl Read, kept: &Mutex<VecDeque<String>>) {
    let mut said = BufReader::new(said);
    let mut line = Vec::new();
    loop {
        line.clear();
        match said.by_ref().take(LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim().to_owned();
        if text.is_empty() {
            continue;
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

fn refusal(method: &str, error: &Value) -> String {
    let message = error["message"].as_str().unwrap_or("without a reason");
    let more = match &error["data"] {
        Value::Null => String::new(),
        Value::String(text) => format!(": {text}"),
        data => format!(": {data}"),
    };
    match error["code"].as_i64() {
        Some(-32000) => format!("it wants to be authenticated before {method}: {message}{more}"),
        Some(code) => format!("it refuses {method}: {message} ({code}){more}"),
        None => format!("it refuses {method}: {message}{more}"),
    }
}
