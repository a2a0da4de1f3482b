//! What clients send, one message at a time, and what is sent to them: JSON-RPC 2.0 as raw text.

use std::borrow::Cow;
use std::fmt::Write as _;

use hostler_agent::{Answer, RpcError};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A message of a client, as far as it is looked into. What is raw borrows from its text.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    /// It wants an answer.
    Request {
        /// The id of the answer.
        id: &'a RawValue,
        /// What it wants.
        method: Cow<'a, str>,
        /// Of what.
        params: Option<&'a RawValue>,
    },
    /// It tells something.
    Notification {
        /// What.
        method: Cow<'a, str>,
        /// About what.
        params: Option<&'a RawValue>,
    },
    /// It answers something that it was asked.
    Response {
        /// The id of the question.
        id: &'a RawValue,
        /// What it answers.
        answer: Answer,
    },
}

/// A message that cannot be acted on, and the answer that it gets.
#[derive(Debug)]
pub(crate) struct Malformed {
    id: Option<String>,
    error: RpcError,
}

impl Malformed {
    fn new(id: Option<&RawValue>, code: i64, message: &str) -> Self {
        Self {
            id: id.map(|id| id.get().to_owned()),
            error: RpcError::new(code, message),
        }
    }

    /// What is answered: to the id where there is a usable one, else to `null`, as JSON-RPC wants it.
    pub(crate) fn answer(&self) -> String {
        let id = self.id.as_deref().unwrap_or("null");
        error(id, &self.error)
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    result: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    error: Option<&'a RawValue>,
}

/// `null` is something, too.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads one message.
pub(crate) fn parse(text: &str) -> Result<Incoming<'_>, Malformed> {
    let invalid = |id, why: &str| Malformed::new(id, RpcError::INVALID_REQUEST, why);
    let envelope: Envelope<'_> = match serde_json::from_str(text) {
        Ok(envelope) => envelope,
        Err(error) => {
            // The whole text may still be JSON.
            if serde_json::from_str::<&RawValue>(text).is_err() {
                let why = format!("this is not JSON: {error}");
                return Err(Malformed::new(None, RpcError::PARSE, &why));
            }
            let why = match text.trim_start().as_bytes().first() {
                Some(b'[') => "batches are not supported: one message at a time".to_owned(),
                Some(b'{') => format!("this is not a JSON-RPC 2.0 message: {error}"),
                _ => "a message is a JSON object".to_owned(),
            };
            return Err(invalid(None, &why));
        }
    };
    let id = match envelope.id {
        Some(id) if matches!(id.get().as_bytes().first(), Some(b'{' | b'[' | b't' | b'f')) => {
            return Err(invalid(None, "the id is to be a string or a number"));
        }
        id => id,
    };
    if envelope.jsonrpc.as_deref() != Some("2.0") {
        return Err(invalid(id, "`jsonrpc` is to be \"2.0\""));
    }
    let answers = envelope.result.is_some() || envelope.error.is_some();
    match (envelope.method, id) {
        (Some(_), id) if answers => Err(invalid(id, "a message is a request or a response")),
        (Some(method), Some(id)) => Ok(Incoming::Request {
            id,
            method,
            params: envelope.params,
        }),
        (Some(method), None) => Ok(Incoming::Notification {
            method,
            params: envelope.params,
        }),
        (None, Some(id)) => match (envelope.result, envelope.error) {
            (Some(result), None) => Ok(Incoming::Response {
                id,
                answer: Ok(result.to_owned()),
            }),
            (None, Some(error)) => match serde_json::from_str(error.get()) {
                Ok(error) => Ok(Incoming::Response {
                    id,
                    answer: Err(error),
                }),
                Err(_) => Err(invalid(None, "the error is to have a code and a message")),
            },
            _ => Err(invalid(
                None,
                "a message has a method, or either a result or an error",
            )),
        },
        (None, None) => Err(invalid(None, "there is no method")),
    }
}

/// A request's answer.
pub(super) fn response(id: &str, answer: &Answer) -> String {
    match answer {
        Ok(result) => format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{}}}"#, result.get()),
        Err(rpc) => error(id, rpc),
    }
}

fn error(id: &str, error: &RpcError) -> String {
    let error = serde_json::to_string(error).unwrap_or_else(|_| "null".to_owned());
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// A notification.
pub(crate) fn notification(method: &str, params: &str) -> String {
    let mut text = String::with_capacity(params.len() + method.len() + 48);
    text.push_str(r#"{"jsonrpc":"2.0","method":"#);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_".contains(&byte);
    if method.bytes().all(plain) {
        text.push('"');
        text.push_str(method);
        text.push('"');
    } else {
        text.push_str(&quoted(method));
    }
    text.push_str(r#","params":"#);
    text.push_str(params);
    text.push('}');
    text
}

/// A request to the client. `id` is JSON.
pub(super) fn request(id: &str, method: &str, params: Option<&str>) -> String {
    let method = quoted(method);
    let mut text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method}"#);
    if let Some(params) = params {
        let _ = write!(text, r#","params":{params}"#);
    }
    text.push('}');
    text
}

/// Adds where in the conversation's transcript this message stands, for a client that counts along: a member `seq` of the
/// envelope, at its end.
pub(super) fn with_seq(mut message: String, seq: u64) -> String {
    if message.pop().is_some() {
        let _ = write!(message, r#","seq":{seq}}}"#);
    }
    message
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Raw JSON that was written here, or is known to be JSON.
pub(crate) fn raw(text: String) -> Box<RawValue> {
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The conversation that a message's parameters name.
pub(super) fn session_of(params: Option<&RawValue>) -> Option<String> {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow, rename = "sessionId")]
        session: Option<Cow<'a, str>>,
    }
    let named: Named<'_> = serde_json::from_str(params?.get()).ok()?;
    named.session.map(Cow::into_owned)
}

/// Puts the conversation's id into parameters that name none.
pub(super) fn with_session(params: Option<&RawValue>, session: &str) -> Option<Box<RawValue>> {
    let id = quoted(session);
    let Some(params) = params else {
        return Some(raw(format!(r#"{{"sessionId":{id}}}"#)));
    };
    let rest = params.get().trim_start().strip_prefix('{')?;
    let comma = if rest.trim_start().starts_with('}') {
        ""
    } else {
        ","
    };
    Some(raw(format!(r#"{{"sessionId":{id}{comma}{rest}"#)))
}

/// An object's members in their order, each value as it was written.
pub(crate) struct Members<'a>(pub(crate) Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(key) = map.next_key::<Key<'de>>()? {
                    members.push((key.0, map.next_value()?));
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Each)
    }
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Members<'a> {
    /// The members of this object; none where it is none.
    pub(crate) fn of(value: &'a RawValue) -> Self {
        serde_json::from_str(value.get()).unwrap_or(Self(Vec::new()))
    }

    /// One of them.
    pub(crate) fn get(&self, name: &str) -> Option<&'a RawValue> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| *value)
    }

    /// All but this one, as an object again.
    pub(super) fn without(&self, name: &str) -> Box<RawValue> {
        let mut text = String::from("{");
        for (key, value) in self.0.iter().filter(|(key, _)| key != name) {
            if text.len() > 1 {
                text.push(',');
            }
            let _ = write!(text, "{}:{}", quoted(key), value.get());
        }
        text.push('}');
        raw(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_message_is_answered_by_the_protocol() {
        for (text, code, id) in [
            ("{", -32700, "null"),
            ("", -32700, "null"),
            ("nonsense", -32700, "null"),
            ("[]", -32600, "null"),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"x"}]"#, -32600, "null"),
            ("3", -32600, "null"),
            (r#"{"id":1,"method":"x"}"#, -32600, "1"),
            (
                r#"{"jsonrpc":"1.0","id":"a","method":"x"}"#,
                -32600,
                "\"a\"",
            ),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, -32600, "null"),
            (r#"{"jsonrpc":"2.0"}"#, -32600, "null"),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600, "null"),
            (r#"{"jsonrpc":"2.0","id":1,"method":3}"#, -32600, "null"),
            (
                r#"{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}"#,
                -32600,
                "null",
            ),
            (r#"{"jsonrpc":"2.0","id":1,"error":5}"#, -32600, "null"),
        ] {
            let malformed = parse(text).expect_err(text);
            let answer: serde_json::Value =
                serde_json::from_str(&malformed.answer()).expect("an answer");
            assert_eq!(answer["error"]["code"], code, "{text}");
            assert_eq!(answer["id"].to_string(), id, "{text}");
        }
    }

    #[test]
    fn messages_are_told_apart_and_stay_raw() {
        let text = r#"{"jsonrpc":"2.0","id":1.50,"method":"a/b","params":{"x":  1e3 }}"#;
        let Ok(Incoming::Request { id, method, params }) = parse(text) else {
            panic!("a request");
        };
        assert_eq!((id.get(), method.as_ref()), ("1.50", "a/b"));
        assert_eq!(params.map(RawValue::get), Some(r#"{"x":  1e3 }"#));
        let text = r#"{"jsonrpc":"2.0","method":"session/cancel"}"#;
        assert!(matches!(
            parse(text),
            Ok(Incoming::Notification { params: None, .. })
        ));
        let text = r#"{"jsonrpc":"2.0","id":null,"result":null}"#;
        let Ok(Incoming::Response { answer, .. }) = parse(text) else {
            panic!("a response");
        };
        assert_eq!(answer.expect("a result").get(), "null");
    }

    #[test]
    fn a_session_is_found_and_put_in() {
        let params = raw(r#"{"a":{"sessionId":"no"},"sessionId":"s-\u0031"}"#.into());
        assert_eq!(session_of(Some(&params)).as_deref(), Some("s-1"));
        for (params, with) in [
            (None, r#"{"sessionId":"s"}"#),
            (Some("{ }"), r#"{"sessionId":"s" }"#),
            (Some(r#"{"x":1}"#), r#"{"sessionId":"s","x":1}"#),
        ] {
            let params = params.map(|params| raw(params.to_owned()));
            let put = with_session(params.as_deref(), "s").expect("an object");
            assert_eq!(put.get(), with);
        }
        assert!(with_session(Some(&raw("[]".into())), "s").is_none());
    }

    #[test]
    fn members_keep_their_order_and_text() {
        let value = raw(r#"{"b": 1.0, "sessionId":"s", "a\n": {"z":1}}"#.into());
        let members = Members::of(&value);
        assert_eq!(
            members.without("sessionId").get(),
            r#"{"b":1.0,"a\n":{"z":1}}"#
        );
        assert_eq!(members.get("b").map(RawValue::get), Some("1.0"));
        assert_eq!(
            with_seq("{}".replace("{}", r#"{"a":1}"#), 7),
            r#"{"a":1,"seq":7}"#
        );
    }
}
