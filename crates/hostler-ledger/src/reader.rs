//! Reading a ledger that no host has open, or one has: for looking at it, without being one.

use std::path::Path;

use rusqlite::Connection;

use crate::error::{OpenError, ReadError};
use crate::fault::Fault;
use crate::id::Seq;
use crate::record::{Event, EventFilter, SessionFilter, SessionRecord};
use crate::{open, read, schema};

/// A ledger that is only read: it takes no lock, writes nothing and migrates nothing. Queries block, for the disk.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    dir: std::path::PathBuf,
}

impl Reader {
    /// Opens the ledger of a state directory.
    ///
    /// # Errors
    ///
    /// [`OpenError::Io`] where there is none, [`OpenError::Newer`] for one of a newer release, [`OpenError::Older`] for one that
    /// no host of this release has opened yet, [`OpenError::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self, OpenError> {
        let connection = open::reader(dir)?;
        let found = schema::version(&connection)
            .map_err(|error| Fault::of(&error, dir).opening(&dir.join("ledger.db"), "read"))?;
        let known = schema::VERSION;
        match found.cmp(&known) {
            std::cmp::Ordering::Greater => Err(OpenError::Newer { found, known }),
            std::cmp::Ordering::Less => Err(OpenError::Older { found, known }),
            std::cmp::Ordering::Equal => Ok(Self {
                connection,
                dir: dir.to_owned(),
            }),
        }
    }

    /// As [`Ledger::sessions`](crate::Ledger::sessions).
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionRecord>, ReadError> {
        self.read(|connection| read::sessions(connection, filter))
    }

    /// As [`Ledger::events`](crate::Ledger::events).
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn events(
        &self,
        after: Seq,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Vec<Event>, ReadError> {
        self.read(|connection| read::events(connection, after, limit, filter))
    }

    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        query(&self.connection).map_err(|error| Fault::of(&error, &self.dir).reading())
    }
}
