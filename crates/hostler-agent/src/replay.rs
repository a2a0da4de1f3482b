//! Telling a new agent what was said before, for those that cannot take up a session again.

use hostler_ledger::{ConversationId, EntrySeq as Seq, Ledger};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::error::Result;
use crate::rpc::{RpcError, raw};
use crate::transcript::EntryKind;

/// How much is told at the most, in bytes: the latest.
const MOST: usize = 64 << 10;
const ROWS: usize = 64;

#[derive(Deserialize)]
struct Prompt {
    params: Params,
}

#[derive(Deserialize)]
struct Params {
    #[serde(default)]
    prompt: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Update {
    update: Content,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Content {
    session_update: String,
    #[serde(default)]
    content: serde_json::Value,
    #[serde(default)]
    title: Option<String>,
}

/// What was said between two places, as text. Blocks for the disk.
pub(crate) fn text(
    ledger: &Ledger,
    id: &ConversationId,
    after: Seq,
    before: Seq,
) -> Result<String> {
    let mut told = String::new();
    let mut speaker = "";
    let mut at = after;
    let mut say = |who: &'static str, what: &str| {
        if who != speaker {
            told.push_str("\n\n");
            told.push_str(who);
            told.push_str(": ");
            speaker = who;
        }
        told.push_str(what);
        if told.len() > 2 * MOST {
            let mut cut = told.len() - MOST;
            while !told.is_char_boundary(cut) {
                cut += 1;
            }
            told.drain(..cut);
        }
    };
    'rows: loop {
        let rows = ledger.transcript(id, at, ROWS)?;
        let Some(last) = rows.last() else { break };
        let end = Seq(last.seq.0 + u64::from(last.n) - 1);
        for entry in rows.iter().flat_map(crate::follow::unpack) {
            if entry.seq <= at {
                continue;
            }
            if entry.seq >= before {
                break 'rows;
            }
            let text = entry.data.get();
            match entry.kind {
                EntryKind::Prompt => {
                    let Ok(prompt) = serde_json::from_str::<Prompt>(text) else {
                        continue;
                    };
                    for block in prompt.params.prompt {
                        let said = block["text"].as_str().or(block["uri"].as_str());
                        say("User", said.unwrap_or("(something that is not text)"));
                    }
                }
                EntryKind::Update => {
                    let Ok(update) = serde_json::from_str::<Update>(text) else {
                        continue;
                    };
                    match update.update.session_update.as_str() {
                        "agent_message_chunk" => {
                            say(
                                "Assistant",
                                update.update.content["text"].as_str().unwrap_or(""),
                            );
                        }
                        "tool_call" => {
                            let title = update.update.title.unwrap_or_default();
                            say("Assistant used a tool", &format!("{title}; "));
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        at = end;
    }
    if told.len() > MOST {
        let mut cut = told.len() - MOST;
        while !told.is_char_boundary(cut) {
            cut += 1;
        }
        told.drain(..cut);
    }
    Ok(told.trim().to_owned())
}

/// The parameters of a prompt with a first block that tells what was said before.
pub(crate) fn with_context(
    params: &RawValue,
    told: &str,
) -> std::result::Result<Box<RawValue>, RpcError> {
    type Members = std::collections::BTreeMap<String, Box<RawValue>>;
    let no = |_| {
        RpcError::invalid_params("the parameters of a prompt should be an object with `prompt`")
    };
    let mut members: Members = serde_json::from_str(params.get()).map_err(no)?;
    let mut blocks: Vec<Box<RawValue>> = match members.get("prompt") {
        Some(prompt) => serde_json::from_str(prompt.get()).map_err(no)?,
        None => Vec::new(),
    };
    let text = format!(
        "This conversation was begun with another instance of you. What was said so far, for you to go on from:\n\n{told}\n\n\
         The next message follows."
    );
    blocks.insert(0, raw(&json!({ "type": "text", "text": text })));
    members.insert("prompt".into(), raw(&blocks));
    Ok(raw(&members))
}
