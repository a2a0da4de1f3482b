//! What a tree's task is asked, and who waits for the keeper's answer.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hostler_keeper::config::OnHostExit;
use hostler_keeper::identity::Key;
use hostler_keeper::message::{Failure, Started, Step, Target};
use hostler_keeper::outcome::{EndReason, EndReport, ProcessInfo};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use crate::command::{Pipes, Prepared};
use crate::error::{Error, Result};
use crate::process::Process;

/// Where an answer is awaited, if anybody still does.
pub(crate) type Answer<T> = oneshot::Sender<Result<T>>;

/// One of the spawns that may be under way.
pub(crate) type Turn = OwnedSemaphorePermit;

/// The way into a tree's mailbox.
pub(crate) type Asks = mpsc::UnboundedSender<Ask>;

/// What a tree's task is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    Spawn {
        prepared: Box<Prepared>,
        /// Boxed, for a mailbox has room for 32 of the largest from the start.
        pipes: Box<Pipes>,
        asks: Asks,
        turn: Turn,
        reply: Answer<Process>,
    },
    Signal {
        target: Target,
        signal: i32,
        reply: Answer<()>,
    },
    Census {
        reply: Answer<Vec<ProcessInfo>>,
    },
    Processes {
        reply: Answer<Vec<Started>>,
    },
    Store {
        name: Vec<u8>,
        fd: OwnedFd,
        reply: Answer<()>,
    },
    Fetch {
        name: Vec<u8>,
        reply: Answer<OwnedFd>,
    },
    Discard {
        name: Vec<u8>,
        reply: Answer<()>,
    },
    /// The same, when nobody waits.
    DiscardLater {
        name: Vec<u8>,
    },
    Names {
        reply: Answer<Vec<Vec<u8>>>,
    },
    Owner {
        pidfd: OwnedFd,
        reply: Answer<()>,
    },
    SetOnHostExit {
        on_host_exit: OnHostExit,
        reply: Answer<()>,
    },
    HandOver {
        wait: Duration,
        reply: Answer<()>,
    },
    /// End one process.
    Release {
        key: Key,
        grace: Duration,
        reply: Answer<EndReport>,
    },
    /// The guard of a process was dropped.
    LetGo {
        key: Key,
        grace: Duration,
    },
    /// The guard of a process was given up.
    Detach {
        key: Key,
    },
    /// End the tree.
    End {
        grace: Duration,
        reply: Answer<EndReport>,
    },
    /// The guard of the tree was dropped.
    Drop,
}

impl Ask {
    /// Answers what is asked of a tree that is over.
    pub(crate) fn after_the_end(self, outcome: &Result<EndReport>) {
        let error = || match outcome {
            Ok(report) if report.reason != EndReason::KeeperLost => Error::Ended,
            Err(Error::HungUp) => Error::HungUp,
            Err(Error::Superseded) => Error::Superseded,
            _ => Error::KeeperGone,
        };
        match self {
            Ask::Spawn { reply, .. } => drop(reply.send(Err(error()))),
            Ask::Signal { reply, .. }
            | Ask::Store { reply, .. }
            | Ask::Discard { reply, .. }
            | Ask::Owner { reply, .. }
            | Ask::SetOnHostExit { reply, .. }
            | Ask::HandOver { reply, .. } => drop(reply.send(Err(error()))),
            Ask::Census { reply } => drop(reply.send(Err(error()))),
            Ask::Processes { reply } => drop(reply.send(Err(error()))),
            Ask::Fetch { reply, .. } => drop(reply.send(Err(error()))),
            Ask::Names { reply } => drop(reply.send(Err(error()))),
            Ask::Release { reply, .. } | Ask::End { reply, .. } => {
                drop(reply.send(outcome.clone()))
            }
            Ask::LetGo { .. } | Ask::Detach { .. } | Ask::DiscardLater { .. } | Ask::Drop => {}
        }
    }
}

/// Who waits for the answer to a request.
#[derive(Debug)]
pub(crate) enum Pending {
    Spawn {
        shown: String,
        key: Key,
        grace: Duration,
        pipes: Pipes,
        /// What was stored for it, under which names.
        stored: Vec<Vec<u8>>,
        asks: Asks,
        turn: Turn,
        reply: Answer<Process>,
    },
    Done(Answer<()>),
    SetOnHostExit(OnHostExit, Answer<()>),
    HandOver(Answer<()>),
    Census(Answer<Vec<ProcessInfo>>),
    Processes(Answer<Vec<Started>>),
    Fetch(Answer<OwnedFd>),
    Names(Answer<Vec<Vec<u8>>>),
    Release(Key),
    End,
    Ping,
    Nobody,
}

impl Pending {
    /// Tells whoever waits that it failed, and gives back what is to be discarded for that.
    pub(crate) fn fail(self, error: Error) -> Vec<Vec<u8>> {
        match self {
            Self::Spawn {
                shown,
                stored,
                reply,
                ..
            } => {
                let error = match error {
                    Error::Failed(failure) if is_shutdown(failure) => Error::Ended,
                    Error::Failed(failure) => Error::Spawn {
                        program: shown,
                        failure,
                    },
                    other => other,
                };
                let _ = reply.send(Err(error));
                return stored;
            }
            Self::Done(reply) | Self::SetOnHostExit(_, reply) | Self::HandOver(reply) => {
                drop(reply.send(Err(error)))
            }
            Self::Census(reply) => drop(reply.send(Err(error))),
            Self::Processes(reply) => drop(reply.send(Err(error))),
            Self::Fetch(reply) => drop(reply.send(Err(error))),
            Self::Names(reply) => drop(reply.send(Err(error))),
            Self::Release(_) | Self::End | Self::Ping | Self::Nobody => {}
        }
        Vec::new()
    }
}

/// A keeper says so to what comes after its end.
pub(crate) fn is_shutdown(failure: Failure) -> bool {
    failure.step == Step::Request && failure.errno == rustix::io::Errno::SHUTDOWN.raw_os_error()
}
