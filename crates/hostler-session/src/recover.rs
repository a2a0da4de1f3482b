//! What is done, at the start of a host, about what earlier ones left behind.

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::SessionId;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::policy::seconds;
use crate::report::CloseReport;
use crate::sessions::Host;

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Sessions that go on here.
    pub adopted: Vec<SessionId>,
    /// Sessions that were ended, or had ended, with what that came to.
    pub swept: Vec<CloseReport>,
    /// Sessions whose keeper lives and cannot be reached; they are tried on and shown as stuck. With the reason.
    pub unreached: Vec<(SessionId, String)>,
    /// Other things that were removed: sockets, directories, cgroups.
    pub removed: Vec<String>,
    /// What looked left behind and was not touched, for it could not be proven to be ours.
    pub untouched: Vec<String>,
    /// How long it took.
    #[serde(with = "seconds", rename = "took_seconds")]
    pub took: Duration,
}

#[expect(clippy::unimplemented, reason = "signatures first")]
pub(crate) async fn recover(_host: &Arc<Host>) -> Result<Recovery> {
    unimplemented!()
}
