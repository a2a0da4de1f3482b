//! What a conversation's task and its handles share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_ledger::{ConversationId, ConversationRow, Ledger};
use hostler_session::Session;
use tokio::sync::mpsc;

use super::{Message, Ready, UsedCell};
use crate::agents::{Agents, AgentsOptions, NewConversation, Weakly, detail_of};
use crate::catalogue::AgentSpec;
use crate::error::{Error, Result};
use crate::follow::Log;
use crate::permission::PermissionPolicy;
use crate::served::Served;

/// What a conversation's task and its handles share.
pub(crate) struct Shared {
    pub(crate) id: ConversationId,
    pub(crate) session: Session,
    pub(crate) log: Arc<Log>,
    pub(crate) spec: AgentSpec,
    pub(crate) new: Arc<NewConversation>,
    pub(crate) permission: PermissionPolicy,
    pub(crate) options: AgentsOptions,
    pub(crate) served: Arc<Served>,
    pub(crate) mailbox: mpsc::UnboundedSender<Message>,
    pub(crate) used: UsedCell,
    /// Whether a turn was ever asked for.
    pub(crate) said: AtomicBool,
    pub(crate) row: Mutex<ConversationRow>,
    pub(crate) agents: Weakly,
    pub(crate) ledger: Ledger,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Conversation").field(&self.id).finish()
    }
}

impl Shared {
    pub(crate) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Puts a message in. Where nobody is there to hear it, the answer's channel is dropped with it, which tells.
    pub(crate) fn tell(&self, message: Message) {
        let _ = self.mailbox.send(message);
    }

    pub(crate) fn row(&self) -> ConversationRow {
        self.row
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut ConversationRow)) {
        change(&mut self.row.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn agents(&self) -> Result<Agents> {
        self.agents
            .get()
            .ok_or_else(|| Error::Closed(self.id.clone()))
    }

    /// What the ledger keeps besides the columns.
    pub(crate) fn detail(&self, ready: Option<&Ready>) -> serde_json::Value {
        detail_of(&self.new, ready)
    }

    /// It is live no more.
    pub(crate) fn forget(&self) {
        self.change(|row| row.state = "closed".into());
        if let Some(agents) = self.agents.get() {
            agents.forget(self);
        }
    }
}
