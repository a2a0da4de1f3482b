//! Tool calls and plans of an agent, as actions.

use std::collections::HashMap;

use ahp_types::actions::{
    ChatToolCallCompleteAction, ChatToolCallContentChangedAction, ChatToolCallDeltaAction,
    ChatToolCallReadyAction, ChatToolCallStartAction, StateAction,
};
use ahp_types::state::{
    ConfirmationOption, ContentRef, FileEdit, FileEditCollection, FileEditDiffStats, FileEditSide,
    ToolCallConfirmationReason, ToolCallResult, ToolInput, ToolResultContent,
    ToolResultFileEditContent, ToolResultTerminalContent, ToolResultTextContent,
};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::message;
use crate::ahp::uri;

/// The longest side of an edit that is carried in its URI, in bytes; a longer one is referred to.
const SIDE: usize = 64 << 10;
/// The tool call as which a plan is shown.
const PLAN: &str = "plan";

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its parameters are being written.
    Streaming,
    /// Somebody is asked.
    Asked,
    Running,
    Over,
}

#[derive(Debug)]
struct Call {
    stage: Stage,
    title: String,
    input: Option<String>,
    content: Vec<ToolResultContent>,
    meta: Option<serde_json::Map<String, Value>>,
    confirmed: ToolCallConfirmationReason,
}

/// The calls of a turn.
#[derive(Debug, Default)]
pub(super) struct Tools {
    calls: HashMap<String, Call>,
}

/// A tool call of ACP, or a change of one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Told<'a> {
    pub(super) tool_call_id: String,
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    status: Option<String>,
    #[serde(borrow, default)]
    raw_input: Option<&'a RawValue>,
    #[serde(borrow, default)]
    raw_output: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content: Option<Vec<&'a RawValue>>,
    #[serde(default)]
    locations: Option<Value>,
    #[serde(rename = "_meta", default)]
    meta: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    old_text: Option<String>,
    #[serde(default)]
    new_text: Option<String>,
    #[serde(default)]
    terminal_id: Option<String>,
}

impl Tools {
    /// Whether this call can be asked about.
    pub(super) fn is_open(&self, id: &str) -> bool {
        self.calls
            .get(id)
            .is_none_or(|call| matches!(call.stage, Stage::Streaming | Stage::Running))
    }

    /// A call begins, or changes.
    pub(super) fn update(&mut self, turn: &str, update: &RawValue) -> Vec<StateAction> {
        match serde_json::from_str::<Told<'_>>(update.get()) {
            Ok(told) => self.told(turn, &told),
            Err(_) => Vec::new(),
        }
    }

    pub(super) fn told(&mut self, turn: &str, told: &Told<'_>) -> Vec<StateAction> {
        let mut out = Vec::new();
        let id = &told.tool_call_id;
        let title = told.title.clone();
        if !self.calls.contains_key(id) {
            out.push(self.start(turn, told));
        }
        let Some(call) = self.calls.get_mut(id) else {
            return out;
        };
        if call.stage == Stage::Over {
            return out;
        }
        let input = told.raw_input.map(|raw| raw.get().to_owned());
        let input = input.filter(|input| input != "null" && input != "{}");
        let mut changed = false;
        if let Some(title) = title.filter(|title| *title != call.title) {
            call.title = title;
            changed = true;
        }
        if input.is_some() && input != call.input {
            call.input = input;
            changed = true;
        }
        if let Some(locations) = told
            .locations
            .clone()
            .filter(|all| all.as_array().is_some_and(|all| !all.is_empty()))
        {
            let meta = call.meta.get_or_insert_default();
            changed |= meta.get("dev.hostler/locations") != Some(&locations);
            meta.insert("dev.hostler/locations".into(), locations);
        }
        let content = told.content.as_ref();
        if let Some(content) = content {
            call.content = content.iter().copied().filter_map(content_of).collect();
        }
        let status = told.status.as_deref().unwrap_or_default();
        let over = matches!(status, "completed" | "failed");
        let runs = over || status == "in_progress";
        match call.stage {
            Stage::Streaming if runs => out.extend(call.runs(turn, id)),
            Stage::Streaming if changed => {
                out.push(StateAction::ChatToolCallDelta(ChatToolCallDeltaAction {
                    turn_id: turn.to_owned(),
                    tool_call_id: id.clone(),
                    meta: call.meta.clone(),
                    content: None,
                    invocation_message: Some(call.title.clone().into()),
                }));
            }
            Stage::Running if changed => out.extend(call.runs(turn, id)),
            Stage::Running if content.is_some() => out.extend(call.shows(turn, id)),
            _ => {}
        }
        if over {
            out.push(call.over(turn, id, status == "completed", told.raw_output));
        }
        out
    }

    fn start(&mut self, turn: &str, told: &Told<'_>) -> StateAction {
        let title = told.title.clone().unwrap_or_default();
        let kind = told.kind.clone().unwrap_or_else(|| "other".into());
        // Claude Code's adapter names the tool there.
        let named = told
            .meta
            .as_ref()
            .and_then(|meta| meta.pointer("/claudeCode/toolName").and_then(Value::as_str));
        let name = named.map_or_else(|| kind.clone(), str::to_owned);
        let call = Call {
            stage: Stage::Streaming,
            title: title.clone(),
            input: None,
            content: Vec::new(),
            meta: None,
            confirmed: ToolCallConfirmationReason::NotNeeded,
        };
        self.calls.insert(told.tool_call_id.clone(), call);
        StateAction::ChatToolCallStart(ChatToolCallStartAction {
            turn_id: turn.to_owned(),
            tool_call_id: told.tool_call_id.clone(),
            meta: None,
            display_name: if title.is_empty() {
                name.clone()
            } else {
                title
            },
            tool_name: name,
            intention: None,
            contributor: None,
        })
    }

    /// Somebody is asked whether a call may run.
    pub(super) fn asks(
        &mut self,
        turn: &str,
        id: &str,
        options: Vec<ConfirmationOption>,
    ) -> Option<StateAction> {
        let call = self.calls.get_mut(id)?;
        call.stage = Stage::Asked;
        let edits: Vec<FileEdit> = call
            .content
            .iter()
            .filter_map(|content| match content {
                ToolResultContent::FileEdit(edit) => Some(FileEdit {
                    before: edit.before.clone(),
                    after: edit.after.clone(),
                    diff: edit.diff.clone(),
                }),
                _ => None,
            })
            .collect();
        let mut ready = call.ready(turn, id);
        ready.confirmed = None;
        ready.confirmation_title = Some(call.title.clone().into());
        ready.edits = (!edits.is_empty()).then_some(FileEditCollection { items: edits });
        ready.options = Some(options);
        Some(StateAction::ChatToolCallReady(ready))
    }

    /// It was answered: the call runs, or is over. What it has to show is shown then.
    pub(super) fn answered(
        &mut self,
        turn: &str,
        id: &str,
        confirmed: Option<ToolCallConfirmationReason>,
    ) -> Option<StateAction> {
        let call = self.calls.get_mut(id)?;
        match confirmed {
            Some(confirmed) => {
                call.stage = Stage::Running;
                call.confirmed = confirmed;
                call.shows(turn, id)
            }
            None => {
                call.stage = Stage::Over;
                None
            }
        }
    }

    /// The agent's plan, as a call whose result is a list.
    pub(super) fn plan(&mut self, turn: &str, update: &RawValue) -> Vec<StateAction> {
        #[derive(Deserialize)]
        struct Plan {
            entries: Vec<Value>,
        }
        let Ok(plan) = serde_json::from_str::<Plan>(update.get()) else {
            return Vec::new();
        };
        let lines: Vec<String> = plan
            .entries
            .iter()
            .map(|entry| {
                let mark = match entry["status"].as_str() {
                    Some("completed") => "x",
                    Some("in_progress") => "~",
                    _ => " ",
                };
                format!(
                    "- [{mark}] {}",
                    entry["content"].as_str().unwrap_or_default()
                )
            })
            .collect();
        let id = format!("{PLAN}-{turn}");
        let mut out = Vec::new();
        if !self.calls.contains_key(&id) {
            let told = Told {
                tool_call_id: id.clone(),
                title: Some("Plan".into()),
                kind: Some(PLAN.into()),
                status: None,
                raw_input: None,
                raw_output: None,
                content: None,
                locations: None,
                meta: None,
            };
            out.push(self.start(turn, &told));
            if let Some(call) = self.calls.get_mut(&id) {
                out.extend(call.runs(turn, &id));
            }
        }
        if let Some(call) = self.calls.get_mut(&id) {
            let text = lines.join("\n");
            call.content = vec![ToolResultContent::Text(ToolResultTextContent { text })];
            let meta = call.meta.get_or_insert_default();
            meta.insert("dev.hostler/plan".into(), plan.entries.into());
            out.extend(call.shows(turn, &id));
        }
        out
    }

    /// The turn ends: so does its plan.
    pub(super) fn finish(&mut self, turn: &str) -> Vec<StateAction> {
        let id = format!("{PLAN}-{turn}");
        let call = self.calls.get_mut(&id);
        call.map(|call| call.over(turn, &id, true, None))
            .into_iter()
            .collect()
    }
}

impl Call {
    fn ready(&self, turn: &str, id: &str) -> ChatToolCallReadyAction {
        ChatToolCallReadyAction {
            turn_id: turn.to_owned(),
            tool_call_id: id.to_owned(),
            meta: self.meta.clone(),
            contributor: None,
            intention: None,
            invocation_message: self.title.clone().into(),
            tool_input: self.input.clone().map(ToolInput::Inline),
            confirmation_title: None,
            risk_assessment: None,
            edits: None,
            editable: None,
            confirmed: Some(self.confirmed.clone()),
            options: None,
        }
    }

    /// It runs, by what is known of it now.
    fn runs(&mut self, turn: &str, id: &str) -> Vec<StateAction> {
        self.stage = Stage::Running;
        let ready = StateAction::ChatToolCallReady(self.ready(turn, id));
        let shows = (!self.content.is_empty()).then(|| self.shows(turn, id));
        std::iter::once(ready).chain(shows.flatten()).collect()
    }

    fn shows(&self, turn: &str, id: &str) -> Option<StateAction> {
        (!self.content.is_empty()).then(|| {
            StateAction::ChatToolCallContentChanged(ChatToolCallContentChangedAction {
                turn_id: turn.to_owned(),
                tool_call_id: id.to_owned(),
                meta: self.meta.clone(),
                content: self.content.clone(),
            })
        })
    }

    fn over(
        &mut self,
        turn: &str,
        id: &str,
        success: bool,
        output: Option<&RawValue>,
    ) -> StateAction {
        self.stage = Stage::Over;
        let output: Option<Value> = output.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let structured = match output {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        };
        let error = (!success).then(|| {
            let last = self.content.iter().rev().find_map(|content| match content {
                ToolResultContent::Text(text) => Some(&*text.text),
                _ => None,
            });
            serde_json::json!({ "message": last.unwrap_or("the tool failed") })
        });
        StateAction::ChatToolCallComplete(ChatToolCallCompleteAction {
            turn_id: turn.to_owned(),
            tool_call_id: id.to_owned(),
            meta: self.meta.clone(),
            result: ToolCallResult {
                success,
                past_tense_message: self.title.clone().into(),
                content: (!self.content.is_empty()).then(|| self.content.clone()),
                structured_content: structured,
                error,
            },
            requires_result_confirmation: None,
        })
    }
}

fn content_of(raw: &RawValue) -> Option<ToolResultContent> {
    let content: Content<'_> = serde_json::from_str(raw.get()).ok()?;
    match &*content.kind {
        "content" => message::result_of(content.content?),
        "diff" => {
            let path = content.path?;
            let new = content.new_text.unwrap_or_default();
            let diff = stats(content.old_text.as_deref().unwrap_or_default(), &new);
            Some(ToolResultContent::FileEdit(ToolResultFileEditContent {
                before: content.old_text.map(|old| side(&path, &old)),
                after: Some(side(&path, &new)),
                diff: Some(diff),
            }))
        }
        "terminal" => Some(ToolResultContent::Terminal(ToolResultTerminalContent {
            resource: uri::terminal(&content.terminal_id?),
            title: "Terminal".into(),
            is_pty: Some(true),
            result: None,
        })),
        _ => None,
    }
}

fn side(path: &str, text: &str) -> FileEditSide {
    use base64::Engine as _;
    let uri = uri::of_path(path.as_ref());
    let held = match text.len() <= SIDE {
        true => {
            let data = base64::engine::general_purpose::STANDARD.encode(text);
            format!("data:text/plain;charset=utf-8;base64,{data}")
        }
        false => uri.clone(),
    };
    FileEditSide {
        uri,
        content: ContentRef {
            uri: held,
            size_hint: i64::try_from(text.len()).ok(),
            content_type: Some("text/plain".into()),
            nonce: None,
        },
    }
}

/// How many lines an edit adds and removes: those between what both begin and end with.
fn stats(old: &str, new: &str) -> FileEditDiffStats {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let same = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[same..], &new[same..]);
    let after = old.iter().rev().zip(new.iter().rev());
    let same = after.take_while(|(a, b)| a == b).count();
    let count = |all: &[&str]| i64::try_from(all.len() - same).ok();
    FileEditDiffStats {
        added: count(new),
        removed: count(old),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_counts_the_lines_between() {
        let stats = stats("a\nb\nc\n", "a\nx\ny\nc\n");
        assert_eq!((stats.added, stats.removed), (Some(2), Some(1)));
    }
}
