//! The task that a tree is: it alone owns the connection to the keeper, and all that is known of the tree.

mod hearing;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_keeper::config::{KeeperConfig, OnHostExit};
use hostler_keeper::connection::ConnectionError;
use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::{Request, Started};
use hostler_keeper::outcome::EndReport;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::aftermath::{Late, Mourner, hear};
use crate::ask::{Answer, Ask, Asks, Pending, Turn};
use crate::command::{Pipes, Prepared};
use crate::error::{Error, Result};
use crate::link::Link;
use crate::process::Process;
use crate::record::{Record, nothing_left};
use crate::tree::{Tree, TreeEvent};

/// How long beyond the grace a keeper may leave a question unanswered, before it is taken for hanging and killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many events a follower of a tree may be behind.
const EVENTS: usize = 8;
/// The most descriptors beside one request.
const FDS_IN_ONE: usize = hostler_keeper::connection::FDS_MAX;

/// Watches over a keeper that was asked to end.
#[derive(Debug)]
struct Watchdog {
    at: Instant,
    ping: u32,
    answered: bool,
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
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let id = self.next_id;
        self.pending.insert(id, pending);
        if let Err(error) = self.link.post(id, request, fds) {
            self.failed(id, error.into());
        }
        id
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
            Ask::DiscardLater { name } => self.post_unheard(&Request::Discard { name: &name }),
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
        let mut fds = std::mem::take(&mut prepared.fds);
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
        let key = prepared
            .key
            .unwrap_or_else(|| Key(self.keys.fetch_add(1, Ordering::Relaxed)));
        self.keys
            .fetch_max(key.0.saturating_add(1), Ordering::Relaxed);
        let shown = prepared.shown.clone();
        let (pipes, asks, turn) = held;
        // Before the process is there: whoever dies next, its pipes lead on.
        let mut stored = Vec::new();
        for (name, fd) in std::mem::take(&mut prepared.stored) {
            self.post(&Request::Store { name: &name }, vec![fd], Pending::Nobody);
            stored.push(name);
        }
        let pending = Pending::Spawn {
            shown,
            key,
            grace: prepared.grace,
            pipes,
            stored,
            asks,
            turn,
            reply,
        };
        self.post(
            &Request::Spawn(Box::new(prepared.request(key))),
            fds,
            pending,
        );
    }

    fn release(&mut self, key: Key, grace: Duration, reply: Answer<EndReport>) {
        let until = after(grace);
        let Some(record) = self.processes.get_mut(&key) else {
            let _ = reply.send(Ok(nothing_left()));
            return;
        };
        if let Some(report) = &record.released {
            let _ = reply.send(Ok(report.clone()));
            return;
        }
        record.waiting.push(reply);
        if record.releasing.is_none_or(|earlier| until < earlier) {
            record.releasing = Some(until);
            self.post(
                &Request::Release { key, grace },
                Vec::new(),
                Pending::Release(key),
            );
        }
    }

    fn let_go(&mut self, key: Key, grace: Duration) {
        let Some(record) = self.processes.get_mut(&key) else {
            return;
        };
        record.guarded = false;
        let over = record.exit.borrow().is_some();
        let until = after(grace);
        if !over && record.releasing.is_none_or(|earlier| until < earlier) {
            record.releasing = Some(until);
            self.post(
                &Request::Release { key, grace },
                Vec::new(),
                Pending::Release(key),
            );
        }
        // The keeper drops its record once the process has ended, and so is ours then.
        self.post_unheard(&Request::Forget { key });
        if over {
            self.processes.remove(&key);
        }
    }

    fn detach(&mut self, key: Key) {
        let Some(record) = self.processes.get_mut(&key) else {
            return;
        };
        record.guarded = false;
        if record.exit.borrow().is_some() {
            self.processes.remove(&key);
        }
        self.post_unheard(&Request::Forget { key });
    }

    fn end(&mut self, grace: Duration) {
        if self.report.is_some() {
            // Only the keeper's own end is awaited still.
            return;
        }
        self.post(&Request::End { grace }, Vec::new(), Pending::End);
        let at = after(grace) + PATIENCE;
        if self
            .watchdog
            .as_ref()
            .is_none_or(|watchdog| at < watchdog.at)
        {
            self.watch(at);
        }
    }

    fn watch(&mut self, at: Instant) {
        let ping = self.post(&Request::Names, Vec::new(), Pending::Ping);
        self.watchdog = Some(Watchdog {
            at,
            ping,
            answered: false,
        });
    }

    /// The end takes longer than it should: is it the keeper that hangs, or what it ends?
    fn look_after(&mut self) {
        if self
            .watchdog
            .as_ref()
            .is_some_and(|watchdog| watchdog.answered)
        {
            self.watch(Instant::now() + PATIENCE);
        } else {
            self.watchdog = None;
            // Its connection hangs up by that, and the zygote takes over.
            let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
        }
    }
}

/// The end of a grace from now; one that is not to end ends in a century.
fn after(grace: Duration) -> Instant {
    Instant::now() + grace.min(Duration::from_secs(100 * 365 * 24 * 3600))
}
