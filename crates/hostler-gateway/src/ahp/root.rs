//! The root channel: the agents, how many sessions there are, and their terminals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahp_types::state::{AgentCapabilities, AgentInfo, MultipleChatsCapability, RootState};
use hostler_agent::Catalogue;
use tokio::sync::Notify;

use super::hub::{ChannelState, Hub, ReadOnly};
use super::resource::watch::Watches;
use super::terminal::Terminals;
use super::uri::ROOT;
use crate::gateway::{Gateway, Phase};

/// The agents, as clients are shown them.
fn agents(catalogue: &Catalogue) -> Vec<AgentInfo> {
    catalogue
        .iter()
        .map(|(name, spec)| AgentInfo {
            provider: name.to_owned(),
            display_name: name.to_owned(),
            description: spec.command.join(" "),
            models: Vec::new(),
            protected_resources: None,
            customizations: None,
            capabilities: Some(AgentCapabilities {
                multiple_chats: Some(MultipleChatsCapability {
                    fork: Some(true),
                    side_chat: None,
                }),
                multiple_working_directories: None,
            }),
        })
        .collect()
}

#[derive(Debug)]
struct Inner {
    hub: Hub,
    terminals: OnceLock<Terminals>,
    watches: Watches,
    awake: AtomicBool,
    expiring: Notify,
}

/// Keeps the channels like what they show. It does nothing before the first client comes.
#[derive(Debug, Clone)]
pub(crate) struct Overseer {
    inner: Arc<Inner>,
}

impl Overseer {
    /// For a host whose state is in this directory.
    pub(crate) fn new(state_dir: &std::path::Path) -> Self {
        let hub = Hub::new(state_dir);
        Self {
            inner: Arc::new(Inner {
                watches: Watches::new(hub.clone()),
                hub,
                terminals: OnceLock::new(),
                awake: AtomicBool::new(false),
                expiring: Notify::new(),
            }),
        }
    }

    /// The hub.
    pub(crate) fn hub(&self) -> &Hub {
        &self.inner.hub
    }

    /// The watches of files.
    pub(super) fn watches(&self) -> &Watches {
        &self.inner.watches
    }

    /// The terminals, once a client was there.
    pub(super) fn terminals(&self) -> Option<&Terminals> {
        self.inner.terminals.get()
    }

    /// A client is there: begins, unless that was done.
    pub(super) fn wake(&self, gateway: &Gateway) {
        if self.inner.awake.swap(true, Ordering::AcqRel) {
            return;
        }
        let state = RootState {
            agents: agents(gateway.agents().catalogue()),
            active_sessions: Some(0),
            terminals: Some(Vec::new()),
            config: None,
            meta: None,
        };
        let state = ChannelState::Root(Box::new(state));
        self.hub().register(ROOT, state, Arc::new(ReadOnly));
        let terminals = Terminals::new(self.hub().clone(), gateway.sessions().clone());
        if self.inner.terminals.set(terminals.clone()).is_ok() {
            tokio::spawn(terminals.run());
        }
        let (overseer, mut phases) = (self.clone(), gateway.phases());
        tokio::spawn(async move {
            let handed = |phase: &Phase| matches!(phase, Phase::HandingOver | Phase::HandedOver);
            if phases.wait_for(handed).await.is_ok() {
                overseer.hub().freeze();
            }
        });
    }

    /// Looks after so long for clients that did not come back.
    pub(super) fn expire_after(&self, grace: Duration) {
        let overseer = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(grace + Duration::from_millis(10)).await;
            for (client, channels) in overseer.hub().expire() {
                for channel in channels {
                    channel.left(&client).await;
                }
                if let Some(terminals) = overseer.terminals() {
                    terminals.client_gone(&client);
                }
            }
            overseer.inner.expiring.notify_waiters();
        });
    }
}
