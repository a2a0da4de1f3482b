//! The host's ends of what a process reads and writes, and moving what comes into spools.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use hostler_process::Terminal;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, ReadBuf};

use crate::output::Spool;

/// The most that is read from a terminal before it is written to the spool.
const TERMINAL_READ: usize = 32 << 10;

/// The host's ends of what a process reads and writes.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    pub(crate) out: Option<AsyncFd<OwnedFd>>,
    pub(crate) err: Option<AsyncFd<OwnedFd>>,
    pub(crate) terminal: Option<Terminal>,
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
    terminal: &mut Option<Terminal>,
) -> bool {
    if pipe.is_some() {
        step(spool, pipe).await
    } else {
        type_out(spool, terminal).await
    }
}

pub(crate) async fn step_maybe(spool: Option<&mut Spool>, pipe: Option<&AsyncFd<OwnedFd>>) -> bool {
    match spool {
        Some(spool) => step(spool, pipe).await,
        None => false,
    }
}

/// Moves some of what a terminal shows into a spool; whether there may be more.
pub(crate) async fn type_out(spool: &mut Spool, terminal: &mut Option<Terminal>) -> bool {
    spool.room().await;
    std::future::poll_fn(|cx| poll_type_out(spool, terminal, cx)).await
}

pub(crate) fn poll_type_out(
    spool: &mut Spool,
    terminal: &mut Option<Terminal>,
    cx: &mut Context<'_>,
) -> Poll<bool> {
    let Some(terminal) = terminal else {
        return Poll::Pending;
    };
    // On the stack while it is filled, so that a quiet terminal holds no memory.
    let mut bytes = [0; TERMINAL_READ];
    let mut buffer = ReadBuf::new(&mut bytes);
    while buffer.remaining() >= 4096 {
        let before = buffer.filled().len();
        match Pin::new(&mut *terminal).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {}
            Poll::Pending if buffer.filled().is_empty() => return Poll::Pending,
            Poll::Pending => break,
            // The end; what came before it is told first.
            Poll::Ready(_) if before > 0 => break,
            Poll::Ready(_) => return Poll::Ready(false),
        }
    }
    spool.append(buffer.filled());
    Poll::Ready(true)
}
