//! Messages as lines for an agent.

use serde_json::value::RawValue;

use super::{Answer, quoted, raw};

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
