//! Automations: the schedules of the host, and the jobs that they make, as clients are shown them.
//!
//! A schedule is an automation ([`entry`]), a job that it makes is a run ([`run`]), and what a client writes becomes a schedule whose
//! flow is one turn with an agent ([`definition`]). The ledger is the only source: what is shown is a function of it and of how
//! the jobs stand that live, and is made anew for what an event of the ledger names ([`follow`]). While nobody follows one of these
//! channels there is none, and nothing is looked at.

mod cron;
mod definition;
mod entry;
mod follow;
pub(super) mod methods;
mod run;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use ahp_types::actions::{AutomationRemovedAction, AutomationSetAction, StateAction};
use ahp_types::state::{AutomationEntry, AutomationSessionOrigin, AutomationState, SessionOrigin};
use hostler_job::Error as JobError;
use hostler_ledger::JobId;
use hostler_session::Session;
use tokio::sync::Notify;

use super::error::{AhpError, Rejection};
use super::hub::{Act, Channel, ChannelState, Dispatched, Hub, Taken, Who, Work};
use super::uri::{self, AUTOMATIONS};
use crate::gateway::Gateway;

/// How many runs of an automation are shown at first, and how many more at a time.
const PAGE: usize = 20;
/// How many are shown at the most.
const MOST: usize = 500;

/// What is open, and how much of it is shown.
#[derive(Debug, Default)]
struct Books {
    /// Whether something follows the ledger.
    follows: bool,
    /// The channels that are there, and since when nobody follows one.
    open: HashMap<Arc<str>, Option<Instant>>,
    /// How many runs are shown of an automation, where that are more than one page.
    windows: HashMap<String, usize>,
    /// The jobs that have ended and whose resources are waited for.
    waited_for: HashSet<JobId>,
}

#[derive(Debug)]
struct Inner {
    hub: Hub,
    books: tokio::sync::Mutex<Books>,
    /// The jobs of which nothing is left since this was last looked at.
    gone: Mutex<Vec<JobId>>,
    /// Something is there to be looked at that the ledger does not tell of.
    changed: Notify,
    /// The sessions that clients are shown are others.
    sessions: std::sync::atomic::AtomicBool,
}

/// The automations of a host. Clones are the same.
#[derive(Debug, Clone)]
pub(in crate::ahp) struct Automations {
    inner: Arc<Inner>,
}

/// The automation and the run that a session was opened for.
pub(super) fn origin_of(session: &Session) -> Option<SessionOrigin> {
    let (schedule, job) = hostler_job::scheduled(session)?;
    let origin = AutomationSessionOrigin {
        automation: uri::automation(&schedule),
        run: uri::automation_run(job.as_str()),
    };
    Some(SessionOrigin::Automation(origin))
}

fn refused(error: JobError) -> Rejection {
    Rejection::new(error.to_string())
}

impl Automations {
    pub(super) fn new(hub: Hub) -> Self {
        Self {
            inner: Arc::new(Inner {
                hub,
                books: tokio::sync::Mutex::default(),
                gone: Mutex::default(),
                changed: Notify::new(),
                sessions: false.into(),
            }),
        }
    }

    fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// Whether a channel is one of these.
    pub(super) fn is_one(channel: &str) -> bool {
        channel == AUTOMATIONS || uri::automation_run_part(channel).is_some()
    }

    /// The sessions that clients are shown are others than before.
    pub(super) fn sessions_changed(&self) {
        use std::sync::atomic::Ordering;
        self.inner.sessions.store(true, Ordering::Release);
        self.inner.changed.notify_one();
    }

    /// Nothing is left of a job.
    fn job_gone(&self, job: JobId) {
        let gone = self.inner.gone.lock();
        gone.unwrap_or_else(PoisonError::into_inner).push(job);
        self.inner.changed.notify_one();
    }

    /// Opens a channel, if there is one of this name, and keeps it for who is about to follow it.
    ///
    /// Cancel safe.
    pub(super) async fn open(&self, gateway: &Gateway, channel: &str) -> Result<(), AhpError> {
        let mut books = self.inner.books.lock().await;
        if let Some(left) = books.open.get_mut(channel) {
            *left = Some(Instant::now());
            return Ok(());
        }
        // Before the first look, so that nothing falls between.
        let news = gateway.sessions().ledger().subscribe();
        let state = match uri::automation_run_part(channel) {
            Some(id) => {
                let run = self.run(gateway, &mut books, id).await?;
                let run = run.ok_or_else(|| super::hub::missing(channel))?;
                ChannelState::AutomationRun(Box::new(run.state()))
            }
            None => {
                let entries = self.entries(gateway, &mut books).await?;
                let meta = None;
                ChannelState::Automations(Box::new(AutomationState { entries, meta }))
            }
        };
        let channel: Arc<str> = channel.into();
        let served = Served {
            automations: self.clone(),
            gateway: gateway.clone(),
            channel: channel.clone(),
        };
        self.hub()
            .register(channel.clone(), state, Arc::new(served));
        books.open.insert(channel, Some(Instant::now()));
        if !books.follows {
            books.follows = true;
            tokio::spawn(self.clone().follow(gateway.clone(), news));
        }
        Ok(())
    }

    /// What is shown of an automation.
    fn shown(&self, resource: &str) -> Option<AutomationEntry> {
        let look = |state: &ChannelState| match state {
            ChannelState::Automations(state) => {
                let mut entries = state.entries.iter();
                entries.find(|entry| entry.resource == resource).cloned()
            }
            _ => None,
        };
        self.hub().look(AUTOMATIONS, look).flatten()
    }

    /// Shows a schedule as it is now, or that it is no more, where that is not what is shown.
    async fn show(&self, gateway: &Gateway, books: &mut Books, name: &str) -> Result<(), AhpError> {
        if !books.open.contains_key(AUTOMATIONS) {
            return Ok(());
        }
        let resource = uri::automation(name);
        let before = self.shown(&resource);
        let action = match (before, self.entry(gateway, books, name).await?) {
            (Some(_), None) => {
                books.windows.remove(name);
                StateAction::AutomationRemoved(AutomationRemovedAction { resource })
            }
            (before, Some(now)) if before.as_ref() != Some(&now) => {
                StateAction::AutomationSet(Box::new(AutomationSetAction { automation: now }))
            }
            _ => return Ok(()),
        };
        self.hub().publish(AUTOMATIONS, action, None);
        Ok(())
    }

    /// Does what a client asks of the catalogue, shows what came of it, and that it was heard.
    async fn catalogue(
        &self,
        gateway: &Gateway,
        who: &Who,
        dispatched: Dispatched,
    ) -> Result<Taken, Rejection> {
        let name_of = |resource: &str| {
            let name = uri::automation_part(resource).map(str::to_owned);
            name.ok_or_else(|| {
                Rejection::new("an automation's URI is `ahp-automation:/` and a name")
            })
        };
        let schedules = gateway.jobs().schedules();
        // What clients ask for is done one after the other, and before its events are looked at.
        let mut books = self.inner.books.lock().await;
        let _starting = gateway.starting().map_err(AhpError::from)?;
        match &dispatched.action {
            StateAction::AutomationCreateRequested(asked) => {
                let name = name_of(&asked.resource)?;
                let new = definition::new(gateway, &name, asked.definition.clone())?;
                let by = who.by("automation/createRequested");
                schedules.create(new, by).await.map_err(refused)?;
                self.show(gateway, &mut books, &name).await?;
            }
            StateAction::AutomationUpdateRequested(asked) => {
                let name = name_of(&asked.resource)?;
                let change = definition::change(gateway, &name, asked.changes.clone()).await?;
                let by = who.by("automation/updateRequested");
                schedules.change(&name, change, by).await.map_err(refused)?;
                self.show(gateway, &mut books, &name).await?;
            }
            StateAction::AutomationRemoved(asked) => {
                let name = name_of(&asked.resource)?;
                match schedules.remove(&name, who.by("automation/removed")).await {
                    Ok(()) => {}
                    // Of what is not there, there is nothing to do.
                    Err(JobError::NoSchedule(_)) => {}
                    Err(error) => return Err(refused(error)),
                }
                books.windows.remove(&name);
            }
            _ => return Err(Rejection::new("only the host makes this action")),
        }
        self.hub().act(AUTOMATIONS, Act::from(dispatched));
        Ok(Taken::Shown)
    }

    /// Does what a client asks of a run.
    async fn of_run(
        &self,
        gateway: &Gateway,
        channel: &str,
        who: &Who,
        action: &StateAction,
    ) -> Result<Taken, Rejection> {
        let StateAction::AutomationRunCancelRequested(_) = action else {
            return Err(Rejection::new("only the host makes this action"));
        };
        let id = uri::automation_run_part(channel).unwrap_or_default();
        let job = gateway.jobs().get(id).map_err(refused)?;
        if job.status().state.is_ended() {
            return Err(Rejection::new(format!("job {id} has ended")));
        }
        job.begin_cancel(who.by("automationRun/cancelRequested"));
        Ok(Taken::Echo)
    }
}

/// One of these channels.
struct Served {
    automations: Automations,
    gateway: Gateway,
    channel: Arc<str>,
}

impl Channel for Served {
    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(async move {
            let (automations, gateway) = (&self.automations, &self.gateway);
            match &*self.channel {
                AUTOMATIONS => automations.catalogue(gateway, who, dispatched).await,
                run => {
                    automations
                        .of_run(gateway, run, who, &dispatched.action)
                        .await
                }
            }
        })
    }

    fn followed(&self, _: usize) {
        self.automations.inner.changed.notify_one();
    }
}
