//! Ending what an earlier host left behind, by kernel identity and ledger.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{Change, HostRun, ResourceRecord, SessionId, WriteError};
use hostler_process::{Adopted, EndReport, Error, Signal, Tree};
use rustix::process::pidfd_send_signal;
use tokio::time::{Instant, sleep};

use crate::open::Keeper;
use crate::recover::{Group, Known, Recovery, Seen, blank};
use crate::report::{CloseReport, LeftProcess, Outcome, Released};
use crate::sessions::Host;

/// How long what was killed has to go.
const GONE_BY: Duration = Duration::from_secs(5);

/// Ends a group and records it. `adopted` is its tree, where it was adopted to be ended.
pub(crate) async fn sweep(host: &Arc<Host>, group: Group, adopted: Option<Adopted>) -> Seen {
    let began = Instant::now();
    let mut seen = Seen::default();
    let owner = &group.owner;
    let grace = owner.detail.options.policy.grace;
    let adopted = match adopted {
        Some(adopted) => Ok(adopted),
        None => Tree::adopt(&owner.detail.socket).await,
    };
    let mut report = blank(owner);
    match adopted {
        Ok(adopted) => {
            // Its guards are dropped after the end, when there is nothing left for them to release.
            let ended = adopted.tree.end(grace).await;
            count(ended, &mut report);
        }
        Err(Error::NoKeeper(_) | Error::KeeperGone) => {
            without_keeper(host, &group, &mut report).await;
        }
        Err(error) => {
            seen.unreached
                .push((owner.row.id.clone(), error.to_string()));
            return seen;
        }
    }
    if !report.is_clean() {
        let why = format!("{} processes cannot be ended", report.remaining);
        seen.unreached.push((owner.row.id.clone(), why));
        return seen;
    }
    let mut dirs: Vec<&PathBuf> = Vec::new();
    for known in group.kept.iter().chain([owner]) {
        dirs.push(&known.detail.dir);
        dirs.extend(&known.detail.more_dirs);
    }
    for dir in dirs {
        if is_ours(host, dir) {
            let _ = crate::dirs::remove(dir).await;
        }
    }
    for known in group.kept.iter().chain([owner]) {
        let mut report = CloseReport {
            session: known.row.id.clone(),
            name: known.row.name.clone(),
            took: began.elapsed(),
            recorded: true,
            ..report.clone()
        };
        report.released = known
            .resources
            .iter()
            .map(|resource| released(resource, &report))
            .collect();
        record(host, known, &mut report).await;
        seen.swept.push(report);
    }
    seen
}

/// Records the end of one that has neither processes nor directories any more.
pub(crate) async fn without_tree(host: &Host, known: &Known) -> CloseReport {
    let mut report = blank(known);
    report.recorded = true;
    report.released = known
        .resources
        .iter()
        .map(|resource| released(resource, &report))
        .collect();
    record(host, known, &mut report).await;
    report
}

fn count(ended: Result<EndReport, Error>, report: &mut CloseReport) {
    match ended {
        Ok(ended) => {
            report.remaining = ended.remaining;
            report.processes = ended
                .left
                .iter()
                .map(|left| LeftProcess {
                    pid: left.id.pid,
                    start_time: left.id.start_time,
                    command: left.command.to_string(),
                    how: left.how.as_str().into(),
                    took: left.took,
                    resource: None,
                })
                .collect();
        }
        Err(_) => report.proven = false,
    }
}

/// Its keeper is gone. What it left was ended by the zygote, or it was killed together with that: then a cgroup and the
/// identities in the ledger still name what survived.
async fn without_keeper(host: &Host, group: &Group, report: &mut CloseReport) {
    let detail = &group.owner.detail;
    if let Some(cgroup) = detail.cgroup.as_deref().filter(|path| named_as_ours(path)) {
        count(hostler_process::contain::end_group(cgroup).await, report);
    }
    let mut identities: Vec<(u32, u64)> = detail
        .keeper
        .iter()
        .filter(|keeper: &&Keeper| keeper.boot == host.options.run.boot)
        .map(|keeper| (keeper.pid, keeper.start_time))
        .collect();
    let resources = group
        .kept
        .iter()
        .chain([&group.owner])
        .flat_map(|known| &known.resources);
    identities.extend(
        resources
            .filter_map(|resource| resource.identity.as_ref())
            .filter(|identity| identity.boot == host.options.run.boot)
            .map(|identity| (identity.pid, identity.start_time)),
    );
    let until = Instant::now() + GONE_BY;
    loop {
        let mut left = 0;
        for (pid, start_time) in &identities {
            if let Some(handle) = crate::identity::hold(*pid, *start_time) {
                left += 1;
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
        report.remaining = left;
        if left == 0 || Instant::now() >= until {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn released(resource: &ResourceRecord, report: &CloseReport) -> Released {
    let left = resource.identity.as_ref().and_then(|identity| {
        report
            .processes
            .iter()
            .find(|left| (left.pid, left.start_time) == (identity.pid, identity.start_time))
    });
    let outcome = match (left.map(|left| left.how.as_str()), &resource.identity) {
        (Some("terminated"), _) => Outcome::Terminated,
        (Some("killed"), _) => Outcome::Killed,
        (_, Some(_)) => Outcome::Lost,
        (_, None) => Outcome::NeverStarted {
            why: "its host died".into(),
        },
    };
    Released {
        id: resource.id.clone(),
        kind: resource.kind.clone(),
        shown: resource.name.clone().unwrap_or_default(),
        outcome,
        took: left.map_or(Duration::ZERO, |left| left.took),
    }
}

async fn record(host: &Host, known: &Known, report: &mut CloseReport) {
    let mut changes: Vec<Change> = report
        .released
        .iter()
        .map(|released| Change::ResourceReleased {
            id: released.id.clone(),
            outcome: serde_json::to_value(&released.outcome).unwrap_or_default(),
            by: report.by.clone(),
        })
        .collect();
    changes.push(Change::SessionClosed {
        id: known.row.id.clone(),
        reason: report.reason.as_str().into(),
        report: serde_json::to_value(&*report).unwrap_or_default(),
        by: report.by.clone(),
    });
    fail::fail_point!("sweep.record");
    match host.ledger.write(changes.clone()).await {
        Ok(_) => {}
        // Its children are seen to later; then it is recorded.
        Err(WriteError::Refused(_)) => report.recorded = false,
        Err(_) => {
            report.recorded = false;
            host.ledger.write_later(changes);
        }
    }
}

/// Records those that had to wait for their children.
pub(crate) async fn record_rest(host: &Host, swept: &mut [CloseReport]) {
    for report in swept.iter_mut().rev().filter(|report| !report.recorded) {
        report.recorded = true;
        let mut changes: Vec<Change> = report
            .released
            .iter()
            .map(|released| Change::ResourceReleased {
                id: released.id.clone(),
                outcome: serde_json::to_value(&released.outcome).unwrap_or_default(),
                by: report.by.clone(),
            })
            .collect();
        changes.push(Change::SessionClosed {
            id: report.session.clone(),
            reason: report.reason.as_str().into(),
            report: serde_json::to_value(&*report).unwrap_or_default(),
            by: report.by.clone(),
        });
        report.recorded = host.ledger.write(changes).await.is_ok();
    }
}

/// Whether a directory is one of a session, in this host's state directory.
fn is_ours(host: &Host, dir: &Path) -> bool {
    let name = dir.file_name().and_then(|name| name.to_str());
    dir.parent() == Some(&host.options.state_dir.join("sessions"))
        && name.is_some_and(|name| name.parse::<SessionId>().is_ok())
}

/// Whether a cgroup has a name that only a host gives.
fn named_as_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| host_of_group(name).is_some())
}

/// The pid of the host that made the cgroup of this name.
fn host_of_group(name: &str) -> Option<u32> {
    let (pid, count) = name.strip_prefix("hostler-")?.split_once('-')?;
    count.parse::<u64>().ok()?;
    pid.parse().ok()
}

/// What the ledger does not know of, but bears our name.
pub(crate) async fn strangers(
    host: &Arc<Host>,
    open: &HashSet<SessionId>,
    earlier: &[HostRun],
    in_use: &HashSet<PathBuf>,
    recovery: &mut Recovery,
) {
    let sessions = host.options.state_dir.join("sessions");
    for entry in std::fs::read_dir(&sessions).into_iter().flatten().flatten() {
        let dir = entry.path();
        let id = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<SessionId>().ok());
        let Some(id) = id else {
            recovery.untouched.push(dir.display().to_string());
            continue;
        };
        // One that is open was seen to; its directory may serve another that keeps processes of it.
        if open.contains(&id) || in_use_by_another(host, &dir) {
            continue;
        }
        match Tree::adopt(&crate::dirs::socket(&dir)).await {
            Ok(adopted) => drop(adopted.tree.end(Duration::ZERO).await),
            Err(Error::NoKeeper(_) | Error::KeeperGone) => {}
            Err(error) => {
                recovery
                    .untouched
                    .push(format!("{}: {error}", dir.display()));
                continue;
            }
        }
        if crate::dirs::remove(&dir).await.is_ok() {
            recovery.removed.push(dir.display().to_string());
        }
    }
    let Some(base) = hostler_process::contain::base() else {
        return;
    };
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(host_of_group) else {
            continue;
        };
        let ours = earlier
            .iter()
            .any(|run| run.pid == pid && run.boot == host.options.run.boot);
        // A pid that is in use again may be another host's.
        let free = !Path::new(&format!("/proc/{pid}")).exists();
        if !ours || !free || in_use.contains(&path) {
            continue;
        }
        match hostler_process::contain::end_group(&path).await {
            Ok(_) => recovery.removed.push(path.display().to_string()),
            Err(error) => recovery
                .untouched
                .push(format!("{}: {error}", path.display())),
        }
    }
}

/// Whether a session that was adopted has this directory to remove later.
fn in_use_by_another(host: &Host, dir: &Path) -> bool {
    crate::process::lock(&host.adopted_dirs).contains(dir)
}
