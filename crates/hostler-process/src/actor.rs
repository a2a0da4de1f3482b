//! The task that a tree is: it alone owns the connection to the keeper, and all that is known of the tree.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_keeper::config::{KeeperConfig, OnHostExit};
use hostler_keeper::connection::{ConnectionError, Received};
use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::{Event, Failure, Reply, Request, Step};
use hostler_keeper::outcome::EndReport;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::aftermath::{Late, ZYGOTE_TIME, end_cgroup, hear};
use crate::ask::{Answer, Ask, Asks, Pending, Turn, is_shutdown};
use crate::command::{Pipes, Prepared};
use crate::error::{Error, Result};
use crate::link::Link;
use crate::process::Process;
use crate::record::{Record, nothing_left};
use crate::tree::{Tree, TreeEvent};
use crate::zygote::{Zygote, reap};

/// How long beyond the grace a keeper may leave a question unanswered, before it is taken for hanging and killed.
const PATIENCE: Duration = Duration::from_secs(2);
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
    pub(crate) gone: oneshot::Receiver<EndReport>,
    pub(crate) config: KeeperConfig,
    /// Held so that its task lives and tells.
    pub(crate) zygote: Zygote,
}

struct Actor {
    link: Link,
    handle: AsyncFd<OwnedFd>,
    /// `None` once it was heard.
    gone: Option<oneshot::Receiver<EndReport>>,
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
    zygote: Zygote,
}

/// Starts the task, and returns the guard of the tree.
pub(crate) fn start(keeper: Keeper) -> Tree {
    let (asks, inbox) = mpsc::unbounded_channel();
    let (events, _) = broadcast::channel(1024);
    let (outcome, ended) = watch::channel(None);
    let keys = Arc::new(AtomicU64::new(1));
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
        gone: Some(keeper.gone),
        config: keeper.config,
        inbox,
        inbox_open: true,
        next_id: 1,
        keys,
        pending: HashMap::new(),
        processes: HashMap::new(),
        ending: Vec::new(),
        watchdog: None,
        report: None,
        left: None,
        events,
        outcome,
        zygote: keeper.zygote,
    };
    tokio::spawn(actor.run());
    tree
}

impl Actor {
    async fn run(mut self) {
        self.serve().await;
        let outcome = self.settle().await;
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
        let zygote = self.zygote;
        (
            self.inbox,
            self.outcome,
            self.gone.map(|gone| Late::new(gone, zygote)),
        )
    }

    /// Until the keeper is gone, or is left to the next host.
    async fn serve(&mut self) {
        while self.left.is_none() {
            let watched = self.watchdog.as_ref().map(|watchdog| watchdog.at);
            tokio::select! {
                received = self.link.receive() => match received {
                    Ok(Some(received)) => self.handle(received),
                    Ok(None) | Err(ConnectionError::Io(_)) => return,
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
                    self.post(
                        &Request::Discard { name: &name },
                        Vec::new(),
                        Pending::Nobody,
                    );
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
            } => self.spawn(*prepared, (pipes, asks, turn), reply),
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
            Ask::Drop => match self.config.on_host_exit {
                OnHostExit::Kill => self.end(self.config.grace),
                OnHostExit::Keep(_) => self.left = Some(Error::HungUp),
            },
        }
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
        self.post(&Request::Forget { key }, Vec::new(), Pending::Nobody);
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
        self.post(&Request::Forget { key }, Vec::new(), Pending::Nobody);
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

    // --- hearing ---

    fn handle(&mut self, received: Received) {
        if received.header.id == 0 {
            if let Ok(event) = received.message::<Event>() {
                self.event(event);
            }
            return;
        }
        let id = received.header.id;
        let reply = received.message::<Reply>();
        match reply {
            Ok(Reply::Failed(failure)) => self.refused(id, failure),
            Ok(reply) => self.answered(id, reply, received.fds),
            Err(error) => self.failed(id, ConnectionError::from(error).into()),
        }
    }

    fn refused(&mut self, id: u32, failure: Failure) {
        if let Some(Pending::Release(key)) = self.pending.get(&id) {
            // It had ended by itself; what it orphaned is the tree's.
            let key = *key;
            self.pending.remove(&id);
            self.released(key, Ok(nothing_left()));
        } else if matches!(self.pending.get(&id), Some(Pending::End)) {
            // It has ended by its own rules, and its report is on the way.
            self.pending.remove(&id);
        } else if is_shutdown(failure)
            && !matches!(self.pending.get(&id), Some(Pending::Spawn { .. }))
        {
            self.failed(id, Error::Ended);
        } else {
            self.failed(id, Error::Failed(failure));
        }
    }

    fn answered(&mut self, id: u32, reply: Reply, mut fds: Vec<OwnedFd>) {
        let Some(pending) = self.pending.remove(&id) else {
            return;
        };
        match (pending, reply) {
            (
                Pending::Spawn {
                    key,
                    grace,
                    pipes,
                    asks,
                    turn,
                    reply,
                    ..
                },
                Reply::Spawned(process),
            ) => {
                drop(turn);
                let (exit, watcher) = watch::channel(None);
                self.processes.insert(key, Record::new(exit));
                // A guard before anything else: if nobody waits for it any more it is dropped here, which releases.
                let _ = reply.send(Ok(Process::new(
                    (key, process),
                    grace,
                    watcher,
                    pipes,
                    asks,
                )));
            }
            (Pending::Done(reply), Reply::Done) => drop(reply.send(Ok(()))),
            (Pending::SetOnHostExit(on_host_exit, reply), Reply::Done) => {
                self.config.on_host_exit = on_host_exit;
                let _ = reply.send(Ok(()));
            }
            (Pending::HandOver(reply), Reply::Done) => {
                self.left = Some(Error::HungUp);
                let _ = reply.send(Ok(()));
            }
            (Pending::Census(reply), Reply::Census(list)) => drop(reply.send(Ok(list))),
            (Pending::Processes(reply), Reply::Processes(list)) => drop(reply.send(Ok(list))),
            (Pending::Fetch(reply), Reply::Done) => {
                // None comes along when this process has no room for it.
                let full = Failure {
                    step: Step::Store,
                    errno: rustix::io::Errno::MFILE.raw_os_error(),
                };
                let _ = reply.send(fds.pop().ok_or(Error::Failed(full)));
            }
            (Pending::Names(reply), Reply::Names(names)) => {
                let _ = reply.send(Ok(names
                    .into_iter()
                    .map(std::ffi::CString::into_bytes)
                    .collect()));
            }
            (Pending::Ping, _) => {
                if let Some(watchdog) = &mut self.watchdog
                    && watchdog.ping == id
                {
                    watchdog.answered = true;
                }
            }
            (Pending::Release(key), Reply::Ended(report)) => self.released(key, Ok(report)),
            (Pending::End, Reply::Ended(report)) => self.ended(report),
            (Pending::Nobody, _) => {}
            (pending, _) => {
                let error = hostler_keeper::wire::WireError::Value("kind of the answer");
                let _ = pending.fail(ConnectionError::from(error).into());
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Exited { key, exit } => {
                if let Some(record) = self.processes.get(&key) {
                    record.exit.send_replace(Some(exit));
                    if !record.guarded && record.waiting.is_empty() {
                        self.processes.remove(&key);
                    }
                }
                let _ = self.events.send(TreeEvent::Exited { key, exit });
            }
            Event::Stopped { key, signal } => {
                drop(self.events.send(TreeEvent::Stopped { key, signal }))
            }
            Event::Continued { key } => drop(self.events.send(TreeEvent::Continued { key })),
            Event::Ending(reason) => drop(self.events.send(TreeEvent::Ending(reason))),
            Event::Ended(report) => self.ended(report),
            Event::Superseded => self.left = Some(Error::Superseded),
            Event::Ready(_) | Event::Unfit(_) => {}
        }
    }

    /// What the end of one process came to.
    fn released(&mut self, key: Key, result: Result<EndReport>) {
        let Some(record) = self.processes.get_mut(&key) else {
            return;
        };
        for reply in record.waiting.drain(..) {
            let _ = reply.send(result.clone());
        }
        match result {
            Ok(report) if report.remaining == 0 => {
                record.released.get_or_insert(report);
            }
            // It may be tried again.
            _ => record.releasing = None,
        }
        if !record.guarded && record.exit.borrow().is_some() {
            self.processes.remove(&key);
        }
    }

    /// The keeper's report: all is gone, or some are stuck.
    fn ended(&mut self, report: EndReport) {
        if self.report.is_some() {
            return;
        }
        if report.remaining == 0 {
            // Whoever waits is answered when the keeper is gone too.
            self.report = Some(report);
            self.watch(Instant::now() + PATIENCE);
        } else {
            let _ = self.events.send(TreeEvent::Ended(report.clone()));
            for reply in self.ending.drain(..) {
                let _ = reply.send(Ok(report.clone()));
            }
        }
    }

    // --- after it ---

    /// The connection is over: finds out what became of the tree.
    async fn settle(&mut self) -> Result<EndReport> {
        self.watchdog = None;
        let ended = self.report.is_some();
        let left = self.left.take();
        for (_, pending) in self.pending.drain() {
            let _ = pending.fail(match &left {
                Some(error) => error.clone(),
                None if ended => Error::Ended,
                None => Error::KeeperGone,
            });
        }
        if let Some(error) = left {
            return Err(error);
        }
        if let Some(report) = self.report.take() {
            self.await_keeper().await;
            return Ok(report);
        }
        // It closed without a word, so it was killed, or is about to be.
        let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
        self.await_keeper().await;
        let Some(mut gone) = self.gone.take() else {
            return Err(Error::Unproven);
        };
        match timeout(ZYGOTE_TIME, &mut gone).await {
            Ok(Ok(report)) => Ok(report),
            // The zygote is gone too.
            Ok(Err(_)) => end_cgroup(self.config.cgroup.as_deref()).await,
            Err(_) => {
                self.gone = Some(gone);
                end_cgroup(self.config.cgroup.as_deref()).await
            }
        }
    }

    /// Waits until the keeper is gone: it is on its way out.
    async fn await_keeper(&self) {
        if timeout(PATIENCE, self.handle.readable()).await.is_err() {
            let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
            let _ = timeout(PATIENCE, self.handle.readable()).await;
        }
        // Ours to wait for only if the zygote died before it.
        reap(self.handle.get_ref());
    }
}

/// The end of a grace from now; one that is not to end ends in a century.
fn after(grace: Duration) -> Instant {
    Instant::now() + grace.min(Duration::from_secs(100 * 365 * 24 * 3600))
}
