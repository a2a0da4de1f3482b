//! The root channel, and the overseer, which keeps the channels like the sessions and conversations that there are.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ahp_types::actions::{
    RootActiveSessionsChangedAction, SessionChatAddedAction, SessionChatRemovedAction,
    SessionDefaultChatChangedAction, StateAction,
};
use ahp_types::notifications::{
    SessionAddedParams, SessionRemovedParams, SessionSummaryChangedParams,
};
use ahp_types::state::{RootState, SessionLifecycle, SessionSummary};
use hostler_agent::{Conversation, ConversationId};
use hostler_ledger::SessionId;
use hostler_session::{Session, SessionState as Stands};
use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;

use super::agents::agents;
use super::automation::Automations;
use super::chat::{self, Begin, Chat, Started};
use super::hub::{ChannelState, Hub, ReadOnly};
use super::resource::watch::Watches;
use super::session::{SessionChannel, chat_uri_of, origin_of, uri_of};
use super::terminal::Terminals;
use super::tops::tops;
use super::uri::{self, ROOT};
use super::{background, list, meta};
use crate::gateway::{Gateway, Phase};

/// How often those who follow a session are told of its processes.
const TICK: Duration = Duration::from_secs(1);

/// A session that clients are shown.
pub(super) struct Shown {
    pub(super) channel: Arc<SessionChannel>,
    pub(super) chats: HashMap<ConversationId, Arc<Chat>>,
    summary: Option<SessionSummary>,
}

struct Inner {
    hub: Hub,
    terminals: OnceLock<Terminals>,
    watches: Watches,
    automations: Automations,
    awake: AtomicBool,
    /// Held while the channels are made like the sessions.
    shown: tokio::sync::Mutex<HashMap<SessionId, Shown>>,
    /// The sessions whose agents are coming up for the first time.
    creating: Mutex<HashSet<String>>,
    changed: Arc<Notify>,
}

/// Keeps the channels like what they show. It does nothing before the first client comes.
#[derive(Clone)]
pub(crate) struct Overseer {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Overseer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Overseer")
    }
}

impl Overseer {
    /// For a host whose state is in this directory.
    pub(crate) fn new(state_dir: &std::path::Path) -> Self {
        let hub = Hub::new(state_dir);
        Self {
            inner: Arc::new(Inner {
                watches: Watches::new(hub.clone()),
                automations: Automations::new(hub.clone()),
                hub,
                terminals: OnceLock::new(),
                awake: AtomicBool::new(false),
                shown: tokio::sync::Mutex::default(),
                creating: Mutex::default(),
                changed: Arc::default(),
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

    /// The automations.
    pub(super) fn automations(&self) -> &Automations {
        &self.inner.automations
    }

    /// The terminals, once a client was there.
    pub(super) fn terminals(&self) -> Option<&Terminals> {
        self.inner.terminals.get()
    }

    /// The sessions whose agents are coming up.
    pub(super) fn creating(&self) -> MutexGuard<'_, HashSet<String>> {
        let creating = self.inner.creating.lock();
        creating.unwrap_or_else(PoisonError::into_inner)
    }

    /// A client is there: begins, unless that was done.
    pub(super) async fn wake(&self, gateway: &Gateway) {
        if self.inner.awake.swap(true, Ordering::AcqRel) {
            // Until the first one is done, all that there is is not there yet.
            drop(self.inner.shown.lock().await);
            return;
        }
        let mut shown = self.inner.shown.lock().await;
        let state = RootState {
            agents: agents(gateway.agents().catalogue()),
            active_sessions: Some(0),
            terminals: Some(Vec::new()),
            config: None,
            meta: None,
        };
        let state = ChannelState::Root(Box::new(state));
        self.hub().register(ROOT, state, Arc::new(ReadOnly));
        let terminals = Terminals::new(self.hub().clone(), gateway.agents().clone());
        if self.inner.terminals.set(terminals.clone()).is_ok() {
            tokio::spawn(terminals.run());
        }
        // Before the first look, so that nothing falls between.
        let (events, conversations) = (gateway.sessions().events(), gateway.agents().changes());
        self.reconcile_with(gateway, &mut shown).await;
        drop(shown);
        let (overseer, mut phases) = (self.clone(), gateway.phases());
        tokio::spawn(async move {
            let handed = |phase: &Phase| matches!(phase, Phase::HandingOver | Phase::HandedOver);
            if phases.wait_for(handed).await.is_ok() {
                overseer.hub().freeze();
            }
        });
        tokio::spawn(self.clone().oversee(gateway.clone(), events, conversations));
    }

    async fn oversee(
        self,
        gateway: Gateway,
        mut events: tokio::sync::broadcast::Receiver<hostler_session::SessionEvent>,
        mut conversations: tokio::sync::watch::Receiver<u64>,
    ) {
        let mut phases = gateway.phases();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = over(&mut phases) => return,
                event = events.recv() => match event {
                    Ok(hostler_session::SessionEvent::Matched { .. }) => continue,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                changed = conversations.changed() => if changed.is_err() { return },
                () = self.inner.changed.notified() => {}
                _ = tick.tick() => self.show_processes(&gateway).await,
            }
            // What comes with it is looked at with it.
            tokio::time::sleep(Duration::from_millis(5)).await;
            while !matches!(
                events.try_recv(),
                Err(tokio::sync::broadcast::error::TryRecvError::Empty
                    | tokio::sync::broadcast::error::TryRecvError::Closed)
            ) {}
            self.reconcile(&gateway).await;
        }
    }

    /// Makes the channels like the sessions and conversations that there are, and tells what is new.
    pub(super) async fn reconcile(&self, gateway: &Gateway) {
        let mut shown = self.inner.shown.lock().await;
        self.reconcile_with(gateway, &mut shown).await;
    }

    async fn reconcile_with(&self, gateway: &Gateway, shown: &mut HashMap<SessionId, Shown>) {
        let sessions: HashMap<SessionId, Session> = gateway
            .sessions()
            .list()
            .into_iter()
            .map(|session| (session.id().clone(), session))
            .collect();
        let conversations: HashMap<SessionId, Conversation> = gateway
            .agents()
            .live()
            .into_iter()
            .map(|one| (one.session().id().clone(), one))
            .filter(|(session, _)| sessions.contains_key(session))
            .collect();
        // One that is opened for a conversation is shown with it.
        let early = |id: &SessionId| gateway.agents().is_opening() && !shown.contains_key(id);
        let tops = tops(&sessions, &conversations, early);
        let before = shown.len();
        let mut is_other = false;
        let gone: Vec<SessionId> = shown
            .keys()
            .filter(|id| !tops.contains_key(id))
            .cloned()
            .collect();
        for id in gone {
            if let Some(gone) = shown.remove(&id) {
                self.remove(&gone);
                is_other = true;
            }
        }
        for (id, of) in &tops {
            let (Some(session), false) =
                (sessions.get(id), of.is_empty() && shown.contains_key(id))
            else {
                self.update(shown.get_mut(id), &[]);
                continue;
            };
            let of: Vec<&Conversation> = of.iter().filter_map(|id| conversations.get(id)).collect();
            match shown.get_mut(id) {
                Some(known) => self.bring_up_to_date(known, &of).await,
                None => {
                    let added = self.add(session, &of).await;
                    shown.insert(id.clone(), added);
                    is_other = true;
                }
            }
        }
        if shown.len() != before || before == 0 {
            self.count(shown.len());
        }
        if is_other {
            self.automations().sessions_changed();
        }
    }

    fn count(&self, count: usize) {
        let now = i64::try_from(count).unwrap_or(i64::MAX);
        let same = self.hub().look(ROOT, |state| match state {
            ChannelState::Root(root) => root.active_sessions == Some(now),
            _ => true,
        });
        if same == Some(false) {
            let action = RootActiveSessionsChangedAction {
                active_sessions: now,
            };
            let action = StateAction::RootActiveSessionsChanged(action);
            self.hub().publish(ROOT, action, None);
        }
    }

    async fn start_chat(
        &self,
        session: &SessionChannel,
        conversation: &Conversation,
    ) -> Option<Started> {
        let uri: Arc<str> = chat_uri_of(conversation).into();
        let info = conversation.info();
        let mut state = chat::empty(&uri, info.title.unwrap_or_default(), info.created);
        let is_default = conversation.session().id() == session.session.id();
        if !is_default {
            (state.origin, state.interactivity) = origin_of(conversation);
        }
        let begin = Begin {
            uri: uri.clone(),
            session: session.uri.clone(),
            conversation: conversation.clone(),
            is_default,
            state,
            changed: self.inner.changed.clone(),
        };
        match Chat::start(self.hub(), begin).await {
            Ok(started) => Some(started),
            Err(error) => {
                tracing::error!(%uri, %error, "a conversation cannot be shown");
                None
            }
        }
    }

    async fn add(&self, session: &Session, conversations: &[&Conversation]) -> Shown {
        let uri: Arc<str> = uri_of(session).into();
        let channel = SessionChannel::new(uri.clone(), session.clone(), self.hub().clone());
        let mut started = Vec::new();
        for conversation in conversations {
            started.extend(self.start_chat(&channel, conversation).await);
        }
        started.sort_by_key(|one| !one.chat.is_default);
        let default = started.iter().find(|one| one.chat.is_default);
        channel.set_default_chat(default.map(|one| one.chat.clone()));
        let before: Vec<StateAction> = default.map_or_else(Vec::new, |one| one.session.clone());
        let chats = started.iter().filter_map(|one| one.chat.summary());
        let lifecycle = match self.creating().contains(&*uri) {
            true => SessionLifecycle::Creating,
            false => SessionLifecycle::Ready,
        };
        let state = channel.state(lifecycle, chats.collect(), &before);
        self.hub().register(uri.clone(), state, channel.clone());
        if let Some(extension) = uri::extension(&uri) {
            let state = ChannelState::None;
            self.hub().register(extension, state, Arc::new(ReadOnly));
        }
        let chats = started.into_iter().map(Started::follow);
        let mut shown = Shown {
            channel,
            chats: chats
                .map(|chat| (chat.conversation.id().clone(), chat))
                .collect(),
            summary: None,
        };
        shown.summary = self.summary(&shown);
        if let Some(summary) = &shown.summary {
            let params = SessionAddedParams {
                channel: ROOT.to_owned(),
                summary: summary.clone(),
            };
            self.hub().notify(ROOT, "root/sessionAdded", &params);
        }
        shown
    }

    async fn bring_up_to_date(&self, known: &mut Shown, conversations: &[&Conversation]) {
        let hub = self.hub();
        let session = &*known.channel.uri;
        let there: HashSet<&ConversationId> = conversations.iter().map(|one| one.id()).collect();
        let gone: Vec<Arc<Chat>> = known
            .chats
            .iter()
            .filter(|(id, _)| !there.contains(id))
            .map(|(_, chat)| chat.clone())
            .collect();
        for chat in gone {
            known.chats.remove(chat.conversation.id());
            let action = SessionChatRemovedAction {
                chat: chat.uri.to_string(),
            };
            hub.publish(session, StateAction::SessionChatRemoved(action), None);
            chat.remove();
            if chat.is_default {
                known.channel.set_default_chat(None);
            }
        }
        for conversation in conversations {
            if known.chats.contains_key(conversation.id()) {
                continue;
            }
            let Some(started) = self.start_chat(&known.channel, conversation).await else {
                continue;
            };
            if let Some(summary) = started.chat.summary() {
                let action = SessionChatAddedAction { summary };
                hub.publish(session, StateAction::SessionChatAdded(action), None);
            }
            if started.chat.is_default {
                known.channel.set_default_chat(Some(started.chat.clone()));
                let action = SessionDefaultChatChangedAction {
                    default_chat: Some(started.chat.uri.to_string()),
                };
                hub.publish(
                    session,
                    StateAction::SessionDefaultChatChanged(action),
                    None,
                );
            }
            let chat = started.follow();
            known.chats.insert(conversation.id().clone(), chat);
        }
        self.update(Some(known), conversations);
    }

    /// Tells what of a session is new in listings.
    fn update(&self, known: Option<&mut Shown>, _: &[&Conversation]) {
        let Some(known) = known else { return };
        let Some(now) = self.summary(known) else {
            return;
        };
        let before = known.summary.replace(now.clone());
        let Some(changes) = before.and_then(|before| list::changes(&before, &now)) else {
            return;
        };
        let params = SessionSummaryChangedParams {
            channel: ROOT.to_owned(),
            session: known.channel.uri.to_string(),
            changes,
        };
        self.hub()
            .notify(ROOT, "root/sessionSummaryChanged", &params);
    }

    fn summary(&self, known: &Shown) -> Option<SessionSummary> {
        let channel = &known.channel;
        let look = |state: &ChannelState| match state {
            ChannelState::Session(state) => {
                Some(list::summary(&channel.uri, &channel.session, state))
            }
            _ => None,
        };
        self.hub().look(&channel.uri, look).flatten()
    }

    /// A session has closed: its followers hear how, and all that it is gone.
    fn remove(&self, gone: &Shown) {
        let hub = self.hub();
        let uri = &gone.channel.uri;
        meta::show_end(hub, uri, &gone.channel.session);
        for chat in gone.chats.values() {
            chat.remove();
        }
        hub.remove(uri);
        if let Some(extension) = uri::extension(uri) {
            hub.remove(&extension);
        }
        let params = SessionRemovedParams {
            channel: ROOT.to_owned(),
            session: uri.to_string(),
        };
        hub.notify(ROOT, "root/sessionRemoved", &params);
    }

    /// Tells those who follow sessions of their processes.
    async fn show_processes(&self, gateway: &Gateway) {
        let shown = self.inner.shown.lock().await;
        let sessions: Vec<Arc<SessionChannel>> =
            shown.values().map(|shown| shown.channel.clone()).collect();
        drop(shown);
        let mut all = tokio::task::JoinSet::new();
        for channel in sessions {
            if channel.session.state() != Stands::Closed {
                let (hub, sessions) = (self.hub().clone(), gateway.sessions().clone());
                all.spawn(async move {
                    meta::show(&hub, &channel.uri, &channel.session).await;
                    if let Some(chat) = channel.default_chat() {
                        background::show(&hub, &chat, &sessions, &channel.session).await;
                    }
                });
            }
        }
        // One that does not answer is asked again.
        let done = async { while all.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(TICK, done).await;
    }

    /// All sessions, as listings show them.
    pub(super) async fn summaries(&self) -> Vec<SessionSummary> {
        let shown = self.inner.shown.lock().await;
        let all = shown.values().filter_map(|known| self.summary(known));
        all.collect()
    }

    /// The channels of all sessions, by their ids.
    pub(super) async fn channels_of_sessions(&self) -> HashMap<SessionId, String> {
        let shown = self.inner.shown.lock().await;
        let all = shown.iter();
        all.map(|(id, known)| (id.clone(), known.channel.uri.to_string()))
            .collect()
    }

    /// The session of a channel.
    pub(super) async fn session(&self, uri: &str) -> Option<Arc<SessionChannel>> {
        let shown = self.inner.shown.lock().await;
        let found = shown.values().find(|known| &*known.channel.uri == uri);
        found.map(|known| known.channel.clone())
    }

    /// The chat of a channel.
    pub(super) async fn chat(&self, uri: &str) -> Option<Arc<Chat>> {
        let shown = self.inner.shown.lock().await;
        let mut all = shown.values().flat_map(|known| known.chats.values());
        all.find(|chat| &*chat.uri == uri).cloned()
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
        });
    }
}

/// Waits until the sessions are no longer here.
async fn over(phases: &mut tokio::sync::watch::Receiver<Phase>) {
    let _ = phases.wait_for(|phase| phase.is_over()).await;
}
