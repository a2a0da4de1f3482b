//! Following channels, and coming back to them.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use ahp_types::commands::SubscribeView;
use serde_json::value::RawValue;

use super::{Back, Channel, Held, Hub, Subscription, Who};
use crate::ahp::delivery::{ENVELOPE, Slot};

/// A channel that a client wants to follow.
pub(crate) struct Wanted {
    /// Which.
    pub(crate) uri: String,
    /// How long its actions may be held back to be put together.
    pub(crate) latency: Duration,
    /// How much of it is wanted at first.
    pub(crate) view: Option<SubscribeView>,
    /// What is to be held meanwhile ([`Channel::join`]).
    pub(crate) held: Option<Held>,
}

impl Wanted {
    /// All of it, at once.
    pub(crate) fn new(uri: impl Into<String>, held: Option<Held>) -> Self {
        Self {
            uri: uri.into(),
            latency: Duration::ZERO,
            view: None,
            held,
        }
    }
}

/// What a client is given that follows channels.
#[derive(Debug)]
pub(crate) struct Followed {
    /// The number at which the snapshots were taken.
    pub(crate) seq: u64,
    /// The snapshots as JSON, of those that have a state.
    pub(crate) snapshots: Vec<Box<RawValue>>,
    /// The channels that are not there.
    pub(crate) missing: Vec<String>,
    /// The place of the answer: behind all that was sent up to the number, and before all that is sent after it.
    pub(crate) place: Slot,
}

impl Hub {
    /// Follows channels from now on, all of them from the same number on. `None` where the client is gone.
    pub(crate) fn follow(&self, who: &Who, wanted: Vec<Wanted>) -> Option<Followed> {
        // What was held before is let go of without the lock.
        let (mut before, mut unused) = (Vec::new(), Vec::new());
        let mut inner = self.lock();
        let inner = &mut *inner;
        let outbox = inner.outboxes.get(&who.connection)?.clone();
        let mut followed = Followed {
            seq: inner.numbers.last(),
            snapshots: Vec::new(),
            missing: Vec::new(),
            place: outbox.reserve(),
        };
        for wanted in wanted {
            let Some(entry) = inner.channels.get_mut(&*wanted.uri) else {
                followed.missing.push(wanted.uri);
                unused.push(wanted.held);
                continue;
            };
            let subscription = Subscription {
                client: who.client.clone(),
                outbox: outbox.clone(),
                latency: wanted.latency,
                _held: wanted.held,
            };
            before.extend(entry.followers.insert(who.connection, subscription));
            entry.channel.followed(entry.followers.len());
            let view = wanted.view.as_ref();
            let snapshot = entry.state.snapshot(&wanted.uri, followed.seq, view);
            followed.snapshots.extend(snapshot);
        }
        Some(followed)
    }

    /// No longer follows a channel. Whether it did, and no other connection of the same client does.
    pub(crate) fn unfollow(&self, who: &Who, uri: &str) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.channels.get_mut(uri) else {
            return false;
        };
        let removed = entry.followers.remove(&who.connection);
        entry.channel.followed(entry.followers.len());
        let last = removed.is_some()
            && entry
                .followers
                .values()
                .all(|follower| follower.client != who.client);
        drop(inner);
        drop(removed);
        last
    }

    /// Gives a client that comes back what it missed of these channels, and follows them again. What is to be held for each was
    /// got before ([`Channel::join`]). With it comes the place of the answer, as for [`Hub::follow`].
    pub(crate) fn resume(
        &self,
        who: &Who,
        last: u64,
        channels: Vec<(String, Option<Option<Held>>)>,
    ) -> (Back, Option<Slot>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let seq = inner.numbers.last();
        let Some(outbox) = inner.outboxes.get(&who.connection).cloned() else {
            return (Back::Snapshots(Vec::new()), None);
        };
        let place = Some(outbox.reserve());
        let mut missing = Vec::new();
        let mut there: HashSet<Arc<str>> = HashSet::new();
        let mut whole = last <= seq && inner.replay.reaches(last);
        for (uri, held) in channels {
            let (Some(entry), Some(held)) = (inner.channels.get_mut(&*uri), held) else {
                missing.push(uri);
                continue;
            };
            whole &= last >= entry.since;
            let subscription = Subscription {
                client: who.client.clone(),
                outbox: outbox.clone(),
                latency: Duration::ZERO,
                _held: held,
            };
            entry.followers.insert(who.connection, subscription);
            entry.channel.followed(entry.followers.len());
            there.insert(entry.uri.clone());
        }
        if let Some(known) = inner.clients.get_mut(&who.client) {
            known.followed.retain(|uri| !there.contains(uri));
        }
        if !whole {
            let snapshots = there.iter().filter_map(|uri| {
                let entry = inner.channels.get(uri)?;
                entry.state.snapshot(uri, seq, None)
            });
            return (Back::Snapshots(snapshots.collect()), place);
        }
        let sent = inner.replay.above(last);
        let sent = sent.filter(|sent| {
            there.contains(&sent.channel)
                && sent.only.as_ref().is_none_or(|only| *only == who.client)
        });
        let sent = sent.filter_map(|sent| {
            let envelope = sent.text.get(ENVELOPE.len()..sent.text.len() - 1)?;
            RawValue::from_string(envelope.to_owned()).ok()
        });
        (Back::Replay(sent.collect(), missing), place)
    }

    /// The channels that a client followed before it came back and does not want any more.
    pub(crate) fn given_up(&self, client: &str) -> Vec<Arc<dyn Channel>> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(known) = inner.clients.get_mut(client) else {
            return Vec::new();
        };
        let followed = std::mem::take(&mut known.followed);
        let entries = followed
            .iter()
            .filter_map(|uri| inner.channels.get(uri))
            .map(|entry| entry.channel.clone());
        entries.collect()
    }
}
