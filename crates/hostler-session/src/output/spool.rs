//! Writing a spool.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use super::place::{Place, make, reserve, survey};
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
    /// Open while it is written, from the first byte; opened again to read after that, so that what has ended holds no
    /// descriptor.
    file: Mutex<Option<Arc<File>>>,
    pub(super) progress: watch::Sender<Progress>,
    /// Whether the file stays open for readers: see [`Output::hold`].
    held: AtomicBool,
    /// The reader that the writer waits for.
    pace: Mutex<Pace>,
    paced: Notify,
}

/// The reader that the writer waits for.
#[derive(Debug, Default)]
struct Pace {
    /// How far it has come, while it is there.
    reader: Option<Reader>,
    /// Which reader that is: the last that wanted to be.
    turn: u64,
}

/// How far a reader has come.
#[derive(Debug, Clone, Copy)]
struct Reader {
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

    /// Has the writer wait for another reader, which is there; gives its turn.
    pub(super) fn waits_for(&self, read: u64) -> u64 {
        let mut pace = lock(&self.pace);
        pace.reader = Some(Reader {
            read,
            settled: read,
        });
        pace.turn += 1;
        self.paced.notify_one();
        pace.turn
    }

    /// A reader has come so far, or is gone. Of one that the writer no longer waits for, that is nothing.
    pub(super) fn consumed(&self, turn: u64, to: Option<u64>) {
        let mut pace = lock(&self.pace);
        if pace.turn == turn {
            pace.reader = to.map(|to| Reader {
                read: to,
                settled: to,
            });
            self.paced.notify_one();
        }
    }

    /// The reader that this is held for has read so far; it may come back for what it has not settled.
    pub(super) fn read(&self, to: u64) {
        if let Some(reader) = &mut lock(&self.pace).reader {
            reader.read = to;
        }
        self.paced.notify_one();
    }

    /// It needs nothing before this any more.
    pub(super) fn settled(&self, to: u64) {
        if let Some(reader) = &mut lock(&self.pace).reader {
            reader.settled = to;
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
    file: Place,
    keep: KeepOutput,
    /// Whether the file system can punch holes.
    punches: bool,
}

impl Spool {
    /// A new one. Its file is made when there is something to be written.
    pub(crate) fn create(path: &Path, keep: KeepOutput) -> io::Result<Self> {
        let _place = reserve()?;
        let place = Place::Reserved { _place };
        Ok(Self::with(path, place, keep, Progress::default()))
    }

    /// Goes on with one that an earlier host wrote, at its end; with a new one where it wrote nothing.
    pub(crate) fn reopen(path: &Path, keep: KeepOutput) -> io::Result<Self> {
        match File::options().read(true).write(true).open(path) {
            Ok(file) => {
                let progress = survey(&file)?;
                Ok(Self::with(
                    path,
                    Place::File(Arc::new(file)),
                    keep,
                    progress,
                ))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::create(path, keep),
            Err(error) => Err(error),
        }
    }

    fn with(path: &Path, place: Place, keep: KeepOutput, progress: Progress) -> Self {
        let file = match &place {
            Place::File(file) => Some(file.clone()),
            Place::Reserved { .. } | Place::None => None,
        };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            file: Mutex::new(file),
            progress: watch::Sender::new(progress),
            held: AtomicBool::new(false),
            pace: Mutex::default(),
            paced: Notify::new(),
        });
        Self {
            shared,
            file: place,
            keep,
            punches: true,
        }
    }

    /// Its file, made if there is none yet.
    fn file(&mut self) -> io::Result<Arc<File>> {
        if let Place::File(file) = &self.file {
            return Ok(file.clone());
        }
        // Closes the descriptor that held the place.
        self.file = Place::None;
        let file = Arc::new(make(&self.shared.path)?);
        self.file = Place::File(file.clone());
        *lock(&self.shared.file) = Some(file.clone());
        Ok(file)
    }

    /// For reading.
    pub(crate) fn output(&self) -> Output {
        Output {
            shared: self.shared.clone(),
        }
    }

    /// A follower from the start that the writer waits for, while it is there.
    pub(crate) fn paced(&self) -> Follower {
        self.output().follow_paced(0)
    }

    /// The same for a reader of an earlier host, who is to come back: from about where that one may be at the least.
    pub(crate) fn paced_again(&self) -> Follower {
        let back = WINDOW + AT_ONCE as u64;
        self.output().follow_paced(self.len().saturating_sub(back))
    }

    /// Holds everything for a reader, from the start or from where it was, whether it is there yet or not:
    /// [`Output::follow_held`].
    pub(crate) fn hold(&self) {
        self.shared.waits_for(0);
    }

    /// How much was written.
    pub(crate) fn len(&self) -> u64 {
        self.shared.progress.borrow().len
    }

    /// Waits until the reader that this waits for, if there is one, has come near.
    ///
    /// Cancel safe.
    pub(crate) async fn room(&self) {
        while lock(&self.shared.pace)
            .reader
            .is_some_and(|reader| self.len() >= reader.read + WINDOW)
        {
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

    /// Moves all that is in a pipe which nobody writes to meanwhile. What the file cannot take is let go of.
    pub(crate) fn empty(&mut self, pipe: &OwnedFd) {
        loop {
            match self.splice(pipe) {
                Ok(1..) => {}
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => {
                    if self.skip(pipe).is_err() {
                        return;
                    }
                }
            }
        }
    }

    fn splice(&mut self, pipe: &OwnedFd) -> io::Result<usize> {
        if !matches!(self.file, Place::File(_)) {
            match waiting(pipe)? {
                Waiting::Bytes => {}
                Waiting::End => return Ok(0),
                Waiting::Nothing => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        let Ok(file) = self.file() else {
            return self.skip(pipe);
        };
        let mut to = self.len();
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            return match splice(pipe, None, &*file, Some(&mut to), AT_ONCE, flags) {
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
        let at = self.len();
        match self.file().and_then(|file| file.write_all_at(bytes, at)) {
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
        if let Ok(file) = self.file() {
            let _ = file.set_len(progress.len);
        }
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
        if let Some(reader) = lock(&self.shared.pace).reader {
            end = end.min(reader.settled);
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
        let Place::File(file) = &self.file else {
            return;
        };
        if from >= to {
            return;
        }
        if self.punches {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            match fallocate(&**file, flags, from, to - from) {
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
        let old = self.file()?;
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
            old.read_exact_at(&mut bytes, from)?;
            new.write_all_at(&bytes, from)?;
        }
        std::fs::rename(&new_path, &self.shared.path)?;
        let new = Arc::new(new);
        self.file = Place::File(new.clone());
        *lock(&self.shared.file) = Some(new);
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

/// What there is in a pipe.
enum Waiting {
    Bytes,
    Nothing,
    /// All who could write to it have closed it.
    End,
}

fn waiting(pipe: &OwnedFd) -> io::Result<Waiting> {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default()))?;
    let found = fds[0].revents();
    Ok(if found.contains(PollFlags::IN) {
        Waiting::Bytes
    } else if found.is_empty() {
        Waiting::Nothing
    } else {
        Waiting::End
    })
}
