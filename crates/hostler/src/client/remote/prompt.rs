//! `hostler prompt` at a host elsewhere: one turn of a chat, from the message to its end.
//!
//! The message is queued, which begins a turn where none runs, and carries a name by which its turn is known in every state. What is
//! shown is what a state has more than was shown before.

use std::time::Instant;

use ahp::reducers::apply_action_to_chat;
use ahp_types::actions::{
    ChatInputCompletedAction, ChatPendingMessageRemovedAction, ChatPendingMessageSetAction,
    ChatToolCallConfirmedAction, ChatTurnCancelledAction, StateAction,
};
use ahp_types::state::{
    ChatInputResponseKind, ChatState, ConfirmationOptionKind, Message, MessageKind, MessageOrigin,
    PendingMessageKind, ResponsePart, SnapshotState, ToolCallCancellationReason,
    ToolCallConfirmationReason, ToolCallPendingConfirmationState, ToolCallState, TurnState,
};
use serde_json::{Value, json};

use super::address::Address;
use super::drawn::{Drawn, text};
use super::find;
use super::fresh;
use super::link::{Event, Link};
use crate::client::error::{Failure, Result};
use crate::client::prompt::Prompt;
use crate::client::turn::{End, is_yes, said, typed};
use crate::client::{show, signals};
use hostler_run::say;

/// Of `_meta` of a message: which prompt it is.
const PROMPT: &str = "dev.hostler/prompt";
/// Of `_meta` of the end of a turn: why the agent stopped, where it was not for having come to its end.
const STOP_REASON: &str = "dev.hostler/stopReason";

/// Prompts, and follows the turn to its end. 0 only for one that the agent ended by itself.
pub(crate) async fn run(address: Address, prompt: &Prompt) -> Result<u8> {
    let text = said(&prompt.text)?;
    let (mut lines, typed) = typed();
    let mut link = Link::open(address, typed).await?;
    let all = find::sessions(&mut link, false).await?;
    let chat = find::chat(&all, &prompt.session)?;
    let SnapshotState::Chat(state) = link.follow(&chat).await? else {
        return Err(Failure::Nonsense("a chat that is none".into()));
    };
    let mut asking = Asking {
        link,
        chat,
        id: fresh(),
        text,
        state: *state,
        typed,
        json: prompt.json,
        sent: 0,
        again: false,
        began: Instant::now(),
        asked: None,
        refused: None,
        cancelled: false,
        cancel_sent: false,
        reason: None,
        drawn: Drawn::default(),
    };
    asking.say().await;
    let mut told = signals::receive()?;
    loop {
        tokio::select! {
            event = asking.link.next() => {
                if let Some(end) = asking.take(event?).await? {
                    asking.drawn.shown.end_line()?;
                    asking.link.leave().await;
                    return end.status();
                }
            }
            Some(signal) = told.recv() => {
                if !signals::is_deadly(signal) {
                    continue;
                }
                if asking.cancelled || signal != signals::INT {
                    asking.link.leave().await;
                    return Err(Failure::Signal(signal));
                }
                asking.cancelled = true;
                asking.cancel().await;
            }
            Some(line) = lines.recv(), if asking.asked.is_some() => asking.answer(&line).await,
        }
    }
}

/// A prompt that was sent.
struct Asking {
    link: Link,
    chat: String,
    /// What the message is called.
    id: String,
    text: String,
    state: ChatState,
    typed: bool,
    json: bool,
    /// The number under which the message was dispatched.
    sent: i64,
    /// Whether it was said again.
    again: bool,
    began: Instant,
    /// The tool call that somebody here is asked about.
    asked: Option<String>,
    /// The form that was refused.
    refused: Option<String>,
    /// Whether it is to be cancelled, and whether that was said.
    cancelled: bool,
    cancel_sent: bool,
    /// Why the agent stopped, in its word.
    reason: Option<String>,
    drawn: Drawn,
}

impl Asking {
    async fn say(&mut self) {
        let meta = [(PROMPT.to_owned(), Value::from(self.id.clone()))];
        let set = ChatPendingMessageSetAction {
            kind: PendingMessageKind::Queued,
            id: self.id.clone(),
            message: Message {
                text: self.text.clone(),
                origin: MessageOrigin {
                    kind: MessageKind::User,
                },
                attachments: None,
                model: None,
                agent: None,
                meta: Some(meta.into_iter().collect()),
            },
        };
        let action = StateAction::ChatPendingMessageSet(set);
        self.sent = self.link.dispatch(&self.chat, action).await;
    }

    fn is_own(&self, message: &Message) -> bool {
        let meta = message.meta.as_ref().and_then(|meta| meta.get(PROMPT));
        meta.is_some_and(|id| *id == self.id)
    }

    fn waits(&self) -> bool {
        let mut queue = self.state.queued_messages.iter().flatten();
        queue.any(|one| one.id == self.id)
    }

    /// The turn of the prompt while it runs.
    fn running(&self) -> Option<&str> {
        let turn = self.state.active_turn.as_ref()?;
        self.is_own(&turn.message).then_some(&turn.id)
    }

    /// What was answered so far, and how it ended if it has.
    fn answered(&self) -> Option<(&[ResponsePart], Option<TurnState>)> {
        if let Some(turn) = self
            .state
            .active_turn
            .as_ref()
            .filter(|turn| self.is_own(&turn.message))
        {
            return Some((&turn.response_parts, None));
        }
        let mut turns = self.state.turns.iter().rev();
        let turn = turns.find(|turn| self.is_own(&turn.message))?;
        Some((&turn.response_parts, Some(turn.state)))
    }

    /// Takes what comes; how it ended, if it has.
    async fn take(&mut self, event: Event) -> Result<Option<End>> {
        match event {
            Event::Back => Ok(None),
            Event::Gone(channel) if channel == self.chat => {
                Ok(Some(End::Cut("the session has closed".into())))
            }
            Event::Gone(_) => Ok(None),
            Event::Snapshot(snapshot) => {
                let SnapshotState::Chat(state) = snapshot.state else {
                    return Ok(None);
                };
                let known = self.waits() || self.answered().is_some();
                self.state = *state;
                if self.waits() {
                    return Ok(None);
                }
                if self.answered().is_none() {
                    if known {
                        return Ok(Some(End::Cut("it is no longer in the chat".into())));
                    }
                    // It was not heard.
                    self.again = true;
                    self.say().await;
                    return Ok(None);
                }
                if self.json
                    && let Some((parts, end)) = self.answered()
                {
                    let line = json!({"snapshot": {"responseParts": parts, "state": end}});
                    show::print(&format!("{line}\n"))?;
                }
                self.look(None).await
            }
            Event::Action(envelope) => {
                let own = envelope
                    .origin
                    .as_ref()
                    .filter(|origin| origin.client_id == self.link.id());
                if let Some(why) = &envelope.rejection_reason {
                    // One that was said again may have been heard the first time.
                    if own.is_some_and(|origin| origin.client_seq == self.sent)
                        && self.answered().is_none()
                        && !self.again
                    {
                        let why = format!("the host refuses the prompt: {why}");
                        return Err(Failure::Unclear(why));
                    }
                    return Ok(None);
                }
                if envelope.channel != self.chat {
                    return Ok(None);
                }
                let before = self.running().map(str::to_owned);
                apply_action_to_chat(&mut self.state, &envelope.action);
                let turn = self.running().map(str::to_owned).or(before);
                if self.json && self.is_about(&envelope.action, turn.as_deref()) {
                    let line = json!({"serverSeq": envelope.server_seq, "action": envelope.action});
                    show::print(&format!("{line}\n"))?;
                }
                match &envelope.action {
                    StateAction::ChatTurnComplete(done)
                        if turn.as_deref() == Some(&done.turn_id) =>
                    {
                        let reason = done.meta.as_ref().and_then(|meta| meta.get(STOP_REASON));
                        self.reason = reason.and_then(Value::as_str).map(str::to_owned);
                    }
                    StateAction::ChatPendingMessageRemoved(removed)
                        if removed.id == self.id && self.answered().is_none() =>
                    {
                        return Ok(Some(End::Stopped(Some("cancelled".into()))));
                    }
                    _ => {}
                }
                self.look(Some(&envelope.action)).await
            }
        }
    }

    /// Shows what is new, after this action or altogether.
    async fn look(&mut self, action: Option<&StateAction>) -> Result<Option<End>> {
        if self.cancelled && !self.cancel_sent {
            self.cancel().await;
        }
        let mut drawn = std::mem::take(&mut self.drawn);
        let looked = match self.answered() {
            None => Ok(None),
            Some((parts, end)) => {
                let shown = match (self.json, action) {
                    (true, _) => Ok(()),
                    (false, Some(StateAction::ChatDelta(delta))) => {
                        drawn.part(parts, &delta.part_id)
                    }
                    (false, Some(StateAction::ChatReasoning(delta))) => {
                        drawn.part(parts, &delta.part_id)
                    }
                    (false, _) => drawn.all(parts),
                };
                let asked = parts.iter().find_map(pending).cloned();
                let form = parts.iter().find_map(form).map(str::to_owned);
                shown.map(|()| Some((asked, form, end.map(|end| self.end(end, parts)))))
            }
        };
        self.drawn = drawn;
        let Some((asked, form, end)) = looked? else {
            return Ok(None);
        };
        if end.is_none() {
            self.ask(asked)?;
            if let Some(form) =
                form.filter(|form| self.typed && self.refused.as_ref() != Some(form))
            {
                self.refuse(form).await?;
            }
        }
        Ok(end)
    }

    /// Asks whoever is here, where the agent asks.
    fn ask(&mut self, pending: Option<ToolCallPendingConfirmationState>) -> Result<()> {
        let pending = pending.filter(|call| self.drawn.mine.as_ref() != Some(&call.tool_call_id));
        let id = pending.as_ref().map(|call| call.tool_call_id.clone());
        if self.asked == id {
            return Ok(());
        }
        if self.asked.is_some() && self.typed {
            self.drawn.shown.answered();
        }
        self.asked = id;
        match pending {
            Some(call) => {
                let title = call
                    .confirmation_title
                    .as_ref()
                    .unwrap_or(&call.invocation_message);
                let title = match text(title) {
                    "" => "something",
                    title => title,
                };
                self.drawn.shown.asks(title, self.typed)
            }
            None => Ok(()),
        }
    }

    /// Refuses a form, which cannot be shown here, rather than have the agent wait.
    async fn refuse(&mut self, form: String) -> Result<()> {
        self.drawn.shown.end_line()?;
        say("the agent asks what cannot be answered here: a form");
        let action = StateAction::ChatInputCompleted(ChatInputCompletedAction {
            request_id: form.clone(),
            response: ChatInputResponseKind::Cancel,
            answers: None,
        });
        self.refused = Some(form);
        self.link.dispatch(&self.chat, action).await;
        Ok(())
    }

    /// Passes on what was typed for an answer.
    async fn answer(&mut self, line: &str) {
        let call = self
            .answered()
            .and_then(|(parts, _)| parts.iter().find_map(pending).cloned());
        let (Some(call), Some(turn)) = (call, self.running().map(str::to_owned)) else {
            return;
        };
        let approved = is_yes(line);
        let wanted = match approved {
            true => ConfirmationOptionKind::Approve,
            false => ConfirmationOptionKind::Deny,
        };
        let options = call.options.iter().flatten();
        let fitting: Vec<_> = options.filter(|option| option.kind == wanted).collect();
        // One answer is for once, not for ever.
        let lasting = |text: &str| text.to_ascii_lowercase().contains("always");
        let once = fitting
            .iter()
            .find(|option| !lasting(&option.id) && !lasting(&option.label));
        let option = once.or(fitting.first());
        let action = StateAction::ChatToolCallConfirmed(ChatToolCallConfirmedAction {
            turn_id: turn,
            tool_call_id: call.tool_call_id,
            meta: None,
            approved,
            confirmed: approved.then_some(ToolCallConfirmationReason::UserAction),
            reason: (!approved).then_some(ToolCallCancellationReason::Denied),
            edited_tool_input: None,
            user_suggestion: None,
            reason_message: None,
            selected_option_id: option.map(|option| option.id.clone()),
        });
        self.drawn.mine = self.asked.take();
        self.link.dispatch(&self.chat, action).await;
    }

    async fn cancel(&mut self) {
        let action = match self.running() {
            Some(turn) => StateAction::ChatTurnCancelled(ChatTurnCancelledAction {
                turn_id: turn.to_owned(),
                duration: i64::try_from(self.began.elapsed().as_millis()).unwrap_or(0),
                meta: None,
            }),
            None if self.waits() => {
                StateAction::ChatPendingMessageRemoved(ChatPendingMessageRemovedAction {
                    kind: PendingMessageKind::Queued,
                    id: self.id.clone(),
                })
            }
            // As soon as it is there.
            None => return,
        };
        self.cancel_sent = self.running().is_some();
        self.link.dispatch(&self.chat, action).await;
    }

    fn is_about(&self, action: &StateAction, turn: Option<&str>) -> bool {
        let Ok(action) = serde_json::to_value(action) else {
            return false;
        };
        turn.is_some_and(|turn| action["turnId"] == turn)
            || action["id"] == self.id
            || action["queuedMessageId"] == self.id
    }

    fn end(&self, end: TurnState, parts: &[ResponsePart]) -> End {
        match end {
            TurnState::Complete => {
                let reason = self.reason.clone();
                End::Stopped(Some(reason.unwrap_or_else(|| "end_turn".into())))
            }
            TurnState::Cancelled => End::Stopped(Some("cancelled".into())),
            TurnState::Error => {
                let error = parts.iter().rev().find_map(|part| match part {
                    ResponsePart::Error(part) => Some(&part.error),
                    _ => None,
                });
                let why = error.map_or("it is not said why", |error| &error.message);
                match why.strip_prefix("the turn was cut off: ") {
                    Some(why) => End::Cut(why.to_owned()),
                    None => End::Failed(why.to_owned()),
                }
            }
        }
    }
}

/// The form that waits to be filled in, if this is one.
fn form(part: &ResponsePart) -> Option<&str> {
    match part {
        ResponsePart::InputRequest(part) if part.response.is_none() => Some(&part.request.id),
        _ => None,
    }
}

/// The tool call that waits for an answer, if this is one.
fn pending(part: &ResponsePart) -> Option<&ToolCallPendingConfirmationState> {
    match part {
        ResponsePart::ToolCall(part) => match &part.tool_call {
            ToolCallState::PendingConfirmation(call) => Some(call),
            _ => None,
        },
        _ => None,
    }
}
