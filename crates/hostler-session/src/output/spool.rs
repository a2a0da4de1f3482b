//! Writing a spool.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::read::Pacing;
use super::{Follower, Output, Progress};
use crate::options::KeepOutput;

/// Holes are punched in whole pages.
const PAGE: u64 = 4096;
/// And in steps, for each is a transaction of the file system.
const STEP: u64 = 256 << 10;
/// How far the writer may be ahead of a reader that it waits for.
const WINDOW: u64 = 1 << 20;
/// The most that is moved at once: what a pipe holds by default.
const AT_ONCE: usize = 64 << 10;

/// What writer and readers share.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    /// Open while it is written; opened again to read after that, so that what has ended holds no descriptor.
    file: Mutex<Option<Arc<File>>>,
    pub(super) progress: watch::Sender<Progress>,
    /// Whether the file stays open for readers: see [`Output::hold`].
    held: AtomicBool,
    /// How far the reader has come that the writer waits for.
    pace: Mutex<Option<Pace>>,
    paced: Notify,
}

/// How far a reader has come that the writer waits for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// What it has read: the writer goes on from here, up to the window.
    read: u64,
    /// What it needs no more: this may be given back.
    settled: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(super) fn reader(&self) -> io::Result<Arc<File>> {
        match &*lock(&self.file) {
            Some(file) => Ok(file.clone()),
            None => Ok(Arc::new(File::open(&self.path)?)),
        }
    }

    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
        let mut file = lock(&self.file);
        if file.is_none() {
            // What is gone already stays gone.
            *file = File::open(&self.path).ok().map(Arc::new);
        }
    }

    /// The reader that the writer waits for has come so far, or is gone.
    pub(super) fn consumed(&self, to: Option<u64>) {
        *lock(&self.pace) = to.map(|to| Pace {
            read: to,
            settled: to,
        });
        self.paced.notify_one();
    }

    /// The reader that this is held for has read so far; it may come back for what it has not settled.
    pub(super) fn read(&self, to: u64) {
        if let Some(pace) = &mut *lock(&self.pace) {
            pace.read = to;
        }
        self.paced.notify_one();
    }

    /// It needs nothing before this any more.
    pub(super) fn settled(&self, to: u64) {
        if let Some(pace) = &mut *lock(&self.pace) {
            pace.settled = to;
        }
    }
}

/// What came of moving bytes out of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Drained {
    /// There is nothing in it now.
    Empty,
    /// All who could write to it have closed it.
    End,
}

/// The writing side of an output. There is one; when it is dropped no more will come.
#[derive(Debug)]
pub(crate) struct Spool {
    shared: Arc<Shared>,
    file: Arc<File>,
    keep: KeepOutput,
    /// Whether the file system can punch holes.
    punches: bool,
}

impl Spool {
    /// Makes a new one.
    pub(crate) fn create(path: &Path, keep: KeepOutput) -> io::Result<Self> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Self::with(path, file, keep, Progress::default()))
    }

    /// Goes on with one that an earlier host wrote, at its end.
    pub(crate) fn reopen(path: &Path, keep: KeepOutput) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let progress = survey(&file)?;
        Ok(Self::with(path, file, keep, progress))
    }

    fn with(path: &Path, file: File, keep: KeepOutput, progress: Progress) -> Self {
        let file = Arc::new(file);
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file: Mutex::new(Some(file.clone())),
            progress: watch::Sender::new(progress),
            held: AtomicBool::new(false),
            pace: Mutex::new(None),
            paced: Notify::new(),
        });
        Self {
            shared,
            file,
            keep,
            punches: true,
        }
    }

    /// For reading.
    pub(crate) fn output(&self) -> Output {
        Output {
            shared: self.shared.clone(),
        }
    }

    /// A follower from the start that the writer waits for, while it is there.
    pub(crate) fn paced(&self) -> Follower {
        self.shared.consumed(Some(0));
        let mut follower = self.output().follow(0);
        follower.pacing = Pacing::WhileThere;
        follower
    }

    /// Holds everything for a reader, from the start or from where it was, whether it is there yet or not:
    /// [`Output::follow_held`].
    pub(crate) fn hold(&self) {
        self.shared.consumed(Some(0));
    }

    /// How much was written.
    pub(crate) fn len(&self) -> u64 {
        self.shared.progress.borrow().len
    }

    /// Waits until the reader that this waits for, if there is one, has come near.
    ///
    /// Cancel safe.
    pub(crate) async fn room(&self) {
        while lock(&self.shared.pace).is_some_and(|pace| self.len() >= pace.read + WINDOW) {
            self.shared.paced.notified().await;
        }
    }

    /// Moves what comes next out of the pipe, when there is room and something to move; says how many bytes, 0 at the end.
    ///
    /// Cancel safe: bytes are in the pipe or in the file.
    pub(crate) async fn move_some(&mut self, pipe: &AsyncFd<OwnedFd>) -> io::Result<usize> {
        loop {
            self.room().await;
            let mut ready = pipe.readable().await?;
            match self.splice(pipe.get_ref()) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Moves what is in the pipe now, and does not wait for more.
    pub(crate) fn drain(&mut self, pipe: &AsyncFd<OwnedFd>) -> io::Result<Drained> {
        // Bounded by what a pipe can hold at the most: somebody else may go on writing.
        for _ in 0..32 {
            match self.splice(pipe.get_ref()) {
                Ok(0) => return Ok(Drained::End),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Drained::Empty)
    }

    fn splice(&mut self, pipe: &OwnedFd) -> io::Result<usize> {
        let mut to = self.len();
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            return match splice(pipe, None, &*self.file, Some(&mut to), AT_ONCE, flags) {
                Ok(count) => {
                    self.grown(count as u64);
                    Ok(count)
                }
                Err(Errno::INTR) => continue,
                Err(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => self.skip(pipe),
                // A file system that cannot be spliced to.
                Err(Errno::INVAL) => self.copy(pipe),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    fn copy(&mut self, pipe: &OwnedFd) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let count = rustix::io::read(pipe, &mut bytes)?;
        self.append(&bytes[..count]);
        Ok(count)
    }

    /// The disk is full: what the process writes is let go of, so that it goes on.
    fn skip(&mut self, pipe: &OwnedFd) -> io::Result<usize> {
        let mut bytes = [0; 16 << 10];
        let count = rustix::io::read(pipe, &mut bytes)?;
        self.lose(count as u64);
        Ok(count)
    }

    /// Writes at the end. What the disk has no room for is let go of, and counts as gap.
    pub(crate) fn append(&mut self, bytes: &[u8]) {
        match self.file.write_all_at(bytes, self.len()) {
            Ok(()) => self.grown(bytes.len() as u64),
            Err(_) => self.lose(bytes.len() as u64),
        }
    }

    fn lose(&mut self, count: u64) {
        let mut progress = *self.shared.progress.borrow();
        if progress.gap_end == progress.gap_start {
            progress.gap_start = progress.len;
        }
        progress.len += count;
        progress.gap_end = progress.len;
        self.shared.progress.send_replace(progress);
        let _ = self.file.set_len(progress.len);
        self.punch(progress.gap_start.next_multiple_of(PAGE), progress.len);
    }

    fn grown(&mut self, count: u64) {
        if count == 0 {
            return;
        }
        let mut progress = *self.shared.progress.borrow();
        progress.len += count;
        let old_end = progress.gap_end;
        let due = self.due(&mut progress);
        // Told before it is made: see `Output::read_at`.
        self.shared.progress.send_replace(progress);
        if due {
            self.punch(old_end.max(progress.gap_start), progress.gap_end);
        }
    }

    /// Whether there is enough to be given back; then it is in the gap.
    fn due(&self, progress: &mut Progress) -> bool {
        if self.keep.whole {
            return false;
        }
        let start = if progress.gap_end > progress.gap_start {
            progress.gap_start
        } else {
            self.keep.head.next_multiple_of(PAGE)
        };
        let mut end = progress.len.saturating_sub(self.keep.tail);
        if let Some(pace) = *lock(&self.shared.pace) {
            end = end.min(pace.settled);
        }
        end -= end % PAGE;
        let step = if self.punches { STEP } else { STEP * 16 };
        if end < start.max(progress.gap_end) + step {
            return false;
        }
        (progress.gap_start, progress.gap_end) = (start, end);
        true
    }

    fn punch(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        if self.punches {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&*self.file, flags, from, to - from) {
                Ok(()) => return,
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.punches = false,
                Err(_) => return,
            }
        }
        // Where it fails the file is only larger than it has to be.
        let _ = self.rewrite();
    }

    /// Puts a sparse copy of head and tail in the file's place.
    fn rewrite(&mut self) -> io::Result<()> {
        let progress = *self.shared.progress.borrow();
        let new_path = self.shared.path.with_extension("new");
        let new = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new_path)?;
        for (from, to) in [(0, progress.gap_start), (progress.gap_end, progress.len)] {
            let mut bytes = vec![0; (to - from) as usize];
            self.file.read_exact_at(&mut bytes, from)?;
            new.write_all_at(&bytes, from)?;
        }
        std::fs::rename(&new_path, &self.shared.path)?;
        self.file = Arc::new(new);
        *lock(&self.shared.file) = Some(self.file.clone());
        Ok(())
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared
            .progress
            .send_modify(|progress| progress.ended = true);
        let mut file = lock(&self.shared.file);
        if !self.shared.held.load(Ordering::Relaxed) {
            *file = None;
        }
        drop(file);
        self.shared.paced.notify_one();
    }
}

/// How long a spool is, and where its gap is: its first hole.
fn survey(file: &File) -> io::Result<Progress> {
    let len = file.metadata()?.len();
    let mut progress = Progress {
        len,
        ..Progress::default()
    };
    // A file system that knows no holes says that there is none before the end.
    if let Ok(hole) = seek(file.as_fd(), SeekFrom::Hole(0))
        && hole < len
    {
        progress.gap_start = hole;
        progress.gap_end = seek(file.as_fd(), SeekFrom::Data(hole)).unwrap_or(len);
    }
    Ok(progress)
}
