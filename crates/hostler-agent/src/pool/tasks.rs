//! What takes time, each in a task of its own, and what comes of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use hostler_ledger::EntrySeq as Seq;
use hostler_session::{By, CloseReason, Session, SessionState};
use tokio::sync::oneshot;

use super::state::{Action, Member, Phase, Request, State, Work};
use super::{AgentPool, Inner, PoolUse, over};
use crate::conversation::{Conversation, Message, Used};
use crate::error::{Error, Result};

impl AgentPool {
    /// Begins what is to be done.
    pub(super) fn begin(&self, action: Action) {
        let pool = self.clone();
        let runtime = &self.inner.runtime;
        match action {
            Action::Work {
                id,
                work,
                request,
                stop,
            } => drop(runtime.spawn(pool.work(id, work, *request, stop))),
            Action::Give {
                id,
                key,
                conversation,
                holder,
                is_new,
                reply,
            } => {
                // One that nobody takes any more is dropped, and so given back.
                let _ = reply.send(Ok(PoolUse {
                    pool,
                    id,
                    key,
                    conversation,
                    holder,
                    is_new,
                    heard: false,
                    touched: false.into(),
                }));
            }
            Action::Refuse { reply, error } => drop(reply.send(Err(error))),
            Action::Settle {
                id,
                stamp,
                conversation,
            } => drop(runtime.spawn(async move {
                if let Some(up) = conversation.quiet().await {
                    pool.with(|state, actions| {
                        state.settled(id, stamp, up, pool.inner.options.warm, actions);
                    });
                }
            })),
            Action::Cancel { conversation } => {
                let (reply, _) = oneshot::channel();
                let by = By::new("pool", "whoever used it has ended");
                conversation.shared.tell(Message::Cancel { by, reply });
            }
            Action::Evict {
                id,
                stamp,
                conversation,
                by,
            } => drop(runtime.spawn(async move {
                let _ = conversation.evict(by).await;
                pool.with(|state, _| state.evicted(id, stamp));
            })),
            Action::Close {
                id,
                conversation,
                reason,
                by,
                then,
            } => drop(runtime.spawn(async move {
                close(&conversation.session(), reason, by).await;
                pool.with(|state, _| state.members.remove(&id));
                if let Some((reply, error)) = then {
                    let _ = reply.send(Err(error));
                }
            })),
            Action::Warm { id, stamp } => {
                let warm = self.inner.options.warm;
                drop(runtime.spawn(async move {
                    tokio::time::sleep(warm).await;
                    pool.with(|state, actions| state.cools(id, stamp, actions));
                }));
            }
        }
    }

    /// Brings a member to where its use can begin.
    async fn work(self, id: u64, work: Work, mut request: Request, stop: oneshot::Receiver<()>) {
        let by = request.by.clone();
        let done = match work {
            Work::Make => {
                // Its session is there at once, and is closed by whoever is told that it is not wanted: so that is waited for.
                match self.inner.agents.open(request.new.clone(), by).await {
                    Ok(conversation) => {
                        self.opened(id, &conversation);
                        bring_up(&conversation, &mut request, stop).await
                    }
                    Err(error) => Err(error),
                }
            }
            Work::Renew(conversation) => {
                // What its last user asked for and did not wait for is behind it.
                conversation.quiet().await;
                match conversation.renew(by).await {
                    Ok(()) if conversation.shared.used.get() == Used::Absent => {
                        bring_up(&conversation, &mut request, stop).await
                    }
                    renewed => renewed,
                }
            }
            Work::Wake(conversation) => {
                let up = bring_up(&conversation, &mut request, stop).await;
                if up.is_err() {
                    // What was broken off is gone before its slot is another's.
                    conversation.quiet().await;
                }
                up
            }
        };
        self.with(|state, actions| state.worked(id, request, done, actions));
    }

    fn opened(&self, id: u64, conversation: &Conversation) {
        self.with(|state, _| {
            if let Some(member) = state.members.get_mut(&id) {
                member.conversation = Some(conversation.clone());
            }
        });
        self.watch(id, conversation);
    }

    /// Sees when the agent of a member goes, or its session, whoever ends it.
    pub(super) fn watch(&self, id: u64, conversation: &Conversation) {
        let mut used = conversation.shared.used.watch();
        let pool: Weak<Inner> = Arc::downgrade(&self.inner);
        self.inner.runtime.spawn(async move {
            loop {
                let now = *used.borrow_and_update();
                let Some(inner) = pool.upgrade() else { return };
                let pool = AgentPool { inner };
                pool.with_use(id, now);
                drop(pool);
                if now == Used::Gone || used.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// How its agent stands now.
    fn with_use(&self, id: u64, now: Used) {
        // Mostly that means nothing.
        let means = self
            .state()
            .members
            .get(&id)
            .is_some_and(|member| member.heeds(now));
        if means {
            self.with(|state, actions| state.stands(id, now, actions));
        }
    }

    /// A use is over.
    pub(super) fn returned(&self, used: &PoolUse) {
        let touched = used.touched.load(Ordering::Relaxed);
        let undone = !used.heard && used.is_new;
        let warm = self.inner.options.warm;
        self.with(|state, actions| {
            let Some(member) = state.members.get_mut(&used.id) else {
                return;
            };
            member.uses -= 1;
            if touched {
                member.fresh = None;
            }
            if member.is_ending() || member.uses > 0 {
                return;
            }
            if undone {
                // It was never given, as far as its holder knows.
                member.holders.remove(&used.holder);
            }
            let gone = member.dedicated.is_some() && member.holders.is_empty();
            if member.discarded || gone {
                let why = "it is not given out any more";
                return state.end(used.id, CloseReason::AgentGone, why, actions);
            }
            let at_rest = matches!(used.conversation.shared.used.get(), Used::Idle(_));
            if at_rest {
                member.becomes(Phase::Idle);
            }
            if at_rest || (member.holders.is_empty() && warm.is_zero()) {
                state.unheld(used.id, warm, actions);
            } else {
                state.settle(used.id, actions);
            }
        });
    }
}

/// Brings the agent up, unless that is not wanted any more.
async fn bring_up(
    conversation: &Conversation,
    request: &mut Request,
    stop: oneshot::Receiver<()>,
) -> Result<()> {
    let by = request.by.clone();
    tokio::select! {
        biased;
        () = request.reply.closed() => Err(Error::Denied("nobody waits for it any more".into())),
        _ = stop => Err(Error::Denied(format!("{} has ended", request.holder))),
        up = conversation.ready(by) => up.map(drop),
    }
}

/// Closes a session, until nothing is left of it. One that goes over to the next host is not waited for.
async fn close(session: &Session, reason: CloseReason, by: By) {
    if session.close(reason, by, None).await.is_err() {
        return;
    }
    let mut state = session.state();
    while state != SessionState::Closed {
        let next = session.changed_from(state).await;
        if next == state {
            return;
        }
        state = next;
    }
}

impl Member {
    /// Whether it matters how its agent stands.
    fn heeds(&self, now: Used) -> bool {
        match now {
            Used::Gone => !self.is_ending(),
            Used::Absent => matches!(self.phase, Phase::Held | Phase::Idle),
            Used::Idle(_) | Used::Busy => matches!(self.phase, Phase::Evicted),
        }
    }
}

impl State {
    /// What a member was worked on for is done, or is not to be.
    fn worked(&mut self, id: u64, request: Request, done: Result<()>, actions: &mut Vec<Action>) {
        let over = self.over;
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let ended = member.is_ending() || !member.holders.contains(&request.holder);
        let Some(conversation) = member.conversation.clone() else {
            // There is no session.
            self.members.remove(&id);
            let (reply, error) = (request.reply, done.err().unwrap_or_else(super::over));
            return actions.push(Action::Refuse { reply, error });
        };
        let fails = done.is_err() || member.discarded;
        if !fails && !ended {
            member.fresh = member.dedicated.is_none().then(|| conversation.last());
            return self.give(id, request, actions);
        }
        let never_given = member.given == 0;
        let error = match done {
            Err(error) if !ended => error,
            _ if over => super::over(),
            _ if ended => Error::Denied(format!("{} has ended", request.holder)),
            _ => Error::Closed(conversation.id().clone()),
        };
        if member.is_ending() || never_given {
            member.becomes(Phase::Ending);
            return actions.push(Action::Close {
                id,
                conversation,
                reason: CloseReason::SpawnCancelled,
                by: By::new("pool", error.to_string()),
                then: Some((request.reply, error)),
            });
        }
        if member.dedicated.is_some() && !member.discarded {
            member.becomes(Phase::Evicted);
            member.slot = false;
            let reply = request.reply;
            return actions.push(Action::Refuse { reply, error });
        }
        if !fails {
            // Its holder has ended, and others have it still.
            self.settle(id, actions);
            let reply = request.reply;
            return actions.push(Action::Refuse { reply, error });
        }
        // It cannot be used again: whoever waits gets another one, in its turn.
        member.becomes(Phase::Settling);
        let why = format!("it cannot be used again: {error}");
        self.end(id, CloseReason::AgentGone, &why, actions);
        if ended {
            let reply = request.reply;
            actions.push(Action::Refuse { reply, error });
        } else {
            self.enqueue(request);
        }
    }

    fn evicted(&mut self, id: u64, stamp: u64) {
        if let Some(member) = self.members.get_mut(&id)
            && member.stamp == stamp
            && matches!(member.phase, Phase::Evicting)
        {
            member.becomes(Phase::Evicted);
            member.slot = false;
        }
    }

    /// Nobody took it in its time.
    fn cools(&mut self, id: u64, stamp: u64, actions: &mut Vec<Action>) {
        let waits = self.members.get(&id).is_some_and(|member| {
            member.stamp == stamp
                && matches!(member.phase, Phase::Idle)
                && member.holders.is_empty()
        });
        if waits {
            let why = "nobody has used it for its warm time";
            self.end(id, CloseReason::Idle, why, actions);
        }
    }

    fn stands(&mut self, id: u64, now: Used, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if !member.heeds(now) {
            return;
        }
        match now {
            Used::Gone => {
                member.discarded = true;
                if member.uses == 0 && !matches!(member.phase, Phase::Working(_)) {
                    self.end(
                        id,
                        CloseReason::AgentGone,
                        "its session has closed",
                        actions,
                    );
                }
            }
            Used::Absent if matches!(member.phase, Phase::Held) => {
                member.discarded |= member.dedicated.is_none();
            }
            Used::Absent => self.settle(id, actions),
            // Somebody else talks to it, and has brought it back.
            Used::Idle(_) | Used::Busy => {
                member.slot = true;
                self.settle(id, actions);
            }
        }
    }

    /// A member of an earlier host; the id of one that is new here.
    pub(super) fn adopt(
        &mut self,
        request: Request,
        conversation: &Conversation,
        actions: &mut Vec<Action>,
    ) -> Result<Option<u64>> {
        if self.over {
            return Err(over());
        }
        self.earlier.remove(conversation.session().id());
        let there = self.members.iter().find(|(_, member)| {
            let its = member.conversation.as_ref();
            its.is_some_and(|its| its.id() == conversation.id())
        });
        let Some(id) = there.map(|(id, _)| *id) else {
            let id = self.number();
            let mut member = Member::new(&request, Phase::Held);
            member.conversation = Some(conversation.clone());
            self.members.insert(id, member);
            self.give(id, request, actions);
            return Ok(Some(id));
        };
        let dedicated = request.shared.clone();
        let dedicated = dedicated.map(|name| (request.holder.clone(), name));
        let Some(member) = self.members.get_mut(&id) else {
            return Ok(None);
        };
        let free = matches!(member.phase, Phase::Settling | Phase::Idle);
        let joins = dedicated.is_some() && matches!(member.phase, Phase::Held);
        if member.dedicated != dedicated || member.discarded || !(free || joins) {
            let id = conversation.id();
            return Err(Error::Invalid(format!("conversation {id} is in use")));
        }
        member.holders.insert(request.holder.clone());
        member.fresh = None::<Seq>;
        self.give(id, request, actions);
        Ok(None)
    }
}
