//! What a session owns and must release.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use hostler_ledger::ResourceId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::report::Outcome;

/// The future of a release.
pub type Releasing<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Anything that a session owns and that must be released when it ends: an agent, a browser, a sandbox, a lease.
/// Processes and terminals are the first two.
///
/// What it starts as processes belongs into the session's tree, where the kernel counts it; the release here is for what is
/// beyond: to say goodbye, to delete, to give back.
pub trait Resource: Send + Sync {
    /// What it is, in one word: `agent`, `browser`, `lease`.
    fn kind(&self) -> &'static str;

    /// What people are shown of it, in one line.
    fn shown(&self) -> String;

    /// What is worth knowing of it, for listings.
    fn describe(&self) -> Value {
        Value::Null
    }

    /// What must be there while this one is: it is released before them.
    fn depends_on(&self) -> Vec<ResourceId> {
        Vec::new()
    }

    /// Whether something is under way in it that holds an idle end off.
    fn busy(&self) -> bool {
        false
    }

    /// Releases it, with so much grace. It is called once; it may be dropped, and counts as failed, when it takes much longer
    /// than the grace. A panic in it is caught and recorded; other releases go on.
    fn release(&mut self, grace: Duration) -> Releasing<'_>;
}

/// How a resource stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResourceState {
    /// Its start is in the ledger; it is not there yet.
    Starting,
    /// It is there.
    Running,
    /// It failed and is started again after a pause.
    Restarting,
    /// It is being released.
    Releasing,
    /// It has ended; only its output and its exit are still there.
    Ended,
    /// It could not be released.
    Stuck,
}

/// A resource in a listing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceInfo {
    /// Which.
    pub id: ResourceId,
    /// Its kind: `process`, `terminal`, …
    pub kind: String,
    /// Its name, if it was given one.
    pub name: Option<String>,
    /// For people.
    pub shown: String,
    /// How it stands.
    pub state: ResourceState,
    /// More, by kind.
    pub detail: Value,
}
