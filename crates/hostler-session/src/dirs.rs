//! Directories of sessions: `sessions/ID` below the state directory, with `tmp` (the TMPDIR of its processes), `out` (what they
//! write, from the first byte on) and the socket of its keeper. All are the host's user's alone.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hostler_ledger::ResourceId;

use crate::error::{Doing, Result};

/// Makes the directory for all sessions.
pub(crate) fn prepare(state_dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700).recursive(true);
    builder
        .create(state_dir.join("sessions"))
        .doing("make the directory for sessions")
}

/// Makes a session's directories.
pub(crate) fn make(dir: &Path) -> Result<()> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    for dir in [dir, &tmp(dir)] {
        builder.create(dir).doing("make the session's directory")?;
    }
    Ok(())
}

/// Where its processes put what is temporary.
pub(crate) fn tmp(dir: &Path) -> PathBuf {
    dir.join("tmp")
}

fn out(dir: &Path) -> PathBuf {
    dir.join("out")
}

/// Where its keeper is found.
pub(crate) fn socket(dir: &Path) -> PathBuf {
    dir.join("keeper")
}

/// Where the output of a process is; `stream` is `out` or `err`.
pub(crate) fn spool(dir: &Path, id: &ResourceId, stream: &str) -> PathBuf {
    out(dir).join(format!("{id}.{stream}"))
}

/// Removes a session's directories, with whatever is in them. One that is not there is removed.
pub(crate) async fn remove(dir: &Path) -> io::Result<()> {
    // The usual one is nearly empty; a full one may take long.
    if std::fs::remove_dir(tmp(dir)).is_ok() {
        return match std::fs::remove_dir(dir) {
            Ok(()) => Ok(()),
            Err(_) => remove_all(dir),
        };
    }
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || remove_all(&dir))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// Removes a directory, also when something is put into it meanwhile: who holds a pipe after the end may still write.
fn remove_all(dir: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
            absent_is_fine(std::fs::remove_dir_all(dir))
        }
        result => absent_is_fine(result),
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
