//! The life of one process: a task that records it, starts it, moves its output, hears of its end, and starts it again where
//! that is asked for.
//!
//! Order matters: the intent, with its number in the tree, is in the ledger before there is a process; the host's ends of the
//! pipes are in the keeper's store before the process is. So whoever dies whenever, the next host finds either the process with
//! its record, or a record of what never was. What is written of a process is committed at each step (its identity with the
//! next one, for the keeper knows it too), so that it survives the death of the host, and synced to the disk a little later: a loss of power ends the process as well, and leaves nothing that
//! its record would be needed for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hostler_ledger::{By, Change, Identity, ResourceId, ResourceRow};
use hostler_process::{Command, Exit, Key, Process, Size, Stdio, Terminal, Tree};
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::error::{Doing, Error, Result};
use crate::event::{ExitInfo, SessionEvent};
use crate::mailbox::Message;
use crate::options::ExecOptions;
use crate::output::{Drained, Spool};
use crate::process::{Input, Shared, lock};
use crate::resource::ResourceState;
use crate::restart::{Again, Paused, clock};
use crate::sessions::Host;
use crate::streams::{Screen, Streams, first, poll_type_out, step_maybe, watched};

/// The name under which the keeper keeps a descriptor.
pub(crate) fn stored_name(id: &ResourceId, stream: &str) -> Vec<u8> {
    format!("{id}.{stream}").into_bytes()
}

/// What the ledger keeps with a process, enough to go on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detail {
    pub(crate) options: ExecOptions,
    /// Its number in the tree.
    pub(crate) key: u64,
    /// The session's directory in which its output is.
    pub(crate) dir: PathBuf,
    pub(crate) starts: u32,
    /// Who asked for it.
    #[serde(default)]
    pub(crate) by: Option<By>,
    /// When it was started the last time, in milliseconds of the clock that stands still while the machine sleeps.
    #[serde(default)]
    pub(crate) began: Option<u64>,
    /// The pause before it was started again, the last time, where it was.
    #[serde(default)]
    pub(crate) paused: Option<Paused>,
}

/// All that the task has.
pub(crate) struct Life {
    pub(crate) host: Arc<Host>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dir: PathBuf,
    /// What its environment is before that of its own options.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) grace: Duration,
    pub(crate) out: Spool,
    pub(crate) err: Option<Spool>,
    pub(crate) starts: u32,
    pub(crate) began: Option<u64>,
    pub(crate) paused: Option<Paused>,
}

/// What it does when this task begins.
pub(crate) enum Now {
    /// It runs.
    Running(Arc<Process>, Streams),
    /// It is to be started again.
    Paused(Paused),
}

/// The command, with what the keeper is to keep of this side's ends, and these.
type Ready = (Command, Streams, Input);

/// How a while of tending ended.
enum Tended {
    Exited(Exit),
    Frozen,
}

/// Says that it has ended, also where its task panics.
struct Farewell(Arc<Shared>, bool);

impl Drop for Farewell {
    fn drop(&mut self) {
        if self.1 {
            self.0
                .status
                .send_modify(|status| status.state = ResourceState::Ended);
            self.0.owner().send(Message::Exited {
                id: self.0.id.clone(),
            });
        }
    }
}

impl Life {
    /// Records, starts and tends it.
    pub(crate) async fn begin(mut self) {
        let mut farewell = Farewell(self.shared.clone(), true);
        let id = self.shared.id.clone();
        // Boxed, so that the task needs no room for it while the process runs.
        let started = Box::pin(async {
            let (tree, ready) = self.intend().await?;
            self.start(&tree, ready).await
        });
        match started.await {
            Ok((process, streams)) => {
                self.running(&process, &streams);
                self.shared
                    .owner()
                    .send(Message::Started { id, result: Ok(()) });
                self.go_on(Now::Running(process, streams), &mut farewell)
                    .await;
            }
            Err(error) => {
                self.shared.owner().send(Message::Started {
                    id,
                    result: Err(error),
                });
            }
        }
    }

    /// Goes on with one that an earlier host started.
    pub(crate) async fn adopted(self, now: Now) {
        let mut farewell = Farewell(self.shared.clone(), true);
        self.go_on(now, &mut farewell).await;
    }

    async fn intend(&mut self) -> Result<(Arc<Tree>, Ready)> {
        let tree = self.shared.tree.get()?;
        let key = tree.new_key();
        self.began = Some(clock());
        let row = ResourceRow {
            id: self.shared.id.clone(),
            session: self.shared.owner().id,
            kind: self.shared.kind().into(),
            name: self.shared.options.name.clone(),
            detail: self.detail(key),
        };
        let by = self.shared.by.clone();
        self.shared.key.store(key.0, Ordering::Relaxed);
        fail::fail_point!("exec.begin");
        let change = Change::ResourceIntended { resource: row, by };
        let written = self.host.ledger.write_unsynced(vec![change]);
        // Made while that is written: what is not given to a process dies with this host.
        let ready = self.prepare(key);
        written.await?;
        lock(&self.shared.running).intended = true;
        fail::fail_point!("exec.intended");
        Ok((tree, ready?))
    }

    fn detail(&self, key: Key) -> serde_json::Value {
        let detail = Detail {
            options: self.shared.options.clone(),
            key: key.0,
            dir: self.dir.clone(),
            starts: self.starts,
            by: Some(self.shared.by.clone()),
            began: self.began,
            paused: self.paused,
        };
        serde_json::to_value(detail).unwrap_or_default()
    }

    async fn start(&mut self, tree: &Tree, ready: Ready) -> Result<(Arc<Process>, Streams)> {
        if *self.shared.stop.borrow() {
            return Err(Error::Cancelled(self.shared.id.clone()));
        }
        self.starts += 1;
        let (command, streams, input) = ready;
        let process = tree.spawn(command).await?;
        fail::fail_point!("exec.spawned");
        lock(&self.shared.running).input = input;
        Ok((Arc::new(process), streams))
    }

    /// The command, this side's ends, and what the keeper is to keep of them.
    fn prepare(&self, key: Key) -> Result<Ready> {
        let options = &self.shared.options;
        let id = &self.shared.id;
        let mut env = self.env.clone();
        env.extend(options.env.clone());
        if options.terminal.is_some() {
            env.entry("TERM".into()).or_insert("xterm-256color".into());
        }
        env.insert(crate::members::MARK.into(), id.to_string());
        let program = options.argv.first().map_or("", String::as_str);
        let mut command = Command::new(program)
            .args(options.argv.iter().skip(1))
            .envs(env)
            .key(key)
            .grace(self.grace);
        if let Some(cwd) = options.cwd.as_ref().or(self.cwd.as_ref()) {
            command = command.cwd(cwd);
        }
        let mut streams = Streams::default();
        let name = |stream| stored_name(id, stream);
        if let Some(size) = options.terminal {
            let terminal = Terminal::new(Size {
                rows: size.rows,
                cols: size.cols,
            })?;
            let doing = "make the pipe of its terminal";
            let screen = Screen::new(terminal.clone()).doing(doing)?;
            let command = command
                .keep(name("terminal"), terminal.master()?)
                .keep(name("stage"), screen.stage().doing(doing)?)
                .terminal(&terminal)?;
            streams.terminal = Some(screen);
            return Ok((command, streams, Input::Terminal(terminal)));
        }
        let doing = "make its pipes";
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
        command = command.keep(name("stdout"), read.try_clone().doing(doing)?);
        streams.out = Some(watched(read).doing(doing)?);
        if self.err.is_some() {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
            command = command.keep(name("stderr"), read.try_clone().doing(doing)?);
            streams.err = Some(watched(read).doing(doing)?);
            command = command.stderr(Stdio::Fd(write));
        } else {
            command = command.stderr(Stdio::Fd(write.try_clone().doing(doing)?));
        }
        command = command.stdout(Stdio::Fd(write));
        let mut input = Input::None;
        if options.stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
            command = command.keep(name("stdin"), write.try_clone().doing(doing)?);
            input = Input::Pipe(Arc::new(watched(write).doing(doing)?));
            command = command.stdin(Stdio::Fd(read));
        }
        Ok((command, streams, input))
    }

    /// It runs: says so, and records how the kernel knows it.
    fn running(&self, process: &Arc<Process>, streams: &Streams) {
        self.set_running(process, streams);
        let id = process.id();
        self.host
            .ledger
            .write_soon(vec![Change::ResourceIdentified {
                id: self.shared.id.clone(),
                identity: Identity {
                    boot: self.host.options.run.boot.clone(),
                    pid: id.pid,
                    start_time: id.start_time,
                    cgroup: None,
                    socket: None,
                },
            }]);
        fail::fail_point!("exec.identified");
        self.host.tell(SessionEvent::Started {
            session: self.shared.owner().id,
            resource: self.shared.id.clone(),
            pid: id.pid,
        });
    }

    pub(crate) fn set_running(&self, process: &Arc<Process>, streams: &Streams) {
        let mut running = lock(&self.shared.running);
        running.process = Some(process.clone());
        running.intended = true;
        if let Some(screen) = &streams.terminal {
            running.input = Input::Terminal(screen.terminal.clone());
        }
        drop(running);
        let id = process.id();
        self.shared.status.send_modify(|status| {
            status.state = ResourceState::Running;
            status.pid = Some(id.pid);
            status.start_time = Some(id.start_time);
            status.starts = self.starts;
        });
    }

    async fn go_on(mut self, mut now: Now, farewell: &mut Farewell) {
        let mut left = Streams::default();
        loop {
            let paused = match now {
                Now::Running(process, mut streams) => {
                    let began = Instant::now();
                    let exit = match self.tend(&process, &mut streams).await {
                        Tended::Exited(exit) => exit,
                        Tended::Frozen => {
                            farewell.1 = false;
                            return;
                        }
                    };
                    let info = ExitInfo::from(exit);
                    self.shared
                        .status
                        .send_modify(|status| status.exit = Some(info));
                    left = streams;
                    match self.pause(&info, began.elapsed()) {
                        Some(paused) => paused,
                        None => break,
                    }
                }
                Now::Paused(paused) => paused,
            };
            match Box::pin(self.again(paused)).await {
                Again::Started(process, streams) => {
                    self.running(&process, &streams);
                    now = Now::Running(process, streams);
                }
                Again::Over => break,
                Again::Frozen => {
                    farewell.1 = false;
                    return;
                }
            }
        }
        // The guard has nothing left to own; what the process orphaned is the tree's.
        lock(&self.shared.running).process = None;
        self.shared
            .status
            .send_modify(|status| status.state = ResourceState::Ended);
        // Still under the guard, so it is told in any case: whoever waits for the end hears of it first.
        tokio::task::yield_now().await;
        farewell.1 = false;
        self.shared.owner().send(Message::Exited {
            id: self.shared.id.clone(),
        });
        self.tail(left).await;
    }

    /// Moves its output until it has ended; what it wrote before that is in the spool then.
    async fn tend(&mut self, process: &Process, streams: &mut Streams) -> Tended {
        let watcher = process.watcher();
        let ran = self.began.map_or(0, |began| clock().saturating_sub(began));
        let timeout = self.shared.options.timeout;
        let mut deadline =
            timeout.map(|time| Instant::now() + time.saturating_sub(Duration::from_millis(ran)));
        loop {
            tokio::select! {
                exit = watcher.wait() => {
                    self.drain(streams);
                    return Tended::Exited(exit);
                }
                open = first(&mut self.out, streams.out.as_ref(), &mut streams.terminal), if streams.first() => if !open {
                    self.first_ended(streams);
                },
                open = step_maybe(self.err.as_mut(), streams.err.as_ref()), if streams.err.is_some() => if !open {
                    streams.err = None;
                    self.discard("stderr");
                },
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    deadline = None;
                    self.shared.timed_out.store(true, Ordering::Relaxed);
                    self.shared.owner().send(Message::EndProcess {
                        id: self.shared.id.clone(),
                        grace: None,
                        by: By::new("timeout", "it ran for as long as it may"),
                    });
                }
                () = self.shared.freeze.notified() => return Tended::Frozen,
            }
        }
    }

    /// After its end: others may hold its pipes.
    async fn tail(mut self, mut streams: Streams) {
        lock(&self.shared.running).input = Input::None;
        if self.shared.options.stdin {
            self.discard("stdin");
        }
        while streams.first() || streams.err.is_some() {
            tokio::select! {
                open = first(&mut self.out, streams.out.as_ref(), &mut streams.terminal), if streams.first() => if !open {
                    self.first_ended(&mut streams);
                },
                open = step_maybe(self.err.as_mut(), streams.err.as_ref()), if streams.err.is_some() => if !open {
                    streams.err = None;
                    self.discard("stderr");
                },
                () = self.shared.freeze.notified() => return,
            }
        }
    }

    /// Moves what is there, and does not wait.
    fn drain(&mut self, streams: &mut Streams) {
        if let Some(pipe) = &streams.out
            && !matches!(self.out.drain(pipe), Ok(Drained::Empty))
        {
            streams.out = None;
            self.discard("stdout");
        }
        if let (Some(pipe), Some(spool)) = (&streams.err, &mut self.err)
            && !matches!(spool.drain(pipe), Ok(Drained::Empty))
        {
            streams.err = None;
            self.discard("stderr");
        }
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..64 {
            match poll_type_out(&mut self.out, &mut streams.terminal, &mut cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => {
                    self.hang_up(streams);
                    break;
                }
                Poll::Pending => break,
            }
        }
    }

    fn first_ended(&self, streams: &mut Streams) {
        if streams.out.take().is_some() {
            self.discard("stdout");
        }
        self.hang_up(streams);
    }

    fn hang_up(&self, streams: &mut Streams) {
        if streams.terminal.take().is_some() {
            lock(&self.shared.running).input = Input::None;
            self.discard("terminal");
            self.discard("stage");
        }
    }

    /// Lets the keeper close what it keeps; nobody waits for that.
    fn discard(&self, stream: &str) {
        if let Ok(tree) = self.shared.tree.get() {
            tree.discard_later(&stored_name(&self.shared.id, stream));
        }
    }

    pub(crate) async fn start_again(&mut self) -> Result<(Arc<Process>, Streams)> {
        let tree = self.shared.tree.get()?;
        let key = tree.new_key();
        self.began = Some(clock());
        self.shared.key.store(key.0, Ordering::Relaxed);
        // The pause stays in it: where no process has this number, it is what the next host has to go on with.
        let change = self.detail_change(key);
        self.host.ledger.write_unsynced(vec![change]).await?;
        let ready = self.prepare(key)?;
        self.start(&tree, ready).await
    }

    pub(crate) fn detail_change(&self, key: Key) -> Change {
        Change::ResourceDetail {
            id: self.shared.id.clone(),
            detail: self.detail(key),
        }
    }
}
