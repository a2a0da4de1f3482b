//! Writing a file so that whoever reads it finds the old text or the new one.
//!
//! The new text goes into a file without a name, which gets one only when it is whole, and with it takes the old one's place. So a
//! host that is killed leaves the old file, and nothing beside it. Where the old file is more than a name and a mode (it has other
//! names, another owner, or extended attributes such as an access list), or where its directory cannot be changed, it is written
//! in place.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, Stat, fchmod, flistxattr, linkat, openat, renameat, unlinkat,
};
use rustix::io::Errno;

use super::fs::reopen;
use super::resolve::Place;

/// What permissions a new file has, before the umask.
const NEW: u32 = 0o666;

/// Writes a file from its start, and cuts off what is behind.
pub type Fill<'a> = &'a dyn Fn(&File) -> Result<(), Errno>;

/// Puts a text in a place, over what was found there.
///
/// # Errors
/// The kernel's; `EXIST` where nothing was found there and something has come since.
pub fn replace(place: &Place, old: Option<(OwnedFd, Stat)>, text: &[u8]) -> Result<(), Errno> {
    replace_with(place, old, &|file| over(file, text))
}

/// The same with what is written by a function, which may be called more than once.
///
/// # Errors
/// As [`replace`].
pub fn replace_with(
    place: &Place,
    old: Option<(OwnedFd, Stat)>,
    fill: Fill<'_>,
) -> Result<(), Errno> {
    let Some((old, stat)) = old else {
        return create(place, fill);
    };
    let writable = match reopen(&old, OFlags::WRONLY) {
        Ok(file) => Some(file),
        // A program that runs: it cannot be written, but its name may be given to another.
        Err(Errno::TXTBSY) => None,
        Err(errno) => return Err(errno),
    };
    if let Some(file) = &writable
        && !is_plain(file, &stat)
    {
        return fill(file);
    }
    let replaced = swap(place, &stat, fill);
    match (replaced, writable) {
        (Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::EXIST), Some(file)) => fill(&file),
        (replaced, _) => replaced,
    }
}

/// Whether a file is no more than a name, a mode and its bytes.
fn is_plain(file: &File, stat: &Stat) -> bool {
    let mine = stat.st_uid == rustix::process::geteuid().as_raw();
    let mut names = [0_u8; 512];
    // What a security module adds to every file, it adds to the new one.
    let attributes = match flistxattr(file, &mut names[..]) {
        Ok(length) => names[..length]
            .split(|byte| *byte == 0)
            .any(|name| !name.is_empty() && !name.starts_with(b"security.")),
        Err(Errno::NOTSUP) => false,
        Err(_) => true,
    };
    stat.st_nlink == 1 && mine && !attributes
}

fn over(mut file: &File, text: &[u8]) -> Result<(), Errno> {
    let written = file
        .write_all(text)
        .and_then(|()| file.set_len(text.len() as u64));
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Makes a file that is not there yet.
fn create(place: &Place, fill: Fill<'_>) -> Result<(), Errno> {
    match nameless(place, NEW, fill)? {
        Some(file) => name(&file, place, place.name()),
        None => {
            let temporary = temporary();
            named(place, &temporary, NEW, fill)?;
            // Not over what has come meanwhile.
            let linked = linkat(
                &place.parent,
                &temporary,
                &place.parent,
                place.name(),
                AtFlags::empty(),
            );
            let _ = unlinkat(&place.parent, &temporary, AtFlags::empty());
            linked
        }
    }
}

/// Puts a new file in the place of the old one, with its mode and its group.
fn swap(place: &Place, stat: &Stat, fill: Fill<'_>) -> Result<(), Errno> {
    let mode = stat.st_mode & 0o7777;
    let temporary = temporary();
    let file = match nameless(place, 0o600, fill)? {
        Some(file) => {
            dress(&file, stat, mode)?;
            name(&file, place, &temporary)?;
            file
        }
        None => {
            let file = named(place, &temporary, 0o600, fill)?;
            if let Err(errno) = dress(&file, stat, mode) {
                let _ = unlinkat(&place.parent, &temporary, AtFlags::empty());
                return Err(errno);
            }
            file
        }
    };
    let renamed = renameat(&place.parent, &temporary, &place.parent, place.name());
    if renamed.is_err() {
        let _ = unlinkat(&place.parent, &temporary, AtFlags::empty());
    }
    drop(file);
    renamed
}

fn dress(file: &File, stat: &Stat, mode: u32) -> Result<(), Errno> {
    let new = rustix::fs::fstat(file)?;
    if new.st_gid != stat.st_gid {
        let group = rustix::fs::Gid::from_raw(stat.st_gid);
        // Refused: then it is written in place, where the group stays.
        rustix::fs::fchown(file, None, Some(group))?;
    }
    fchmod(file, Mode::from_raw_mode(mode))
}

/// A file without a name that holds the text; `None` where the file system knows none.
fn nameless(place: &Place, mode: u32, fill: Fill<'_>) -> Result<Option<File>, Errno> {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(&place.parent, ".", flags, Mode::from_raw_mode(mode)) {
        Ok(file) => {
            let file = File::from(file);
            fill(&file)?;
            Ok(Some(file))
        }
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Gives it a name that nothing has.
fn name(file: &File, place: &Place, name: &OsStr) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, path, &place.parent, name, AtFlags::SYMLINK_FOLLOW)
}

/// A new file of this name that holds the text.
fn named(place: &Place, name: &OsStr, mode: u32, fill: Fill<'_>) -> Result<File, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(openat(
        &place.parent,
        name,
        flags,
        Mode::from_raw_mode(mode),
    )?);
    if let Err(errno) = fill(&file) {
        let _ = unlinkat(&place.parent, name, AtFlags::empty());
        return Err(errno);
    }
    Ok(file)
}

fn temporary() -> OsString {
    use std::sync::atomic::{AtomicU64, Ordering};
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Ordering::Relaxed);
    format!(".hostler-{}-{number}", std::process::id()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// What is done where the file system knows no files without a name.
    #[test]
    fn a_file_with_a_name_of_its_own_takes_the_place_as_well() {
        let dir = tempfile::tempdir().expect("a directory");
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let place = Place {
            parent: openat(CWD, dir.path(), flags, Mode::empty()).expect("open"),
            name: "a".into(),
        };
        let temporary = temporary();
        let file = named(&place, &temporary, 0o600, &|file| over(file, b"new")).expect("made");
        fchmod(&file, Mode::from_raw_mode(0o640)).expect("mode");
        renameat(&place.parent, &temporary, &place.parent, "a").expect("renamed");
        let path = dir.path().join("a");
        assert_eq!(std::fs::read(&path).expect("read"), b"new");
        let mode = path.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        assert_eq!(std::fs::read_dir(dir.path()).expect("list").count(), 1);
    }
}
