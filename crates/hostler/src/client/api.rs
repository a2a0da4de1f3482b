//! What the host answers, as far as the client looks into it. What it does not know is ignored: hosts may be newer.

use serde::Deserialize;
use serde_json::Value;

/// A session in a listing.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Session {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) parent: Option<String>,
    #[serde(default)]
    pub(crate) opened: u64,
    #[serde(default)]
    pub(crate) contain: Value,
    #[serde(default)]
    pub(crate) processes: Value,
}

/// A process or terminal.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Process {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) argv: Vec<String>,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) pid: Option<u32>,
    #[serde(default)]
    pub(crate) start_time: Option<u64>,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) exit: Option<Exit>,
    #[serde(default)]
    pub(crate) tty: Value,
    #[serde(default)]
    pub(crate) started: Option<u64>,
    #[serde(default)]
    pub(crate) output_bytes: u64,
}

impl Process {
    /// Whether it is on a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        !matches!(self.tty, Value::Null | Value::Bool(false))
    }

    /// Whether it has ended for good.
    pub(crate) fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "running" | "starting" | "restarting")
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Exit {
    #[serde(default)]
    pub(crate) code: Option<i32>,
    #[serde(default)]
    pub(crate) signal: Option<i32>,
    #[serde(default)]
    pub(crate) status: Option<u8>,
}

impl Exit {
    /// What a shell would show.
    pub(crate) fn status(&self) -> u8 {
        match *self {
            Self {
                status: Some(status),
                ..
            } => status,
            Self {
                code: Some(code), ..
            } => code as u8,
            Self {
                signal: Some(signal),
                ..
            } => 128u8.wrapping_add(signal as u8),
            _ => 1,
        }
    }

    /// In words.
    pub(crate) fn shown(&self) -> String {
        match *self {
            Self {
                code: Some(code), ..
            } => format!("exited with {code}"),
            Self {
                signal: Some(signal),
                ..
            } => format!("ended by {}", super::signals::name(signal)),
            _ => "ended".into(),
        }
    }
}

/// A living process, from the kernel.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Living {
    pub(crate) session: String,
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) start_time: u64,
    #[serde(default)]
    pub(crate) parent: u32,
    #[serde(default)]
    pub(crate) command: String,
    #[serde(default)]
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) rss: u64,
    #[serde(default)]
    pub(crate) cpu_ms: f64,
    #[serde(default)]
    pub(crate) process: Option<String>,
}

/// An entry of the event log.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Event {
    pub(crate) seq: u64,
    #[serde(default)]
    pub(crate) time: u64,
    #[serde(default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) session: Option<String>,
    #[serde(default)]
    pub(crate) resource: Option<String>,
    #[serde(default)]
    pub(crate) job: Option<String>,
    #[serde(default)]
    pub(crate) who: String,
    #[serde(default)]
    pub(crate) why: String,
    #[serde(default)]
    pub(crate) detail: Value,
}
