//! Conversations that belong to another: opened in sessions below that one's, which closes them, and bounded in depth and number.

use hostler_ledger::SessionId;

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

impl Agents {
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
