//! What came of a process.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A living process that came of one of a session's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
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
    /// Where it listens for TCP connections.
    pub listens: Vec<Listening>,
}

/// A TCP socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Listening {
    /// The address; `0.0.0.0` or `::` for all.
    pub address: String,
    /// The port.
    pub port: u16,
}

impl From<hostler_session::Member> for Member {
    fn from(member: hostler_session::Member) -> Self {
        let listens = member.listens.into_iter().map(|listening| Listening {
            address: listening.ip.to_string(),
            port: listening.port,
        });
        Self {
            pid: member.info.id.pid,
            start_time: member.info.id.start_time,
            parent: member.info.parent,
            command: member.info.command.to_string(),
            state: char::from(member.info.state).to_string(),
            rss: member.info.resident,
            listens: listens.collect(),
        }
    }
}
