//! What a session's clients are told that people are asked for in its chats.

use std::collections::{BTreeMap, HashMap};

use ahp_types::actions::{
    SessionInputNeededRemovedAction, SessionInputNeededSetAction, StateAction,
};
use ahp_types::state::{
    ResponsePart, SessionChatInputRequest, SessionInputRequest, SessionToolConfirmationRequest,
    ToolCallConfirmationState, ToolCallState,
};
use hostler_agent::RequestId;

use super::Chat;
use super::ask::Asked;

/// What was told.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    told: HashMap<RequestId, String>,
}

impl Inputs {
    /// What is to be told now.
    pub(super) fn changes(
        &mut self,
        chat: &Chat,
        asked: &BTreeMap<RequestId, Asked>,
    ) -> Vec<StateAction> {
        let mut out = Vec::new();
        self.told.retain(|request, id| {
            let open = asked.contains_key(request);
            if !open {
                let id = id.clone();
                out.push(StateAction::SessionInputNeededRemoved(
                    SessionInputNeededRemovedAction { id },
                ));
            }
            open
        });
        for (request, asked) in asked {
            if self.told.contains_key(request) {
                continue;
            }
            let id = format!("{}#{request}", chat.uri);
            if let Some(request_of) = of(chat, &id, asked) {
                self.told.insert(*request, id);
                out.push(StateAction::SessionInputNeededSet(Box::new(
                    SessionInputNeededSetAction {
                        request: request_of,
                    },
                )));
            }
        }
        out
    }
}

fn of(chat: &Chat, id: &str, asked: &Asked) -> Option<SessionInputRequest> {
    let parts = |find: &dyn Fn(&ResponsePart) -> Option<SessionInputRequest>| {
        let found = chat.look(|state| {
            let turn = state.active_turn.as_ref()?;
            turn.response_parts.iter().find_map(find)
        });
        found.flatten()
    };
    let uri = chat.uri.to_string();
    match asked {
        Asked::Permission { turn, call, .. } => parts(&|part| {
            let ResponsePart::ToolCall(part) = part else {
                return None;
            };
            let ToolCallState::PendingConfirmation(pending) = &part.tool_call else {
                return None;
            };
            (pending.tool_call_id == *call).then(|| {
                SessionInputRequest::ToolConfirmation(SessionToolConfirmationRequest {
                    id: id.to_owned(),
                    chat: uri.clone(),
                    turn_id: turn.clone(),
                    tool_call: ToolCallConfirmationState::PendingConfirmation(pending.clone()),
                })
            })
        }),
        Asked::Input { id: input, .. } => parts(&|part| {
            let ResponsePart::InputRequest(part) = part else {
                return None;
            };
            (part.request.id == *input).then(|| {
                SessionInputRequest::ChatInput(SessionChatInputRequest {
                    id: id.to_owned(),
                    chat: uri.clone(),
                    request: part.request.clone(),
                })
            })
        }),
    }
}
