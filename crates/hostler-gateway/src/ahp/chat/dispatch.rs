//! What clients dispatch to a chat: each action is done, or refused with a reason. It is shown when the transcript has it.

use std::collections::HashMap;

use ahp_types::actions::{
    ChatInputCompletedAction, ChatPendingMessageSetAction, ChatQueuedMessagesReorderedAction,
    ChatToolCallConfirmedAction, ChatTurnStartedAction, StateAction,
};
use ahp_types::state::{
    ChatInputAnswer, ChatInputResponseKind, ChatInteractivity, ConfirmationOptionKind, Message,
    MessageKind, PendingMessageKind, ResponsePart,
};
use hostler_agent::{Answered, RequestId};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::ask::{Asked, content_of};
use super::note::{KEY, Note};
use super::{Chat, expect, message};
use crate::acp::message::raw;
use crate::ahp::error::Rejection;
use crate::ahp::hub::{Act, Dispatched, Taken, Who};

type Done = Result<Taken, Rejection>;

/// Of `_meta` of a message: a name by which its client knows its turn.
const PROMPT: &str = "dev.hostler/prompt";

fn refused<T>(why: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::new(why))
}

/// An object with what the client dispatched in its `_meta`.
fn with_note(mut object: Value, note: &Note) -> Box<RawValue> {
    let note = serde_json::from_str(note.raw().get()).unwrap_or(Value::Null);
    object["_meta"] = json!({ KEY: note });
    raw(object.to_string())
}

impl Chat {
    pub(super) async fn dispatched(&self, who: &Who, dispatched: Dispatched) -> Done {
        let read_only =
            self.look(|state| state.interactivity) == Some(Some(ChatInteractivity::ReadOnly));
        let talks = matches!(
            dispatched.action,
            StateAction::ChatTurnStarted(_) | StateAction::ChatPendingMessageSet(_)
        );
        if read_only && talks {
            return refused("this chat is another agent's: it can be read only");
        }
        match &dispatched.action {
            StateAction::ChatTurnStarted(start) => self.begin(who, start, &dispatched).await,
            StateAction::ChatPendingMessageSet(set) => self.enqueue(who, set, &dispatched).await,
            StateAction::ChatPendingMessageRemoved(removed) => {
                let id = removed.id.clone();
                self.dequeue(who, &id, dispatched).await
            }
            StateAction::ChatQueuedMessagesReordered(order) => {
                let order = order.order.clone();
                self.reorder(&order, dispatched).await
            }
            StateAction::ChatTurnCancelled(cancelled) => {
                let id = cancelled.turn_id.clone();
                self.stop(who, &id, dispatched).await
            }
            StateAction::ChatToolCallConfirmed(confirmed) => {
                self.confirm(who, confirmed, &dispatched).await
            }
            StateAction::ChatInputCompleted(done) => self.fill_in(who, done, &dispatched).await,
            StateAction::ChatInputAnswerChanged(changed) => {
                self.input(&changed.request_id)?;
                self.keep(&dispatched).await
            }
            StateAction::ChatDraftChanged(_)
            | StateAction::ChatIsReadChanged(_)
            | StateAction::ChatIsArchivedChanged(_) => self.keep(&dispatched).await,
            StateAction::ChatTruncated(_) => {
                refused("what was said is kept: fork the chat at the turn instead")
            }
            StateAction::ChatTurnResume(_) => refused("no turn here can be resumed"),
            StateAction::ChatToolCallComplete(_)
            | StateAction::ChatToolCallContentChanged(_)
            | StateAction::ChatToolCallResultConfirmed(_) => {
                refused("the agents of this host run no tools of clients")
            }
            StateAction::ChatWorkingDirectorySet(_)
            | StateAction::ChatWorkingDirectoryRemoved(_) => {
                refused("a session has one working directory here")
            }
            _ => refused("only the host makes this action"),
        }
    }

    /// What ACP has no word for is kept as it is.
    async fn keep(&self, dispatched: &Dispatched) -> Done {
        let note = Note::new(dispatched).raw();
        self.conversation.note(note, None).await?;
        Ok(Taken::Shown)
    }

    fn prompt(
        &self,
        message: &Message,
        dispatched: &Dispatched,
    ) -> Result<Box<RawValue>, Rejection> {
        if message.origin.kind != MessageKind::User {
            return refused("a client may send messages of kind `user` only");
        }
        let blocks = message::to_prompt(message);
        if blocks.is_empty() {
            return refused("the message says nothing");
        }
        Ok(with_note(
            json!({ "prompt": blocks }),
            &Note::new(dispatched),
        ))
    }

    async fn begin(
        &self,
        who: &Who,
        start: &ChatTurnStartedAction,
        dispatched: &Dispatched,
    ) -> Done {
        if self.seen().active.is_some() {
            return refused("a turn is in progress: queue the message (chat/pendingMessageSet)");
        }
        if start.turn_id.is_empty() || !is_time(&start.started_at) {
            return refused("`turnId` is to be a text, and `startedAt` a time (RFC 3339)");
        }
        let params = self.prompt(&start.message, dispatched)?;
        self.conversation
            .prompt(params, who.by("chat/turnStarted"))
            .await?;
        Ok(Taken::Shown)
    }

    async fn enqueue(
        &self,
        who: &Who,
        set: &ChatPendingMessageSetAction,
        dispatched: &Dispatched,
    ) -> Done {
        if set.kind == PendingMessageKind::Steering {
            return refused(
                "an agent that speaks ACP cannot be steered in the middle of a turn: queue the message",
            );
        }
        if self.has_begun(&set.message) {
            return refused("the turn of this message has begun");
        }
        let params = self.prompt(&set.message, dispatched)?;
        let by = who.by("chat/pendingMessageSet");
        let waits = self.waiting(&set.id);
        match waits {
            Some(turn) => self.conversation.prompt_instead(turn, params, by).await?,
            None => self.conversation.prompt(params, by).await?,
        };
        Ok(Taken::Shown)
    }

    /// Whether a message that has a name (`dev.hostler/prompt` in its `_meta`) has become a turn: a client that lost its connection
    /// may send it again.
    fn has_begun(&self, message: &Message) -> bool {
        let name = |message: &Message| message.meta.as_ref()?.get(PROMPT).cloned();
        let Some(wanted) = name(message) else {
            return false;
        };
        let is = |message: &Message| name(message).as_ref() == Some(&wanted);
        let found = self.look(|state| {
            let active = state
                .active_turn
                .as_ref()
                .is_some_and(|turn| is(&turn.message));
            active || state.turns.iter().rev().any(|turn| is(&turn.message))
        });
        found == Some(true)
    }

    /// The turn that a queued message is to become.
    fn waiting(&self, id: &str) -> Option<u64> {
        let seen = self.seen();
        let waiting = seen.queue.iter().find(|waiting| waiting.id == id);
        waiting.map(|waiting| waiting.turn)
    }

    async fn dequeue(&self, who: &Who, id: &str, dispatched: Dispatched) -> Done {
        let Some(turn) = self.waiting(id) else {
            return refused("there is no such message in the queue");
        };
        let key = expect::message(id);
        let act = Act::from(dispatched);
        self.seen().expected.insert(key.clone(), (who.clone(), act));
        if !self.conversation.withdraw(turn).await? {
            self.seen().expected.remove(&key);
            return refused("its turn has begun");
        }
        Ok(Taken::Shown)
    }

    async fn reorder(&self, order: &[String], mut dispatched: Dispatched) -> Done {
        let mut queue: Vec<(u64, String)> = {
            let seen = self.seen();
            let queue = seen.queue.iter();
            queue.map(|one| (one.turn, one.id.clone())).collect()
        };
        let place = |id: &str| order.iter().position(|one| one == id);
        queue.sort_by_key(|(_, id)| place(id).unwrap_or(usize::MAX));
        // Complete, so that it means the same to everybody.
        let mut action: Map<String, Value> =
            serde_json::from_str(dispatched.raw.get()).unwrap_or_default();
        let ids: Vec<String> = queue.iter().map(|(_, id)| id.clone()).collect();
        action.insert("order".into(), ids.clone().into());
        dispatched.raw = raw(Value::Object(action).to_string());
        dispatched.action =
            StateAction::ChatQueuedMessagesReordered(ChatQueuedMessagesReorderedAction {
                order: ids,
            });
        let note = Note::new(&dispatched).raw();
        let turns = queue.into_iter().map(|(turn, _)| turn).collect();
        self.conversation.reorder(turns, note).await?;
        Ok(Taken::Shown)
    }

    async fn stop(&self, who: &Who, id: &str, dispatched: Dispatched) -> Done {
        let active = self.seen().active.clone();
        let Some((turn, _)) = active.filter(|(_, active)| active == id) else {
            return refused("this turn does not run");
        };
        let key = expect::turn(id);
        let act = Act::from(dispatched);
        self.seen().expected.insert(key.clone(), (who.clone(), act));
        if !self.conversation.cancel_if_running(turn).await? {
            self.seen().expected.remove(&key);
            return refused("this turn has ended");
        }
        Ok(Taken::Shown)
    }

    async fn confirm(
        &self,
        who: &Who,
        confirmed: &ChatToolCallConfirmedAction,
        dispatched: &Dispatched,
    ) -> Done {
        if confirmed.edited_tool_input.is_some() {
            return refused("the input of a tool cannot be edited here");
        }
        let found = self
            .seen()
            .asked
            .iter()
            .find_map(|(id, asked)| match asked {
                Asked::Permission {
                    turn,
                    call,
                    options,
                } if *turn == confirmed.turn_id && *call == confirmed.tool_call_id => {
                    Some((*id, options.clone()))
                }
                _ => None,
            });
        let Some((request, options)) = found else {
            return refused("nobody is asked about this tool call, or it was answered before");
        };
        let wanted = match confirmed.approved {
            true => ConfirmationOptionKind::Approve,
            false => ConfirmationOptionKind::Deny,
        };
        let option = match &confirmed.selected_option_id {
            Some(id) => {
                let option = options.iter().find(|option| option.id == *id);
                let Some(option) = option.filter(|option| option.kind == wanted) else {
                    return refused("there is no such option");
                };
                Some(option)
            }
            None => options.iter().find(|option| option.kind == wanted),
        };
        let outcome = match option {
            Some(option) => json!({"outcome": "selected", "optionId": option.id}),
            None if confirmed.approved => return refused("the agent offers no way to approve"),
            None => json!({"outcome": "cancelled"}),
        };
        let answer = with_note(json!({ "outcome": outcome }), &Note::new(dispatched));
        self.answer(who, request, answer).await
    }

    async fn answer(&self, who: &Who, request: RequestId, answer: Box<RawValue>) -> Done {
        let by = who.by("an answer");
        match self.conversation.answer(request, Ok(answer), by).await? {
            Answered::First => Ok(Taken::Shown),
            Answered::Late => refused("it was answered before"),
        }
    }

    /// A form that waits.
    fn input(&self, id: &str) -> Result<(RequestId, Asked), Rejection> {
        let seen = self.seen();
        let found = seen
            .asked
            .iter()
            .find(|(_, asked)| matches!(asked, Asked::Input { id: input, .. } if input == id));
        match found {
            Some((request, asked)) => Ok((*request, asked.clone())),
            None => refused("this was not asked for, or was answered before"),
        }
    }

    async fn fill_in(
        &self,
        who: &Who,
        done: &ChatInputCompletedAction,
        dispatched: &Dispatched,
    ) -> Done {
        let (request, asked) = self.input(&done.request_id)?;
        let answer = match done.response {
            ChatInputResponseKind::Decline => json!({"action": "decline"}),
            ChatInputResponseKind::Cancel => json!({"action": "cancel"}),
            ChatInputResponseKind::Accept => {
                let mut answers = self.drafts(&done.request_id);
                answers.extend(done.answers.clone().unwrap_or_default());
                let Asked::Input { questions, .. } = &asked else {
                    return refused("this is no form");
                };
                let kind = |id: &str| {
                    questions.iter().find(|question| {
                        serde_json::to_value(question).is_ok_and(|q| q["id"] == id)
                    })
                };
                let content: Map<String, Value> = answers
                    .iter()
                    .filter_map(|(id, answer)| Some((id.clone(), content_of(answer, kind(id))?)))
                    .collect();
                json!({"action": "accept", "content": content})
            }
        };
        let answer = with_note(answer, &Note::new(dispatched));
        self.answer(who, request, answer).await
    }

    /// What clients have filled in so far.
    fn drafts(&self, id: &str) -> HashMap<String, ChatInputAnswer> {
        let found = self.look(|state| {
            let parts = &state.active_turn.as_ref()?.response_parts;
            parts.iter().find_map(|part| match part {
                ResponsePart::InputRequest(input) if input.request.id == id => {
                    input.request.answers.clone()
                }
                _ => None,
            })
        });
        found.flatten().unwrap_or_default()
    }
}

/// Whether the reducers of clients will be able to count from this time.
fn is_time(text: &str) -> bool {
    use ahp::reducers::{ReduceOutcome, apply_action_to_chat};
    use ahp_types::actions::ChatTurnCompleteAction;
    let mut state = super::empty("", String::new(), 0);
    state.active_turn = Some(ahp_types::state::ActiveTurn {
        id: "t".into(),
        started_at: text.to_owned(),
        message: message::of_prompt(&raw("{}".into())),
        response_parts: Vec::new(),
        usage: None,
    });
    let ends = StateAction::ChatTurnComplete(ChatTurnCompleteAction {
        turn_id: "t".into(),
        // A year: what comes of it can be written as well.
        duration: 366 * 86_400_000,
        meta: None,
    });
    apply_action_to_chat(&mut state, &ends) == ReduceOutcome::Applied
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_those_of_rfc_3339() {
        for (text, good) in [
            ("2026-11-21T14:00:00.000Z", true),
            ("2026-11-21T14:00:00+01:00", true),
            ("yesterday", false),
            ("", false),
        ] {
            assert_eq!(super::is_time(text), good, "{text}");
        }
    }
}
