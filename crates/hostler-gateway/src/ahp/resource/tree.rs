//! Walking whole directories by their descriptors: no link is followed, whatever is exchanged meanwhile.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use hostler_agent::served::files::{is_kernels_own, reopen};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, fchmod, fstat, mkdirat, openat, readlinkat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

/// How deep directories may be.
const DEPTH: u32 = 256;
/// How many entries are copied at the most.
const ENTRIES: u64 = 1_000_000;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The names in a directory.
fn names(dir: &OwnedFd) -> Result<Vec<std::ffi::CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes a directory with all that is in it.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let dir = openat(parent, name, DIRECTORY, Mode::empty())?;
    empty(&dir, DEPTH)?;
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

fn empty(dir: &OwnedFd, depth: u32) -> Result<(), Errno> {
    if depth == 0 {
        return Err(Errno::NAMETOOLONG);
    }
    for name in names(dir)? {
        match unlinkat(dir, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => continue,
            // EPERM is what POSIX has for a directory here.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
        match openat(dir, &name, DIRECTORY, Mode::empty()) {
            Ok(below) => {
                empty(&below, depth - 1)?;
                unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Copies a directory to a name that is not there yet: files, directories and links as they are; anything else is left out.
pub(super) fn copy(from: &OwnedFd, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
    let from = reopen(from, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let stat = fstat(&from)?;
    mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    let to = openat(parent, name, DIRECTORY, Mode::empty())?;
    let mut copying = Copying {
        target: fstat(&to)?,
        left: ENTRIES,
    };
    copying.directory(&OwnedFd::from(from), &to, DEPTH)?;
    fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))
}

struct Copying {
    /// The copy itself, which may be below what is copied.
    target: Stat,
    left: u64,
}

impl Copying {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: u32) -> Result<(), Errno> {
        if depth == 0 {
            return Err(Errno::NAMETOOLONG);
        }
        for name in names(from)? {
            self.left = self.left.checked_sub(1).ok_or(Errno::FBIG)?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match openat(from, &name, flags, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno),
            };
            let stat = fstat(&found)?;
            if (stat.st_dev, stat.st_ino) == (self.target.st_dev, self.target.st_ino) {
                continue;
            }
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = reopen(&found, OFlags::RDONLY | OFlags::DIRECTORY)?;
                    mkdirat(to, &name, Mode::from_raw_mode(0o700))?;
                    let made = openat(to, &name, DIRECTORY, Mode::empty())?;
                    self.directory(&below.into(), &made, depth - 1)?;
                    fchmod(&made, mode)?;
                }
                FileType::Symlink => {
                    let target = readlinkat(&found, "", Vec::new())?;
                    symlinkat(&target, to, &name)?;
                }
                FileType::RegularFile if !is_kernels_own(&found)? => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                    let made = openat(to, &name, flags, Mode::from_raw_mode(0o600))?;
                    bytes(
                        &found,
                        &File::from(made.try_clone().map_err(|_| Errno::MFILE)?),
                    )?;
                    fchmod(made.as_fd(), mode)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies the bytes of a file that was looked at, and cuts off what is behind them.
pub(super) fn bytes(from: &OwnedFd, to: &File) -> Result<(), Errno> {
    let mut from = reopen(from, OFlags::RDONLY)?;
    let failed = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let count = std::io::copy(&mut from, &mut &*to).map_err(failed)?;
    to.set_len(count).map_err(failed)
}
