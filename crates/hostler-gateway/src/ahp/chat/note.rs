//! What clients dispatched, as it is kept in the transcript.

use ahp_types::actions::{ActionOrigin, StateAction};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::acp::message::{Members, raw};
use crate::ahp::hub::{Act, Dispatched};

/// The member of `_meta` that holds it, where it is a part of something that ACP has a word for.
pub(super) const KEY: &str = "dev.hostler/ahp";

/// An action that a client dispatched.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ahp) struct Note {
    /// As the client wrote it.
    action: Box<RawValue>,
    client_id: String,
    client_seq: i64,
    /// Whether it is the session's, not the chat's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) session: bool,
}

/// A notice, as far as clients have a part in it.
#[derive(Debug, Deserialize)]
pub(super) struct Said {
    pub(super) notice: String,
    pub(super) ahp: Option<Note>,
    pub(super) order: Option<Vec<u64>>,
}

impl Note {
    /// Of what a client dispatched to the chat.
    pub(in crate::ahp) fn new(dispatched: &Dispatched) -> Self {
        Self {
            action: dispatched.raw.clone(),
            client_id: dispatched.origin.client_id.clone(),
            client_seq: dispatched.origin.client_seq,
            session: false,
        }
    }

    /// Of what a client dispatched to the session.
    pub(in crate::ahp) fn of_session(dispatched: &Dispatched) -> Self {
        Self {
            session: true,
            ..Self::new(dispatched)
        }
    }

    /// As JSON.
    pub(in crate::ahp) fn raw(&self) -> Box<RawValue> {
        raw(serde_json::to_string(self).unwrap_or_default())
    }

    /// The one in the `_meta` of these parameters, or of this result.
    pub(super) fn in_meta(of: &RawValue) -> Option<Self> {
        let meta = Members::of(of).get("_meta")?;
        let note = Members::of(meta).get(KEY)?;
        serde_json::from_str(note.get()).ok()
    }

    /// The action.
    pub(super) fn action(&self) -> Option<StateAction> {
        serde_json::from_str(self.action.get()).ok()
    }

    /// What is published for it. `action` is its own.
    pub(super) fn act(&self, action: StateAction) -> Act {
        Act {
            action,
            raw: Some(self.action.clone()),
            origin: Some(ActionOrigin {
                client_id: self.client_id.clone(),
                client_seq: self.client_seq,
            }),
        }
    }
}
