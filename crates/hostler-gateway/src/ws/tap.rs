//! A follower of a process's output that ends with the process: with all that was there at its exit, though others may still hold
//! the pipe.

use std::io;

use hostler_session::{Chunk, Follower, ProcessHandle, ProcessStatus, ResourceState};
use tokio::sync::watch;

#[derive(Debug)]
pub(crate) struct Tap {
    follower: Follower,
    status: watch::Receiver<ProcessStatus>,
    /// How far the output went when the process had ended.
    end: Option<u64>,
}

impl Tap {
    pub(crate) fn new(follower: Follower, process: &ProcessHandle) -> Self {
        Self {
            follower,
            status: process.watch(),
            end: None,
        }
    }

    /// Where it is.
    pub(crate) fn offset(&self) -> u64 {
        self.follower.offset()
    }

    /// The next bytes, as soon as there are any; `None` when no more will come.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    pub(crate) async fn next(&mut self, most: usize) -> io::Result<Option<Chunk>> {
        loop {
            if let Some(end) = self.end {
                let left = end.saturating_sub(self.follower.offset());
                if left == 0 {
                    return Ok(None);
                }
                let most = usize::try_from(left).unwrap_or(most).min(most);
                return self.follower.next(most).await;
            }
            tokio::select! {
                biased;
                chunk = self.follower.next(most) => return chunk,
                // The sender lives as long as the process's handle.
                _ = self.status.wait_for(|status| status.state == ResourceState::Ended) => {
                    self.end = Some(self.follower.output().progress().len);
                }
            }
        }
    }
}
