//! `resourceRead` and `resourceResolve`.

use std::io::Read;

use ahp_types::commands::ContentEncoding;
use ahp_types::commands::{
    ResourceReadParams, ResourceReadResult, ResourceResolveParams, ResourceResolveResult,
    ResourceType,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hostler_agent::served::files::{Roots, reopen};
use rustix::fs::{AtFlags, FileType, OFlags, StatxFlags, fstat, statx};

use super::etag::{etag, iso};
use super::path::{failed, is_file, look, path, real, work};
use crate::ahp::error::AhpError;
use crate::ahp::uri;

/// The most that is read at once, in bytes.
pub(super) const MOST: u64 = 8 << 20;

/// `resourceRead`.
///
/// # Errors
/// `NotFound`, `PermissionDenied` (outside of the roots too), `InvalidParams` for what is no file, or more than 8 MiB.
pub(crate) async fn read(
    roots: &Roots,
    params: ResourceReadParams,
) -> Result<ResourceReadResult, AhpError> {
    work(roots, move |roots| {
        let bytes = bytes(roots, &params.uri, MOST)?;
        let content_type = sniff(&bytes).map(Into::into);
        let as_text = params.encoding != Some(ContentEncoding::Base64);
        let (data, encoding) = match String::from_utf8(bytes) {
            Ok(text) if as_text => (text, ContentEncoding::Utf8),
            Ok(text) => (STANDARD.encode(text), ContentEncoding::Base64),
            Err(error) => (STANDARD.encode(error.into_bytes()), ContentEncoding::Base64),
        };
        Ok(ResourceReadResult {
            data,
            encoding,
            content_type,
        })
    })
    .await
}

fn bytes(roots: &Roots, uri: &str, most: u64) -> Result<Vec<u8>, AhpError> {
    let place = roots.find(&path(uri)?)?;
    let (fd, stat) = look(&place, uri)?
        .ok_or_else(|| AhpError::not_found(format!("there is no file `{uri}`")))?;
    is_file(&fd, &stat, uri)?;
    let file = reopen(&fd, OFlags::RDONLY).map_err(|errno| failed(uri, errno))?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    let read = file.take(most + 1).read_to_end(&mut bytes);
    read.map_err(|error| AhpError::internal(format!("`{uri}`: {error}")))?;
    if bytes.len() as u64 > most {
        let why = format!(
            "`{uri}` has more than the {} MiB that are read at once",
            most >> 20
        );
        return Err(AhpError::params(why));
    }
    Ok(bytes)
}

/// What it looks like.
fn sniff(bytes: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 7] = [
        (b"\x89PNG\r\n\x1A\n", "image/png"),
        (b"\xFF\xD8\xFF", "image/jpeg"),
        (b"GIF8", "image/gif"),
        (b"%PDF-", "application/pdf"),
        (b"PK\x03\x04", "application/zip"),
        (b"\x1F\x8B", "application/gzip"),
        (b"\x7FELF", "application/x-executable"),
    ];
    let found = known.iter().find(|(begin, _)| bytes.starts_with(begin));
    match found {
        Some((_, kind)) => Some(kind),
        None if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => {
            Some("image/webp")
        }
        None if !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok() => Some("text/plain"),
        None => None,
    }
}

/// `resourceResolve`.
///
/// # Errors
/// As [`read`]; a directory is fine here.
pub(crate) async fn resolve(
    roots: &Roots,
    params: ResourceResolveParams,
) -> Result<ResourceResolveResult, AhpError> {
    work(roots, move |roots| {
        let path = path(&params.uri)?;
        let follow = params.follow_symlinks.unwrap_or(true);
        let missing = || AhpError::not_found(format!("there is no `{}`", params.uri));
        let fd = match follow {
            // A root itself is in no place below one.
            true => match roots.find_dir(&path) {
                Ok(dir) => dir,
                Err(_) => {
                    look(&roots.find(&path)?, &params.uri)?
                        .ok_or_else(missing)?
                        .0
                }
            },
            false => match roots.find_entry(&path) {
                Ok(place) => look(&place, &params.uri)?.ok_or_else(missing)?.0,
                Err(error) => roots.find_dir(&path).map_err(|_| error)?,
            },
        };
        let fail = |errno| failed(&params.uri, errno);
        let stat = fstat(&fd).map_err(fail)?;
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => ResourceType::File,
            FileType::Directory => ResourceType::Directory,
            FileType::Symlink => ResourceType::Symlink,
            FileType::Fifo => ResourceType::Unknown("pipe".into()),
            FileType::Socket => ResourceType::Unknown("socket".into()),
            _ => ResourceType::Unknown("device".into()),
        };
        let born = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok();
        let born = born.filter(|born| born.stx_mask & StatxFlags::BTIME.bits() != 0);
        let is_file = kind == ResourceType::File;
        Ok(ResourceResolveResult {
            uri: match follow {
                true => uri::of_path(&real(&fd).map_err(fail)?),
                false => params.uri.clone(),
            },
            size: is_file.then_some(stat.st_size),
            mtime: Some(iso(stat.st_mtime, stat.st_mtime_nsec as u32)),
            ctime: born.map(|born| iso(born.stx_btime.tv_sec, born.stx_btime.tv_nsec)),
            content_type: None,
            etag: is_file.then(|| etag(&stat)),
            r#type: kind,
        })
    })
    .await
}
