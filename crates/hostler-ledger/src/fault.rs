//! What a failure of SQLite means.

use std::io::{self, ErrorKind, Write};
use std::path::Path;

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_CORRUPTFS, SQLITE_IOERR_SHORT_READ};

use crate::error::{OpenError, ReadError, WriteError};

/// A failure, as those who asked are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    Full,
    ReadOnly,
    Corrupt(String),
    Other(String),
}

impl Fault {
    /// What `error` means for the ledger in `dir`.
    pub(crate) fn of(error: &rusqlite::Error, dir: &Path) -> Self {
        let Some(sqlite) = error.sqlite_error() else {
            // A row that cannot be understood: somebody else wrote it.
            return Self::Corrupt(line(error));
        };
        match sqlite.code {
            ErrorCode::DiskFull => Self::Full,
            ErrorCode::ReadOnly => Self::ReadOnly,
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt(line(error)),
            ErrorCode::SystemIoFailure
                if [SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_CORRUPTFS]
                    .contains(&sqlite.extended_code) =>
            {
                Self::Corrupt(line(error))
            }
            // SQLite does not hand on why: ask the file system.
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
                match probe(dir).map_err(|error| Self::of_io(&error)) {
                    Err(found @ (Self::Full | Self::ReadOnly)) => found,
                    _ => Self::Other(line(error)),
                }
            }
            _ => Self::Other(line(error)),
        }
    }

    /// What `error` of the file system means.
    pub(crate) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full
            }
            ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => Self::ReadOnly,
            _ => Self::Other(error.to_string()),
        }
    }

    /// As the answer to opening the ledger `file`; `doing` is what failed.
    pub(crate) fn opening(self, file: &Path, doing: &str) -> OpenError {
        let dir = || file.parent().unwrap_or(file).to_path_buf();
        match self {
            Self::Full => OpenError::Full(dir()),
            Self::ReadOnly => OpenError::ReadOnly(dir()),
            Self::Corrupt(found) => OpenError::Corrupt {
                path: file.to_path_buf(),
                found,
            },
            Self::Other(error) => OpenError::Io {
                doing: doing.to_owned(),
                error: io::Error::other(error),
            },
        }
    }

    /// As the answer to a write.
    pub(crate) fn writing(self) -> WriteError {
        match self {
            Self::Full => WriteError::Full,
            Self::ReadOnly => WriteError::ReadOnly,
            Self::Corrupt(found) => WriteError::Corrupt(found.into()),
            Self::Other(error) => WriteError::Io(error.into()),
        }
    }

    /// As the answer to a query.
    pub(crate) fn reading(self) -> ReadError {
        match self {
            Self::Corrupt(found) => ReadError::Corrupt(found),
            Self::Full => ReadError::Io("no room left".to_owned()),
            Self::ReadOnly => ReadError::Io("read-only".to_owned()),
            Self::Other(error) => ReadError::Io(error),
        }
    }
}

/// Whether the trouble lies with the write itself, and not with the disk or the file: its neighbours are not concerned.
pub(crate) fn is_its_own(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        None => true,
        Some(code) => matches!(
            code,
            ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch
        ),
    }
}

/// Errors are one line.
fn line(error: &rusqlite::Error) -> String {
    error.to_string().replace('\n', " ")
}

/// Writes a block beside the ledger, to be told by the file system what SQLite was told.
fn probe(dir: &Path) -> io::Result<()> {
    let path = dir.join("ledger.probe");
    let written = std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(&[0; 4096]).and_then(|()| file.sync_data()));
    let _ = std::fs::remove_file(&path);
    written
}
