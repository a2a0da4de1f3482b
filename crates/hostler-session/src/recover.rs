//! What is done, at the start of a host, about what earlier ones left behind.
//!
//! For each session that the ledger has as open: one that was to be kept, or was handed over, and whose keeper answers, is
//! adopted; any other is ended and recorded as closed. What the ledger does not know but bears our name (directories of
//! sessions, cgroups of hosts that are gone) is ended and removed. What cannot be proven to be ours is not touched.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{
    By, Change, HostRun, ResourceFilter, ResourceRecord, SessionFilter, SessionId, SessionRecord,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::open::Detail;
use crate::policy::{OnHostExit, seconds};
use crate::report::{CloseReason, CloseReport};
use crate::revived::Revived;
use crate::sessions::Host;

/// How many sessions are seen to at once.
const AT_ONCE: usize = 64;

/// What was found and done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovery {
    /// Sessions that go on here.
    pub adopted: Vec<SessionId>,
    /// Sessions that were ended, or had ended, with what that came to.
    pub swept: Vec<CloseReport>,
    /// Sessions whose keeper lives and cannot be reached, or of which something cannot be ended, with the reason. They stay
    /// open in the ledger, are shown as stuck, and are tried again from time to time and by the next recovery.
    pub unreached: Vec<(SessionId, String)>,
    /// Other things that were ended or removed: directories, cgroups.
    pub removed: Vec<String>,
    /// What looked left behind and was not touched, for it could not be proven to be ours.
    pub untouched: Vec<String>,
    /// How long it took.
    #[serde(with = "seconds", rename = "took_seconds")]
    pub took: Duration,
}

/// A session of the ledger, with what it owned.
pub(crate) struct Known {
    pub(crate) row: SessionRecord,
    pub(crate) detail: Detail,
    pub(crate) resources: Vec<ResourceRecord>,
}

impl Known {
    pub(crate) fn wants_to_live(&self) -> bool {
        self.detail.handed_over || self.detail.options.policy.on_host_exit == OnHostExit::Keep
    }
}

/// Sessions that share one tree: the one whose it is, and those that keep processes of it.
pub(crate) struct Group {
    pub(crate) owner: Known,
    pub(crate) kept: Vec<Known>,
}

impl Group {
    pub(crate) fn wants_to_live(&self) -> bool {
        self.owner.wants_to_live() || self.kept.iter().any(Known::wants_to_live)
    }
}

/// What became of a group.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) adopted: Vec<SessionId>,
    pub(crate) swept: Vec<CloseReport>,
    pub(crate) unreached: Vec<(SessionId, String)>,
    /// Sessions that are adopted once they go on.
    pub(crate) revived: Vec<Revived>,
    /// Cgroups that are in use.
    pub(crate) cgroups: Vec<PathBuf>,
}

pub(crate) async fn recover(host: &Arc<Host>, earlier: &[HostRun]) -> Result<Recovery> {
    let began = Instant::now();
    let mut recovery = Recovery::default();
    let (known, unreadable) = read(host).await?;
    for (id, why) in unreadable {
        recovery.unreached.push((id, why));
    }
    let open: HashSet<SessionId> = known
        .iter()
        .map(|known| known.row.id.clone())
        .chain(recovery.unreached.iter().map(|(id, _)| id.clone()))
        .collect();
    let mut cgroups = HashSet::new();
    let (known, without_tree) = apart(known);
    for known in without_tree {
        recovery
            .swept
            .push(crate::sweep::without_tree(host, &known).await);
    }
    let levels = levels(known);
    let traces = crate::unreached::traces(&levels);
    // Those that end, the children first; then those that go on, the parents first.
    let mut gone: HashSet<SessionId> = HashSet::new();
    let mut adopt = Vec::new();
    let mut sweep = Vec::new();
    for level in levels {
        let (mut live, mut end) = (Vec::new(), Vec::new());
        for group in level {
            let orphan = group
                .owner
                .row
                .parent
                .as_ref()
                .is_some_and(|parent| gone.contains(parent));
            if group.wants_to_live() && !orphan {
                live.push(group);
            } else {
                gone.insert(group.owner.row.id.clone());
                end.push(group);
            }
        }
        adopt.push(live);
        sweep.push(end);
    }
    for groups in sweep.into_iter().rev() {
        let work = groups.into_iter().map(|group| {
            let host = host.clone();
            async move { crate::sweep::sweep(&host, group, None).await }
        });
        let seen = at_once(work).await;
        crate::unreached::watch(host, &traces, &seen);
        recovery.take(seen, &mut cgroups);
    }
    let mut revived = Vec::new();
    for groups in adopt {
        let work = groups.into_iter().map(|group| {
            let host = host.clone();
            async move { crate::adopt::adopt(&host, group).await }
        });
        let mut seen = at_once(work).await;
        crate::unreached::watch(host, &traces, &seen);
        for seen in &mut seen {
            revived.append(&mut seen.revived);
        }
        recovery.take(seen, &mut cgroups);
    }
    // Only when all are known: what was due meanwhile is done at once.
    let seen = crate::revived::go_on(host, revived).await;
    recovery.take(vec![seen], &mut cgroups);
    crate::sweep::record_rest(host, &mut recovery.swept).await;
    crate::sweep::strangers(host, &open, earlier, &cgroups, &mut recovery).await;
    recovery.took = began.elapsed();
    host.ledger.write_later(vec![Change::EarlierSettled {
        detail: serde_json::to_value(&recovery).unwrap_or_default(),
        by: By::new("host", "start"),
    }]);
    Ok(recovery)
}

impl Recovery {
    fn take(&mut self, seen: Vec<Seen>, cgroups: &mut HashSet<PathBuf>) {
        for seen in seen {
            self.adopted.extend(seen.adopted);
            self.swept.extend(seen.swept);
            self.unreached.extend(seen.unreached);
            cgroups.extend(seen.cgroups);
        }
    }
}

async fn at_once(
    work: impl Iterator<Item = impl Future<Output = Seen> + Send + 'static>,
) -> Vec<Seen> {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for work in work {
        let turns = turns.clone();
        tasks.spawn(async move {
            let _turn = turns.acquire_owned().await;
            work.await
        });
    }
    let mut seen = Vec::new();
    while let Some(done) = tasks.join_next().await {
        // One that panics is left as it was, for the next recovery.
        seen.extend(done);
    }
    seen
}

type Unreadable = Vec<(SessionId, String)>;

/// All open sessions of the ledger, and those whose detail makes no sense.
async fn read(host: &Arc<Host>) -> Result<(Vec<Known>, Unreadable)> {
    let ledger = host.ledger.clone();
    let rows = tokio::task::spawn_blocking(move || {
        let sessions = ledger.sessions(&SessionFilter::default())?;
        let resources = ledger.resources(&ResourceFilter::default())?;
        Ok::<_, hostler_ledger::ReadError>((sessions, resources))
    });
    let (sessions, resources) = match rows.await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return Err(Error::io("read the ledger", std::io::Error::other(error))),
        Err(_) => return Err(Error::Stopping),
    };
    let mut by_session: HashMap<SessionId, Vec<ResourceRecord>> = HashMap::new();
    for resource in resources {
        by_session
            .entry(resource.session.clone())
            .or_default()
            .push(resource);
    }
    let (mut known, mut unreadable) = (Vec::new(), Vec::new());
    for row in sessions {
        match serde_json::from_value::<Detail>(row.detail.clone()) {
            Ok(detail) => known.push(Known {
                detail,
                resources: by_session.remove(&row.id).unwrap_or_default(),
                row,
            }),
            Err(error) => {
                unreadable.push((row.id, format!("its record is not understood: {error}")))
            }
        }
    }
    Ok((known, unreadable))
}

/// Those that have a tree, and those whose tree another session has taken with what it keeps ([`crate::keep`]): of these all is
/// gone, and their host died before it had recorded that. They lead to the other one's keeper.
fn apart(known: Vec<Known>) -> (Vec<Known>, Vec<Known>) {
    let dirs = known.iter().flat_map(|known| &known.detail.more_dirs);
    let taken: HashSet<PathBuf> = dirs.cloned().collect();
    known
        .into_iter()
        .partition(|known| !taken.contains(&known.detail.dir))
}

/// The group that a session's tree is for, as the ledger has it now.
pub(crate) async fn group_of(host: &Arc<Host>, id: &SessionId) -> Result<Option<Group>> {
    let (known, _) = read(host).await?;
    let mut groups = levels(known).into_iter().flatten();
    Ok(groups.find(|group| group.owner.row.id == *id))
}

/// Groups by depth: those without parents first.
fn levels(known: Vec<Known>) -> Vec<Vec<Group>> {
    let ids: HashSet<SessionId> = known.iter().map(|known| known.row.id.clone()).collect();
    let (kept, owners): (Vec<Known>, Vec<Known>) = known.into_iter().partition(|known| {
        known
            .detail
            .kept_from
            .as_ref()
            .is_some_and(|from| ids.contains(from))
    });
    let mut groups: Vec<Group> = owners
        .into_iter()
        .map(|owner| Group {
            owner,
            kept: Vec::new(),
        })
        .collect();
    for known in kept {
        let owner = groups
            .iter_mut()
            .find(|group| Some(&group.owner.row.id) == known.detail.kept_from.as_ref());
        match owner {
            Some(group) => group.kept.push(known),
            None => groups.push(Group {
                owner: known,
                kept: Vec::new(),
            }),
        }
    }
    let mut levels = Vec::new();
    let mut above: HashSet<SessionId> = HashSet::new();
    while !groups.is_empty() {
        let (level, rest): (Vec<Group>, Vec<Group>) = groups.into_iter().partition(|group| {
            let parent = group.owner.row.parent.as_ref();
            parent.is_none_or(|parent| above.contains(parent) || !ids.contains(parent))
        });
        // A circle cannot be, but must not hang.
        let (level, rest) = if level.is_empty() {
            (rest, Vec::new())
        } else {
            (level, rest)
        };
        above.extend(level.iter().map(|group| group.owner.row.id.clone()));
        levels.push(level);
        groups = rest;
    }
    levels
}

/// The report on a session that ended without its host.
pub(crate) fn blank(known: &Known) -> CloseReport {
    CloseReport {
        session: known.row.id.clone(),
        name: known.row.name.clone(),
        reason: CloseReason::HostDied,
        by: By::new("host", "swept: its host died"),
        took: Duration::ZERO,
        released: Vec::new(),
        processes: Vec::new(),
        connected: Vec::new(),
        remaining: 0,
        proven: true,
        stuck: Vec::new(),
        kept: Vec::new(),
        children: Vec::new(),
        recorded: false,
    }
}
