//! Agents that are started and initialized ahead, each in a session of its own, which becomes that of the conversation it is
//! given to. Where the host ends first, they end with it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_session::{
    Busy, By, CloseReason, OnDisconnect, OnHostExit, Policy, ResourceState, Session, SessionOptions,
};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::agents::{Agents, CloseUnless, NewConversation, Weakly};
use crate::catalogue::AgentSpec;
use crate::error::{Error, Result};
use crate::handshake::{self, Plan};
use crate::link::{Link, Waiter};
use crate::rpc::Answer;

/// Between tries to start one that did not come up.
const AGAIN: Duration = Duration::from_secs(30);
/// How long the conversation that took one has the machine to itself before the next one is started.
const PAUSE: Duration = Duration::from_millis(250);

/// An agent that has answered `initialize` and nothing more.
pub(crate) struct Spare {
    session: Session,
    warm: Warm,
    _busy: Busy,
}

/// What of a spare becomes a conversation's agent.
pub(crate) struct Warm {
    pub(crate) link: Link,
    pub(crate) initialize: Arc<RawValue>,
}

#[derive(Default)]
struct State {
    spares: HashMap<String, Vec<Spare>>,
    over: bool,
}

/// The spares of a host.
#[derive(Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    changed: Notify,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

/// The policy of a spare's session: nothing ends it but the host.
fn waiting(policy: &Policy, spec: &AgentSpec) -> Policy {
    Policy {
        idle: None,
        max_age: None,
        daily_reset: None,
        detached_grace: None,
        on_disconnect: OnDisconnect::Detach,
        on_host_exit: OnHostExit::Kill,
        limits: spec.limits.unwrap_or(policy.limits),
        ..policy.clone()
    }
}

impl Pool {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody takes or makes any more; what there is ends.
    pub(crate) async fn end(&self) {
        let spares = {
            let mut state = self.state();
            state.over = true;
            std::mem::take(&mut state.spares)
        };
        self.changed.notify_one();
        let mut closes = JoinSet::new();
        for spare in spares.into_values().flatten() {
            closes.spawn(async move {
                let by = By::new("host", "no spare agents are kept any more");
                let _ = spare.session.close(CloseReason::Shutdown, by, None).await;
            });
        }
        closes.join_all().await;
    }

    /// There is no host any more to keep them.
    pub(crate) fn abandon(&self) {
        self.state().over = true;
        self.changed.notify_one();
    }

    /// A spare that fits, with its session. Its policy is to be set.
    fn take(&self, new: &NewConversation, policy: &Policy, spec: &AgentSpec) -> Option<Spare> {
        let asked = &new.session;
        // What a session has from its opening on, and what its first process has got of it, cannot be changed.
        let limits = spec.limits.unwrap_or(asked.policy.limits);
        let fits = asked.name.is_none()
            && asked.parent.is_none()
            && asked.env.is_empty()
            // It was told that nobody can be asked so.
            && new.elicitation.is_none()
            && asked.labels.is_null()
            && asked.policy.contain == policy.contain
            && limits == spec.limits.unwrap_or(policy.limits);
        if !fits {
            return None;
        }
        let mut state = self.state();
        let spares = state.spares.get_mut(&new.agent)?;
        let place = spares.iter().position(Spare::lives)?;
        let spare = spares.remove(place);
        drop(state);
        self.changed.notify_one();
        Some(spare)
    }

    /// How many more of this agent are wanted. Those that have ended are let go of.
    fn wanted(&self, name: &str, spec: &AgentSpec, most: usize) -> Option<usize> {
        let mut state = self.state();
        if state.over {
            return None;
        }
        let spares = state.spares.entry(name.to_owned()).or_default();
        let dead: Vec<Spare> = spares.extract_if(.., |spare| !spare.lives()).collect();
        let have = spares.len();
        let all: usize = state.spares.values().map(Vec::len).sum();
        drop(state);
        for spare in dead {
            tokio::spawn(async move {
                let by = By::new("host", "the spare agent in it has ended");
                let _ = spare.session.close(CloseReason::AgentGone, by, None).await;
            });
        }
        let wanted = (spec.warm as usize).saturating_sub(have);
        Some(wanted.min(most.saturating_sub(all)))
    }

    /// Whether it is taken in.
    fn put(&self, name: &str, spare: Spare) -> bool {
        let mut state = self.state();
        if state.over {
            return false;
        }
        state.spares.entry(name.to_owned()).or_default().push(spare);
        true
    }

    fn count(&self) -> usize {
        self.state().spares.values().map(Vec::len).sum()
    }
}

impl Spare {
    fn lives(&self) -> bool {
        self.session.state().is_open()
            && self.warm.link.process.status().state != ResourceState::Ended
    }
}

impl Agents {
    /// Keeps as many agents started ahead as the catalogue says, from here on until [`Agents::hand_over`] or
    /// [`Agents::end_spares`]. To be called once, when the host is ready.
    pub fn keep_spares(&self) {
        if self.catalogue().iter().any(|(_, spec)| spec.warm > 0) {
            tokio::spawn(keep(self.weakly(), self.pool().clone()));
        }
    }

    /// Ends the agents that nobody has taken, and starts no more.
    pub async fn end_spares(&self) {
        self.pool().end().await;
    }

    /// How many agents are up and wait to be taken.
    pub fn spares(&self) -> usize {
        self.pool().count()
    }

    /// A session with an agent that is up, if there is one that will do.
    pub(crate) async fn take_spare(
        &self,
        new: &NewConversation,
        by: &By,
    ) -> Option<(Session, Warm)> {
        let spec = self.catalogue().get(&new.agent)?;
        let spare = self.pool().take(new, &self.options().spare_policy, spec)?;
        let guard = CloseUnless(Some(spare.session.clone()));
        let mut policy = new.session.policy.clone();
        policy.limits = spec.limits.unwrap_or(policy.limits);
        spare.session.set_policy(policy, by.clone()).await.ok()?;
        // Its idle time begins now.
        spare.session.touch();
        guard.keep();
        Some((spare.session, spare.warm))
    }

    /// Logs in to an agent that no conversation has yet, by the parameters of `authenticate`: one is started and initialized
    /// in a session of its own, told, and closed. What it answers; how it remembers is its own affair.
    ///
    /// Cancel safe: dropped at any await, what was made is closed.
    ///
    /// # Errors
    /// [`Error::NoAgent`], [`Error::Session`], [`Error::Handshake`], [`Error::AgentEnded`].
    pub async fn authenticate(&self, agent: &str, params: Box<RawValue>, by: By) -> Result<Answer> {
        let spec = self.catalogue().get(agent);
        let spec = spec.ok_or_else(|| Error::NoAgent(agent.to_owned()))?;
        let mut spare = self.make_spare(agent, spec, by.clone()).await?;
        let guard = CloseUnless(Some(spare.session.clone()));
        let caller = spare.warm.link.caller.clone();
        let answer = tokio::select! {
            answer = caller.call("authenticate", &params, Waiter::Call) => answer,
            () = handshake::read_ahead(&mut spare.warm.link) => None,
        };
        let answer = answer.ok_or_else(|| spare.warm.link.ended());
        guard.keep();
        spare.session.close(CloseReason::Client, by, None).await?;
        answer
    }

    async fn make_spare(&self, name: &str, spec: &AgentSpec, by: By) -> Result<Spare> {
        let cwd = spec.cwd.clone().unwrap_or_else(|| PathBuf::from("/"));
        let options = SessionOptions {
            cwd: Some(cwd.clone()),
            policy: waiting(&self.options().spare_policy, spec),
            labels: json!({ "spare_agent": name }),
            ..SessionOptions::default()
        };
        let session = self.sessions().open(options, by.clone()).await?;
        let guard = CloseUnless(Some(session.clone()));
        let busy = session.busy();
        let plan = Plan {
            agent: name.to_owned(),
            spec: spec.clone(),
            wrap: self.options().wrap.clone(),
            tools: None,
            new: Arc::new(NewConversation {
                agent: name.to_owned(),
                cwd,
                ..NewConversation::default()
            }),
            session: session.clone(),
            earlier: None,
            warm: None,
            by,
        };
        let limits = (self.options().max_message, self.options().max_unread);
        let warm = handshake::ahead(plan, limits).await?;
        guard.keep();
        Ok(Spare {
            session,
            warm,
            _busy: busy,
        })
    }
}

async fn keep(agents: Weakly, pool: Arc<Pool>) {
    loop {
        let mut failed = false;
        let Some(all) = agents.get() else { return };
        let names: Vec<(String, AgentSpec)> = all
            .catalogue()
            .iter()
            .filter(|(_, spec)| spec.warm > 0)
            .map(|(name, spec)| (name.to_owned(), spec.clone()))
            .collect();
        for (name, spec) in names {
            loop {
                let Some(wanted) = pool.wanted(&name, &spec, all.options().max_spares) else {
                    return;
                };
                if wanted == 0 {
                    break;
                }
                let by = By::new("host", "an agent is kept started ahead");
                match all.make_spare(&name, &spec, by).await {
                    Ok(spare) => {
                        let process = spare.warm.link.process.clone();
                        let session = spare.session.clone();
                        if !pool.put(&name, spare) {
                            let by = By::new("host", "no spare agents are kept any more");
                            let _ = session.close(CloseReason::Shutdown, by, None).await;
                            return;
                        }
                        let pool = Arc::downgrade(&pool);
                        tokio::spawn(async move {
                            process.wait().await;
                            if let Some(pool) = pool.upgrade() {
                                pool.changed.notify_one();
                            }
                        });
                    }
                    Err(error) => {
                        tracing::warn!(agent = name, %error, "no spare agent could be started");
                        failed = true;
                        break;
                    }
                }
            }
        }
        drop(all);
        if failed {
            tokio::time::sleep(AGAIN).await;
        } else {
            pool.changed.notified().await;
            tokio::time::sleep(PAUSE).await;
        }
    }
}
