//! What the agent asks of people: permissions and forms, and what was answered.

use std::collections::HashMap;

use ahp_types::actions::{
    ChatInputCompletedAction, ChatInputRequestedAction, ChatToolCallConfirmedAction, StateAction,
};
use ahp_types::state::{
    ChatInputAnswer, ChatInputAnswerValue, ChatInputAnswered, ChatInputBooleanAnswerValue,
    ChatInputBooleanQuestion, ChatInputMultiSelectQuestion, ChatInputNumberAnswerValue,
    ChatInputNumberQuestion, ChatInputOption, ChatInputQuestion, ChatInputRequest,
    ChatInputResponseKind, ChatInputSelectedAnswerValue, ChatInputSelectedManyAnswerValue,
    ChatInputSingleSelectQuestion, ChatInputTextAnswerValue, ChatInputTextQuestion,
    ConfirmationOption, ConfirmationOptionKind, ToolCallCancellationReason,
    ToolCallConfirmationReason,
};
use hostler_agent::{Entry, RequestId, RpcError};
use hostler_session::By;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::note::Note;
use super::project::Projector;
use super::tool::Told;

/// What the agent waits for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    /// Whether a tool may run.
    Permission {
        turn: String,
        call: String,
        options: Vec<ConfirmationOption>,
    },
    /// What stands in a form.
    Input {
        id: String,
        /// The kinds of the questions, by their ids.
        questions: Vec<ChatInputQuestion>,
    },
}

#[derive(Deserialize)]
struct Request<'a> {
    id: RequestId,
    method: String,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Permission<'a> {
    #[serde(borrow)]
    tool_call: Told<'a>,
    #[serde(default)]
    options: Vec<Choice>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    option_id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: String,
}

#[derive(Deserialize)]
struct Answer<'a> {
    id: RequestId,
    by: By,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(rename = "error")]
    _error: Option<RpcError>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Form {
    message: String,
    mode: String,
    url: Option<String>,
    requested_schema: Value,
}

impl Projector {
    pub(super) fn request(&mut self, entry: &Entry) {
        let Ok(request) = serde_json::from_str::<Request<'_>>(entry.data.get()) else {
            return;
        };
        match &*request.method {
            "session/request_permission" => self.permission(&request),
            "elicitation/create" => self.form(&request),
            _ => {}
        }
    }

    fn permission(&mut self, request: &Request<'_>) {
        let Ok(mut asked) = serde_json::from_str::<Permission<'_>>(request.params.get()) else {
            return;
        };
        let Some(active) = &mut self.active else {
            return;
        };
        let turn = active.id.clone();
        let mut call = asked.tool_call.tool_call_id.clone();
        if !active.tools.is_open(&call) {
            // It is over, or being asked about already.
            call = format!("{call}-{}", request.id);
            asked.tool_call.tool_call_id.clone_from(&call);
        }
        let options: Vec<ConfirmationOption> = asked.options.iter().map(option).collect();
        let mut actions = active.tools.told(&turn, &asked.tool_call);
        actions.extend(active.tools.asks(&turn, &call, options.clone()));
        for action in actions {
            self.act(action);
        }
        let asked = Asked::Permission {
            turn,
            call,
            options,
        };
        self.asked.insert(request.id, asked);
    }

    fn form(&mut self, request: &Request<'_>) {
        if self.active.is_none() {
            return;
        }
        let form: Form = serde_json::from_str(request.params.get()).unwrap_or_default();
        let id = format!("input-{}", request.id);
        let questions = questions(&form.requested_schema);
        self.act(StateAction::ChatInputRequested(ChatInputRequestedAction {
            request: ChatInputRequest {
                id: id.clone(),
                message: Some(form.message),
                url: form.url.filter(|_| form.mode == "url"),
                questions: (!questions.is_empty()).then(|| questions.clone()),
                answers: None,
            },
        }));
        let asked = Asked::Input { id, questions };
        self.asked.insert(request.id, asked);
    }

    pub(super) fn answer(&mut self, entry: &Entry) {
        let Ok(answer) = serde_json::from_str::<Answer<'_>>(entry.data.get()) else {
            return;
        };
        let Some(asked) = self.asked.remove(&answer.id) else {
            return;
        };
        let note = answer.result.and_then(Note::in_meta);
        let written = note.as_ref().and_then(Note::action);
        match asked {
            Asked::Permission {
                turn,
                call,
                options,
            } => self.permitted(&answer, &turn, &call, &options, note.zip(written)),
            Asked::Input { id, .. } => {
                let own = match written {
                    Some(StateAction::ChatInputCompleted(done)) => Some(done),
                    _ => None,
                };
                match (note, own) {
                    (Some(note), Some(done)) => {
                        self.noted(&note, StateAction::ChatInputCompleted(done));
                    }
                    _ => self.act(StateAction::ChatInputCompleted(filled_in(id, &answer))),
                }
            }
        }
    }

    fn permitted(
        &mut self,
        answer: &Answer<'_>,
        turn: &str,
        call: &str,
        options: &[ConfirmationOption],
        written: Option<(Note, StateAction)>,
    ) {
        let chosen = answer.result.and_then(chosen);
        let option = chosen
            .as_ref()
            .and_then(|chosen| options.iter().find(|option| option.id == *chosen));
        let approved = option.is_some_and(|option| option.kind == ConfirmationOptionKind::Approve);
        let reason = match &*answer.by.who {
            "policy" => ToolCallConfirmationReason::Setting,
            _ => ToolCallConfirmationReason::UserAction,
        };
        let denied = match option {
            Some(_) => ToolCallCancellationReason::Denied,
            None => ToolCallCancellationReason::Skipped,
        };
        match written {
            Some((note, action @ StateAction::ChatToolCallConfirmed(_))) => {
                self.noted(&note, action);
            }
            _ => self.act(StateAction::ChatToolCallConfirmed(
                ChatToolCallConfirmedAction {
                    turn_id: turn.to_owned(),
                    tool_call_id: call.to_owned(),
                    meta: None,
                    approved,
                    confirmed: approved.then(|| reason.clone()),
                    reason: (!approved).then_some(denied),
                    edited_tool_input: None,
                    user_suggestion: None,
                    reason_message: None,
                    selected_option_id: chosen,
                },
            )),
        }
        if let Some(active) = self.active.as_mut().filter(|active| active.id == turn) {
            let shown = active
                .tools
                .answered(turn, call, approved.then_some(reason));
            if let Some(action) = shown {
                self.act(action);
            }
        }
    }
}

/// The option that an answer chose.
fn chosen(result: &RawValue) -> Option<String> {
    let result: Value = serde_json::from_str(result.get()).ok()?;
    let outcome = &result["outcome"];
    let selected = outcome["outcome"] == "selected";
    selected
        .then(|| outcome["optionId"].as_str().map(str::to_owned))
        .flatten()
}

fn option(choice: &Choice) -> ConfirmationOption {
    let approves = choice.kind.starts_with("allow");
    ConfirmationOption {
        id: choice.option_id.clone(),
        label: choice.name.clone(),
        kind: match approves {
            true => ConfirmationOptionKind::Approve,
            false => ConfirmationOptionKind::Deny,
        },
        group: None,
    }
}

/// The questions of a form (JSON Schema, as MCP restricts it).
fn questions(schema: &Value) -> Vec<ChatInputQuestion> {
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    let required = |name: &str| {
        let all = schema["required"].as_array();
        Some(all.is_some_and(|all| all.iter().any(|one| one == name)))
    };
    let question = |(name, of): (&String, &Value)| question(name, of, required(name));
    properties.iter().map(question).collect()
}

fn question(name: &str, of: &Value, required: Option<bool>) -> ChatInputQuestion {
    let text = |key: &str| of[key].as_str().map(str::to_owned);
    let title = text("title");
    let message = text("description")
        .or_else(|| title.clone())
        .unwrap_or_else(|| name.to_owned());
    let id = name.to_owned();
    let options = |from: &Value| -> Option<Vec<ChatInputOption>> {
        let titled = from["oneOf"]
            .as_array()
            .or_else(|| from["anyOf"].as_array());
        let titled = titled.map(|all| {
            let one = |one: &Value| {
                let value = one["const"].as_str()?;
                Some((
                    value.to_owned(),
                    one["title"].as_str().unwrap_or(value).to_owned(),
                ))
            };
            all.iter().filter_map(one).collect::<Vec<_>>()
        });
        let plain = from["enum"].as_array().map(|all| {
            let names = from["enumNames"].as_array();
            let one = |(n, one): (usize, &Value)| {
                let value = one.as_str()?;
                let name = names
                    .and_then(|names| names.get(n)?.as_str())
                    .unwrap_or(value);
                Some((value.to_owned(), name.to_owned()))
            };
            all.iter().enumerate().filter_map(one).collect()
        });
        let all: Vec<(String, String)> = titled.or(plain)?;
        let option = |(id, label)| ChatInputOption {
            id,
            label,
            description: None,
            recommended: None,
        };
        Some(all.into_iter().map(option).collect())
    };
    let number = || ChatInputNumberQuestion {
        id: id.clone(),
        title: title.clone(),
        message: message.clone(),
        required,
        min: of["minimum"].as_f64(),
        max: of["maximum"].as_f64(),
        default_value: of["default"].as_f64(),
    };
    match (of["type"].as_str().unwrap_or("string"), options(of)) {
        ("boolean", _) => ChatInputQuestion::Boolean(ChatInputBooleanQuestion {
            id,
            title,
            message,
            required,
            default_value: of["default"].as_bool(),
        }),
        ("integer", _) => ChatInputQuestion::Integer(number()),
        ("number", _) => ChatInputQuestion::Number(number()),
        ("array", _) => ChatInputQuestion::MultiSelect(ChatInputMultiSelectQuestion {
            id,
            title,
            message,
            required,
            options: options(&of["items"]).unwrap_or_default(),
            allow_freeform_input: None,
            min: of["minItems"].as_i64(),
            max: of["maxItems"].as_i64(),
        }),
        (_, Some(options)) => ChatInputQuestion::SingleSelect(ChatInputSingleSelectQuestion {
            id,
            title,
            message,
            required,
            options,
            allow_freeform_input: None,
        }),
        (_, None) => ChatInputQuestion::Text(ChatInputTextQuestion {
            id,
            title,
            message,
            required,
            format: text("format"),
            min: of["minLength"].as_i64(),
            max: of["maxLength"].as_i64(),
            default_value: text("default"),
        }),
    }
}

/// What a form was answered with by another kind of client, or by nobody.
fn filled_in(request_id: String, answer: &Answer<'_>) -> ChatInputCompletedAction {
    let result: Value = answer
        .result
        .and_then(|result| serde_json::from_str(result.get()).ok())
        .unwrap_or_default();
    let response = match result["action"].as_str() {
        Some("accept") => ChatInputResponseKind::Accept,
        Some("decline") => ChatInputResponseKind::Decline,
        _ => ChatInputResponseKind::Cancel,
    };
    let answers = result["content"].as_object().map(|content| {
        let one = |(name, value): (&String, &Value)| {
            let value = ChatInputAnswered {
                value: answer_of(value)?,
            };
            Some((name.clone(), ChatInputAnswer::Submitted(value)))
        };
        content.iter().filter_map(one).collect::<HashMap<_, _>>()
    });
    ChatInputCompletedAction {
        request_id,
        response,
        answers: answers.filter(|answers| !answers.is_empty()),
    }
}

fn answer_of(value: &Value) -> Option<ChatInputAnswerValue> {
    Some(match value {
        Value::String(text) => ChatInputAnswerValue::Text(ChatInputTextAnswerValue {
            value: text.clone(),
        }),
        Value::Bool(value) => {
            ChatInputAnswerValue::Boolean(ChatInputBooleanAnswerValue { value: *value })
        }
        Value::Number(number) => ChatInputAnswerValue::Number(ChatInputNumberAnswerValue {
            value: number.as_f64()?,
        }),
        Value::Array(all) => ChatInputAnswerValue::SelectedMany(ChatInputSelectedManyAnswerValue {
            value: all
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            freeform_values: None,
        }),
        Value::Null | Value::Object(_) => return None,
    })
}

/// An answer of a client, as a form of ACP has it.
pub(super) fn content_of(
    answer: &ChatInputAnswer,
    question: Option<&ChatInputQuestion>,
) -> Option<Value> {
    let (ChatInputAnswer::Submitted(answered) | ChatInputAnswer::Draft(answered)) = answer else {
        return None;
    };
    Some(match &answered.value {
        ChatInputAnswerValue::Text(text) => text.value.clone().into(),
        ChatInputAnswerValue::Boolean(value) => value.value.into(),
        ChatInputAnswerValue::Number(number) => match question {
            Some(ChatInputQuestion::Integer(_)) if number.value.fract() == 0.0 => {
                json!(number.value as i64)
            }
            _ => json!(number.value),
        },
        ChatInputAnswerValue::Selected(ChatInputSelectedAnswerValue {
            value,
            freeform_values,
        }) => match freeform_values.as_ref().and_then(|all| all.first()) {
            Some(own) if value.is_empty() => own.clone().into(),
            _ => value.clone().into(),
        },
        ChatInputAnswerValue::SelectedMany(many) => {
            let own = many.freeform_values.iter().flatten();
            many.value
                .iter()
                .chain(own)
                .cloned()
                .collect::<Vec<_>>()
                .into()
        }
        ChatInputAnswerValue::Unknown(value) => value.get("value")?.clone(),
    })
}
