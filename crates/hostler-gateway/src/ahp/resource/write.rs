//! `resourceWrite`, `resourceDelete` and `resourceMkdir`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahp_types::commands::ContentEncoding;
use ahp_types::commands::{
    ResourceDeleteParams, ResourceDeleteResult, ResourceMkdirParams, ResourceMkdirResult,
    ResourceWriteMode, ResourceWriteParams, ResourceWriteResult,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hostler_agent::served::files::{PathError, Place, Roots, reopen, replace};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::etag::etag;
use super::path::{conflict, failed, is_file, look, path, work};
use super::tree;
use crate::ahp::error::AhpError;

/// How large a file may be of which a part is replaced, in bytes.
const MOST: u64 = 64 << 20;

/// The turn to write: one writer of this host at a time, from its look at the file to its end.
pub(super) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `resourceWrite`. Whoever reads meanwhile finds the old content or the new one.
///
/// # Errors
/// `Conflict` where `ifMatch` does not, `AlreadyExists`, `NotFound` for a directory that is not there, `PermissionDenied`,
/// `InvalidParams`.
pub(crate) async fn write(
    roots: &Roots,
    params: ResourceWriteParams,
) -> Result<ResourceWriteResult, AhpError> {
    work(roots, move |roots| {
        let data = match params.encoding {
            ContentEncoding::Utf8 => params.data.as_bytes().to_vec(),
            ContentEncoding::Base64 => STANDARD
                .decode(&params.data)
                .map_err(|error| AhpError::params(format!("`data` is not base64: {error}")))?,
        };
        put(roots, &params, data)?;
        Ok(ResourceWriteResult {})
    })
    .await
}

fn put(roots: &Roots, params: &ResourceWriteParams, data: Vec<u8>) -> Result<(), AhpError> {
    let uri = &*params.uri;
    let path = path(uri)?;
    let _turn = turn();
    let place = roots.find(&path)?;
    let old = look(&place, uri)?;
    if let Some((fd, stat)) = &old {
        if params.create_only == Some(true) {
            return Err(AhpError::exists(format!("there is a `{uri}` already")));
        }
        is_file(fd, stat, uri)?;
    }
    if let Some(wanted) = &params.if_match {
        let now = old.as_ref().map(|(_, stat)| etag(stat));
        if now.as_ref() != Some(wanted) {
            let what = if now.is_some() {
                "has changed"
            } else {
                "is not there"
            };
            return Err(conflict(format!("`{uri}` {what}")));
        }
    }
    let mode = params.mode.unwrap_or(ResourceWriteMode::Truncate);
    let at = params.position.unwrap_or(0);
    let at = u64::try_from(at).map_err(|_| AhpError::params("`position` is negative"))?;
    if let (ResourceWriteMode::Append, 0, Some((fd, _))) = (mode, at, &old) {
        // The kernel finds the end, whoever else appends.
        let mut file =
            reopen(fd, OFlags::WRONLY | OFlags::APPEND).map_err(|errno| failed(uri, errno))?;
        return file
            .write_all(&data)
            .map_err(|error| AhpError::internal(format!("`{uri}`: {error}")));
    }
    let new = placed(old.as_ref(), mode, at, data, uri)?;
    replace(&place, old, &new).map_err(|errno| failed(uri, errno))
}

/// The whole content, with the data in its place.
fn placed(
    old: Option<&(OwnedFd, Stat)>,
    mode: ResourceWriteMode,
    at: u64,
    data: Vec<u8>,
    uri: &str,
) -> Result<Vec<u8>, AhpError> {
    if mode == ResourceWriteMode::Truncate && at == 0 {
        return Ok(data);
    }
    let mut content = match old {
        Some((fd, _)) => content(fd, uri)?,
        None => Vec::new(),
    };
    let length = content.len();
    let inside = usize::try_from(at).ok().filter(|at| *at <= length);
    let at = inside.ok_or_else(|| {
        AhpError::params(format!(
            "`position` is {at}, and `{uri}` has {length} bytes"
        ))
    })?;
    match mode {
        ResourceWriteMode::Truncate => {
            content.truncate(at);
            content.extend_from_slice(&data);
        }
        ResourceWriteMode::Append => drop(content.splice(length - at..length - at, data)),
        ResourceWriteMode::Insert => drop(content.splice(at..at, data)),
    }
    Ok(content)
}

fn content(fd: &OwnedFd, uri: &str) -> Result<Vec<u8>, AhpError> {
    let file: File = reopen(fd, OFlags::RDONLY).map_err(|errno| failed(uri, errno))?;
    let mut content = Vec::new();
    let read = file.take(MOST + 1).read_to_end(&mut content);
    read.map_err(|error| AhpError::internal(format!("`{uri}`: {error}")))?;
    if content.len() as u64 > MOST {
        let why = format!(
            "`{uri}` has more than {} MiB: it can only be appended to or replaced as a whole",
            MOST >> 20
        );
        return Err(AhpError::params(why));
    }
    Ok(content)
}

/// `resourceDelete`. A link is deleted itself, and never what it leads to.
///
/// # Errors
/// `NotFound`, `PermissionDenied`; `InvalidParams` for a directory that is not empty, where not all of it is to be deleted.
pub(crate) async fn delete(
    roots: &Roots,
    params: ResourceDeleteParams,
) -> Result<ResourceDeleteResult, AhpError> {
    work(roots, move |roots| {
        let uri = &*params.uri;
        let path = path(uri)?;
        let _turn = turn();
        let place = roots.find_entry(&path)?;
        let (_, stat) = look(&place, uri)?
            .ok_or_else(|| AhpError::not_found(format!("there is no `{uri}`")))?;
        let recursive = params.recursive.unwrap_or(false);
        remove(&place, &stat, recursive).map_err(|errno| match errno {
            Errno::NOTEMPTY | Errno::EXIST if !recursive => AhpError::params(format!(
                "`{uri}` is not empty, and `recursive` was not asked for"
            )),
            errno => failed(uri, errno),
        })?;
        Ok(ResourceDeleteResult {})
    })
    .await
}

fn remove(place: &Place, stat: &Stat, recursive: bool) -> Result<(), Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if recursive => tree::remove(&place.parent, place.name()),
        FileType::Directory => unlinkat(&place.parent, place.name(), AtFlags::REMOVEDIR),
        _ => unlinkat(&place.parent, place.name(), AtFlags::empty()),
    }
}

/// `resourceMkdir`: with its parents, below the roots.
///
/// # Errors
/// `AlreadyExists` for what is there and no directory, `PermissionDenied`.
pub(crate) async fn mkdir(
    roots: &Roots,
    params: ResourceMkdirParams,
) -> Result<ResourceMkdirResult, AhpError> {
    work(roots, move |roots| {
        let path = path(&params.uri)?;
        make(roots, &path, &params.uri)?;
        Ok(ResourceMkdirResult {})
    })
    .await
}

fn make(roots: &Roots, path: &Path, uri: &str) -> Result<(), AhpError> {
    let mut here = path;
    let mut left = Vec::new();
    // The nearest directory that is there.
    let mut dir = loop {
        match roots.find_dir(here) {
            Ok(dir) => break dir,
            Err(PathError::Missing(line)) => match (here.parent(), here.file_name()) {
                (Some(parent), Some(name)) => {
                    left.push(name);
                    here = parent;
                }
                _ => return Err(AhpError::not_found(line)),
            },
            Err(PathError::Malformed(line)) if here.symlink_metadata().is_ok() => {
                return Err(AhpError::exists(line));
            }
            Err(error) => return Err(error.into()),
        }
    };
    for name in left.into_iter().rev() {
        match mkdirat(&dir, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(uri, errno)),
        }
        // What was put there meanwhile is not followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = openat(&dir, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR | Errno::LOOP => {
                AhpError::exists(format!("`{uri}`: what is there is no directory"))
            }
            errno => failed(uri, errno),
        })?;
    }
    Ok(())
}
