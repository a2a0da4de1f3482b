//! Agents that are shared by lease: reused within and across jobs, capped, and ended when nobody has them any more.
//!
//! # Theory of operation
//!
//! A *member* is a conversation in a session of its own. A *holder* (a job) has a member from its first use of it until the holder
//! ends ([`AgentPool::release_holder`]). A *use* ([`PoolUse`]) is one step's; dropping it gives the member back.
//!
//! * **One key, one kind.** What has the same [`PoolKey`] is interchangeable: an idle member is taken by whoever wants its kind.
//!   Its earlier context is forgotten first ([`Conversation::renew`]): the process is the same, what was said is not there.
//! * **Shared by name** ([`Wanted::shared`]), a member is one holder's alone until that ends, and all uses of the name are in one
//!   context.
//! * **Books and acts.** All books are in one value behind a lock that is never held over an await. Each thing that happens (a
//!   request, the end of a use, an agent that has died) changes the books under it, serves who waits as far as there is room, and gives
//!   back what is to be done; that is begun when the lock is let go of, each in a task of its own, whose end is the next thing
//!   that happens. What a task finds changed since it was begun it leaves alone: phases are numbered.
//! * **Nothing is half-owned.** Whoever wants an agent waits for a channel. Who has gone is seen by whoever works for it: what
//!   is being made is broken off and its session closed. An agent that was handed over but not heard of is given back by being dropped.
//! * **Cancelled is not over.** A member whose last use is dropped is idle when no turn runs or waits in it, and not before.
//!   Nothing is cancelled by the drop: that is for the user to do, and for the end of its holder.
//! * **Caps** count members whose agent may be up, until it is proven gone. For one more, an idle member is ended, those that are
//!   nobody's alone first; of a dedicated one the agent only, which comes back at its next use. Where none is idle the request
//!   waits: in the order of requests, but that one that waits for a cap of its own agent or group holds up only those that wait for
//!   the same. Idle dedicated members never hold anybody up, so a holder cannot block itself but by asking while it uses.
//! * **Unhealthy ones** ([`PoolUse::discard`], an agent that has ended, a session that was closed) are not given out any more, and end
//!   with their last use. A shared one whose agent has ended stays: the next agent is told what was said.
//! * **Hosts.** Members end with the host, or as the policy of their session says; what the next one adopted is taken into its pool by
//!   [`AgentPool::adopt`], and what nobody takes is closed by [`AgentPool::end_unadopted`].

mod key;
mod room;
mod state;
mod tasks;

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_ledger::{ConversationId, SessionId};
use hostler_session::{By, CloseReason};
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

pub use key::PoolKey;
use state::{Action, Member, Phase, Request, State};

use crate::agents::{Agents, NewConversation};
use crate::conversation::Conversation;
use crate::error::{Error, Result};

/// The label of a member's session: its key.
const LABEL: &str = "dev.hostler/pool";

/// What holds for a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolOptions {
    /// How long a member that nobody has any more waits for somebody who takes it. Zero: it is ended at once.
    pub warm: Duration,
    /// How many agents may be up. 0: any number.
    pub all: usize,
    /// How many of one name in the catalogue. 0: any number.
    pub by_agent: usize,
    /// How many in one group. 0: any number.
    pub by_group: usize,
}

/// What somebody wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The conversation. Its session's name is not looked at: members have none.
    pub new: NewConversation,
    /// The group for whose cap it counts.
    pub group: Option<String>,
    /// Whose it is: a job's id.
    pub holder: String,
    /// The name of a conversation that is shared by the uses of one holder. Without: a use is alone, and begins afresh.
    pub shared: Option<String>,
    /// Who asks.
    pub by: By,
}

/// How a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// Its agent is being brought up, or given a fresh context.
    Starting,
    /// It is in use.
    InUse,
    /// Its use is over, but something that was begun in it is not.
    Settling,
    /// It can be taken.
    Idle,
    /// Its agent was ended to make room, or has ended, and comes back at its next use.
    Evicted,
    /// It is being closed.
    Ending,
}

/// A member in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// What distinguishes it.
    pub key: PoolKey,
    /// The agent's name in the catalogue.
    pub agent: String,
    /// Its session, once it has one.
    pub session: Option<SessionId>,
    /// Its conversation, once it has one.
    pub conversation: Option<ConversationId>,
    /// The group for which it counts.
    pub group: Option<String>,
    /// How it stands.
    pub state: MemberState,
    /// Who has it.
    pub holders: BTreeSet<String>,
    /// How many uses of it there are now.
    pub uses: usize,
    /// How often it was given out.
    pub given: u64,
    /// The holder and the name that it is dedicated to.
    pub dedicated: Option<(String, String)>,
    /// Whether it is not given out any more.
    pub discarded: bool,
}

/// Agents that are shared by lease. Clones are the same.
#[derive(Debug, Clone)]
pub struct AgentPool {
    inner: Arc<Inner>,
}

struct Inner {
    agents: Agents,
    options: PoolOptions,
    state: Mutex<State>,
    /// Counts what happens.
    changed: watch::Sender<u64>,
    runtime: Handle,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentPool")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// One use of a member. Dropping it gives the member back; a turn that is under way then goes on, unless it was cancelled.
#[derive(Debug)]
#[must_use = "dropping it gives the agent back"]
pub struct PoolUse {
    pool: AgentPool,
    id: u64,
    key: PoolKey,
    conversation: Conversation,
    holder: String,
    is_new: bool,
    /// Whether whoever asked for it has it.
    heard: bool,
    /// Whether anything may have been said.
    touched: AtomicBool,
}

impl PoolUse {
    /// The conversation, with its agent up.
    pub fn conversation(&self) -> &Conversation {
        self.touched.store(true, Ordering::Relaxed);
        &self.conversation
    }

    /// What distinguishes the member.
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// Whether this is its holder's first use of it.
    pub fn is_new_for_holder(&self) -> bool {
        self.is_new
    }

    /// Gives it back as unhealthy: it is not given out any more, ends when its last use is dropped, and is replaced for those who
    /// come later.
    pub fn discard(self, why: &str) {
        tracing::debug!(key = %self.key, why, "a pooled agent is discarded");
        self.pool.with(|state, _| {
            if let Some(member) = state.members.get_mut(&self.id) {
                member.discarded = true;
            }
        });
    }
}

impl Drop for PoolUse {
    fn drop(&mut self) {
        self.pool.returned(self);
    }
}

/// Takes a request out of the queue when whoever made it is gone.
struct Queued<'a> {
    pool: &'a AgentPool,
    number: u64,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.pool
            .with(|state, _| state.queue.retain(|request| request.number != number));
    }
}

impl AgentPool {
    /// A pool without members. To be made in a runtime, once the sessions and the conversations of an earlier host have
    /// recovered.
    pub fn new(agents: Agents, options: PoolOptions) -> Self {
        let sessions = agents.sessions().list().into_iter();
        let earlier: HashSet<SessionId> = sessions
            .filter(|session| session.info().labels[LABEL].is_string())
            .map(|session| session.id().clone())
            .collect();
        let state = State {
            earlier,
            ..State::default()
        };
        Self {
            inner: Arc::new(Inner {
                agents,
                options,
                state: Mutex::new(state),
                changed: watch::Sender::new(0),
                runtime: Handle::current(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        let state = &self.inner.state;
        state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happens: the books are changed, who waits is served, and what comes of that is begun.
    fn with<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Action>) -> T) -> T {
        let mut actions = Vec::new();
        let mut state = self.state();
        let result = change(&mut state, &mut actions);
        if !state.over {
            state.advance(&self.inner.options, &mut actions);
        }
        drop(state);
        self.inner.changed.send_modify(|count| *count += 1);
        for action in actions {
            self.begin(action);
        }
        result
    }

    /// The key of what is wanted.
    ///
    /// # Errors
    /// [`Error::NoAgent`].
    pub fn key(&self, new: &NewConversation) -> Result<PoolKey> {
        let spec = self.inner.agents.catalogue().get(&new.agent);
        let spec = spec.ok_or_else(|| Error::NoAgent(new.agent.clone()))?;
        Ok(PoolKey::new(new, spec))
    }

    /// An agent that is up, as soon as there is one: an idle one, what is shared already, or a new one.
    ///
    /// Cancel safe: dropped while it waits or while an agent is made for it, nothing is held, and what was being made is
    /// ended.
    ///
    /// # Errors
    /// As [`Agents::open_ready`]; [`Error::Denied`] where the holder ends meanwhile, or the pool has;
    /// [`Error::Invalid`] where the name is shared with another kind of agent already.
    pub async fn acquire(&self, wanted: Wanted) -> Result<PoolUse> {
        let key = self.key(&wanted.new)?;
        let mut new = wanted.new;
        new.session.name = None;
        let label = serde_json::Value::String(key.to_string());
        match &mut new.session.labels {
            serde_json::Value::Object(labels) => _ = labels.insert(LABEL.into(), label),
            labels => *labels = serde_json::json!({ LABEL: label }),
        }
        let (reply, mut answer) = oneshot::channel();
        let number = self.with(|state, actions| {
            let number = state.number();
            let request = Request {
                number,
                key,
                new,
                group: wanted.group,
                holder: wanted.holder,
                shared: wanted.shared,
                by: wanted.by,
                is_new: false,
                reply,
            };
            if state.over {
                let (reply, error) = (request.reply, over());
                actions.push(Action::Refuse { reply, error });
            } else {
                state.enqueue(request);
            }
            number
        });
        let queued = Queued { pool: self, number };
        let answer = (&mut answer).await;
        std::mem::forget(queued);
        let mut used = answer.map_err(|_| over())??;
        used.heard = true;
        Ok(used)
    }

    /// A holder has ended: what it waits for is refused, its dedicated members and those that it alone has are ended, whether
    /// they are in use or not. Those that are kept warm, or that others have too, are cancelled what it has under way in them.
    pub fn release_holder(&self, holder: &str) {
        self.with(|state, actions| state.release(holder, self.inner.options.warm, actions));
    }

    /// Waits until all that [`AgentPool::release_holder`] ends is gone: each session has closed, which the kernel proves.
    ///
    /// Cancel safe.
    pub async fn holder_gone(&self, holder: &str) {
        self.until(|state| {
            let mut members = state.members.values();
            !members.any(|member| member.is_ending() && member.holders.contains(holder))
        })
        .await;
    }

    async fn until(&self, condition: impl Fn(&State) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if condition(&self.state()) || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// All members, the oldest first.
    pub fn members(&self) -> Vec<MemberInfo> {
        self.state().members.values().map(info_of).collect()
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// Closes all members, whoever uses them, and gives none out any more; returns when they are gone.
    ///
    /// Cancel safe: dropped, it goes on.
    pub async fn end(&self) {
        self.end_but(&HashSet::new());
        self.ended().await;
    }

    /// Closes all members but those that one of these holders has, which are let go of for the next host. Gives none out any
    /// more.
    pub fn end_but(&self, kept: &HashSet<String>) {
        let left = self.with(|state, actions| {
            refuse_all(state, actions);
            let stays = |member: &Member| member.holders.iter().any(|holder| kept.contains(holder));
            let left: Vec<Member> = state
                .members
                .extract_if(.., |_, member| stays(member))
                .map(|(_, member)| member)
                .collect();
            let ids: Vec<u64> = state.members.keys().copied().collect();
            for id in ids {
                state.end(id, CloseReason::Shutdown, "the host stops", actions);
            }
            left
        });
        drop(left);
    }

    /// Waits until there is no member.
    ///
    /// Cancel safe.
    pub async fn ended(&self) {
        self.until(|state| state.members.is_empty()).await;
    }

    /// Lets go of all members for the next host, and gives none out any more: nothing is ended. To be called before
    /// [`Agents::hand_over`].
    pub fn hand_over(&self) {
        let members = self.with(|state, actions| {
            refuse_all(state, actions);
            std::mem::take(&mut state.members)
        });
        drop(members);
    }

    /// Takes a conversation in that a holder used in an earlier host, as [`AgentPool::acquire`] would have given it: it counts for
    /// the caps, also above them, and what is under way in it goes on.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// [`Error::Closed`]; [`Error::Denied`] where the pool has ended; [`Error::Invalid`] where another has it to itself.
    pub async fn adopt(
        &self,
        holder: &str,
        shared: Option<&str>,
        conversation: Conversation,
        group: Option<String>,
    ) -> Result<PoolUse> {
        let session = conversation.session();
        if !session.state().is_open() {
            return Err(Error::Closed(conversation.id().clone()));
        }
        let key = PoolKey::new(&conversation.shared.new, &conversation.shared.spec);
        let (reply, answer) = oneshot::channel();
        let request = Request {
            number: 0,
            key,
            new: (*conversation.shared.new).clone(),
            group,
            holder: holder.to_owned(),
            shared: shared.map(ToOwned::to_owned),
            by: By::new("pool", "an earlier host's"),
            is_new: false,
            reply,
        };
        let watched = self.with(|state, actions| state.adopt(request, &conversation, actions))?;
        if let Some(id) = watched {
            self.watch(id, &conversation);
        }
        let mut used = answer.await.map_err(|_| over())??;
        used.heard = true;
        Ok(used)
    }

    /// Closes members of an earlier host that nobody has adopted; returns when they are gone. To be called when all who
    /// could have had one have asked.
    pub async fn end_unadopted(&self) {
        let earlier = std::mem::take(&mut self.state().earlier);
        let mut closes = JoinSet::new();
        for id in earlier {
            if let Ok(session) = self.inner.agents.sessions().get(id.as_str()) {
                closes.spawn(async move {
                    let by = By::new("pool", "nobody has it any more");
                    let _ = session.close(CloseReason::JobEnd, by, None).await;
                });
            }
        }
        closes.join_all().await;
    }
}

fn over() -> Error {
    Error::Denied("the pool of agents has ended".into())
}

fn refuse_all(state: &mut State, actions: &mut Vec<Action>) {
    state.over = true;
    for request in std::mem::take(&mut state.queue) {
        let (reply, error) = (request.reply, over());
        actions.push(Action::Refuse { reply, error });
    }
}

fn info_of(member: &Member) -> MemberInfo {
    let conversation = member.conversation.as_ref();
    MemberInfo {
        key: member.key.clone(),
        agent: member.key.agent().to_owned(),
        session: conversation.map(|conversation| conversation.session().id().clone()),
        conversation: conversation.map(|conversation| conversation.id().clone()),
        group: member.group.clone(),
        state: match member.phase {
            Phase::Working(_) => MemberState::Starting,
            Phase::Held => MemberState::InUse,
            Phase::Settling => MemberState::Settling,
            Phase::Idle => MemberState::Idle,
            Phase::Evicting | Phase::Evicted => MemberState::Evicted,
            Phase::Ending => MemberState::Ending,
        },
        holders: member.holders.clone(),
        uses: member.uses,
        given: member.given,
        dedicated: member.dedicated.clone(),
        discarded: member.discarded,
    }
}
