//! The hub: what channels there are, how each stands, and who follows it.
//!
//! All actions of the host pass [`Hub::publish`], under one lock that is never held over an await: there an action gets its
//! number, is reduced into the state of its channel, written as text once, and put into the outboxes of those who follow. A
//! snapshot is taken, and the place of the answer that has it is kept, under the same lock. So a client's state at a number is the host's at that number, whenever it joined.

mod follow;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahp::reducers::ReduceOutcome;
use ahp_types::actions::{ActionOrigin, StateAction};
use axum::extract::ws::Utf8Bytes;
use serde::Serialize;

pub(crate) use super::channel::{
    Act, Back, Channel, ChannelState, Dispatched, Gone, Held, ReadOnly, Taken, Who, Work, missing,
};
use super::delivery::{Frame, Outbox, Piece, text_of};
use super::numbers::Numbers;
use super::replay::{Replay, Sent};

pub(crate) use follow::Wanted;

/// How long a client that is gone may be away before what it held alone is released, and a channel that nobody follows before
/// what only followers need is let go of.
pub(crate) const GRACE: Duration = Duration::from_secs(30);

/// A client's subscription.
struct Subscription {
    client: Arc<str>,
    outbox: Arc<Outbox>,
    latency: Duration,
    _held: Option<Held>,
}

struct Entry {
    uri: Arc<str>,
    state: ChannelState,
    channel: Arc<dyn Channel>,
    followers: HashMap<u64, Subscription>,
    /// Numbers above this one are all that happened here.
    since: u64,
}

/// A client, by what it calls itself.
#[derive(Default)]
struct Known {
    /// Its connections.
    connections: HashSet<u64>,
    /// When its last connection ended.
    gone: Option<Instant>,
    /// The channels that it was subscribed to when it went.
    followed: HashSet<Arc<str>>,
}

struct Inner {
    numbers: Numbers,
    replay: Replay,
    channels: HashMap<Arc<str>, Entry>,
    clients: HashMap<Arc<str>, Known>,
    outboxes: HashMap<u64, Arc<Outbox>>,
    /// Nothing is published any more: the next host has the sessions.
    frozen: bool,
}

/// The hub. Clones are the same.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Mutex<Inner>>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hub")
    }
}

impl Hub {
    /// Without channels. Its numbers go on where those of the earlier host ended.
    pub(crate) fn new(state_dir: &std::path::Path) -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                numbers: Numbers::new(state_dir),
                replay: Replay::default(),
                channels: HashMap::new(),
                clients: HashMap::new(),
                outboxes: HashMap::new(),
                frozen: false,
            })),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes nothing more: the next host's numbers begin above.
    pub(crate) fn freeze(&self) {
        self.lock().frozen = true;
    }

    /// Adds a channel, or puts another state in the place of its own without telling anybody.
    pub(crate) fn register(
        &self,
        uri: impl Into<Arc<str>>,
        state: ChannelState,
        channel: Arc<dyn Channel>,
    ) {
        let uri = uri.into();
        let mut inner = self.lock();
        let since = inner.numbers.last();
        let entry = Entry {
            uri: uri.clone(),
            state,
            channel,
            followers: HashMap::new(),
            since,
        };
        inner.channels.insert(uri, entry);
    }

    /// Takes a channel away; those who follow it hear nothing more of it.
    pub(crate) fn remove(&self, uri: &str) {
        let removed = self.lock().channels.remove(uri);
        // What was held for its followers is let go of without the lock.
        drop(removed);
    }

    /// Whether there is such a channel.
    pub(crate) fn has(&self, uri: &str) -> bool {
        self.lock().channels.contains_key(uri)
    }

    /// Who answers for a channel.
    pub(crate) fn channel(&self, uri: &str) -> Option<Arc<dyn Channel>> {
        let inner = self.lock();
        Some(inner.channels.get(uri)?.channel.clone())
    }

    /// How many follow a channel.
    pub(crate) fn followers(&self, uri: &str) -> usize {
        let inner = self.lock();
        let entry = inner.channels.get(uri);
        entry.map_or(0, |entry| entry.followers.len())
    }

    /// Waits until one of those who follow a channel has room for more of it, so that a stream goes as fast as its fastest reader.
    /// Returns at once where nobody follows.
    ///
    /// Cancel safe.
    pub(crate) async fn room(&self, uri: &str) {
        let outboxes: Vec<Arc<Outbox>> = {
            let inner = self.lock();
            let followers = inner.channels.get(uri).into_iter();
            let followers = followers.flat_map(|entry| entry.followers.values());
            followers.map(|follower| follower.outbox.clone()).collect()
        };
        if outboxes.is_empty() {
            return;
        }
        let rooms = outboxes.iter().map(|outbox| Box::pin(outbox.room()));
        futures_util::future::select_all(rooms).await;
    }

    /// Looks at a channel's state. It must not wait, and not call the hub.
    pub(crate) fn look<T>(&self, uri: &str, look: impl FnOnce(&ChannelState) -> T) -> Option<T> {
        let inner = self.lock();
        inner.channels.get(uri).map(|entry| look(&entry.state))
    }

    /// Puts another state in place that says the same as the one before: a whole one for one that was trimmed, or the other way.
    pub(crate) fn exchange(&self, uri: &str, change: impl FnOnce(&mut ChannelState)) {
        if let Some(entry) = self.lock().channels.get_mut(uri) {
            change(&mut entry.state);
        }
    }

    /// Numbers an action of a channel, takes it into the channel's state, and sends it to all who follow.
    pub(crate) fn publish(
        &self,
        uri: &str,
        action: StateAction,
        origin: Option<ActionOrigin>,
    ) -> Option<u64> {
        let raw = None;
        let act = Act {
            action,
            raw,
            origin,
        };
        self.act(uri, act)
    }

    /// The same for an action that a client may have written.
    pub(crate) fn act(&self, uri: &str, act: Act) -> Option<u64> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if inner.frozen {
            return None;
        }
        let entry = inner.channels.get_mut(uri)?;
        if let ReduceOutcome::Invalid(error) = entry.state.reduce(&act.action) {
            tracing::warn!(uri, %error, "an action that cannot be reduced is not sent");
            return None;
        }
        let seq = inner.numbers.take();
        if inner.clients.is_empty() {
            // Nobody was sent anything, and nobody will ask for this.
            inner.replay.reset(seq);
            return Some(seq);
        }
        let text = text_of(uri, seq, &act, None);
        inner.replay.push(Sent {
            seq,
            channel: entry.uri.clone(),
            only: None,
            text: text.clone(),
        });
        let piece = match (&act.raw, &act.origin) {
            (None, None)
                if entry
                    .followers
                    .values()
                    .any(|follower| !follower.latency.is_zero()) =>
            {
                Piece::of(&act.action)
            }
            _ => None,
        };
        let frame = Frame {
            channel: entry.uri.clone(),
            seq,
            text,
            piece,
        };
        for follower in entry.followers.values() {
            follower.outbox.send(frame.clone(), follower.latency);
        }
        Some(seq)
    }

    /// Sends an action to one client alone: one that does not change how the channel stands, but only how much the client
    /// knows of that; or one of its own that was refused.
    pub(crate) fn tell(&self, who: &Who, uri: &str, act: &Act, rejection: Option<&str>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(outbox) = inner.outboxes.get(&who.connection) else {
            return;
        };
        if inner.frozen {
            return;
        }
        let seq = inner.numbers.take();
        let text = text_of(uri, seq, act, rejection);
        let channel: Arc<str> = uri.into();
        inner.replay.push(Sent {
            seq,
            channel: channel.clone(),
            only: Some(who.client.clone()),
            text: text.clone(),
        });
        let frame = Frame {
            channel,
            seq,
            text,
            piece: None,
        };
        outbox.send(frame, Duration::ZERO);
    }

    /// Sends a notification to all who follow a channel. It has no number, and is not sent again to those who come
    /// back.
    pub(crate) fn notify(&self, uri: &str, method: &str, params: &impl Serialize) {
        let inner = self.lock();
        let Some(entry) = inner.channels.get(uri) else {
            return;
        };
        if inner.frozen || entry.followers.is_empty() {
            return;
        }
        let params = serde_json::to_string(params).unwrap_or_default();
        let text = crate::acp::message::notification(method, &params);
        let text = Utf8Bytes::from(text);
        for follower in entry.followers.values() {
            follower.outbox.tell(text.clone());
        }
    }

    // --- clients ---

    /// A client is there.
    pub(crate) fn enter(&self, who: &Who, outbox: &Arc<Outbox>) {
        let mut inner = self.lock();
        inner.outboxes.insert(who.connection, outbox.clone());
        let known = inner.clients.entry(who.client.clone()).or_default();
        known.connections.insert(who.connection);
        known.gone = None;
    }

    /// A connection of a client has ended. Gives the time after which [`Hub::expire`] may find that the client did not come back.
    pub(crate) fn leave(&self, who: &Who) -> Duration {
        let mut held = Vec::new();
        let mut inner = self.lock();
        inner.outboxes.remove(&who.connection);
        let mut followed = Vec::new();
        for entry in inner.channels.values_mut() {
            if let Some(subscription) = entry.followers.remove(&who.connection) {
                held.push(subscription);
                followed.push(entry.uri.clone());
                entry.channel.followed(entry.followers.len());
            }
        }
        if let Some(known) = inner.clients.get_mut(&who.client) {
            known.connections.remove(&who.connection);
            known.followed.extend(followed);
            if known.connections.is_empty() {
                known.gone = Some(Instant::now());
            }
        }
        drop(inner);
        drop(held);
        GRACE
    }

    /// The clients that went and did not come back in time: each is told of once, with the channels that it followed.
    pub(crate) fn expire(&self) -> Vec<Gone> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let mut gone = Vec::new();
        inner.clients.retain(|client, known| {
            let over = known.gone.is_some_and(|gone| gone.elapsed() >= GRACE);
            if over {
                let channels = known
                    .followed
                    .iter()
                    .filter_map(|uri| inner.channels.get(uri))
                    .map(|entry| entry.channel.clone());
                gone.push((client.clone(), channels.collect()));
            }
            !over
        });
        gone
    }

    /// Whether a client of this name is connected.
    pub(crate) fn is_here(&self, client: &str) -> bool {
        let inner = self.lock();
        let known = inner.clients.get(client);
        known.is_some_and(|known| !known.connections.is_empty())
    }

    /// Ends all connections of a client but this one: it came back before its old connection was known to be dead.
    pub(crate) fn supersede(&self, who: &Who) {
        let inner = self.lock();
        let Some(known) = inner.clients.get(&who.client) else {
            return;
        };
        for connection in known
            .connections
            .iter()
            .filter(|one| **one != who.connection)
        {
            if let Some(outbox) = inner.outboxes.get(connection) {
                outbox.close((4000, "this client has connected again"));
            }
        }
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
