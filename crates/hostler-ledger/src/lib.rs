//! The durable record: of sessions, of what they own, of what became of it, and of who asked for it and why.
//!
//! # Theory of operation
//!
//! A ledger is an SQLite file (`ledger.db`, in WAL mode) in the state directory of a host. It is there for the next host: what
//! is about to be made is written before it is made ([`Change::ResourceIntended`]), how the kernel knows it as soon as it is
//! there ([`Change::ResourceIdentified`]), and its end when it is gone ([`Change::ResourceReleased`]). So whatever was alive
//! when a host died is in the ledger, though not all that the ledger has must have been alive.
//!
//! * **One writer, in groups.** One thread writes. It takes all that is queued, makes it in one transaction with one sync, and
//!   then answers everybody. Each write is whole, by a savepoint of its own; a write that is refused does not touch its
//!   neighbours. What was answered has survived: a loss of power, or with [`Durability::Process`] the death of the process.
//!   What may wait ([`Ledger::write_soon`]) is held for up to 2 ms, and committed with what comes next.
//! * **No nonsense.** A session cannot be closed while it owns something, nothing can be added to one that is closed, and
//!   nothing ends twice: see [`Refusal`].
//! * **A log.** Each change leaves an [`Event`] with a number, who asked and why. Numbers grow and are never used again, so a
//!   follower ([`Ledger::subscribe`]) that has missed something reads on from the last number that it has seen.
//! * **One host.** A lock in the kernel on `host.lock` is taken before the file is touched, and dies with its holder. The file
//!   says who that is, for the one that comes second. Nothing that is opened here is inherited by programs that the host
//!   starts.
//! * **Full disks pass.** A write that finds no room fails, and the next one that finds some is made. Writes nobody waits for
//!   ([`Ledger::write_later`]) are kept until there is room, and not overtaken.
//! * **Transcripts.** What was said in a conversation is appended ([`Change::TranscriptAppended`]) together with how far its agent's
//!   output was read, and leaves no event: its entries have numbers of their own. Entries that are alike share a row.
//! * **Jobs end in one way.** [`Change::JobEnded`] is the only change that can set a state that is an end. In the same transaction
//!   the runs of its steps that are open are cancelled, its leases are gone, and so are those of all jobs below it: no job that has
//!   ended has an open run or a lease, at any time.
//! * **A schedule is due once.** [`Change::ScheduleRan`] is written with the job that it makes, and is refused unless the schedule is
//!   still due at the time that it names: whoever is killed, a due time has one job or none, and the ledger says which.
//! * **It stays small.** [`Ledger::prune`] takes away what is old and no longer needed, in small steps between writes.
//! * **The schema has a version**, and the steps from each to the next. A ledger of a later release is refused, not guessed
//!   at, and so is one that is damaged, and an empty file.
//!
//! ```no_run
//! use hostler_ledger::{By, Change, HostRun, Ledger, SessionId, SessionRow};
//!
//! # async fn example(run: HostRun) -> Result<(), Box<dyn std::error::Error>> {
//! let opened = Ledger::open("/var/lib/hostler".as_ref(), &run)?;
//! for lost in opened.earlier {
//!     println!("host {} died", lost.pid);
//! }
//! let session = SessionRow {
//!     id: SessionId::new(),
//!     name: Some("demo".to_owned()),
//!     parent: None,
//!     detail: serde_json::json!({ "idle": 600 }),
//!     opened: 1_800_000_000_000,
//! };
//! let by = By::new("uid 1000", "session new");
//! let seq = opened.ledger.write(vec![Change::SessionOpened { session, by }]).await?;
//! println!("durable: event {seq}");
//! opened.ledger.close()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod apply;
mod change;
mod checkpoint;
mod conversation;
mod desk;
mod error;
mod fault;
mod id;
mod job;
mod ledger;
mod lock;
mod open;
mod prune;
mod read;
mod reader;
mod record;
mod schema;
mod writer;

pub use change::{By, Change, EventRow, Identity, ResourceRow, SessionRow};
pub use conversation::{
    ConversationRow, ConversationUpdate, ConversationsFilter, EntryRows, LinkRow,
};
pub use error::{OpenError, ReadError, Refusal, WriteError};
pub use id::{ConversationId, EntrySeq, IdError, JobId, ResourceId, Seq, SessionId};
pub use job::{
    JobEnd, JobFilter, JobOrigin, JobRecord, JobRow, JobStanding, JobState, JobSummary, LeaseRow,
    Overlap, ScheduleCame, ScheduleDue, ScheduleRecord, ScheduleRow, ScheduledFor, StateError,
    StepRunRow, StepRunState, StepRunUpdate,
};
pub use ledger::{Durability, Ledger, LedgerOptions, Opened};
pub use reader::Reader;
pub use record::{
    Closed, Event, EventFilter, HostRun, Pruned, Released, Report, ResourceFilter, ResourceRecord,
    SessionFilter, SessionRecord, Stats, Which,
};
