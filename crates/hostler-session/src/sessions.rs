//! All sessions of a host.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use hostler_ledger::{By, HostRun, Ledger, ResourceId, SessionId};
use hostler_process::Zygote;
use tokio::sync::broadcast;

use crate::error::{Error, Result};
use crate::event::SessionEvent;
use crate::options::SessionOptions;
use crate::policy::Policy;
use crate::process::{ProcessHandle, Shared, lock};
use crate::recover::Recovery;
use crate::report::{CloseReason, CloseReport};
use crate::session::Session;

/// What a host's sessions have in common.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Where sessions have their directories; the same for the next host.
    pub state_dir: PathBuf,
    /// This run of the host, as in the ledger.
    pub run: HostRun,
    /// The environment of every process: what of the host's own is allowed to them.
    pub env: BTreeMap<String, String>,
    /// How many sessions there may be. For one more, the least recently used one that nothing goes on in is closed
    /// ([`CloseReason::Limit`]); where there is none, it is refused. `None`: no limit.
    pub max_sessions: Option<usize>,
    /// When the machine has less memory available than this, in bytes, sessions that nothing goes on in are closed, the least
    /// recently used first, one every 5 s. `None`: never.
    pub min_available: Option<u64>,
}

impl HostOptions {
    /// No environment and no limits.
    pub fn new(state_dir: impl Into<PathBuf>, run: HostRun) -> Self {
        Self {
            state_dir: state_dir.into(),
            run,
            env: BTreeMap::new(),
            max_sessions: None,
            min_available: None,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) sessions: HashMap<SessionId, Session>,
    pub(crate) names: HashMap<String, SessionId>,
    pub(crate) processes: HashMap<ResourceId, Weak<Shared>>,
}

/// What all sessions of the host share.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) zygote: Mutex<Zygote>,
    pub(crate) ledger: Ledger,
    pub(crate) options: HostOptions,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) events: broadcast::Sender<SessionEvent>,
    pub(crate) stopping: AtomicBool,
    /// Directories of closed sessions that adopted ones have to remove.
    pub(crate) adopted_dirs: Mutex<HashSet<PathBuf>>,
    /// Counts uses, to tell who was used last.
    pub(crate) uses: AtomicU64,
}

impl Host {
    pub(crate) fn tell(&self, event: SessionEvent) {
        let _ = self.events.send(event);
    }

    /// A session's own directory.
    pub(crate) fn dir(&self, id: &SessionId) -> PathBuf {
        self.options.state_dir.join("sessions").join(id.as_str())
    }
}

/// All sessions of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Sessions {
    pub(crate) host: Arc<Host>,
}

impl Sessions {
    /// None yet: [`Sessions::recover`] is to be called before any is opened. Must be called in a runtime.
    ///
    /// # Errors
    /// The kernel's, where the directory for sessions cannot be made.
    pub fn new(zygote: Zygote, ledger: Ledger, options: HostOptions) -> Result<Self> {
        crate::dirs::prepare(&options.state_dir)?;
        let host = Arc::new(Host {
            zygote: Mutex::new(zygote),
            ledger,
            options,
            registry: Mutex::default(),
            events: broadcast::Sender::new(1024),
            stopping: AtomicBool::new(false),
            adopted_dirs: Mutex::default(),
            uses: AtomicU64::new(1),
        });
        crate::pressure::watch(&host);
        Ok(Self { host })
    }

    /// Opens a session. When this returns its keeper is up.
    ///
    /// Cancel safe: dropped at any await, what was made is closed ([`CloseReason::SpawnCancelled`]).
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::NameTaken`], [`Error::Limit`], [`Error::Stopping`], [`Error::Ledger`] (then nothing was
    /// started), [`Error::Process`], [`Error::Io`]; of the parent, [`Error::NoSession`], [`Error::Closing`].
    pub async fn open(&self, options: SessionOptions, by: By) -> Result<Session> {
        crate::open::open(&self.host, options, by).await
    }

    /// The session of this id or name.
    ///
    /// # Errors
    /// [`Error::NoSession`]; sessions that have closed are in the ledger only.
    pub fn get(&self, id_or_name: &str) -> Result<Session> {
        let registry = lock(&self.host.registry);
        let by_id = id_or_name
            .parse::<SessionId>()
            .ok()
            .and_then(|id| registry.sessions.get(&id));
        by_id
            .or_else(|| {
                let id = registry.names.get(id_or_name)?;
                registry.sessions.get(id)
            })
            .cloned()
            .ok_or_else(|| Error::NoSession(id_or_name.to_owned()))
    }

    /// All that have not closed, the oldest first.
    pub fn list(&self) -> Vec<Session> {
        let mut list: Vec<Session> = lock(&self.host.registry)
            .sessions
            .values()
            .cloned()
            .collect();
        list.sort_by(|a, b| (a.fixed.opened, a.id()).cmp(&(b.fixed.opened, b.id())));
        list
    }

    /// A process or terminal of any open session, also one that has ended and is kept for looking at.
    ///
    /// # Errors
    /// [`Error::NoResource`].
    pub fn process(&self, id: &str) -> Result<ProcessHandle> {
        let gone = || Error::NoResource(id.to_owned());
        let parsed: ResourceId = id.parse().map_err(|_| gone())?;
        let shared = lock(&self.host.registry)
            .processes
            .get(&parsed)
            .and_then(Weak::upgrade)
            .ok_or_else(gone)?;
        Ok(ProcessHandle { shared })
    }

    /// What happens in all sessions from now on.
    pub fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.host.events.subscribe()
    }

    /// The ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.host.ledger
    }

    /// Uses another zygote for sessions from now on: for a host whose zygote is gone.
    pub fn set_zygote(&self, zygote: Zygote) {
        *lock(&self.host.zygote) = zygote;
    }

    /// Adopts and sweeps what earlier hosts left behind. To be called once, before anything is opened; `earlier` is what the
    /// ledger said of them when it was opened.
    ///
    /// # Errors
    /// [`Error::Io`] when the ledger cannot be read.
    pub async fn recover(&self, earlier: &[HostRun]) -> Result<Recovery> {
        crate::recover::recover(&self.host, earlier).await
    }

    /// Closes all sessions at once, children before their parents, and opens no more. Returns when all have closed or are stuck,
    /// or the deadline is over, with the reports there are; what was not done by then goes on.
    ///
    /// Cancel safe: dropped, the closes go on.
    pub async fn close_all(
        &self,
        reason: CloseReason,
        by: By,
        grace: Option<Duration>,
        deadline: Duration,
    ) -> Vec<Arc<CloseReport>> {
        self.host.stopping.store(true, Ordering::SeqCst);
        let mut closes = tokio::task::JoinSet::new();
        for session in self.list() {
            let by = by.clone();
            closes.spawn(async move { session.close(reason, by, grace).await });
        }
        let mut reports = Vec::new();
        let _ = tokio::time::timeout(deadline, async {
            while let Some(report) = closes.join_next().await {
                reports.extend(report.into_iter().flatten());
            }
        })
        .await;
        reports
    }

    /// Lets go of every session for the next host, which has `wait` to adopt them, also those that would end with this host:
    /// nothing of them is ended, and their output stays in their pipes meanwhile. Those whose policy is to be kept wait for
    /// [`Policy::keep_for`], where that is longer. Opens no more. Gives the sessions that
    /// could not be handed over, and why; those are closed.
    ///
    /// Not cancel safe: dropped, the sessions that were not reached yet stay.
    pub async fn hand_over(&self, wait: Duration) -> Vec<(SessionId, Error)> {
        crate::takeover::hand_over(self, wait).await
    }

    pub(crate) async fn keep(
        &self,
        from: &Session,
        process: &ResourceId,
        name: &str,
        policy: Policy,
        by: By,
    ) -> Result<Session> {
        crate::keep::keep(&self.host, from, process, (name, policy), by).await
    }

    /// The directory of a session, for what belongs to it.
    pub fn session_dir(&self, id: &SessionId) -> PathBuf {
        self.host.dir(id)
    }

    /// Where all state is.
    pub fn state_dir(&self) -> &Path {
        &self.host.options.state_dir
    }
}
