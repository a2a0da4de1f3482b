//! The host itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// That the host answers.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
    /// Its release.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime: f64,
}

/// The host.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Host {
    /// Its pid.
    pub pid: u32,
    /// Its release.
    pub version: String,
    /// Where all state is.
    pub state_dir: String,
    /// When it started: Unix time in milliseconds.
    pub started: u64,
    /// Seconds since then.
    pub uptime: f64,
    /// Where it listens.
    pub addresses: Vec<String>,
    /// How sessions that ask for nothing else are held together: `cgroup` or `tree`.
    pub contain: String,
    /// What that leaves open.
    pub leaves_open: String,
    /// How many sessions are open.
    pub sessions: u64,
    /// How many processes and terminals run in them.
    pub processes: u64,
    /// How many connections there are to this API.
    pub connections: u64,
    /// Whether the host is stopping.
    pub draining: bool,
}

/// How to stop.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Close also the sessions whose policy is to be kept for the next host.
    pub all: bool,
    /// How many seconds the sessions have.
    pub deadline: Option<f64>,
}
