//! Opening the file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::error::OpenError;
use crate::fault::Fault;
use crate::ledger::Durability;
use crate::schema;

/// The file's name in the state directory.
pub(crate) const NAME: &str = "ledger.db";
/// Up to this size, in bytes, the whole file is checked when it is opened (about 0.2 s).
const CHECKED: u64 = 64 << 20;
/// How long to wait for another program (a shell on the ledger, say) that writes.
const BUSY: Duration = Duration::from_secs(5);
/// Statements kept prepared: more than there are.
const STATEMENTS: usize = 64;

/// What SQLite could not do to the ledger in `dir`: `doing` is the verb.
pub(crate) fn failed(dir: &Path, error: &rusqlite::Error, doing: &str) -> OpenError {
    let path = dir.join(NAME);
    Fault::of(error, dir).opening(&path, &format!("{doing} {}", path.display()))
}

/// Makes the state directory where there is none, for its owner alone.
pub(crate) fn state_dir(dir: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| {
            Fault::of_io(&error).opening(&dir.join(NAME), &format!("make {}", dir.display()))
        })
}

/// A connection that writes, to a ledger of the present schema; made where there is none.
pub(crate) fn writer(dir: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let path = dir.join(NAME);
    let corrupt = |found: &str| OpenError::Corrupt {
        path: path.clone(),
        found: found.to_owned(),
    };
    let failed = |error: rusqlite::Error| failed(dir, &error, "open");
    let size = match fs::metadata(&path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // What is in the write-ahead log would be lost without a word.
            if fs::metadata(dir.join("ledger.db-wal")).is_ok_and(|log| log.len() > 0) {
                return Err(corrupt("it is gone, but its write-ahead log is there"));
            }
            make(dir, &path)?;
            0
        }
        Err(error) => {
            return Err(Fault::of_io(&error).opening(&path, &format!("open {}", path.display())));
        }
    };
    if size == 0 && fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
        return Err(corrupt("it is empty"));
    }

    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&path, flags).map_err(failed)?;
    // SQLite falls back to reading where it may not write.
    if connection.is_readonly("main").map_err(failed)? {
        return Err(OpenError::ReadOnly(dir.to_path_buf()));
    }
    connection.busy_timeout(BUSY).map_err(failed)?;
    let found = schema::version(&connection).map_err(failed)?;
    let mark: u32 = connection
        .pragma_query_value(None, "application_id", |row| row.get(0))
        .map_err(failed)?;
    if mark != schema::APPLICATION_ID || found == 0 {
        return Err(corrupt("it is a database of another program"));
    }
    if found > schema::VERSION {
        return Err(OpenError::Newer {
            found,
            known: schema::VERSION,
        });
    }
    if size <= CHECKED {
        let found: String = connection
            .pragma_query_value(None, "quick_check", |row| row.get(0))
            .map_err(failed)?;
        if found != "ok" {
            return Err(corrupt(&found.replace('\n', " ")));
        }
    }

    settle(&connection, durability).map_err(failed)?;
    schema::migrate(&mut connection).map_err(failed)?;
    Ok(connection)
}

/// A connection that reads.
pub(crate) fn reader(dir: &Path) -> Result<Connection, OpenError> {
    let path = dir.join(NAME);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(connection)
    };
    open().map_err(|error| failed(dir, &error, "open"))
}

/// A connection for checkpoints, and nothing else.
pub(crate) fn checkpointer(dir: &Path) -> Result<Connection, OpenError> {
    let path = dir.join(NAME);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || {
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY)?;
        // Syncs the log before, and the file after.
        set_durability(&connection, Durability::Process)?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
        Ok(connection)
    };
    open().map_err(|error| failed(dir, &error, "open"))
}

fn settle(connection: &Connection, durability: Durability) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    set_durability(connection, durability)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Nothing outside the state directory.
    connection.pragma_update(None, "temp_store", "memory")?;
    // Done by a thread of its own, for it waits for the disk.
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    // The log is kept after a burst, but not all of it; more than checkpoints mostly let it come to, for a file that grows anew each
    // time is dearer to write.
    connection.pragma_update_and_check(None, "journal_size_limit", 32 << 20, |_| Ok(()))?;
    Ok(())
}

/// What the commits from now on survive.
pub(crate) fn set_durability(
    connection: &Connection,
    durability: Durability,
) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Power => "full",
        Durability::Process => "normal",
    };
    connection.pragma_update(None, "synchronous", synchronous)
}

/// Makes a ledger under another name and gives it its own when it is whole. So an empty file is never a ledger that was just
/// begun, and is not taken for one.
fn make(dir: &Path, path: &Path) -> Result<(), OpenError> {
    let new = dir.join("ledger.db.new");
    let doing = format!("make {}", path.display());
    let io_failed = |error: io::Error| Fault::of_io(&error).opening(path, &doing);
    let fill = || -> rusqlite::Result<()> {
        let mut connection = Connection::open_with_flags(&new, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        connection.pragma_update(None, "auto_vacuum", "incremental")?;
        connection.pragma_update(None, "application_id", schema::APPLICATION_ID)?;
        schema::migrate(&mut connection)?;
        connection.close().map_err(|(_, error)| error)
    };
    let made = remove(&new)
        .and_then(|()| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&new)
        })
        .map_err(io_failed)
        .and_then(|file| {
            drop(file);
            fill().map_err(|error| failed(dir, &error, "make"))
        })
        .and_then(|()| {
            fs::rename(&new, path)
                .and_then(|()| File::open(dir)?.sync_all())
                .map_err(io_failed)
        });
    if made.is_err() {
        let _ = remove(&new);
    }
    made
}

/// Removes what an earlier attempt to make `new` has left.
fn remove(new: &Path) -> io::Result<()> {
    for suffix in ["", "-journal"] {
        let mut path = new.as_os_str().to_owned();
        path.push(suffix);
        match fs::remove_file(PathBuf::from(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
