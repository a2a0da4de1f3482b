//! An agent's side of `hostler mcp`.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rmcp::ServiceExt;
use rmcp::model::{CallToolRequestParams, ClientRequest, Request};
use rmcp::service::{PeerRequestOptions, RequestHandle, RoleClient, RunningService};
use serde_json::{Value, json};
use tokio::net::unix::pipe;

use crate::support::{Client, long, wait_until};

/// A server in a process of its own, and the client of it.
pub(crate) struct Mcp {
    service: RunningService<RoleClient, ()>,
    child: Child,
}

impl Mcp {
    /// One for this session.
    pub(crate) async fn new(host: &Client, session: &str) -> Self {
        let state_dir = host.socket.parent().expect("the state directory");
        let mut child = Command::new(env!("CARGO_BIN_EXE_hostler"))
            .arg("mcp")
            .env("HOSTLER_STATE_DIR", state_dir)
            .env("HOSTLER_SESSION", session)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("hostler mcp");
        let stdout: OwnedFd = child.stdout.take().expect("a pipe").into();
        let stdin: OwnedFd = child.stdin.take().expect("a pipe").into();
        let pipes = (
            pipe::Receiver::from_owned_fd(stdout).expect("a pipe"),
            pipe::Sender::from_owned_fd(stdin).expect("a pipe"),
        );
        let service = ().serve(pipes).await.expect("a handshake");
        Self { service, child }
    }

    /// The names of its tools.
    pub(crate) async fn tools(&self) -> Vec<String> {
        let tools = self.service.list_all_tools().await.expect("tools");
        tools
            .into_iter()
            .map(|tool| tool.name.to_string())
            .collect()
    }

    /// What a tool answers: whether that is an error, its text, its structure.
    pub(crate) async fn ask(&self, tool: &'static str, arguments: Value) -> (bool, String, Value) {
        let Value::Object(arguments) = arguments else {
            panic!("arguments are an object");
        };
        let call = CallToolRequestParams::new(tool).with_arguments(arguments);
        let answer = tokio::time::timeout(long(), self.service.call_tool(call));
        let answer = answer.await.expect("in time").expect("an answer");
        let text: Vec<String> = answer
            .content
            .iter()
            .filter_map(|block| Some(block.as_text()?.text.clone()))
            .collect();
        (
            answer.is_error == Some(true),
            text.join("\n"),
            answer.structured_content.unwrap_or_default(),
        )
    }

    /// Asks a tool and waits for nothing: what takes it back, and what waits for its answer.
    pub(crate) async fn begin(
        &self,
        tool: &'static str,
        arguments: Value,
    ) -> RequestHandle<RoleClient> {
        let Value::Object(arguments) = arguments else {
            panic!("arguments are an object");
        };
        let call = CallToolRequestParams::new(tool).with_arguments(arguments);
        let call = ClientRequest::CallToolRequest(Request::new(call));
        let options = PeerRequestOptions::no_options();
        let asked = self.service.send_cancellable_request(call, options).await;
        asked.expect("sent")
    }

    /// Kills the server.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    /// What a tool answers that does what it is told.
    pub(crate) async fn ok(&self, tool: &'static str, arguments: Value) -> Value {
        let (failed, text, value) = self.ask(tool, arguments).await;
        assert!(!failed, "{tool}: {text}");
        value
    }

    /// The line of one that does not.
    pub(crate) async fn refused(&self, tool: &'static str, arguments: Value) -> String {
        let (failed, text, _) = self.ask(tool, arguments).await;
        assert!(failed, "{tool}: {text}");
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        text
    }

    /// Starts a command, and gives its id.
    pub(crate) async fn start(&self, command: &str) -> String {
        let started = self
            .ok("process_start", json!({ "command": command }))
            .await;
        started["id"].as_str().expect("an id").to_owned()
    }

    /// Waits until it listens, and gives the ports.
    pub(crate) async fn listening(&self, id: &str, count: usize) -> Vec<u16> {
        let asked = json!({ "process": id, "until": "port" });
        loop {
            let waited = self.ok("process_wait", asked.clone()).await;
            assert_eq!(waited["reached"], true, "{waited}");
            let found = ports(&waited["process"]["ports"]);
            if found.len() >= count {
                return found;
            }
        }
    }

    /// Closes its input, and waits for its end.
    pub(crate) async fn leave(mut self) {
        self.service.close().await.expect("closed");
        let mut status = None;
        wait_until("the server ends with its input", || {
            status = self.child.try_wait().expect("waiting");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()));
    }
}

impl Drop for Mcp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn ports(value: &Value) -> Vec<u16> {
    serde_json::from_value(value.clone()).expect("ports")
}

/// Whether a server can have this port.
pub(crate) fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A web server on a port of the kernel's choice.
pub(crate) const SERVER: &str = "python3 -u -m http.server 0 --bind 127.0.0.1";
