//! What can go wrong. Each is one clear line.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{ConversationId, JobId, ResourceId, SessionId};

/// Why a ledger was not opened. Nothing was changed, unless by the host that has it open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another host has it open.
    #[error("another host (pid {pid}{}) has this state directory", at(.address))]
    Locked {
        /// Its pid; 0 when it lives where this process cannot see it.
        pid: u32,
        /// Where it listens, when it has said so already.
        address: Option<String>,
    },
    /// A newer release wrote it.
    #[error(
        "the ledger has schema {found}, but this release knows schemas up to {known}: use the release that wrote it, or a newer one"
    )]
    Newer {
        /// Its schema.
        found: u32,
        /// The newest schema that this release knows.
        known: u32,
    },
    /// An older release wrote it, and no host of this one has opened it yet.
    #[error(
        "the ledger has schema {found}, and this release reads schema {known}: `hostler serve` brings it up to that"
    )]
    Older {
        /// Its schema.
        found: u32,
        /// What this release reads.
        known: u32,
    },
    /// It is damaged, or not a ledger at all.
    #[error("the ledger {} is damaged: {found}; move it away to start afresh, without knowledge of what runs", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// There is no room.
    #[error("no room left for the ledger in {}", .0.display())]
    Full(PathBuf),
    /// It cannot be written.
    #[error("the ledger in {} cannot be written: it is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// Anything else.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        error: io::Error,
    },
}

fn at(address: &Option<String>) -> String {
    address
        .as_ref()
        .map(|address| format!(", at {address}"))
        .unwrap_or_default()
}

/// Why something was not written. Nothing of the write was made. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// There is no room. Writing works again when there is.
    #[error("no room left for the ledger")]
    Full,
    /// It cannot be written.
    #[error("the ledger is read-only")]
    ReadOnly,
    /// It makes no sense after what was written before.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The ledger is damaged.
    #[error("the ledger is damaged: {0}")]
    Corrupt(Arc<str>),
    /// Anything else.
    #[error("cannot write to the ledger: {0}")]
    Io(Arc<str>),
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Gone,
}

/// What makes no sense after what was written before.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// There is no such session.
    #[error("there is no session {0}")]
    NoSession(SessionId),
    /// There is one already.
    #[error("there is a session {0} already")]
    SessionExists(SessionId),
    /// It has ended.
    #[error("session {0} is closed")]
    SessionClosed(SessionId),
    /// An open session has this name.
    #[error("an open session has the name `{0}`")]
    NameTaken(String),
    /// It cannot be closed before what it owns.
    #[error("session {id} still owns {resources} resources and {children} child sessions")]
    StillOwns {
        /// Which.
        id: SessionId,
        /// Its resources that were not released.
        resources: u64,
        /// Its children that were not closed.
        children: u64,
    },
    /// There is no such resource.
    #[error("there is no resource {0}")]
    NoResource(ResourceId),
    /// There is one already.
    #[error("there is a resource {0} already")]
    ResourceExists(ResourceId),
    /// It is gone.
    #[error("resource {0} was released already")]
    ResourceReleased(ResourceId),
    /// There is no such conversation.
    #[error("there is no conversation {0}")]
    NoConversation(ConversationId),
    /// There is one already.
    #[error("there is a conversation {0} already")]
    ConversationExists(ConversationId),
    /// There is no such job.
    #[error("there is no job {0}")]
    NoJob(JobId),
    /// There is one already.
    #[error("there is a job {0} already")]
    JobExists(JobId),
    /// It has ended.
    #[error("job {0} has ended")]
    JobEnded(JobId),
    /// It has to end before.
    #[error("job {0} has not ended")]
    JobNotEnded(JobId),
    /// There is no such run of a step.
    #[error("job {job} has no run {run}")]
    NoStepRun {
        /// The job.
        job: JobId,
        /// The run's number.
        run: u32,
    },
    /// There is one already.
    #[error("job {job} has a run {run} already")]
    StepRunExists {
        /// The job.
        job: JobId,
        /// The run's number.
        run: u32,
    },
    /// It has ended.
    #[error("run {run} of job {job} has ended")]
    StepRunEnded {
        /// The job.
        job: JobId,
        /// The run's number.
        run: u32,
    },
    /// The job has this lease already.
    #[error("job {job} has a lease on session {session} already")]
    LeaseExists {
        /// The job.
        job: JobId,
        /// What is leased.
        session: SessionId,
    },
    /// There is no such schedule.
    #[error("there is no schedule `{0}`")]
    NoSchedule(String),
    /// What was asked for by this name was made already: this job.
    #[error("job {0} was made for this request already")]
    AlreadyRequested(JobId),
    /// It is due at another time.
    #[error("schedule `{0}` is not due at that time any more")]
    ScheduleMoved(String),
    /// The job has no such lease, or none any more.
    #[error("job {job} has no lease on session {session}")]
    NoLease {
        /// The job.
        job: JobId,
        /// What is leased.
        session: SessionId,
    },
}

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The ledger is damaged.
    #[error("the ledger is damaged: {0}")]
    Corrupt(String),
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Gone,
    /// Anything else.
    #[error("cannot read the ledger: {0}")]
    Io(String),
}
