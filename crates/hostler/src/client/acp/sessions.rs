//! What is under way between an editor and a host: enough to go on with another host as though nothing had been.
//!
//! The host numbers what it sends by the transcript's entries. Here it is kept how far each session has come, which requests of
//! the editor are not answered, which turns its prompts became, and what the editor was asked. A new connection begins with
//! `initialize` and a `session/resume` for each session from exactly there; then what the last host cannot have taken is sent again.

mod resuming;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The ids of this program's own requests begin so.
const OWN: &str = "\"hostler:";

/// A message to pass on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Out {
    ToHost(String),
    ToEditor(String),
}

/// A request of the editor that is not answered.
#[derive(Debug)]
struct Pending {
    id: String,
    method: String,
    session: Option<String>,
    text: String,
    /// It is known that it has become a turn.
    is_turn: bool,
}

/// A session of the editor.
#[derive(Debug, Default)]
struct Held {
    /// The last entry that the editor has.
    after: u64,
    /// Its turns that have not ended, with the ids of the requests.
    turns: BTreeMap<u64, String>,
    /// It was cancelled, and that may not have come to the host.
    cancelled: bool,
    /// The editor opened it, rather than join it.
    own: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Book {
    initialize: Option<Value>,
    /// The conversation that the editor's first new session is to be.
    join: Option<String>,
    pending: BTreeMap<u64, Pending>,
    next: u64,
    sessions: HashMap<String, Held>,
    /// What the editor was asked, with its answer once it has given one.
    asked: HashMap<String, Option<String>>,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    seq: Option<u64>,
}

#[derive(Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "sessionId")]
    session: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "requestId")]
    request: Option<&'a RawValue>,
    turn: Option<u64>,
    #[serde(borrow, rename = "request")]
    of: Option<&'a RawValue>,
}

fn params<'a>(params: Option<&'a RawValue>) -> Option<Params<'a>> {
    serde_json::from_str(params?.get()).ok()
}

fn session(of: Option<&RawValue>) -> Option<String> {
    params(of)?.session.map(Cow::into_owned)
}

fn request(id: &str, method: &str, params: &Value) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{params}}}"#)
}

fn failed(id: &str, why: &str) -> Out {
    let error = json!({"code": -32603, "message": why});
    Out::ToEditor(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
}

impl Book {
    pub(super) fn new(join: Option<String>) -> Self {
        Self {
            join,
            ..Self::default()
        }
    }

    /// Takes a message of the editor.
    pub(super) fn editor_says(&mut self, text: String) -> Vec<Out> {
        let Ok(head) = serde_json::from_str::<Head<'_>>(&text) else {
            // The host knows how to answer that.
            return vec![Out::ToHost(text)];
        };
        let of = session(head.params);
        match (head.method.as_deref(), head.id) {
            (Some(method), Some(id)) => {
                let id = id.get().to_owned();
                let mut method = method.to_owned();
                let mut sent = None;
                let mut of = of;
                match method.as_str() {
                    "initialize" => {
                        let params = head.params.map(|params| serde_json::from_str(params.get()));
                        self.initialize = params.and_then(Result::ok);
                    }
                    "session/new" => {
                        if let Some(conversation) = self.join.take() {
                            let params = json!({
                                "sessionId": conversation, "cwd": "/", "mcpServers": [],
                                "_meta": {"hostler": {"join": true}}
                            });
                            sent = Some(request(&id, "session/load", &params));
                            method = "session/load".into();
                            of = Some(conversation);
                        }
                    }
                    _ => {}
                }
                let text = sent.unwrap_or(text);
                if let (true, Some(of)) = (method == "session/load", &of) {
                    self.sessions.insert(of.clone(), Held::default());
                }
                let pending = Pending {
                    id,
                    method,
                    session: of,
                    text: text.clone(),
                    is_turn: false,
                };
                self.pending.insert(self.next, pending);
                self.next += 1;
                vec![Out::ToHost(text)]
            }
            (Some("session/cancel"), None) => {
                let held = of.and_then(|of| self.sessions.get_mut(&of));
                if let Some(held) = held {
                    held.cancelled = true;
                }
                vec![Out::ToHost(text)]
            }
            (None, Some(id)) => {
                let id = id.get().to_owned();
                if let Some(answer) = self.asked.get_mut(&id) {
                    *answer = Some(text.clone());
                }
                vec![Out::ToHost(text)]
            }
            _ => vec![Out::ToHost(text)],
        }
    }

    /// Takes a message of the host.
    pub(super) fn host_says(&mut self, mut text: String) -> Vec<Out> {
        let Ok(head) = serde_json::from_str::<Head<'_>>(&text) else {
            return Vec::new();
        };
        let seq = head.seq;
        let id = head.id.map(|id| id.get().to_owned());
        let method = head.method.as_deref().map(str::to_owned);
        let about = params(head.params);
        let of = about
            .as_ref()
            .and_then(|about| about.session.as_deref().map(str::to_owned));
        let settled = about.as_ref().and_then(|about| about.request);
        let settled = settled.map(|id| id.get().to_owned());
        let turn = about.as_ref().and_then(|about| about.turn.zip(about.of));
        let turn = turn.map(|(turn, of)| (turn, of.get().to_owned()));
        let opened = head.result.and_then(|result| session(Some(result)));
        let succeeded = head.result.is_some();
        if let (Some(_), Some(cut)) = (seq, text.rfind(",\"seq\":")) {
            // It stands at the end, and the editor need not see it.
            text.truncate(cut);
            text.push('}');
        }
        match (method.as_deref(), id) {
            (Some("_hostler/turn"), _) => {
                if let (Some(of), Some((turn, id))) = (of, turn) {
                    self.has(&of, seq);
                    self.sessions
                        .entry(of)
                        .or_default()
                        .turns
                        .insert(turn, id.clone());
                    for pending in self.pending.values_mut().filter(|one| one.id == id) {
                        pending.is_turn = true;
                    }
                }
                Vec::new()
            }
            (Some("$/cancel_request"), None) => {
                let Some(id) = settled else {
                    return vec![Out::ToEditor(text)];
                };
                if let Some((of, _)) = id.trim_matches('"').rsplit_once(':') {
                    self.has(of, seq);
                }
                match self.asked.remove(&id) {
                    // Nobody wants to know any more.
                    Some(None) => vec![Out::ToEditor(text)],
                    Some(Some(_)) | None => Vec::new(),
                }
            }
            (Some(_), Some(id)) => {
                if let Some(of) = of {
                    self.has(&of, seq);
                }
                match self.asked.get(&id) {
                    // It was asked over an earlier connection.
                    Some(Some(answer)) => vec![Out::ToHost(answer.clone())],
                    Some(None) => Vec::new(),
                    None => {
                        self.asked.insert(id, None);
                        vec![Out::ToEditor(text)]
                    }
                }
            }
            (Some(_), None) => {
                if let Some(of) = of {
                    self.has(&of, seq);
                }
                vec![Out::ToEditor(text)]
            }
            (None, Some(id)) if id.starts_with(OWN) => self.own_answer(&id, succeeded, &text),
            (None, Some(id)) => {
                self.answered(&id, seq, opened, succeeded);
                vec![Out::ToEditor(text)]
            }
            (None, None) => vec![Out::ToEditor(text)],
        }
    }

    fn has(&mut self, session: &str, seq: Option<u64>) {
        if let (Some(held), Some(seq)) = (self.sessions.get_mut(session), seq) {
            held.after = held.after.max(seq);
        }
    }

    fn answered(&mut self, id: &str, seq: Option<u64>, opened: Option<String>, succeeded: bool) {
        let found = self.pending.iter().find(|(_, pending)| pending.id == id);
        let Some(n) = found.map(|(n, _)| *n) else {
            return;
        };
        let Some(pending) = self.pending.remove(&n) else {
            return;
        };
        let of = pending.session;
        match (pending.method.as_str(), of, opened) {
            ("session/new" | "session/fork", _, Some(session)) if succeeded => {
                let held = Held {
                    after: seq.unwrap_or(0),
                    own: true,
                    ..Held::default()
                };
                self.sessions.insert(session, held);
            }
            ("session/load" | "session/resume", Some(session), _) => {
                if succeeded {
                    self.sessions.entry(session.clone()).or_default();
                    self.has(&session, seq);
                } else {
                    self.sessions.remove(&session);
                }
            }
            ("session/close", Some(session), _) if succeeded => {
                self.sessions.remove(&session);
            }
            (_, Some(session), _) => {
                self.has(&session, seq);
                if let Some(held) = self.sessions.get_mut(&session) {
                    held.turns.retain(|_, turn| turn != id);
                    held.cancelled &= !held.turns.is_empty();
                }
            }
            _ => {}
        }
    }

    /// No host comes: all that is open fails.
    pub(super) fn give_up(&mut self, why: &str) -> Vec<Out> {
        let pending = std::mem::take(&mut self.pending);
        pending.values().map(|one| failed(&one.id, why)).collect()
    }

    /// The sessions that the editor opened and has not closed.
    pub(super) fn own(&self) -> Vec<String> {
        let own = self.sessions.iter().filter(|(_, held)| held.own);
        own.map(|(session, _)| session.clone()).collect()
    }

    /// The request that closes a session.
    pub(super) fn close(session: &str) -> String {
        let id = Value::from(format!("hostler:close:{session}")).to_string();
        request(&id, "session/close", &json!({"sessionId": session}))
    }

    /// Whether the session is still open here.
    pub(super) fn holds(&self, session: &str) -> bool {
        self.sessions.contains_key(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Book {
        let mut book = Book::new(None);
        for (text, answer) in [
            (
                r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}"#,
                r#"{"jsonrpc":"2.0","id":0,"result":{}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"session/new","params":{"cwd":"/"}}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":{"sessionId":"s-1"},"seq":0}"#,
            ),
        ] {
            assert_eq!(
                book.editor_says(text.into()),
                [Out::ToHost(text.to_owned())]
            );
            assert_eq!(book.host_says(answer.into()).len(), 1);
        }
        book
    }

    fn prompt(id: u32) -> String {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"session/prompt","params":{{"sessionId":"s-1","prompt":[]}}}}"#
        )
    }

    #[test]
    fn numbers_are_counted_and_not_passed_on() {
        let mut book = opened();
        let update = r#"{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s-1","update":{"text":",\"seq\":1}"}}"#;
        let out = book.host_says(format!(r#"{update},"seq":7}}"#));
        assert_eq!(out, [Out::ToEditor(format!("{update}}}"))]);
        assert_eq!(book.sessions["s-1"].after, 7);
        assert_eq!(book.own(), ["s-1"]);
    }

    #[test]
    fn a_turn_is_not_asked_for_again_and_a_prompt_that_did_not_come_is() {
        let mut book = opened();
        book.editor_says(prompt(2));
        book.editor_says(prompt(3));
        let turn = r#"{"jsonrpc":"2.0","method":"_hostler/turn","params":{"sessionId":"s-1","turn":1,"request":2},"seq":4}"#;
        assert_eq!(book.host_says(turn.into()), []);
        assert!(book.again()[0].contains("hostler:initialize"));
        let out =
            book.host_says(r#"{"jsonrpc":"2.0","id":"hostler:initialize","result":{}}"#.into());
        let [Out::ToHost(resume)] = &out[..] else {
            panic!("{out:?}");
        };
        let resume: Value = serde_json::from_str(resume).expect("JSON");
        assert_eq!(
            resume["params"]["_meta"]["hostler"],
            json!({"after": 4, "turns": {"1": 2}})
        );
        let answer = r#"{"jsonrpc":"2.0","id":"hostler:resume:s-1","result":{},"seq":4}"#;
        assert_eq!(book.host_says(answer.into()), [Out::ToHost(prompt(3))]);
        let end = r#"{"jsonrpc":"2.0","id":2,"result":{"stopReason":"end_turn"},"seq":9}"#;
        assert_eq!(book.host_says(end.into()).len(), 1);
        assert!(book.sessions["s-1"].turns.is_empty());
        let gone =
            r#"{"jsonrpc":"2.0","id":"hostler:resume:s-1","error":{"code":-32002,"message":"no"}}"#;
        let out = book.host_says(gone.into());
        assert!(matches!(&out[..], [Out::ToEditor(text)] if text.contains("\"id\":3")));
    }

    #[test]
    fn a_question_is_asked_once_and_its_answer_given_to_whoever_asks_again() {
        let mut book = opened();
        let question = r#"{"jsonrpc":"2.0","id":"s-1:5","method":"session/request_permission","params":{"sessionId":"s-1"}}"#;
        assert_eq!(book.host_says(question.into()).len(), 1);
        assert_eq!(book.host_says(question.into()), []);
        let answer = r#"{"jsonrpc":"2.0","id":"s-1:5","result":{}}"#;
        book.editor_says(answer.into());
        assert_eq!(
            book.host_says(question.into()),
            [Out::ToHost(answer.into())]
        );
        let settled = r#"{"jsonrpc":"2.0","method":"$/cancel_request","params":{"requestId":"s-1:5"},"seq":6}"#;
        assert_eq!(book.host_says(settled.into()), []);
        assert!(book.asked.is_empty());
        assert_eq!(book.sessions["s-1"].after, 6);
    }
}
