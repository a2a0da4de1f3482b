//! The durable record of sessions, resources and what became of them.

mod change;
mod error;
mod id;
mod ledger;
mod record;

pub use change::{By, Change, EventRow, Identity, ResourceRow, SessionRow};
pub use error::{OpenError, ReadError, Refusal, WriteError};
pub use id::{IdError, ResourceId, Seq, SessionId};
pub use ledger::{Durability, Ledger, LedgerOptions, Opened};
pub use record::{
    Closed, Event, EventFilter, HostRun, Pruned, Released, Report, ResourceFilter, ResourceRecord,
    SessionFilter, SessionRecord, Stats, Which,
};
