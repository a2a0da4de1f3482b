//! A process or terminal in a session, as its users see it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_ledger::{By, ResourceId, SessionId};
use hostler_process::{Process, ProcessId, Signal, Target, Terminal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::error::{Doing, Error, Result};
use crate::event::ExitInfo;
use crate::mailbox::{Mailbox, Message};
use crate::options::{ExecOptions, TerminalSize};
use crate::output::{Follower, Output};
use crate::resource::ResourceState;
use crate::tree::SharedTree;

/// How a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Its state.
    pub state: ResourceState,
    /// Its pid, while it runs and after: a number for people.
    pub pid: Option<u32>,
    /// When it started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// How often it was started.
    pub starts: u32,
    /// How it ended, last time.
    pub exit: Option<ExitInfo>,
}

/// Where its input goes.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    None,
    Pipe(Arc<AsyncFd<OwnedFd>>),
    Terminal(Terminal),
}

/// What runs now.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Option<Arc<Process>>,
    pub(crate) input: Input,
    /// Whether its record is in the ledger.
    pub(crate) intended: bool,
}

/// What the session's task, the process's own task and the handles share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) id: ResourceId,
    pub(crate) options: ExecOptions,
    pub(crate) by: By,
    pub(crate) tree: SharedTree,
    pub(crate) stdout: Output,
    pub(crate) stderr: Option<Output>,
    pub(crate) status: watch::Sender<ProcessStatus>,
    pub(crate) running: Mutex<Running>,
    /// Its number in the tree.
    pub(crate) key: AtomicU64,
    /// Whose it is: changes when it is kept.
    owner: Mutex<Mailbox>,
    /// Set when its end was asked for: it is not started again.
    pub(crate) stop: watch::Sender<bool>,
    /// Told when the host is taken over: its task lets go of everything where it is.
    pub(crate) freeze: Notify,
    /// Set when its time was over.
    pub(crate) timed_out: AtomicBool,
    /// Whether somebody is, or was, there whose going ends it.
    pub(crate) claimed: AtomicBool,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every moment, and none is held over an await.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(
        (id, options, by): (ResourceId, ExecOptions, By),
        tree: SharedTree,
        (stdout, stderr): (Output, Option<Output>),
        owner: Mailbox,
    ) -> Self {
        Self {
            id,
            options,
            by,
            tree,
            stdout,
            stderr,
            status: watch::Sender::new(ProcessStatus {
                state: ResourceState::Starting,
                pid: None,
                start_time: None,
                starts: 0,
                exit: None,
            }),
            running: Mutex::new(Running {
                process: None,
                input: Input::None,
                intended: false,
            }),
            key: AtomicU64::new(0),
            owner: Mutex::new(owner),
            stop: watch::Sender::new(false),
            freeze: Notify::new(),
            timed_out: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
        }
    }

    pub(crate) fn owner(&self) -> Mailbox {
        lock(&self.owner).clone()
    }

    pub(crate) fn give_to(&self, owner: Mailbox) {
        *lock(&self.owner) = owner;
    }

    pub(crate) fn kind(&self) -> &'static str {
        self.options.kind()
    }

    /// What people are shown of it.
    pub(crate) fn shown(&self) -> String {
        if let Some(name) = &self.options.name {
            return name.clone();
        }
        let line = self.options.argv.join(" ");
        match line.char_indices().nth(80) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    pub(crate) fn state(&self) -> ResourceState {
        self.status.borrow().state
    }

    pub(crate) fn process(&self) -> Option<Arc<Process>> {
        lock(&self.running).process.clone()
    }
}

/// A process or terminal in a session. Clones are the same one. It is a handle, not the ownership: the session owns the
/// process, whoever drops this.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    pub(crate) shared: Arc<Shared>,
}

impl ProcessHandle {
    /// Its id.
    pub fn id(&self) -> &ResourceId {
        &self.shared.id
    }

    /// The session that owns it: another one once it is kept.
    pub fn session(&self) -> SessionId {
        self.shared.owner().id
    }

    /// What was asked for.
    pub fn options(&self) -> &ExecOptions {
        &self.shared.options
    }

    /// Who asked for it, and why.
    pub fn by(&self) -> &By {
        &self.shared.by
    }

    /// Whether it is on a terminal.
    pub fn is_terminal(&self) -> bool {
        self.shared.options.terminal.is_some()
    }

    /// How it stands: the answer to a poll.
    pub fn status(&self) -> ProcessStatus {
        *self.shared.status.borrow()
    }

    /// Changes of how it stands.
    pub fn watch(&self) -> watch::Receiver<ProcessStatus> {
        self.shared.status.subscribe()
    }

    /// Waits for its end (with all its restarts). It comes with its exit, though others may still hold its pipes; what it had
    /// written is in its output then. `None` when it could not be started. Everybody gets the same answer, however late.
    ///
    /// Cancel safe.
    pub async fn wait(&self) -> Option<ExitInfo> {
        let mut status = self.shared.status.subscribe();
        match status
            .wait_for(|status| status.state == ResourceState::Ended)
            .await
        {
            Ok(status) => status.exit,
            Err(_) => self.status().exit,
        }
    }

    /// Its standard output; of a terminal and of a background process, all that it writes.
    pub fn stdout(&self) -> Output {
        self.shared.stdout.clone()
    }

    /// Its standard error, where that is apart: of a foreground process.
    pub fn stderr(&self) -> Option<Output> {
        self.shared.stderr.clone()
    }

    /// Writes to its standard input, or types at its terminal. Returns when all is with the kernel, which waits for the
    /// process to read.
    ///
    /// Cancel safe in so far as what was written is written; how much cannot be told.
    ///
    /// # Errors
    /// [`Error::NoInput`], [`Error::Io`] when the other end is closed.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        self.shared.owner().send(Message::Touch);
        let input = lock(&self.shared.running).input.clone();
        match input {
            Input::None => Err(Error::NoInput(self.shared.id.clone())),
            Input::Pipe(pipe) => write_pipe(&pipe, bytes).await.doing("write to the process"),
            Input::Terminal(mut terminal) => {
                use tokio::io::AsyncWriteExt;
                terminal
                    .write_all(bytes)
                    .await
                    .doing("type at the terminal")
            }
        }
    }

    /// Closes its standard input; on a terminal, types Ctrl-D.
    ///
    /// Cancel safe: dropped, it is closed all the same, at the latest with the process.
    ///
    /// # Errors
    /// [`Error::NoInput`] when it was not open.
    pub async fn close_input(&self) -> Result<()> {
        if self.is_terminal() {
            return self.write(b"\x04").await;
        }
        let input = std::mem::replace(&mut lock(&self.shared.running).input, Input::None);
        if matches!(input, Input::None) {
            return Err(Error::NoInput(self.shared.id.clone()));
        }
        drop(input);
        // The keeper's duplicate holds it open.
        let name = crate::life::stored_name(&self.shared.id, "stdin");
        let _ = self.shared.tree.get()?.discard(&name).await;
        Ok(())
    }

    /// Signals it, and nothing else.
    ///
    /// Cancel safe: dropped, the signal is sent or not.
    ///
    /// # Errors
    /// [`Error::Ended`] when it does not run.
    pub async fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.running()?;
        Ok(process.signal(signal).await?)
    }

    /// Signals the process group that it leads.
    ///
    /// Cancel safe, as [`ProcessHandle::signal`].
    ///
    /// # Errors
    /// As [`ProcessHandle::signal`].
    pub async fn signal_group(&self, signal: Signal) -> Result<()> {
        let process = self.running()?;
        Ok(process.signal_group(signal).await?)
    }

    /// Signals one living descendant of the session's keeper, by its identity: for `kill` of what a process has started.
    ///
    /// Cancel safe, as [`ProcessHandle::signal`].
    ///
    /// # Errors
    /// [`Error::Process`] with `SRCH` where there is no such process in the tree.
    pub async fn signal_descendant(&self, id: ProcessId, signal: Signal) -> Result<()> {
        let tree = self.shared.tree.get()?;
        Ok(tree.signal(Target::Descendant(id), signal).await?)
    }

    /// Ends it and what is under it: SIGTERM (on a terminal SIGHUP first), so much grace (`None`: the session's), SIGKILL. It is
    /// not started again. Waits for its end, and says how it ended.
    ///
    /// Cancel safe: dropped, the end goes on.
    ///
    /// # Errors
    /// [`Error::Process`] for a lost tree.
    pub async fn end(&self, grace: Option<Duration>, by: By) -> Result<Option<ExitInfo>> {
        self.shared.owner().send(Message::EndProcess {
            id: self.shared.id.clone(),
            grace,
            by,
        });
        Ok(self.wait().await)
    }

    /// Whether it ran for as long as it may, and was ended for that.
    pub fn timed_out(&self) -> bool {
        self.shared.timed_out.load(Ordering::Relaxed)
    }

    /// Ends it when the guard is dropped: for the client of a foreground process, who may go.
    pub fn end_on_drop(&self, by: By) -> EndOnDrop {
        self.shared.claimed.store(true, Ordering::Relaxed);
        EndOnDrop {
            handle: self.clone(),
            by: Some(by),
            grace: None,
        }
    }

    /// Its terminal's size.
    ///
    /// # Errors
    /// [`Error::NotATerminal`], [`Error::Process`] once it has ended.
    pub fn size(&self) -> Result<TerminalSize> {
        let size = self.terminal()?.size()?;
        Ok(TerminalSize {
            rows: size.rows,
            cols: size.cols,
        })
    }

    /// Gives its terminal another size; its foreground group is told by the kernel.
    ///
    /// # Errors
    /// As [`ProcessHandle::size`].
    pub fn resize(&self, size: TerminalSize) -> Result<()> {
        self.shared.owner().send(Message::Touch);
        let size = hostler_process::Size {
            rows: size.rows,
            cols: size.cols,
        };
        Ok(self.terminal()?.resize(size)?)
    }

    /// Joins as a viewer: follows the output from about the last screenful (`screen`, at most 64 KiB back). Any number may.
    ///
    /// # Errors
    /// The kernel's, where the output cannot be read.
    pub fn view(&self, screen: TerminalSize) -> Result<Follower> {
        let output = &self.shared.stdout;
        let from = output
            .last_lines(usize::from(screen.rows), 64 << 10)
            .doing("read the output")?;
        Ok(output.follow(from))
    }

    fn terminal(&self) -> Result<Terminal> {
        match &lock(&self.shared.running).input {
            Input::Terminal(terminal) => Ok(terminal.clone()),
            _ if self.is_terminal() => Err(Error::Ended(self.shared.id.clone())),
            _ => Err(Error::NotATerminal(self.shared.id.clone())),
        }
    }

    fn running(&self) -> Result<Arc<Process>> {
        self.shared
            .process()
            .filter(|process| process.exit().is_none())
            .ok_or_else(|| Error::Ended(self.shared.id.clone()))
    }
}

async fn write_pipe(pipe: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = pipe.writable().await?;
        match ready.try_io(|pipe| Ok(rustix::io::write(pipe.get_ref(), bytes)?)) {
            Ok(Ok(count)) => bytes = &bytes[count..],
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Ends a process when it is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the process"]
pub struct EndOnDrop {
    handle: ProcessHandle,
    by: Option<By>,
    grace: Option<Duration>,
}

impl EndOnDrop {
    /// With this grace rather than the session's.
    pub(crate) fn within(mut self, grace: Duration) -> Self {
        self.grace = Some(grace);
        self
    }

    /// Lets the process live on.
    pub fn release(mut self) -> ProcessHandle {
        self.by = None;
        self.handle.clone()
    }
}

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(by) = self.by.take() {
            self.handle.shared.owner().send(Message::EndProcess {
                id: self.handle.shared.id.clone(),
                grace: self.grace,
                by,
            });
        }
    }
}

/// A foreground process, with readers of its output from the first byte. It writes on only as fast as they read; dropping
/// one lets it run ahead.
#[derive(Debug)]
pub struct Foreground {
    /// The process.
    pub process: ProcessHandle,
    /// Follows its standard output (on a terminal, all it writes).
    pub stdout: Follower,
    /// Follows its standard error, where that is apart.
    pub stderr: Option<Follower>,
}
