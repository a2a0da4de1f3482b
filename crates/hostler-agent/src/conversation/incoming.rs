//! What the agent says: each line, once, in its order.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::actor::{Actor, Agent, now};
use crate::handshake::session_named;
use crate::link::{Lines, Waiter};
use crate::rpc::{self, Answer, Incoming, Malformed, UpdatePath, respell, with_session_id};
use crate::transcript::{EntryKind, NotificationData};

/// How much of what makes no sense is noted of one agent; the rest is only counted in the program's own log.
const NOTED: u32 = 32;

#[derive(Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    update: Kind<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind<'a> {
    #[serde(borrow)]
    session_update: Cow<'a, str>,
    #[serde(default)]
    title: Option<String>,
}

/// Whether an update is a part of what was said, which an agent that loads a session says again.
fn is_history(params: &RawValue) -> bool {
    serde_json::from_str::<Update<'_>>(params.get()).is_ok_and(|update| {
        matches!(
            &*update.update.session_update,
            "user_message_chunk"
                | "agent_message_chunk"
                | "agent_thought_chunk"
                | "tool_call"
                | "tool_call_update"
                | "plan"
        )
    })
}

impl Actor {
    /// Takes a piece of the agent's output.
    pub(crate) fn heard(&mut self, offset: u64, bytes: &[u8]) {
        self.at = now();
        self.used = tokio::time::Instant::now();
        if let Some(running) = &mut self.running {
            running.heard = tokio::time::Instant::now();
        }
        let Some(link) = &mut self.link else { return };
        let mut lines = std::mem::replace(&mut link.lines, Lines::new(0, 0));
        lines.take(offset, bytes, |line| match line {
            Ok(line) => self.line(line.trim_ascii()),
            Err(malformed) => self.malformed(&malformed, b""),
        });
        if let Some(link) = &mut self.link {
            link.lines = lines;
        }
    }

    fn line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        if matches!(self.agent, Agent::Up(_))
            && let Some(params) = self.path.as_ref().and_then(|path| path.params(line))
        {
            return self.updated(params);
        }
        match rpc::parse(line) {
            Ok(Incoming::Notification { method, params }) => self.told(&method, params),
            Ok(Incoming::Request { id, method, params }) => {
                self.asked(id, &method, params.unwrap_or(RawValue::NULL));
            }
            Ok(Incoming::Response { id, answer }) => self.answered(id, answer),
            Err(malformed) => self.malformed(&malformed, line),
        }
    }

    fn turn(&self) -> Option<u64> {
        self.running.as_ref().map(|running| running.turn.id)
    }

    fn updated(&mut self, params: Box<RawValue>) {
        if memchr::memmem::find(params.get().as_bytes(), b"\"session_info_update\"").is_some()
            && let Ok(update) = serde_json::from_str::<Update<'_>>(params.get())
            && let Some(title) = update.update.title
        {
            self.titled(title);
        }
        let turn = self.turn();
        self.push(EntryKind::Update, turn, params.into());
    }

    pub(crate) fn titled(&mut self, title: String) {
        self.shared.change(|row| row.title = Some(title.clone()));
        self.update.get_or_insert_default().title = Some(title);
    }

    fn told(&mut self, method: &str, params: Option<&RawValue>) {
        let params = params.unwrap_or(RawValue::NULL);
        if self.is_former(params) {
            return;
        }
        let ours = self.respelled(params);
        match method {
            "session/update" => {
                if matches!(self.agent, Agent::Building(_)) && is_history(&ours) {
                    return;
                }
                self.updated(ours);
            }
            rpc::CANCEL => self.taken_back(params),
            _ => {
                let data = NotificationData {
                    method,
                    params: &ours,
                };
                let turn = self.turn();
                self.push_json(EntryKind::Notification, turn, &data);
            }
        }
    }

    /// The same parameters for clients: the agent's session is the conversation.
    pub(crate) fn respelled(&self, params: &RawValue) -> Box<RawValue> {
        let id = self.shared.id.as_str();
        let ours = match &self.agent_session {
            Some(name) => respell(params.get(), name, id),
            // It has one session, and its name comes later.
            None => with_session_id(params.get(), id).ok(),
        };
        ours.unwrap_or_else(|| params.to_owned())
    }

    fn answered(&mut self, id: &RawValue, answer: Result<&RawValue, &RawValue>) {
        let waiter = self
            .link
            .as_ref()
            .and_then(|link| link.caller.calls.remove(id));
        let Some(waiter) = waiter else {
            let note = json!({ "notice": "stray_answer", "id": id.get() });
            return self.note(&note);
        };
        let answer: Answer = match answer {
            Ok(result) => Ok(match waiter {
                Waiter::NewSession(_) | Waiter::Renewal => result.to_owned(),
                _ => self.respelled(result),
            }),
            Err(error) => Err(rpc::error(error)),
        };
        match waiter {
            Waiter::Call(reply) => self.then(move || drop(reply.send(answer))),
            Waiter::NewSession(reply) => {
                if let Some(name) = answer
                    .as_ref()
                    .ok()
                    .and_then(|result| session_named(result))
                {
                    self.is_called(&name);
                }
                self.then(move || drop(reply.send(answer)));
            }
            Waiter::Turn(turn) => self.turn_answered(turn, answer),
            Waiter::Renewal => self.renewed(answer),
            Waiter::Nobody => {}
        }
    }

    /// The agent's name for the session.
    pub(crate) fn is_called(&mut self, name: &str) {
        self.path = Some(UpdatePath::new(name, self.shared.id.as_str()));
        self.names_session(Some(name.to_owned()));
    }

    /// Its name for the session, here, for whoever asks it, and in the ledger.
    pub(crate) fn names_session(&mut self, name: Option<String>) {
        self.agent_session = name.clone();
        self.shared.change(|row| row.agent_session = name.clone());
        self.update.get_or_insert_default().agent_session = Some(name);
    }

    fn malformed(&mut self, malformed: &Malformed, line: &[u8]) {
        let start = String::from_utf8_lossy(&line[..line.len().min(200)]);
        let note = json!({ "notice": "malformed", "why": malformed.to_string(), "line": start });
        self.note(&note);
    }

    fn note(&mut self, note: &serde_json::Value) {
        self.noted = self.noted.saturating_add(1);
        if self.noted <= NOTED {
            let turn = self.turn();
            self.push_json(EntryKind::Notice, turn, note);
        } else {
            tracing::debug!(conversation = %self.shared.id, %note, "not noted any more");
        }
    }
}
