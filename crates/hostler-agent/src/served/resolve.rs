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

/// Why a path is not what is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It makes no sense as a path, or as one of a file.
    #[error("{0}")]
    Malformed(String),
    /// It leads out of the roots.
    #[error("{0}")]
    Outside(String),
    /// There is no such thing.
    #[error("{0}")]
    Missing(String),
    /// What is on the way changes faster than it can be looked at.
    #[error("{0}")]
    Exchanged(String),
    /// The kernel refused it.
    #[error("{0}")]
    Failed(String),
}

impl PathError {
    /// What became of this path, by the kernel's word.
    fn of(path: &Path, problem: &io::Error) -> Self {
        let line = format!("`{}`: {problem}", path.display());
        match code(problem) {
            RpcError::NOT_FOUND => Self::Missing(line),
            RpcError::INVALID_PARAMS => Self::Malformed(line),
            _ => Self::Failed(line),
        }
    }
}

impl From<PathError> for RpcError {
    fn from(error: PathError) -> Self {
        let line = error.to_string();
        match error {
            PathError::Malformed(_) | PathError::Outside(_) => Self::invalid_params(line),
            PathError::Missing(_) => Self::new(Self::NOT_FOUND, line),
            PathError::Exchanged(_) | PathError::Failed(_) => Self::internal(line),
        }
    }
}

/// How often it is tried anew when something is exchanged meanwhile.
const TRIES: u32 = 8;

/// The directories below which files may be read and written.
#[derive(Debug, Clone)]
pub struct Roots {
    given: Vec<PathBuf>,
}

/// A directory below a root, and a name in it.
#[derive(Debug)]
pub struct Place {
    /// The directory, opened as a path only.
    pub parent: OwnedFd,
    /// The name in it.
    pub name: OsString,
}

/// Whether the last part of a path is followed, where it is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    AsItIs,
}

impl Roots {
    /// Below these directories: absolute paths. Those that are not there (yet) are looked for again each time.
    pub fn new(given: Vec<PathBuf>) -> Self {
        Self { given }
    }

    /// Where a path leads: of what is there, to itself, of what is not, to its name in the directory where it would be.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn find(&self, path: &Path) -> Result<Place, PathError> {
        self.keep_trying(path, || self.try_find(path, Last::Followed))
    }

    /// The same, but where the last part is a link, to that itself.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn find_entry(&self, path: &Path) -> Result<Place, PathError> {
        self.keep_trying(path, || self.try_find(path, Last::AsItIs))
    }

    /// The directory that a path leads to, opened as a path only: a root, or one below.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn find_dir(&self, path: &Path) -> Result<OwnedFd, PathError> {
        self.keep_trying(path, || {
            let real = real(path)?;
            let root = self.root_of(&real).ok_or_else(|| self.outside(path))?;
            if let Err(problem) = real.symlink_metadata() {
                return Err(Miss::Refused(PathError::of(path, &problem)));
            }
            open_below(&root, &real).map_err(|errno| match errno {
                Errno::NOTDIR if !real.is_dir() => {
                    let told = format!("`{}` is not a directory", path.display());
                    Miss::Refused(PathError::Malformed(told))
                }
                errno => exchanged(errno),
            })
        })
    }

    fn keep_trying<T>(
        &self,
        path: &Path,
        find: impl Fn() -> Result<T, Miss>,
    ) -> Result<T, PathError> {
        check(path)?;
        let mut tries = 0;
        loop {
            match find() {
                Err(Miss::Exchanged) if tries < TRIES => tries += 1,
                Err(Miss::Exchanged) => {
                    let told = format!("`{}` is being exchanged", path.display());
                    return Err(PathError::Exchanged(told));
                }
                Err(Miss::Refused(error)) => return Err(error),
                Ok(found) => return Ok(found),
            }
        }
    }

    /// The root, as it is without links, that this is or is below of.
    fn root_of(&self, real: &Path) -> Option<PathBuf> {
        let roots = self.given.iter();
        let mut roots = roots.filter_map(|root| root.canonicalize().ok());
        roots.find(|root| real.starts_with(root))
    }

    fn outside(&self, path: &Path) -> Miss {
        let told = format!("`{}` is not below {}", path.display(), self.shown());
        Miss::Refused(PathError::Outside(told))
    }

    fn try_find(&self, path: &Path, last: Last) -> Result<Place, Miss> {
        let real = match (last, path.parent(), path.file_name()) {
            (Last::AsItIs, Some(parent), Some(name)) => real_dir(path, parent)?.join(name),
            _ => real(path)?,
        };
        let root = self.root_of(&real).filter(|root| real != *root);
        let (Some(root), Some(name)) = (root, real.file_name()) else {
            return Err(self.outside(path));
        };
        let parent = real.parent().unwrap_or(&root);
        Ok(Place {
            parent: open_below(&root, parent).map_err(exchanged)?,
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
    Refused(PathError),
}

fn exchanged(errno: Errno) -> Miss {
    match errno {
        Errno::LOOP | Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::AGAIN => Miss::Exchanged,
        other => Miss::Refused(PathError::Failed(io::Error::from(other).to_string())),
    }
}

/// What can be said of a path without looking.
fn check(path: &Path) -> Result<(), PathError> {
    let shown = path.display();
    let refuse = |why: &str| Err(PathError::Malformed(format!("`{shown}` {why}")));
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
    let refuse = |error| Err(Miss::Refused(error));
    match path.canonicalize() {
        Ok(real) => return Ok(real),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => {}
        Err(problem) => return refuse(PathError::of(path, &problem)),
    }
    let shown = path.display();
    // A link that leads nowhere would be followed by whoever creates a file.
    if path.symlink_metadata().is_ok() {
        return match path.canonicalize() {
            Ok(real) => Ok(real),
            Err(_) => refuse(PathError::Malformed(format!(
                "`{shown}` is a link that leads nowhere"
            ))),
        };
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return refuse(PathError::Malformed(format!("`{shown}` is no file")));
    };
    Ok(real_dir(path, parent)?.join(name))
}

/// The directory in which a path's last part is, with all links resolved.
fn real_dir(path: &Path, parent: &Path) -> Result<PathBuf, Miss> {
    let refuse = |error| Err(Miss::Refused(error));
    match parent.canonicalize() {
        Ok(parent) if parent.is_dir() => Ok(parent),
        Ok(_) => refuse(PathError::Malformed(format!(
            "`{}` is not a directory",
            parent.display()
        ))),
        Err(problem) if problem.kind() == io::ErrorKind::NotFound => refuse(PathError::Missing(
            format!("there is no directory `{}`", parent.display()),
        )),
        Err(problem) => refuse(PathError::of(path, &problem)),
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

/// Opens a directory that is a root or below it, following nothing.
fn open_below(root: &Path, dir: &Path) -> Result<OwnedFd, Errno> {
    let below = dir.strip_prefix(root).unwrap_or(Path::new(""));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat(CWD, root, flags | OFlags::NOFOLLOW, Mode::empty())?;
    match below.as_os_str().is_empty() {
        true => Ok(top),
        false => beneath(&top, below),
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
    ///
    /// # Errors
    /// The kernel's.
    pub fn look(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.parent, self.name(), flags, Mode::empty())
    }

    /// The name.
    pub fn name(&self) -> &OsStr {
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
