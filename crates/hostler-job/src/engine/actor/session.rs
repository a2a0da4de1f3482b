//! The session of a job: how it is opened, and what its end means.

use hostler_ledger::{By, Change, JobEnd, JobStanding, JobState};
use hostler_session::{CloseReason, Session, SessionOptions};
use serde_json::Value;

use super::{Actor, Left, Stops};
use crate::engine::label;
use crate::engine::progress::End;

impl Actor {
    /// The session that holds all that the job starts.
    pub(super) async fn open_session(&mut self) -> Stops<()> {
        if self.session.is_some() {
            return Ok(());
        }
        let above = self.shared.parent.clone();
        let above = above.and_then(|above| self.jobs.get(above.as_str()).ok());
        let parent = match above {
            // After the death of a host, that one opens a new one too.
            Some(above) => {
                let opened = async move { above.opened().await };
                self.unless_ended(opened).await?
            }
            None => None,
        };
        let options = SessionOptions {
            parent,
            cwd: Some(self.shared.cwd().clone()),
            policy: self.shared.kept.policy.clone(),
            labels: label::of_job(
                &self.shared.id,
                &self.shared.loaded.flow.name,
                self.shared.schedule(),
            ),
            ..SessionOptions::default()
        };
        let by = By::new(format!("job {}", self.shared.id), "it begins");
        let sessions = self.jobs.sessions().clone();
        let session = match self.unless_ended(sessions.open(options, by)).await? {
            Ok(session) => session,
            Err(hostler_session::Error::Stopping) => {
                let end = End::new(JobEnd::Cancelled, "shutdown", "the host was told to stop");
                return Err(Left::end(end, By::new("host", "it stops")));
            }
            Err(error) => {
                let message = format!("no session could be opened for it: {error}");
                let end = End::new(JobEnd::Failed, "no_session", message);
                return Err(Left::end(end, self.by.clone()));
            }
        };
        let id = session.id().clone();
        self.session = Some(session);
        let mut changes = vec![Change::JobSession {
            id: self.shared.id.clone(),
            session: id.clone(),
        }];
        if !self.begun {
            changes.push(self.standing(JobStanding::Running, Value::Null, self.by.clone()));
        }
        self.write(changes).await?;
        let begun = self.begun;
        self.begun = true;
        self.shared.status.send_modify(|status| {
            status.session = Some(id);
            if !begun {
                status.state = JobState::Standing(JobStanding::Running);
            }
        });
        Ok(())
    }

    /// Why the job ends whose session is no longer open.
    pub(super) fn session_gone(&self) -> Left {
        let reason = self
            .session
            .as_ref()
            .and_then(|session| session.info().reason);
        if reason == Some(CloseReason::Shutdown) {
            let end = End::new(JobEnd::Cancelled, "shutdown", "the host was told to stop");
            return Left::end(end, By::new("host", "it stops"));
        }
        if reason == Some(CloseReason::ParentClosed) && self.shared.parent.is_some() {
            let end = End::new(
                JobEnd::Cancelled,
                "parent_ended",
                "the job above it has ended",
            );
            return Left::end(end, By::new("host", "its parent has ended"));
        }
        let why = reason.map_or_else(|| "gone".to_owned(), |reason| reason.to_string());
        let message = format!("its session was closed: {why}");
        let end = End::new(JobEnd::Failed, "session_closed", message);
        Left::end(end, By::new("host", "its session was closed"))
    }
}

/// Waits until the session is no longer open.
pub(super) async fn closed(session: Option<&Session>) {
    match session {
        Some(session) => {
            let mut state = session.state();
            while state.is_open() {
                let next = session.changed_from(state).await;
                if next == state {
                    // It is left to the next host, as the job will be.
                    std::future::pending::<()>().await;
                }
                state = next;
            }
        }
        None => std::future::pending().await,
    }
}
