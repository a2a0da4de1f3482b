//! What of an answer is on the screen: what a state has more is what is new.

use std::collections::HashMap;

use ahp_types::common::StringOrMarkdown;
use ahp_types::state::{ResponsePart, ToolCallState};

use crate::client::error::Result;
use crate::client::turn::Shown;

/// The tool as which plans are shown, which a prompt does not show.
const PLAN: &str = "plan";

/// A text as it was written.
pub(super) fn text(text: &StringOrMarkdown) -> &str {
    match text {
        StringOrMarkdown::Plain(text) => text,
        StringOrMarkdown::Markdown { markdown } => markdown,
    }
}

/// What was drawn of an answer.
#[derive(Debug, Default)]
pub(super) struct Drawn {
    pub(super) shown: Shown,
    /// How much of each text, in bytes.
    texts: HashMap<String, usize>,
    /// Which calls, and whether their ends.
    calls: HashMap<String, bool>,
    /// The call that was answered from here.
    pub(super) mine: Option<String>,
}

impl Drawn {
    /// Shows what is new of an answer.
    pub(super) fn all(&mut self, parts: &[ResponsePart]) -> Result<()> {
        parts.iter().try_for_each(|part| self.draw(part))
    }

    /// The same of one of its texts.
    pub(super) fn part(&mut self, parts: &[ResponsePart], id: &str) -> Result<()> {
        let is = |part: &&ResponsePart| match part {
            ResponsePart::Markdown(part) => part.id == id,
            ResponsePart::Reasoning(part) => part.id == id,
            _ => false,
        };
        parts
            .iter()
            .rev()
            .find(is)
            .map_or(Ok(()), |part| self.draw(part))
    }

    fn draw(&mut self, part: &ResponsePart) -> Result<()> {
        match part {
            ResponsePart::Markdown(part) => {
                let from = self.from(&part.id, &part.content);
                self.shown.says(&part.content[from..])
            }
            ResponsePart::Reasoning(part) => {
                match &part.content[self.from(&part.id, &part.content)..] {
                    "" => Ok(()),
                    more => self.shown.note("thinks", more),
                }
            }
            ResponsePart::ToolCall(part) => self.call(&part.tool_call),
            _ => Ok(()),
        }
    }

    /// Where what is new begins.
    fn from(&mut self, id: &str, content: &str) -> usize {
        let before = self.texts.insert(id.to_owned(), content.len()).unwrap_or(0);
        if content.is_char_boundary(before) {
            before
        } else {
            content.len()
        }
    }

    fn call(&mut self, call: &ToolCallState) -> Result<()> {
        let (id, name, title, end) = match call {
            ToolCallState::Streaming(c) => (&c.tool_call_id, &c.tool_name, &*c.display_name, None),
            ToolCallState::PendingConfirmation(c) => (
                &c.tool_call_id,
                &c.tool_name,
                text(&c.invocation_message),
                None,
            ),
            ToolCallState::Running(c) => (
                &c.tool_call_id,
                &c.tool_name,
                text(&c.invocation_message),
                None,
            ),
            ToolCallState::Completed(c) => {
                let end = if c.success { "completed" } else { "failed" };
                (
                    &c.tool_call_id,
                    &c.tool_name,
                    text(&c.past_tense_message),
                    Some(end),
                )
            }
            ToolCallState::Cancelled(c) => (
                &c.tool_call_id,
                &c.tool_name,
                text(&c.invocation_message),
                Some("failed"),
            ),
            _ => return Ok(()),
        };
        if name == PLAN {
            return Ok(());
        }
        let known = self.calls.get(id).copied();
        if known.is_none() {
            self.shown.note(name, title)?;
        }
        if let Some(end) = end
            && known != Some(true)
        {
            self.shown.note(end, title)?;
        }
        self.calls.insert(id.clone(), end.is_some());
        Ok(())
    }
}
