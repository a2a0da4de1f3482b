//! The zygote, as its host's tasks see it.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use hostler_keeper::config::KeeperConfig;
use hostler_keeper::connection::{Connection, Received};
use hostler_keeper::identity::ProcessId;
use hostler_keeper::message::{Event, Failure, Message, Request, Step, ZygoteReply, ZygoteRequest};
use hostler_keeper::outcome::EndReport;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use tokio::sync::{mpsc, oneshot};

use crate::actor::{self, Keeper};
use crate::aftermath::Mourner;
use crate::contain;
use crate::error::{Doing, Error, Result};
use crate::link::{Link, register};
use crate::tree::{Tree, TreeOptions};

/// A keeper that was forked.
struct Born {
    id: ProcessId,
    /// What the zygote found left of it, when it is gone.
    gone: oneshot::Receiver<EndReport>,
}

struct Ask {
    config: KeeperConfig,
    /// The keeper's end of its connection.
    theirs: OwnedFd,
    reply: oneshot::Sender<Result<Born>>,
}

/// A host's zygote. Clones are the same zygote.
///
/// One task owns the connection to it. When the last handle and the last tree are dropped the connection is closed, and the
/// zygote goes when its last keeper does.
///
/// **When the zygote dies**, trees live on, for their keepers have connections of their own: they can be used and ended as
/// before. [`Zygote::tree`] then fails with [`Error::ZygoteGone`]. A keeper that is killed after that has nobody who ends and
/// counts what it leaves, but where it has a cgroup: its tree's end is then [`Error::Unproven`]. A host that sees the zygote
/// gone ([`Zygote::gone`]) starts a new one for new trees.
#[derive(Debug, Clone)]
pub struct Zygote {
    asks: mpsc::UnboundedSender<Ask>,
    pid: Pid,
}

impl Zygote {
    /// Takes over a zygote that was just started. Must be called in a runtime.
    ///
    /// # Errors
    /// The kernel's, when out of descriptors; the zygote then goes.
    pub fn new(zygote: hostler_keeper::zygote::Zygote) -> Result<Self> {
        let pid = zygote.pid;
        // It was not waited for, so the pid is its own.
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).doing("watch the zygote")?;
        let handle = register(handle).doing("watch the zygote")?;
        let link = Link::new(zygote.connection).doing("watch the zygote")?;
        let (asks, inbox) = mpsc::unbounded_channel();
        let actor = Actor {
            link,
            inbox,
            next: 0,
            pending: HashMap::new(),
            keepers: HashMap::new(),
        };
        tokio::spawn(async move {
            actor.run().await;
            // It goes after its last keeper; then it is to be waited for.
            let _ = handle.readable().await;
            reap(handle.get_ref());
        });
        Ok(Self { asks, pid })
    }

    /// Its pid.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Waits until the zygote is gone and no new tree can be made.
    ///
    /// Cancel safe: it changes nothing.
    pub async fn gone(&self) {
        self.asks.closed().await;
    }

    /// Makes a tree. When this returns its keeper is ready.
    ///
    /// Cancel safe: dropped at any await, no keeper is left, for its connection hangs up before anything runs under it.
    ///
    /// # Errors
    /// [`Error::Keeper`] with the step that failed, [`Error::ZygoteGone`], [`Error::Io`].
    pub async fn tree(&self, options: TreeOptions) -> Result<Tree> {
        let mut last = Failure {
            step: Step::Cgroup,
            errno: Errno::NOENT.raw_os_error(),
        };
        for (way, cgroup) in contain::attempts(options.contain) {
            let config = options.config(way, cgroup)?;
            match self.keeper(config).await {
                Ok(keeper) => return Ok(actor::start(keeper)),
                Err(Error::Keeper(failure)) if contain::goes_on_after(failure) => last = failure,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Keeper(last))
    }

    async fn keeper(&self, config: KeeperConfig) -> Result<Keeper> {
        let (ours, theirs) = Connection::pair().doing("make a keeper's connection")?;
        // Ours lives in this future from here on: when that is dropped, the keeper's hangs up.
        let mut link = Link::new(ours).doing("make a keeper's connection")?;
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            config: config.clone(),
            theirs: theirs.into(),
            reply,
        };
        self.asks.send(ask).map_err(|_| Error::ZygoteGone)?;
        let Born { id, gone } = answer.await.unwrap_or(Err(Error::ZygoteGone))?;
        let pid = Pid::from_raw(id.pid.cast_signed()).ok_or(Error::KeeperGone)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK);
        // A keeper that answers a question which was put after that was alive all the time: the handle is its own.
        link.post(1, &Request::Names, Vec::new())?;
        let mut its_level = 0;
        loop {
            let Some(received) = link.receive().await? else {
                return Err(Error::KeeperGone);
            };
            if received.header.id == 1 {
                break;
            }
            match received.message::<Event>() {
                Ok(Event::Unfit(failure)) => return Err(Error::Keeper(failure)),
                Ok(Event::Ready { level, .. }) => its_level = level,
                _ => {}
            }
        }
        let handle = handle.doing("open the keeper's pidfd")?;
        let handle = register(handle).doing("watch the keeper")?;
        Ok(Keeper {
            link,
            id,
            handle,
            mourner: Mourner::Zygote {
                gone,
                zygote: self.clone(),
            },
            config,
            level: its_level,
        })
    }
}

/// Takes leave of an ended process, where it is this process's child.
pub(crate) fn reap(handle: &OwnedFd) {
    use std::os::fd::AsFd;
    let _ = waitid(
        WaitId::PidFd(handle.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    );
}

struct Actor {
    link: Link,
    inbox: mpsc::UnboundedReceiver<Ask>,
    next: u32,
    pending: HashMap<u32, oneshot::Sender<Result<Born>>>,
    keepers: HashMap<ProcessId, oneshot::Sender<EndReport>>,
}

impl Actor {
    /// Until the zygote is gone, or nobody is left who could ask. What waits is then dropped, which tells whoever does.
    async fn run(mut self) {
        loop {
            tokio::select! {
                received = self.link.receive() => match received {
                    Ok(Some(received)) => self.handle(&received),
                    Ok(None) => return,
                    Err(hostler_keeper::connection::ConnectionError::Wire(_)) => {}
                    Err(_) => return,
                },
                ask = self.inbox.recv() => match ask {
                    Some(ask) => self.ask(ask),
                    None => return,
                },
            }
            for (id, error) in self.link.take_unsent() {
                if let Some(reply) = self.pending.remove(&id) {
                    let _ = reply.send(Err(Error::io("ask the zygote", error)));
                }
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        let Ask {
            config,
            theirs,
            reply,
        } = ask;
        if reply.is_closed() {
            return;
        }
        self.next = self.next.wrapping_add(1).max(1);
        match self.link.post(
            self.next,
            &ZygoteRequest::Keeper(Box::new(config)),
            vec![theirs],
        ) {
            Ok(()) => drop(self.pending.insert(self.next, reply)),
            Err(error) => drop(reply.send(Err(error.into()))),
        }
    }

    fn handle(&mut self, received: &Received) {
        match ZygoteReply::decode(received.header.kind, &received.body) {
            Ok(ZygoteReply::Forked(id)) => {
                let (told, gone) = oneshot::channel();
                self.keepers.retain(|_, tree| !tree.is_closed());
                self.keepers.insert(id, told);
                if let Some(reply) = self.pending.remove(&received.header.id) {
                    let _ = reply.send(Ok(Born { id, gone }));
                }
            }
            Ok(ZygoteReply::Failed(failure)) => {
                if let Some(reply) = self.pending.remove(&received.header.id) {
                    let _ = reply.send(Err(Error::Keeper(failure)));
                }
            }
            Ok(ZygoteReply::KeeperGone {
                id,
                status: _,
                report,
            }) => {
                if let Some(tree) = self.keepers.remove(&id) {
                    let _ = tree.send(report);
                }
            }
            // Only a front is told of signals.
            Ok(ZygoteReply::Signalled { .. }) | Err(_) => {}
        }
    }
}
