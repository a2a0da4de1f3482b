//! Going on with sessions of an earlier host.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hostler_ledger::{By, Change, ResourceFilter, ResourceId, ResourceRecord, SessionId};
use hostler_process::{Adopted, Error, Key, Process, Terminal, Tree};
use tokio::time::{Instant, sleep, timeout};

use crate::actor::{Actor, Kept};
use crate::event::{ExitInfo, SessionState};
use crate::life::{Detail, Now, stored_name};
use crate::mailbox::Message;
use crate::output::{Follower, Output, Spool};
use crate::patterns::Patterns;
use crate::process::{Input, Shared, lock};
use crate::recover::{Group, Known, Seen};
use crate::report::Outcome;
use crate::resource::ResourceState;
use crate::revived::Revived;
use crate::sessions::Host;
use crate::streams::{Screen, Streams, watched};
use crate::tree::SharedTree;

/// How long a process in the foreground, whose host is another one now, waits for its client before it writes more than is kept. As
/// long as the former host stays for a client that does not read.
const COME_BACK: Duration = Duration::from_secs(600);

/// Adopts a group; where its tree has ended or is gone, sweeps it.
pub(crate) async fn adopt(host: &Arc<Host>, group: Group) -> Seen {
    let adopted = Tree::adopt(&group.owner.detail.socket).await;
    reached(host, group, adopted).await
}

/// The same, once its keeper was asked.
pub(crate) async fn reached(
    host: &Arc<Host>,
    group: Group,
    adopted: Result<Adopted, Error>,
) -> Seen {
    let mut seen = Seen::default();
    let parent = group.owner.row.parent.as_ref();
    let orphan = parent.is_some_and(|parent| !lock(&host.registry).sessions.contains_key(parent));
    if orphan || !group.wants_to_live() {
        // It never outlives the session that it belongs to.
        return crate::sweep::sweep(host, group, adopted.ok()).await;
    }
    match adopted {
        Ok(adopted) if adopted.ended.is_some() || adopted.ending.is_some() => {
            crate::sweep::sweep(host, group, Some(adopted)).await
        }
        Ok(adopted) => {
            take_over(host, group, adopted, &mut seen).await;
            seen
        }
        Err(Error::NoKeeper(_) | Error::KeeperGone) => crate::sweep::sweep(host, group, None).await,
        Err(error) => {
            seen.unreached
                .push((group.owner.row.id.clone(), error.to_string()));
            seen
        }
    }
}

async fn take_over(host: &Arc<Host>, group: Group, adopted: Adopted, seen: &mut Seen) {
    let Adopted {
        tree, processes, ..
    } = adopted;
    fail::fail_point!("adopt.reached");
    seen.cgroups.extend(tree.cgroup().map(Into::into));
    let mut processes: HashMap<Key, Process> = processes
        .into_iter()
        .map(|(process, started)| (started.key, process))
        .collect();
    let all = group.kept.iter().chain([&group.owner]);
    let rules = all.map(|known| crate::open::on_host_exit(&known.detail.options.policy));
    if let Some(rule) = rules.reduce(crate::lending::stronger) {
        let _ = tree.set_on_host_exit(rule).await;
    }
    let tree = SharedTree::new(tree);
    let owner_lives = group.owner.wants_to_live();
    let owner_id = group.owner.row.id.clone();
    let mut kept_to = Kept::No;
    let mut kept_ids = Vec::new();
    for known in group.kept {
        let id = known.row.id.clone();
        let ids: Vec<ResourceId> = known
            .resources
            .iter()
            .map(|resource| resource.id.clone())
            .collect();
        let from = Some(owner_id.clone());
        let Some(actor) = revive(host, known, &tree, &mut processes, from).await else {
            seen.unreached.push((id, "its name is taken".into()));
            continue;
        };
        kept_to = Kept::To(actor.session.clone());
        kept_ids.extend(ids);
        seen.revived.push(Revived { actor, ends: false });
    }
    let Some(mut actor) = revive(host, group.owner, &tree, &mut processes, None).await else {
        seen.unreached.push((owner_id, "its name is taken".into()));
        return;
    };
    // Those of which nobody heard that they were started: as though their starter had gone.
    drop(processes);
    actor.kept = kept_to;
    actor.kept_ids = kept_ids;
    seen.revived.push(Revived {
        actor,
        ends: !owner_lives,
    });
}

/// The task of a session that goes on, not yet run.
async fn revive(
    host: &Arc<Host>,
    known: Known,
    tree: &SharedTree,
    processes: &mut HashMap<Key, Process>,
    kept_from: Option<SessionId>,
) -> Option<Actor> {
    let Known {
        row,
        detail,
        resources,
    } = known;
    let options = detail.options.clone();
    let mut actor = crate::open::register(host, row.id.clone(), options, row.opened).ok()?;
    actor.in_ledger = true;
    actor.dir = detail.dir.clone();
    if !actor.dir.exists() {
        // Its host died between recording it and making them.
        let _ = crate::dirs::make(&actor.dir);
    }
    actor.more_dirs = detail.more_dirs.clone();
    lock(&host.adopted_dirs).extend(actor.more_dirs.iter().cloned());
    if let Some(from) = kept_from {
        actor.is_lent_by(from);
    }
    actor.has_age();
    if let (true, Some(since)) = (detail.handed_over, detail.quiet_since) {
        // A host that was killed could not say when something was done last.
        actor.last_activity = crate::open::of_shared(since);
    }
    actor.has_tree(tree.clone());
    actor.status.send_modify(|status| status.adopted = true);
    for resource in with_ended(host, &row.id, resources).await {
        let key = serde_json::from_value::<Detail>(resource.detail.clone())
            .ok()
            .map(|detail| (Key(detail.key), detail));
        let process = key.as_ref().and_then(|(key, _)| processes.remove(key));
        if let Some(released) = &resource.released {
            let end = serde_json::from_value(released.outcome.clone()).unwrap_or_default();
            actor.show_ended(&resource, end);
            // Where the keeper knows it yet, it is told by the guard's end. What is stored of it stays: others may write there.
            continue;
        }
        // That one has ended, and what goes on is the pause after it.
        let process = process.filter(|process| {
            let paused = key.as_ref().and_then(|(_, detail)| detail.paused);
            paused.is_none_or(|paused| paused.key != process.key().0)
        });
        match (key, process) {
            (Some((_, detail)), Some(process)) => {
                actor
                    .go_on_with(resource, detail, Some(process), tree)
                    .await;
            }
            (Some((_, detail)), None) if detail.paused.is_some() => {
                actor.go_on_with(resource, detail, None, tree).await;
            }
            _ => {
                let outcome = match resource.identity {
                    Some(_) => Outcome::Lost,
                    None => Outcome::NeverStarted {
                        why: "its host died".into(),
                    },
                };
                let by = By::new("host", "not found after the host's death");
                actor.record_release(&resource.id, &outcome, by);
                if outcome == Outcome::Lost {
                    let exit = ExitInfo {
                        lost: true,
                        ..ExitInfo::default()
                    };
                    let end = End {
                        how: None,
                        exit: Some(exit),
                    };
                    actor.show_ended(&resource, end);
                }
            }
        }
    }
    actor.forget_oldest();
    actor.touch_status();
    fail::fail_point!("adopt.revived");
    let state = if row.state == SessionState::Detached.as_str() {
        let since = detail.detached_since.map(crate::open::of_shared);
        actor.detached_at = Some(since.unwrap_or_else(Instant::now));
        SessionState::Detached
    } else {
        SessionState::Active
    };
    actor.set_state(state, None);
    host.ledger.write_later(vec![
        actor.detail_change(false),
        Change::SessionState {
            id: row.id,
            state: state.as_str().into(),
            by: By::new("host", "adopted"),
        },
    ]);
    Some(actor)
}

impl Actor {
    async fn go_on_with(
        &mut self,
        resource: ResourceRecord,
        detail: Detail,
        process: Option<Process>,
        tree: &SharedTree,
    ) {
        let id = resource.id;
        let keep = detail.options.output;
        let path = |stream| crate::dirs::spool(&detail.dir, &id, stream);
        let reopen = |stream| Spool::reopen(&path(stream), keep);
        let apart = detail.options.is_apart();
        let spools = reopen("out").and_then(|out| {
            let err = apart.then(|| reopen("err")).transpose()?;
            Ok((out, err))
        });
        let Ok((mut out, err)) = spools else {
            // No place for its output: it is released by its guard.
            let outcome = Outcome::Failed {
                why: "its output cannot be kept".into(),
            };
            self.record_release(&id, &outcome, By::new("host", "adoption"));
            return;
        };
        if detail.options.is_service() {
            // Its reader says from where it goes on.
            out.hold();
        }
        let (streams, input) = match (tree.get(), &process) {
            (Ok(tree), Some(_)) => fetch(&tree, &id).await,
            _ => (Streams::default(), Input::None),
        };
        if let Some(screen) = &streams.terminal {
            screen.settle(&mut out);
        }
        if detail.options.is_foreground() {
            // What it writes may be more than is kept; its client is about to come back for it.
            for spool in [Some(&out), err.as_ref()].into_iter().flatten() {
                tokio::spawn(hold(spool.paced_again()));
            }
        }
        let outputs = (out.output(), err.as_ref().map(Spool::output));
        let by = detail.by.unwrap_or_else(|| By::new("host", "adopted"));
        let mailbox = self.session.fixed.mailbox.clone();
        let watched = watch_from(&outputs.0);
        let shared = Arc::new(Shared::new(
            (id.clone(), detail.options, by),
            tree.clone(),
            outputs,
            mailbox,
        ));
        shared.key.store(detail.key, Ordering::Relaxed);
        lock(&shared.running).input = input;
        let grace: Duration = self.status.borrow().policy.grace;
        let mut life = self.life(&shared, (out, err), detail.starts.max(1), grace);
        life.dir = detail.dir;
        life.began = detail.began;
        life.paused = detail.paused;
        let now = match (process, detail.paused) {
            (Some(process), _) => {
                let process = Arc::new(process);
                life.set_running(&process, &streams);
                Now::Running(process, streams)
            }
            (None, Some(paused)) => {
                shared.status.send_modify(|status| {
                    status.state = ResourceState::Restarting;
                    status.starts = detail.starts;
                    status.exit = Some(paused.exit);
                });
                lock(&shared.running).intended = true;
                Now::Paused(paused)
            }
            (None, None) => return,
        };
        if !shared.options.patterns.is_empty()
            && let Ok(patterns) = Patterns::new(&shared.options.patterns)
        {
            let output = shared.stdout.follow(watched);
            tokio::spawn(patterns.watch(self.host.clone(), shared.clone(), output));
        }
        if shared.options.is_foreground() {
            let policy = self.status.borrow().policy.clone();
            let grace = policy.detached_grace.unwrap_or(COME_BACK);
            if !grace.is_zero() {
                tokio::spawn(end_unclaimed(Arc::downgrade(&shared), grace));
            }
        }
        let mut entry = self.entry(&shared);
        entry.task = Some(tokio::spawn(life.adopted(now)));
        self.entries.insert(id, entry);
    }

    /// One that has ended, for looking at, where its output is still there.
    fn show_ended(&mut self, resource: &ResourceRecord, end: End) {
        let id = &resource.id;
        let Ok(detail) = serde_json::from_value::<Detail>(resource.detail.clone()) else {
            return;
        };
        let open = |stream| {
            let path = crate::dirs::spool(&detail.dir, id, stream);
            let spool = Spool::reopen(&path, detail.options.output).ok()?;
            // Nothing more comes.
            Some(spool.output())
        };
        let Some(out) = open("out") else { return };
        let (Some(tree), Some(exit)) = (self.tree.clone(), end.exit) else {
            return;
        };
        let err = open("err");
        let by = detail.by.unwrap_or_else(|| By::new("host", "adopted"));
        let mailbox = self.session.fixed.mailbox.clone();
        let shared = Shared::new(
            (id.clone(), detail.options, by.clone()),
            tree,
            (out, err),
            mailbox,
        );
        shared.status.send_modify(|status| {
            status.state = ResourceState::Ended;
            status.starts = detail.starts.max(1);
            status.exit = Some(exit);
            if let Some(identity) = &resource.identity {
                status.pid = Some(identity.pid);
                status.start_time = Some(identity.start_time);
            }
        });
        lock(&shared.running).intended = true;
        let mut entry = self.entry(&Arc::new(shared));
        entry.recorded = true;
        let asked = matches!(end.how.as_deref(), Some("terminated" | "killed"));
        entry.ended_by = asked.then_some(by);
        self.entries.insert(id.clone(), entry);
        self.ended.push_back(id.clone());
    }
}

/// What the ledger has of the end of a process.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct End {
    how: Option<String>,
    exit: Option<ExitInfo>,
}

/// All that a session ever had, in order, where the ledger can be read; else what it has.
async fn with_ended(
    host: &Arc<Host>,
    id: &SessionId,
    resources: Vec<ResourceRecord>,
) -> Vec<ResourceRecord> {
    let ledger = host.ledger.clone();
    let filter = ResourceFilter {
        session: Some(id.clone()),
        released: true,
    };
    let all = tokio::task::spawn_blocking(move || ledger.resources(&filter)).await;
    match all {
        Ok(Ok(all)) => all,
        _ => resources,
    }
}

/// From where an output is watched on: from the start of a line that is not whole yet, of which nobody was told.
fn watch_from(output: &Output) -> u64 {
    let len = output.progress().len;
    let whole = match output.read_at(len.saturating_sub(1), 1) {
        Ok(chunk) => chunk.bytes.last().is_none_or(|byte| *byte == b'\n'),
        Err(_) => true,
    };
    let from = (!whole).then(|| output.last_lines(1, 64 << 10).ok());
    from.flatten().unwrap_or(len)
}

/// Has a process wait for its client, until that is there or has been long enough in coming.
async fn hold(place: Follower) {
    let _ = timeout(COME_BACK, place.output().ended()).await;
}

/// Ends a process in the foreground whose client has not come back in that time: the guard that would have ended it was the former
/// host's.
async fn end_unclaimed(process: Weak<Shared>, grace: Duration) {
    sleep(grace).await;
    if let Some(shared) = process.upgrade()
        && !shared.claimed.load(Ordering::Relaxed)
    {
        shared.owner().send(Message::EndProcess {
            id: shared.id.clone(),
            grace: None,
            by: By::new("host", "its client has not come back"),
        });
    }
}

/// The host's ends, from the keeper's store. What is not there had been closed.
async fn fetch(tree: &Tree, id: &ResourceId) -> (Streams, Input) {
    let get = async |stream| tree.fetch(&stored_name(id, stream)).await.ok();
    let (out, err, terminal, stage, stdin) = tokio::join!(
        get("stdout"),
        get("stderr"),
        get("terminal"),
        get("stage"),
        get("stdin")
    );
    let terminal = terminal.and_then(|fd| Terminal::from_master(fd).ok());
    let screen = match (terminal, stage) {
        (Some(terminal), Some(stage)) => Some(Screen::with(terminal, stage)),
        // A host before had died while it let go of them, or knew of no such pipe.
        (Some(terminal), None) => renewed(tree, id, terminal).await,
        (None, _) => None,
    };
    let streams = Streams {
        out: out.and_then(|fd| watched(fd).ok()),
        err: err.and_then(|fd| watched(fd).ok()),
        terminal: screen,
    };
    let input = match (&streams.terminal, stdin.and_then(|fd| watched(fd).ok())) {
        (Some(screen), _) => Input::Terminal(screen.terminal.clone()),
        (None, Some(pipe)) => Input::Pipe(Arc::new(pipe)),
        (None, None) => Input::None,
    };
    (streams, input)
}

/// A terminal with a new pipe, which the keeper gets first.
async fn renewed(tree: &Tree, id: &ResourceId, terminal: Terminal) -> Option<Screen> {
    let screen = Screen::new(terminal).ok()?;
    let stage = screen.stage().ok()?;
    let stored = tree.store(&stored_name(id, "stage"), stage).await;
    stored.ok().map(|()| screen)
}
