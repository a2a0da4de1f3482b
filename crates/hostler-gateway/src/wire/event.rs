//! The event log.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// When: Unix time in milliseconds.
    pub time: u64,
    /// What happened, as `noun.verb`.
    pub kind: String,
    /// The session that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The process, terminal or other resource that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The job that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Who asked for it.
    pub who: String,
    /// Why.
    pub why: String,
    /// What else is remembered.
    #[schema(value_type = Object)]
    pub detail: Value,
}

impl From<hostler_ledger::Event> for Event {
    fn from(event: hostler_ledger::Event) -> Self {
        Self {
            seq: event.seq.0,
            time: event.at,
            kind: event.kind,
            session: event.session.map(String::from),
            resource: event.resource.map(String::from),
            job: event.job.map(String::from),
            who: event.who,
            why: event.why,
            detail: event.detail,
        }
    }
}
