//! The one way out of a session.
//!
//! Children first; then what plugs in, in order of dependency, independents at once, each bounded and guarded; then the tree
//! with all processes, whose end the kernel proves; then the directories; then the record. Whatever fails is recorded, and the
//! rest goes on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{By, Change, ResourceId, SessionId, WriteError};
use hostler_process::{EndReport, How, Left, Signal, Tree};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::event::SessionState;
use crate::mailbox::Message;
use crate::process::{Shared, lock};
use crate::prune::{Rest, prune};
use crate::report::{CloseReason, CloseReport, LeftProcess, Outcome, Released};
use crate::resource::{Resource, ResourceState};
use crate::session::Session;
use crate::sessions::Host;

/// How much longer than its grace a release may take.
const MARGIN: Duration = Duration::from_secs(1);
/// How long after the end of the tree the tasks of its processes have to notice.
const NOTICE: Duration = Duration::from_secs(1);
/// How long what is being started may take.
const STARTING: Duration = Duration::from_secs(10);

/// One resource of a session that closes.
pub(crate) struct Owned {
    pub(crate) id: ResourceId,
    pub(crate) kind: String,
    pub(crate) shown: String,
    /// What plugs in.
    pub(crate) resource: Option<Box<dyn Resource>>,
    pub(crate) process: Option<Arc<Shared>>,
    /// Whether it is on a terminal, which the close hangs up.
    pub(crate) hung_up: bool,
    /// Whether its release is in the ledger already.
    pub(crate) recorded: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) took: Duration,
}

/// Whose the tree is.
pub(crate) enum Ownership {
    /// This session's: it ends with it.
    Whole,
    /// The session's that its processes were kept from.
    Lent,
    /// This session's, but another one keeps processes in it and gets it.
    Left(Session),
}

/// All that a close needs.
pub(crate) struct Plan {
    pub(crate) host: Arc<Host>,
    pub(crate) id: SessionId,
    pub(crate) name: Option<String>,
    pub(crate) reason: CloseReason,
    pub(crate) by: By,
    pub(crate) grace: Duration,
    pub(crate) tree: Option<Arc<Tree>>,
    pub(crate) ownership: Ownership,
    pub(crate) resources: Vec<Owned>,
    pub(crate) children: Vec<Session>,
    pub(crate) kept: Vec<ResourceId>,
    pub(crate) dirs: Vec<PathBuf>,
    pub(crate) began: Instant,
    /// Whether its begin is in the ledger.
    pub(crate) in_ledger: bool,
}

/// What a close came to, with what is needed to try again where something is stuck.
pub(crate) struct Finished {
    pub(crate) report: CloseReport,
    pub(crate) again: Option<Plan>,
}

/// Closes. A panic in it does not lose the session: the tree is tried again.
pub(crate) async fn close(mut plan: Plan) -> Finished {
    let mut report = plan.blank();
    report.connected = crate::connected::connected(&plan).await;
    report.children = close_children(&plan).await;
    release_plugged(&mut plan).await;
    finish(plan, report).await
}

/// Tries again what was stuck.
pub(crate) async fn again(mut plan: Plan, report: CloseReport) -> Finished {
    plan.grace = Duration::ZERO;
    let mut report = report;
    report.children.retain(CloseReport::is_clean);
    report.children.extend(close_children(&plan).await);
    finish(plan, report).await
}

async fn close_children(plan: &Plan) -> Vec<CloseReport> {
    let mut closes = JoinSet::new();
    for child in &plan.children {
        let child = child.clone();
        let by = By::new("session", format!("{} closes", plan.id));
        let grace = plan.grace;
        closes.spawn(async move {
            child
                .close(CloseReason::ParentClosed, by, Some(grace))
                .await
        });
    }
    let reports = closes.join_all().await.into_iter();
    reports
        .filter_map(|report| report.ok().map(|report| (*report).clone()))
        .collect()
}

/// Releases what plugs in: each as soon as nothing depends on it any more.
async fn release_plugged(plan: &mut Plan) {
    let mut waiting: HashMap<ResourceId, (Box<dyn Resource>, Vec<ResourceId>)> = plan
        .resources
        .iter_mut()
        .filter_map(|owned| {
            let resource = owned.resource.take()?;
            let depends = resource.depends_on();
            Some((owned.id.clone(), (resource, depends)))
        })
        .collect();
    let mut under_way: HashMap<ResourceId, Vec<ResourceId>> = HashMap::new();
    let mut releases = JoinSet::new();
    loop {
        let mut ready: Vec<ResourceId> = waiting
            .keys()
            .filter(|id| {
                let needs = |depends: &Vec<ResourceId>| depends.contains(id);
                !waiting.values().any(|(_, depends)| needs(depends))
                    && !under_way.values().any(needs)
            })
            .cloned()
            .collect();
        if ready.is_empty() && under_way.is_empty() {
            // Those that depend on one another in a circle go at once.
            ready = waiting.keys().cloned().collect();
        }
        for id in ready {
            let Some((resource, depends)) = waiting.remove(&id) else {
                continue;
            };
            under_way.insert(id.clone(), depends);
            releases.spawn(release_one(id, resource, plan.grace));
        }
        let Some(done) = releases.join_next().await else {
            return;
        };
        if let Ok((id, outcome)) = done {
            under_way.remove(&id);
            let took = plan.began.elapsed();
            if let Some(owned) = plan.resources.iter_mut().find(|owned| owned.id == id) {
                owned.outcome = Some(outcome);
                owned.took = took;
            }
        }
    }
}

/// Releases one, bounded and guarded.
pub(crate) async fn release_one(
    id: ResourceId,
    mut resource: Box<dyn Resource>,
    grace: Duration,
) -> (ResourceId, Outcome) {
    let task = tokio::spawn(async move {
        // Within the task, so that its drop is guarded too.
        timeout(grace.saturating_add(MARGIN), resource.release(grace)).await
    });
    let outcome = match task.await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Failed {
            why: format!("not released within {:?}", grace.saturating_add(MARGIN)),
        },
        Err(error) => Outcome::Failed {
            why: format!("its release failed: {error}"),
        },
    };
    (id, outcome)
}

/// The tree, the directories, the record.
async fn finish(mut plan: Plan, mut report: CloseReport) -> Finished {
    end_processes(&mut plan, &mut report).await;
    fail::fail_point!("close.ended");
    await_lives(&plan).await;
    settle(&mut plan, &mut report);
    let children_left = report.children.iter().any(|child| !child.is_clean());
    let clean = report.is_clean() && !children_left;
    if clean {
        plan.children.clear();
    } else {
        plan.children
            .retain(|child| child.state() != SessionState::Closed);
    }
    report.took = plan.began.elapsed();
    report.recorded = true;
    if clean {
        // Both wait for the disk. Nobody is told before both are done.
        tokio::join!(record(&plan, &mut report), remove(&plan.dirs));
        fail::fail_point!("close.recorded");
        return Finished {
            report,
            again: None,
        };
    }
    Finished {
        report,
        again: Some(plan),
    }
}

/// Removes its directories. What cannot be removed now, the next host's sweep removes.
async fn remove(dirs: &[PathBuf]) {
    for dir in dirs {
        let _ = crate::dirs::remove(dir).await;
    }
    fail::fail_point!("close.removed");
}

async fn end_processes(plan: &mut Plan, report: &mut CloseReport) {
    let owned = plan.resources.iter();
    let processes: Vec<Arc<Shared>> = owned.filter_map(|owned| owned.process.clone()).collect();
    for process in &processes {
        process.stop.send_replace(true);
    }
    let Some(tree) = &plan.tree else {
        return;
    };
    hang_up_terminals(&processes).await;
    let ended: Vec<Result<EndReport, hostler_process::Error>> = match &plan.ownership {
        Ownership::Whole => vec![tree.end(plan.grace).await],
        Ownership::Lent => {
            started(&processes).await;
            let mut ended = release_each(&processes, plan.grace).await;
            // And what they had orphaned.
            let own = Rest::Of(processes.clone());
            ended.push(prune(tree, own, plan.grace).await);
            ended
        }
        Ownership::Left(to) => {
            started(&processes).await;
            let left = prune(tree, Rest::AllBut(to.clone()), plan.grace).await;
            if matches!(left, Err(hostler_process::Error::Superseded)) {
                vec![left]
            } else {
                let (done, taken) = tokio::sync::oneshot::channel();
                let dirs = plan.dirs.clone();
                to.fixed.mailbox.send(Message::TakeTree { dirs, done });
                match taken.await {
                    Ok(()) => {
                        plan.dirs.clear();
                        vec![left]
                    }
                    Err(_) if !to.state().is_to_stay() => {
                        // It closes too: nobody is there to be spared.
                        vec![left, tree.end(plan.grace).await]
                    }
                    // It is the next host's.
                    Err(_) => vec![left, Err(hostler_process::Error::Superseded)],
                }
            }
        }
    };
    report.remaining = u64::from(pretends_to_be_stuck(plan));
    for ended in ended {
        match ended {
            Ok(ended) => {
                report.remaining += ended.remaining;
                for left in ended.left {
                    add_left(plan, report, &left);
                }
            }
            Err(_) => {
                report.proven = false;
                report.remaining += alive(&processes);
            }
        }
    }
}

/// For tests: what cannot be ended is hard to come by.
fn pretends_to_be_stuck(plan: &Plan) -> bool {
    let _ = plan;
    fail::fail_point!(
        &format!("close.stuck.{}", plan.name.as_deref().unwrap_or_default()),
        |_| true
    );
    false
}

fn add_left(plan: &Plan, report: &mut CloseReport, left: &Left) {
    let resource = plan.resources.iter().find(|owned| {
        owned.process.as_ref().is_some_and(|process| {
            let status = *process.status.borrow();
            (status.pid, status.start_time) == (Some(left.id.pid), Some(left.id.start_time))
        })
    });
    let new = LeftProcess {
        pid: left.id.pid,
        start_time: left.id.start_time,
        command: left.command.to_string(),
        how: left.how.as_str().into(),
        took: left.took,
        resource: resource.map(|owned| owned.id.clone()),
    };
    let known = report
        .processes
        .iter_mut()
        .find(|known| (known.pid, known.start_time) == (new.pid, new.start_time));
    match known {
        Some(known) => *known = new,
        None => report.processes.push(new),
    }
}

/// An interactive shell ignores SIGTERM; what tells it to go is that its terminal does.
async fn hang_up_terminals(processes: &[Arc<Shared>]) {
    let mut signals = JoinSet::new();
    for shared in processes {
        if shared.options.terminal.is_some()
            && let Some(process) = shared.process()
        {
            signals.spawn(async move {
                let _ = process.signal_group(Signal::HUP).await;
                let _ = process.signal_group(Signal::CONT).await;
            });
        }
    }
    if !signals.is_empty() {
        let _ = timeout(NOTICE, signals.join_all()).await;
    }
}

/// Waits until none is just being started: all were told to stop, so that none begins from here on.
async fn started(processes: &[Arc<Shared>]) {
    let until = Instant::now() + STARTING;
    for shared in processes {
        let mut status = shared.status.subscribe();
        let there = status.wait_for(|status| status.state != ResourceState::Starting);
        if timeout_at(until, there).await.is_err() {
            return;
        }
    }
}

async fn release_each(
    processes: &[Arc<Shared>],
    grace: Duration,
) -> Vec<Result<EndReport, hostler_process::Error>> {
    let mut ends = JoinSet::new();
    for process in processes.iter().filter_map(|shared| shared.process()) {
        ends.spawn(async move { process.end(grace).await });
    }
    ends.join_all().await
}

/// How many of the processes that were started are still there, by identity: what is left to look at where nobody counts.
fn alive(processes: &[Arc<Shared>]) -> u64 {
    processes
        .iter()
        .filter(|shared| {
            let status = *shared.status.borrow();
            match (status.pid, status.start_time) {
                (Some(pid), Some(start_time)) => crate::identity::lives(pid, start_time),
                _ => false,
            }
        })
        .count() as u64
}

async fn await_lives(plan: &Plan) {
    let until = Instant::now() + NOTICE;
    for shared in plan
        .resources
        .iter()
        .filter_map(|owned| owned.process.as_ref())
    {
        let mut status = shared.status.subscribe();
        let ended = status.wait_for(|status| status.state == ResourceState::Ended);
        if timeout_at(until, ended).await.is_err() {
            break;
        }
    }
}

/// What became of each resource.
fn settle(plan: &mut Plan, report: &mut CloseReport) {
    report.released.clear();
    report.stuck.clear();
    for owned in &mut plan.resources {
        if let Some(shared) = &owned.process
            && !owned.recorded
        {
            let left = report
                .processes
                .iter()
                .find(|left| left.resource.as_ref() == Some(&owned.id));
            owned.outcome = Some(of_process(shared, owned.hung_up, left));
            owned.took = left.map_or(Duration::ZERO, |left| left.took);
        }
        let outcome = owned.outcome.clone().unwrap_or(Outcome::Released);
        if outcome == Outcome::Stuck {
            report.stuck.push(owned.id.clone());
        }
        report.released.push(Released {
            id: owned.id.clone(),
            kind: owned.kind.clone(),
            shown: owned.shown.clone(),
            outcome,
            took: owned.took,
        });
    }
}

fn of_process(shared: &Shared, hung_up: bool, left: Option<&LeftProcess>) -> Outcome {
    let exit = shared.status.borrow().exit;
    match (left.map(|left| left.how.as_str()), exit) {
        (Some(how), _) if how == How::Stuck.as_str() => Outcome::Stuck,
        (Some(how), _) if how == How::Terminated.as_str() => Outcome::Terminated,
        (Some(how), _) if how == How::Killed.as_str() => Outcome::Killed,
        (_, Some(exit)) if exit.lost => Outcome::Lost,
        (None, Some(_)) if hung_up => Outcome::Terminated,
        (_, Some(exit)) => Outcome::Exited {
            code: exit.code,
            signal: exit.signal,
        },
        (_, None) => Outcome::NeverStarted {
            why: "the session closed".into(),
        },
    }
}

async fn record(plan: &Plan, report: &mut CloseReport) {
    if !plan.in_ledger {
        report.recorded = false;
        return;
    }
    let unrecorded = plan.resources.iter().filter(|owned| {
        let intended = |shared: &Arc<Shared>| lock(&shared.running).intended;
        !owned.recorded && owned.process.as_ref().is_none_or(intended)
    });
    let mut changes: Vec<Change> = unrecorded
        .map(|owned| Change::ResourceReleased {
            id: owned.id.clone(),
            outcome: serde_json::to_value(&owned.outcome).unwrap_or_default(),
            by: plan.by.clone(),
        })
        .collect();
    changes.push(Change::SessionClosed {
        id: plan.id.clone(),
        reason: plan.reason.as_str().into(),
        report: serde_json::to_value(&*report).unwrap_or_default(),
        by: plan.by.clone(),
    });
    match plan.host.ledger.write(changes.clone()).await {
        Ok(_) => {}
        Err(WriteError::Refused(_)) => {
            // What was recorded before is not to hold up the rest.
            let closed = changes.pop();
            for change in changes {
                let _ = plan.host.ledger.write_unsynced(vec![change]).await;
            }
            let closed = plan.host.ledger.write(closed.into_iter().collect());
            report.recorded = closed.await.is_ok();
        }
        Err(_) => {
            report.recorded = false;
            // It is tried again there, for as long as this host runs.
            plan.host.ledger.write_later(changes);
        }
    }
}

impl Plan {
    /// The report before anything was done.
    pub(crate) fn blank(&self) -> CloseReport {
        CloseReport {
            session: self.id.clone(),
            name: self.name.clone(),
            reason: self.reason,
            by: self.by.clone(),
            took: Duration::ZERO,
            released: Vec::new(),
            processes: Vec::new(),
            connected: Vec::new(),
            remaining: 0,
            proven: true,
            stuck: Vec::new(),
            kept: self.kept.clone(),
            children: Vec::new(),
            recorded: false,
        }
    }
}
