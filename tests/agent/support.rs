//! A host with agents, and reading what they say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use hostler_agent::{
    AgentSpec, Agents, AgentsOptions, Catalogue, Conversation, Entry, EntryKind, NewConversation,
    Seq, Turn, TurnEnd,
};
use hostler_session::CloseReason;
use serde_json::value::RawValue;

pub(crate) use super::stage::*;

/// The agent of these tests, built on first use.
pub(crate) fn peer() -> &'static Path {
    static PEER: OnceLock<PathBuf> = OnceLock::new();
    PEER.get_or_init(|| {
        let hostler = Path::new(env!("CARGO_BIN_EXE_hostler"));
        let built = hostler.parent().expect("a directory");
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .args(["build", "--quiet", "--offline", "-p", "hostler-agent"])
            .args(["--example", "peer"])
            .current_dir(env!("CARGO_MANIFEST_DIR"));
        if built.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo");
        assert!(status.success(), "the agent of the tests cannot be built");
        built.join("examples/peer")
    })
}

/// How the agent of these tests is started.
pub(crate) fn spec(env: &[(&str, &str)]) -> AgentSpec {
    let mut spec = AgentSpec::new([peer().to_string_lossy()]);
    for (name, value) in env {
        spec.env.insert((*name).into(), (*value).into());
    }
    spec.handshake_timeout = Duration::from_secs(10) * slack();
    spec.cancel_grace = Duration::from_millis(300);
    spec
}

/// A host with one agent, `peer`.
pub(crate) struct Host {
    pub(crate) agents: Agents,
    pub(crate) stage: Stage,
}

pub(crate) fn options() -> AgentsOptions {
    AgentsOptions {
        // As a host does it: an agent's end is that of all it has started.
        wrap: [env!("CARGO_BIN_EXE_hostler"), "run", "--"]
            .map(str::to_owned)
            .to_vec(),
        ..AgentsOptions::default()
    }
}

impl Host {
    pub(crate) fn new(env: &[(&str, &str)]) -> Self {
        Self::with(spec(env), options())
    }

    pub(crate) fn with(spec: AgentSpec, options: AgentsOptions) -> Self {
        Self::on(Stage::new(), spec, options)
    }

    pub(crate) fn on(stage: Stage, spec: AgentSpec, options: AgentsOptions) -> Self {
        let mut catalogue = Catalogue::empty();
        catalogue.insert("peer", spec).expect("an agent");
        let agents = Agents::new(stage.sessions.clone(), catalogue, options);
        Self { agents, stage }
    }

    pub(crate) fn conversation(&self) -> NewConversation {
        NewConversation {
            agent: "peer".into(),
            session: super::stage::options(),
            cwd: "/tmp".into(),
            ..NewConversation::default()
        }
    }

    pub(crate) async fn open(&self) -> Conversation {
        let new = self.conversation();
        self.agents.open(new, by()).await.expect("a conversation")
    }

    /// Closes it, and nothing is left.
    pub(crate) async fn end(&self, conversation: &Conversation) {
        let report = conversation
            .close(CloseReason::Client, by())
            .await
            .expect("closed");
        assert_eq!(report.remaining, 0);
        self.stage.await_none("after the close").await;
    }
}

pub(crate) fn text(prompt: &str) -> Box<RawValue> {
    let params = serde_json::json!({ "prompt": [{ "type": "text", "text": prompt }] });
    serde_json::value::to_raw_value(&params).expect("JSON")
}

pub(crate) async fn prompt(conversation: &Conversation, what: &str) -> Turn {
    conversation.prompt(text(what), by()).await.expect("a turn")
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(10) * slack();
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"))
}

/// A turn from its prompt to its end.
pub(crate) async fn turn(conversation: &Conversation, what: &str) -> TurnEnd {
    let turn = prompt(conversation, what).await;
    soon(what, turn.ended()).await
}

pub(crate) fn stop_reason(end: &TurnEnd) -> String {
    match end {
        TurnEnd::Result(result) => {
            let result: serde_json::Value = serde_json::from_str(result.get()).expect("JSON");
            result["stopReason"].as_str().unwrap_or_default().to_owned()
        }
        other => format!("{other:?}"),
    }
}

pub(crate) fn json(entry: &Entry) -> serde_json::Value {
    serde_json::from_str(entry.data.get()).expect("JSON")
}

/// All entries behind a place, up to the last there is.
pub(crate) async fn entries(conversation: &Conversation, after: u64) -> Vec<Entry> {
    let last = conversation.last();
    let mut follower = conversation.follow(Seq(after));
    let mut all = Vec::new();
    while follower.after() < last {
        let next = soon("entries", follower.next(1000)).await.expect("read");
        all.extend(next.iter().map(|entry| Entry::clone(entry)));
    }
    all
}

/// What the agent said in a turn.
pub(crate) async fn said(conversation: &Conversation, turn: u64) -> Vec<String> {
    let all = entries(conversation, 0).await;
    all.iter()
        .filter(|entry| entry.kind == EntryKind::Update && entry.turn == Some(turn))
        .map(|entry| {
            let update = json(entry);
            assert_eq!(update["sessionId"], conversation.id().as_str());
            update["update"]["content"]["text"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// Whether a notice of this name is in the transcript.
pub(crate) async fn notices(conversation: &Conversation, name: &str) -> usize {
    let all = entries(conversation, 0).await;
    all.iter()
        .filter(|entry| entry.kind == EntryKind::Notice && json(entry)["notice"] == name)
        .count()
}
