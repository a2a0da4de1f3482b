//! Sessions.

use std::collections::BTreeMap;
use std::path::PathBuf;

use hostler_session::{SessionInfo, SessionOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{CloseReport, Policy, PolicyChange};
use crate::error::ApiError;

/// A session to open.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewSession {
    /// A name, by which it can be found as well as by its id; free again once it has closed. Letters, digits, `-`, `_` and
    /// `.`, up to 64.
    pub name: Option<String>,
    /// Where its processes start, unless they say otherwise. Without: `/`.
    #[schema(value_type = Option<String>)]
    pub cwd: Option<PathBuf>,
    /// Variables for all its processes, besides those that the host allows.
    pub env: BTreeMap<String, String>,
    /// The session (id or name) that it belongs to, and closes before.
    pub parent: Option<String>,
    /// What is to be different from the host's defaults.
    pub policy: PolicyChange,
}

impl NewSession {
    /// As the sessions want it.
    pub(crate) fn options(
        self,
        sessions: &hostler_session::Sessions,
        defaults: &hostler_session::Policy,
    ) -> Result<SessionOptions, ApiError> {
        let parent = match &self.parent {
            Some(parent) => Some(sessions.get(parent)?.id().clone()),
            None => None,
        };
        if let Some(cwd) = self.cwd.as_ref().filter(|cwd| !cwd.is_absolute()) {
            let message = format!("`cwd`: {} is not an absolute path", cwd.display());
            return Err(ApiError::bad(message));
        }
        Ok(SessionOptions {
            name: self.name,
            parent,
            cwd: self.cwd,
            env: self.env,
            policy: self.policy.over(defaults)?,
            labels: Value::Null,
        })
    }
}

/// What of a session is to be different.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionChange {
    /// Its policy.
    #[serde(default)]
    pub policy: PolicyChange,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The session that it belongs to.
    pub parent: Option<String>,
    /// `starting`, `active`, `detached`, `closing`, `closed` or `stuck`.
    pub state: String,
    /// Why it is closing, closed or stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was opened: Unix time in milliseconds.
    pub opened: u64,
    /// When it closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed: Option<u64>,
    /// Where its processes start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// What it is allowed. Not known of every session that has closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// How its processes are held together: `tree`, `cgroup` or `pidns`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contain: Option<String>,
    /// Its keeper's pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keeper: Option<u32>,
    /// How many clients are attached.
    pub clients: u32,
    /// How many processes and terminals run.
    pub processes: u32,
    /// How many of them in the foreground.
    pub foreground: u32,
    /// How many of them in the background.
    pub background: u32,
    /// Whether an earlier host had it.
    pub adopted: bool,
    /// How many processes could not be ended, where it is stuck.
    pub remaining: u64,
    /// What closing it came to, once it has closed or is stuck.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<CloseReport>,
}

impl From<SessionInfo> for Session {
    fn from(info: SessionInfo) -> Self {
        Self {
            id: info.id.to_string(),
            name: info.name,
            parent: info.parent.map(String::from),
            state: info.state.as_str().to_owned(),
            reason: info.reason.map(|reason| reason.to_string()),
            opened: info.opened,
            closed: None,
            cwd: info.cwd.map(|cwd| cwd.to_string_lossy().into_owned()),
            policy: Some(Policy::from(&info.policy)),
            contain: info.contain,
            keeper: info.keeper,
            clients: info.clients,
            processes: info.foreground + info.background,
            foreground: info.foreground,
            background: info.background,
            adopted: info.adopted,
            remaining: info.remaining,
            report: None,
        }
    }
}

impl Session {
    /// An open one, with its report where it has one.
    pub(crate) fn open(session: &hostler_session::Session) -> Self {
        let report = session.report();
        Self {
            report: report.as_deref().map(CloseReport::from),
            ..Self::from(session.info())
        }
    }

    /// One that has closed, from the ledger.
    pub(crate) fn recorded(record: hostler_ledger::SessionRecord) -> Self {
        let of = |key: &str| record.detail.get(key).cloned();
        let policy = of("policy").and_then(|policy| serde_json::from_value(policy).ok());
        let closed = record.closed;
        let report = closed.as_ref().and_then(|closed| report(&closed.report));
        Self {
            id: record.id.to_string(),
            name: record.name,
            parent: record.parent.map(String::from),
            state: record.state,
            reason: closed.as_ref().map(|closed| closed.reason.clone()),
            opened: record.opened,
            closed: closed.map(|closed| closed.at),
            cwd: of("cwd").and_then(|cwd| cwd.as_str().map(str::to_owned)),
            policy: policy.map(|policy: hostler_session::Policy| Policy::from(&policy)),
            contain: None,
            keeper: None,
            clients: 0,
            processes: 0,
            foreground: 0,
            background: 0,
            adopted: false,
            remaining: 0,
            report,
        }
    }
}

/// The report that the ledger has.
pub(crate) fn report(value: &Value) -> Option<CloseReport> {
    let report: hostler_session::CloseReport = serde_json::from_value(value.clone()).ok()?;
    Some(CloseReport::from(&report))
}

/// A living process, as the kernel sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CensusEntry {
    /// Whose it is: the id of the session.
    pub session: String,
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its parent's pid.
    pub parent: u32,
    /// Its name.
    pub command: String,
    /// The kernel's letter for its state: `R`, `S`, `D`, `T`, `Z`, …
    pub state: String,
    /// Resident memory in bytes.
    pub rss: u64,
    /// CPU time it used so far, in milliseconds.
    pub cpu_ms: u64,
    /// The process or terminal that it is, if it is one itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
}
