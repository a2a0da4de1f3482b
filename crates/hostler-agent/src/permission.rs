//! Who answers what an agent asks of people, when nobody is there.

use serde::{Deserialize, Serialize};

/// What becomes of an agent's request for permission while nobody is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PermissionPolicy {
    /// It waits for somebody to come, up to a deadline; then it is cancelled.
    #[default]
    Ask,
    /// The agent's own option that allows it, once rather than always.
    Allow,
    /// The agent's own option that rejects it, once rather than always.
    Deny,
}
