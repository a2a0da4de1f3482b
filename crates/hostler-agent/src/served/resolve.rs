//! Finding what a path names, below the roots and nowhere else.
//!
//! A path is first resolved with all its symbolic links, which says whether it leads below a root. Then what it leads to is opened
//! from that root down, with no link followed any more (`openat2`, see openat2(2), or component by component where the kernel
//! refuses that). Whatever is exchanged in between makes that fail; it never leads elsewhere.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::rpc::RpcError;

/// How often it is tried anew when something is exchanged meanwhile.
const TRIES: u32 = 8;

/// The directories below which files may be read and written.
#[derive(Debug)]
pub(super) struct Roots {
    given: Vec<PathBuf>,
}

/// A directory below a root, and a name in it.
#[derive(Debug)]
pub(super) struct Place {
    /// Opened as a path only.
    pub(super) parent: OwnedFd,
    pub(super) name: OsString,
}

impl Roots {
    pub(super) fn new(given: Vec<PathBuf>) -> Self {
        Self { given }
    }

    /// Where a path leads: of what is there, to itself, of what is not, to its name in the directory where it would be.
    pub(super) fn find(&self, path: &Path) -> Result<Place, RpcError> {
        check(path)?;
        let mut tries = 0;
        loop {
            match self.try_find(path) {
                Err(Miss::Exchanged) if tries < TRIES => tries += 1,
                Err(Miss::Exchanged) => {
                    let shown = path.display();
                    return Err(RpcError::internal(format!("`{shown}` is being exchanged")));
                }
                Err(Miss::Refused(error)) => return Err(error),
                Ok(place) => return Ok(place),
            }
        }
    }

    fn try_find(&self, path: &Path) -> Result<Place, Miss> {
        let real = real(path)?;
        let root = self
            .given
            .iter()
            .filter_map(|root| root.canonicalize().ok())
            .find(|root| real.starts_with(root) && real != *root);
        let (Some(root), Some(name)) = (root, real.file_name()) else {
            let told = format!("`{}` is not below {}", path.display(), self.shown());
            return Err(Miss::Refused(RpcError::invalid_params(told)));
        };
        let parent = real.parent().unwrap_or(&root);
        let below = parent.strip_prefix(&root).unwrap_or(Path::new(""));
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = openat(CWD, &root, flags | OFlags::NOFOLLOW, Mode::empty()).map_err(exchanged)?;
        let parent = if below.as_os_str().is_empty() {
            top
        } else {
            beneath(&top, below).map_err(exchanged)?
        };
        Ok(Place {
            parent,
            name: name.to_owned(),
        })
    }

    fn shown(&self) -> String {
        let all: Vec<String> = self
            .given
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        match all.as_slice() {
            [] => "any root of this session: it has none".into(),
            [one] => one.clone(),
            more => format!("one of {}", more.join(", ")),
        }
    }
}

/// Why nothing was found.
enum Miss {
    /// Something on the way is not what it was a moment ago.
    Exchanged,
    Refused(RpcError),
}

fn exchanged(errno: Errno) -> Miss {
    match errno {
        Errno::LOOP | Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::AGAIN => Miss::Exchanged,
        other => Miss::Refused(RpcError::internal(io::Error::from(other).to_string())),
    }
}

/// What can be said of a path without looking.
fn check(path: &Path) -> Result<(), RpcError> {
    let shown = path.display();
    let refuse = |why: &str| Err(RpcError::invalid_params(format!("`{shown}` {why}")));
    if !path.is_absolute() {
        return refuse("is not absolute");
    }
    if path.as_os_str().as_encoded_bytes().contains(&0) {
        return refuse("holds a NUL");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return refuse("goes up by `..`");
    }
    Ok(())
}

/// The path with all links resolved; where the last part is not there, with that part as it is.
fn real(path: &Path) -> Result<PathBuf, Miss> {
    let refuse = |code, what: String| Err(Miss::Refused(RpcError::new(code, what)));
    let shown = path.display();
    match path.canonicalize() {
        Ok(real) => return Ok(real),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return refuse(code(&problem), format!("`{shown}`: {problem}")),
    }
    // A link that leads nowhere would be followed by whoever creates a file.
    if path.symlink_metadata().is_ok() {
        return match path.canonicalize() {
            Ok(real) => Ok(real),
            Err(_) => refuse(
                RpcError::INVALID_PARAMS,
                format!("`{shown}` is a link that leads nowhere"),
            ),
        };
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse(RpcError::INVALID_PARAMS, format!("`{shown}` is no file"));
    };
    match parent.canonicalize() {
        Ok(parent) if parent.is_dir() => Ok(parent.join(name)),
        Ok(_) => refuse(
            RpcError::INVALID_PARAMS,
            format!("`{}` is not a directory", parent.display()),
        ),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => refuse(
            RpcError::NOT_FOUND,
            format!("there is no directory `{}`", parent.display()),
        ),
        Err(problem) => refuse(code(&problem), format!("`{shown}`: {problem}")),
    }
}

/// Which error a failure of the kernel's is.
pub(super) fn code(problem: &io::Error) -> i64 {
    match problem.kind() {
        io::ErrorKind::NotFound => RpcError::NOT_FOUND,
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename => RpcError::INVALID_PARAMS,
        // Too many links.
        _ if problem.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => RpcError::INVALID_PARAMS,
        _ => RpcError::INTERNAL,
    }
}

/// Opens a directory below another, following nothing.
fn beneath(top: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(top, below, flags, Mode::empty(), resolve) {
        // Too old a kernel, or a filter that does not know the call.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => step_by_step(top, below),
        answer => answer,
    }
}

fn step_by_step(top: &OwnedFd, below: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut here = top.try_clone().map_err(|_| Errno::MFILE)?;
    for part in below.components() {
        let Component::Normal(name) = part else {
            return Err(Errno::XDEV);
        };
        here = openat(&here, name, flags, Mode::empty())?;
    }
    Ok(here)
}

impl Place {
    /// Opens what has the name, as a path only: whatever it is, nothing happens to it. A link is not followed.
    pub(super) fn look(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, self.name(), flags, Mode::empty())
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_down_lead_to_the_same_and_follow_no_link() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        std::os::unix::fs::symlink("a", dir.path().join("link")).expect("made");
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let top = openat(CWD, dir.path(), flags, Mode::empty()).expect("open");
        for way in [beneath, step_by_step] {
            let found = way(&top, Path::new("a/b")).expect("found");
            let stat = rustix::fs::fstat(&found).expect("stat");
            let real = rustix::fs::stat(dir.path().join("a/b")).expect("stat");
            assert_eq!((stat.st_dev, stat.st_ino), (real.st_dev, real.st_ino));
            assert!(way(&top, Path::new("link/b")).is_err());
            assert!(way(&top, Path::new("a/../..")).is_err());
        }
    }
}
