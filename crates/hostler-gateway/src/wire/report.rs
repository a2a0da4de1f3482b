//! What closing a session came to.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::By;

/// What closing a session came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CloseReport {
    /// The session.
    pub session: String,
    /// Its name.
    pub name: Option<String>,
    /// Why it was closed: `client`, `disconnect`, `idle`, `expired`, `reset`, `spawn_cancelled`, `job_end`, `parent_closed`,
    /// `agent_gone`, `limit`, `shutdown` or `host_died`.
    pub reason: String,
    /// Who asked for it, and why.
    pub by: By,
    /// From the start to the end, in milliseconds.
    pub took_ms: f64,
    /// Every resource that it owned, with what became of it.
    pub released: Vec<Released>,
    /// Every process that was still alive when the close began.
    pub left: Vec<LeftProcess>,
    /// Who else was connected to a process of it that listened on a socket; looked for while another session is open.
    #[serde(default)]
    pub connected: Vec<Connected>,
    /// What was handed to sessions of its own.
    pub kept: Vec<String>,
    /// How many processes are still alive, counted by the kernel.
    pub remaining: u64,
    /// Whether that count comes from the kernel; it cannot where keeper and zygote were both lost.
    pub proven: bool,
    /// The resources that could not be released. They stay owned and are tried again.
    pub stuck: Vec<String>,
    /// The sessions that belonged to it, which closed before it.
    #[schema(no_recursion)]
    pub children: Vec<CloseReport>,
    /// Whether the report is in the ledger.
    pub recorded: bool,
}

/// One resource in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Released {
    /// Which.
    pub id: String,
    /// `process`, `terminal`, …
    pub kind: String,
    /// For people: its name, or the start of its command.
    pub name: String,
    /// `exited`, `terminated`, `killed`, `released`, `kept`, `never_started`, `lost`, `failed` or `stuck`.
    pub how: String,
    /// How long that took, from the start of the close, in milliseconds.
    pub ms: f64,
    /// More, by `how`: `code`, `signal`, `session`, `why`.
    #[schema(value_type = Object)]
    pub detail: Value,
}

/// A process that was still there when the session closed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LeftProcess {
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its name.
    pub command: String,
    /// `exited`, `terminated`, `killed` or `stuck`.
    pub how: String,
    /// How long that took, in milliseconds.
    pub ms: f64,
    /// The process or terminal that it is, if it is one itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
}

/// A process that was connected to one that the close ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Connected {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub command: String,
    /// The session that it is of, where it is of one of this host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What it was connected to.
    pub to: Listener,
}

/// A process of the session, on a socket of which others were connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Listener {
    /// Its pid.
    pub pid: u32,
    /// Its name.
    pub command: String,
}

fn millis(time: std::time::Duration) -> f64 {
    // To the microsecond.
    (time.as_secs_f64() * 1e6).round() / 1e3
}

impl From<&hostler_session::CloseReport> for CloseReport {
    fn from(report: &hostler_session::CloseReport) -> Self {
        let ids =
            |ids: &[hostler_session::ResourceId]| ids.iter().map(ToString::to_string).collect();
        Self {
            session: report.session.to_string(),
            name: report.name.clone(),
            reason: report.reason.to_string(),
            by: report.by.clone().into(),
            took_ms: millis(report.took),
            released: report.released.iter().map(Released::from).collect(),
            left: report.processes.iter().map(LeftProcess::from).collect(),
            connected: report.connected.iter().map(Connected::from).collect(),
            kept: ids(&report.kept),
            remaining: report.remaining,
            proven: report.proven,
            stuck: ids(&report.stuck),
            children: report.children.iter().map(Self::from).collect(),
            recorded: report.recorded,
        }
    }
}

impl From<&hostler_session::Released> for Released {
    fn from(released: &hostler_session::Released) -> Self {
        // The outcome is `how`, and whatever goes with it.
        let mut detail = match serde_json::to_value(&released.outcome) {
            Ok(Value::Object(outcome)) => outcome,
            _ => Map::new(),
        };
        let how = match detail.remove("how") {
            Some(Value::String(how)) => how,
            _ => String::new(),
        };
        detail.retain(|_, value| !value.is_null());
        Self {
            id: released.id.to_string(),
            kind: released.kind.clone(),
            name: released.shown.clone(),
            how,
            ms: millis(released.took),
            detail: Value::Object(detail),
        }
    }
}

impl From<&hostler_session::LeftProcess> for LeftProcess {
    fn from(left: &hostler_session::LeftProcess) -> Self {
        Self {
            pid: left.pid,
            start_time: left.start_time,
            command: left.command.clone(),
            how: left.how.clone(),
            ms: millis(left.took),
            resource: left.resource.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&hostler_session::Connected> for Connected {
    fn from(connected: &hostler_session::Connected) -> Self {
        Self {
            pid: connected.pid,
            command: connected.command.clone(),
            session: connected.session.as_ref().map(ToString::to_string),
            to: Listener {
                pid: connected.to.pid,
                command: connected.to.command.clone(),
            },
        }
    }
}
