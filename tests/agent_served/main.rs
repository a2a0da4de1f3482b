//! What an agent asks the host for, over real sessions: terminals and files. What is left is counted by the kernel.

mod files;
mod races;
mod shell;
#[path = "../session/support.rs"]
#[allow(dead_code)]
mod support;
mod terminals;

use std::path::Path;
use std::sync::Arc;

use hostler_agent::RpcError;
use hostler_agent::served::Served;
use hostler_session::Session;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use support::{Stage, by};

/// A session whose agent asks.
struct Asking {
    stage: Stage,
    session: Session,
    served: Arc<Served>,
    root: tempfile::TempDir,
}

impl Asking {
    async fn new() -> Self {
        let stage = Stage::new();
        let root = tempfile::tempdir().expect("a directory");
        let session = stage
            .open_with(|options| {
                options.cwd = Some(root.path().into());
                options.policy.limits.background = 128;
            })
            .await;
        let roots = vec![root.path().to_owned()];
        let served = Served::new(&stage.sessions, session.clone(), roots);
        Self {
            stage,
            session,
            served: Arc::new(served),
            root,
        }
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        ask(&self.served, method, params).await
    }

    /// A terminal with this script; its id.
    async fn shell(&self, script: &str) -> String {
        let params = json!({"sessionId": "s", "command": "sh", "args": ["-c", script]});
        let created = self.ask("terminal/create", params).await.expect("created");
        created["terminalId"].as_str().expect("an id").to_owned()
    }

    async fn of(&self, method: &str, terminal: &str) -> Result<Value, RpcError> {
        let params = json!({"sessionId": "s", "terminalId": terminal});
        self.ask(&format!("terminal/{method}"), params).await
    }

    async fn read(&self, path: &Path) -> Result<String, RpcError> {
        let params = json!({"sessionId": "s", "path": path});
        let read = self.ask("fs/read_text_file", params).await?;
        Ok(read["content"].as_str().expect("text").to_owned())
    }

    async fn write(&self, path: &Path, content: &str) -> Result<Value, RpcError> {
        let params = json!({"sessionId": "s", "path": path, "content": content});
        self.ask("fs/write_text_file", params).await
    }

    /// Closes the session; the kernel counts nothing that is left.
    async fn close(self) {
        let reason = hostler_session::CloseReason::Client;
        let report = self
            .session
            .close(reason, by(), None)
            .await
            .expect("closed");
        assert_eq!((report.remaining, report.proven), (0, true));
        assert_eq!(self.stage.living().len(), 0);
    }
}

async fn ask(served: &Served, method: &str, params: Value) -> Result<Value, RpcError> {
    let params = to_raw_value(&params).expect("raw");
    let answer = served.serve(method, &params, by()).await;
    let raw = answer.expect("a method that is served")?;
    Ok(serde_json::from_str(raw.get()).expect("JSON"))
}

#[tokio::test]
async fn other_methods_are_not_served() {
    let asking = Asking::new().await;
    let params = to_raw_value(&json!({})).expect("raw");
    for method in ["session/request_permission", "terminal/x", "fs/", ""] {
        assert!(asking.served.serve(method, &params, by()).await.is_none());
        assert!(!Served::serves(method));
    }
    for method in [
        "terminal/create",
        "terminal/output",
        "terminal/wait_for_exit",
        "terminal/kill",
        "terminal/release",
        "fs/read_text_file",
        "fs/write_text_file",
    ] {
        assert!(Served::serves(method));
        let refused = asking.ask(method, json!({"path": 3})).await;
        assert_eq!(refused.expect_err(method).code, RpcError::INVALID_PARAMS);
    }
    asking.close().await;
}
