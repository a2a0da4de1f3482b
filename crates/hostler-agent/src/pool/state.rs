//! The books of a pool: its members, how each stands, and who waits. Nothing here waits or starts anything: what is to be done is
//! given back as [`Action`]s.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::time::Duration;

use hostler_ledger::{EntrySeq as Seq, SessionId};
use hostler_session::{By, CloseReason};
use tokio::sync::oneshot;

use super::PoolUse;
use super::key::PoolKey;
use crate::agents::NewConversation;
use crate::conversation::Conversation;
use crate::error::{Error, Result};

pub(super) type Reply = oneshot::Sender<Result<PoolUse>>;

/// Somebody who wants an agent.
pub(super) struct Request {
    /// Its place in the queue: who came first has the lower one, also where it comes back.
    pub(super) number: u64,
    pub(super) key: PoolKey,
    pub(super) new: NewConversation,
    pub(super) group: Option<String>,
    pub(super) holder: String,
    pub(super) shared: Option<String>,
    pub(super) by: By,
    /// Whether its holder did not have the member before that it gets.
    pub(super) is_new: bool,
    pub(super) reply: Reply,
}

/// How a member stands.
pub(super) enum Phase {
    /// Its agent is being brought up, or given a fresh context, for a request. Dropping the sender breaks that off.
    Working(#[allow(dead_code)] oneshot::Sender<()>),
    /// It is in use.
    Held,
    /// Its last use is over, and what that left under way is not.
    Settling,
    /// It can be taken.
    Idle,
    /// Dedicated, and its agent is being ended to make room.
    Evicting,
    /// Dedicated, and its agent comes back at the next use.
    Evicted,
    /// Its session is being closed.
    Ending,
}

/// One of the pool's.
pub(super) struct Member {
    pub(super) key: PoolKey,
    /// That of its last use.
    pub(super) group: Option<String>,
    /// None while its session is being opened.
    pub(super) conversation: Option<Conversation>,
    pub(super) phase: Phase,
    /// Counts changes of the phase, so that what was begun in an earlier one is known as such.
    pub(super) stamp: u64,
    /// Whether it counts for the caps: its agent may be up.
    pub(super) slot: bool,
    /// Who has used it and has not ended. Of one that is ending: for whom it does.
    pub(super) holders: BTreeSet<String>,
    /// Whose it is alone, and under which name.
    pub(super) dedicated: Option<(String, String)>,
    pub(super) uses: usize,
    /// Who uses it, or did last.
    pub(super) user: String,
    /// How often it was given out.
    pub(super) given: u64,
    /// It is not given out any more.
    pub(super) discarded: bool,
    /// Up to where its transcript was when nothing had been said in its context.
    pub(super) fresh: Option<Seq>,
    /// The order of last uses.
    pub(super) used: u64,
}

/// What a member is worked on for.
pub(super) enum Work {
    /// It is new.
    Make,
    /// It has to forget.
    Renew(Conversation),
    /// Its agent has to come back.
    Wake(Conversation),
}

/// What is to be done, once the lock is let go of.
pub(super) enum Action {
    Work {
        id: u64,
        work: Work,
        request: Box<Request>,
        stop: oneshot::Receiver<()>,
    },
    Give {
        id: u64,
        key: PoolKey,
        conversation: Conversation,
        holder: String,
        is_new: bool,
        reply: Reply,
    },
    Refuse {
        reply: Reply,
        error: Error,
    },
    /// Wait until nothing is under way.
    Settle {
        id: u64,
        stamp: u64,
        conversation: Conversation,
    },
    /// Cancel what is under way.
    Cancel {
        conversation: Conversation,
    },
    Evict {
        id: u64,
        stamp: u64,
        conversation: Conversation,
        by: By,
    },
    Close {
        id: u64,
        conversation: Conversation,
        reason: CloseReason,
        by: By,
        /// Who hears of it when it is gone.
        then: Option<(Reply, Error)>,
    },
    Warm {
        id: u64,
        stamp: u64,
    },
}

#[derive(Default)]
pub(super) struct State {
    pub(super) members: BTreeMap<u64, Member>,
    pub(super) queue: VecDeque<Request>,
    pub(super) last: u64,
    pub(super) over: bool,
    /// Members of an earlier host that nobody has taken over yet.
    pub(super) earlier: HashSet<SessionId>,
}

impl Member {
    pub(super) fn new(request: &Request, phase: Phase) -> Self {
        Self {
            key: request.key.clone(),
            group: request.group.clone(),
            conversation: None,
            phase,
            stamp: 0,
            slot: true,
            holders: BTreeSet::from([request.holder.clone()]),
            dedicated: request
                .shared
                .clone()
                .map(|name| (request.holder.clone(), name)),
            uses: 0,
            user: request.holder.clone(),
            given: 0,
            discarded: false,
            fresh: None,
            used: 0,
        }
    }

    pub(super) fn becomes(&mut self, phase: Phase) -> Phase {
        self.stamp += 1;
        std::mem::replace(&mut self.phase, phase)
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.phase, Phase::Ending)
    }

    /// Whether its slot will be free without anything being done.
    pub(super) fn goes(&self) -> bool {
        matches!(self.phase, Phase::Ending | Phase::Evicting)
    }

    /// Whether it says nothing of an earlier use.
    pub(super) fn is_fresh(&self) -> bool {
        let last = self.conversation.as_ref().map(Conversation::last);
        self.fresh.is_some() && self.fresh == last
    }
}

impl State {
    pub(super) fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Puts a request into the queue, at the place of its number.
    pub(super) fn enqueue(&mut self, request: Request) {
        let place = self
            .queue
            .partition_point(|other| other.number < request.number);
        self.queue.insert(place, request);
    }

    /// The member that a holder shares under a name.
    pub(super) fn shared_as(&self, holder: &str, name: &str) -> Option<u64> {
        let mut found = self.members.iter().filter(|(_, member)| {
            let dedicated = member.dedicated.as_ref();
            dedicated.is_some_and(|(whose, what)| whose == holder && what == name)
                && !member.discarded
                && !member.is_ending()
        });
        found.next().map(|(id, _)| *id)
    }

    /// A use of a member begins, and is given to whoever asked.
    pub(super) fn give(&mut self, id: u64, request: Request, actions: &mut Vec<Action>) {
        let used = self.number();
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        let Some(conversation) = member.conversation.clone() else {
            return;
        };
        if !matches!(member.phase, Phase::Held) {
            member.becomes(Phase::Held);
        }
        member.uses += 1;
        member.given += 1;
        member.used = used;
        member.user.clone_from(&request.holder);
        actions.push(Action::Give {
            id,
            key: member.key.clone(),
            conversation,
            holder: request.holder,
            is_new: request.is_new,
            reply: request.reply,
        });
    }

    /// Ends a member: its session is closed. One that is worked on is broken off first, by whoever works on it.
    pub(super) fn end(
        &mut self,
        id: u64,
        reason: CloseReason,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.is_ending() {
            return;
        }
        let before = member.becomes(Phase::Ending);
        if let (false, Some(conversation)) =
            (matches!(before, Phase::Working(_)), &member.conversation)
        {
            actions.push(Action::Close {
                id,
                conversation: conversation.clone(),
                reason,
                by: By::new("pool", why),
                then: None,
            });
        }
    }

    /// Its last use is over: it is to be looked at when nothing of that is under way.
    pub(super) fn settle(&mut self, id: u64, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        member.becomes(Phase::Settling);
        if let Some(conversation) = member.conversation.clone() {
            let stamp = member.stamp;
            actions.push(Action::Settle {
                id,
                stamp,
                conversation,
            });
        }
    }

    /// Nothing is under way in it any more, and its agent is up or not.
    pub(super) fn settled(
        &mut self,
        id: u64,
        stamp: u64,
        up: bool,
        warm: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.stamp != stamp || !matches!(member.phase, Phase::Settling) {
            return;
        }
        match (up, &member.dedicated) {
            (true, _) => {
                member.becomes(Phase::Idle);
                self.unheld(id, warm, actions);
            }
            (false, Some(_)) => {
                member.becomes(Phase::Evicted);
                member.slot = false;
            }
            (false, None) => self.end(id, CloseReason::AgentGone, "its agent has ended", actions),
        }
    }

    /// Ends a member that nobody has any more, at once or after its time.
    pub(super) fn unheld(&mut self, id: u64, warm: Duration, actions: &mut Vec<Action>) {
        let Some(member) = self.members.get(&id) else {
            return;
        };
        if !member.holders.is_empty() || member.uses > 0 {
            return;
        }
        if warm.is_zero() || member.dedicated.is_some() || member.discarded {
            self.end(
                id,
                CloseReason::JobEnd,
                "its last holder has ended",
                actions,
            );
        } else if matches!(member.phase, Phase::Idle) {
            actions.push(Action::Warm {
                id,
                stamp: member.stamp,
            });
        }
    }

    /// A holder has ended: what it waits for is refused, and what it alone has is ended or kept warm.
    pub(super) fn release(&mut self, holder: &str, warm: Duration, actions: &mut Vec<Action>) {
        for request in std::mem::take(&mut self.queue) {
            if request.holder == holder {
                let error = Error::Denied(format!("{holder} has ended"));
                let reply = request.reply;
                actions.push(Action::Refuse { reply, error });
            } else {
                self.queue.push_back(request);
            }
        }
        let held: Vec<u64> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_ending() && member.holders.contains(holder))
            .map(|(id, _)| *id)
            .collect();
        for id in held {
            let Some(member) = self.members.get_mut(&id) else {
                continue;
            };
            let alone = member.holders.len() == 1;
            let stays = !warm.is_zero()
                && member.dedicated.is_none()
                && !member.discarded
                && !matches!(member.phase, Phase::Working(_));
            if alone && !stays {
                // Its holder stays written down: it is for that one that it ends.
                self.end(
                    id,
                    CloseReason::JobEnd,
                    "its last holder has ended",
                    actions,
                );
                continue;
            }
            member.holders.remove(holder);
            let leaves =
                matches!(member.phase, Phase::Held | Phase::Settling) && member.user == holder;
            if let (true, Some(conversation)) = (leaves, member.conversation.clone()) {
                actions.push(Action::Cancel { conversation });
            }
            self.unheld(id, warm, actions);
        }
    }
}
