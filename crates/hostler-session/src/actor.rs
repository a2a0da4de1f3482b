//! The task that a session is: it alone owns the session's state.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_ledger::{By, Change, ResourceId, SessionId};
use hostler_process::{EndReason, EndReport, Tree};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::ending::Stuck;
use crate::error::{Error, Result};
use crate::event::{SessionEvent, SessionState};
use crate::farewell::Farewell;
use crate::judge::{Facts, Verdict, judge};
use crate::mailbox::{Message, Paced};
use crate::process::{EndOnDrop, Shared, lock};
use crate::report::{CloseReason, Outcome};
use crate::resource::Resource;
use crate::session::{Session, Status};
use crate::sessions::Host;
use crate::tree::SharedTree;

/// Waits for the end of a tree, and holds it no longer than that.
async fn ended(tree: Option<Arc<Tree>>) -> hostler_process::Result<EndReport> {
    match tree {
        Some(tree) => tree.ended().await,
        None => std::future::pending().await,
    }
}

/// Who waits for a process to be started.
pub(crate) type Starter = oneshot::Sender<Result<(EndOnDrop, Option<Paced>)>>;

/// Something that the session owns.
pub(crate) struct Entry {
    /// Counts up, for listings.
    pub(crate) order: u64,
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
    pub(crate) process: Option<Arc<Shared>>,
    pub(crate) task: Option<JoinHandle<()>>,
    pub(crate) starter: Option<(Starter, Option<Paced>)>,
    /// What plugs in; taken out while it is released.
    pub(crate) resource: Option<Box<dyn Resource>>,
    pub(crate) shown: String,
    /// Whether its release is in the ledger.
    pub(crate) recorded: bool,
    /// Who asked for its end.
    pub(crate) ended_by: Option<By>,
}

/// Where a session is kept from, or keeps to.
pub(crate) enum Kept {
    No,
    /// Its tree is still that session's.
    From(SessionId),
    /// That session may have processes in this one's tree.
    To(Session),
}

pub(crate) struct Actor {
    pub(crate) host: Arc<Host>,
    pub(crate) session: Session,
    pub(crate) inbox: mpsc::UnboundedReceiver<Box<Message>>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) parent: Option<Session>,
    pub(crate) dir: PathBuf,
    pub(crate) more_dirs: Vec<PathBuf>,
    pub(crate) tree: Option<SharedTree>,
    pub(crate) kept: Kept,
    pub(crate) kept_ids: Vec<ResourceId>,
    pub(crate) entries: HashMap<ResourceId, Entry>,
    pub(crate) next_order: u64,
    /// Those that have ended, the oldest first.
    pub(crate) ended: VecDeque<ResourceId>,
    pub(crate) clients: HashSet<u64>,
    pub(crate) busy: u32,
    pub(crate) children: HashMap<SessionId, Session>,
    pub(crate) last_activity: Instant,
    pub(crate) opened: Instant,
    pub(crate) age: Duration,
    pub(crate) reset_at: Option<Instant>,
    pub(crate) detached_at: Option<Instant>,
    /// Whether its begin is in the ledger.
    pub(crate) in_ledger: bool,
    /// The next host has it in a moment: nothing new starts.
    pub(crate) leaving: bool,
    pub(crate) stuck: Option<Stuck>,
    /// What is done before it ends without being asked, and whether that is under way.
    pub(crate) farewell: Option<Farewell>,
    pub(crate) parting: bool,
    /// Its end: the task returns.
    pub(crate) over: bool,
}

impl Actor {
    pub(crate) fn new(
        host: Arc<Host>,
        session: Session,
        (inbox, status): (mpsc::UnboundedReceiver<Box<Message>>, watch::Sender<Status>),
    ) -> Self {
        let now = Instant::now();
        let reset_at = status
            .borrow()
            .policy
            .daily_reset
            .and_then(crate::judge::next_hour);
        Self {
            dir: host.dir(session.id()),
            host,
            session,
            inbox,
            status,
            parent: None,
            more_dirs: Vec::new(),
            tree: None,
            kept: Kept::No,
            kept_ids: Vec::new(),
            entries: HashMap::new(),
            next_order: 0,
            ended: VecDeque::new(),
            clients: HashSet::new(),
            busy: 0,
            children: HashMap::new(),
            last_activity: now,
            opened: now,
            age: Duration::ZERO,
            reset_at,
            detached_at: None,
            in_ledger: false,
            leaving: false,
            stuck: None,
            farewell: None,
            parting: false,
            over: false,
        }
    }

    pub(crate) fn id(&self) -> SessionId {
        self.session.id().clone()
    }

    pub(crate) fn state(&self) -> SessionState {
        self.status.borrow().state
    }

    /// Until it has closed, or was handed to the next host.
    pub(crate) async fn run(mut self) {
        while !self.over {
            let wake = self.wake();
            let tree = self
                .tree
                .as_ref()
                .filter(|_| self.state().is_open())
                .and_then(|tree| tree.get().ok());
            let watched = tree.is_some();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(*message).await,
                    None => return,
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => self.due(),
                ended = ended(tree),
                    if watched => self.tree_ended(ended),
            }
        }
    }

    /// When something is to be done without being asked.
    fn wake(&self) -> Option<Instant> {
        if let Some(stuck) = &self.stuck {
            return stuck.plan.is_some().then_some(stuck.next);
        }
        match self.verdict() {
            Verdict::Close(_) => Some(Instant::now()),
            Verdict::Wait(until) => Some(until),
            Verdict::Never => None,
        }
    }

    fn due(&mut self) {
        if self.stuck.is_some() {
            self.try_again();
        } else if let Verdict::Close(reason) = self.verdict() {
            self.end(reason);
        }
    }

    fn verdict(&self) -> Verdict {
        if !self.state().is_open() || self.parting {
            return Verdict::Never;
        }
        let (foreground, background) = self.running();
        let facts = Facts {
            now: Instant::now(),
            last_activity: self.last_activity,
            opened: self.opened,
            age: self.age,
            reset_at: self.reset_at,
            detached_at: self.detached_at,
            busy: foreground > 0 || self.busy > 0,
            resource_busy: self.entries.values().any(|entry| {
                entry
                    .resource
                    .as_ref()
                    .is_some_and(|resource| resource.busy())
            }),
            background: background > 0,
        };
        judge(&self.status.borrow().policy, &facts)
    }

    /// How many foreground and background processes there are.
    pub(crate) fn running(&self) -> (u32, u32) {
        let status = self.status.borrow();
        (status.foreground, status.background)
    }

    fn tree_ended(&mut self, ended: hostler_process::Result<EndReport>) {
        use hostler_process::Error::{HungUp, Superseded};
        let (reason, why) = match ended {
            Ok(report) => match report.reason {
                EndReason::Memory { used, .. } => (
                    CloseReason::Limit,
                    format!("it used {used} bytes of memory"),
                ),
                EndReason::Pids { count } => {
                    (CloseReason::Limit, format!("it had {count} processes"))
                }
                EndReason::KeeperLost => {
                    (CloseReason::AgentGone, "its keeper was killed".to_owned())
                }
                _ => (CloseReason::AgentGone, "its tree ended".to_owned()),
            },
            // The next host has it.
            Err(HungUp | Superseded) => {
                self.leave();
                return;
            }
            Err(error) => (CloseReason::AgentGone, error.to_string()),
        };
        self.close(reason, By::new("keeper", why), None);
    }

    /// The session goes on elsewhere: this host knows it no more.
    pub(crate) fn leave(&mut self) {
        self.abort_tasks();
        self.unregister();
        self.over = true;
    }

    /// Those that are left only read on from pipes that others may hold.
    pub(crate) fn abort_tasks(&mut self) {
        for entry in self.entries.values_mut() {
            if let Some(task) = entry.task.take() {
                task.abort();
            }
        }
    }

    // What is rare and large is boxed, so that an idle session's task has no room for it.
    pub(crate) async fn handle(&mut self, message: Message) {
        match message {
            Message::Exec {
                options,
                by,
                paced,
                reply,
            } => self.exec(*options, by, paced, reply),
            Message::Started { id, result } => self.started(&id, result),
            Message::Restarting => self.touch_status(),
            Message::Exited { id } => self.exited(&id),
            Message::EndProcess { id, grace, by } => self.end_process(&id, grace, by),
            Message::Own {
                resource,
                name,
                by,
                reply,
            } => Box::pin(self.own(resource, name, by, reply)).await,
            Message::Release { id, by, reply } => self.release(id, by, reply),
            Message::Released {
                id,
                by,
                outcome,
                reply,
            } => self.released(id, by, outcome, reply),
            Message::Resources { reply } => drop(reply.send(self.list())),
            Message::Attach { client, who, reply } => self.attach(client, &who, reply),
            Message::Detach { client } => self.detach(client),
            Message::Touch => self.touch(),
            Message::Busy => self.busy += 1,
            Message::Quiet => {
                self.busy = self.busy.saturating_sub(1);
                self.touch();
            }
            Message::Child { child, reply } => {
                let answer = self.must_be_open();
                if answer.is_ok() {
                    self.children.insert(child.id().clone(), child);
                }
                let _ = reply.send(answer);
            }
            Message::ChildGone { id } => drop(self.children.remove(&id)),
            Message::Lend { to, reply } => drop(reply.send(self.lend(to))),
            Message::NotLent { to } => self.not_lent(&to),
            Message::Processes { reply } => drop(reply.send(self.processes())),
            Message::Keep {
                process,
                to,
                by,
                reply,
            } => Box::pin(self.keep(process, to, by, reply)).await,
            Message::Receive { moving, reply } => self.receive(moving, reply),
            Message::GiveBack { id, reply } => drop(reply.send(self.give_back(&id))),
            Message::TakeTree { dirs, done } => self.take_tree(dirs, done),
            Message::SetPolicy { policy, by, reply } => {
                let _ = reply.send(Box::pin(self.set_policy(*policy, by)).await);
            }
            Message::Close {
                reason,
                by,
                grace,
                judge,
            } => {
                if !judge || self.is_quiet() {
                    self.close(reason, by, grace);
                }
            }
            Message::BeforeEnd(farewell) => self.farewell = Some(farewell),
            Message::Parted { reason } => self.parted(reason),
            Message::Done(finished) => self.done(*finished),
            Message::HandOver { wait, reply } => {
                let _ = reply.send(Box::pin(self.hand_over(wait)).await);
            }
        }
    }

    /// Whether nothing goes on in it, and nobody is there.
    fn is_quiet(&self) -> bool {
        let (foreground, background) = self.running();
        let resource_busy = self.entries.values().any(|entry| {
            entry
                .resource
                .as_ref()
                .is_some_and(|resource| resource.busy())
        });
        self.state().is_open()
            && self.clients.is_empty()
            && foreground + background + self.busy == 0
            && !resource_busy
            && self.children.is_empty()
    }

    pub(crate) fn must_be_open(&self) -> Result<()> {
        match self.state() {
            SessionState::Active | SessionState::Detached => Ok(()),
            SessionState::Closed => Err(Error::Closed(self.id())),
            _ => Err(Error::Closing(self.id())),
        }
    }

    pub(crate) fn touch(&mut self) {
        self.last_activity = Instant::now();
        let use_number = self.host.uses.fetch_add(1, Ordering::Relaxed);
        self.session.fixed.used.store(use_number, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&mut self, state: SessionState, reason: Option<CloseReason>) {
        self.status.send_modify(|status| {
            status.state = state;
            status.reason = reason.or(status.reason);
        });
        self.host.tell(SessionEvent::State {
            session: self.id(),
            state,
            reason,
        });
    }

    pub(crate) fn record_state(&self, state: SessionState, by: By) {
        if self.in_ledger {
            self.host
                .ledger
                .write_later(vec![self.state_change(state, by)]);
        }
    }

    pub(crate) fn state_change(&self, state: SessionState, by: By) -> Change {
        Change::SessionState {
            id: self.id(),
            state: state.as_str().into(),
            by,
        }
    }

    // --- clients ---

    fn attach(&mut self, client: u64, who: &str, reply: oneshot::Sender<Result<()>>) {
        let answer = self.must_be_open();
        if answer.is_ok() {
            self.clients.insert(client);
            self.detached_at = None;
            self.touch();
            self.count_clients();
            if self.state() == SessionState::Detached {
                self.set_state(SessionState::Active, None);
                self.record_state(SessionState::Active, By::new(who, "attached"));
            }
        }
        let _ = reply.send(answer);
    }

    fn detach(&mut self, client: u64) {
        if !self.clients.remove(&client) {
            return;
        }
        self.count_clients();
        self.touch();
        if !self.clients.is_empty() || !self.state().is_open() {
            return;
        }
        let policy = self.status.borrow().policy.clone();
        match policy.on_disconnect {
            crate::policy::OnDisconnect::Close => {
                let by = By::new("host", "the last client left");
                self.close(CloseReason::Disconnect, by, None);
            }
            crate::policy::OnDisconnect::Detach => {
                self.detached_at = Some(Instant::now());
                self.set_state(SessionState::Detached, None);
                if self.in_ledger {
                    // With the moment, from which the next host counts on.
                    let by = By::new("host", "the last client left");
                    self.host.ledger.write_later(vec![
                        self.detail_change(false),
                        self.state_change(SessionState::Detached, by),
                    ]);
                }
            }
        }
    }

    fn count_clients(&self) {
        let count = self.clients.len() as u32;
        self.status.send_modify(|status| status.clients = count);
    }

    /// Nobody finds it any more.
    pub(crate) fn unregister(&mut self) {
        let mut registry = lock(&self.host.registry);
        registry.sessions.remove(self.session.id());
        if let Some(name) = self.session.name()
            && registry.names.get(name) == Some(self.session.id())
        {
            registry.names.remove(name);
        }
        for id in self.entries.keys() {
            registry.processes.remove(id);
        }
    }

    /// What a process's end comes to, for the ledger.
    pub(crate) fn outcome(shared: &Shared, asked: bool) -> Outcome {
        match shared.status.borrow().exit {
            None => Outcome::NeverStarted {
                why: "it could not be started".into(),
            },
            Some(exit) if exit.lost => Outcome::Lost,
            Some(exit) if asked && exit.signal == Some(9) => Outcome::Killed,
            Some(_) if asked => Outcome::Terminated,
            Some(exit) => Outcome::Exited {
                code: exit.code,
                signal: exit.signal,
            },
        }
    }
}
