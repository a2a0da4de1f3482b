//! JSON-RPC 2.0 as text: envelopes over borrowed raw values, and exact replacement of a session id.

mod line;
mod respell;

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

pub(crate) use line::{notification, request, response};
pub(crate) use respell::for_session;
pub use respell::{UpdatePath, respell, with_session_id};

/// The notification by which a side takes its request back (ACP).
pub(crate) const CANCEL: &str = "$/cancel_request";

/// An error of JSON-RPC.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RpcError {
    /// Its number: <https://www.jsonrpc.org/specification#error_object>; ACP adds -32000 (authentication required) and -32002
    /// (resource not found).
    pub code: i64,
    /// What went wrong, in one line.
    pub message: String,
    /// More of it, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

/// What was answered: the result, or an error.
pub type Answer = Result<Box<RawValue>, RpcError>;

impl RpcError {
    /// What was sent is not JSON.
    pub const PARSE: i64 = -32700;
    /// It is JSON, but not a message that can be acted on.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method here.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters make no sense.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Something else went wrong.
    pub const INTERNAL: i64 = -32603;
    /// Authentication is required first (ACP).
    pub const AUTH_REQUIRED: i64 = -32000;
    /// What was asked for is not there (ACP).
    pub const NOT_FOUND: i64 = -32002;
    /// The request was cancelled (ACP, `$/cancel_request`).
    pub const CANCELLED: i64 = -32800;

    /// With a number and a line.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            data: None,
        }
    }

    /// There is no such method.
    pub fn method_not_found(method: &str) -> Self {
        Self::new(
            Self::METHOD_NOT_FOUND,
            format!("method not found: {method}"),
        )
    }

    /// The parameters make no sense.
    pub fn invalid_params(why: impl Into<String>) -> Self {
        Self::new(Self::INVALID_PARAMS, why)
    }

    /// The request was taken back.
    pub fn cancelled() -> Self {
        Self::new(Self::CANCELLED, "the request was cancelled")
    }

    /// Something went wrong here.
    pub fn internal(why: impl Into<String>) -> Self {
        Self::new(Self::INTERNAL, why)
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

/// A message of an agent, borrowed from its line.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// It asks for something.
    Request {
        /// Its number or name for it, as it came.
        id: &'a RawValue,
        /// What for.
        method: Cow<'a, str>,
        /// With what.
        params: Option<&'a RawValue>,
    },
    /// It tells something.
    Notification {
        /// What.
        method: Cow<'a, str>,
        /// With what.
        params: Option<&'a RawValue>,
    },
    /// It answers.
    Response {
        /// To which.
        id: &'a RawValue,
        /// What; an error as it came.
        answer: Result<&'a RawValue, &'a RawValue>,
    },
}

/// A line that is no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is not JSON, or an envelope with a member twice or of a wrong type.
    #[error("not JSON-RPC: {0}")]
    Unreadable(String),
    /// It has neither a method nor an answer.
    #[error("a message with neither a method nor an answer")]
    Neither,
    /// It is longer than may be.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// That a member is there, also as `null`.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Whether it begins as an object: derived structs would take arrays too.
fn is_object(text: &[u8]) -> bool {
    text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Reads one line.
///
/// # Errors
/// See [`Malformed`].
pub fn parse(line: &[u8]) -> Result<Incoming<'_>, Malformed> {
    if !is_object(line) {
        return Err(Malformed::Unreadable("not an object".into()));
    }
    let envelope: Envelope<'_> =
        serde_json::from_slice(line).map_err(|error| Malformed::Unreadable(error.to_string()))?;
    let Envelope {
        id,
        method,
        params,
        result,
        error,
    } = envelope;
    match (id, method, result, error) {
        (Some(id), Some(method), ..) if id.get() != "null" => {
            Ok(Incoming::Request { id, method, params })
        }
        (_, Some(method), ..) => Ok(Incoming::Notification { method, params }),
        (Some(id), None, _, Some(error)) if error.get() != "null" => Ok(Incoming::Response {
            id,
            answer: Err(error),
        }),
        (Some(id), None, Some(result), _) => Ok(Incoming::Response {
            id,
            answer: Ok(result),
        }),
        _ => Err(Malformed::Neither),
    }
}

/// What `text` is as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Raw JSON of what can be written as such.
pub(crate) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// An agent's error, which may not look as it should.
pub(crate) fn error(raw: &RawValue) -> RpcError {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| RpcError {
        code: RpcError::INTERNAL,
        message: "the agent answered with an error of a form of its own".into(),
        data: Some(raw.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envelopes_are_told_apart() {
        let request = parse(br#"{"jsonrpc":"2.0","id":"a","method":"x","params":[1]}"#);
        assert!(
            matches!(request, Ok(Incoming::Request { id, method, .. }) if id.get() == "\"a\"" && method == "x")
        );
        let nothing = parse(br#"{"id":1,"result":null}"#);
        assert!(
            matches!(nothing, Ok(Incoming::Response { answer: Ok(result), .. }) if result.get() == "null")
        );
        let error = parse(br#"{"id":1,"error":{"code":1,"message":"m"},"result":null}"#);
        assert!(matches!(
            error,
            Ok(Incoming::Response { answer: Err(_), .. })
        ));
        let told = parse(br#" {"method":"session\/update"}"#);
        assert!(
            matches!(told, Ok(Incoming::Notification { method, params: None }) if method == "session/update")
        );
        for wrong in [
            "",
            "[]",
            "1",
            "{}",
            "{\"id\":1}",
            "{\"id\":1,\"id\":2,\"result\":1}",
            "{\"method\":1}",
            "{\"method\":\"x\"",
            "[null,\"x\"]",
        ] {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(parse(b"{\"method\":\"x\",\"params\":\"\xff\"}").is_err());
    }

    /// Ten thousand frames that were whole and then damaged: nothing panics, and what is taken is JSON.
    #[test]
    fn damaged_frames_are_taken_or_refused_but_never_more() {
        let whole = [
            r#"{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"ag","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"héllo \u00e9 \" }"}}}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"fs/read_text_file","params":{"sessionId":"ag","path":"/x"}}"#,
            r#"{"jsonrpc":"2.0","id":"x","result":{"stopReason":"end_turn"}}"#,
            r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no"}}"#,
        ];
        let path = UpdatePath::new("ag", "conv");
        let mut state = 0x2545_F491_4F6C_DD1D_u64;
        let mut next = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below.max(1) as u64) as usize
        };
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..10_000 {
            let mut frame = whole[next(whole.len())].as_bytes().to_vec();
            for _ in 0..=next(4) {
                let at = next(frame.len());
                match next(5) {
                    0 => frame.truncate(at),
                    1 => frame[at] = next(256) as u8,
                    2 => frame.insert(at, b"{}[]\",:\\0\xff"[next(10)]),
                    3 => drop(frame.remove(at)),
                    _ => frame.extend_from_within(at..),
                }
                if frame.is_empty() {
                    frame.push(b'{');
                }
            }
            if let Some(params) = path.params(&frame) {
                serde_json::from_str::<serde_json::Value>(params.get()).ok();
            }
            match parse(&frame) {
                Ok(Incoming::Request { params, .. } | Incoming::Notification { params, .. }) => {
                    taken += 1;
                    if let Some(params) = params {
                        if let Some(new) = respell(params.get(), "ag", "conv") {
                            assert!(!new.get().contains("\"sessionId\":\"ag\""));
                        }
                        let _ = with_session_id(params.get(), "conv");
                    }
                }
                Ok(Incoming::Response { answer, .. }) => {
                    taken += 1;
                    if let Err(raw) = answer {
                        let _ = error(raw);
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(taken > 100 && refused > 100, "{taken} {refused}");
    }
}
