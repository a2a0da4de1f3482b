//! What an agent asks people for while it works for a job. It is the job's question until somebody has answered: whoever watches
//! the job, or a client of the agent's session.

use std::collections::BTreeMap;
use std::sync::Arc;

use hostler_agent::{Answer, Conversation, Entry, EntryKind, RequestId, Seq};
use serde::Deserialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::Context;
use crate::engine::actor::suspended;
use crate::engine::error::StepError;

/// The method by which an agent asks for permission (Agent Client Protocol).
const METHOD: &str = "session/request_permission";
/// How many entries of a transcript are read at once.
const ENTRIES: usize = 64;
/// How much is shown of what a tool is given: characters.
const SHOWN: usize = 400;

/// One of the answers that the agent takes.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Choice {
    option_id: String,
    #[serde(default)]
    name: String,
    /// Its `PermissionOptionKind`. Of one that is not known, it is chosen by its name.
    #[serde(default)]
    kind: Value,
}

impl Choice {
    fn shown(&self) -> &str {
        match self.name.as_str() {
            "" => &self.option_id,
            name => name,
        }
    }
}

/// A request for permission that waits for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Permission {
    conversation: Conversation,
    request: RequestId,
    text: String,
    choices: Vec<Choice>,
}

impl Permission {
    /// Which of the requests of its conversation it is.
    pub(crate) fn request(&self) -> RequestId {
        self.request
    }

    /// Gives the agent its answer.
    ///
    /// # Errors
    /// Why it was not given.
    pub(crate) async fn give(&self, answer: Answer, by: hostler_session::By) -> Result<(), String> {
        let given = self.conversation.answer(self.request, answer, by).await;
        match given {
            Ok(hostler_agent::Answered::First) => Ok(()),
            Ok(hostler_agent::Answered::Late) => Err("it has had its answer".to_owned()),
            Err(error) => Err(format!("its agent cannot be answered: {error}")),
        }
    }

    /// The answer that is meant: the name or the id of a choice, or yes or no.
    ///
    /// # Errors
    /// What may be said.
    pub(crate) fn answer(&self, values: &Map<String, Value>) -> Result<Answer, String> {
        let said = match (values.get("answer"), values.len()) {
            (Some(Value::String(text)), 1) => text.trim().to_lowercase(),
            (Some(Value::Bool(yes)), 1) => if *yes { "yes" } else { "no" }.to_owned(),
            _ => String::new(),
        };
        let named = |choice: &&Choice| {
            let names = [choice.option_id.as_str(), choice.shown()];
            !said.is_empty() && names.into_iter().any(|name| name.to_lowercase() == said)
        };
        let kinds = match said.as_str() {
            "y" | "yes" | "allow" => ["allow_once", "allow_always"].as_slice(),
            "n" | "no" | "deny" | "reject" => &["reject_once", "reject_always"],
            _ => &[],
        };
        let of_kind = |kind: &&str| self.choices.iter().find(|choice| choice.kind == **kind);
        let choice = self.choices.iter().find(named);
        let outcome = match choice.or_else(|| kinds.iter().find_map(of_kind)) {
            Some(choice) => json!({ "outcome": "selected", "optionId": choice.option_id }),
            // It offers nothing of that kind.
            None if kinds.contains(&"reject_once") => json!({ "outcome": "cancelled" }),
            None => {
                let names = self.names().join(", ");
                return Err(format!("the answer is one of: {names}"));
            }
        };
        let outcome = json!({ "outcome": outcome });
        to_raw_value(&outcome)
            .map(Ok)
            .map_err(|error| error.to_string())
    }

    /// What may be answered.
    fn names(&self) -> Vec<&str> {
        self.choices.iter().map(Choice::shown).collect()
    }
}

/// What the agent of a run asks for. Dropped, the run asks nothing any more.
pub(super) struct Permissions<'c> {
    context: &'c Context,
    /// Those without an answer, in their order.
    open: BTreeMap<RequestId, Permission>,
    /// What tools are called that may be asked for.
    titles: BTreeMap<String, String>,
    /// Whether the ledger says that the run waits for somebody.
    suspended: bool,
}

impl Drop for Permissions<'_> {
    fn drop(&mut self) {
        self.context.job.ask(self.context.plan.run, None);
    }
}

impl<'c> Permissions<'c> {
    pub(super) fn new(context: &'c Context) -> Self {
        let earlier = context.earlier.as_ref();
        Self {
            context,
            open: BTreeMap::new(),
            titles: BTreeMap::new(),
            suspended: earlier
                .is_some_and(|row| row.state == hostler_ledger::StepRunState::Suspended),
        }
    }

    /// Makes them the job's questions, one after the other, for as long as it is polled. It returns when no more can come, for
    /// the conversation is closed or its transcript cannot be read, or when the run is to end.
    pub(super) async fn follow(
        &mut self,
        conversation: &Conversation,
        turn: u64,
        after: Seq,
    ) -> Result<(), StepError> {
        let mut follower = conversation.follow(after);
        loop {
            let entries = follower.next(ENTRIES).await;
            let entries = entries.map_err(|error| StepError::new("ledger", error.to_string()))?;
            if entries.is_empty() {
                return Ok(());
            }
            let first = self.open.keys().next().copied();
            let of_turn = |entry: &&Arc<Entry>| entry.turn.is_none_or(|of| of == turn);
            for entry in entries.iter().filter(of_turn) {
                self.heard(conversation, entry);
            }
            let now = self.open.keys().next().copied();
            if now != first || self.suspended != now.is_some() {
                self.show().await?;
            }
        }
    }

    /// The turn is over, and with it all that was asked in it.
    pub(super) async fn over(&mut self) -> Result<(), StepError> {
        self.open.clear();
        self.show().await
    }

    fn heard(&mut self, conversation: &Conversation, entry: &Arc<Entry>) {
        match entry.kind {
            EntryKind::Request => {
                if let Some(asked) = self.asked(conversation, &entry.data) {
                    self.open.insert(asked.request, asked);
                }
            }
            EntryKind::Answer => {
                #[derive(Deserialize)]
                struct Answered {
                    id: RequestId,
                }
                if let Ok(answered) = serde_json::from_str::<Answered>(entry.data.get()) {
                    self.open.remove(&answered.id);
                }
            }
            // Looked at before it is parsed: most are pieces of text.
            EntryKind::Update if entry.data.get().contains("\"tool_call\"") => {
                let update = serde_json::from_str::<Value>(entry.data.get()).unwrap_or_default();
                // As it came, or in the notification's parameters.
                for of in [&update, &update["update"], &update["params"]["update"]] {
                    if let (Some(id), Some(title)) =
                        (of["toolCallId"].as_str(), of["title"].as_str())
                    {
                        self.titles.insert(id.to_owned(), title.to_owned());
                    }
                }
            }
            _ => {}
        }
    }

    fn asked(&self, conversation: &Conversation, data: &RawValue) -> Option<Permission> {
        #[derive(Deserialize)]
        struct Request {
            id: RequestId,
            method: String,
            params: Params,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Params {
            #[serde(default)]
            options: Value,
            #[serde(default)]
            tool_call: Value,
        }
        let request: Request = serde_json::from_str(data.get()).ok()?;
        if request.method != METHOD {
            return None;
        }
        let call = &request.params.tool_call;
        let known = || self.titles.get(call["toolCallId"].as_str()?).cloned();
        let title = call["title"].as_str().map(str::to_owned).or_else(known);
        let title = title.unwrap_or_else(|| "what it wants to do".to_owned());
        let text = match given(&call["rawInput"]) {
            Some(given) if !title.contains(&given) => format!("may it do this? {title}: {given}"),
            _ => format!("may it do this? {title}"),
        };
        let options = request.params.options.as_array().cloned();
        let options = options.into_iter().flatten();
        let options = options.map(|option| serde_json::from_value::<Choice>(option).ok());
        Some(Permission {
            conversation: conversation.clone(),
            request: request.id,
            text,
            choices: options.flatten().collect(),
        })
    }

    /// The first of the open ones is what the run asks; who watches is told by its state.
    async fn show(&mut self) -> Result<(), StepError> {
        let first = self.open.values().next().cloned();
        let waits = first.is_some();
        self.context.job.ask(self.context.plan.run, first);
        if waits {
            self.suspended = true;
            self.context.note(Vec::new(), suspended()).await
        } else if self.suspended {
            self.suspended = false;
            self.context.runs().await
        } else {
            Ok(())
        }
    }
}

impl crate::engine::job::Shared {
    /// What a run asks for, or that it asks no longer.
    fn ask(&self, run: u32, permission: Option<Permission>) {
        match &permission {
            Some(permission) => {
                self.know(run, "asks", permission.text.as_str());
                self.know(run, "choices", json!(permission.names()));
                self.know(run, "request", permission.request.0);
            }
            None => {
                if let Some(known) = self.live().get_mut(&run) {
                    known.remove("asks");
                    known.remove("choices");
                    known.remove("request");
                }
            }
        }
        let mut permissions = self.permissions();
        match permission {
            Some(permission) => drop(permissions.insert(run, permission)),
            None => drop(permissions.remove(&run)),
        }
    }
}

/// What a tool is given, in a line.
fn given(input: &Value) -> Option<String> {
    let known = ["command", "file_path", "path", "url"];
    let text = match input {
        Value::Object(fields) if fields.is_empty() => return None,
        Value::Object(fields) => match known.iter().find_map(|name| fields.get(*name)?.as_str()) {
            Some(text) => text.to_owned(),
            None => input.to_string(),
        },
        Value::Null => return None,
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => Some(format!("{}…", &text[..end])),
        None => Some(text),
    }
}
