//! `resourceCopy` and `resourceMove`.

use std::os::fd::OwnedFd;

use ahp_types::commands::{
    ResourceCopyParams, ResourceCopyResult, ResourceMoveParams, ResourceMoveResult,
};
use hostler_agent::served::files::{Place, Roots, replace_with};
use rustix::fs::{FileType, RenameFlags, Stat, renameat, renameat_with};
use rustix::io::Errno;

use super::path::{failed, is_file, look, path, work};
use super::tree;
use super::write::turn;
use crate::ahp::error::AhpError;

fn exists(uri: &str) -> AhpError {
    AhpError::exists(format!("there is a `{uri}` already"))
}

fn missing(uri: &str) -> AhpError {
    AhpError::not_found(format!("there is no `{uri}`"))
}

/// `resourceCopy`: a file, or a directory with all that is in it. A file takes the place of another; a directory takes nobody's.
///
/// # Errors
/// `NotFound`, `AlreadyExists`, `PermissionDenied`, `InvalidParams`.
pub(crate) async fn copy(
    roots: &Roots,
    params: ResourceCopyParams,
) -> Result<ResourceCopyResult, AhpError> {
    work(roots, move |roots| {
        let (from, to) = (path(&params.source)?, path(&params.destination)?);
        let _turn = turn();
        // A link is copied as what it leads to.
        let source = match roots.find(&from) {
            Ok(place) => look(&place, &params.source)?.ok_or_else(|| missing(&params.source))?,
            Err(error) => return Err(error.into()),
        };
        let target = roots.find(&to)?;
        let there = look(&target, &params.destination)?;
        if there.is_some() && params.fail_if_exists == Some(true) {
            return Err(exists(&params.destination));
        }
        put(source, &target, there, &params)?;
        Ok(ResourceCopyResult {})
    })
    .await
}

fn put(
    (source, stat): (OwnedFd, Stat),
    target: &Place,
    there: Option<(OwnedFd, Stat)>,
    params: &ResourceCopyParams,
) -> Result<(), AhpError> {
    let same = |there: &Stat| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino);
    if there.as_ref().is_some_and(|(_, there)| same(there)) {
        return Ok(());
    }
    let fail = |errno| failed(&params.destination, errno);
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return match there {
            Some(_) => Err(exists(&params.destination)),
            None => tree::copy(&source, &target.parent, target.name()).map_err(fail),
        };
    }
    is_file(&source, &stat, &params.source)?;
    if let Some((fd, stat)) = &there {
        is_file(fd, stat, &params.destination)?;
    }
    replace_with(target, there, &|file| {
        use std::io::Seek;
        let mut start = file;
        start.rewind().map_err(|_| Errno::IO)?;
        tree::bytes(&source, file)
    })
    .map_err(fail)
}

/// `resourceMove`: of a link, the link itself.
///
/// # Errors
/// `NotFound`, `AlreadyExists`, `PermissionDenied`, `InvalidParams`.
pub(crate) async fn rename(
    roots: &Roots,
    params: ResourceMoveParams,
) -> Result<ResourceMoveResult, AhpError> {
    work(roots, move |roots| {
        let (from, to) = (path(&params.source)?, path(&params.destination)?);
        let _turn = turn();
        let source = roots.find_entry(&from)?;
        let target = roots.find_entry(&to)?;
        if look(&source, &params.source)?.is_none() {
            return Err(missing(&params.source));
        }
        let keep = params.fail_if_exists == Some(true);
        go(&source, &target, keep).map_err(|errno| match errno {
            Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR => {
                exists(&params.destination)
            }
            Errno::XDEV => AhpError::params(format!(
                "`{}` and `{}` are on two file systems: copy it, and delete the old one",
                params.source, params.destination
            )),
            errno => failed(&params.source, errno),
        })?;
        Ok(ResourceMoveResult {})
    })
    .await
}

fn go(source: &Place, target: &Place, keep: bool) -> Result<(), Errno> {
    let (from, to) = (source.name(), target.name());
    if !keep {
        return renameat(&source.parent, from, &target.parent, to);
    }
    let flags = RenameFlags::NOREPLACE;
    match renameat_with(&source.parent, from, &target.parent, to, flags) {
        // A file system that cannot promise it.
        Err(Errno::INVAL | Errno::NOSYS) => match target.look() {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => renameat(&source.parent, from, &target.parent, to),
            Err(errno) => Err(errno),
        },
        answer => answer,
    }
}
