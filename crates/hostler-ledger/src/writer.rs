//! What writes: one connection, which commits in groups.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{broadcast, oneshot};

use crate::apply::{Failed, Pen};
use crate::change::Change;
use crate::checkpoint::Checkpoints;
use crate::error::WriteError;
use crate::fault::{self, Fault};
use crate::id::Seq;
use crate::ledger::Durability;
use crate::lock::HostLock;
use crate::open;
use crate::prune::{self, Prune, Stage};
use crate::record::{Event, Pruned, Stats};

/// How long a write that nobody waits to see on the disk may be committed and not synced.
const SYNCED_AFTER: Duration = Duration::from_millis(100);
/// How long a write that may wait for others is held, so that it is committed with them.
const SOON: Duration = Duration::from_millis(2);
/// How often overdue writes are tried again, when nothing else is written.
const RETRY: Duration = Duration::from_secs(1);
/// The most writes that nobody waits for which are kept while they cannot be made.
const OVERDUE: usize = 65_536;

type Answer<T> = oneshot::Sender<Result<T, WriteError>>;

/// Changes that are made together or not at all.
#[derive(Debug)]
pub(crate) struct Write {
    pub(crate) changes: Vec<Change>,
    /// Who waits; `None` for writes that are to be made some time.
    pub(crate) answer: Option<Answer<Seq>>,
    /// What it has to survive before it is answered.
    pub(crate) durability: Durability,
    /// Whether it may be held for a moment, to be committed with what comes next.
    pub(crate) soon: bool,
}

/// What the writer is asked.
pub(crate) enum Job {
    Write(Write),
    Prune {
        before: u64,
        answer: Answer<Pruned>,
    },
    /// To look whether there is something to do.
    Look,
    Close,
}

/// What the writer counts.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    commits: AtomicU64,
    writes: AtomicU64,
    overdue: AtomicU64,
    lost: AtomicU64,
}

impl Counters {
    pub(crate) fn stats(&self) -> Stats {
        Stats {
            commits: self.commits.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            overdue: self.overdue.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

/// Unix time in milliseconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

/// The log that is to be synced.
pub(crate) struct Sync(PathBuf);

impl Sync {
    /// Syncs it as SQLite would with its next commit.
    pub(crate) fn make(self) {
        let _ = File::open(self.0).and_then(|log| log.sync_data());
    }
}

/// What writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    pub(crate) dir: PathBuf,
    /// The number of this host's run.
    pub(crate) run: i64,
    /// What the ledger promises at the most.
    pub(crate) durability: Durability,
    /// What the connection does at a commit, as it is now.
    pub(crate) syncing: Durability,
    /// Since when there is something committed that was not synced.
    pub(crate) unsynced: Option<Instant>,
    /// What writes the log back.
    pub(crate) checkpoints: Checkpoints,
    /// Until when the thread sleeps.
    pub(crate) awake: Option<Instant>,
    /// Held until the file is closed.
    pub(crate) lock: Arc<HostLock>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) counters: Arc<Counters>,
    /// The last event that was written.
    pub(crate) last: Seq,
    /// Writes that wait for others, in their order, and since when the first does.
    pub(crate) held: Vec<Write>,
    pub(crate) held_since: Option<Instant>,
    /// Writes nobody waits for which could not be made, in their order.
    pub(crate) overdue: VecDeque<Write>,
    pub(crate) prunes: VecDeque<(Prune, Answer<Pruned>)>,
    /// Who is to be answered what, once the group is done and counted.
    pub(crate) answers: Vec<(Answer<Seq>, Result<Seq, WriteError>)>,
}

impl Writer {
    /// Whether a write can be made now without waiting for the disk: nothing is to be tried again before it, and no sync is due.
    pub(crate) fn is_free(&self) -> bool {
        let is_late = |since: Instant| since.elapsed() >= SYNCED_AFTER;
        self.overdue.is_empty() && self.prunes.is_empty() && !self.unsynced.is_some_and(is_late)
    }

    /// Makes a write, with what is held; one that may wait is held, where the thread comes by soon. Whether the thread is to look
    /// what there is to do for it.
    pub(crate) fn write_here(&mut self, write: Write) -> bool {
        if write.soon {
            self.held.push(write);
            let due = *self.held_since.get_or_insert_with(Instant::now) + SOON;
            // Where it comes by then in any case, it need not be woken now.
            return self.awake.is_none_or(|awake| awake > due + SOON);
        }
        let was_synced = self.unsynced.is_none();
        let mut writes = self.take_held();
        writes.push(write);
        self.write(writes);
        self.unsynced.is_some() && was_synced || !self.overdue.is_empty()
    }

    /// Writes what was queued, what is held and what is overdue, as far as that is due, and does a piece of what else there is.
    pub(crate) fn turn(&mut self, mut group: Vec<Write>, last: bool) {
        if last || self.is_due(&group) {
            let mut writes = self.take_held();
            writes.append(&mut group);
            self.write(writes);
        } else if !group.is_empty() {
            self.held_since.get_or_insert_with(Instant::now);
            self.held.append(&mut group);
        }
        self.prune();
    }

    pub(crate) fn will_prune(&mut self, before: u64, answer: Answer<Pruned>) {
        self.prunes.push_back((Prune::new(before), answer));
    }

    /// The goodbye, where it is one. The last words without one are synced by the close of the file.
    pub(crate) fn end(self, goodbye: bool, log: JoinHandle<()>) -> Result<(), WriteError> {
        let Self {
            connection,
            dir,
            run,
            lock,
            events,
            overdue,
            checkpoints,
            ..
        } = self;
        drop(checkpoints);
        let _ = log.join();
        let ended = if !overdue.is_empty() {
            Err(WriteError::Io("some writes could not be made".into()))
        } else if goodbye {
            farewell(&connection, run, &events).map_err(|error| Fault::of(&error, &dir).writing())
        } else {
            Ok(())
        };
        // Closing writes the log back into the file: before another host may come.
        drop(connection);
        lock.release();
        ended
    }

    fn take_held(&mut self) -> Vec<Write> {
        self.held_since = None;
        std::mem::take(&mut self.held)
    }

    /// Whether these are to be written now, with what is held.
    fn is_due(&self, group: &[Write]) -> bool {
        match self.held_since {
            Some(since) if since.elapsed() >= SOON => true,
            None if group.is_empty() => true,
            _ => group.iter().any(|write| !write.soon),
        }
    }

    /// Until when there is nothing to do without being asked; `None` for ever. The thread sleeps until then.
    pub(crate) fn pause(&mut self) -> Option<Instant> {
        self.awake = self.next_due();
        self.awake
    }

    fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let prune = (!self.prunes.is_empty()).then_some(now);
        let retry = (!self.overdue.is_empty()).then(|| now + RETRY);
        let held = self.held_since.map(|since| since + SOON);
        let sync = self.unsynced.map(|since| since + SYNCED_AFTER);
        [prune, retry, held, sync].into_iter().flatten().min()
    }

    /// What is to be synced by now. It counts as synced from here on: where it fails, a commit that is waited for tells.
    pub(crate) fn sync_due(&mut self) -> Option<Sync> {
        self.unsynced
            .take_if(|since| since.elapsed() >= SYNCED_AFTER)
            .map(|_| self.log())
    }

    fn log(&self) -> Sync {
        let mut path = self.dir.join(open::NAME).into_os_string();
        path.push("-wal");
        Sync(path.into())
    }

    /// Syncs the log now.
    fn sync(&mut self) {
        self.unsynced = None;
        self.log().make();
    }

    /// Has the next commit synced where one of `writes`, or an earlier one, is to be by then.
    fn set_syncing(&mut self, writes: &[Write]) -> rusqlite::Result<()> {
        let waited = writes
            .iter()
            .any(|write| write.durability == Durability::Power);
        let late = self
            .unsynced
            .is_some_and(|since| since.elapsed() >= SYNCED_AFTER);
        let wanted = if waited || late {
            self.durability
        } else {
            Durability::Process
        };
        if self.syncing != wanted {
            open::set_durability(&self.connection, wanted)?;
            self.syncing = wanted;
        }
        Ok(())
    }

    /// Writes what is overdue and then `group`, and answers.
    fn write(&mut self, group: Vec<Write>) {
        let mut writes: Vec<Write> = std::mem::take(&mut self.overdue).into();
        writes.extend(group);
        if writes.is_empty() {
            return;
        }
        match self.commit(&writes) {
            Ok(results) => {
                for (write, result) in writes.into_iter().zip(results) {
                    self.answer(write, result);
                }
            }
            Err(error) if writes.len() == 1 => {
                let fault = Fault::of(&error, &self.dir).writing();
                self.fail(writes.pop().expect("one"), fault);
            }
            // One may have failed the others: each on its own, in their order.
            Err(_) => self.one_by_one(writes),
        }
        self.counters
            .overdue
            .store(self.overdue.len() as u64, Ordering::Relaxed);
        for (answer, result) in self.answers.drain(..) {
            // The one who asked may be gone.
            let _ = answer.send(result);
        }
    }

    fn one_by_one(&mut self, writes: Vec<Write>) {
        // Once one that nobody waits for has to wait, nothing may overtake it.
        let mut held_up: Option<WriteError> = None;
        for write in writes {
            if let Some(fault) = &held_up {
                let fault = fault.clone();
                self.fail(write, fault);
                continue;
            }
            match self.commit(std::slice::from_ref(&write)) {
                Ok(mut results) => {
                    let result = results.pop().expect("one");
                    self.answer(write, result);
                }
                Err(error) => {
                    let fault = Fault::of(&error, &self.dir).writing();
                    if write.answer.is_none() {
                        held_up = Some(fault.clone());
                    }
                    self.fail(write, fault);
                }
            }
        }
    }

    /// Notes the answer to a write that was made or refused.
    fn answer(&mut self, write: Write, result: Result<Seq, WriteError>) {
        match write.answer {
            Some(answer) => self.answers.push((answer, result)),
            None if result.is_err() => drop(self.counters.lost.fetch_add(1, Ordering::Relaxed)),
            None => {}
        }
    }

    /// The disk or the file did not let it: a write that somebody waits for fails, another is tried again.
    fn fail(&mut self, write: Write, fault: WriteError) {
        if write.answer.is_some() || self.overdue.len() >= OVERDUE {
            return self.answer(write, Err(fault));
        }
        self.overdue.push_back(write);
    }

    /// Writes all of `writes` in one transaction: what each came to, or why none was made.
    fn commit(&mut self, writes: &[Write]) -> rusqlite::Result<Vec<Result<Seq, WriteError>>> {
        self.set_syncing(writes)?;
        let alone = writes.len() == 1;
        let mut results = Vec::with_capacity(writes.len());
        let mut events = Vec::new();
        let mut last = self.last;
        // Rolled back when it is dropped.
        let mut transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for write in writes {
            let mark = events.len();
            let result = if alone {
                apply(&transaction, &write.changes, &mut events)
            } else {
                let savepoint = transaction.savepoint()?;
                let result = apply(&savepoint, &write.changes, &mut events);
                // Dropped without a commit, it undoes this write and leaves its neighbours.
                if result.is_ok() {
                    savepoint.commit()?;
                }
                result
            };
            results.push(match result {
                Ok(()) => {
                    last = events.last().map_or(last, |event| event.seq);
                    Ok(last)
                }
                Err(failed) => {
                    events.truncate(mark);
                    Err(match failed {
                        Failed::Refused(refusal) => refusal.into(),
                        Failed::Sql(error) if fault::is_its_own(&error) => {
                            WriteError::Io(error.to_string().into())
                        }
                        Failed::Sql(error) => return Err(error),
                    })
                }
            });
        }
        if results.iter().all(Result::is_err) {
            return Ok(results);
        }
        transaction.commit()?;
        if events.is_empty() && self.unsynced.is_some() && self.syncing == Durability::Power {
            // Nothing was written, so SQLite synced nothing of what was before.
            self.sync();
        }
        self.unsynced = match self.syncing {
            Durability::Power => None,
            Durability::Process if self.durability == Durability::Process => None,
            Durability::Process => self.unsynced.or_else(|| Some(Instant::now())),
        };
        self.last = last;
        self.checkpoints.committed();
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        let made = results.iter().filter(|result| result.is_ok()).count();
        self.counters
            .writes
            .fetch_add(made as u64, Ordering::Relaxed);
        for event in events {
            // Nobody may be listening.
            let _ = self.events.send(event);
        }
        Ok(results)
    }

    /// Does one piece of the first prune that is asked for, so that writes need not wait for the whole.
    fn prune(&mut self) {
        let Some((prune, _)) = self.prunes.front_mut() else {
            return;
        };
        let step = prune::step(&mut self.connection, prune);
        self.checkpoints.committed();
        let result = match step {
            Ok(Stage::More) => return,
            Ok(Stage::Done(pruned)) => Ok(pruned),
            Err(error) => Err(Fault::of(&error, &self.dir).writing()),
        };
        if let Some((_, answer)) = self.prunes.pop_front() {
            let _ = answer.send(result);
        }
    }
}

fn apply(
    connection: &Connection,
    changes: &[Change],
    events: &mut Vec<Event>,
) -> Result<(), Failed> {
    let pen = Pen::new(connection, now());
    for change in changes {
        pen.apply(change, events)?;
    }
    Ok(())
}

fn farewell(
    connection: &Connection,
    run: i64,
    events: &broadcast::Sender<Event>,
) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    let event = match Pen::new(&transaction, now()).host_ended(run) {
        Ok(event) => event,
        Err(Failed::Sql(error)) => return Err(error),
        Err(Failed::Refused(_)) => return Ok(()),
    };
    transaction.commit()?;
    let _ = events.send(event);
    Ok(())
}
