//! Terminals: pseudoterminals as pty(7) describes them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcgetwinsize, tcsetwinsize};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::error::{Doing, Error, Result};
use crate::link::register;

/// The most that is moved out of a terminal by one call. A terminal holds 4 KiB ready to be read (`N_TTY_BUF_SIZE` in
/// `drivers/tty/n_tty.c`), and the kernel allocates pages for all that is asked for.
const AT_ONCE: usize = 8 << 10;
/// Where a terminal has to be copied, so much at a time: what any empty pipe takes whole.
const COPIED: usize = 4 << 10;

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

impl Default for Size {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

#[derive(Debug)]
struct Inner {
    /// `None` after the hang-up.
    master: Option<AsyncFd<OwnedFd>>,
    /// Whom to tell of a hang-up.
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A pseudoterminal: the host's side of it (the master).
///
/// Reading gives what the processes on it write; writing is what they read, as though it were typed: Ctrl-C (`\x03`)
/// interrupts the foreground group. Give it to a process with [`Command::terminal`](crate::Command::terminal).
///
/// When all processes that had it have closed it, reading ends (the kernel's EIO is taken for the end). Clones are the same
/// terminal; one task may read and one write at a time. When the last clone is dropped, or at [`Terminal::hang_up`], the
/// kernel hangs up: the session's leader and the foreground group get SIGHUP, and every read and write of theirs fails.
#[derive(Debug, Clone)]
pub struct Terminal {
    inner: Arc<Mutex<Inner>>,
}

impl Terminal {
    /// Makes a terminal. Must be called in a runtime.
    ///
    /// # Errors
    /// The kernel's, when it has no terminals left or this process no descriptors.
    pub fn new(size: Size) -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).doing("make a terminal")?;
        grantpt(&master).doing("make a terminal")?;
        unlockpt(&master).doing("make a terminal")?;
        Self::from_master(master).and_then(|terminal| terminal.resize(size).map(|()| terminal))
    }

    /// The terminal behind a master that was kept in a keeper's descriptor store. Must be called in a runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn from_master(master: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).doing("take over the terminal")?;
        let master = register(master).doing("take over the terminal")?;
        Ok(Self {
            inner: Arc::new(Mutex::new(Inner {
                master: Some(master),
                reader: None,
                writer: None,
            })),
        })
    }

    /// A duplicate of the master, to be stored in a keeper. While any is open, the terminal is not hung up.
    ///
    /// # Errors
    /// After a hang-up, and the kernel's.
    pub fn master(&self) -> Result<OwnedFd> {
        self.with("duplicate the terminal", |master| {
            master.get_ref().try_clone()
        })
    }

    /// Its size.
    ///
    /// # Errors
    /// After a hang-up, and the kernel's.
    pub fn size(&self) -> Result<Size> {
        self.with("read the terminal's size", |master| {
            let size = tcgetwinsize(master.get_ref())?;
            Ok(Size {
                rows: size.ws_row,
                cols: size.ws_col,
            })
        })
    }

    /// Gives it another size. The foreground group gets SIGWINCH.
    ///
    /// # Errors
    /// After a hang-up, and the kernel's.
    pub fn resize(&self, size: Size) -> Result<()> {
        self.with("resize the terminal", |master| {
            let size = Winsize {
                ws_row: size.rows,
                ws_col: size.cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            Ok(tcsetwinsize(master.get_ref(), size)?)
        })
    }

    /// The process group in its foreground, by its number; `None` while it is nobody's controlling terminal.
    ///
    /// For showing only: a number, and nothing that may be signalled. Type at the terminal instead.
    ///
    /// # Errors
    /// After a hang-up, and the kernel's.
    pub fn foreground(&self) -> Result<Option<Pid>> {
        self.with("read the terminal's foreground", |master| {
            match tcgetpgrp(master.get_ref()) {
                Ok(group) => Ok(Some(group)),
                // The kernel's answer for no group is 0, which is no pid.
                Err(Errno::OPNOTSUPP | Errno::NOTTY) => Ok(None),
                Err(errno) => Err(errno.into()),
            }
        })
    }

    /// Hangs up, whoever else has a clone. What was not read yet is gone; readers see the end. Hanging up twice does
    /// nothing.
    pub fn hang_up(&self) {
        let mut inner = self.lock();
        let (master, reader, writer) = (
            inner.master.take(),
            inner.reader.take(),
            inner.writer.take(),
        );
        drop(inner);
        drop(master);
        reader.into_iter().chain(writer).for_each(Waker::wake);
    }

    /// The process's side of it.
    pub(crate) fn open_slave(&self) -> Result<OwnedFd> {
        self.with("open the terminal", |master| {
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            Ok(ioctl_tiocgptpeer(master.get_ref(), flags)?)
        })
    }

    /// Moves what the processes have written into a pipe, as much as there is and as the pipe takes; says how many bytes, 0 at
    /// the end. The pipe must be empty, and must not block.
    ///
    /// The bytes go by splice(2): whoever is killed meanwhile, each is in the terminal or in the pipe. Where the kernel cannot
    /// splice a terminal (before 5.11), up to 4 KiB of them are in this process's memory for a moment.
    pub fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        pipe: BorrowedFd<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        inner.reader = Some(cx.waker().clone());
        let Some(master) = &inner.master else {
            return Poll::Ready(Ok(0));
        };
        loop {
            let mut guard = ready!(master.poll_read_ready(cx))?;
            match guard.try_io(|master| move_first(master.get_ref(), pipe)) {
                Err(_) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if is_end(&error) => return Poll::Ready(Ok(0)),
                Ok(Ok(first)) if first > 0 => {
                    let mut count = first;
                    // Here EAGAIN may mean that the pipe is full, so it says nothing of the terminal.
                    while let Ok(more @ 1..) = move_some(master.get_ref(), pipe) {
                        count += more;
                    }
                    return Poll::Ready(Ok(count));
                }
                Ok(result) => return Poll::Ready(result),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What it guards is whole at every moment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        doing: &'static str,
        act: impl FnOnce(&AsyncFd<OwnedFd>) -> io::Result<T>,
    ) -> Result<T> {
        match &self.lock().master {
            Some(master) => act(master).doing(doing),
            None => Err(Error::io(doing, hung_up())),
        }
    }
}

/// Moves what one call does.
fn move_some(master: &OwnedFd, pipe: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    splice(master, None, pipe, None, AT_ONCE, SpliceFlags::NONBLOCK)
}

/// The same into an empty pipe, by copying where there is no other way.
fn move_first(master: &OwnedFd, pipe: BorrowedFd<'_>) -> io::Result<usize> {
    match move_some(master, pipe) {
        Err(Errno::INVAL) => {
            let mut bytes = [0; COPIED];
            let count = rustix::io::read(master, &mut bytes)?;
            Ok(rustix::io::write(pipe, &bytes[..count])?)
        }
        result => Ok(result?),
    }
}

/// Nobody has the other side open any more.
fn is_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::IO.raw_os_error())
}

fn hung_up() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the terminal was hung up")
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        inner.reader = Some(cx.waker().clone());
        let Some(master) = &inner.master else {
            return Poll::Ready(Ok(()));
        };
        loop {
            let mut guard = ready!(master.poll_read_ready(cx))?;
            let read = guard.try_io(|master| {
                Ok(rustix::io::read(
                    master.get_ref(),
                    buf.initialize_unfilled(),
                )?)
            });
            match read {
                Err(_) => {}
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) if is_end(&error) => return Poll::Ready(Ok(())),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.lock();
        inner.writer = Some(cx.waker().clone());
        let Some(master) = &inner.master else {
            return Poll::Ready(Err(hung_up()));
        };
        loop {
            let mut guard = ready!(master.poll_write_ready(cx))?;
            match guard.try_io(|master| Ok(rustix::io::write(master.get_ref(), bytes)?)) {
                Err(_) => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(result) => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: a terminal has one end, see [`Terminal::hang_up`].
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
