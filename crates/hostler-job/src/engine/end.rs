//! The one way out of a job.
//!
//! Every end of a job (its steps say so, somebody cancels it, its time is over, its session or its parent is gone, the host stops, its
//! task fails) comes to [`end`]. There, and nowhere else, [`Change::JobEnded`] is made: in the one transaction the job has its
//! terminal state, every run that had not ended is cancelled, its leases are gone, and the same is true of the jobs below it. What
//! it held goes after that: what runs is told, its session is closed, which proves it, and its agents are let go of. A host that is
//! killed in between finds a job that has ended and whose session is there: it closes that ([`super::recover`]).

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use hostler_ledger::{By, Change, JobEnd, JobId, JobRecord, JobState, Refusal, WriteError};
use hostler_session::{CloseReason, Session, SessionState};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::actor::{Actor, Left, Message};
use super::error::Result;
use super::job::Job;
use super::jobs::Jobs;
use super::progress::End;

/// How long what runs may take to tidy up once the session has closed.
const TIDY: Duration = Duration::from_secs(2);
/// After so long it is said that something of it cannot be ended.
const STUCK: Duration = Duration::from_secs(15);
/// Between two tries to write the end.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs a job's task, and ends the job whatever becomes of that.
pub(crate) fn spawn(jobs: Jobs, job: Job, mut actor: Actor) {
    tokio::spawn(async move {
        let left = AssertUnwindSafe(actor.live()).catch_unwind().await;
        let left = left.unwrap_or_else(|_| {
            let end = End::new(JobEnd::Failed, "internal", "the host failed at it");
            Left::end(end, By::new("host", "a failure of its own"))
        });
        end(&jobs, &job, actor, left).await;
    });
}

async fn end(jobs: &Jobs, job: &Job, mut actor: Actor, left: Left) {
    let reply = match left {
        Left::Frozen(reply) => Some(reply),
        Left::Gone => None,
        Left::End(..) | Left::Over => {
            let mut inbox = std::mem::replace(&mut actor.inbox, mpsc::unbounded_channel().1);
            // What is asked of it now comes too late, but that it is left to the next host.
            let frozen = async {
                loop {
                    match inbox.recv().await {
                        Some(Message::Freeze { reply }) => return reply,
                        Some(_) => {}
                        None => std::future::pending().await,
                    }
                }
            };
            tokio::select! {
                biased;
                () = over(jobs, job, &mut actor, left) => return,
                reply = frozen => Some(reply),
            }
        }
    };
    // What of its end is not done, the next host does.
    actor.let_go();
    while actor.tasks.join_next().await.is_some() {}
    jobs.forget(job.id());
    job.shared.left.cancel();
    if let Some(reply) = reply {
        let _ = reply.send(Ok(()));
    }
}

/// Writes the end, and waits until all that it held is gone.
async fn over(jobs: &Jobs, job: &Job, actor: &mut Actor, left: Left) {
    let by = match left {
        Left::End(end, by, changes) => {
            write(jobs, job, (*end, changes), &by, actor).await;
            by
        }
        _ => {
            ended(jobs, job);
            By::new("host", "the job above it has ended")
        }
    };
    actor.told();
    actor.cancel_all();
    for below in jobs.below(job.id()) {
        below.shared.tell(Message::Over);
    }
    jobs.pool().release_holder(job.id().as_str());
    let session = actor.session.take();
    let report = match &session {
        Some(session) => session.close(CloseReason::JobEnd, by, None).await.ok(),
        None => None,
    };
    let until = Instant::now() + TIDY;
    let tidy = async { while actor.tasks.join_next().await.is_some() {} };
    if timeout_at(until, tidy).await.is_err() {
        actor.let_go();
        while actor.tasks.join_next().await.is_some() {}
    }
    // One that was given an agent in the last moment.
    jobs.pool().release_holder(job.id().as_str());
    let gone = async {
        jobs.pool().holder_gone(job.id().as_str()).await;
        if let Some(session) = &session {
            closed(session).await;
        }
        // One that was still being opened closes by itself.
        for other in jobs.sessions_of(job.id()) {
            closed(&other).await;
        }
        for below in jobs.below(job.id()) {
            below.gone().await;
        }
    };
    let mut gone = Box::pin(gone);
    if timeout_at(Instant::now() + STUCK, &mut gone).await.is_err() {
        tracing::error!(job = %job.id(), "something that it started cannot be ended; it is tried on");
        job.shared.status.send_modify(|status| {
            status.stuck = true;
            status.report.clone_from(&report);
        });
        gone.as_mut().await;
    }
    drop(gone);
    // One that cannot be ended at once has another report in the end.
    let report = session.and_then(|session| session.report()).or(report);
    jobs.forget(job.id());
    job.shared.live().clear();
    job.shared.status.send_modify(|status| {
        status.released = true;
        status.stuck = false;
        status.report = report;
    });
}

/// Waits until a session has closed; for ever where it is left to the next host.
async fn closed(session: &Session) {
    let mut state = session.state();
    while state != SessionState::Closed {
        let next = session.changed_from(state).await;
        if next == state {
            std::future::pending::<()>().await;
        }
        state = next;
    }
}

/// Writes the end, with what is still to be written of its runs. A disk that is full does not keep what runs from being ended: that
/// is done meanwhile.
async fn write(
    jobs: &Jobs,
    job: &Job,
    (end, mut changes): (End, Vec<Change>),
    by: &By,
    actor: &mut Actor,
) {
    changes.push(Change::JobEnded {
        id: job.id().clone(),
        end: end.end,
        why: end.why.clone(),
        outputs: end.outputs.clone(),
        by: by.clone(),
    });
    let mut told = false;
    loop {
        match jobs.ledger().write(changes.clone()).await {
            Ok(_) => {
                job.shared.status.send_modify(|status| {
                    status.state = JobState::Ended(end.end);
                    status.why = end.why;
                    status.outputs = end.outputs;
                });
                return;
            }
            Err(WriteError::Refused(Refusal::JobEnded(_))) => return ended(jobs, job),
            // What is refused of its runs is not to hold up its end.
            Err(WriteError::Refused(refusal)) if changes.len() > 1 => {
                tracing::error!(job = %job.id(), %refusal, "its last runs cannot be recorded");
                changes.drain(..changes.len() - 1);
            }
            Err(error) => {
                if !told {
                    tracing::error!(job = %job.id(), %error, "its end cannot be written; what it runs is ended all the same");
                    told = true;
                    actor.cancel_all();
                    if let Some(session) = actor.session.clone() {
                        let by = by.clone();
                        tokio::spawn(async move {
                            let _ = session.close(CloseReason::JobEnd, by, None).await;
                        });
                    }
                }
                if matches!(error, WriteError::Gone) {
                    return;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Ends a job that has no task, for it cannot go on. What it held is closed with the leftovers of jobs that have ended.
pub(crate) async fn without_task(jobs: &Jobs, id: &JobId, end: End) -> Result<()> {
    let change = Change::JobEnded {
        id: id.clone(),
        end: end.end,
        why: end.why,
        outputs: None,
        by: By::new("host", "it cannot go on"),
    };
    jobs.ledger().write(vec![change]).await?;
    jobs.close_ended(id);
    Ok(())
}

/// It has ended already: as the ledger says.
fn ended(jobs: &Jobs, job: &Job) {
    let record: Option<JobRecord> = jobs.ledger().job(job.id()).ok().flatten();
    let cancelled = JobState::Ended(JobEnd::Cancelled);
    job.shared.status.send_modify(|status| match record {
        Some(JobRecord {
            summary, outputs, ..
        }) => {
            status.state = if summary.state.is_ended() {
                summary.state
            } else {
                cancelled
            };
            (status.why, status.outputs) = (summary.why, outputs);
        }
        None => status.state = cancelled,
    });
}
