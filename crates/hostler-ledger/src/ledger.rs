//! The handle.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{broadcast, oneshot};

use crate::apply::{Failed, Pen};
use crate::change::Change;
use crate::checkpoint::Checkpoints;
use crate::conversation::{self, ConversationRow, ConversationsFilter, EntryRows, LinkRow};
use crate::desk::{self, AtOnce, Desk};
use crate::error::{OpenError, ReadError, WriteError};
use crate::fault::Fault;
use crate::id::{ConversationId, EntrySeq, ResourceId, Seq, SessionId};
use crate::lock::HostLock;
use crate::record::{
    Event, EventFilter, HostRun, Pruned, Report, ResourceFilter, ResourceRecord, SessionFilter,
    SessionRecord, Stats,
};
use crate::writer::{Counters, Job, Write, Writer, now};
use crate::{open, read};

/// How many events a follower may be behind before it is told that it has missed some.
const FOLLOWED: usize = 1024;

/// What survives, once a write was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Durability {
    /// A loss of power: each group of writes is synced to the disk before it is answered.
    #[default]
    Power,
    /// The death of the process, by whatever signal; a loss of power may take the last writes, but leaves no damage.
    Process,
}

/// How to open a ledger.
#[derive(Debug, Clone, Default)]
pub struct LedgerOptions {
    /// What survives.
    pub durability: Durability,
    /// How long to wait for another host to let go of the ledger, before [`OpenError::Locked`]. Zero: not at all.
    pub wait: Duration,
}

/// A ledger that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The ledger.
    pub ledger: Ledger,
    /// Runs that never said goodbye, the oldest first. They are told again until [`Change::EarlierSettled`] is written.
    pub earlier: Vec<HostRun>,
}

/// The record of one state directory. Clones are handles on the same one; dropping the last waits until what was queued is
/// written and lets go of the lock, but does not mark the run as ended: that is [`close`](Self::close).
#[derive(Debug, Clone)]
pub struct Ledger {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// `None` only while it is dropped.
    jobs: Option<Sender<Job>>,
    desk: Arc<Desk>,
    /// `None` once it was waited for.
    writer: Mutex<Option<JoinHandle<Result<(), WriteError>>>>,
    /// `None` once the ledger was closed.
    reader: Mutex<Option<Connection>>,
    events: broadcast::Sender<Event>,
    counters: Arc<Counters>,
    lock: Arc<HostLock>,
}

impl Ledger {
    /// Opens the ledger in `state_dir`, which is made where there is none, for the host `run`, with the default options.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]; whatever it is, nothing is held.
    pub fn open(state_dir: &Path, run: &HostRun) -> Result<Opened, OpenError> {
        Self::open_with(state_dir, run, &LedgerOptions::default())
    }

    /// As [`open`](Self::open), with `options`.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with(
        state_dir: &Path,
        run: &HostRun,
        options: &LedgerOptions,
    ) -> Result<Opened, OpenError> {
        open::state_dir(state_dir)?;
        let lock = Arc::new(HostLock::take(state_dir, options.wait)?);
        let mut connection = open::writer(state_dir, options.durability)?;
        let (earlier, run, last) = begin(&mut connection, run)
            .map_err(|error| open::failed(state_dir, &error, "write to"))?;
        let reader = open::reader(state_dir)?;
        let (checkpoints, checkpointer) = Checkpoints::open(state_dir)?;

        let (jobs, queue) = mpsc::channel();
        let (events, _) = broadcast::channel(FOLLOWED);
        let counters = Arc::new(Counters::default());
        let writer = Writer {
            connection,
            dir: state_dir.to_path_buf(),
            run,
            durability: options.durability,
            syncing: options.durability,
            unsynced: None,
            checkpoints,
            awake: None,
            lock: Arc::clone(&lock),
            events: events.clone(),
            counters: Arc::clone(&counters),
            last,
            held: Vec::new(),
            held_since: None,
            overdue: VecDeque::new(),
            prunes: VecDeque::new(),
            answers: Vec::new(),
        };
        let desk = Arc::new(Desk::new(writer));
        let at = Arc::clone(&desk);
        let unstarted = |error| OpenError::Io {
            doing: "start the ledger's threads".to_owned(),
            error,
        };
        let log = checkpointer.spawn(&desk).map_err(unstarted)?;
        let writer = thread::Builder::new()
            .name("ledger".to_owned())
            .spawn(move || desk::run(&at, &queue, log))
            .map_err(unstarted)?;
        let inner = Inner {
            dir: state_dir.to_path_buf(),
            jobs: Some(jobs),
            desk,
            writer: Mutex::new(Some(writer)),
            reader: Mutex::new(Some(reader)),
            events,
            counters,
            lock,
        };
        Ok(Opened {
            ledger: Self {
                inner: Arc::new(inner),
            },
            earlier,
        })
    }

    /// Makes `changes`, all of them or none, and answers the number of the last event that they left. They are queued by the
    /// call itself, in the order of the calls, and durable when the future answers. An empty list answers when all that was
    /// queued before it is done.
    ///
    /// Cancel safety: a future that is dropped, or never polled, changes nothing: what was queued is written.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; nothing was changed then. While writes of [`write_later`](Self::write_later) cannot be made, this
    /// fails for the same reason, since it must not overtake them.
    pub fn write(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Seq, WriteError>> + Send + use<> {
        self.queue(changes, Durability::Power)
    }

    /// As [`write`](Self::write), but answers when the changes survive the death of this process; the disk has them within a
    /// tenth of a second. For what a loss of power undoes as well, such as that a process is about to be started.
    ///
    /// Cancel safety: as for [`write`](Self::write).
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn write_unsynced(
        &self,
        changes: Vec<Change>,
    ) -> impl Future<Output = Result<Seq, WriteError>> + Send + use<> {
        self.queue(changes, Durability::Process)
    }

    fn queue(
        &self,
        changes: Vec<Change>,
        durability: Durability,
    ) -> impl Future<Output = Result<Seq, WriteError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        self.put(Write {
            changes,
            answer: Some(answer),
            durability,
            soon: false,
        });
        async move { answered.await.unwrap_or(Err(WriteError::Gone)) }
    }

    /// Makes `changes`, all of them or none, in the same queue as [`write`](Self::write), when nobody waits. They are
    /// committed at once, and synced with the next write that is, or within a tenth of a second. Where the disk
    /// does not let it, they are tried again, in their order, until they are made or the ledger is closed; what is refused,
    /// and what is too much to keep, is counted in [`Stats::lost`].
    pub fn write_later(&self, changes: Vec<Change>) {
        self.put(Write {
            changes,
            answer: None,
            durability: Durability::Process,
            soon: false,
        });
    }

    /// As [`write_later`](Self::write_later), but committed with the next write that is, or after some 2 ms. For what the next
    /// host would find out by itself, should this one be killed in that time.
    pub fn write_soon(&self, changes: Vec<Change>) {
        self.put(Write {
            changes,
            answer: None,
            durability: Durability::Process,
            soon: true,
        });
    }

    /// Says in the lock file where this host listens, for those who find it locked.
    ///
    /// # Errors
    ///
    /// When the file cannot be written; the lock is held all the same.
    pub fn announce(&self, address: &str) -> io::Result<()> {
        self.inner.lock.announce(address)
    }

    /// The events that are committed from now on. A follower that is too far behind is told so
    /// ([`RecvError::Lagged`](broadcast::error::RecvError::Lagged)) and can read what it has missed with
    /// [`events`](Self::events); so can one that begins: subscribe first, then read, then skip what it has read.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// Takes away what is older than `before` (Unix time in milliseconds) and not needed: sessions that were closed before,
    /// with their reports, resources that were released before, jobs that ended before (each with those below it), hosts that are
    /// settled, and events, but for who asked for the sessions and jobs that are open and all about the resources that live. Done piece by piece, between writes; the file
    /// shrinks.
    ///
    /// Cancel safety: it goes on.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; the pieces that were done are done.
    pub fn prune(
        &self,
        before: u64,
    ) -> impl Future<Output = Result<Pruned, WriteError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        self.ask(Job::Prune { before, answer });
        async move { answered.await.unwrap_or(Err(WriteError::Gone)) }
    }

    /// What the writer has done since the ledger was opened.
    pub fn stats(&self) -> Stats {
        self.inner.counters.stats()
    }

    /// The sessions that `filter` wants, in the order in which they were opened. Blocks, as all queries do: for the disk,
    /// and for other queries.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn sessions(&self, filter: &SessionFilter) -> Result<Vec<SessionRecord>, ReadError> {
        self.read(|connection| read::sessions(connection, filter))
    }

    /// One session, open or closed; `None` when there is none, or it was pruned.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn session(&self, id: &SessionId) -> Result<Option<SessionRecord>, ReadError> {
        self.read(|connection| read::session(connection, id))
    }

    /// The resources that `filter` wants, in the order in which they were intended.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn resources(&self, filter: &ResourceFilter) -> Result<Vec<ResourceRecord>, ReadError> {
        self.read(|connection| read::resources(connection, filter))
    }

    /// One resource, alive or released; `None` when there is none, or it was pruned.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn resource(&self, id: &ResourceId) -> Result<Option<ResourceRecord>, ReadError> {
        self.read(|connection| read::resource(connection, id))
    }

    /// The first `limit` events after number `after` that `filter` wants, in their order. Fewer than `limit` are all that
    /// there are.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn events(
        &self,
        after: Seq,
        limit: usize,
        filter: &EventFilter,
    ) -> Result<Vec<Event>, ReadError> {
        self.read(|connection| read::events(connection, after, limit, filter))
    }

    /// One conversation; `None` when there is none, or it was pruned.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn conversation(&self, id: &ConversationId) -> Result<Option<ConversationRow>, ReadError> {
        self.read(|connection| conversation::one(connection, id))
    }

    /// The conversations that `filter` wants, the newest first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn conversations(
        &self,
        filter: &ConversationsFilter,
    ) -> Result<Vec<ConversationRow>, ReadError> {
        self.read(|connection| conversation::list(connection, filter))
    }

    /// How far a conversation is with its agent; `None` when it never had one.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn agent_link(&self, id: &ConversationId) -> Result<Option<LinkRow>, ReadError> {
        self.read(|connection| conversation::link(connection, id))
    }

    /// Of a transcript, the first `rows` rows with entries behind number `after`; the first of them may begin before.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn transcript(
        &self,
        id: &ConversationId,
        after: EntrySeq,
        rows: usize,
    ) -> Result<Vec<EntryRows>, ReadError> {
        self.read(|connection| conversation::entries(connection, id, after, rows))
    }

    /// The number of the last entry of a transcript; [`EntrySeq::START`] before the first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn transcript_end(&self, id: &ConversationId) -> Result<EntrySeq, ReadError> {
        self.read(|connection| conversation::last(connection, id))
    }

    /// The number of the last event; [`Seq::START`] before the first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn last_seq(&self) -> Result<Seq, ReadError> {
        self.read(read::last_seq)
    }

    /// The last `limit` close reports, the newest first.
    ///
    /// # Errors
    ///
    /// See [`ReadError`].
    pub fn reports(&self, limit: usize) -> Result<Vec<Report>, ReadError> {
        self.read(|connection| read::reports(connection, limit))
    }

    /// Writes what is queued, marks this run as ended, closes the file and lets go of the lock, for all handles: later
    /// writes and queries fail with `Gone`. Blocks until another host may open the ledger.
    ///
    /// # Errors
    ///
    /// See [`WriteError`]; the run is not marked as ended then, but the lock is let go. `Gone` when it was closed before.
    pub fn close(self) -> Result<(), WriteError> {
        drop(lock(&self.inner.reader).take());
        self.ask(Job::Close);
        self.inner.finish().unwrap_or(Err(WriteError::Gone))
    }

    /// Makes a write here, or queues it.
    fn put(&self, write: Write) {
        match self.inner.desk.at_once(write) {
            AtOnce::Done { look: false } => {}
            AtOnce::Done { look: true } => self.ask(Job::Look),
            AtOnce::Busy(write) => self.ask(Job::Write(write)),
        }
    }

    /// Queues `job`. When the writer is gone, the one who waits learns it by the end of the channel.
    fn ask(&self, job: Job) {
        if let Some(jobs) = &self.inner.jobs {
            self.inner.desk.expect();
            let _ = jobs.send(job);
        }
    }

    pub(crate) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, ReadError> {
        let reader = lock(&self.inner.reader);
        let connection = reader.as_ref().ok_or(ReadError::Gone)?;
        query(connection).map_err(|error| Fault::of(&error, &self.inner.dir).reading())
    }
}

impl Inner {
    /// Waits for the writer, once.
    fn finish(&self) -> Option<Result<(), WriteError>> {
        let writer = lock(&self.writer).take()?;
        Some(writer.join().unwrap_or(Err(WriteError::Gone)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        drop(lock(&self.reader).take());
        drop(self.jobs.take());
        // So that what was queued is on the disk, and the next may open it.
        let _ = self.finish();
    }
}

/// What is behind the mutexes is whole at any time, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes that `run` has begun. Answers those who never ended, the number of this run, and the last event.
fn begin(connection: &mut Connection, run: &HostRun) -> rusqlite::Result<(Vec<HostRun>, i64, Seq)> {
    let transaction = connection.transaction()?;
    let earlier = read::earlier(&transaction)?;
    let (number, event) = match Pen::new(&transaction, now()).host_started(run) {
        Ok(started) => started,
        Err(Failed::Sql(error)) => return Err(error),
        Err(Failed::Refused(refusal)) => unreachable!("nothing to refuse: {refusal}"),
    };
    transaction.commit()?;
    Ok((earlier, number, event.seq))
}
