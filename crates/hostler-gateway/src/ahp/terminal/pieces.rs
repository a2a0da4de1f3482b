//! What a process without a terminal wrote, as parts whose ids say where they stand (see [`plain`](super::plain)). It does no input or
//! output: its actions, reduced by the reducer of the `ahp` crate, are the channel's content in the host and in every client.

use std::collections::VecDeque;

use ahp_types::actions::{
    StateAction, TerminalClearedAction, TerminalCommandExecutedAction,
    TerminalCommandFinishedAction, TerminalDataAction,
};
use hostler_session::Chunk;

use super::live::now;

/// How much content there is at the most, and how much is kept of it then, in bytes.
const CONTENT: usize = 4 << 20;
pub(super) const KEPT: usize = 2 << 20;
/// What a part of the content counts besides its text.
const PART: usize = 256;
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// A piece of the output of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    stream: usize,
    at: u64,
    /// How many bytes it was, where the text only replaces them.
    replaced: Option<u64>,
    text: String,
}

impl Segment {
    fn id(&self) -> String {
        let (stream, at) = (STREAMS[self.stream], self.at);
        match self.replaced {
            Some(length) => format!("{stream}@{at}+{length}"),
            None => format!("{stream}@{at}"),
        }
    }

    fn size(&self) -> usize {
        self.text.len() + PART
    }

    /// Whether this goes on where that ends.
    fn follows(&self, before: &Self) -> bool {
        self.stream == before.stream
            && self.replaced.is_none()
            && before.replaced.is_none()
            && before.at + before.text.len() as u64 == self.at
    }
}

/// What was written, as parts.
#[derive(Debug, Default)]
pub(super) struct Content {
    segments: VecDeque<Segment>,
    size: usize,
    /// The beginning of a character of each stream, and where it stands.
    held: [(u64, Vec<u8>); 2],
    line: String,
}

impl Content {
    /// None yet, of this command line.
    pub(super) fn new(line: String) -> Self {
        Self {
            line,
            ..Self::default()
        }
    }

    /// Takes what a stream wrote next.
    pub(super) fn take(&mut self, stream: usize, chunk: &Chunk) -> Vec<StateAction> {
        self.output(stream, chunk.offset, &chunk.bytes)
    }

    /// Nothing more will be written.
    pub(super) fn end(&mut self, exit_code: Option<i64>) -> Vec<StateAction> {
        let mut out = Vec::new();
        for stream in 0..STREAMS.len() {
            let (at, rest) = std::mem::take(&mut self.held[stream]);
            out.extend(self.replace(stream, at, &rest));
        }
        out.extend(self.finish(exit_code));
        out
    }

    /// Takes what a stream wrote from this offset on.
    fn output(&mut self, stream: usize, at: u64, bytes: &[u8]) -> Vec<StateAction> {
        let (from, mut whole) = std::mem::take(&mut self.held[stream]);
        let mut out = Vec::new();
        let from = if whole.is_empty() { at } else { from };
        if from + (whole.len() as u64) < at {
            // Something between is not kept: what was held stands alone.
            out.extend(self.replace(stream, from, &std::mem::take(&mut whole)));
            return out
                .into_iter()
                .chain(self.output(stream, at, bytes))
                .collect();
        }
        whole.extend_from_slice(bytes);
        let upto = match std::str::from_utf8(&whole) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => whole.len(),
        };
        let rest = whole.split_off(upto);
        self.held[stream] = (from + upto as u64, rest);
        match String::from_utf8(whole) {
            Ok(text) => out.extend(self.push(Segment {
                stream,
                at: from,
                replaced: None,
                text,
            })),
            Err(error) => out.extend(self.replace(stream, from, error.as_bytes())),
        }
        out.extend(self.shorten());
        out
    }

    fn replace(&mut self, stream: usize, at: u64, bytes: &[u8]) -> Vec<StateAction> {
        self.push(Segment {
            stream,
            at,
            replaced: Some(bytes.len() as u64),
            text: String::from_utf8_lossy(bytes).into_owned(),
        })
    }

    fn push(&mut self, segment: Segment) -> Vec<StateAction> {
        if segment.text.is_empty() {
            return Vec::new();
        }
        let data = StateAction::TerminalData(TerminalDataAction {
            data: segment.text.clone(),
        });
        if let Some(last) = self
            .segments
            .back_mut()
            .filter(|last| segment.follows(last))
        {
            self.size += segment.text.len();
            last.text.push_str(&segment.text);
            return vec![data];
        }
        self.size += segment.size();
        let mut out: Vec<StateAction> = self.finish(None).into_iter().collect();
        out.push(self.begin(&segment));
        out.push(data);
        self.segments.push_back(segment);
        out
    }

    fn begin(&self, segment: &Segment) -> StateAction {
        StateAction::TerminalCommandExecuted(TerminalCommandExecutedAction {
            command_id: segment.id(),
            command_line: self.line.clone(),
            timestamp: now(),
        })
    }

    /// The last part is over.
    fn finish(&self, exit_code: Option<i64>) -> Option<StateAction> {
        let last = self.segments.back()?;
        Some(StateAction::TerminalCommandFinished(
            TerminalCommandFinishedAction {
                command_id: last.id(),
                exit_code,
                duration_ms: None,
            },
        ))
    }

    /// Keeps the end alone, where it is too much.
    fn shorten(&mut self) -> Vec<StateAction> {
        if self.size <= CONTENT {
            return Vec::new();
        }
        while self.size > KEPT {
            let Some(mut first) = self.segments.pop_front() else {
                break;
            };
            self.size -= first.size();
            let over = (self.size + first.size()).saturating_sub(KEPT);
            if first.replaced.is_none() && over < first.text.len() {
                let cut = first.text.ceil_char_boundary(over);
                first.text.drain(..cut);
                first.at += cut as u64;
                self.size += first.size();
                self.segments.push_front(first);
                break;
            }
        }
        let cleared = StateAction::TerminalCleared(TerminalClearedAction {});
        std::iter::once(cleared).chain(self.parts()).collect()
    }

    /// All parts; the last one goes on.
    fn parts(&self) -> Vec<StateAction> {
        let mut out = Vec::new();
        for (place, segment) in self.segments.iter().enumerate() {
            out.push(self.begin(segment));
            out.push(StateAction::TerminalData(TerminalDataAction {
                data: segment.text.clone(),
            }));
            if place + 1 < self.segments.len() {
                out.push(StateAction::TerminalCommandFinished(
                    TerminalCommandFinishedAction {
                        command_id: segment.id(),
                        exit_code: None,
                        duration_ms: None,
                    },
                ));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use ahp::reducers::apply_action_to_terminal;
    use ahp_types::state::TerminalState;

    use super::*;

    fn reduced(actions: &[StateAction]) -> Vec<(String, String, bool)> {
        let mut state: TerminalState = serde_json::from_value(serde_json::json!({
            "title": "", "content": [], "lifecycle": {"status": "running"}, "isPty": false,
            "claim": {"kind": "session", "session": "s", "chat": "c"}
        }))
        .expect("a state");
        for action in actions {
            apply_action_to_terminal(&mut state, action);
        }
        let part = |part| match part {
            ahp_types::state::TerminalContentPart::Command(c) => {
                (c.command_id, c.output, c.is_complete)
            }
            other => panic!("{other:?}"),
        };
        state.content.into_iter().map(part).collect()
    }

    #[test]
    fn pieces_say_where_they_stand() {
        let mut content = Content::default();
        let mut actions = content.output(0, 0, "ab\u{fc}".as_bytes());
        actions.extend(content.output(0, 4, b"c\xc3"));
        actions.extend(content.output(1, 0, b"bad"));
        actions.extend(content.output(0, 6, b"\xbcd"));
        actions.extend(content.output(0, 8, b"\xff\xfe"));
        actions.extend(content.output(0, 10, b"end"));
        // Something is not kept.
        actions.extend(content.output(0, 20, b"x"));
        let all = reduced(&actions);
        let all: Vec<(&str, &str, bool)> = all.iter().map(|(i, t, c)| (&**i, &**t, *c)).collect();
        assert_eq!(
            all,
            [
                ("stdout@0", "ab\u{fc}c", true),
                ("stderr@0", "bad", true),
                ("stdout@5", "\u{fc}d", true),
                ("stdout@8+2", "\u{fffd}\u{fffd}", true),
                ("stdout@10", "end", true),
                ("stdout@20", "x", false),
            ]
        );
    }

    #[test]
    fn content_is_bounded_and_its_end_is_kept() {
        let mut content = Content::default();
        let mut actions = Vec::new();
        let piece = "0123456789abcde\n".repeat(4096);
        for n in 0..200u64 {
            actions.extend(content.output(0, n * piece.len() as u64, piece.as_bytes()));
            assert!(content.size <= CONTENT, "{}", content.size);
        }
        let all = reduced(&actions);
        let [(id, text, false)] = &all[..] else {
            panic!("{} parts", all.len());
        };
        let at: u64 = id
            .strip_prefix("stdout@")
            .and_then(|at| at.parse().ok())
            .expect("a place");
        assert_eq!(at + text.len() as u64, 200 * piece.len() as u64);
        assert!(text.len() >= KEPT - PART && text.ends_with("abcde\n"));
    }
}
