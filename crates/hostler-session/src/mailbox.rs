//! What a session's task is asked and told.

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{By, ResourceId, SessionId};
use tokio::sync::{mpsc, oneshot};

use crate::error::Result;
use crate::keep::{Moving, Received};
use crate::options::ExecOptions;
use crate::output::Follower;
use crate::policy::Policy;
use crate::process::{EndOnDrop, Shared};
use crate::report::CloseReason;
use crate::resource::{Resource, ResourceInfo};
use crate::session::Session;

/// The followers that a foreground process waits for.
pub(crate) type Paced = (Follower, Option<Follower>);

/// What a session's task is asked and told.
pub(crate) enum Message {
    /// Start a process.
    Exec {
        options: Box<ExecOptions>,
        by: By,
        paced: bool,
        reply: oneshot::Sender<Result<(EndOnDrop, Option<Paced>)>>,
    },
    /// It runs, or could not be started.
    Started { id: ResourceId, result: Result<()> },
    /// It failed, and is started again.
    Restarting,
    /// It has ended for good.
    Exited { id: ResourceId },
    /// End it.
    EndProcess {
        id: ResourceId,
        grace: Option<Duration>,
        by: By,
    },
    /// Own this.
    Own {
        resource: Box<dyn Resource>,
        name: Option<String>,
        by: By,
        reply: oneshot::Sender<Result<ResourceId>>,
    },
    /// Release what was owned.
    Release {
        id: ResourceId,
        by: By,
        reply: oneshot::Sender<Result<crate::report::Outcome>>,
    },
    /// That was released.
    Released {
        id: ResourceId,
        by: By,
        outcome: crate::report::Outcome,
        reply: oneshot::Sender<Result<crate::report::Outcome>>,
    },
    Resources {
        reply: oneshot::Sender<Vec<ResourceInfo>>,
    },
    /// A client came.
    Attach {
        client: u64,
        who: String,
        reply: oneshot::Sender<Result<()>>,
    },
    /// It left.
    Detach { client: u64 },
    /// A client did something.
    Touch,
    /// Something that holds an idle end off began.
    Busy,
    /// It is over.
    Quiet,
    /// A session that belongs to this one.
    Child {
        child: Session,
        reply: oneshot::Sender<Result<()>>,
    },
    /// It has closed.
    ChildGone { id: SessionId },
    /// Lend the tree to this session, which is to keep processes of this one.
    Lend {
        to: Session,
        reply: oneshot::Sender<Result<()>>,
    },
    /// That one has closed.
    NotLent { to: SessionId },
    /// Its processes.
    Processes {
        reply: oneshot::Sender<Vec<Arc<Shared>>>,
    },
    /// Hand a running process to another session.
    Keep {
        process: ResourceId,
        to: Session,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Here is one that is kept.
    Receive {
        moving: Moving,
        reply: oneshot::Sender<Received>,
    },
    /// It could not be recorded: give it back.
    GiveBack {
        id: ResourceId,
        reply: oneshot::Sender<Option<Moving>>,
    },
    /// The tree of what is kept is this session's alone from now on.
    TakeTree {
        /// The directories that it has to remove when it closes.
        dirs: Vec<std::path::PathBuf>,
        done: oneshot::Sender<()>,
    },
    SetPolicy {
        policy: Box<Policy>,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Close, or (`judge`) close only if that is right as things stand.
    Close {
        reason: CloseReason,
        by: By,
        grace: Option<Duration>,
        judge: bool,
    },
    /// Do this before it ends without being asked.
    BeforeEnd(crate::farewell::Farewell),
    /// That was done.
    Parted { reason: CloseReason },
    /// The close came to this.
    Done(Box<crate::closing::Finished>),
    /// Let go of everything for the next host.
    HandOver {
        wait: Duration,
        reply: oneshot::Sender<Result<Vec<Arc<Shared>>>>,
    },
}

/// The way into a session's mailbox.
#[derive(Debug, Clone)]
pub(crate) struct Mailbox {
    pub(crate) id: SessionId,
    /// Boxed, for a mailbox has room for 32 of the largest from the start.
    pub(crate) sender: mpsc::UnboundedSender<Box<Message>>,
}

impl Mailbox {
    /// Puts a message in. Where nobody is there to hear it, the answer's channel is dropped with it, which tells.
    pub(crate) fn send(&self, message: Message) {
        let _ = self.sender.send(Box::new(message));
    }
}
