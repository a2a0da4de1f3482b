//! What a tree's task hears from the keeper, and what becomes of the tree when it hears nothing more.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hostler_keeper::connection::{ConnectionError, Received};
use hostler_keeper::identity::Key;
use hostler_keeper::message::{Event, Failure, Reply, Request, Step};
use hostler_keeper::outcome::EndReport;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Actor, Asked, PATIENCE, QUESTION};
use crate::aftermath::{Mourner, ZYGOTE_TIME, end_cgroup};
use crate::ask::{Ask, Pending, is_shutdown};
use crate::error::{Error, Result};
use crate::process::Process;
use crate::record::{Record, nothing_left};
use crate::tree::TreeEvent;
use crate::zygote::reap;

impl Actor {
    pub(super) fn handle(&mut self, received: Received) {
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

    pub(super) fn refused(&mut self, id: u32, failure: Failure) {
        if let Some(Pending::Release(key)) = self.pending.get(&id) {
            // It had ended by itself; what it orphaned is the tree's.
            let key = *key;
            self.pending.remove(&id);
            self.released(key, Ok(nothing_left()));
        } else if let Some(Pending::HandOver(reply)) = self.pending.get(&id)
            && reply.is_closed()
        {
            // Its guard was dropped meanwhile, and waits for nothing.
            self.pending.remove(&id);
            self.ask(Ask::Drop);
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

    pub(super) fn answered(&mut self, id: u32, reply: Reply, mut fds: Vec<OwnedFd>) {
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
                    && watchdog.asked == Asked::By(id)
                {
                    watchdog.asked = Asked::Answered;
                }
            }
            (Pending::Release(key), Reply::Ended(report)) => self.released(key, Ok(report)),
            (Pending::End, Reply::Ended(report)) => self.ended(report, true),
            (Pending::Nobody, _) => {}
            (pending, _) => {
                let error = hostler_keeper::wire::WireError::Value("kind of the answer");
                let _ = pending.fail(ConnectionError::from(error).into());
            }
        }
    }

    pub(super) fn event(&mut self, event: Event) {
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
            Event::Ended(report) => self.ended(report, false),
            Event::Superseded => self.left = Some(Error::Superseded),
            Event::Ready { .. } | Event::Unfit(_) => {}
        }
    }

    /// What the end of one process came to.
    pub(super) fn released(&mut self, key: Key, result: Result<EndReport>) {
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

    /// The keeper's report: all is gone, or some are stuck. `asked` says that it is the answer to whoever asked for the end.
    pub(super) fn ended(&mut self, report: EndReport, asked: bool) {
        if self.report.is_some() {
            return;
        }
        if report.remaining == 0 {
            // Whoever waits is answered when the keeper is gone too.
            self.report = Some(report);
            if self.config.rendezvous.is_some() && !asked {
                // It was read: the keeper need not wait for another who does.
                let grace = Duration::ZERO;
                self.post(&Request::End { grace }, Vec::new(), Pending::Nobody);
            }
            self.watch(Instant::now() + PATIENCE - QUESTION);
        } else {
            let _ = self.events.send(TreeEvent::Ended(report.clone()));
            for reply in self.ending.drain(..) {
                let _ = reply.send(Ok(report.clone()));
            }
        }
    }

    /// The connection is over: finds out what became of the tree.
    pub(super) async fn settle(&mut self) -> Result<EndReport> {
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
        // It closed without a word. One that can be adopted and goes on has another host now, which is not to suffer.
        if self.config.rendezvous.is_some()
            && timeout(PATIENCE, self.handle.readable()).await.is_err()
        {
            return Err(Error::Superseded);
        }
        // Else it was killed, or is about to be.
        let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
        self.await_keeper().await;
        let Some(mut late) = self.mourner.take().map(Mourner::listen) else {
            return Err(Error::Unproven);
        };
        match timeout(ZYGOTE_TIME, &mut late.gone).await {
            Ok(Ok(report)) => Ok(report),
            // The zygote is gone too.
            Ok(Err(_)) => end_cgroup(self.config.cgroup.as_deref()).await,
            Err(_) => {
                self.late = Some(late);
                end_cgroup(self.config.cgroup.as_deref()).await
            }
        }
    }

    /// Waits until the keeper is gone: it is on its way out.
    pub(super) async fn await_keeper(&self) {
        if timeout(PATIENCE, self.handle.readable()).await.is_err() {
            let _ = pidfd_send_signal(self.handle.get_ref(), Signal::KILL);
            let _ = timeout(PATIENCE, self.handle.readable()).await;
        }
        // Ours to wait for only if the zygote died before it.
        reap(self.handle.get_ref());
    }
}
