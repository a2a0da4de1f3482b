//! Frames: what they say and how.

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, close_code};
use hostler_session::Chunk;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::ApiError;
use crate::wire::{Exit, Process, SignalName, Size};

/// Which stream the data of a binary frame is of: its first byte.
pub(super) const INPUT: u8 = 0;
pub(super) const STDOUT: u8 = 1;
pub(super) const STDERR: u8 = 2;

/// What a client says in text frames.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// The terminal has another size.
    Resize(Size),
    /// Send the process a signal (on a terminal, its foreground group is reached by typing).
    Signal(SignalName),
    /// There is no more input.
    Eof(bool),
}

fn text(value: &impl Serialize) -> Message {
    // What is said here is plain data.
    let text = serde_json::to_string(value).unwrap_or_default();
    Message::Text(Utf8Bytes::from(text))
}

pub(super) fn started(process: &Process) -> Message {
    text(&json!({ "started": process }))
}

pub(super) fn at(stdout: u64, stderr: Option<u64>) -> Message {
    text(&json!({ "at": { "stdout": stdout, "stderr": stderr } }))
}

pub(super) fn exit(exit: &Exit) -> Message {
    text(&json!({ "exit": exit }))
}

pub(super) fn error(error: &ApiError) -> Message {
    text(&json!({ "error": error }))
}

/// How much of what the client sent has come to the process.
pub(super) fn input(taken: u64) -> Message {
    text(&json!({ "input": taken }))
}

pub(super) fn closing(reason: &str, taken: u64) -> Message {
    text(&json!({ "closing": { "reason": reason, "input": taken } }))
}

pub(super) fn gap(chunk: &Chunk, stream: u8) -> Option<Message> {
    (chunk.skipped > 0).then(|| {
        let from = chunk.offset - chunk.skipped;
        text(&json!({ "gap": { "from": from, "to": chunk.offset, "stream": stream } }))
    })
}

pub(super) fn data(mut bytes: Vec<u8>, stream: u8) -> Message {
    bytes.insert(0, stream);
    Message::Binary(bytes.into())
}

/// The end, for a reason that WebSockets know.
pub(super) fn close(code: u16, why: &str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: Utf8Bytes::from(why.to_owned()),
    }))
}

pub(super) fn done() -> Message {
    close(close_code::NORMAL, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_say_is_understood() {
        let said = |text| serde_json::from_str::<Said>(text);
        let size = Size { rows: 24, cols: 80 };
        assert_eq!(
            said(r#"{"resize":{"rows":24,"cols":80}}"#).expect("a frame"),
            Said::Resize(size)
        );
        assert_eq!(
            said(r#"{"signal":"INT"}"#).expect("a frame"),
            Said::Signal(SignalName::Name("INT".into()))
        );
        assert_eq!(
            said(r#"{"signal":2}"#).expect("a frame"),
            Said::Signal(SignalName::Number(2))
        );
        assert_eq!(said(r#"{"eof":true}"#).expect("a frame"), Said::Eof(true));
        assert!(said(r#"{"oef":true}"#).is_err());
    }
}
