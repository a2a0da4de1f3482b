//! From URIs to what they name.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use ahp_types::commands::{ResourceRequestParams, ResourceRequestResult};
use ahp_types::errors::ahp_error_codes as codes;
use hostler_agent::served::files::{PathError, Place, Roots, is_kernels_own};
use rustix::fs::{FileType, Stat, fstat};
use rustix::io::Errno;

use crate::ahp::error::AhpError;
use crate::ahp::uri;

impl From<PathError> for AhpError {
    fn from(error: PathError) -> Self {
        let line = error.to_string();
        match error {
            PathError::Malformed(_) => Self::params(line),
            PathError::Outside(_) => Self::new(codes::PERMISSION_DENIED, line),
            PathError::Missing(_) => Self::not_found(line),
            PathError::Exchanged(_) => conflict(line),
            PathError::Failed(_) => Self::internal(line),
        }
    }
}

/// Something has changed that was not to.
pub(super) fn conflict(line: impl Into<String>) -> AhpError {
    AhpError::new(codes::CONFLICT, line)
}

/// What the kernel said of this URI.
pub(super) fn failed(uri: &str, errno: Errno) -> AhpError {
    let line = format!("`{uri}`: {}", std::io::Error::from(errno));
    match errno {
        Errno::NOENT => AhpError::not_found(line),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => AhpError::new(codes::PERMISSION_DENIED, line),
        Errno::EXIST => AhpError::exists(line),
        Errno::NOTDIR | Errno::ISDIR | Errno::NOTEMPTY | Errno::NAMETOOLONG | Errno::INVAL => {
            AhpError::params(line)
        }
        _ => AhpError::internal(line),
    }
}

/// The path that a URI names.
pub(super) fn path(named: &str) -> Result<PathBuf, AhpError> {
    uri::path(named).ok_or_else(|| {
        let shown: String = named.chars().take(300).collect();
        AhpError::not_found(format!(
            "only `file:` URIs of this machine are served, not `{shown}`"
        ))
    })
}

/// What is at a place, if anything is.
pub(super) fn look(place: &Place, uri: &str) -> Result<Option<(OwnedFd, Stat)>, AhpError> {
    match place.look() {
        Ok(fd) => {
            let stat = fstat(&fd).map_err(|errno| failed(uri, errno))?;
            Ok(Some((fd, stat)))
        }
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(uri, errno)),
    }
}

/// Whether it is a file that may be opened; anything else is refused.
pub(super) fn is_file(fd: &OwnedFd, stat: &Stat, uri: &str) -> Result<(), AhpError> {
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            return match is_kernels_own(fd).map_err(|errno| failed(uri, errno))? {
                false => Ok(()),
                true => Err(AhpError::params(format!(
                    "`{uri}` is the kernel's own, not a file"
                ))),
            };
        }
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::Symlink => "a link",
        _ => "a device",
    };
    Err(AhpError::params(format!("`{uri}` is {what}, not a file")))
}

/// Where the kernel says that something is now.
pub(super) fn real(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(link).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Works on files where that may take its time.
pub(super) async fn work<T: Send + 'static>(
    roots: &Roots,
    work: impl FnOnce(&Roots) -> Result<T, AhpError> + Send + 'static,
) -> Result<T, AhpError> {
    let roots = roots.clone();
    let done = tokio::task::spawn_blocking(move || work(&roots)).await;
    done.unwrap_or_else(|_| Err(AhpError::internal("it was not finished")))
}

/// `resourceRequest`: what is below a root is granted, and nothing else.
///
/// # Errors
/// `PermissionDenied`; `InvalidParams` for what is no path.
pub(crate) async fn request(
    roots: &Roots,
    params: ResourceRequestParams,
) -> Result<ResourceRequestResult, AhpError> {
    work(roots, move |roots| {
        let path = path(&params.uri)?;
        if roots.find_dir(&path).is_err() {
            match roots.find(&path) {
                Ok(_) | Err(PathError::Missing(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ResourceRequestResult {})
    })
    .await
}
