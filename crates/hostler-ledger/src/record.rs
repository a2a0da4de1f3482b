//! What can be read.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::change::Identity;
use crate::id::{JobId, ResourceId, Seq, SessionId};

/// A host that ran on this ledger, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostRun {
    /// The boot in which it ran: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// Its version.
    pub version: String,
}

/// A session as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The session that it belongs to. `None` also when that was pruned.
    pub parent: Option<SessionId>,
    /// Its state: `starting`, then what [`Change::SessionState`](crate::Change::SessionState) said, then `closed`.
    pub state: String,
    /// What else is kept with it.
    pub detail: Value,
    /// When it was opened: Unix time in milliseconds.
    pub opened: u64,
    /// Its end, when it has ended.
    pub closed: Option<Closed>,
}

/// The end of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// Why, as a word of the close reasons.
    pub reason: String,
    /// The close report.
    pub report: Value,
}

/// The close report of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whose.
    pub session: SessionId,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// The end, with the report.
    pub closed: Closed,
}

/// A resource as the ledger has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceRecord {
    /// Its id.
    pub id: ResourceId,
    /// The session that owns it.
    pub session: SessionId,
    /// What it is: process, terminal, …
    pub kind: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What else is kept with it.
    pub detail: Value,
    /// When it was intended: Unix time in milliseconds.
    pub intended: u64,
    /// How the kernel knows it. `None` when it was only intended: it may exist or not.
    pub identity: Option<Identity>,
    /// What became of it, when it is gone.
    pub released: Option<Released>,
}

/// The end of a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Released {
    /// When: Unix time in milliseconds.
    pub at: u64,
    /// What became of it.
    pub outcome: Value,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub seq: Seq,
    /// When it was written: Unix time in milliseconds. The clock may be set back; the number is the order.
    pub at: u64,
    /// The session that it is about.
    pub session: Option<SessionId>,
    /// The resource that it is about.
    pub resource: Option<ResourceId>,
    /// The job that it is about.
    #[serde(default)]
    pub job: Option<JobId>,
    /// What happened, as `noun.verb`.
    pub kind: String,
    /// Who asked for it.
    pub who: String,
    /// Why.
    pub why: String,
    /// What else is remembered.
    pub detail: Value,
}

/// Which sessions, or jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Which {
    /// Those that are not closed, or have not ended.
    #[default]
    Open,
    /// Those that are.
    Closed,
    /// Both.
    All,
}

/// Which sessions are wanted. The default is all that are open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFilter {
    /// Open, closed or both.
    pub which: Which,
    /// Only the children of this one.
    pub parent: Option<SessionId>,
    /// Only those of this name.
    pub name: Option<String>,
}

/// Which resources are wanted. The default is all that were not released.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResourceFilter {
    /// Only those of this session.
    pub session: Option<SessionId>,
    /// Those that were released too.
    pub released: bool,
}

/// Which events are wanted. The default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Only those of this session.
    pub session: Option<SessionId>,
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those of this kind.
    pub kind: Option<String>,
}

/// What a prune took away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Closed sessions.
    pub sessions: u64,
    /// Released resources.
    pub resources: u64,
    /// Events.
    pub events: u64,
    /// Conversations, with their transcripts.
    pub conversations: u64,
    /// Jobs that have ended, with the runs of their steps.
    pub jobs: u64,
}

/// What the writer has done since the ledger was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Transactions that were committed.
    pub commits: u64,
    /// Writes that were in them.
    pub writes: u64,
    /// Writes nobody waits for which could not be made yet; they are tried again.
    pub overdue: u64,
    /// Writes nobody waited for which were given up: refused, or too many were overdue.
    pub lost: u64,
}
