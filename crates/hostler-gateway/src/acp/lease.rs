//! HTTP clients, each with a lease: one that has no stream open and no request under way for its silence time is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::connection::Connection;
use crate::gateway::Connected;

#[derive(Debug)]
struct Held {
    /// How many streams are open and requests under way.
    uses: usize,
    /// When the last of them ended.
    idle: Instant,
    over: bool,
}

/// A client's connection with its lease.
#[derive(Debug)]
pub(crate) struct Leased {
    pub(super) connection: Arc<Connection>,
    held: Mutex<Held>,
    changed: Notify,
    _connected: Connected,
}

impl Leased {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the lease has run out, or the client said that it leaves.
    async fn ended(&self, lease: Duration) {
        loop {
            let changed = self.changed.notified();
            let rest = {
                let mut held = self.held();
                if held.over {
                    return;
                }
                match (held.uses, lease.checked_sub(held.idle.elapsed())) {
                    (0, None | Some(Duration::ZERO)) => {
                        // Judged and ended in one step: nobody takes hold of it after this.
                        held.over = true;
                        return;
                    }
                    (0, Some(rest)) => Some(rest),
                    _ => None,
                }
            };
            match rest {
                Some(rest) => {
                    let _ = tokio::time::timeout(rest, changed).await;
                }
                None => changed.await,
            }
        }
    }
}

/// The client does something, or has a stream open. Dropping it is the end of that.
#[derive(Debug)]
pub(super) struct Use {
    leased: Arc<Leased>,
}

impl Use {
    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.leased.connection
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut held = self.leased.held();
        held.uses -= 1;
        held.idle = Instant::now();
        drop(held);
        self.leased.changed.notify_one();
    }
}

/// The HTTP clients of a host, by their connections' ids.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leases {
    all: Arc<Mutex<HashMap<String, Arc<Leased>>>>,
}

impl Leases {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Leased>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a client in. It is held by what is returned.
    pub(super) fn admit(&self, connection: Arc<Connection>) -> Use {
        let gateway = connection.gateway.clone();
        let leased = Arc::new(Leased {
            held: Mutex::new(Held {
                uses: 1,
                idle: Instant::now(),
                over: false,
            }),
            changed: Notify::new(),
            _connected: gateway.connected(),
            connection,
        });
        let id = leased.connection.id.clone();
        self.all().insert(id.clone(), leased.clone());
        let (leases, watched) = (self.clone(), leased.clone());
        tokio::spawn(async move {
            let mut phases = gateway.phases();
            tokio::select! {
                () = watched.ended(gateway.acp().lease) => {}
                _ = phases.wait_for(|phase| phase.is_over()) => {}
            }
            leases.all().remove(&id);
            watched.connection.end().await;
        });
        Use { leased }
    }

    /// The client of this id, if it is there still.
    pub(super) fn hold(&self, id: &str) -> Option<Use> {
        let leased = self.all().get(id)?.clone();
        let mut held = leased.held();
        if held.over {
            return None;
        }
        held.uses += 1;
        drop(held);
        Some(Use { leased })
    }

    /// The client leaves.
    pub(super) fn leave(&self, id: &str) -> bool {
        let Some(leased) = self.all().remove(id) else {
            return false;
        };
        leased.held().over = true;
        leased.changed.notify_one();
        true
    }
}
