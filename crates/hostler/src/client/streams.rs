//! Standard input and output beside the runtime: each on a thread of its own, for their reads and writes may wait for ever.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use hyper::body::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read, write};
use rustix::stdio::{stderr, stdin, stdout};
use tokio::sync::{mpsc, oneshot, watch};

use super::error::{Failure, Result};
use super::tty;

/// How much is read at once.
const BLOCK: usize = 64 << 10;
/// How many pieces of output may wait to be written.
const WAITING: usize = 4;
/// How often a background job looks whether it was brought to the front.
const LOOK: Duration = Duration::from_millis(200);

/// Standard input as it comes; it ends with the channel. Each piece begins with `front`, room for a frame's first byte.
/// Nothing is read before it is wanted, but for two pieces.
pub(crate) fn input(front: &'static [u8]) -> Result<mpsc::Receiver<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel(1);
    let read_all = move || {
        let from = stdin();
        let terminal = rustix::termios::isatty(from);
        loop {
            if sender.is_closed() {
                return;
            }
            if poll(&mut [PollFd::from_borrowed_fd(from, PollFlags::IN)], None)
                .is_err_and(|error| error != Errno::INTR)
            {
                return;
            }
            // A background job that reads its terminal is stopped; one that only might is not.
            if terminal && !tty::is_foreground(from) {
                let wait = Timespec::try_from(LOOK).ok();
                let _ = poll(&mut [], wait.as_ref());
                continue;
            }
            let mut block = Vec::with_capacity(front.len() + BLOCK);
            block.extend_from_slice(front);
            block.resize(front.len() + BLOCK, 0);
            match read(from, &mut block[front.len()..]) {
                Ok(0) => return,
                Ok(length) => {
                    block.truncate(front.len() + length);
                    if sender.blocking_send(block).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR | Errno::AGAIN) => {}
                // Of a terminal that hung up.
                Err(_) => return,
            }
        }
    };
    spawn("stdin", read_all)?;
    Ok(receiver)
}

enum Job {
    Write(Stream, Bytes),
    Flush(oneshot::Sender<()>),
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Stream {
    fn fd(self) -> BorrowedFd<'static> {
        match self {
            Self::Out => stdout(),
            Self::Err => stderr(),
        }
    }
}

/// Standard output and standard error, written in the order in which they come.
#[derive(Debug)]
pub(crate) struct Output {
    jobs: mpsc::Sender<Job>,
    failed: watch::Receiver<Option<Errno>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Write(..) => "Write",
            Self::Flush(_) => "Flush",
        })
    }
}

/// Room for one piece of output.
pub(crate) struct Room<'a>(mpsc::Permit<'a, Job>);

impl Room<'_> {
    /// Gives it to be written.
    pub(crate) fn fill(self, stream: Stream, bytes: Bytes) {
        self.0.send(Job::Write(stream, bytes));
    }
}

impl Output {
    /// Starts to write.
    pub(crate) fn new() -> Result<Self> {
        let (jobs, mut todo) = mpsc::channel(WAITING);
        let (report, failed) = watch::channel(None);
        let write_all = move || {
            while let Some(job) = todo.blocking_recv() {
                match job {
                    Job::Write(stream, bytes) => {
                        if let Err(error) = put(stream.fd(), &bytes) {
                            let _ = report.send(Some(error));
                            return;
                        }
                    }
                    Job::Flush(done) => {
                        let _ = done.send(());
                    }
                }
            }
        };
        spawn("stdout", write_all)?;
        Ok(Self { jobs, failed })
    }

    /// Waits until there is room for more. Cancel safe. Where writing has failed, it waits for ever: [`Output::failure`]
    /// says so.
    pub(crate) async fn room(&self) -> Room<'_> {
        match self.jobs.reserve().await {
            Ok(permit) => Room(permit),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a failure. Cancel safe.
    pub(crate) async fn failure(&self) -> Failure {
        let mut failed = self.failed.clone();
        let error = match failed.wait_for(Option::is_some).await {
            Ok(error) => *error,
            Err(_) => None,
        };
        match error {
            Some(Errno::PIPE) => Failure::BrokenPipe,
            Some(error) => Failure::io("write the output", error),
            None => std::future::pending().await,
        }
    }

    /// Waits until all is written. Cancel safe.
    pub(crate) async fn flush(&self) -> Result<()> {
        let (done, written) = oneshot::channel();
        let asked = async {
            let room = self.room().await;
            room.0.send(Job::Flush(done));
            if written.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            failure = self.failure() => Err(failure),
            () = asked => Ok(()),
        }
    }
}

/// Writes all of it, waiting as long as that takes.
pub(crate) fn put(to: BorrowedFd<'_>, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            // Somebody who shares it has made it so.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| Failure::io("start a thread", error))
}
