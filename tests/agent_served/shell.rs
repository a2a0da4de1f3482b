//! The agent `shell` in a session: what it is prompted runs in terminals of the host's.

use std::path::Path;
use std::time::Duration;

use hostler_agent::{
    Agents, AgentsOptions, Catalogue, Conversation, EntryKind, NewConversation, Seq, TurnEnd,
};
use hostler_session::CloseReason;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use crate::support::{Stage, by, options, until};

async fn conversation(stage: &Stage, root: &Path) -> Conversation {
    let catalogue = Catalogue::built_in(Path::new(env!("CARGO_BIN_EXE_hostler")));
    let agents = Agents::new(stage.sessions.clone(), catalogue, AgentsOptions::default());
    let new = NewConversation {
        agent: "shell".into(),
        session: options(),
        cwd: root.into(),
        ..NewConversation::default()
    };
    agents.open_ready(new, by()).await.expect("an agent").0
}

/// Prompts, and waits for the end of the turn: its result.
async fn prompt(conversation: &Conversation, text: &str) -> Value {
    let turn = conversation
        .prompt(params(text), by())
        .await
        .expect("a turn");
    let ended = tokio::time::timeout(Duration::from_secs(60), turn.ended()).await;
    match ended.expect("an end in time") {
        TurnEnd::Result(result) => serde_json::from_str(result.get()).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

fn params(text: &str) -> Box<serde_json::value::RawValue> {
    let prompt = json!({"sessionId": "", "prompt": [{"type": "text", "text": text}]});
    to_raw_value(&prompt).expect("raw")
}

/// All text that the agent has said.
async fn text(conversation: &Conversation) -> String {
    let mut follower = conversation.follow(Seq(0));
    let mut text = String::new();
    loop {
        let more = tokio::time::timeout(Duration::from_millis(300), follower.next(100)).await;
        let Ok(Ok(entries)) = more else { return text };
        if entries.is_empty() {
            return text;
        }
        for entry in entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Update)
        {
            let data: Value = serde_json::from_str(entry.data.get()).expect("JSON");
            if data["update"]["sessionUpdate"] == "agent_message_chunk" {
                text += data["update"]["content"]["text"].as_str().expect("text");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_commands_are_the_sessions_and_their_output_comes_whole() {
    let stage = Stage::new();
    let root = tempfile::tempdir().unwrap();
    let conversation = conversation(&stage, root.path()).await;
    let result = prompt(&conversation, "pwd; seq 1 5000; setsid sleep 1000 & exit 3").await;
    assert_eq!(result["stopReason"], "end_turn");
    let mut expected = format!("{}\n", root.path().display());
    expected.extend((1..=5000).map(|i| format!("{i}\n")));
    expected.push_str("[exit code 3]\n");
    assert_eq!(text(&conversation).await, expected);
    // The agent, and what has escaped.
    until("two are there", || stage.living().len() == 2).await;
    let report = conversation.close(CloseReason::Client, by()).await.unwrap();
    assert_eq!(report.remaining, 0);
    assert_eq!(stage.living().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_ends_the_command_and_leaves_the_agent() {
    let stage = Stage::new();
    let root = tempfile::tempdir().unwrap();
    let conversation = conversation(&stage, root.path()).await;
    let turn = conversation
        .prompt(params("sleep 1000 & sleep 1000"), by())
        .await
        .unwrap();
    until("it runs", || stage.living().len() == 4).await;
    conversation.cancel(by()).await;
    let ended = tokio::time::timeout(Duration::from_secs(60), turn.ended())
        .await
        .unwrap();
    let TurnEnd::Result(result) = ended else {
        panic!("{ended:?}");
    };
    assert!(result.get().contains("cancelled"), "{result}");
    until("only the agent is left", || stage.living().len() == 1).await;
    assert_eq!(
        prompt(&conversation, "echo again").await["stopReason"],
        "end_turn"
    );
    assert!(text(&conversation).await.ends_with("again\n"));
    let report = conversation.close(CloseReason::Client, by()).await.unwrap();
    assert_eq!(report.remaining, 0);
    assert_eq!(stage.living().len(), 0);
}
