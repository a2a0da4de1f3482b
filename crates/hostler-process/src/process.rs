//! One process, as its owner sees it.

use std::time::Duration;

use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::Target;
use hostler_keeper::outcome::{EndReport, Exit, ExitStatus, Usage};
use tokio::net::unix::pipe;
use tokio::sync::{oneshot, watch};

use crate::ask::{Ask, Asks};
use crate::command::Pipes;
use crate::error::{Error, Result};
use crate::tree::Signal;

/// A process that was started in a tree, and the ownership of it.
///
/// Dropping it, anywhere and at any time, releases the process: it and what is under it is sent SIGTERM, and SIGKILL after
/// the [grace of its command](crate::Command::grace). What it has orphaned before belongs to the tree and stays with it.
/// [`Process::detach_into_tree`] gives the ownership up to the tree.
#[derive(Debug)]
pub struct Process {
    key: Key,
    id: ProcessId,
    grace: Duration,
    exit: Watcher,
    pipes: Pipes,
    /// `None` once the ownership was given up.
    asks: Option<Asks>,
}

impl Process {
    pub(crate) fn new(
        (key, id): (Key, ProcessId),
        grace: Duration,
        exit: watch::Receiver<Option<Exit>>,
        pipes: Pipes,
        asks: Asks,
    ) -> Self {
        Self {
            key,
            id,
            grace,
            exit: Watcher { id, exit },
            pipes,
            asks: Some(asks),
        }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.id.pid
    }

    /// Who it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Its number within the tree.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Waits for its end. Whoever asks, however often and however late, gets the same answer. It is
    /// [`ExitStatus::Lost`] only where nobody could tell: its keeper was killed, or the runtime was shut down.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    pub async fn wait(&self) -> Exit {
        self.exit.wait().await
    }

    /// Its end, if that is known already.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.exit()
    }

    /// A handle that only waits: it can be cloned, and outlive this guard.
    pub fn watcher(&self) -> Watcher {
        self.exit.clone()
    }

    /// The end of the pipe to its standard input, where that is [`Stdio::Piped`](crate::Stdio::Piped); once. Dropping it
    /// closes the pipe.
    pub fn take_stdin(&mut self) -> Option<pipe::Sender> {
        self.pipes.stdin.take()
    }

    /// The end of the pipe from its standard output; once.
    pub fn take_stdout(&mut self) -> Option<pipe::Receiver> {
        self.pipes.stdout.take()
    }

    /// The end of the pipe from its standard error; once.
    pub fn take_stderr(&mut self) -> Option<pipe::Receiver> {
        self.pipes.stderr.take()
    }

    /// Signals it, and nothing else.
    ///
    /// Cancel safe: dropped, the signal is sent or not.
    ///
    /// # Errors
    /// [`Error::Failed`] with `SRCH` when it has ended; [`Error::Ended`] and [`Error::KeeperGone`] with its tree.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        self.send(Target::Process(self.key), signal).await
    }

    /// Signals the process group that it leads.
    ///
    /// Cancel safe, as [`Process::signal`].
    ///
    /// # Errors
    /// As [`Process::signal`]; `SRCH` too when it leads none.
    pub async fn signal_group(&self, signal: Signal) -> Result<()> {
        self.send(Target::Group(self.key), signal).await
    }

    async fn send(&self, target: Target, signal: Signal) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Signal {
            target,
            signal: signal.as_raw(),
            reply,
        });
        answer.await.unwrap_or(Err(Error::KeeperGone))
    }

    /// Ends it and what is under it: SIGTERM, so much grace, SIGKILL, until it is gone. Callers at the same time and later
    /// ones get the same report; a shorter grace than what is left of an earlier one takes its place. Of a process that
    /// had ended before, the report is empty.
    ///
    /// Cancel safe: dropped, the end goes on.
    ///
    /// # Errors
    /// [`Error::KeeperGone`] and what else may come of a lost tree.
    pub async fn end(&self, grace: Duration) -> Result<EndReport> {
        let (reply, answer) = oneshot::channel();
        self.ask(Ask::Release {
            key: self.key,
            grace,
            reply,
        });
        answer.await.unwrap_or(Err(Error::KeeperGone))
    }

    /// Gives up the ownership: from here on the process belongs to its tree, and ends with it. The pipes that were not
    /// taken are closed.
    pub fn detach_into_tree(mut self) -> Watcher {
        self.ask(Ask::Detach { key: self.key });
        self.asks = None;
        self.exit.clone()
    }

    fn ask(&self, ask: Ask) {
        if let Some(asks) = &self.asks {
            // Nobody there to be asked: the answer's channel is dropped with the question, which tells.
            let _ = asks.send(ask);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where nobody is there to hear it, the connection to the keeper is closed, and the whole tree ends.
        self.ask(Ask::LetGo {
            key: self.key,
            grace: self.grace,
        });
    }
}

/// Waits for the end of one process, without owning it.
#[derive(Debug, Clone)]
pub struct Watcher {
    id: ProcessId,
    exit: watch::Receiver<Option<Exit>>,
}

impl Watcher {
    /// Who it is.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Waits for its end: see [`Process::wait`].
    ///
    /// Cancel safe.
    pub async fn wait(&self) -> Exit {
        match self.exit.clone().wait_for(Option::is_some).await {
            Ok(exit) => exit.unwrap_or(LOST),
            Err(_) => LOST,
        }
    }

    /// Its end, if that is known already.
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }
}

/// The end of a process that nobody could wait for.
pub(crate) const LOST: Exit = Exit {
    status: ExitStatus::Lost,
    usage: Usage {
        user: Duration::ZERO,
        system: Duration::ZERO,
        peak_resident: 0,
    },
};
