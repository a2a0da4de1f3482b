//! `resourceList`.

use std::os::fd::OwnedFd;
use std::path::Path;

use ahp_types::commands::{DirectoryEntry, ResourceListParams, ResourceListResult};
use hostler_agent::served::files::{Roots, reopen};
use rustix::fs::{Dir, FileType, OFlags};

use super::path::{failed, path, work};
use crate::ahp::error::AhpError;

/// How many entries are listed at the most.
const MOST: usize = 100_000;

/// `resourceList`. A link is shown as what it leads to, where that is below the roots, and else as a file. A name that is not UTF-8
/// cannot be named by anybody, and is left out.
///
/// # Errors
/// `NotFound`, `PermissionDenied`, `InvalidParams` for what is no directory.
pub(crate) async fn list(
    roots: &Roots,
    params: ResourceListParams,
) -> Result<ResourceListResult, AhpError> {
    work(roots, move |roots| {
        let path = path(&params.uri)?;
        let dir = roots.find_dir(&path)?;
        let mut entries = entries(roots, &path, &dir, &params.uri)?;
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(ResourceListResult { entries })
    })
    .await
}

fn entries(
    roots: &Roots,
    path: &Path,
    dir: &OwnedFd,
    uri: &str,
) -> Result<Vec<DirectoryEntry>, AhpError> {
    let fail = |errno| failed(uri, errno);
    let open = reopen(dir, OFlags::RDONLY | OFlags::DIRECTORY).map_err(fail)?;
    let mut entries = Vec::new();
    for entry in Dir::read_from(&open).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().to_str() else {
            continue;
        };
        if matches!(name, "." | "..") {
            continue;
        }
        if entries.len() == MOST {
            return Err(AhpError::params(format!(
                "`{uri}` has more than {MOST} entries"
            )));
        }
        let is_dir = match entry.file_type() {
            FileType::Directory => true,
            FileType::Symlink | FileType::Unknown => roots.find_dir(&path.join(name)).is_ok(),
            _ => false,
        };
        entries.push(DirectoryEntry {
            name: name.to_owned(),
            r#type: if is_dir { "directory" } else { "file" }.to_owned(),
        });
    }
    Ok(entries)
}
