//! What the tools answer: a structure, and a short text that says the same.

use rmcp::model::{CallToolResult, ContentBlock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::held;
use crate::client::api::{Exit, Process};
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part};
use crate::client::show;

/// A living process that came of one that was started.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Member {
    pub(super) pid: u32,
    pub(super) start_time: u64,
    pub(super) command: String,
    #[serde(default)]
    pub(super) listens: Vec<Listening>,
}

/// Where one listens.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listening {
    pub(super) port: u16,
}

/// What came of a process and lives.
pub(super) async fn members(host: &mut Host, id: &str) -> Result<Vec<Member>> {
    host.read(&format!("/v1/processes/{}/members", part(id)))
        .await
}

/// The ports on which any of them listens.
pub(super) fn ports(members: &[Member]) -> Vec<u16> {
    let mut ports: Vec<u16> = members
        .iter()
        .flat_map(|member| member.listens.iter().map(|listening| listening.port))
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// A process and what came of it, at one moment.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Seen {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    command: String,
    /// `running`, `restarting` or `exited`.
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    /// How many processes live of what it has started.
    processes: usize,
    ports: Vec<u16>,
    output_bytes: u64,
    /// Whether this server has started it.
    mine: bool,
}

/// How it ended.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ended {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
}

impl From<Exit> for Ended {
    fn from(exit: Exit) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal.map(crate::client::signals::name),
        }
    }
}

impl Seen {
    pub(super) fn new(process: &Process, members: &[Member], mine: bool) -> Self {
        // Of one that is held, what it was asked to run.
        let own =
            |member: &&Member| held::command(process).is_none() || !held::holds(&member.command);
        let first = members
            .iter()
            .filter(own)
            .min_by_key(|member| member.start_time);
        Self {
            id: process.id.clone(),
            name: process.name.clone(),
            command: command(process),
            state: process.state.clone(),
            exit: process.exit.map(Ended::from),
            pid: first.map(|member| member.pid),
            processes: members.iter().filter(own).count(),
            ports: ports(members),
            output_bytes: process.output_bytes,
            mine,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.state != "exited"
    }

    /// Whether nothing that came of it lives.
    pub(super) fn is_gone(&self) -> bool {
        self.processes == 0
    }

    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// In a line.
    pub(super) fn line(&self) -> String {
        let name = self.name.as_ref().map(|name| format!(" ({name})"));
        let mut line = format!("{}{} ", self.id, name.unwrap_or_default());
        match &self.exit {
            Some(Ended {
                code: Some(code), ..
            }) if !self.is_running() => {
                line += &format!("exited with {code}");
            }
            Some(Ended {
                signal: Some(signal),
                ..
            }) if !self.is_running() => {
                line += &format!("was ended by {signal}");
            }
            _ if self.is_running() => line += "is running",
            _ => line += "has ended",
        }
        if !self.is_running() && self.processes > 0 {
            line += &format!(", but {} of its processes still run", self.processes);
        }
        if !self.ports.is_empty() {
            line += &format!(", listens on port {}", list(&self.ports));
        }
        line + &format!(": {}", self.command)
    }
}

fn command(process: &Process) -> String {
    match held::command(process) {
        Some(command) => show::cut(&show::plain(command), 200),
        None => show::cut(&show::command(&process.argv), 200),
    }
}

/// Numbers, as in a sentence.
pub(super) fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    items.join(", ")
}

/// An answer.
#[derive(Debug)]
pub(super) struct Told {
    text: String,
    value: Value,
}

impl Told {
    pub(super) fn new(text: impl Into<String>, value: impl Serialize) -> Result<Self> {
        Ok(Self {
            text: text.into(),
            value: serde_json::to_value(value)
                .map_err(|error| Failure::Nonsense(error.to_string()))?,
        })
    }
}

/// As the protocol wants it; what failed is for the model to read, in one line.
pub(super) fn result(told: Result<Told>) -> CallToolResult {
    match told {
        Ok(Told { text, value }) => {
            let mut result = CallToolResult::structured(value);
            result.content = vec![ContentBlock::text(text)];
            result
        }
        Err(failure) => {
            let line = show::plain(&failure.to_string());
            let mut result = CallToolResult::structured_error(json!({ "error": line }));
            result.content = vec![ContentBlock::text(line)];
            result
        }
    }
}
