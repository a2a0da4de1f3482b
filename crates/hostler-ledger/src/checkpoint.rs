//! Checkpoints: what is in the log is written back into the file by a thread of its own, for that waits for the disk, and who writes
//! is not to.
//!
//! SQLite begins the log anew with the first commit after all of it was written back. Beside writers that never pause that does not
//! come about by itself, so once the log is long they wait for its last piece.

use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;

use crate::desk::Desk;
use crate::error::OpenError;
use crate::open;

/// After so many commits the log is written back.
const COMMITS: u32 = 250;

/// So many pages (of 4 KiB) of the log have writers wait once, until the last of them is written back.
const LONG: i64 = 4096;

/// The thread, and what tells it to begin.
#[derive(Debug)]
pub(crate) struct Checkpoints {
    due: SyncSender<()>,
    /// How many commits were made since it was told.
    commits: u32,
}

/// What it does, and its end.
#[derive(Debug)]
pub(crate) struct Checkpointer {
    connection: Connection,
    told: Receiver<()>,
}

impl Checkpoints {
    /// Opens the ledger in `dir` for them. Blocks.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub(crate) fn open(dir: &Path) -> Result<(Self, Checkpointer), OpenError> {
        let connection = open::checkpointer(dir)?;
        let (due, told) = mpsc::sync_channel(1);
        let this = Self { due, commits: 0 };
        Ok((this, Checkpointer { connection, told }))
    }

    /// A commit was made.
    pub(crate) fn committed(&mut self) {
        self.commits += 1;
        if self.commits >= COMMITS {
            self.commits = 0;
            // It is at it, or has been told.
            let _ = self.due.try_send(());
        }
    }
}

impl Checkpointer {
    /// Begins the thread. It ends, its connection closed, after [`Checkpoints`] is dropped.
    ///
    /// # Errors
    ///
    /// Those of spawning a thread.
    pub(crate) fn spawn(self, desk: &Arc<Desk>) -> std::io::Result<JoinHandle<()>> {
        let desk = Arc::downgrade(desk);
        let name = "ledger-log".to_owned();
        thread::Builder::new()
            .name(name)
            .spawn(move || self.run(&desk))
    }

    fn run(self, desk: &Weak<Desk>) {
        let mut long = LONG;
        while self.told.recv().is_ok() {
            // Where it cannot be done now, the log grows until the next time.
            let Ok((log, _)) = checkpoint(&self.connection) else {
                continue;
            };
            if log >= long
                && let Some(desk) = desk.upgrade()
            {
                let _waiting = desk.lock();
                long = match checkpoint(&self.connection) {
                    Ok((log, written)) if written == log => LONG,
                    // Somebody reads what was there before: who writes is made to wait again when there is more.
                    _ => log + log / 2,
                };
            } else if log < LONG {
                long = LONG;
            }
        }
    }
}

/// Writes what is in the log back into the file, as far as nobody reads what was there before, and syncs both. How many pages the log
/// had when that began, and how many of them are written back.
fn checkpoint(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}
