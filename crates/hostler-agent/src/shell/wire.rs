//! JSON-RPC, one message a line.

use std::collections::HashMap;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::turn::Turn;

/// An error, as it is answered.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    code: i64,
    message: String,
}

impl Failure {
    fn new(code: i64, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    pub(super) fn parse(message: impl Into<String>) -> Self {
        Self::new(-32700, message)
    }

    pub(super) fn request(message: impl Into<String>) -> Self {
        Self::new(-32600, message)
    }

    pub(super) fn method(name: &str) -> Self {
        Self::new(-32601, format!("there is no method `{name}`"))
    }

    pub(super) fn params(message: impl Into<String>) -> Self {
        Self::new(-32602, message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(-32603, message)
    }

    pub(super) fn session(id: &str) -> Self {
        Self::new(-32002, format!("there is no session `{id}`"))
    }
}

/// A message from the client.
#[derive(Debug)]
pub(super) enum Message {
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    Notification {
        method: String,
        params: Value,
    },
    Answer {
        id: Value,
        result: Result<Value, String>,
    },
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default, deserialize_with = "there")]
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default, deserialize_with = "there")]
    result: Option<Value>,
    error: Option<Value>,
}

/// An id or a result of `null` is one.
fn there<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

/// Reads a message; what is none comes back with the id to answer with.
pub(super) fn parse(line: &[u8]) -> Result<Message, (Value, Failure)> {
    let value: Value = serde_json::from_slice(line)
        .map_err(|error| (Value::Null, Failure::parse(format!("not JSON: {error}"))))?;
    let id = match value.get("id") {
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        _ => Value::Null,
    };
    let refused = |what: &str| (id.clone(), Failure::request(what));
    if !value.is_object() {
        return Err(refused("a message is one object"));
    }
    let envelope: Envelope =
        serde_json::from_value(value).map_err(|error| refused(&error.to_string()))?;
    match envelope {
        Envelope {
            id: Some(id),
            method: Some(method),
            params,
            ..
        } => Ok(Message::Request { id, method, params }),
        Envelope {
            method: Some(method),
            params,
            ..
        } => Ok(Message::Notification { method, params }),
        Envelope {
            id: Some(id),
            error: Some(error),
            ..
        } => {
            let told = error["message"].as_str().unwrap_or("an error").to_owned();
            let result = Err(told);
            Ok(Message::Answer { id, result })
        }
        Envelope {
            id: Some(id),
            result: Some(result),
            ..
        } => Ok(Message::Answer {
            id,
            result: Ok(result),
        }),
        _ => Err(refused("a message has a method, or an id and a result")),
    }
}

/// The parameters of a method.
pub(super) fn read<T: DeserializeOwned>(params: Value) -> Result<T, Failure> {
    serde_json::from_value(params).map_err(|error| Failure::params(error.to_string()))
}

/// The way to the client.
pub(super) struct Wire {
    out: Mutex<Box<dyn Write + Send>>,
    asked: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    last: u64,
    /// Who waits for the answer to which request.
    waiting: HashMap<u64, Arc<Turn>>,
    /// The client is gone.
    closed: bool,
}

impl Wire {
    pub(super) fn new(out: impl Write + Send + 'static) -> Self {
        Self {
            out: Mutex::new(Box::new(out)),
            asked: Mutex::default(),
        }
    }

    fn send(&self, message: &Value) {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        // A client that no longer reads has closed stdin too, or will.
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }

    pub(super) fn answer(&self, id: &Value, result: Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    pub(super) fn fail(&self, id: &Value, failure: &Failure) {
        let error = json!({"code": failure.code, "message": failure.message});
        self.send(&json!({"jsonrpc": "2.0", "id": id, "error": error}));
    }

    /// Tells of a turn.
    pub(super) fn update(&self, session: &str, update: Value) {
        let params = json!({"sessionId": session, "update": update});
        self.send(&json!({"jsonrpc": "2.0", "method": "session/update", "params": params}));
    }

    /// Asks the client for something; the turn hears of the answer. `None` where the client is gone.
    pub(super) fn ask(&self, turn: &Arc<Turn>, method: &str, params: Value) -> Option<u64> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.closed {
            return None;
        }
        asked.last += 1;
        let id = asked.last;
        asked.waiting.insert(id, turn.clone());
        drop(asked);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        Some(id)
    }

    /// An answer has come; one to nothing is let go of.
    pub(super) fn answered(&self, id: &Value, result: Result<Value, String>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let known = id.as_u64();
        if let Some((id, turn)) = known.and_then(|id| asked.waiting.remove_entry(&id)) {
            drop(asked);
            turn.hear(id, result);
        }
    }

    /// The client is gone: whoever waits for it is told.
    pub(super) fn close(&self) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.closed = true;
        for (id, turn) in asked.waiting.drain() {
            turn.hear(id, Err("the client is gone".into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_refused_with_the_id_it_has() {
        for (line, code, id) in [
            ("{", -32700, Value::Null),
            ("\"a\"", -32600, Value::Null),
            ("[]", -32600, Value::Null),
            ("{\"id\":3}", -32600, json!(3)),
            ("{\"id\":\"a\",\"method\":4}", -32600, json!("a")),
            ("{\"result\":1}", -32600, Value::Null),
        ] {
            let (with, failure) = parse(line.as_bytes()).expect_err(line);
            assert_eq!((failure.code, with), (code, id), "{line}");
        }
        assert!(matches!(
            parse(b"{\"id\":null,\"method\":\"a\"}"),
            Ok(Message::Request { .. })
        ));
        assert!(matches!(
            parse(b"{\"id\":1,\"result\":null}"),
            Ok(Message::Answer { result: Ok(_), .. })
        ));
    }
}
