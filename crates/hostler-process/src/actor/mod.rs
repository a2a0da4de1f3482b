//! The task that a tree is: it alone owns the connection to the keeper, and all that is known of the tree.

mod ending;
mod hearing;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_keeper::config::{KeeperConfig, OnHostExit};
use hostler_keeper::connection::ConnectionError;
use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::{Request, Started, Tidy};
use hostler_keeper::outcome::EndReport;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::aftermath::{Late, Mourner, hear};
use crate::ask::{Answer, Ask, Asks, Pending, Turn};
use crate::command::{Pipes, Prepared};
use crate::error::{Error, Result};
use crate::link::Link;
use crate::process::Process;
use crate::record::Record;
use crate::tree::{Tree, TreeEvent};

/// How long beyond the grace a keeper may leave a question unanswered, before it is taken for hanging and killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long before that it is asked for a sign of life: most have ended by then.
const QUESTION: Duration = Duration::from_secs(1);
/// How many events a follower of a tree may be behind.
const EVENTS: usize = 8;
/// The most descriptors beside one request.
const FDS_IN_ONE: usize = hostler_keeper::connection::FDS_MAX;
/// How much that is spent a keeper may hold on to. Each is a process's end, or a pipe that nobody writes to any more.
const SPENT: usize = 16;

/// What the keeper may let go of.
#[derive(Debug, Default)]
struct Spent {
    forget: Vec<Key>,
    discard: Vec<Vec<u8>>,
}

impl Spent {
    fn len(&self) -> usize {
        self.forget.len() + self.discard.len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn tidy(&self) -> Tidy<'_> {
        Tidy {
            forget: self.forget.clone(),
            discard: self.discard.iter().map(Vec::as_slice).collect(),
        }
    }
}

/// Watches over a keeper that was asked to end.
#[derive(Debug)]
struct Watchdog {
    at: Instant,
    asked: Asked,
}

/// Whether it was asked for a sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    NotYet,
    /// By this request.
    By(u32),
    Answered,
}

/// A keeper that is ready.
pub(crate) struct Keeper {
    pub(crate) link: Link,
    pub(crate) id: ProcessId,
    /// Its pidfd, proven.
    pub(crate) handle: AsyncFd<OwnedFd>,
    /// Who tells what it left, should it be killed.
    pub(crate) mourner: Mourner,
    pub(crate) config: KeeperConfig,
    /// What it understands ([`hostler_keeper::wire::LEVEL`]).
    pub(crate) level: u8,
}

struct Actor {
    link: Link,
    handle: AsyncFd<OwnedFd>,
    /// `None` once it was heard.
    mourner: Option<Mourner>,
    /// What it has to say yet.
    late: Option<Late>,
    config: KeeperConfig,
    inbox: mpsc::UnboundedReceiver<Ask>,
    inbox_open: bool,
    next_id: u32,
    keys: Arc<AtomicU64>,
    pending: HashMap<u32, Pending>,
    processes: HashMap<Key, Record>,
    ending: Vec<Answer<EndReport>>,
    watchdog: Option<Watchdog>,
    /// The report that says that nothing is left.
    report: Option<EndReport>,
    level: u8,
    /// What the keeper may let go of, and is told with the next thing that it is asked.
    spent: Spent,
    /// Why the tree is this host's no more, though nothing of it was ended.
    left: Option<Error>,
    events: broadcast::Sender<TreeEvent>,
    outcome: watch::Sender<Option<Result<EndReport>>>,
}

/// Starts the task of a new tree, and returns its guard.
pub(crate) fn start(keeper: Keeper) -> Tree {
    go_on(keeper, 1, &[]).0
}

/// Starts the task of a tree in which these were started already, and returns its guard and theirs.
pub(crate) fn go_on(keeper: Keeper, next_key: u64, started: &[Started]) -> (Tree, Vec<Process>) {
    let (asks, inbox) = mpsc::unbounded_channel();
    // Its room is taken from the start, by every tree.
    let (events, _) = broadcast::channel(EVENTS);
    let (outcome, ended) = watch::channel(None);
    let keys = Arc::new(AtomicU64::new(next_key.max(1)));
    let mut processes = HashMap::new();
    let mut guards = Vec::with_capacity(started.len());
    for process in started {
        let (exit, watcher) = watch::channel(process.exit);
        processes.insert(process.key, Record::new(exit));
        guards.push(Process::new(
            (process.key, process.id),
            keeper.config.grace,
            watcher,
            Pipes::default(),
            asks.clone(),
        ));
    }
    let tree = Tree::new(
        asks,
        keeper.id,
        (Arc::new(keeper.config.clone()), keys.clone()),
        events.clone(),
        ended,
    );
    let actor = Actor {
        link: keeper.link,
        handle: keeper.handle,
        mourner: Some(keeper.mourner),
        late: None,
        config: keeper.config,
        inbox,
        inbox_open: true,
        next_id: 1,
        keys,
        pending: HashMap::new(),
        processes,
        ending: Vec::new(),
        watchdog: None,
        report: None,
        level: keeper.level,
        spent: Spent::default(),
        left: None,
        events,
        outcome,
    };
    tokio::spawn(actor.run());
    (tree, guards)
}

impl Actor {
    async fn run(mut self) {
        self.serve().await;
        // Boxed, so that a tree that lives has no room for it.
        let outcome = Box::pin(self.settle()).await;
        if let Ok(report) = &outcome {
            let _ = self.events.send(TreeEvent::Ended(report.clone()));
        }
        self.outcome.send_replace(Some(outcome.clone()));
        for reply in self.ending.drain(..) {
            let _ = reply.send(outcome.clone());
        }
        for (_, record) in self.processes.drain() {
            record.finish(&outcome);
        }
        // The connection is closed by this, whoever still has a handle.
        let (mut inbox, told, mut late) = self.close();
        let mut outcome = outcome;
        loop {
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(ask) => ask.after_the_end(&outcome),
                    None => return,
                },
                // What was not proven in time may be proven yet.
                report = hear(&mut late) => {
                    late = None;
                    if let (Ok(report), Err(Error::Unproven)) = (report, &outcome) {
                        outcome = Ok(report);
                        told.send_replace(Some(outcome.clone()));
                    }
                }
            }
        }
    }

    fn close(
        self,
    ) -> (
        mpsc::UnboundedReceiver<Ask>,
        watch::Sender<Option<Result<EndReport>>>,
        Option<Late>,
    ) {
        (self.inbox, self.outcome, self.late)
    }

    /// Until the keeper is gone, or is left to the next host.
    async fn serve(&mut self) {
        while self.left.is_none() {
            let watched = self.watchdog.as_ref().map(|watchdog| watchdog.at);
            tokio::select! {
                received = self.link.receive() => match received {
                    Ok(Some(received)) => self.handle(received),
                    Ok(None) | Err(ConnectionError::Io(_)) => return,
                    Err(ConnectionError::Descriptors { id }) => {
                        let error = std::io::Error::from(rustix::io::Errno::MFILE);
                        self.failed(id, Error::io("receive a descriptor", error));
                    }
                    // Nothing that this version knows of.
                    Err(ConnectionError::Wire(_)) => {}
                },
                ask = self.inbox.recv(), if self.inbox_open => match ask {
                    Some(ask) => self.ask(ask),
                    None => self.inbox_open = false,
                },
                () = sleep_until(watched.unwrap_or_else(Instant::now)), if watched.is_some() => self.look_after(),
            }
            while self.link.has_unsent() {
                for (id, error) in self.link.take_unsent() {
                    self.failed(id, Error::io("ask the keeper", error));
                }
            }
        }
    }

    // --- asking ---

    fn post(&mut self, request: &Request<'_>, fds: Vec<OwnedFd>, pending: Pending) -> u32 {
        // One that is to end has no use for it.
        if !matches!(request, Request::Spawn(_) | Request::End { .. }) && self.watchdog.is_none() {
            self.tidy();
        }
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let id = self.next_id;
        self.pending.insert(id, pending);
        if let Err(error) = self.link.post(id, request, fds) {
            self.failed(id, error.into());
        }
        id
    }

    /// Has the keeper let go of what is spent.
    fn tidy(&mut self) {
        let spent = std::mem::take(&mut self.spent);
        if self.level >= 1 {
            if !spent.is_empty() {
                self.post_unheard(&Request::Tidy(spent.tidy()));
            }
            return;
        }
        for key in spent.forget {
            self.post_unheard(&Request::Forget { key });
        }
        for name in &spent.discard {
            self.post_unheard(&Request::Discard { name });
        }
    }

    /// Says to let go of it with the next thing that the keeper is asked for: a message of its own would wake it for nothing.
    fn spend(&mut self, forget: Option<Key>, discard: Option<Vec<u8>>) {
        self.spent.forget.extend(forget);
        self.spent.discard.extend(discard);
        if self.level == 0 || self.spent.len() >= SPENT {
            self.tidy();
        }
    }

    /// Asks for what nobody waits for. It has no number, so it is not answered (keepers of the first release do: that is heard
    /// by nobody).
    fn post_unheard(&mut self, request: &Request<'_>) {
        // Where it cannot be sent, the connection tells that.
        let _ = self.link.post(0, request, Vec::new());
    }

    fn failed(&mut self, id: u32, error: Error) {
        match self.pending.remove(&id) {
            Some(Pending::Release(key)) => self.released(key, Err(error)),
            Some(Pending::End) => self
                .ending
                .drain(..)
                .for_each(|reply| drop(reply.send(Err(error.clone())))),
            Some(pending) => {
                let stored = pending.fail(error);
                for name in stored {
                    self.post_unheard(&Request::Discard { name: &name });
                }
            }
            None => {}
        }
    }

    fn ask(&mut self, ask: Ask) {
        let none = Vec::new();
        match ask {
            Ask::Spawn {
                prepared,
                pipes,
                asks,
                turn,
                reply,
            } => self.spawn(*prepared, (*pipes, asks, turn), reply),
            Ask::Signal {
                target,
                signal,
                reply,
            } => {
                self.post(
                    &Request::Signal { target, signal },
                    none,
                    Pending::Done(reply),
                );
            }
            Ask::Census { reply } => {
                let _ = self.post(&Request::Census, none, Pending::Census(reply));
            }
            Ask::Processes { reply } => {
                let _ = self.post(&Request::Processes, none, Pending::Processes(reply));
            }
            Ask::Store { name, fd, reply } => {
                self.post(
                    &Request::Store { name: &name },
                    vec![fd],
                    Pending::Done(reply),
                );
            }
            Ask::Fetch { name, reply } => {
                let _ = self.post(&Request::Fetch { name: &name }, none, Pending::Fetch(reply));
            }
            Ask::Discard { name, reply } => {
                self.post(
                    &Request::Discard { name: &name },
                    none,
                    Pending::Done(reply),
                );
            }
            Ask::DiscardLater { name } => self.spend(None, Some(name)),
            Ask::Names { reply } => drop(self.post(&Request::Names, none, Pending::Names(reply))),
            Ask::Owner { pidfd, reply } => {
                let _ = self.post(&Request::Owner, vec![pidfd], Pending::Done(reply));
            }
            Ask::SetOnHostExit {
                on_host_exit,
                reply,
            } => {
                self.post(
                    &Request::SetOnHostExit(on_host_exit),
                    none,
                    Pending::SetOnHostExit(on_host_exit, reply),
                );
            }
            Ask::HandOver { wait, reply } => {
                let _ = self.post(&Request::HandOver { wait }, none, Pending::HandOver(reply));
            }
            Ask::Release { key, grace, reply } => self.release(key, grace, reply),
            Ask::LetGo { key, grace } => self.let_go(key, grace),
            Ask::Detach { key } => self.detach(key),
            Ask::End { grace, reply } => {
                self.ending.push(reply);
                self.end(grace);
            }
            // It is on its way to the next host.
            Ask::Drop if self.is_handed_over() => {}
            Ask::Drop => match self.config.on_host_exit {
                OnHostExit::Kill => self.end(self.config.grace),
                OnHostExit::Keep(_) => self.left = Some(Error::HungUp),
            },
        }
    }

    fn is_handed_over(&self) -> bool {
        self.pending
            .values()
            .any(|pending| matches!(pending, Pending::HandOver(_)))
    }

    fn spawn(&mut self, mut prepared: Prepared, held: (Pipes, Asks, Turn), reply: Answer<Process>) {
        if reply.is_closed() {
            return;
        }
        let key = prepared
            .key
            .unwrap_or_else(|| Key(self.keys.fetch_add(1, Ordering::Relaxed)));
        self.keys
            .fetch_max(key.0.saturating_add(1), Ordering::Relaxed);
        let shown = prepared.shown.clone();
        let (pipes, asks, turn) = held;
        // Before the process is there: whoever dies next, its pipes lead on.
        let mut stored = Vec::new();
        let mut beside = Vec::new();
        for (name, fd) in std::mem::take(&mut prepared.stored) {
            if self.level == 0 {
                self.post(&Request::Store { name: &name }, vec![fd], Pending::Nobody);
            } else {
                beside.push(fd);
            }
            stored.push(name);
        }
        let mut fds = std::mem::take(&mut prepared.fds);
        fds.append(&mut beside);
        while fds.len() > FDS_IN_ONE {
            let rest = fds.split_off(FDS_IN_ONE);
            // Not answered: one that is not sent makes the spawn fail for its missing descriptors.
            if let Err(error) =
                self.link
                    .post(0, &Request::Stage, std::mem::replace(&mut fds, rest))
            {
                let _ = reply.send(Err(error.into()));
                return;
            }
        }
        let spent = std::mem::take(&mut self.spent);
        // A keeper of level 0 is told of those that are stored, and of what is spent, apart from this.
        let (its_own, tidy) = match self.level {
            0 => (&[][..], Tidy::default()),
            _ => (&stored[..], spent.tidy()),
        };
        let request = Request::Spawn(Box::new(prepared.request(key, its_own, tidy)));
        let pending = Pending::Spawn {
            shown,
            key,
            grace: prepared.grace,
            pipes,
            stored: match self.level {
                0 => stored.clone(),
                _ => Vec::new(),
            },
            asks,
            turn,
            reply,
        };
        self.post(&request, fds, pending);
    }
}
