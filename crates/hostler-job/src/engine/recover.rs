//! Jobs of earlier hosts: those that had not ended go on, those that had are rid of what they held.
//!
//! What a job had done is in its runs; [`Progress::replay`] says where it stood. Runs that had not ended are taken up where what they
//! started lives (a process that was kept, a turn of an agent, a job below), and interrupted where not. Sessions of jobs that have
//! ended, and agents that no job holds, are closed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hostler_agent::{PoolKey, PoolUse};
use hostler_ledger::{
    By, Change, ConversationId, JobEnd, JobId, JobRecord, JobStanding, JobState, JobSummary,
    LeaseRow, StepRunRow,
};
use hostler_session::{CloseReason, Session};
use serde_json::Map;

use super::actor::Actor;
use super::error::{Error, Result};
use super::execute::conversation_of;
use super::job::{Job, JobStatus, Shared};
use super::jobs::{Jobs, kept_of};
use super::label;
use super::progress::Progress;
use crate::Loaded;
use crate::flow::{Flow, StepId};

impl Jobs {
    /// Takes up the jobs of earlier hosts. To be called once, after sessions and conversations have recovered. Gives those that go
    /// on.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Ledger`].
    pub async fn recover(&self) -> Result<Vec<Job>> {
        let jobs = self.clone();
        let open = tokio::task::spawn_blocking(move || jobs.open()).await;
        let mut open = open.map_err(|error| Error::Read(error.to_string()))??;
        // Those above first: what is below goes on in their sessions.
        open.sort_by_key(|record| record.number);
        self.close_leftovers()?;
        let mut taken = Vec::new();
        for JobSummary { id, .. } in open {
            // It ended with the one above it, while that was taken up.
            let record = self.ledger().job(&id)?;
            let Some(record) = record.filter(|now| !now.summary.state.is_ended()) else {
                continue;
            };
            match self.take_up(record).await {
                Ok(one) => taken.push(one),
                Err(Error::Ledger(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(job = %id, %error, "cannot go on");
                    let message = format!("it cannot go on after the death of its host: {error}");
                    let end = super::progress::End::new(JobEnd::Failed, "host_died", message);
                    super::end::without_task(self, &id, end).await?;
                }
            }
        }
        // All are there before the first goes on: one may wait for another.
        let going: Vec<Job> = taken
            .iter()
            .map(|(shared, _)| self.register(shared.clone()))
            .collect();
        for (job, (_, actor)) in going.iter().zip(taken) {
            self.spawn(job, actor);
        }
        // Others have had none.
        let pool = self.pool().clone();
        tokio::spawn(async move { pool.end_unadopted().await });
        Ok(going)
    }

    async fn take_up(&self, record: JobRecord) -> Result<(Arc<Shared>, Actor)> {
        let kept = kept_of(&record)?;
        let record = record.summary;
        let loaded = Arc::new(Loaded::restore(&kept.flow).map_err(Error::Invalid)?);
        let runs = self.ledger().step_runs(&record.id)?;
        let flow = Arc::new(loaded.flow.clone());
        let mut progress = Progress::new(record.id.clone(), flow, kept.inputs.clone());
        let held = record.state == JobState::Standing(JobStanding::Paused);
        let live = progress.replay(&runs, &kept.again, held);
        // By its label too: a host may have died before it could write which it is.
        let mut sessions = self.sessions().list().into_iter();
        let session = sessions.find(|session| {
            let own =
                label::job(session).as_ref() == Some(&record.id) && label::run(session).is_none();
            (record.session.as_ref() == Some(session.id()) || own) && session.state().is_open()
        });
        // Agents that live stay with the job, and with the runs that had them; leases of others are gone.
        let places: HashSet<ConversationId> = live
            .iter()
            .filter_map(|live| conversation_of(&live.row))
            .collect();
        let mut adopted = HashMap::new();
        let mut changes = Vec::new();
        for lease in self.ledger().leases(Some(&record.id))? {
            let Some(used) = self.adopt(&lease, record.group.clone()).await else {
                let (job, session) = (lease.job, lease.session);
                changes.push(Change::LeaseReleased { job, session });
                continue;
            };
            let conversation = used.conversation().clone();
            if places.contains(conversation.id()) {
                adopted.insert(conversation.id().clone(), used);
            } else {
                // A turn that no run knows of was asked for a moment before the host died.
                let by = By::new("host", "no run has asked for it");
                conversation.cancel(by).await;
            }
        }
        if !changes.is_empty()
            && let Err(error) = self.ledger().write_unsynced(changes).await
        {
            tracing::error!(job = %record.id, %error, "leases of agents that are gone cannot be released");
        }
        let status = JobStatus {
            state: record.state,
            why: record.why.clone(),
            outputs: None,
            session: session.as_ref().map(|session| session.id().clone()),
            released: false,
            stuck: false,
            report: None,
        };
        let place = (
            record.group.clone(),
            record.parent.clone(),
            record.origin.clone(),
        );
        let (shared, inbox) = self.shared(record.id.clone(), loaded, kept, place, status);
        let by = By::new("host", "it goes on after the one before");
        let actor = Actor::new(self.clone(), shared.clone(), inbox, progress, by);
        let actor = actor.resumed(session, (live, adopted), record.began);
        Ok((shared, actor))
    }

    /// The agent of a lease, where it lives; it is the pool's again.
    async fn adopt(&self, lease: &LeaseRow, group: Option<String>) -> Option<PoolUse> {
        let conversation = self.agents().get(lease.session.as_str()).ok()?;
        let (_, shared) = lease_of(&lease.key);
        let holder = lease.job.as_str();
        let adopted = self.pool().adopt(holder, shared, conversation, group).await;
        adopted.ok()
    }

    /// Closes what jobs have left that have ended: as the ledger says, for a label alone proves nothing.
    fn close_leftovers(&self) -> Result<()> {
        for session in self.sessions().list() {
            let Some(id) = label::job(&session) else {
                continue;
            };
            let job = self.ledger().job_summary(&id)?;
            if job.is_some_and(|job| job.state.is_ended()) {
                close(session);
            }
        }
        Ok(())
    }

    /// Closes the sessions of a job that has ended without a task.
    pub(crate) fn close_ended(&self, id: &JobId) {
        self.sessions_of(id).into_iter().for_each(close);
    }

    /// The sessions of a job that have not closed, by their label.
    pub(crate) fn sessions_of(&self, id: &JobId) -> Vec<Session> {
        let mut all = self.sessions().list();
        all.retain(|session| label::job(session).as_ref() == Some(id));
        all
    }
}

fn close(session: Session) {
    tokio::spawn(async move {
        let by = By::new("host", "the job that it was for has ended");
        let _ = session.close(CloseReason::JobEnd, by, None).await;
    });
}

/// How a lease is written: the agent's key, and the name of what steps share.
pub(crate) fn lease_key(key: &PoolKey, shared: Option<&str>) -> String {
    match shared {
        Some(shared) => format!("{key}\t{shared}"),
        None => key.to_string(),
    }
}

fn lease_of(written: &str) -> (&str, Option<&str>) {
    match written.split_once('\t') {
        Some((key, shared)) => (key, Some(shared)),
        None => (written, None),
    }
}

/// What an ended job had done of the steps that do not wait for `from`, as runs of a new one.
pub(crate) fn done_before(flow: &Flow, runs: &[StepRunRow], from: &str) -> Result<Vec<StepRunRow>> {
    let id: StepId = from
        .parse()
        .map_err(|_| Error::Invalid(format!("there is no step `{from}`")))?;
    if flow.step(&id).is_none() {
        return Err(Error::Invalid(format!("there is no step `{from}`")));
    }
    let progress = Progress::new(JobId::new(), Arc::new(flow.clone()), Map::new());
    let again = progress.waiting_for(&id);
    let kept = flow.steps.iter().zip(again).filter(|(_, again)| !again);
    let kept = kept.map(|(step, _)| step);
    let mut done = Vec::new();
    for step in kept {
        let of: Vec<&StepRunRow> = runs
            .iter()
            .filter(|run| run.step == step.id.value.as_str())
            .collect();
        let Some(last) = of.iter().map(|run| run.attempt).max() else {
            continue;
        };
        let last: Vec<&StepRunRow> = of.into_iter().filter(|run| run.attempt == last).collect();
        let over = last.iter().any(|run| {
            let follows = run.follows.as_ref().map(|follows| &follows["step"]);
            let went_on = run
                .follows
                .as_ref()
                .is_some_and(|follows| follows["action"] == "continue");
            went_on || follows.is_some_and(|step| step == "completed" || step == "skipped")
        });
        if over {
            done.extend(last.into_iter().cloned());
        }
    }
    done.sort_by_key(|run| run.number);
    for (number, run) in (1..).zip(&mut done) {
        run.number = number;
        run.attempt = 1;
    }
    Ok(done)
}
