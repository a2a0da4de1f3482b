//! Who writes: the ledger's thread, or whoever asks, where nobody else is at it.
//!
//! A write that need not be on the disk yet takes some tens of microseconds; to have another thread woken for it, and to be woken
//! by that, takes longer. So it is made by the caller itself when the writer is free and nothing is queued. All that may wait for
//! the disk (commits that are synced, syncs, prunes, what failed before) is the thread's.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::WriteError;
use crate::ledger::Durability;
use crate::writer::{Job, Write, Writer};

/// The most writes that are committed together. More than wait at any time in practice; a bound, so that the first of them
/// does not wait for ever.
const GROUP: usize = 1024;

/// The most changes that are made by the caller itself.
const FEW: usize = 8;

/// The writer, and how much is queued for it.
#[derive(Debug)]
pub(crate) struct Desk {
    /// `None` once it was closed.
    writer: Mutex<Option<Writer>>,
    /// Jobs that were sent to the thread and are not done.
    queued: AtomicUsize,
}

/// What came of a write that was to be made at once.
pub(crate) enum AtOnce {
    /// It was made, refused, or noted; the thread is to look whether there is something for it.
    Done { look: bool },
    /// It has to be queued.
    Busy(Write),
}

impl Desk {
    pub(crate) fn new(writer: Writer) -> Self {
        Self {
            writer: Mutex::new(Some(writer)),
            queued: AtomicUsize::new(0),
        }
    }

    /// Counts a job that is about to be sent.
    pub(crate) fn expect(&self) {
        self.queued.fetch_add(1, Ordering::SeqCst);
    }

    /// Makes a write, if that need not wait for anything.
    pub(crate) fn at_once(&self, write: Write) -> AtOnce {
        if write.durability == Durability::Power
            || write.changes.len() > FEW
            || self.queued.load(Ordering::SeqCst) > 0
        {
            return AtOnce::Busy(write);
        }
        let mut guard = match self.writer.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return AtOnce::Busy(write),
        };
        match guard.as_mut() {
            // What was queued meanwhile comes after this: nobody was told of it yet.
            Some(writer) if writer.is_free() => AtOnce::Done {
                look: writer.write_here(write),
            },
            _ => AtOnce::Busy(write),
        }
    }

    /// Keeps everybody from writing.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Writer>> {
        // A write that panicked was rolled back with its transaction.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread: does what is queued, and what is due, until it is told to close, or until nobody is left who could ask. Only the
/// first is a goodbye.
///
/// `log` writes the log back. It ends before the writer's connection is closed, for the last one to be closed writes back what is
/// left.
pub(crate) fn run(
    desk: &Arc<Desk>,
    jobs: &Receiver<Job>,
    log: JoinHandle<()>,
) -> Result<(), WriteError> {
    let mut pause = None;
    loop {
        let mut group: Vec<Write> = Vec::new();
        let mut close = None;
        let mut taken = 0;
        let mut first = next(jobs, pause);
        let mut guard = desk.lock();
        let Some(writer) = guard.as_mut() else {
            return Err(WriteError::Gone);
        };
        loop {
            match first {
                Ok(Job::Write(write)) => group.push(write),
                Ok(Job::Prune { before, answer }) => writer.will_prune(before, answer),
                Ok(Job::Look) => {}
                Ok(Job::Close) => close = Some(true),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    close = Some(false);
                    break;
                }
            }
            taken += 1;
            if close.is_some() || group.len() >= GROUP {
                break;
            }
            first = jobs.try_recv();
        }
        writer.turn(group, close.is_some());
        desk.queued.fetch_sub(taken, Ordering::SeqCst);
        if let Some(goodbye) = close {
            let writer = guard.take();
            drop(guard);
            return match writer {
                Some(writer) => writer.end(goodbye, log),
                None => Err(WriteError::Gone),
            };
        }
        let sync = writer.sync_due();
        pause = writer.pause();
        drop(guard);
        // With nothing held: who writes meanwhile need not wait for the disk.
        if let Some(sync) = sync {
            sync.make();
        }
    }
}

/// The next job, waiting for it as long as there is nothing else to do.
fn next(jobs: &Receiver<Job>, pause: Option<Instant>) -> Result<Job, TryRecvError> {
    let Some(until) = pause else {
        return jobs.recv().map_err(|_| TryRecvError::Disconnected);
    };
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => jobs.try_recv(),
        left => jobs.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => TryRecvError::Empty,
            RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
        }),
    }
}
