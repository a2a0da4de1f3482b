//! From the client to the process.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Bytes;
use hostler_session::ProcessHandle;
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::wire::{SignalName, Size};

/// How many frames of input wait in memory for a process that does not read.
const WAITING: usize = 4;
/// How much is written at a time: what a pipe takes whole or not at all, so that what was written can be told.
const PIECE: usize = 4096;

/// What comes to a process in the order in which it was sent.
enum Given {
    Bytes(Bytes),
    Eof,
}

/// The way to a process's input. What does not wait in line (signals, sizes) goes beside it.
pub(super) struct Input {
    process: ProcessHandle,
    line: mpsc::Sender<Given>,
}

/// The other end of the line.
pub(super) struct Writer {
    process: ProcessHandle,
    line: mpsc::Receiver<Given>,
}

pub(super) fn line(process: &ProcessHandle) -> (Input, Writer) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let input = Input {
        process: process.clone(),
        line: sender,
    };
    let writer = Writer {
        process: process.clone(),
        line: receiver,
    };
    (input, writer)
}

impl Input {
    /// Puts bytes in line; waits while there are as many as may be.
    pub(super) async fn bytes(&self, bytes: Bytes) {
        let _ = self.line.send(Given::Bytes(bytes)).await;
    }

    /// There is no more.
    pub(super) async fn eof(&self) {
        let _ = self.line.send(Given::Eof).await;
    }

    pub(super) async fn signal(&self, signal: &SignalName) -> Result<(), ApiError> {
        let signal = signal.signal()?;
        // As a terminal would: to all of the group that it leads.
        Ok(self.process.signal_group(signal).await?)
    }

    pub(super) fn resize(&self, size: Size) -> Result<(), ApiError> {
        Ok(self.process.resize(size.into())?)
    }
}

impl Writer {
    /// Writes what comes, and counts what was taken. Ends when the process takes no more.
    ///
    /// Cancel safe: what was not counted was not written; on a terminal, up to a piece more may have been.
    pub(super) async fn run(&mut self, taken: &AtomicU64) {
        while let Some(given) = self.line.recv().await {
            let result = match given {
                Given::Bytes(bytes) => self.write(&bytes, taken).await,
                Given::Eof => self.process.close_input().await,
            };
            if let Err(error) = result {
                tracing::debug!(process = %self.process.id(), %error, "input is not taken");
                break;
            }
        }
        // What else comes is let go of, as a closed pipe would; the client is told by the process's end.
        while self.line.recv().await.is_some() {}
    }

    async fn write(&self, bytes: &[u8], taken: &AtomicU64) -> hostler_session::Result<()> {
        for piece in bytes.chunks(PIECE) {
            self.process.write(piece).await?;
            taken.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}
