//! Exact replacement of a session id in the text of an object.

use std::ops::Range;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{RpcError, is_object, quoted};

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

/// The parameters of a client's message as the agent gets them: what is about its session names that as the agent does, and
/// what is not (`authenticate`, an extension of its own) stays as it is.
///
/// # Errors
/// As [`with_session_id`].
pub(crate) fn for_session(
    method: &str,
    params: Box<RawValue>,
    name: &str,
) -> Result<Box<RawValue>, RpcError> {
    let of_session = method.starts_with("session/") || session_id(params.get()).is_some();
    match of_session && is_object(params.get().as_bytes()) {
        true => with_session_id(params.get(), name),
        false => Ok(params),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Incoming, parse};

    #[test]
    fn only_what_is_about_a_session_names_it() {
        for (method, params, sent) in [
            ("authenticate", r#"{"methodId":"x"}"#, r#"{"methodId":"x"}"#),
            ("_own", "[1]", "[1]"),
            ("_own", r#"{"sessionId":"c"}"#, r#"{"sessionId":"a"}"#),
            (
                "session/set_mode",
                r#"{"modeId":"x"}"#,
                r#"{"sessionId":"a","modeId":"x"}"#,
            ),
        ] {
            let params = RawValue::from_string(params.into()).expect("JSON");
            let new = for_session(method, params, "a").expect("parameters");
            assert_eq!(new.get(), sent, "{method}");
        }
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
}
