//! Terminals: `ahp-terminal:/ID` channels.
//!
//! # Theory of operation
//!
//! A terminal is a process with a terminal in a session, whoever started it. One that a client creates has a session of its own,
//! which its disposal closes, so that "gone" is proven as for every session; that of a claim by a session is a child of that session, and
//! closes with it. [`Terminals`] knows them all and keeps the root channel's list. A terminal's channel is opened when a client first
//! wants it ([`live`]); from then on its output is followed until it ends.
//!
//! # Content
//!
//! The protocol's reducer appends all output to the content, which would grow for ever, and replaying the bytes of a full-screen program
//! from some place on would not give its screen. So the content is a *base* and what was written since. A base is text that draws,
//! on an emulator in any state, what the terminal shows: its scrollback (500 lines), its screen or both its screens, cursor,
//! attributes and modes, from a screen that is kept here ([`screen`]). It is put in place by actions that every client sees, `terminal/cleared`
//! and `terminal/data` (and `terminal/commandExecuted` again where a command is running), so the host's content and every client's are the
//! same text at every number. That happens
//!
//! * when there is 1 MiB of content beyond the last base;
//! * when a client joins and what was written since the base would not do: it asks the emulator something, which the newcomer's would
//!   answer again; it moved about on a screen of another size; or a full-screen program is running;
//! * when the program has ended, or was not followed for a while.
//!
//! A base never comes within a sequence: what is not there whole is held back ([`osc`]). Commands that ended before a base are in its text,
//! and no longer parts of their own. The specification allows both sides to trim, each by itself; this host does it so that nobody has
//! to guess.
//!
//! # Pace
//!
//! While somebody follows, the program writes on as fast as the fastest follower reads; one that reads nothing is overrun after two
//! seconds and told to come back. While nobody does, it runs free.

mod claim;
mod create;
mod live;
pub(super) mod methods;
mod model;
mod modes;
mod osc;
mod screen;
#[cfg(test)]
mod tests;
mod told;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahp_types::actions::{RootTerminalsChangedAction, StateAction};
use ahp_types::state::{
    TerminalClaim, TerminalExitedLifecycleState, TerminalInfo, TerminalLifecycleState,
    TerminalRunningLifecycleState, TerminalSessionClaim,
};
use hostler_agent::Agents;
use hostler_session::{
    ProcessHandle, ResourceState, Session, SessionEvent, SessionId, SessionState, Sessions,
};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, OnceCell};

use super::hub::Hub;
use super::session::{chat_uri_of, uri_of};
use super::uri;
use live::{Live, Opening};

/// The label of a session that is there for one terminal: the terminal's URI.
pub(crate) const LABEL: &str = "dev.hostler/terminal";
/// How long changes of the list are gathered.
const GATHER: std::time::Duration = std::time::Duration::from_millis(50);

/// One terminal.
#[derive(Debug, Clone)]
struct Known {
    process: ProcessHandle,
    /// Its session, if that is there for it alone.
    own: Option<SessionId>,
    /// Whose it is where no client holds it.
    home: TerminalSessionClaim,
    /// Who is to hold it when it is opened.
    claim: TerminalClaim,
    title: String,
    directory: Option<String>,
    live: Arc<OnceCell<Arc<Live>>>,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<Arc<str>, Known>,
    /// The names of those that are being made.
    making: HashSet<String>,
    /// Those that were disposed of while their session lives on.
    disposed: HashSet<Arc<str>>,
    /// What the root channel lists.
    listed: Vec<TerminalInfo>,
}

#[derive(Debug)]
struct Inner {
    hub: Hub,
    sessions: Sessions,
    agents: Agents,
    state: Mutex<State>,
    /// Told when something that is listed may have changed.
    changed: Arc<Notify>,
}

/// The terminals of a host. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Terminals {
    inner: Arc<Inner>,
}

impl Terminals {
    /// Those of the sessions in which these conversations are. Nothing is done before [`Terminals::run`].
    pub(crate) fn new(hub: Hub, agents: Agents) -> Self {
        Self {
            inner: Arc::new(Inner {
                hub,
                sessions: agents.sessions().clone(),
                agents,
                state: Mutex::default(),
                changed: Arc::default(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at every moment, and it is held over no await.
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the list like what there is, from now on.
    pub(crate) async fn run(self) {
        let mut events = self.inner.sessions.events();
        self.look_around().await;
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Ok(event) => self.happened(event),
                    Err(RecvError::Lagged(_)) => self.look_around().await,
                    Err(RecvError::Closed) => return,
                },
                () = self.inner.changed.notified() => {
                    self.list();
                    // What changes often is told now and then.
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    /// Finds all that there are.
    async fn look_around(&self) {
        for session in self.inner.sessions.list() {
            let Ok(resources) = session.resources().await else {
                continue;
            };
            for resource in resources {
                if let Ok(process) = self.inner.sessions.process(resource.id.as_str()) {
                    self.add(process);
                }
            }
        }
        let gone: Vec<Arc<str>> = {
            let state = self.state();
            let sessions = &self.inner.sessions;
            let gone = state
                .known
                .iter()
                .filter(|(_, known)| sessions.process(known.process.id().as_str()).is_err());
            gone.map(|(uri, _)| uri.clone()).collect()
        };
        for uri in gone {
            self.forget(&uri);
        }
        self.list();
    }

    fn happened(&self, event: SessionEvent) {
        match event {
            SessionEvent::Started { resource, .. } => {
                if let Ok(process) = self.inner.sessions.process(resource.as_str()) {
                    self.add(process);
                }
            }
            SessionEvent::Exited { .. } => {}
            SessionEvent::State {
                session,
                state: SessionState::Closed,
                ..
            } => {
                let of = |known: &Known| known.process.session() == session;
                let gone: Vec<Arc<str>> = {
                    let state = self.state();
                    let gone = state.known.iter().filter(|(_, known)| of(known));
                    gone.map(|(uri, _)| uri.clone()).collect()
                };
                for uri in gone {
                    let terminals = self.clone();
                    tokio::spawn(async move {
                        terminals.let_go(&uri).await;
                        terminals.state().disposed.remove(&uri);
                    });
                }
            }
            _ => return,
        }
        self.list();
    }

    /// Adds a process, if it is on a terminal.
    fn add(&self, process: ProcessHandle) {
        if !process.is_terminal() {
            return;
        }
        let Ok(session) = self.inner.sessions.get(process.session().as_str()) else {
            return;
        };
        let info = session.info();
        let label = info.labels.get(LABEL).and_then(|label| label.as_str());
        let uri: Arc<str> = match label {
            Some(uri) => uri.into(),
            None => uri::terminal(process.id().as_str()).into(),
        };
        let mut state = self.state();
        if state.known.contains_key(&uri)
            || state.disposed.contains(&uri)
            || state.making.contains(&*uri)
        {
            return;
        }
        let of = match (label, &info.parent) {
            (Some(_), Some(parent)) => parent.clone(),
            _ => info.id.clone(),
        };
        let home = self.home(&of);
        let known = Known {
            own: label.map(|_| info.id.clone()),
            claim: TerminalClaim::Session(home.clone()),
            home,
            title: title(&process),
            directory: directory(&process, &session),
            live: Arc::default(),
            process,
        };
        state.known.insert(uri, known);
    }

    /// The claim of a session that does nothing with the terminal.
    fn home(&self, id: &SessionId) -> TerminalSessionClaim {
        let session = self.inner.sessions.get(id.as_str()).ok();
        let live = self.inner.agents.live();
        let chat = live.iter().find(|chat| chat.session().id() == id);
        TerminalSessionClaim {
            session: session.map_or_else(|| uri::session(id.as_str()), |session| uri_of(&session)),
            // One without a conversation has the name that its chat would have.
            chat: chat.map_or_else(|| uri::chat(id.as_str()), chat_uri_of),
            turn_id: None,
            tool_call_id: None,
        }
    }

    /// Lets go of one that has ended, when those who follow it have been told so.
    async fn let_go(&self, uri: &str) {
        let live = self
            .state()
            .known
            .get(uri)
            .and_then(|known| known.live.get().cloned());
        if let Some(live) = live {
            live.finished().await;
        }
        self.forget(uri);
        self.list();
    }

    /// Lets go of one.
    fn forget(&self, uri: &str) -> Option<Known> {
        let known = self.state().known.remove(uri);
        self.inner.hub.remove(uri);
        known
    }

    /// Opens the channel of a terminal, if there is one of this name.
    ///
    /// Cancel safe.
    pub(crate) async fn open(&self, uri: &str) -> bool {
        let known = self
            .state()
            .known
            .get_key_value(uri)
            .map(|(uri, known)| (uri.clone(), known.clone()));
        let Some((uri, known)) = known else {
            return false;
        };
        let cell = known.live.clone();
        let opening = Opening {
            uri: uri.clone(),
            process: known.process,
            hub: self.inner.hub.clone(),
            home: known.home,
            claim: known.claim,
            title: known.title,
            directory: known.directory,
            listed: self.inner.changed.clone(),
        };
        let opened = cell.get_or_try_init(|| async {
            tokio::task::spawn_blocking(move || Live::open(opening)).await
        });
        let opened = opened.await.is_ok();
        if opened && !self.state().known.contains_key(&uri) {
            // It was disposed of meanwhile.
            self.inner.hub.remove(&uri);
            return false;
        }
        opened
    }

    /// How they stand.
    pub(crate) fn infos(&self) -> Vec<TerminalInfo> {
        let state = self.state();
        let infos = state.known.iter().map(|(uri, known)| {
            let status = known.process.status();
            let lifecycle = match status.state {
                ResourceState::Ended => {
                    let code = status.exit.and_then(|exit| exit.code);
                    TerminalLifecycleState::Exited(TerminalExitedLifecycleState {
                        exit_code: code.map(i64::from),
                    })
                }
                _ => TerminalLifecycleState::Running(TerminalRunningLifecycleState {}),
            };
            let facts = known.live.get().map(|live| live.facts());
            let (title, claim) =
                facts.unwrap_or_else(|| (known.title.clone(), known.claim.clone()));
            TerminalInfo {
                resource: uri.to_string(),
                title,
                claim,
                lifecycle,
            }
        });
        infos.collect()
    }

    /// Tells the root channel, where something has changed.
    fn list(&self) {
        let terminals = self.infos();
        let mut state = self.state();
        if state.listed == terminals {
            return;
        }
        state.listed.clone_from(&terminals);
        let action = RootTerminalsChangedAction { terminals };
        // Under the lock, so that what is told last is the newest.
        self.inner
            .hub
            .publish(uri::ROOT, StateAction::RootTerminalsChanged(action), None);
    }

    /// A client is gone: what it held, the session holds; what has ended besides, nobody will want.
    pub(crate) fn client_gone(&self, client: &str) {
        let held = |known: &Known| {
            let claim = known.live.get().map(|live| live.facts().1);
            let claim = claim.unwrap_or_else(|| known.claim.clone());
            matches!(claim, TerminalClaim::Client(claim) if claim.client_id == client)
        };
        let held: Vec<(Arc<str>, Known)> = {
            let state = self.state();
            let held = state.known.iter().filter(|(_, known)| held(known));
            held.map(|(uri, known)| (uri.clone(), known.clone()))
                .collect()
        };
        for (uri, known) in held {
            match known.live.get() {
                Some(live) => live.release(client),
                None => {
                    if let Some(known) = self.state().known.get_mut(&uri) {
                        known.claim = TerminalClaim::Session(known.home.clone());
                    }
                }
            }
            let ended = known.process.status().state == ResourceState::Ended;
            if ended && known.own.is_some() {
                let (terminals, by) = (
                    self.clone(),
                    hostler_session::By::new("host", "its client is gone"),
                );
                tokio::spawn(async move { terminals.dispose(&uri, by).await });
            }
        }
        self.list();
    }
}

/// What people are shown of it before it says so itself.
fn title(process: &ProcessHandle) -> String {
    let options = process.options();
    match &options.name {
        Some(name) => name.clone(),
        None => options.argv.join(" ").chars().take(80).collect(),
    }
}

/// Where it was started.
fn directory(process: &ProcessHandle, session: &Session) -> Option<String> {
    let cwd = process.options().cwd.clone();
    let cwd = cwd.or_else(|| session.info().cwd);
    cwd.map(|cwd| uri::of_path(&cwd))
}
