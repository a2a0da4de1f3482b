//! Going on with sessions of an earlier host.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{By, Change, ResourceId, ResourceRecord, SessionId};
use hostler_process::{Adopted, Error, Key, Process, Terminal, Tree};
use tokio::time::Instant;

use crate::actor::{Actor, Kept};
use crate::event::SessionState;
use crate::life::{Detail, stored_name};
use crate::mailbox::Message;
use crate::output::Spool;
use crate::process::{Input, Shared, lock};
use crate::recover::{Group, Known, Seen};
use crate::report::{CloseReason, Outcome};
use crate::sessions::Host;
use crate::streams::{Streams, watched};
use crate::tree::SharedTree;

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
    let policy = group.owner.detail.options.policy.clone();
    let _ = tree
        .set_on_host_exit(crate::open::on_host_exit(&policy))
        .await;
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
        let shared = actor
            .entries
            .values()
            .filter_map(|entry| entry.process.clone())
            .collect();
        kept_to = Kept::To(actor.session.clone(), shared);
        kept_ids.extend(ids);
        seen.adopted.push(id);
        tokio::spawn(actor.run());
    }
    let Some(mut actor) = revive(host, group.owner, &tree, &mut processes, None).await else {
        seen.unreached.push((owner_id, "its name is taken".into()));
        return;
    };
    // Those of which nobody heard that they were started: as though their starter had gone.
    drop(processes);
    actor.kept = kept_to;
    actor.kept_ids = kept_ids;
    let session = actor.session.clone();
    if let Some(parent) = actor.parent.clone() {
        let child = session.clone();
        let run = tokio::spawn(actor.run());
        let told = parent.ask(|reply| Message::Child { child, reply }).await;
        if !matches!(told, Ok(Ok(()))) {
            let by = By::new("host", "its parent is gone");
            let _ = session.close(CloseReason::ParentClosed, by, None).await;
        }
        drop(run);
    } else {
        tokio::spawn(actor.run());
    }
    if owner_lives {
        seen.adopted.push(owner_id);
        return;
    }
    let by = By::new("host", "swept: its host died");
    if let Ok(report) = session.close(CloseReason::HostDied, by, None).await {
        seen.swept.push((*report).clone());
    }
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
    actor.parent = row
        .parent
        .and_then(|parent| lock(&host.registry).sessions.get(&parent).cloned());
    if let Some(from) = kept_from {
        actor.is_lent_by(from);
    }
    actor.has_age();
    actor.has_tree(tree.clone());
    actor.status.send_modify(|status| status.adopted = true);
    for resource in resources {
        let key = serde_json::from_value::<Detail>(resource.detail.clone())
            .ok()
            .map(|detail| (Key(detail.key), detail));
        let process = key.as_ref().and_then(|(key, _)| processes.remove(key));
        match (key, process) {
            (Some((_, detail)), Some(process)) => {
                actor.go_on_with(resource, detail, process, tree).await;
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
            }
        }
    }
    actor.touch_status();
    fail::fail_point!("adopt.revived");
    let state = if row.state == SessionState::Detached.as_str() {
        actor.detached_at = Some(Instant::now());
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
        process: Process,
        tree: &SharedTree,
    ) {
        let id = resource.id;
        let process = Arc::new(process);
        let keep = detail.options.output;
        let path = |stream| crate::dirs::spool(&detail.dir, &id, stream);
        let reopen = |stream| {
            let path = path(stream);
            Spool::reopen(&path, keep).or_else(|_| Spool::create(&path, keep))
        };
        let apart = detail.options.is_apart();
        let spools = reopen("out").and_then(|out| {
            let err = apart.then(|| reopen("err")).transpose()?;
            Ok((out, err))
        });
        let Ok((out, err)) = spools else {
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
        let (streams, input) = match tree.get() {
            Ok(tree) => fetch(&tree, &id).await,
            Err(_) => (Streams::default(), Input::None),
        };
        let outputs = (out.output(), err.as_ref().map(Spool::output));
        let by = By::new("host", "adopted");
        let mailbox = self.session.fixed.mailbox.clone();
        let shared = Arc::new(Shared::new(
            (id.clone(), detail.options, by),
            tree.clone(),
            outputs,
            mailbox,
        ));
        shared
            .key
            .store(detail.key, std::sync::atomic::Ordering::Relaxed);
        lock(&shared.running).input = input;
        let grace: Duration = self.status.borrow().policy.grace;
        let mut life = self.life(&shared, (out, err), detail.starts.max(1), grace);
        life.dir = detail.dir;
        life.set_running(&process, &streams);
        let mut entry = self.entry(&shared);
        entry.task = Some(tokio::spawn(life.adopted(process, streams)));
        self.entries.insert(id, entry);
    }
}

/// The host's ends, from the keeper's store. What is not there had been closed.
async fn fetch(tree: &Tree, id: &ResourceId) -> (Streams, Input) {
    let get = async |stream| tree.fetch(&stored_name(id, stream)).await.ok();
    let (out, err, terminal, stdin) =
        tokio::join!(get("stdout"), get("stderr"), get("terminal"), get("stdin"));
    let streams = Streams {
        out: out.and_then(|fd| watched(fd).ok()),
        err: err.and_then(|fd| watched(fd).ok()),
        terminal: terminal.and_then(|fd| Terminal::from_master(fd).ok()),
    };
    let input = match (&streams.terminal, stdin.and_then(|fd| watched(fd).ok())) {
        (Some(terminal), _) => Input::Terminal(terminal.clone()),
        (None, Some(pipe)) => Input::Pipe(Arc::new(pipe)),
        (None, None) => Input::None,
    };
    (streams, input)
}
