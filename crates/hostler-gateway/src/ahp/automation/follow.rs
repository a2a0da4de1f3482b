//! What is read of the ledger, and when: for what its events name, while somebody follows.

use std::collections::{HashMap, HashSet};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahp_types::actions::{
    AutomationRunLifecycleChangedAction, AutomationRunPrimarySessionChangedAction,
    AutomationRunSessionRemovedAction, AutomationRunSessionSetAction, StateAction,
};
use ahp_types::state::{AutomationEntry, AutomationRunState};
use hostler_job::{Error as JobError, Job, Scheduled};
use hostler_ledger::{Event, JobId, Ledger, SessionId};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::entry::{self, Said};
use super::run::{Run, Shown, live};
use super::{Automations, Books, PAGE};
use crate::ahp::error::AhpError;
use crate::ahp::hub::{ChannelState, GRACE};
use crate::ahp::uri::{self, AUTOMATIONS};
use crate::gateway::Gateway;
use crate::routes::blocking;

/// How long what comes together is waited for.
const TOGETHER: Duration = Duration::from_millis(5);
/// When the ledger could not be read, it is tried again after this.
const AGAIN: Duration = Duration::from_secs(1);

/// What is to be looked at again.
#[derive(Debug, Default)]
struct Dirty {
    /// Everything: too much has happened.
    all: bool,
    schedules: HashSet<String>,
    jobs: HashSet<JobId>,
}

impl Dirty {
    fn is_empty(&self) -> bool {
        !self.all && self.schedules.is_empty() && self.jobs.is_empty()
    }

    fn add(&mut self, event: &Event) {
        let kind = event.kind.split('.').next().unwrap_or_default();
        match kind {
            "schedule" => {
                let name = event.detail["name"].as_str().map(str::to_owned);
                self.schedules.extend(name);
            }
            "job" | "lease" => {}
            _ => return,
        }
        self.jobs.extend(event.job.clone());
    }

    fn hear(&mut self, news: &mut broadcast::Receiver<Event>) {
        loop {
            match news.try_recv() {
                Ok(event) => self.add(&event),
                Err(TryRecvError::Lagged(_)) => self.all = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

/// The schedule of a job, or of the job above all that it is below of; and that job.
fn schedule_of(
    live: &HashMap<JobId, Job>,
    ledger: &Ledger,
    job: &JobId,
) -> Option<(String, JobId)> {
    let mut top = job;
    // One that lives knows its parent; those below one that has ended are gone before it is.
    while let Some(parent) = live.get(top).and_then(Job::parent) {
        top = parent;
    }
    let found = ledger.job_summary(top).ok().flatten()?;
    let scheduled = found.origin.scheduled()?;
    Some((scheduled.schedule.clone(), found.id))
}

impl Automations {
    /// Follows the ledger until no channel is open.
    pub(super) async fn follow(self, gateway: Gateway, mut news: broadcast::Receiver<Event>) {
        let mut phases = gateway.phases();
        let mut failed = false;
        loop {
            let mut dirty = Dirty {
                all: failed,
                ..Dirty::default()
            };
            let again = async {
                match failed {
                    true => tokio::time::sleep(AGAIN).await,
                    false => std::future::pending().await,
                }
            };
            let next = self.next_end().await;
            let end = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let over = async {
                let _ = phases.wait_for(|phase| phase.is_over()).await;
            };
            tokio::select! {
                () = over => return self.end().await,
                event = news.recv() => match event {
                    Ok(event) => {
                        dirty.add(&event);
                        if dirty.is_empty() {
                            continue;
                        }
                    }
                    Err(RecvError::Lagged(_)) => dirty.all = true,
                    Err(RecvError::Closed) => return,
                },
                () = self.inner.changed.notified() => {}
                () = again => {}
                () = end => {}
            }
            tokio::time::sleep(TOGETHER).await;
            let mut books = self.inner.books.lock().await;
            dirty.hear(&mut news);
            failed = !self.look_again(&gateway, &mut books, dirty).await;
            if self.end_unfollowed(&mut books) {
                return;
            }
        }
    }

    /// When the next channel ends that nobody follows.
    async fn next_end(&self) -> Option<Instant> {
        let books = self.inner.books.lock().await;
        let left = books.open.values().flatten();
        left.min().map(|left| *left + GRACE)
    }

    /// Ends channels that nobody has followed for a while; whether none is left.
    fn end_unfollowed(&self, books: &mut Books) -> bool {
        let now = Instant::now();
        let hub = self.hub();
        books.open.retain(|channel, left| {
            if hub.followers(channel) > 0 {
                *left = None;
                return true;
            }
            let since = *left.get_or_insert(now);
            let stays = now.saturating_duration_since(since) < GRACE;
            if !stays {
                hub.remove(channel);
            }
            stays
        });
        if !books.open.contains_key(AUTOMATIONS) {
            books.windows.clear();
        }
        if books.open.is_empty() {
            books.follows = false;
            books.waited_for.clear();
        }
        books.open.is_empty()
    }

    /// Ends all channels: the jobs are no longer here.
    async fn end(&self) {
        let mut books = self.inner.books.lock().await;
        for channel in std::mem::take(&mut books.open).into_keys() {
            self.hub().remove(&channel);
        }
    }

    /// Whether all is shown as it is.
    async fn look_again(&self, gateway: &Gateway, books: &mut Books, mut dirty: Dirty) -> bool {
        let gone = std::mem::take(
            &mut *self
                .inner
                .gone
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for job in &gone {
            books.waited_for.remove(job);
        }
        dirty.jobs.extend(gone);
        if self.inner.sessions.swap(false, Ordering::AcqRel) {
            // Any that lives may have got another session to show.
            let live = gateway.jobs().live().into_iter();
            let live = live.filter(|job| job.schedule().is_some());
            dirty.jobs.extend(live.map(|job| job.id().clone()));
        }
        if dirty.is_empty() {
            return true;
        }
        let shown = self.show_all(gateway, books, dirty).await;
        if let Err(error) = &shown {
            tracing::error!(%error, "automations cannot be shown as they are");
        }
        shown.is_ok()
    }

    async fn show_all(
        &self,
        gateway: &Gateway,
        books: &mut Books,
        mut dirty: Dirty,
    ) -> Result<(), AhpError> {
        let ledger = gateway.sessions().ledger().clone();
        let (jobs, all) = (std::mem::take(&mut dirty.jobs), gateway.jobs().clone());
        let found = blocking(move || {
            let live = live(&all);
            let found = jobs.into_iter().map(|job| {
                let of = schedule_of(&live, &ledger, &job);
                (job, of)
            });
            found.collect::<Vec<_>>()
        });
        let mut runs: HashSet<JobId> = HashSet::new();
        for (job, of) in found.await? {
            match of {
                Some((schedule, top)) => {
                    dirty.schedules.insert(schedule);
                    runs.insert(top);
                }
                // It was deleted.
                None => {
                    dirty.schedules.extend(self.shows(&job));
                    runs.insert(job);
                }
            }
        }
        let open = books.open.keys();
        let open: Vec<String> = open
            .filter_map(|channel| uri::automation_run_part(channel))
            .map(str::to_owned)
            .collect();
        for id in open {
            if dirty.all || runs.iter().any(|run| run.as_str() == id) {
                self.show_run(gateway, books, &id).await?;
            }
        }
        if dirty.all && books.open.contains_key(AUTOMATIONS) {
            let schedules = gateway.jobs().schedules();
            let list = blocking(move || schedules.list()).await?;
            let list = list.map_err(failed)?;
            dirty
                .schedules
                .extend(list.into_iter().map(|record| record.row.name));
            dirty.schedules.extend(self.names());
        }
        for name in dirty.schedules {
            self.show(gateway, books, &name).await?;
        }
        Ok(())
    }

    /// The names of all automations that are shown.
    fn names(&self) -> Vec<String> {
        self.of_entries(|entry| uri::automation_part(&entry.resource).map(str::to_owned))
    }

    /// The automations in whose history a run is shown.
    fn shows(&self, job: &JobId) -> Vec<String> {
        let run = uri::automation_run(job.as_str());
        self.of_entries(|entry| {
            let shown = entry.runs.iter().any(|one| one.resource == run);
            let name = uri::automation_part(&entry.resource)?;
            shown.then(|| name.to_owned())
        })
    }

    fn of_entries(&self, what: impl Fn(&AutomationEntry) -> Option<String>) -> Vec<String> {
        let look = |state: &ChannelState| match state {
            ChannelState::Automations(state) => state.entries.iter().filter_map(&what).collect(),
            _ => Vec::new(),
        };
        self.hub().look(AUTOMATIONS, look).unwrap_or_default()
    }

    /// Shows what is new of a run.
    async fn show_run(
        &self,
        gateway: &Gateway,
        books: &mut Books,
        id: &str,
    ) -> Result<(), AhpError> {
        let channel = uri::automation_run(id);
        let Some(now) = self.run(gateway, books, id).await? else {
            // It is known no more.
            self.hub().remove(&channel);
            books.open.remove(&*channel);
            return Ok(());
        };
        let before = self.hub().look(&channel, |state| match state {
            ChannelState::AutomationRun(state) => Some((**state).clone()),
            _ => None,
        });
        let Some(before) = before.flatten() else {
            return Ok(());
        };
        for action in changes(&before, &now.state()) {
            self.hub().publish(&channel, action, None);
        }
        Ok(())
    }

    /// A run as it is now; `None` where there is none.
    pub(super) async fn run(
        &self,
        gateway: &Gateway,
        books: &mut Books,
        id: &str,
    ) -> Result<Option<Run>, AhpError> {
        let Ok(id) = id.parse::<JobId>() else {
            return Ok(None);
        };
        let channels = gateway.ahp().channels_of_sessions().await;
        let (jobs, ledger) = (gateway.jobs().clone(), gateway.sessions().ledger().clone());
        let asked = id.clone();
        let read = move || {
            let job = ledger.job_summary(&asked)?;
            let Some((job, scheduled)) = job
                .as_ref()
                .and_then(|job| Some((job, job.origin.scheduled()?)))
            else {
                return Ok(None);
            };
            let record = ledger.schedule(&scheduled.schedule)?;
            let what = record.and_then(|record| Scheduled::try_from(&record).ok());
            let said = what.map(|what| Said::of(&what)).unwrap_or_default();
            let live = live(&jobs);
            let shown = Shown {
                jobs: &jobs,
                live: &live,
                ledger: &ledger,
                channels: &channels,
                trigger: said.trigger(),
            };
            Run::of(job, scheduled, &shown).map(Some)
        };
        let run = blocking(read).await?.map_err(failed)?;
        if run.as_ref().is_some_and(|run| run.is_ending) {
            self.await_end(gateway, books, id);
        }
        Ok(run)
    }

    /// An automation as it is now; `None` where there is none.
    pub(super) async fn entry(
        &self,
        gateway: &Gateway,
        books: &mut Books,
        name: &str,
    ) -> Result<Option<AutomationEntry>, AhpError> {
        let entries = self.read(gateway, books, Some(name.to_owned())).await?;
        Ok(entries.into_iter().next())
    }

    /// All automations as they are now.
    pub(super) async fn entries(
        &self,
        gateway: &Gateway,
        books: &mut Books,
    ) -> Result<Vec<AutomationEntry>, AhpError> {
        self.read(gateway, books, None).await
    }

    async fn read(
        &self,
        gateway: &Gateway,
        books: &mut Books,
        name: Option<String>,
    ) -> Result<Vec<AutomationEntry>, AhpError> {
        let channels: HashMap<SessionId, String> = gateway.ahp().channels_of_sessions().await;
        let (jobs, ledger) = (gateway.jobs().clone(), gateway.sessions().ledger().clone());
        let windows = books.windows.clone();
        let read = move || {
            let records = match name {
                Some(name) => ledger.schedule(&name)?.into_iter().collect(),
                None => ledger.schedules()?,
            };
            let live = live(&jobs);
            let shown = Shown {
                jobs: &jobs,
                live: &live,
                ledger: &ledger,
                channels: &channels,
                trigger: "",
            };
            let mut entries = Vec::new();
            for record in records {
                let what = match Scheduled::try_from(&record) {
                    Ok(what) => what,
                    Err(error) => {
                        tracing::error!(%error, "a schedule is not shown");
                        continue;
                    }
                };
                let window = windows.get(&record.row.name).copied().unwrap_or(PAGE);
                entries.push(entry::entry(&record, &what, window, &shown)?);
            }
            Ok::<_, hostler_ledger::ReadError>(entries)
        };
        let mut entries = Vec::new();
        for (entry, ending) in blocking(read).await?.map_err(failed)? {
            for job in ending {
                self.await_end(gateway, books, job);
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// A job has ended: it is looked at again when nothing of it is left.
    fn await_end(&self, gateway: &Gateway, books: &mut Books, id: JobId) {
        if !books.waited_for.insert(id.clone()) {
            return;
        }
        let (automations, jobs) = (self.clone(), gateway.jobs().clone());
        tokio::spawn(async move {
            if let Ok(job) = jobs.get(id.as_str())
                && let Err(JobError::Stopping) = job.wait().await
            {
                return;
            }
            automations.job_gone(id);
        });
    }
}

fn failed(error: impl std::fmt::Display) -> AhpError {
    AhpError::internal(error.to_string())
}

/// What makes one state of a run the other.
fn changes(before: &AutomationRunState, now: &AutomationRunState) -> Vec<StateAction> {
    let mut actions = Vec::new();
    for session in &before.sessions {
        if !now.sessions.contains(session) {
            let session = session.clone();
            let action = AutomationRunSessionRemovedAction { session };
            actions.push(StateAction::AutomationRunSessionRemoved(action));
        }
    }
    for session in &now.sessions {
        if !before.sessions.contains(session) {
            let session = session.clone();
            let action = AutomationRunSessionSetAction { session };
            actions.push(StateAction::AutomationRunSessionSet(action));
        }
    }
    let primary = before.primary_session.as_ref();
    let primary = primary.filter(|primary| now.sessions.contains(primary));
    if primary != now.primary_session.as_ref() {
        let primary_session = now.primary_session.clone();
        let action = AutomationRunPrimarySessionChangedAction { primary_session };
        actions.push(StateAction::AutomationRunPrimarySessionChanged(action));
    }
    if before.lifecycle != now.lifecycle {
        let lifecycle = now.lifecycle.clone();
        let action = AutomationRunLifecycleChangedAction { lifecycle };
        actions.push(StateAction::AutomationRunLifecycleChanged(Box::new(action)));
    }
    actions
}
