//! Who is next, and which member that gets: the caps, and what is ended to make room.

use std::collections::{HashMap, HashSet};

use hostler_session::{By, CloseReason};
use tokio::sync::oneshot;

use super::PoolOptions;
use super::state::{Action, Member, Phase, Request, State, Work};
use crate::error::Error;

/// A cap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Cap {
    All,
    Agent(String),
    Group(String),
}

impl Cap {
    fn most(&self, options: &PoolOptions) -> usize {
        match self {
            Self::All => options.all,
            Self::Agent(_) => options.by_agent,
            Self::Group(_) => options.by_group,
        }
    }

    fn counts(&self, member: &Member) -> bool {
        member.slot
            && match self {
                Self::All => true,
                Self::Agent(name) => member.key.agent() == name,
                Self::Group(name) => member.group.as_ref() == Some(name),
            }
    }
}

fn group_of(request: &Request) -> Option<Cap> {
    request.group.clone().map(Cap::Group)
}

/// The caps for which a new agent of a request would count.
fn caps_of(request: &Request) -> Vec<Cap> {
    let own = [Cap::All, Cap::Agent(request.key.agent().to_owned())];
    own.into_iter().chain(group_of(request)).collect()
}

/// What is counted for each cap.
#[derive(Default)]
struct Counts(HashMap<Cap, usize>);

impl Counts {
    fn add(&mut self, cap: Cap) {
        *self.0.entry(cap).or_default() += 1;
    }

    fn take(&mut self, cap: &Cap) {
        if let Some(count) = self.0.get_mut(cap) {
            *count = count.saturating_sub(1);
        }
    }

    fn add_member(&mut self, member: &Member) {
        for cap in caps_of_member(member) {
            self.add(cap);
        }
    }

    fn is_full(&self, cap: &Cap, options: &PoolOptions) -> bool {
        let most = cap.most(options);
        most > 0 && self.0.get(cap).copied().unwrap_or(0) >= most
    }
}

fn caps_of_member(member: &Member) -> Vec<Cap> {
    let own = [Cap::All, Cap::Agent(member.key.agent().to_owned())];
    own.into_iter()
        .chain(member.group.clone().map(Cap::Group))
        .collect()
}

/// How full it is, with what those further ahead in the queue wait for.
struct Room<'a> {
    options: &'a PoolOptions,
    /// All that counts.
    now: Counts,
    /// The same without what is ending.
    soon: Counts,
}

impl<'a> Room<'a> {
    fn of(state: &State, options: &'a PoolOptions) -> Self {
        let (mut now, mut soon) = (Counts::default(), Counts::default());
        for member in state.members.values().filter(|member| member.slot) {
            now.add_member(member);
            if !member.goes() {
                soon.add_member(member);
            }
        }
        Self { options, now, soon }
    }

    fn reserve(&mut self, caps: impl IntoIterator<Item = Cap>) {
        for cap in caps {
            self.soon.add(cap.clone());
            self.now.add(cap);
        }
    }
}

impl State {
    /// Serves those who wait, in their order, as far as there is room.
    pub(super) fn advance(&mut self, options: &PoolOptions, actions: &mut Vec<Action>) {
        if self.queue.is_empty() {
            return;
        }
        let mut room = Room::of(self, options);
        for request in std::mem::take(&mut self.queue) {
            if request.reply.is_closed() {
                continue;
            }
            if let Some(request) = self.place(request, &mut room, actions) {
                self.queue.push_back(request);
            }
        }
    }

    /// Gives a request its member, or its answer; it is given back where it has to wait.
    fn place(
        &mut self,
        request: Request,
        room: &mut Room<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<Request> {
        match &request.shared {
            Some(name) => match self.shared_as(&request.holder, name) {
                Some(id) => self.join(id, request, room, actions),
                None => self.make(request, room, actions),
            },
            None => match self.idle_for(&request, room) {
                Some(id) => {
                    self.take(id, request, room, actions);
                    None
                }
                None => self.make(request, room, actions),
            },
        }
    }

    /// Another use of what its holder shares.
    fn join(
        &mut self,
        id: u64,
        request: Request,
        room: &mut Room<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<Request> {
        let Some(member) = self.members.get_mut(&id) else {
            return Some(request);
        };
        if member.key != request.key {
            let error = Error::Invalid(format!(
                "`{}` is shared with another agent, directory or environment already: {}, not {}",
                request.shared.as_deref().unwrap_or_default(),
                member.key,
                request.key,
            ));
            let reply = request.reply;
            actions.push(Action::Refuse { reply, error });
            return None;
        }
        match member.phase {
            Phase::Held | Phase::Settling | Phase::Idle => {
                self.give(id, request, actions);
                None
            }
            Phase::Evicted => {
                if !self.has_room(&request, room, actions) {
                    return Some(request);
                }
                let Some(member) = self.members.get_mut(&id) else {
                    return Some(request);
                };
                member.slot = true;
                member.group.clone_from(&request.group);
                if let Some(conversation) = member.conversation.clone() {
                    work(id, member, Work::Wake(conversation), request, actions);
                }
                None
            }
            // It is about to be one of the others.
            Phase::Working(_) | Phase::Evicting | Phase::Ending => Some(request),
        }
    }

    /// An idle one that will do; one that the holder has used already before others, and of those the last used.
    fn idle_for(&self, request: &Request, room: &Room<'_>) -> Option<u64> {
        let group_is_full =
            group_of(request).is_some_and(|cap| room.now.is_full(&cap, room.options));
        let fits = |member: &Member| {
            matches!(member.phase, Phase::Idle)
                && member.dedicated.is_none()
                && !member.discarded
                && member.key == request.key
                && (member.group == request.group || !group_is_full)
        };
        let fitting = self.members.iter().filter(|(_, member)| fits(member));
        fitting
            .max_by_key(|(_, member)| (member.holders.contains(&request.holder), member.used))
            .map(|(id, _)| *id)
    }

    fn take(
        &mut self,
        id: u64,
        mut request: Request,
        room: &mut Room<'_>,
        actions: &mut Vec<Action>,
    ) {
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.group != request.group {
            if let Some(group) = member.group.clone().map(Cap::Group) {
                room.now.take(&group);
                room.soon.take(&group);
            }
            room.reserve(group_of(&request));
            member.group.clone_from(&request.group);
        }
        if member.is_fresh() {
            request.is_new = member.holders.insert(request.holder.clone());
            self.give(id, request, actions);
        } else if let Some(conversation) = member.conversation.clone() {
            work(id, member, Work::Renew(conversation), request, actions);
        }
    }

    /// A new one, where there is room.
    fn make(
        &mut self,
        mut request: Request,
        room: &mut Room<'_>,
        actions: &mut Vec<Action>,
    ) -> Option<Request> {
        if !self.has_room(&request, room, actions) {
            return Some(request);
        }
        request.is_new = true;
        let id = self.number();
        let (stop, stopped) = oneshot::channel();
        self.members
            .insert(id, Member::new(&request, Phase::Working(stop)));
        actions.push(Action::Work {
            id,
            work: Work::Make,
            request: Box::new(request),
            stop: stopped,
        });
        None
    }

    /// Whether one more agent may be up for a request, which counts then. Where not, room is made as far as that helps, and
    /// those behind it wait for what it waits for: for all agents together, or, where it is stopped by a cap of its own, for
    /// that one only.
    fn has_room(
        &mut self,
        request: &Request,
        room: &mut Room<'_>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let caps = caps_of(request);
        let full = |counts: &Counts| -> Vec<Cap> {
            let full = caps.iter().filter(|cap| counts.is_full(cap, room.options));
            full.cloned().collect()
        };
        let full_now = full(&room.now);
        let full_soon = full(&room.soon);
        if full_now.is_empty() {
            room.reserve(caps);
            return true;
        }
        match self.victims(&full_soon) {
            Ok(victims) => {
                for id in victims {
                    if let Some(member) = self.members.get(&id) {
                        for cap in caps_of_member(member) {
                            room.soon.take(&cap);
                        }
                    }
                    self.make_room(id, actions);
                }
                room.reserve(caps);
            }
            Err(stuck) if stuck.iter().all(|cap| *cap == Cap::All) => room.reserve(caps),
            Err(_) => room.reserve(full_now.into_iter().filter(|cap| *cap != Cap::All)),
        }
        false
    }

    /// The idle members whose end leaves each of these caps with room; else those caps that have none of them. Where one will
    /// do for several it is one; of those that are nobody's alone before the dedicated, the longest unused first.
    fn victims(&self, caps: &[Cap]) -> Result<HashSet<u64>, Vec<Cap>> {
        let mut victims = HashSet::new();
        let mut stuck = Vec::new();
        // The narrow ones first: what counts for them counts for all.
        for cap in caps.iter().rev() {
            let counts = |id: &u64| {
                self.members
                    .get(id)
                    .is_some_and(|member| cap.counts(member))
            };
            if victims.iter().any(counts) {
                continue;
            }
            let idle = self
                .members
                .iter()
                .filter(|(_, member)| matches!(member.phase, Phase::Idle) && cap.counts(member));
            let best = idle.min_by_key(|(_, member)| {
                let others = caps.iter().filter(|cap| !cap.counts(member)).count();
                (others, member.dedicated.is_some(), member.used)
            });
            match best {
                Some((id, _)) => _ = victims.insert(*id),
                None => stuck.push(cap.clone()),
            }
        }
        if stuck.is_empty() {
            Ok(victims)
        } else {
            Err(stuck)
        }
    }

    /// Ends an idle member for others; of a dedicated one, its agent only.
    fn make_room(&mut self, id: u64, actions: &mut Vec<Action>) {
        let why = "others wait for an agent, and this one does nothing";
        let Some(member) = self.members.get_mut(&id) else {
            return;
        };
        if member.dedicated.is_none() {
            return self.end(id, CloseReason::Limit, why, actions);
        }
        member.becomes(Phase::Evicting);
        if let Some(conversation) = member.conversation.clone() {
            actions.push(Action::Evict {
                id,
                stamp: member.stamp,
                conversation,
                by: By::new("pool", why),
            });
        }
    }
}

/// A member is worked on for a request, whose holder has it from here on.
fn work(id: u64, member: &mut Member, work: Work, mut request: Request, actions: &mut Vec<Action>) {
    let (stop, stopped) = oneshot::channel();
    member.becomes(Phase::Working(stop));
    request.is_new = member.holders.insert(request.holder.clone());
    member.user.clone_from(&request.holder);
    actions.push(Action::Work {
        id,
        work,
        request: Box::new(request),
        stop: stopped,
    });
}
