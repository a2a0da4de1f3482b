//! What can be written.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conversation::{ConversationRow, ConversationUpdate, EntryRows, LinkRow};
use crate::id::{ConversationId, EntrySeq, JobId, ResourceId, SessionId};
use crate::job::{
    JobEnd, JobRow, JobStanding, ScheduleCame, ScheduleDue, ScheduleRow, StepRunRow, StepRunUpdate,
};

/// Who asked for something, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct By {
    /// Who: a client, a rule, the host itself.
    pub who: String,
    /// Why, in a few words.
    pub why: String,
}

impl By {
    /// `who` asked, for the reason `why`.
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            who: who.into(),
            why: why.into(),
        }
    }
}

/// One change of the record. The changes of one [`write`](crate::Ledger::write) are made together or not at all.
///
/// Each leaves an event in the log, whose kind is named here, but for those of which it says otherwise.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Change {
    /// A session begins; its state is `starting`. Event `session.opened`. Refused when the id is taken, when the name belongs
    /// to a session that is open, or when the parent is not open.
    SessionOpened {
        /// What is known of it.
        session: SessionRow,
        /// Who wanted it.
        by: By,
    },
    /// A session goes over into another state. Event `session.state`.
    SessionState {
        /// Which.
        id: SessionId,
        /// Its state from now on.
        state: String,
        /// Who or what brought it there.
        by: By,
    },
    /// What is kept with a session is replaced. Event `session.detail`, without the detail.
    SessionDetail {
        /// Which.
        id: SessionId,
        /// What is kept from now on.
        detail: Value,
    },
    /// A session has got another name, or none. Event `session.named`. Refused when the name belongs to a session that is open.
    SessionNamed {
        /// Which.
        id: SessionId,
        /// Its name from now on.
        name: Option<String>,
        /// Who wanted it.
        by: By,
    },
    /// A session has ended, for good; its state is `closed`. Event `session.closed`. Refused while it has resources that
    /// were not released, or children that are not closed: nothing is called closed that still holds something.
    SessionClosed {
        /// Which.
        id: SessionId,
        /// Why, as a word of the close reasons.
        reason: String,
        /// The close report.
        report: Value,
        /// Who wanted it.
        by: By,
    },
    /// A resource is about to be made: written before it is. Event `resource.intended`. Refused when the id is taken or the
    /// session is not open.
    ResourceIntended {
        /// What is known of it.
        resource: ResourceRow,
        /// Who wanted it.
        by: By,
    },
    /// A resource exists, and this is how the kernel knows it. Event `resource.identified`.
    ResourceIdentified {
        /// Which.
        id: ResourceId,
        /// How it is found again.
        identity: Identity,
    },
    /// What is kept with a resource is replaced. Event `resource.detail`, without the detail.
    ResourceDetail {
        /// Which.
        id: ResourceId,
        /// What is kept from now on.
        detail: Value,
    },
    /// A resource belongs to another session from now on. Event `resource.moved`, in the log of the one that gets it.
    ResourceMoved {
        /// Which.
        id: ResourceId,
        /// The session that has it from now on; it has to be open.
        to: SessionId,
        /// Who wanted it.
        by: By,
    },
    /// A resource is gone (or was never made). Event `resource.released`.
    ResourceReleased {
        /// Which.
        id: ResourceId,
        /// What became of it.
        outcome: Value,
        /// Who wanted it, or how it came about.
        by: By,
    },
    /// What earlier hosts left behind is settled: [`Opened::earlier`](crate::Opened::earlier) need not be told again. Event
    /// `host.settled`.
    EarlierSettled {
        /// What was found and done.
        detail: Value,
        /// Who did it.
        by: By,
    },
    /// Something happened that is to be remembered.
    Event(EventRow),
    /// A conversation begins. Event `conversation.began`. Refused when the id is taken.
    ConversationBegan {
        /// What is known of it; its number is given by the ledger.
        conversation: Box<ConversationRow>,
        /// Who wanted it.
        by: By,
    },
    /// Something of a conversation changes. No event.
    ConversationChanged {
        /// Which.
        id: ConversationId,
        /// What.
        update: Box<ConversationUpdate>,
    },
    /// Something was said in a conversation, and so far it is with its agent. No event: transcripts have numbers of their own,
    /// which have to follow one another.
    TranscriptAppended {
        /// Which.
        id: ConversationId,
        /// What was said.
        entries: Vec<EntryRows>,
        /// How far it is with its agent from now on; as before where there is nothing.
        link: Option<LinkRow>,
    },
    /// A conversation gets all that was said in another one, up to a place where one write ended. No event.
    TranscriptCopied {
        /// Of which.
        from: ConversationId,
        /// Which gets it; it has nothing yet.
        to: ConversationId,
        /// The last that it gets.
        upto: EntrySeq,
    },
    /// A job is there; it is pending. Event `job.created`. Refused when the id is taken, and when the parent is not there or
    /// has ended.
    JobCreated {
        /// What is known of it.
        job: Box<JobRow>,
        /// Who wanted it.
        by: By,
    },
    /// A job that has not ended goes over into another state that is no end: there is none here. Event `job.state`. Refused when
    /// it has ended.
    JobStanding {
        /// Which.
        id: JobId,
        /// Its state from now on.
        standing: JobStanding,
        /// Why.
        why: Value,
        /// Who or what brought it there.
        by: By,
    },
    /// What is kept with a job is replaced. No event. Refused when it has ended.
    JobDetail {
        /// Which.
        id: JobId,
        /// What is kept from now on.
        detail: Value,
    },
    /// A job has a session for what it starts. Event `job.session`. Refused when it has ended.
    JobSession {
        /// Which.
        id: JobId,
        /// The session.
        session: SessionId,
    },
    /// A run of a step is there, in whatever state. Event `step.` and that state. Refused when the job has ended, and when the number
    /// is taken.
    StepBegan {
        /// Of which job.
        job: JobId,
        /// What is known of it.
        run: Box<StepRunRow>,
    },
    /// Something of a run of a step changes. Where its state is given: event `step.` and that state. Refused when the job has ended,
    /// and a state when the run has.
    StepChanged {
        /// Of which job.
        job: JobId,
        /// The run's number.
        run: u32,
        /// What.
        update: Box<StepRunUpdate>,
    },
    /// A job has got a claim on something that is shared. Event `lease.taken`. Refused when the job has ended, or has it already.
    LeaseTaken {
        /// The holder.
        job: JobId,
        /// What is shared.
        session: SessionId,
        /// What distinguishes that from others of its kind.
        key: String,
    },
    /// A job has let go of something that is shared. Event `lease.released`. Refused when it has no claim on it.
    LeaseReleased {
        /// The holder.
        job: JobId,
        /// What is shared.
        session: SessionId,
    },
    /// A job has ended, for good. This is the one way: with it, its runs that have not ended are cancelled, and its leases are gone;
    /// and so it is with each descendant that has not ended, children before parents. For each of these jobs an event
    /// `job.completed`, `job.failed` or `job.cancelled`. Refused when it has ended.
    JobEnded {
        /// Which.
        id: JobId,
        /// How. Its descendants are cancelled.
        end: JobEnd,
        /// Why; `message` says it in words.
        why: Value,
        /// What came of it.
        outputs: Option<Value>,
        /// Who or what ended it.
        by: By,
    },
    /// A job is forgotten, with its runs and its descendants. Event `job.deleted`. Refused unless all of these have ended.
    JobDeleted {
        /// Which.
        id: JobId,
        /// Who wanted it.
        by: By,
    },
    /// A schedule is there; one of this name is replaced, and what came of its last time stays known. Event `schedule.set`.
    ScheduleSet {
        /// What is known of it.
        schedule: Box<ScheduleRow>,
        /// Who wanted it.
        by: By,
    },
    /// A schedule is due at another time than was thought, for the clock or the time zone was set. Event `schedule.armed`. Refused
    /// when there is none, and when it is not due at that time any more.
    ScheduleArmed {
        /// Which.
        name: String,
        /// When it was due: Unix time in milliseconds.
        was: u64,
        /// When it is.
        next: Option<u64>,
        /// Who or what says so.
        by: By,
    },
    /// A time at which a schedule was due is dealt with; to be written with the job that comes of it. Event `schedule.ran` or
    /// `schedule.skipped`. Refused when there is none, and when it is not due at that time any more: so nothing is made twice.
    ScheduleRan {
        /// Which.
        name: String,
        /// The time that it stands for: Unix time in milliseconds.
        at: u64,
        /// When it was due, and when it is next; `None` when somebody wanted it at once, and it stays due when it is.
        due: Option<ScheduleDue>,
        /// What came of it.
        came: ScheduleCame,
        /// Who or what ran it.
        by: By,
    },
    /// A schedule is forgotten; its jobs stay. Event `schedule.removed`. Refused when there is none.
    ScheduleRemoved {
        /// Which.
        name: String,
        /// Who wanted it.
        by: By,
    },
}

/// A session as it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRow {
    /// Its id.
    pub id: SessionId,
    /// Its name among the open sessions, where it has one.
    pub name: Option<String>,
    /// The session that it belongs to.
    pub parent: Option<SessionId>,
    /// What else is to be kept with it, such as its policy.
    pub detail: Value,
    /// When: Unix time in milliseconds.
    pub opened: u64,
}

/// A resource as it is intended.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourceRow {
    /// Its id.
    pub id: ResourceId,
    /// The session that owns it.
    pub session: SessionId,
    /// What it is: process, terminal, …
    pub kind: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What else is to be kept with it, such as its command.
    pub detail: Value,
}

/// How a resource is found again in the kernel, by another host, after this one has died.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// The boot in which the process lives: `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Its pid.
    pub pid: u32,
    /// When it started, in clock ticks since the boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// Its cgroup, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The socket under which its keeper is found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
}

/// An event of the callers' own. Its time and its number are the writer's.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRow {
    /// The session that it is about.
    pub session: Option<SessionId>,
    /// The resource that it is about.
    pub resource: Option<ResourceId>,
    /// What happened, as `noun.verb`.
    pub kind: String,
    /// Who asked for it.
    pub who: String,
    /// Why.
    pub why: String,
    /// What else is to be remembered.
    pub detail: Value,
}
