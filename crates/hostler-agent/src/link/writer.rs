//! An agent's standard input: a queue, and a task that writes from it as fast as the agent reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hostler_session::ProcessHandle;
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// A line of at most this many bytes is written whole or not at all: see `PIPE_BUF` in pipe(7).
const WHOLE: usize = 4096;

/// What is done once the kernel has a line.
type Done = Box<dyn FnOnce() + Send>;

/// The way into an agent's standard input. Never waits.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::UnboundedSender<(Vec<u8>, Option<Done>)>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Bytes that wait.
    waiting: AtomicUsize,
    most: usize,
    number: AtomicU64,
}

impl Writer {
    /// For this process; at most so many bytes wait.
    pub(crate) fn new(process: ProcessHandle, most: usize) -> Self {
        let (queue, mut lines) = mpsc::unbounded_channel::<(Vec<u8>, Option<Done>)>();
        // Numbers that no host before this one used with the same process; turns have even ones.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let first = now.map_or(0, |now| now.as_millis() as u64) * 1000 + 1;
        let shared = Arc::new(Shared {
            waiting: AtomicUsize::new(0),
            most,
            number: AtomicU64::new(first | 1),
        });
        let counts = shared.clone();
        tokio::spawn(async move {
            while let Some((line, done)) = lines.recv().await {
                let written = process.write(&line).await;
                counts.waiting.fetch_sub(line.len(), Ordering::Relaxed);
                if written.is_err() {
                    // Its end is heard elsewhere.
                    lines.close();
                    return;
                }
                if let Some(done) = done {
                    done();
                }
            }
        });
        Self { queue, shared }
    }

    /// A number for a request that is no turn: odd.
    pub(crate) fn next_number(&self) -> u64 {
        self.shared.number.fetch_add(2, Ordering::Relaxed)
    }

    /// Puts a line in, with its end.
    ///
    /// # Errors
    /// [`Error::Busy`] when the agent has not read for so long that too much waits.
    pub(crate) fn send(&self, line: Vec<u8>) -> Result<()> {
        self.queue(line, None)
    }

    /// The same; `done` is called once the kernel has it.
    ///
    /// # Errors
    /// As [`Writer::send`].
    pub(crate) fn send_then(
        &self,
        line: Vec<u8>,
        done: impl FnOnce() + Send + 'static,
    ) -> Result<()> {
        self.queue(line, Some(Box::new(done)))
    }

    fn queue(&self, line: Vec<u8>, done: Option<Done>) -> Result<()> {
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if waiting > 0 && waiting + line.len() > self.shared.most {
            return Err(Error::Busy {
                what: "bytes that the agent has not read",
                limit: self.shared.most,
            });
        }
        self.shared.waiting.fetch_add(line.len(), Ordering::Relaxed);
        // Where the task is gone the agent is too, which is heard elsewhere.
        let _ = self.queue.send((line, done));
        Ok(())
    }

    /// Whether a host that dies while this is written may leave half of it in the pipe.
    pub(crate) fn may_be_cut(line: &[u8]) -> bool {
        line.len() > WHOLE
    }
}
