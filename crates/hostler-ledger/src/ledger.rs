//! The handle.

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::change::Change;
use crate::error::{OpenError, ReadError, WriteError};
use crate::id::{ResourceId, Seq, SessionId};
use crate::record::{
    Event, EventFilter, HostRun, Pruned, Report, ResourceFilter, ResourceRecord, SessionFilter,
    SessionRecord, Stats,
};

/// What survives, once a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// A loss of power: each group of writes is synced to the disk before it is answered.
    #[default]
    Power,
    /// The death of the process, by whatever signal; a loss of power may take the last seconds, but leaves no damage.
    Process,
}

/// How to open a ledger.
#[derive(Debug, Clone, Default)]
pub struct LedgerOptions {
    /// What survives.
    pub durability: Durability,
    /// How long to wait for another host to let go of the ledger, before [`OpenError::Locked`]. Zero: not at all.
    pub wait: Duration,
}

/// A ledger that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Runs that never said goodbye, the oldest first. They are told again until
    /// [`Change::EarlierSettled`](crate::Change::EarlierSettled) is written.
    pub earlier: Vec<HostRun>,
}

/// The record of one state directory. Clones are handles on the same one.
#[derive(Debug, Clone)]
pub struct Ledger {}

#[expect(clippy::unimplemented, unused_variables, reason = "signatures first")]
impl Ledger {
    /// Opens with default options.
    pub fn open(state_dir: &Path, run: &HostRun) -> Result<Opened, OpenError> {
        unimplemented!()
    }

    /// Opens.
    pub fn open_with(
        state_dir: &Path,
        run: &HostRun,
        options: &LedgerOptions,
    ) -> Result<Opened, OpenError> {
        unimplemented!()
    }

    /// Writes: queued at the call, durable when the future answers.
    pub fn write(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Seq, WriteError>> + Send + use<> {
        std::future::ready(unimplemented!())
    }

    /// Writes, and nobody waits.
    pub fn write_later(&self, changes: Vec<Change>) {
        unimplemented!()
    }

    /// Says in the lock file where this host listens.
    pub fn announce(&self, address: &str) {
        unimplemented!()
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        unimplemented!()
    }

    /// Takes away what is older than `before` (Unix time in milliseconds) and nobody needs.
    pub fn prune(
        &self,
        before: u64,
    ) -> impl Future<Output = Result<Pruned, WriteError>> + Send + use<> {
        std::future::ready(unimplemented!())
    }

    /// What the writer has done.
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }

    /// Sessions, in the order in which they were opened.
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionRecord>, ReadError> {
        unimplemented!()
    }

    /// One session.
    pub fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, ReadError> {
        unimplemented!()
    }

    /// Resources, in the order in which they were intended.
    pub fn resources(&self, filter: &ResourceFilter) -> Result<Vec<ResourceRecord>, ReadError> {
        unimplemented!()
    }

    /// One resource.
    pub fn resource(&self, id: &ResourceId) -> Result<Option<ResourceRecord>, ReadError> {
        unimplemented!()
    }

    /// At most `limit` events after `after`.
    pub fn events(
        &self,
        after: Seq,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Vec<Event>, ReadError> {
        unimplemented!()
    }

    /// The number of the last event.
    pub fn last_seq(&self) -> Result<Seq, ReadError> {
        unimplemented!()
    }

    /// The last `limit` close reports, the newest first.
    pub fn reports(&self, limit: usize) -> Result<Vec<Report>, ReadError> {
        unimplemented!()
    }

    /// Writes what is queued, marks this run as ended and lets go. Blocks.
    pub fn close(self) -> Result<(), WriteError> {
        unimplemented!()
    }
}
