//! Opening a session: intent, directories, keeper, identity, in this order. The intent is in the ledger, proof against the
//! death of this host, before anything is made; against a loss of power, before the session is told to whoever asked.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostler_ledger::{By, Change, SessionId, SessionRow};
use hostler_process::{Contain, Limits, Tree, TreeOptions};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::actor::Actor;
use crate::error::{Error, Result};
use crate::event::SessionState;
use crate::mailbox::{Mailbox, Message};
use crate::options::SessionOptions;
use crate::policy::{Containment, OnHostExit, Policy};
use crate::process::lock;
use crate::report::CloseReason;
use crate::session::{Fixed, Session, Status};
use crate::sessions::Host;
use crate::tree::SharedTree;

/// What the ledger keeps with a session, enough to adopt or to sweep it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    pub(crate) options: SessionOptions,
    /// Its directory.
    pub(crate) dir: PathBuf,
    /// Others that it has to remove.
    #[serde(default)]
    pub(crate) more_dirs: Vec<PathBuf>,
    /// Where its keeper is found.
    pub(crate) socket: PathBuf,
    #[serde(default)]
    pub(crate) cgroup: Option<PathBuf>,
    /// The keeper, once it is there.
    #[serde(default)]
    pub(crate) keeper: Option<Keeper>,
    /// The session whose tree it shares, as long as it does.
    #[serde(default)]
    pub(crate) kept_from: Option<SessionId>,
    /// It was left to the next host on purpose.
    #[serde(default)]
    pub(crate) handed_over: bool,
    /// Since when nobody has done anything in it, on the clock that two hosts share ([`crate::restart::clock`]). As old as this
    /// record, so it counts only where that was written on leaving.
    #[serde(default)]
    pub(crate) quiet_since: Option<u64>,
    /// Since when no client is there, on that clock.
    #[serde(default)]
    pub(crate) detached_since: Option<u64>,
}

/// Who a keeper is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keeper {
    pub(crate) boot: String,
    pub(crate) pid: u32,
    pub(crate) start_time: u64,
}

/// Unix time in milliseconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_millis() as u64)
}

/// A moment on the clock that two hosts share.
fn shared(moment: Instant) -> u64 {
    crate::restart::clock().saturating_sub(moment.elapsed().as_millis() as u64)
}

/// A moment that an earlier host wrote down.
pub(crate) fn of_shared(clock: u64) -> Instant {
    let ago = Duration::from_millis(crate::restart::clock().saturating_sub(clock));
    // Only where the machine has been up for less than that.
    Instant::now().checked_sub(ago).unwrap_or_else(Instant::now)
}

/// Whether a policy makes sense.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    match policy.daily_reset {
        Some(hour) if hour > 23 => Err(Error::Invalid(format!(
            "daily_reset is {hour}; it may be an hour from 0 to 23"
        ))),
        _ => Ok(()),
    }
}

pub(crate) fn check_name(name: &str) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(Error::Invalid(format!(
            "the name `{name}` may have letters, digits, `-`, `_` and `.`, up to 64 of them"
        )));
    }
    if name.parse::<SessionId>().is_ok() {
        return Err(Error::Invalid(format!(
            "the name `{name}` looks like an id"
        )));
    }
    Ok(())
}

pub(crate) fn on_host_exit(policy: &Policy) -> hostler_process::OnHostExit {
    match policy.on_host_exit {
        OnHostExit::Kill => hostler_process::OnHostExit::Kill,
        OnHostExit::Keep => hostler_process::OnHostExit::Keep(policy.keep_for),
    }
}

/// A session that is known from here on, with its task to be run.
pub(crate) fn register(
    host: &Arc<Host>,
    id: SessionId,
    options: SessionOptions,
    opened: u64,
) -> Result<Actor> {
    let (sender, inbox) = mpsc::unbounded_channel();
    let (status_sender, status) = watch::channel(Status {
        state: SessionState::Starting,
        reason: None,
        report: None,
        policy: Arc::new(options.policy.clone()),
        tree: None,
        clients: 0,
        foreground: 0,
        background: 0,
        adopted: false,
        lent: false,
    });
    let name = options.name.clone();
    let session = Session {
        fixed: Arc::new(Fixed {
            mailbox: Mailbox { id, sender },
            options,
            opened,
            status,
            used: AtomicU64::new(host.uses.fetch_add(1, Ordering::Relaxed)),
        }),
    };
    let mut registry = lock(&host.registry);
    let parent = session.fixed.options.parent.as_ref();
    let parent = parent.and_then(|parent| registry.sessions.get(parent).cloned());
    if let Some(name) = name {
        if let Some(holder) = registry.names.get(&name) {
            return Err(Error::NameTaken {
                name,
                holder: holder.clone(),
            });
        }
        registry.names.insert(name, session.id().clone());
    }
    registry
        .sessions
        .insert(session.id().clone(), session.clone());
    drop(registry);
    let mut actor = Actor::new(host.clone(), session, (inbox, status_sender));
    actor.parent = parent;
    Ok(actor)
}

/// The same, for one that is new. A host that stops has listed its sessions after it said so: either it finds this one, or
/// this one finds that it stops.
pub(crate) fn register_new(host: &Arc<Host>, options: SessionOptions) -> Result<Actor> {
    let mut actor = register(host, SessionId::new(), options, now())?;
    if host.stopping.load(Ordering::SeqCst) {
        actor.unregister();
        return Err(Error::Stopping);
    }
    Ok(actor)
}

pub(crate) async fn open(host: &Arc<Host>, options: SessionOptions, by: By) -> Result<Session> {
    check(&options.policy)?;
    if let Some(name) = &options.name {
        check_name(name)?;
    }
    if host.stopping.load(Ordering::SeqCst) {
        return Err(Error::Stopping);
    }
    make_room(host).await?;
    let parent = options.parent.clone();
    let mut actor = register_new(host, options)?;
    if let (Some(parent), None) = (parent, &actor.parent) {
        actor.unregister();
        return Err(Error::NoSession(parent.to_string()));
    }
    let (reply, answer) = oneshot::channel();
    // From here on its own task goes all the way, whoever still waits for it.
    tokio::spawn(actor.open(by, reply));
    let unclaimed = answer.await.unwrap_or(Err(Error::Stopping))?;
    Ok(unclaimed.claim())
}

/// A session of which whoever asked for it has not heard yet: it is closed where they never do, for they may go also when the
/// answer is on its way already.
pub(crate) struct Unclaimed {
    session: Session,
    claimed: bool,
    /// It stays where somebody has found it and uses it.
    judge: bool,
}

impl Unclaimed {
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session,
            claimed: false,
            judge: false,
        }
    }

    /// Of one that others may find before it is heard of.
    pub(crate) fn unless_used(session: Session) -> Self {
        Self {
            session,
            claimed: false,
            judge: true,
        }
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// They have heard of it.
    pub(crate) fn claim(mut self) -> Session {
        self.claimed = true;
        self.session.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if !self.claimed {
            self.session.fixed.mailbox.send(Message::Close {
                reason: CloseReason::SpawnCancelled,
                by: By::new("host", "whoever opened it is gone"),
                grace: None,
                judge: self.judge,
            });
        }
    }
}

/// Closes the least recently used quiet session while there are as many as there may be.
async fn make_room(host: &Arc<Host>) -> Result<()> {
    let Some(most) = host.options.max_sessions else {
        return Ok(());
    };
    let mut candidates: Vec<Session> = lock(&host.registry).sessions.values().cloned().collect();
    if candidates.len() < most {
        return Ok(());
    }
    candidates.sort_by_key(|session| session.fixed.used.load(Ordering::Relaxed));
    for session in candidates {
        if close_if_quiet(
            &session,
            CloseReason::Limit,
            By::new("host", "another session needs its place"),
        )
        .await
        {
            return Ok(());
        }
    }
    Err(Error::Limit {
        what: "sessions".into(),
        limit: most as u64,
    })
}

/// Closes a session in which nothing goes on; whether it was.
pub(crate) async fn close_if_quiet(session: &Session, reason: CloseReason, by: By) -> bool {
    session.fixed.mailbox.send(Message::Close {
        reason,
        by: by.clone(),
        grace: None,
        judge: true,
    });
    // Answered after that was judged.
    let _ = session.resources().await;
    match session.state() {
        SessionState::Closing | SessionState::Closed | SessionState::Stuck => {
            let _ = session.close(reason, by, None).await;
            true
        }
        _ => false,
    }
}

impl Actor {
    async fn open(mut self, by: By, reply: oneshot::Sender<Result<Unclaimed>>) {
        // Boxed, so that the task needs no room for it once the session is open.
        match Box::pin(self.make(&by)).await {
            Ok(()) => {
                self.set_state(SessionState::Active, None);
                let unclaimed = Unclaimed::new(self.session.clone());
                let _ = reply.send(Ok(unclaimed));
                self.run().await;
            }
            Err(error) => {
                self.close(
                    CloseReason::SpawnCancelled,
                    By::new("host", error.to_string()),
                    None,
                );
                // Whoever waits hears of it when nothing is left.
                self.run().await;
                let _ = reply.send(Err(error));
            }
        }
    }

    async fn make(&mut self, by: &By) -> Result<()> {
        if let Some(parent) = self.parent.clone() {
            let child = self.session.clone();
            parent
                .ask(|reply| Message::Child { child, reply })
                .await??;
        }
        fail::fail_point!("open.begin");
        let row = self.row(None);
        let change = Change::SessionOpened {
            session: row,
            by: by.clone(),
        };
        self.host.ledger.write_unsynced(vec![change]).await?;
        self.in_ledger = true;
        fail::fail_point!("open.intended");
        // What a client is told is on the disk, which takes as long as the rest.
        let synced = self.host.ledger.write(Vec::new());
        crate::dirs::make(&self.dir)?;
        fail::fail_point!("open.directories");
        let tree = self.grow().await?;
        fail::fail_point!("open.keeper");
        self.has_tree(SharedTree::new(tree));
        // The intent tells the next host where to ask for the keeper, should it not come to this.
        self.host.ledger.write_soon(vec![
            self.detail_change(false),
            self.state_change(SessionState::Active, by.clone()),
        ]);
        fail::fail_point!("open.identified");
        synced.await?;
        Ok(())
    }

    async fn grow(&self) -> Result<Tree> {
        let policy = &self.session.fixed.options.policy;
        let options = TreeOptions {
            title: self.id().to_string(),
            contain: match policy.contain {
                Containment::Auto => None,
                Containment::Tree => Some(Contain::Tree),
                Containment::Cgroup => Some(Contain::Cgroup),
                Containment::Pidns => Some(Contain::Pidns),
            },
            on_host_exit: on_host_exit(policy),
            grace: policy.grace,
            limits: Limits {
                memory: policy.limits.memory,
                pids: policy.limits.pids,
                cpu_millis: policy.limits.cpu_millis,
            },
            rendezvous: Some(crate::dirs::socket(&self.dir)),
            ..TreeOptions::default()
        };
        let zygote = lock(&self.host.zygote).clone();
        Ok(zygote.tree(options).await?)
    }

    pub(crate) fn has_tree(&mut self, tree: SharedTree) {
        self.tree = Some(tree.clone());
        self.status.send_modify(|status| status.tree = Some(tree));
    }

    pub(crate) fn row(&self, kept_from: Option<SessionId>) -> SessionRow {
        let mut detail = self.detail(false);
        detail.kept_from = kept_from;
        SessionRow {
            id: self.id(),
            name: self.session.name().map(str::to_owned),
            parent: self.session.fixed.options.parent.clone(),
            detail: serde_json::to_value(detail).unwrap_or_default(),
            opened: self.session.fixed.opened,
        }
    }

    pub(crate) fn detail(&self, handed_over: bool) -> Detail {
        let mut options = self.session.fixed.options.clone();
        options.policy = (*self.status.borrow().policy).clone();
        let tree = self.tree.as_ref().and_then(|tree| tree.get().ok());
        let rendezvous = tree.as_ref().and_then(|tree| tree.rendezvous());
        Detail {
            options,
            dir: self.dir.clone(),
            more_dirs: self.more_dirs.clone(),
            socket: rendezvous.map_or_else(|| crate::dirs::socket(&self.dir), PathBuf::from),
            cgroup: tree
                .as_ref()
                .and_then(|tree| tree.cgroup())
                .map(PathBuf::from),
            keeper: tree.as_ref().map(|tree| Keeper {
                boot: self.host.options.run.boot.clone(),
                pid: tree.keeper().pid,
                start_time: tree.keeper().start_time,
            }),
            kept_from: match &self.kept {
                crate::actor::Kept::From(from) => Some(from.clone()),
                _ => None,
            },
            handed_over,
            quiet_since: Some(shared(self.last_activity)),
            detached_since: self.detached_at.map(shared),
        }
    }

    pub(crate) fn record_detail(&self, handed_over: bool) {
        self.host
            .ledger
            .write_later(vec![self.detail_change(handed_over)]);
    }

    pub(crate) fn detail_change(&self, handed_over: bool) -> Change {
        Change::SessionDetail {
            id: self.id(),
            detail: serde_json::to_value(self.detail(handed_over)).unwrap_or_default(),
        }
    }

    /// How old the session is, by the clock on the wall, which is all that two hosts share.
    pub(crate) fn has_age(&mut self) {
        self.age = Duration::from_millis(now().saturating_sub(self.session.fixed.opened));
    }
}
