//! A job that a schedule has made, as a run.

use std::collections::HashMap;

use ahp_types::common::JsonObject;
use ahp_types::state::{
    AutomationCancelledRunLifecycle, AutomationCompletedRunLifecycle, AutomationFailedRunLifecycle,
    AutomationManualRunOrigin, AutomationPendingRunLifecycle, AutomationRunLifecycle,
    AutomationRunOrigin, AutomationRunState, AutomationRunSummary, AutomationRunningRunLifecycle,
    AutomationTriggeredRunOrigin, ErrorInfo,
};
use hostler_job::{Job, Jobs};
use hostler_ledger::{
    JobEnd, JobFilter, JobId, JobStanding, JobState, JobSummary, Ledger, ReadError, ScheduledFor,
    SessionId,
};
use serde_json::Value;

use crate::ahp::uri;
use crate::wire::iso_8601;

/// How deep jobs are below each other.
const DEEPEST: usize = 16;

/// A run, as it is shown.
#[derive(Debug, Clone)]
pub(super) struct Run {
    summary: AutomationRunSummary,
    sessions: Vec<String>,
    /// Whether its job has ended, and something of it is still being ended.
    pub(super) is_ending: bool,
}

/// What a run's job is: where its sessions are shown, and how the jobs stand that live.
pub(super) struct Shown<'a> {
    pub(super) jobs: &'a Jobs,
    /// Those that live.
    pub(super) live: &'a HashMap<JobId, Job>,
    pub(super) ledger: &'a Ledger,
    /// The channels of sessions.
    pub(super) channels: &'a HashMap<SessionId, String>,
    /// By what its times are called in its automation.
    pub(super) trigger: &'a str,
}

/// The jobs that have not ended, or of which something is left.
pub(super) fn live(jobs: &Jobs) -> HashMap<JobId, Job> {
    let live = jobs.live().into_iter();
    live.map(|job| (job.id().clone(), job)).collect()
}

impl Run {
    /// A job of a schedule. Reads the ledger.
    pub(super) fn of(
        job: &JobSummary,
        scheduled: &ScheduledFor,
        shown: &Shown<'_>,
    ) -> Result<Self, ReadError> {
        // It has ended for clients when nothing of it is left, or what is left cannot be ended.
        let live = shown.live.get(&job.id).map(Job::status);
        let is_left = live.is_some_and(|live| !live.released && !live.stuck);
        let is_ending = job.state.is_ended() && is_left;
        let mut sessions = Sessions {
            shown,
            found: Vec::new(),
            first_agents: None,
        };
        if is_left || !job.state.is_ended() {
            sessions.add(&job.id, job.session.as_ref(), 0)?;
        }
        let primary_session = sessions
            .first_agents
            .clone()
            .or_else(|| sessions.found.first().cloned());
        let mut meta = JsonObject::new();
        meta.insert("dev.hostler/job".into(), job.id.as_str().into());
        let summary = AutomationRunSummary {
            resource: uri::automation_run(job.id.as_str()),
            automation: uri::automation(&scheduled.schedule),
            origin: origin(scheduled, shown.trigger),
            lifecycle: lifecycle(job, is_ending),
            primary_session,
            session_count: i64::try_from(sessions.found.len()).unwrap_or(i64::MAX),
            meta: Some(meta),
        };
        Ok(Self {
            summary,
            sessions: sessions.found,
            is_ending,
        })
    }

    /// In the history of its automation.
    pub(super) fn summary(self) -> AutomationRunSummary {
        self.summary
    }

    /// As a channel.
    pub(super) fn state(self) -> AutomationRunState {
        AutomationRunState {
            resource: self.summary.resource,
            automation: self.summary.automation,
            origin: self.summary.origin,
            lifecycle: self.summary.lifecycle,
            sessions: self.sessions,
            primary_session: self.summary.primary_session,
            meta: self.summary.meta,
        }
    }
}

/// The sessions of a job that clients are shown.
struct Sessions<'a> {
    shown: &'a Shown<'a>,
    found: Vec<String>,
    first_agents: Option<String>,
}

impl Sessions<'_> {
    /// Its own, those of the agents that it has, and those of the jobs below it.
    fn add(&mut self, job: &JobId, own: Option<&SessionId>, depth: usize) -> Result<(), ReadError> {
        self.push(own);
        let mut leases = self.shown.ledger.leases(Some(job))?;
        leases.sort_by_key(|lease| lease.taken);
        for lease in &leases {
            let agents = self.push(Some(&lease.session));
            self.first_agents = self.first_agents.take().or(agents);
        }
        if depth >= DEEPEST {
            return Ok(());
        }
        let below = JobFilter {
            parent: Some(job.clone()),
            ..JobFilter::default()
        };
        for below in self.shown.ledger.jobs(&below)?.iter().rev() {
            self.add(&below.id, below.session.as_ref(), depth + 1)?;
        }
        Ok(())
    }

    fn push(&mut self, session: Option<&SessionId>) -> Option<String> {
        let channel = self.shown.channels.get(session?)?;
        if !self.found.contains(channel) {
            self.found.push(channel.clone());
        }
        Some(channel.clone())
    }
}

fn origin(scheduled: &ScheduledFor, trigger: &str) -> AutomationRunOrigin {
    match scheduled.due {
        Some(due) => AutomationRunOrigin::Trigger(AutomationTriggeredRunOrigin {
            trigger_id: trigger.to_owned(),
            scheduled_for: Some(iso_8601(due)),
            catch_up: scheduled.late.then_some(true),
            event: None,
        }),
        None => AutomationRunOrigin::Manual(AutomationManualRunOrigin {}),
    }
}

fn lifecycle(job: &JobSummary, is_ending: bool) -> AutomationRunLifecycle {
    let created_at = iso_8601(job.created);
    let began = job.began.map(iso_8601);
    let started_at = began.clone().unwrap_or_else(|| created_at.clone());
    let completed_at = job.ended.map_or_else(|| started_at.clone(), iso_8601);
    match job.state {
        JobState::Standing(JobStanding::Pending) => {
            AutomationRunLifecycle::Pending(AutomationPendingRunLifecycle { created_at })
        }
        JobState::Ended(_) if is_ending && began.is_none() => {
            AutomationRunLifecycle::Pending(AutomationPendingRunLifecycle { created_at })
        }
        JobState::Standing(JobStanding::Running | JobStanding::Paused) => {
            AutomationRunLifecycle::Running(AutomationRunningRunLifecycle {
                created_at,
                started_at,
            })
        }
        JobState::Ended(_) if is_ending => {
            AutomationRunLifecycle::Running(AutomationRunningRunLifecycle {
                created_at,
                started_at,
            })
        }
        JobState::Ended(JobEnd::Completed) => {
            AutomationRunLifecycle::Completed(AutomationCompletedRunLifecycle {
                created_at,
                started_at,
                completed_at,
                usage: None,
            })
        }
        JobState::Ended(JobEnd::Failed) => {
            AutomationRunLifecycle::Failed(AutomationFailedRunLifecycle {
                created_at,
                started_at: began,
                completed_at,
                error: error(&job.why),
            })
        }
        JobState::Ended(JobEnd::Cancelled) => {
            AutomationRunLifecycle::Cancelled(AutomationCancelledRunLifecycle {
                created_at,
                started_at: began,
                completed_at,
            })
        }
    }
}

fn error(why: &Value) -> ErrorInfo {
    let text = |key: &str| why[key].as_str().map(str::to_owned);
    ErrorInfo {
        error_type: text("code").unwrap_or_else(|| "failed".into()),
        message: text("message").unwrap_or_else(|| "the job has failed".into()),
        stack: None,
        meta: None,
    }
}

#[cfg(test)]
mod tests {
    use hostler_ledger::JobOrigin;
    use serde_json::json;

    use super::*;

    fn job(state: JobState) -> JobSummary {
        JobSummary {
            number: 1,
            id: JobId::new(),
            name: "work".into(),
            group: None,
            parent: None,
            origin: JobOrigin::Asked,
            session: None,
            state,
            why: json!({ "code": "timed_out", "message": "its time was over" }),
            created: 1000,
            began: Some(2000),
            ended: state.is_ended().then_some(3000),
        }
    }

    #[test]
    fn a_run_says_for_what_time_it_was_made_and_whether_that_was_made_up_for() {
        let at = |due, late| {
            let scheduled = ScheduledFor {
                schedule: "nightly".into(),
                due,
                late,
                request: None,
            };
            serde_json::to_value(origin(&scheduled, "t")).expect("JSON")
        };
        assert_eq!(at(None, false), json!({"kind": "manual"}));
        let time = "1970-01-01T00:00:00.500Z";
        assert_eq!(
            at(Some(500), false),
            json!({"kind": "trigger", "triggerId": "t", "scheduledFor": time})
        );
        assert_eq!(at(Some(500), true)["catchUp"], true);
    }

    #[test]
    fn a_job_that_has_ended_runs_for_clients_until_nothing_of_it_is_left() {
        let said = |state, is_ending| {
            let lifecycle = lifecycle(&job(state), is_ending);
            serde_json::to_value(lifecycle).expect("JSON")
        };
        let (created, started) = ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z");
        let running = json!({"status": "running", "createdAt": created, "startedAt": started});
        assert_eq!(
            said(JobState::Standing(JobStanding::Paused), false),
            running
        );
        for end in [JobEnd::Completed, JobEnd::Failed, JobEnd::Cancelled] {
            assert_eq!(said(JobState::Ended(end), true), running);
            let ended = said(JobState::Ended(end), false);
            assert_eq!(ended["status"], end.as_str());
            assert_eq!(ended["startedAt"], started);
            assert_eq!(ended["completedAt"], "1970-01-01T00:00:03.000Z");
        }
        let failed = said(JobState::Ended(JobEnd::Failed), false);
        assert_eq!(
            failed["error"],
            json!({"errorType": "timed_out", "message": "its time was over"})
        );
        let pending = said(JobState::Standing(JobStanding::Pending), false);
        assert_eq!(pending, json!({"status": "pending", "createdAt": created}));
    }
}
