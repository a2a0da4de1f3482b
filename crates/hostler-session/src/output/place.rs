//! Where a spool is written: its file, and what stands for that until there is one.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::{SeekFrom, seek};

use super::Progress;

/// Where a spool is written. Making a file is by far the dearest part of running a short command, most of which write nothing
/// to at least one of their streams: so it is made for the first byte.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere yet. Holds a descriptor whose place the file's takes, so that a host that has run out of them still keeps what
    /// the processes write that it has started.
    Reserved {
        _place: File,
    },
    /// There is none, and none could be made.
    None,
    File(Arc<File>),
}

/// A descriptor that is nothing but one: a duplicate costs a tenth of what opening takes.
pub(super) fn reserve() -> io::Result<File> {
    static NOTHING: OnceLock<File> = OnceLock::new();
    match NOTHING.get() {
        Some(nothing) => nothing.try_clone(),
        None => NOTHING
            .get_or_init({
                let nothing = File::open("/dev/null")?;
                || nothing
            })
            .try_clone(),
    }
}

/// Makes the file of a spool, and its directory where this is the session's first.
pub(super) fn make(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create_new(true).mode(0o600);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(dir) = path.parent() {
                match DirBuilder::new().mode(0o700).create(dir) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                        return Err(error);
                    }
                    _ => {}
                }
            }
            options.open(path)
        }
        result => result,
    }
}

/// How long a spool is, and where its gap is: its first hole.
pub(super) fn survey(file: &File) -> io::Result<Progress> {
    let len = file.metadata()?.len();
    let mut progress = Progress {
        len,
        ..Progress::default()
    };
    // A file system that knows no holes says that there is none before the end.
    if let Ok(hole) = seek(file.as_fd(), SeekFrom::Hole(0))
        && hole < len
    {
        progress.gap_start = hole;
        progress.gap_end = seek(file.as_fd(), SeekFrom::Data(hole)).unwrap_or(len);
    }
    Ok(progress)
}
