//! JSON-RPC 2.0 as text: envelopes over borrowed raw values, and exact replacement of a session id.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

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

/// Where in the text of an object the value of its own `sessionId` is, and that value.
fn session_id(object: &str) -> Option<(Range<usize>, &str)> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, rename = "sessionId")]
        session_id: &'a RawValue,
    }
    if !is_object(object.as_bytes()) {
        return None;
    }
    let named: Named<'_> = serde_json::from_str(object).ok()?;
    let text = named.session_id.get();
    let start = text.as_ptr() as usize - object.as_ptr() as usize;
    Some((start..start + text.len(), text))
}

/// What `text` is as JSON.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Raw JSON of what can be written as such.
pub(crate) fn raw(value: &impl Serialize) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The text with other text at a place in it, where that is the value of a member.
fn put(object: &str, place: Range<usize>, value: &str) -> Option<Box<RawValue>> {
    let mut text = String::with_capacity(object.len() + value.len());
    text.push_str(&object[..place.start]);
    text.push_str(value);
    text.push_str(&object[place.end..]);
    RawValue::from_string(text).ok()
}

/// The same object, byte for byte, but that a `sessionId` of `from` is `to`. `None` where there is no such.
pub fn respell(object: &str, from: &str, to: &str) -> Option<Box<RawValue>> {
    let (place, value) = session_id(object)?;
    if serde_json::from_str::<String>(value).ok()? != from {
        return None;
    }
    put(object, place, &quoted(to))
}

/// The same object, byte for byte, but that its `sessionId` is `to`, whatever it was, and is there.
///
/// # Errors
/// [`RpcError::INVALID_PARAMS`] where this is no object, or has it twice.
pub fn with_session_id(object: &str, to: &str) -> Result<Box<RawValue>, RpcError> {
    let no = || RpcError::invalid_params("the parameters should be an object with one `sessionId`");
    let to = quoted(to);
    if let Some((place, _)) = session_id(object) {
        return put(object, place, &to).ok_or_else(no);
    }
    #[derive(Deserialize)]
    struct Whatever {
        #[serde(rename = "sessionId")]
        session_id: Option<IgnoredAny>,
    }
    let start = object.find('{').ok_or_else(no)? + 1;
    let read = serde_json::from_str::<Whatever>(object).map_err(|_| no())?;
    if !is_object(object.as_bytes()) || read.session_id.is_some() {
        return Err(no());
    }
    let empty = object[start..].trim_start().starts_with('}');
    let comma = if empty { "" } else { "," };
    let member = format!("\"sessionId\":{to}{comma}");
    put(object, start..start, &member).ok_or_else(no)
}

/// Turns the updates of one agent session into those of a conversation in one pass, where they are written as nearly all
/// agents write them: compactly, with the session's id in the first place.
#[derive(Debug, Clone)]
pub struct UpdatePath {
    /// How such a line begins, up to the value of `sessionId`, which is included.
    before: Vec<u8>,
    /// How its parameters begin after that.
    after: String,
}

impl UpdatePath {
    /// From the agent's name for the session to the conversation's.
    pub fn new(from: &str, to: &str) -> Self {
        let from = quoted(from);
        Self {
            before: format!(
                r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":{from}"#
            )
            .into_bytes(),
            after: format!(r#"{{"sessionId":{}"#, quoted(to)),
        }
    }

    /// The parameters of the update that this line is. `None` where it is something else, or has to be looked at closely.
    pub fn params(&self, line: &[u8]) -> Option<Box<RawValue>> {
        let rest = line.strip_prefix(&*self.before)?.strip_suffix(b"}")?;
        if rest.first() != Some(&b',') {
            return None;
        }
        let rest = std::str::from_utf8(rest).ok()?;
        let mut text = String::with_capacity(self.after.len() + rest.len());
        text.push_str(&self.after);
        text.push_str(rest);
        // Only what is one whole object is taken: if the line has more, this is not.
        RawValue::from_string(text).ok()
    }
}

fn line(parts: &[&str]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut line = Vec::with_capacity(length + 1);
    for part in parts {
        line.extend_from_slice(part.as_bytes());
    }
    // Between values a line break is mere space; within strings JSON has none.
    for byte in &mut line {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    line.push(b'\n');
    line
}

/// The line of a request.
pub(crate) fn request(id: u64, method: &str, params: &RawValue) -> Vec<u8> {
    let (id, method) = (id.to_string(), quoted(method));
    line(&[
        r#"{"jsonrpc":"2.0","id":"#,
        &id,
        r#","method":"#,
        &method,
        r#","params":"#,
        params.get(),
        "}",
    ])
}

/// The line of a notification.
pub(crate) fn notification(method: &str, params: &RawValue) -> Vec<u8> {
    let method = quoted(method);
    line(&[
        r#"{"jsonrpc":"2.0","method":"#,
        &method,
        r#","params":"#,
        params.get(),
        "}",
    ])
}

/// The line of an answer.
pub(crate) fn response(id: &RawValue, answer: &Answer) -> Vec<u8> {
    match answer {
        Ok(result) => line(&[
            r#"{"jsonrpc":"2.0","id":"#,
            id.get(),
            r#","result":"#,
            result.get(),
            "}",
        ]),
        Err(error) => line(&[
            r#"{"jsonrpc":"2.0","id":"#,
            id.get(),
            r#","error":"#,
            raw(error).get(),
            "}",
        ]),
    }
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

    #[test]
    fn a_session_id_is_replaced_at_its_own_place_and_nowhere_else() {
        let text =
            r#"{ "update" : {"sessionId":"a", "n": 1.10e2}, "sessionId" :"a" , "_x":"\u00e9" }"#;
        let new = respell(text, "a", "b\"c").expect("replaced");
        assert_eq!(
            new.get(),
            r#"{ "update" : {"sessionId":"a", "n": 1.10e2}, "sessionId" :"b\"c" , "_x":"\u00e9" }"#
        );
        assert!(respell(text, "z", "b").is_none());
        assert!(respell("[\"a\"]", "a", "b").is_none());
        assert!(respell("{\"sessionId\":\"a\",\"sessionId\":\"a\"}", "a", "b").is_none());
        for (text, new) in [
            ("{}", r#"{"sessionId":"n"}"#),
            ("{ \"a\":1}", r#"{"sessionId":"n", "a":1}"#),
            ("{\"sessionId\":null}", r#"{"sessionId":"n"}"#),
        ] {
            assert_eq!(with_session_id(text, "n").expect("an object").get(), new);
        }
        assert!(with_session_id("[1]", "n").is_err());
    }

    #[test]
    fn the_short_way_gives_what_the_long_one_gives() {
        let path = UpdatePath::new("ag", "conv");
        for (rest, taken) in [
            (r#","update":{"a":1}}}"#, true),
            (r#","update":{"a":1}},"id":5}"#, false),
            (r#"}}"#, false),
            (r#","update":}}"#, false),
        ] {
            let line = format!(
                r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"ag"{rest}"#
            );
            let short = path.params(line.as_bytes());
            assert_eq!(short.is_some(), taken, "{line}");
            if let Some(short) = short {
                let Ok(Incoming::Notification {
                    params: Some(params),
                    ..
                }) = parse(line.as_bytes())
                else {
                    panic!("{line}");
                };
                assert_eq!(
                    short.get(),
                    respell(params.get(), "ag", "conv").expect("replaced").get()
                );
            }
        }
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
