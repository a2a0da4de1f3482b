//! What a process or terminal elsewhere has written, once, whatever its channel tells again.
//!
//! The output of a process without a terminal comes as commands whose ids say where each piece stands: `stdout@OFFSET`, and
//! `stdout@OFFSET+LENGTH` for bytes that are no text, of which only what replaces them comes. By these, what comes anew after a loss,
//! or after the host has shortened its content, is told from what is new. What a terminal shows has no such places: it is drawn.

use ahp_types::actions::StateAction;
use ahp_types::state::{TerminalContentPart, TerminalState};
use hyper::body::Bytes;

use crate::client::streams::Stream;

/// A piece of output.
pub(super) type Piece = (Stream, Bytes);

/// Where a piece stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    stream: Stream,
    at: u64,
    /// The length of what was replaced.
    whole: Option<u64>,
}

/// The place that an id says, if it says one.
fn place(id: &str) -> Option<Place> {
    let (stream, at) = id.split_once('@')?;
    let stream = match stream {
        "stdout" => Stream::Out,
        "stderr" => Stream::Err,
        _ => return None,
    };
    let (at, whole) = match at.split_once('+') {
        Some((at, length)) => (at, Some(length.parse().ok()?)),
        None => (at, None),
    };
    Some(Place {
        stream,
        at: at.parse().ok()?,
        whole,
    })
}

/// How far the output was taken.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Up to where, of standard output and standard error.
    upto: [u64; 2],
    /// Where what comes next stands.
    place: Option<Place>,
    /// Whether what comes next draws a terminal anew.
    redraws: bool,
    /// Whether such a drawing is wanted.
    draws: bool,
}

impl Taken {
    /// From here on, of standard output.
    pub(super) fn since(offset: u64) -> Self {
        Self {
            upto: [offset, 0],
            ..Self::default()
        }
    }

    /// For a viewer, for whom terminals are drawn.
    pub(super) fn drawing() -> Self {
        Self {
            draws: true,
            ..Self::default()
        }
    }

    /// What is new in a state.
    pub(super) fn state(&mut self, state: &TerminalState) -> Vec<Piece> {
        let mut out = Vec::new();
        self.redraws = false;
        for part in &state.content {
            match part {
                TerminalContentPart::Command(command) => {
                    self.begins(&command.command_id, &mut out);
                    self.more(&command.output, &mut out);
                }
                TerminalContentPart::Unclassified(part) => {
                    self.place = None;
                    self.more(&part.value, &mut out);
                }
                TerminalContentPart::Unknown(_) => {}
            }
        }
        let open = matches!(state.content.last(), Some(TerminalContentPart::Command(command)) if !command.is_complete);
        if !open {
            self.place = None;
        }
        out
    }

    /// What is new by an action.
    pub(super) fn action(&mut self, action: &StateAction) -> Vec<Piece> {
        let mut out = Vec::new();
        match action {
            StateAction::TerminalCleared(_) => {
                self.place = None;
                self.redraws = true;
            }
            StateAction::TerminalCommandExecuted(command) => {
                self.begins(&command.command_id, &mut out)
            }
            StateAction::TerminalCommandFinished(_) => self.place = None,
            StateAction::TerminalData(data) => {
                let again = std::mem::take(&mut self.redraws) && self.place.is_none();
                if !again || self.draws {
                    self.more(&data.data, &mut out);
                }
            }
            _ => {}
        }
        out
    }

    fn begins(&mut self, id: &str, out: &mut Vec<Piece>) {
        self.place = place(id);
        let Some(place) = self.place else { return };
        let upto = &mut self.upto[place.stream as usize];
        if place.at > *upto {
            let (from, to) = (*upto, place.at);
            let line = format!(
                "hostler: {} bytes of output, from {from} to {to}, are not shown: the host does not send them again\n",
                to - from
            );
            out.push((Stream::Err, line.into()));
            *upto = place.at;
        }
    }

    fn more(&mut self, text: &str, out: &mut Vec<Piece>) {
        let (stream, new) = match &mut self.place {
            None => (Stream::Out, text),
            Some(place) => {
                let upto = &mut self.upto[place.stream as usize];
                let length = text.len() as u64;
                let new = match place.whole {
                    Some(whole) if *upto >= place.at + whole => "",
                    Some(whole) => {
                        *upto = place.at + whole;
                        text
                    }
                    None => {
                        let known = upto.saturating_sub(place.at).min(length);
                        place.at += length;
                        *upto = place.at.max(*upto);
                        text.get(known as usize..).unwrap_or(text)
                    }
                };
                (place.stream, new)
            }
        };
        if new.is_empty() {
            return;
        }
        out.push((stream, Bytes::from(new.to_owned())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn action(value: serde_json::Value) -> StateAction {
        serde_json::from_value(value).expect("an action")
    }

    fn data(text: &str) -> StateAction {
        action(json!({"type": "terminal/data", "data": text}))
    }

    fn begin(id: &str) -> StateAction {
        action(
            json!({"type": "terminal/commandExecuted", "commandId": id, "commandLine": "x", "timestamp": 1}),
        )
    }

    fn text(pieces: Vec<Piece>) -> String {
        let text = |(stream, bytes): (Stream, Bytes)| {
            let mark = if stream == Stream::Err { "!" } else { "" };
            format!("{mark}{}", String::from_utf8_lossy(&bytes))
        };
        pieces.into_iter().map(text).collect()
    }

    #[test]
    fn what_comes_again_is_not_taken_twice() {
        let mut taken = Taken::default();
        let mut say = |action: &StateAction| text(taken.action(action));
        assert_eq!(say(&begin("stdout@0")), "");
        assert_eq!(say(&data("one ")), "one ");
        assert_eq!(say(&begin("stderr@0")), "");
        assert_eq!(say(&data("bad")), "!bad");
        assert_eq!(say(&begin("stdout@4+2")), "");
        assert_eq!(say(&data("\u{fffd}\u{fffd}")), "\u{fffd}\u{fffd}");
        assert_eq!(say(&begin("stdout@6")), "");
        assert_eq!(say(&data("two")), "two");
        // The host shortens its content.
        let cleared = action(json!({"type": "terminal/cleared"}));
        assert_eq!(say(&cleared), "");
        assert_eq!(say(&begin("stdout@4+2")), "");
        assert_eq!(say(&data("\u{fffd}\u{fffd}")), "");
        assert_eq!(say(&begin("stdout@6")), "");
        assert_eq!(say(&data("two th")), " th");
        assert_eq!(say(&data("ree")), "ree");
        let gap = say(&begin("stdout@20"));
        assert!(gap.contains("from 15 to 20"), "{gap}");
        assert_eq!(say(&data("end")), "end");
    }

    #[test]
    fn a_state_tells_what_was_missed() {
        let mut taken = Taken::since(2);
        let part = |id: &str, output: &str, done: bool| json!({"type": "command", "commandId": id, "commandLine": "x", "output": output, "timestamp": 1, "isComplete": done});
        let state = |content| -> TerminalState {
            serde_json::from_value(json!({
                "title": "", "content": content, "lifecycle": {"status": "running"}, "isPty": false,
                "claim": {"kind": "session", "session": "s", "chat": "c"}
            }))
            .expect("a state")
        };
        let first = state(json!([part("stdout@0", "abcd", false)]));
        assert_eq!(text(taken.state(&first)), "cd");
        assert_eq!(text(taken.action(&data("ef"))), "ef");
        let later = state(json!([
            part("stdout@0", "abcdefgh", true),
            part("stderr@0", "x", false)
        ]));
        assert_eq!(text(taken.state(&later)), "gh!x");
        assert_eq!(text(taken.action(&data("y"))), "!y");
    }

    #[test]
    fn a_terminal_that_is_drawn_again_is_so_only_for_viewers() {
        for draws in [false, true] {
            let mut taken = Taken {
                draws,
                ..Taken::default()
            };
            assert_eq!(text(taken.action(&data("$ "))), "$ ");
            taken.action(&action(json!({"type": "terminal/cleared"})));
            let drawn = text(taken.action(&data("base")));
            assert_eq!(drawn, if draws { "base" } else { "" });
            assert_eq!(text(taken.action(&data("more"))), "more");
        }
    }
}
