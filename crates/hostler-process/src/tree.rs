//! A keeper and all that is under it, as its owner sees it.

use std::ffi::{CString, OsStr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler_keeper::config::{Contain, KeeperConfig, Limits, OnHostExit, Rules};
use hostler_keeper::identity::{Key, ProcessId};
use hostler_keeper::message::{Started, Target};
use hostler_keeper::outcome::{EndReport, ProcessInfo};
use tokio::sync::{Semaphore, broadcast, oneshot, watch};

use crate::ask::{Ask, Asks};
use crate::command::Command;
use crate::error::{Error, Result};
use crate::process::Process;

pub use rustix::process::Signal;

/// How many spawns of one tree may be under way. The keeper does one at a time; more would only hold descriptors open.
const SPAWNS_AT_ONCE: usize = 32;

/// How to make a tree.
#[derive(Debug, Clone)]
pub struct TreeOptions {
    /// What the process list shows for the keeper, after `hostler: keeper of `.
    pub title: String,
    /// How to contain; `None` for the strongest that changes nothing for the child ([`crate::contain::auto`]).
    pub contain: Option<Contain>,
    /// What becomes of the tree when this process dies or hangs up.
    pub on_host_exit: OnHostExit,
    /// Between SIGTERM and SIGKILL, when the tree ends by a rule, with its host or with its guard.
    pub grace: Duration,
    /// What its processes may use together. `memory.max`, `pids.max` and `cpu.max` of the cgroup where the controllers are
    /// there; else the keeper measures memory and counts processes every 20 ms and ends the tree when it is over, and binds
    /// it to as many CPUs.
    pub limits: Limits,
    /// When the tree ends without being asked.
    pub rules: Rules,
    /// Where the next host finds the keeper ([`Tree::adopt`]): an absolute path for a Unix socket of this tree's own, in a
    /// directory that is there. The keeper makes it (0600) before the tree is ready, in place of a dead keeper's, and removes
    /// it when it goes. Of any length. `None`: the tree cannot be adopted.
    pub rendezvous: Option<PathBuf>,
}

impl Default for TreeOptions {
    fn default() -> Self {
        Self {
            title: String::new(),
            contain: None,
            on_host_exit: OnHostExit::Kill,
            grace: Duration::from_secs(5),
            limits: Limits::default(),
            rules: Rules::default(),
            rendezvous: None,
        }
    }
}

impl TreeOptions {
    pub(crate) fn config(&self, contain: Contain, cgroup: Option<CString>) -> Result<KeeperConfig> {
        Ok(KeeperConfig {
            title: CString::new(self.title.as_str()).map_err(|_| Error::Nul(self.title.clone()))?,
            cgroup,
            on_host_exit: self.on_host_exit,
            limits: self.limits,
            rules: self.rules.clone(),
            rendezvous: self.rendezvous.as_deref().map(path_text).transpose()?,
            ..KeeperConfig::new(contain, self.grace)
        })
    }
}

/// A path for the kernel.
pub(crate) fn path_text(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::Nul(path.display().to_string()))
}

/// What happens in a tree.
#[derive(Debug, Clone)]
pub enum TreeEvent {
    /// A process that was started in it has ended.
    Exited {
        /// Its number.
        key: hostler_keeper::identity::Key,
        /// How.
        exit: hostler_keeper::outcome::Exit,
    },
    /// A process was stopped.
    Stopped {
        /// Its number.
        key: hostler_keeper::identity::Key,
        /// By what signal.
        signal: i32,
    },
    /// A stopped process goes on.
    Continued {
        /// Its number.
        key: hostler_keeper::identity::Key,
    },
    /// The tree is being ended by one of its own rules.
    Ending(hostler_keeper::outcome::EndReason),
    /// The tree has ended, for whatever reason; or what is left of it is stuck (`remaining` is not 0).
    Ended(EndReport),
}

/// A tree of processes: a keeper and all that is under it; the ownership of them.
///
/// Dropping it ends the tree by its options: with [`OnHostExit::Kill`] it is ended with the options' grace, in the
/// background; with [`OnHostExit::Keep`] the keeper is left to the next host, which has that long to come. The same happens
/// when the runtime is shut down, or this process dies.
///
/// Every method is cancel safe in this sense: dropping its future at any await leaves nothing half-owned; what the keeper
/// was asked for already is carried out, and what that made is released.
#[derive(Debug)]
pub struct Tree {
    asks: Asks,
    keeper: ProcessId,
    config: Arc<KeeperConfig>,
    keys: Arc<AtomicU64>,
    events: broadcast::Sender<TreeEvent>,
    outcome: watch::Receiver<Option<Result<EndReport>>>,
    spawning: Arc<Semaphore>,
}

impl Tree {
    pub(crate) fn new(
        asks: Asks,
        keeper: ProcessId,
        (config, keys): (Arc<KeeperConfig>, Arc<AtomicU64>),
        events: broadcast::Sender<TreeEvent>,
        outcome: watch::Receiver<Option<Result<EndReport>>>,
    ) -> Self {
        Self {
            asks,
            keeper,
            config,
            keys,
            events,
            outcome,
            spawning: Arc::new(Semaphore::new(SPAWNS_AT_ONCE)),
        }
    }

    /// Its keeper.
    pub fn keeper(&self) -> ProcessId {
        self.keeper
    }

    /// The way of containing that is in force.
    pub fn contain(&self) -> Contain {
        self.config.contain
    }

    /// The cgroup that the tree is in, where it has one. To be recorded: when host, zygote and keeper are all killed, it is
    /// what still names what survives ([`crate::contain::end_group`]).
    pub fn cgroup(&self) -> Option<&Path> {
        let path = self.config.cgroup.as_deref()?;
        Some(Path::new(OsStr::from_bytes(path.to_bytes())))
    }

    /// Where the next host finds the keeper ([`TreeOptions::rendezvous`]).
    pub fn rendezvous(&self) -> Option<&Path> {
        let path = self.config.rendezvous.as_deref()?;
        Some(Path::new(OsStr::from_bytes(path.to_bytes())))
    }

    /// A number that no process of this tree has had, for [`Command::key`]: it can be recorded before the process exists,
    /// and a host that adopts the tree finds the process by it.
    pub fn new_key(&self) -> Key {
        Key(self.keys.fetch_add(1, Ordering::Relaxed))
    }

    /// Starts a process. When this returns, its program has been executed. Of many at once, some wait their turn before they
    /// open any descriptor.
    ///
    /// Cancel safe: dropped at any await, either nothing was started, or what was started is released at once.
    ///
    /// # Errors
    /// [`Error::Spawn`] with the step that failed; then nothing of the process is left. [`Error::Ended`] and
    /// [`Error::KeeperGone`].
    pub async fn spawn(&self, command: Command) -> Result<Process> {
        let turn = self
            .spawning
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| Error::Ended)?;
        let (prepared, pipes) = command.prepare()?;
        let asks = self.asks.clone();
        self.ask(|reply| Ask::Spawn {
            prepared: Box::new(prepared),
            pipes: Box::new(pipes),
            asks,
            turn,
            reply,
        })
        .await
    }

    /// Lists every living descendant of the keeper.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn census(&self) -> Result<Vec<ProcessInfo>> {
        self.ask(|reply| Ask::Census { reply }).await
    }

    /// Every process that was started in the tree and whose guard lives, with its exit where it has ended.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn processes(&self) -> Result<Vec<Started>> {
        self.ask(|reply| Ask::Processes { reply }).await
    }

    /// Sends a signal. A [`Target::Descendant`] gets it only if it is that very process (pid and start time) and is under
    /// this keeper.
    ///
    /// Cancel safe: dropped, it is sent or not.
    ///
    /// # Errors
    /// [`Error::Failed`] with `SRCH` where there is no such process in the tree, `PERM` where it may not be signalled;
    /// [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn signal(&self, target: Target, signal: Signal) -> Result<()> {
        self.ask(|reply| Ask::Signal {
            target,
            signal: signal.as_raw(),
            reply,
        })
        .await
    }

    /// Ends the tree: SIGTERM to all, so much grace, SIGKILL, until the kernel says that none is left. When this returns
    /// with nothing remaining, the keeper is gone too.
    ///
    /// Idempotent: callers at the same time and later ones get the same report; a shorter grace than what is left of an
    /// earlier one takes its place. What SIGKILL does not end is reported as stuck, stays owned and is tried on: call again.
    /// A keeper that answers nothing for 2 s beyond the grace is killed, and the zygote ends what it leaves.
    ///
    /// Cancel safe: dropped, the end goes on.
    ///
    /// # Errors
    /// [`Error::Unproven`] when keeper and zygote are both gone, and nobody could count. Of a zygote that is there, but takes
    /// long, a later call may give the report.
    pub async fn end(&self, grace: Duration) -> Result<EndReport> {
        let answer = self.ask(|reply| Ask::End { grace, reply }).await;
        match answer {
            // The task is gone; it may have said how it ended.
            Err(Error::KeeperGone) => self
                .outcome
                .borrow()
                .clone()
                .unwrap_or(Err(Error::KeeperGone)),
            answer => answer,
        }
    }

    /// Waits until the tree has ended for whatever reason, and gives the report that [`Tree::end`] gives.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// As [`Tree::end`].
    pub async fn ended(&self) -> Result<EndReport> {
        match self.outcome.clone().wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(Error::KeeperGone)),
            Err(_) => Err(Error::KeeperGone),
        }
    }

    /// What happens in the tree from now on. Somebody who does not read falls behind and loses events (it is told how
    /// many); exits are never lost that way, for [`Process::wait`] does not depend on it.
    pub fn events(&self) -> broadcast::Receiver<TreeEvent> {
        self.events.subscribe()
    }

    /// Has the keeper keep a descriptor under a name, in place of what is there. It is closed here.
    ///
    /// Cancel safe: dropped, it is stored or not.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn store(&self, name: &[u8], fd: OwnedFd) -> Result<()> {
        self.ask(|reply| Ask::Store {
            name: name.to_vec(),
            fd,
            reply,
        })
        .await
    }

    /// A duplicate of what the keeper keeps under the name.
    ///
    /// Cancel safe: a duplicate that nobody takes is closed.
    ///
    /// # Errors
    /// [`Error::Failed`] with `NOENT` where nothing has that name; [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn fetch(&self, name: &[u8]) -> Result<OwnedFd> {
        self.ask(|reply| Ask::Fetch {
            name: name.to_vec(),
            reply,
        })
        .await
    }

    /// Lets the keeper close what it keeps under the name.
    ///
    /// Cancel safe: dropped, it is closed or not.
    ///
    /// # Errors
    /// As [`Tree::fetch`].
    pub async fn discard(&self, name: &[u8]) -> Result<()> {
        self.ask(|reply| Ask::Discard {
            name: name.to_vec(),
            reply,
        })
        .await
    }

    /// The same, when nobody waits: returns at once, and whatever comes of it is not told.
    pub fn discard_later(&self, name: &[u8]) {
        let name = name.to_vec();
        let _ = self.asks.send(Ask::DiscardLater { name });
    }

    /// The names of all that the keeper keeps.
    ///
    /// Cancel safe: it changes nothing.
    ///
    /// # Errors
    /// [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn names(&self) -> Result<Vec<Vec<u8>>> {
        self.ask(|reply| Ask::Names { reply }).await
    }

    /// Ties the tree to the life of the process behind a pidfd: when that one ends, so does the tree.
    ///
    /// Cancel safe: dropped, it is tied or not.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn tie_to(&self, pidfd: OwnedFd) -> Result<()> {
        self.ask(|reply| Ask::Owner { pidfd, reply }).await
    }

    /// Changes what becomes of the tree when this process dies or hangs up, or drops it.
    ///
    /// Cancel safe: dropped, it is changed or not.
    ///
    /// # Errors
    /// [`Error::Failed`], [`Error::Ended`] and [`Error::KeeperGone`].
    pub async fn set_on_host_exit(&self, on_host_exit: OnHostExit) -> Result<()> {
        self.ask(|reply| Ask::SetOnHostExit {
            on_host_exit,
            reply,
        })
        .await
    }

    /// Lets go of the tree without ending anything: the next host has so long to adopt it, whatever the options say of a
    /// host that dies. When this returns the keeper waits for it. Guards of its processes own nothing from then on (they end
    /// as [`ExitStatus::Lost`](crate::ExitStatus::Lost) here, and go on there); one that is dropped before releases its
    /// process as ever. Whoever shares the tree and asks it for something after that hears [`Error::KeeperGone`].
    ///
    /// Cancel safe: dropped once it was polled, it is carried out all the same.
    ///
    /// # Errors
    /// [`Error::Failed`] for a tree without a [rendezvous](TreeOptions::rendezvous), which is as before;
    /// [`Error::Ended`], [`Error::KeeperGone`]; [`Error::Superseded`] when the next host has it already.
    pub async fn hand_over(&self, wait: Duration) -> Result<()> {
        self.ask(|reply| Ask::HandOver { wait, reply }).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T>>) -> Ask) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // Nobody there to be asked: the answer's channel is dropped with the question, which tells.
        let _ = self.asks.send(ask(reply));
        answer.await.unwrap_or(Err(Error::KeeperGone))
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        // Where nobody is there to hear it, the connection is closed already.
        let _ = self.asks.send(Ask::Drop);
    }
}
