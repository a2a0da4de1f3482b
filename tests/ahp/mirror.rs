//! The `ahp` crate's own multi-host runtime, and its mirror of what it follows.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ahp::hosts::{
    HostConfig, HostError, HostId, HostState, HostSubscriptionEvent, MultiHostClient,
    ReconnectPolicy,
};
use ahp::transport::BoxedTransport;
use ahp::{ClientError, MultiHostStateMirror, SubscriptionEvent, TransportError};
use ahp_types::actions::StateAction;
use ahp_ws::WebSocketTransport;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::peer::{ROOT, bare, config, url};
use crate::support::{Client, long};

/// Where a host is now; it changes when another one takes its place.
pub(crate) type Address = Arc<Mutex<Client>>;

struct Followed {
    id: HostId,
    /// The connection from which the mirror's states are.
    generation: u64,
    /// By channel: the number of its snapshot.
    from: HashMap<String, u64>,
}

/// A client of several hosts.
pub(crate) struct Mirror {
    pub(crate) multi: MultiHostClient,
    events: mpsc::UnboundedReceiver<HostSubscriptionEvent>,
    hosts: HashMap<String, Followed>,
    mirror: MultiHostStateMirror,
    /// How often it was connected.
    pub(crate) generations: u64,
}

fn is_rpc(error: &HostError) -> bool {
    matches!(error, HostError::Client(ClientError::Rpc(_)))
}

impl Mirror {
    pub(crate) fn new() -> Self {
        let multi = MultiHostClient::new();
        // The runtime lets go of what is not taken at once.
        let (sender, events) = mpsc::unbounded_channel();
        let mut stream = multi.events();
        tokio::spawn(async move {
            while let Some(event) = stream.recv().await {
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        Self {
            multi,
            events,
            hosts: HashMap::new(),
            mirror: MultiHostStateMirror::new(),
            generations: 0,
        }
    }

    /// Adds a host, and follows its root.
    pub(crate) async fn add(&mut self, name: &str, at: &Address) {
        let at = at.clone();
        let open = move |_: HostId| {
            let url = url(&at.lock().expect("an address"));
            async move {
                let transport = WebSocketTransport::connect(&url).await;
                let transport = transport.map_err(|error| TransportError::Io(error.to_string()))?;
                Ok(BoxedTransport::new(transport))
            }
        };
        let policy = ReconnectPolicy {
            backoff: ahp::hosts::Backoff::Constant {
                delay: Duration::from_millis(20),
            },
            ..ReconnectPolicy::exponential()
        };
        let host = HostConfig::new(name, name, open)
            .with_client_config(config())
            .with_reconnect_policy(policy);
        let id = self.multi.add_host(host).await.expect("added").id;
        let followed = Followed {
            id,
            generation: 0,
            from: HashMap::from([(ROOT.to_owned(), 0)]),
        };
        self.hosts.insert(name.to_owned(), followed);
        self.renew(name).await;
    }

    /// Waits until a host is connected; the number of the connection.
    async fn connected(&self, id: &HostId) -> u64 {
        let until = Instant::now() + long();
        loop {
            let handle = self.multi.host(id).await.expect("a host");
            if matches!(handle.state, HostState::Connected) {
                return handle.generation;
            }
            assert!(Instant::now() < until, "not connected: {handle:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes a new snapshot of a channel. `false`: it is not there.
    async fn seed(&mut self, name: &str, channel: &str) -> Result<bool, HostError> {
        let id = self.hosts[name].id.clone();
        match self.multi.subscribe(&id, channel.to_owned()).await {
            Ok(result) => {
                let snapshot = result.snapshot.expect("a snapshot");
                self.mirror.apply_snapshot(&id, &snapshot);
                let from = u64::try_from(snapshot.from_seq).expect("a number");
                let followed = self.hosts.get_mut(name).expect("a host");
                followed.from.insert(channel.to_owned(), from);
                Ok(true)
            }
            Err(error) if is_rpc(&error) => {
                self.drop_channel(name, channel);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn drop_channel(&mut self, name: &str, channel: &str) {
        let followed = self.hosts.get_mut(name).expect("a host");
        followed.from.remove(channel);
    }

    /// The runtime has connected again, and does not say what the snapshots were: all is followed anew.
    async fn renew(&mut self, name: &str) {
        let until = Instant::now() + long();
        'again: loop {
            assert!(Instant::now() < until, "no connection lasts");
            let id = self.hosts[name].id.clone();
            let generation = self.connected(&id).await;
            let channels: Vec<String> = self.hosts[name].from.keys().cloned().collect();
            for channel in channels {
                if self.seed(name, &channel).await.is_err() {
                    continue 'again;
                }
            }
            self.hosts.get_mut(name).expect("a host").generation = generation;
            self.generations += 1;
            return;
        }
    }

    /// Follows a channel. `false`: it is not there.
    pub(crate) async fn follow(&mut self, name: &str, channel: &str) -> bool {
        loop {
            match self.seed(name, channel).await {
                Ok(there) => return there,
                Err(_) => self.renew(name).await,
            }
        }
    }

    /// Dispatches an action; `false` where the host is away.
    pub(crate) async fn dispatch(&self, name: &str, channel: &str, action: Value) -> bool {
        let action: StateAction = serde_json::from_value(action).expect("an action");
        let id = &self.hosts[name].id;
        let sent = self.multi.dispatch(id, channel.to_owned(), action).await;
        sent.is_ok()
    }

    async fn take(&mut self, event: HostSubscriptionEvent) {
        let name = event.host_id.as_str().to_owned();
        let now = self.multi.host(&event.host_id).await.expect("a host");
        let followed = &self.hosts[&name];
        if now.generation != followed.generation {
            // There may be a gap before it.
            return self.renew(&name).await;
        }
        let SubscriptionEvent::Action(envelope) = &event.event else {
            return;
        };
        let from = followed.from.get(&event.channel);
        if envelope.rejection_reason.is_none()
            && from.is_some_and(|from| envelope.server_seq > *from)
        {
            self.mirror.apply_event(&event);
        }
    }

    /// Takes in what has come.
    pub(crate) async fn catch_up(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.take(event).await;
        }
    }

    /// Takes in what comes until a channel stands as it is to.
    pub(crate) async fn until(&mut self, name: &str, channel: &str, expected: &Value) {
        let until = Instant::now() + long();
        loop {
            self.catch_up().await;
            let id = self.hosts[name].id.clone();
            if self.connected(&id).await != self.hosts[name].generation {
                self.renew(name).await;
            }
            let state = self.state(name, channel);
            if state == *expected {
                return;
            }
            assert!(
                Instant::now() < until,
                "{channel} of {name}\nis {state:#}\nand not {expected:#}"
            );
            let next = timeout(Duration::from_millis(100), self.events.recv()).await;
            if let Ok(Some(event)) = next {
                self.take(event).await;
            }
        }
    }

    /// How a channel stands here.
    fn state(&self, name: &str, channel: &str) -> Value {
        let id = &self.hosts[name].id;
        if channel == ROOT {
            return bare(&self.mirror.root_states()[id]);
        }
        let key = ahp::HostedResourceKey::new(id.clone(), channel);
        if let Some(state) = self.mirror.sessions().get(&key) {
            return bare(state);
        }
        if let Some(state) = self.mirror.chats().get(&key) {
            return bare(state);
        }
        if channel == crate::automations::AUTOMATIONS {
            return bare(&self.mirror.automation_catalogs()[id]);
        }
        if let Some(state) = self.mirror.automation_runs().get(&key) {
            return bare(state);
        }
        bare(&self.mirror.terminals()[&key])
    }

    /// The channels of a host that it follows.
    pub(crate) fn followed(&self, name: &str) -> Vec<String> {
        self.hosts[name].from.keys().cloned().collect()
    }

    /// Ends all connections.
    pub(crate) async fn end(self) {
        for followed in self.hosts.values() {
            self.multi.remove_host(&followed.id).await.expect("removed");
        }
    }
}
