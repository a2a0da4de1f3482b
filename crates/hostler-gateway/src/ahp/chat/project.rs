//! Entries of a transcript as actions of a chat: a function of the entries alone, so that a state that is built from the ledger
//! equals one that grew with it.
//!
//! Turns run one at a time: a prompt that comes while one runs is a queued message until that has ended. What clients dispatched
//! stands in the entries as they wrote it (`dev.hostler/ahp`), and becomes the action that they sent.

use std::collections::{BTreeMap, VecDeque};

use ahp_types::actions::{
    ChatDeltaAction, ChatErrorAction, ChatPendingMessageRemovedAction, ChatPendingMessageSetAction,
    ChatReasoningAction, ChatTurnCancelledAction, ChatTurnCompleteAction, ChatTurnStartedAction,
    ChatUsageAction, StateAction,
};
use ahp_types::state::{
    ErrorInfo, ErrorResponsePart, MarkdownResponsePart, Message, PendingMessageKind,
    ReasoningResponsePart, ResponsePart, UsageInfo,
};
use hostler_agent::{Entry, EntryKind, RequestId, RpcError};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::ask::Asked;
use super::message;
use super::note::{Note, Said};
use super::tool::Tools;
use crate::ahp::hub::Act;
use crate::wire::iso_8601;

/// A turn that runs.
#[derive(Debug)]
pub(super) struct Active {
    /// Its number in the transcript.
    pub(super) turn: u64,
    /// What clients call it.
    pub(super) id: String,
    began: u64,
    /// The part that text is being added to.
    part: Option<Part>,
    pub(super) tools: Tools,
}

#[derive(Debug, PartialEq, Eq)]
struct Part {
    id: String,
    reasoning: bool,
    /// The agent's own id of the message, where it gives one.
    message: Option<String>,
}

/// A turn that waits.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    /// Its number in the transcript.
    pub(super) turn: u64,
    /// What clients call the message.
    pub(super) id: String,
    /// What they call the turn when it begins.
    turn_id: String,
    message: Message,
    /// Who began it, where it was to begin at once.
    starter: Option<Note>,
}

/// What an entry comes to.
#[derive(Debug)]
pub(super) enum Out {
    /// An action of the chat.
    Chat(Act),
    /// An action of the session that a client dispatched.
    Session(Act),
    /// What the agent says of the session as a whole.
    Agent(Box<RawValue>),
}

/// Where the projection is.
#[derive(Debug, Default)]
pub(super) struct Projector {
    pub(super) active: Option<Active>,
    pub(super) queue: VecDeque<Waiting>,
    /// What the agent waits for an answer to.
    pub(super) asked: BTreeMap<RequestId, Asked>,
    out: Vec<Out>,
}

#[derive(Deserialize)]
struct Prompt<'a> {
    turn: u64,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
struct Ended<'a> {
    turn: u64,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
    interrupted: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct TurnResult {
    stop_reason: String,
    usage: Option<Tokens>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Tokens {
    input_tokens: Option<i64>,
    output_tokens: Option<i64>,
    cached_read_tokens: Option<i64>,
}

#[derive(Deserialize)]
struct Update<'a> {
    #[serde(borrow)]
    update: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind<'a> {
    #[serde(borrow)]
    session_update: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(default)]
    message_id: Option<String>,
}

impl Projector {
    /// Takes the next entry, and gives what it comes to.
    pub(super) fn take(&mut self, entry: &Entry) -> Vec<Out> {
        let data = entry.data.get();
        match entry.kind {
            EntryKind::Prompt => {
                if let Ok(prompt) = serde_json::from_str::<Prompt<'_>>(data) {
                    self.prompt(&prompt, entry.at);
                }
            }
            EntryKind::Update => {
                if let Ok(update) = serde_json::from_str::<Update<'_>>(data) {
                    self.update(update.update, entry);
                }
            }
            EntryKind::Request => self.request(entry),
            EntryKind::Answer => self.answer(entry),
            EntryKind::TurnEnded => {
                if let Ok(ended) = serde_json::from_str::<Ended<'_>>(data) {
                    self.turn_ended(&ended, entry);
                }
            }
            EntryKind::Notification => {}
            EntryKind::Notice => self.notice(entry),
        }
        std::mem::take(&mut self.out)
    }

    /// Whether nothing is under way: what comes does not depend on what was.
    pub(super) fn is_idle(&self) -> bool {
        self.active.is_none() && self.queue.is_empty() && self.asked.is_empty()
    }

    pub(super) fn act(&mut self, action: StateAction) {
        self.out.push(Out::Chat(action.into()));
    }

    /// An action that a client dispatched, as it wrote it.
    pub(super) fn noted(&mut self, note: &Note, action: StateAction) {
        self.out.push(Out::Chat(note.act(action)));
    }

    fn prompt(&mut self, prompt: &Prompt<'_>, at: u64) {
        let note = Note::in_meta(prompt.params);
        let own = format!("turn-{}", prompt.turn);
        let action = note.as_ref().and_then(Note::action);
        let waiting = match (&note, action) {
            (Some(note), Some(StateAction::ChatTurnStarted(start))) => Waiting {
                turn: prompt.turn,
                id: start.turn_id.clone(),
                turn_id: start.turn_id,
                message: start.message,
                starter: Some(note.clone()),
            },
            (Some(note), Some(StateAction::ChatPendingMessageSet(set))) => {
                let waiting = Waiting {
                    turn: prompt.turn,
                    id: set.id.clone(),
                    turn_id: own,
                    message: set.message.clone(),
                    starter: None,
                };
                self.noted(note, StateAction::ChatPendingMessageSet(set));
                return self.queued(waiting, at, true);
            }
            _ => Waiting {
                turn: prompt.turn,
                id: own.clone(),
                turn_id: own,
                message: message::of_prompt(prompt.params),
                starter: None,
            },
        };
        self.queued(waiting, at, false);
    }

    /// A turn was asked for: it begins, or waits.
    fn queued(&mut self, waiting: Waiting, at: u64, shown: bool) {
        if self.active.is_none() && self.queue.is_empty() {
            return self.begin(waiting, at, shown);
        }
        if !shown {
            self.act(StateAction::ChatPendingMessageSet(
                ChatPendingMessageSetAction {
                    kind: PendingMessageKind::Queued,
                    id: waiting.id.clone(),
                    message: waiting.message.clone(),
                },
            ));
        }
        match self.queue.iter_mut().find(|one| one.id == waiting.id) {
            // A message that was written anew keeps its place.
            Some(one) => *one = waiting,
            None => self.queue.push_back(waiting),
        }
    }

    fn begin(&mut self, waiting: Waiting, at: u64, was_queued: bool) {
        let started = StateAction::ChatTurnStarted(ChatTurnStartedAction {
            turn_id: waiting.turn_id.clone(),
            started_at: iso_8601(at),
            message: waiting.message,
            queued_message_id: was_queued.then(|| waiting.id.clone()),
            meta: None,
        });
        match &waiting.starter {
            // As the client wrote it; it was not queued in between.
            Some(note) if !was_queued => match note.action() {
                Some(action) => self.noted(note, action),
                None => self.act(started),
            },
            _ => self.act(started),
        }
        self.active = Some(Active {
            turn: waiting.turn,
            id: waiting.turn_id,
            began: at,
            part: None,
            tools: Tools::default(),
        });
    }

    fn turn_ended(&mut self, ended: &Ended<'_>, entry: &Entry) {
        let runs = self
            .active
            .as_ref()
            .is_some_and(|active| active.turn == ended.turn);
        if !runs {
            let place = self.queue.iter().position(|one| one.turn == ended.turn);
            if let Some(waiting) = place.and_then(|place| self.queue.remove(place)) {
                self.act(StateAction::ChatPendingMessageRemoved(
                    ChatPendingMessageRemovedAction {
                        kind: PendingMessageKind::Queued,
                        id: waiting.id,
                    },
                ));
            }
            return;
        }
        self.over(ended, entry.at);
        if let Some(next) = self.queue.pop_front() {
            self.begin(next, entry.at, true);
        }
    }

    fn over(&mut self, ended: &Ended<'_>, at: u64) {
        let Some(mut active) = self.active.take() else {
            return;
        };
        // Nobody waits for an answer any more.
        self.asked.clear();
        for action in active.tools.finish(&active.id) {
            self.act(action);
        }
        let turn_id = active.id;
        let duration = i64::try_from(at.saturating_sub(active.began)).unwrap_or(i64::MAX);
        let failed = |kind: &str, message: String| {
            StateAction::ChatError(ChatErrorAction {
                turn_id: turn_id.clone(),
                duration,
                part: ErrorResponsePart {
                    error: ErrorInfo {
                        error_type: kind.to_owned(),
                        message,
                        stack: None,
                        meta: None,
                    },
                    resumable: None,
                },
                meta: None,
            })
        };
        let action = match (ended.result, &ended.error, &ended.interrupted) {
            (Some(result), _, _) => {
                let result: TurnResult = serde_json::from_str(result.get()).unwrap_or_default();
                if let Some(usage) = &result.usage {
                    self.act(StateAction::ChatUsage(ChatUsageAction {
                        turn_id: turn_id.clone(),
                        usage: UsageInfo {
                            input_tokens: usage.input_tokens,
                            output_tokens: usage.output_tokens,
                            cache_read_tokens: usage.cached_read_tokens,
                            ..UsageInfo::default()
                        },
                        meta: None,
                    }));
                }
                match &*result.stop_reason {
                    "cancelled" => StateAction::ChatTurnCancelled(ChatTurnCancelledAction {
                        turn_id,
                        duration,
                        meta: None,
                    }),
                    "" | "end_turn" => complete(turn_id, duration, None),
                    other => complete(turn_id, duration, Some(other)),
                }
            }
            (None, Some(error), _) => failed("agent", error.message.clone()),
            (None, None, why) => {
                let why = why.clone().unwrap_or_else(|| "it is not known why".into());
                failed("interrupted", format!("the turn was cut off: {why}"))
            }
        };
        self.act(action);
    }

    fn update(&mut self, update: &RawValue, entry: &Entry) {
        let Ok(kind) = serde_json::from_str::<Kind<'_>>(update.get()) else {
            return;
        };
        match &*kind.session_update {
            "agent_message_chunk" => self.chunk(&kind, entry, false),
            "agent_thought_chunk" => self.chunk(&kind, entry, true),
            "tool_call" | "tool_call_update" => self.with_tools(update, Tools::update),
            "plan" => self.with_tools(update, Tools::plan),
            "usage_update" => self.usage(update),
            "current_mode_update" | "config_option_update" | "available_commands_update" => {
                self.out.push(Out::Agent(update.to_owned()));
            }
            _ => {}
        }
    }

    fn with_tools(
        &mut self,
        update: &RawValue,
        work: impl FnOnce(&mut Tools, &str, &RawValue) -> Vec<StateAction>,
    ) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.part = None;
        for action in work(&mut active.tools, &active.id, update) {
            self.act(action);
        }
    }

    fn chunk(&mut self, kind: &Kind<'_>, entry: &Entry, reasoning: bool) {
        let (Some(active), Some(content)) = (&mut self.active, kind.content) else {
            return;
        };
        let turn_id = active.id.clone();
        let Some(content) = message::text_of(content) else {
            active.part = None;
            if let Some(part) = message::part_of(content) {
                self.act(message::part_action(turn_id, part));
            }
            return;
        };
        let same = active.part.as_ref().filter(|part| {
            part.reasoning == reasoning
                && (kind.message_id.is_none() || part.message == kind.message_id)
        });
        if let Some(part) = same {
            let part_id = part.id.clone();
            return self.act(match reasoning {
                false => StateAction::ChatDelta(ChatDeltaAction {
                    turn_id,
                    part_id,
                    content,
                    meta: None,
                }),
                true => StateAction::ChatReasoning(ChatReasoningAction {
                    turn_id,
                    part_id,
                    content,
                    meta: None,
                }),
            });
        }
        let id = format!("part-{}", entry.seq.0);
        active.part = Some(Part {
            id: id.clone(),
            reasoning,
            message: kind.message_id.clone(),
        });
        let part = match reasoning {
            false => ResponsePart::Markdown(MarkdownResponsePart { id, content }),
            true => ResponsePart::Reasoning(ReasoningResponsePart { id, content }),
        };
        self.act(message::part_action(turn_id, part));
    }

    /// How full the agent's context is: there is no word for it but in `_meta`.
    fn usage(&mut self, update: &RawValue) {
        let Some(active) = &self.active else { return };
        let Ok(Value::Object(mut context)) = serde_json::from_str(update.get()) else {
            return;
        };
        context.remove("sessionUpdate");
        context.remove("_meta");
        let meta = [("dev.hostler/context".to_owned(), Value::Object(context))];
        let action = StateAction::ChatUsage(ChatUsageAction {
            turn_id: active.id.clone(),
            usage: UsageInfo {
                meta: Some(meta.into_iter().collect()),
                ..UsageInfo::default()
            },
            meta: None,
        });
        self.act(action);
    }

    fn notice(&mut self, entry: &Entry) {
        let Ok(said) = serde_json::from_str::<Said>(entry.data.get()) else {
            return;
        };
        match (&*said.notice, said.ahp) {
            ("ahp" | "queue_reordered", Some(note)) => {
                if let Some(order) = said.order {
                    let place = |turn: u64| order.iter().position(|one| *one == turn);
                    self.queue
                        .make_contiguous()
                        .sort_by_key(|one| place(one.turn).unwrap_or(usize::MAX));
                }
                if let Some(action) = note.action() {
                    let act = note.act(action);
                    self.out.push(match note.session {
                        true => Out::Session(act),
                        false => Out::Chat(act),
                    });
                }
            }
            ("forked", _) => self.forked(entry.at),
            _ => {}
        }
    }

    /// What was under way where this was forked off is under way there.
    fn forked(&mut self, at: u64) {
        for waiting in std::mem::take(&mut self.queue) {
            self.act(StateAction::ChatPendingMessageRemoved(
                ChatPendingMessageRemovedAction {
                    kind: PendingMessageKind::Queued,
                    id: waiting.id,
                },
            ));
        }
        if let Some(active) = &self.active {
            let cancelled = RawValue::from_string(r#"{"stopReason":"cancelled"}"#.into()).ok();
            let ended = Ended {
                turn: active.turn,
                result: cancelled.as_deref(),
                error: None,
                interrupted: None,
            };
            self.over(&ended, at);
        }
    }
}

fn complete(turn_id: String, duration: i64, why: Option<&str>) -> StateAction {
    let meta = why.map(|why| {
        let reason = ("dev.hostler/stopReason".to_owned(), Value::from(why));
        [reason].into_iter().collect()
    });
    StateAction::ChatTurnComplete(ChatTurnCompleteAction {
        turn_id,
        duration,
        meta,
    })
}

#[cfg(test)]
#[path = "project_tests.rs"]
mod tests;
