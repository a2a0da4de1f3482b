//! Conversations that belong to another: opened in sessions below that one's, which closes them, and bounded in depth and number.

use hostler_ledger::SessionId;
use hostler_session::{By, CloseReason, SessionInfo};
use serde_json::{Value, json};

use crate::agents::Agents;
use crate::error::{Error, Result};

/// How far work may be handed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delegation {
    /// How many sessions may be above that of a conversation. 0: no conversation has a parent.
    pub max_depth: usize,
    /// How many sessions there may be below another one's at a time, for a conversation to be opened there too.
    pub max_children: usize,
}

impl Default for Delegation {
    fn default() -> Self {
        Self {
            max_depth: 3,
            max_children: 8,
        }
    }
}

/// How deep sessions can be followed up, whatever is configured: each step is a look-up.
const DEEPEST: usize = 1000;

/// The labels of a session whose work a turn of its parent's conversation has handed on.
pub fn delegated() -> Value {
    json!({ "delegated": true })
}

fn is_delegated(info: &SessionInfo, parent: &SessionId) -> bool {
    info.parent.as_ref() == Some(parent) && info.labels["delegated"] == true
}

impl Agents {
    /// Closes what the turn that is cancelled in this session has handed on, each by itself.
    pub(crate) fn end_delegated(&self, parent: &SessionId) {
        let children = self.sessions().list().into_iter();
        for child in children.filter(|child| is_delegated(&child.info(), parent)) {
            tokio::spawn(async move {
                let by = By::new("host", "the turn that handed its work on is cancelled");
                if let Err(error) = child.close(CloseReason::ParentClosed, by, None).await {
                    tracing::debug!(%error, "work that was handed on");
                }
            });
        }
    }

    /// Whether a conversation may be opened below this session.
    pub(crate) fn may_delegate(&self, parent: &SessionId) -> Result<()> {
        let limits = self.options().delegation;
        let mut above = 0;
        let mut next = Some(parent.clone());
        while let Some(id) = next
            && above < DEEPEST
        {
            above += 1;
            next = self
                .sessions()
                .get(id.as_str())
                .ok()
                .and_then(|session| session.info().parent);
        }
        if above > limits.max_depth {
            return Err(Error::Denied(format!(
                "work may be handed on {} sessions deep (delegation.max_depth)",
                limits.max_depth
            )));
        }
        let siblings = self.sessions().list().into_iter().filter(|session| {
            session.state().is_open() && session.info().parent.as_ref() == Some(parent)
        });
        if siblings.count() >= limits.max_children {
            return Err(Error::Busy {
                what: "sessions below this one (delegation.max_children)",
                limit: limits.max_children,
            });
        }
        Ok(())
    }
}
