//! What all requests share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hostler_agent::Agents;
use hostler_job::Jobs;
use hostler_session::{By, Policy, Sessions};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, watch};

use crate::access::Access;
use crate::acp::AcpOptions;
use crate::acp::lease::Leases;
use crate::ahp::Overseer;
use crate::error::{ApiError, ErrorCode};

/// What is known of this host.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Its pid.
    pub pid: u32,
    /// Its release.
    pub version: String,
    /// Where all state is.
    pub state_dir: PathBuf,
    /// When it started: Unix time in milliseconds.
    pub started: u64,
    /// Where it listens, as people would write it.
    pub addresses: Vec<String>,
    /// How sessions that ask for nothing else are held together: `cgroup` or `tree`.
    pub contain: String,
    /// What that leaves open.
    pub leaves_open: String,
}

/// How far the host is with its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It serves.
    Open,
    /// It stops: sessions are being closed, nothing new starts.
    Stopping,
    /// Another host takes over: connections stand still, and hold what they hold.
    HandingOver,
    /// Another host has taken over: connections end, and clients come back to that one.
    HandedOver,
    /// The host is about to exit: connections end.
    Stopped,
}

impl Phase {
    /// Whether this host has no session any more.
    pub(crate) fn is_over(self) -> bool {
        matches!(self, Self::HandedOver | Self::Stopped)
    }
}

/// A client wants the host to stop.
#[derive(Debug, Clone)]
pub struct ShutdownAsked {
    /// Whether sessions that would be kept for the next host are closed too.
    pub all: bool,
    /// How long the sessions have.
    pub deadline: Option<Duration>,
    /// Who wants it.
    pub by: By,
}

#[derive(Debug)]
struct Inner {
    sessions: Sessions,
    agents: Agents,
    jobs: Jobs,
    acp: AcpOptions,
    ahp: Overseer,
    leases: Leases,
    /// What agents answered to `initialize` when they were last started, by their names.
    handshakes: Mutex<HashMap<String, Arc<RawValue>>>,
    facts: Facts,
    access: Access,
    defaults: Policy,
    phase: watch::Sender<Phase>,
    shutdown: mpsc::Sender<ShutdownAsked>,
    began: Instant,
    connections: AtomicUsize,
    fewer: tokio::sync::Notify,
    starting: watch::Sender<usize>,
}

/// What all requests share. Clones are the same.
#[derive(Debug, Clone)]
pub struct Gateway {
    inner: Arc<Inner>,
}

impl Gateway {
    /// For these jobs and conversations, and their sessions. `defaults` is the policy of a session that asks for nothing; what clients ask of
    /// the host itself goes to `shutdown`.
    pub fn new(
        jobs: Jobs,
        agents: Agents,
        acp: AcpOptions,
        facts: Facts,
        access: Access,
        defaults: Policy,
        shutdown: mpsc::Sender<ShutdownAsked>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                sessions: agents.sessions().clone(),
                agents,
                jobs,
                acp,
                ahp: Overseer::new(&facts.state_dir),
                leases: Leases::default(),
                handshakes: Mutex::default(),
                facts,
                access,
                defaults,
                phase: watch::Sender::new(Phase::Open),
                shutdown,
                began: Instant::now(),
                connections: AtomicUsize::new(0),
                fewer: tokio::sync::Notify::new(),
                starting: watch::Sender::new(0),
            }),
        }
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// The conversations.
    pub fn agents(&self) -> &Agents {
        &self.inner.agents
    }

    /// The jobs.
    pub fn jobs(&self) -> &Jobs {
        &self.inner.jobs
    }

    /// How clients that speak ACP are served.
    pub fn acp(&self) -> &AcpOptions {
        &self.inner.acp
    }

    /// What clients that speak AHP are shown.
    pub(crate) fn ahp(&self) -> &Overseer {
        &self.inner.ahp
    }

    /// The HTTP clients that speak ACP.
    pub(crate) fn leases(&self) -> &Leases {
        &self.inner.leases
    }

    /// What this agent answered to `initialize` when it was last started here.
    pub(crate) fn handshake(&self, agent: &str) -> Option<Arc<RawValue>> {
        let known = self.inner.handshakes.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        known.get(agent).cloned()
    }

    /// It has answered this.
    pub(crate) fn learn_handshake(&self, agent: &str, answer: Arc<RawValue>) {
        let known = self.inner.handshakes.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        known.insert(agent.to_owned(), answer);
    }

    /// What is known of the host.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Who may.
    pub fn access(&self) -> &Access {
        &self.inner.access
    }

    /// The policy of a session that asks for nothing.
    pub fn defaults(&self) -> &Policy {
        &self.inner.defaults
    }

    /// How long the host has been serving.
    pub fn uptime(&self) -> Duration {
        self.inner.began.elapsed()
    }

    /// How far the host is with its end.
    pub fn phase(&self) -> Phase {
        *self.inner.phase.borrow()
    }

    /// Changes of that.
    pub fn phases(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Whether another host has taken over; waits until that is known.
    ///
    /// Cancel safe.
    pub(crate) async fn is_handed_over(&self) -> bool {
        let mut phases = self.phases();
        let phase = phases.wait_for(|phase| *phase != Phase::HandingOver).await;
        phase.is_ok_and(|phase| *phase == Phase::HandedOver)
    }

    /// Goes into another phase.
    pub fn enter(&self, phase: Phase) {
        self.inner.phase.send_replace(phase);
    }

    /// Passes on that a client wants the host to stop. One that was asked already is not asked twice.
    pub(crate) fn ask_shutdown(&self, asked: ShutdownAsked) {
        let _ = self.inner.shutdown.try_send(asked);
    }

    /// Something is being started or handed on while the guard lives; a host that is taken over waits for it, so that
    /// whoever asked hears what became of it.
    ///
    /// # Errors
    /// [`ErrorCode::Unavailable`] in a host in which nothing new starts.
    pub(crate) fn starting(&self) -> Result<Starting, ApiError> {
        // Counted first: a takeover enters its phase and then looks at the count.
        self.inner.starting.send_modify(|count| *count += 1);
        let starting = Starting {
            gateway: self.clone(),
        };
        let message = match self.phase() {
            Phase::Open => return Ok(starting),
            Phase::HandingOver | Phase::HandedOver => "another host has taken over: ask again",
            Phase::Stopping | Phase::Stopped => "the host is stopping",
        };
        Err(ApiError::new(ErrorCode::Unavailable, message))
    }

    /// Waits until nothing is being started.
    ///
    /// Cancel safe.
    pub async fn none_starting(&self) {
        let mut starting = self.inner.starting.subscribe();
        // The sender lives as long as this.
        let _ = starting.wait_for(|count| *count == 0).await;
    }

    /// Counts one connection while the guard lives.
    pub(crate) fn connected(&self) -> Connected {
        self.inner.connections.fetch_add(1, Ordering::Relaxed);
        Connected {
            gateway: self.clone(),
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.inner.connections.load(Ordering::Relaxed)
    }

    /// Waits until there is no connection.
    ///
    /// Cancel safe.
    pub async fn disconnected(&self) {
        loop {
            let fewer = self.inner.fewer.notified();
            if self.connections() == 0 {
                return;
            }
            fewer.await;
        }
    }
}

/// Something that is being started.
#[derive(Debug)]
#[must_use = "it counts while this lives"]
pub(crate) struct Starting {
    gateway: Gateway,
}

impl Drop for Starting {
    fn drop(&mut self) {
        let starting = &self.gateway.inner.starting;
        starting.send_modify(|count| *count -= 1);
    }
}

/// A connection that counts.
#[derive(Debug)]
pub(crate) struct Connected {
    gateway: Gateway,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let inner = &self.gateway.inner;
        if inner.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            inner.fewer.notify_waiters();
        }
    }
}
