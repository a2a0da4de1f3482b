//! The host's ends of what a process reads and writes, and moving what comes into spools.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::task::{Context, Poll, ready};

use hostler_process::Terminal;
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::unix::AsyncFd;

use crate::output::Spool;

/// A terminal and the pipe by which what it shows comes into the spool, for only pipes can be moved into files. Both are in the
/// keeper's store too, so a byte is in the terminal, in the pipe or in the file whenever this host is killed.
#[derive(Debug)]
pub(crate) struct Screen {
    pub(crate) terminal: Terminal,
    /// Both ends in one. Empty whenever nothing is being moved.
    stage: OwnedFd,
}

impl Screen {
    pub(crate) fn new(terminal: Terminal) -> io::Result<Self> {
        let (read, _write) = pipe_with(PipeFlags::CLOEXEC)?;
        // One descriptor instead of two: see pipe(7) on opening a pipe by its name in /proc.
        let name = format!("/proc/self/fd/{}", read.as_raw_fd());
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let stage = open(name, flags, Mode::empty())?;
        Ok(Self { terminal, stage })
    }

    /// With the pipe of an earlier host.
    pub(crate) fn with(terminal: Terminal, stage: OwnedFd) -> Self {
        Self { terminal, stage }
    }

    /// A duplicate of the pipe.
    pub(crate) fn stage(&self) -> io::Result<OwnedFd> {
        self.stage.try_clone()
    }

    /// Puts what an earlier host had on the way into the spool.
    pub(crate) fn settle(&self, spool: &mut Spool) {
        spool.empty(&self.stage);
    }
}

/// The host's ends of what a process reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) out: Option<AsyncFd<OwnedFd>>,
    pub(crate) err: Option<AsyncFd<OwnedFd>>,
    pub(crate) terminal: Option<Screen>,
}

impl Streams {
    /// Whether more may come that belongs into the first spool.
    pub(crate) fn first(&self) -> bool {
        self.out.is_some() || self.terminal.is_some()
    }
}

/// Registers a descriptor with the runtime.
pub(crate) fn watched(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    hostler_process::register(fd)
}

/// Moves some of a pipe into a spool; whether there may be more.
pub(crate) async fn step(spool: &mut Spool, pipe: Option<&AsyncFd<OwnedFd>>) -> bool {
    match pipe {
        Some(pipe) => spool.move_some(pipe).await.is_ok_and(|count| count > 0),
        None => false,
    }
}

/// Moves some of what belongs into the first spool; whether there may be more.
pub(crate) async fn first(
    spool: &mut Spool,
    pipe: Option<&AsyncFd<OwnedFd>>,
    screen: &mut Option<Screen>,
) -> bool {
    if pipe.is_some() {
        step(spool, pipe).await
    } else {
        type_out(spool, screen).await
    }
}

pub(crate) async fn step_maybe(spool: Option<&mut Spool>, pipe: Option<&AsyncFd<OwnedFd>>) -> bool {
    match spool {
        Some(spool) => step(spool, pipe).await,
        None => false,
    }
}

/// Moves some of what a terminal shows into a spool; whether there may be more.
pub(crate) async fn type_out(spool: &mut Spool, screen: &mut Option<Screen>) -> bool {
    spool.room().await;
    std::future::poll_fn(|cx| poll_type_out(spool, screen, cx)).await
}

pub(crate) fn poll_type_out(
    spool: &mut Spool,
    screen: &mut Option<Screen>,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    let Some(Screen { terminal, stage }) = screen else {
        return Poll::Pending;
    };
    match ready!(terminal.poll_move(cx, stage.as_fd())) {
        Ok(1..) => {
            fail::fail_point!("terminal.staged");
            spool.empty(stage);
            Poll::Ready(true)
        }
        Ok(0) | Err(_) => Poll::Ready(false),
    }
}
