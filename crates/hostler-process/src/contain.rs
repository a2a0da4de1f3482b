//! Ways to contain, and which one a machine offers.
//!
//! | way | held together by | leaves open |
//! | --- | --- | --- |
//! | [`Contain::Tree`] | parentage: the keeper is a subreaper | host, zygote and keeper killed at once: only the keeper's direct children die with it; a process that forks faster than it can be followed dies after several passes |
//! | [`Contain::Cgroup`] | the same, and a cgroup (v2) that is killed whole | host, zygote and keeper killed at once: survivors live on, but stay named by their cgroup for the next host |
//! | [`Contain::Pidns`] | the same, and a pid namespace that dies with the keeper | nothing; but the child sees other pids, and setuid programs and nested sandboxes may not work |
//!
//! `auto` ([`TreeOptions::contain`](crate::TreeOptions::contain) as `None`) is the strongest that changes nothing for the
//! child: a cgroup where one can be made, else the tree alone.

use std::ffi::CString;
use std::path::Path;

pub use hostler_keeper::config::Contain;
use hostler_keeper::message::{Failure, Step};
use hostler_keeper::outcome::{EndReason, EndReport};
use rustix::io::Errno;

use crate::aftermath::end_cgroup;
use crate::error::Result;
use crate::record::nothing_left;
use crate::tree::path_text;

/// What `auto` tries first on this machine: [`Contain::Cgroup`] where this process's own cgroup (v2) can be written to, else
/// [`Contain::Tree`]. Making the group is what counts in the end: see [`crate::Tree::contain`] for what is in force.
pub fn auto() -> Contain {
    if hostler_keeper::cgroup::base().is_some() {
        Contain::Cgroup
    } else {
        Contain::Tree
    }
}

/// The directory in which this process would make cgroups, if it can.
pub fn base() -> Option<std::path::PathBuf> {
    hostler_keeper::cgroup::base()
}

/// A path for a new cgroup, of a name that nobody else has: `hostler-PID-RANDOM`.
fn new_group() -> Option<CString> {
    let whose = std::process::id().to_string();
    hostler_keeper::cgroup::fresh(&hostler_keeper::cgroup::base()?, &whose).ok()
}

/// The ways to try, in order, with a cgroup each where it takes one.
pub(crate) fn attempts(wanted: Option<Contain>) -> Vec<(Contain, Option<CString>)> {
    let group = if wanted == Some(Contain::Tree) {
        None
    } else {
        new_group()
    };
    match wanted {
        None => group
            .into_iter()
            .map(|group| (Contain::Cgroup, Some(group)))
            .chain([(Contain::Tree, None)])
            .collect(),
        Some(Contain::Pidns) => group
            .into_iter()
            .map(|group| (Contain::Pidns, Some(group)))
            .chain([(Contain::Pidns, None)])
            .collect(),
        Some(Contain::Cgroup) => vec![(Contain::Cgroup, group)],
        Some(Contain::Tree) => vec![(Contain::Tree, None)],
    }
}

/// Whether the next way is to be tried after this failure: when it was for the cgroup.
pub(crate) fn goes_on_after(failure: Failure) -> bool {
    failure.step == Step::Cgroup
}

/// Ends what is left in a cgroup whose keeper is gone, and removes it: kills it whole, until the kernel says that nothing
/// lives in it. For a path that a ledger has ([`crate::Tree::cgroup`]), when there is no keeper to adopt any more. A group
/// that is not there is an end that had nothing to do.
///
/// Cancel safe: dropped, what is done is done.
///
/// # Errors
/// [`Error::Unproven`](crate::Error::Unproven) when something in it lives on after 5 s, or it may not be killed.
pub async fn end_group(path: &Path) -> Result<EndReport> {
    let path = path_text(path)?;
    match hostler_keeper::cgroup::Cgroup::open(&path) {
        Err(Errno::NOENT) => Ok(EndReport {
            reason: EndReason::KeeperLost,
            ..nothing_left()
        }),
        _ => end_cgroup(Some(&path)).await,
    }
}
