//! All conversations of a host.

mod again;
mod new;
mod options;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use hostler_ledger::{
    Change, ConversationId, ConversationRow, ConversationsFilter, EntrySeq as Seq, Ledger,
    SessionId,
};
use hostler_session::{By, CloseReason, Session, Sessions};
use tokio::sync::{mpsc, watch};

use crate::catalogue::Catalogue;
use crate::conversation::{
    Actor, Conversation, Message, Pending, Ready, Shared, Used, UsedCell, now,
};
use crate::error::{Error, Result};
use crate::follow::Log;
use crate::served::Served;
use crate::warm::{Pool, Warm};
use new::roots;
pub use new::{ConversationFilter, ConversationInfo, NewConversation};
pub(crate) use new::{detail_of, new_of};
pub use options::{AgentsOptions, Tools};

/// A conversation of an earlier host.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// Which.
    pub id: ConversationId,
    /// The conversation, where its session was adopted.
    pub conversation: Option<Conversation>,
    /// Turns that were cut off: they have ended as interrupted.
    pub interrupted: Vec<u64>,
}

/// All conversations of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Agents {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Registry {
    live: HashMap<ConversationId, Conversation>,
    by_session: HashMap<SessionId, ConversationId>,
}

#[derive(Debug)]
struct Inner {
    sessions: Sessions,
    catalogue: Catalogue,
    options: AgentsOptions,
    registry: Mutex<Registry>,
    /// Held while a conversation is taken up, so that none is twice.
    loading: tokio::sync::Mutex<()>,
    pool: Arc<Pool>,
    /// Counts conversations that begin and end here.
    changes: watch::Sender<u64>,
    /// How many are being opened: sessions that are there before their conversations.
    opening: AtomicUsize,
    /// Held while a conversation is opened below another.
    handing_on: tokio::sync::Mutex<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.pool.abandon();
    }
}

/// The way back from a conversation to all of them, which does not keep them.
#[derive(Debug, Clone)]
pub(crate) struct Weakly(Weak<Inner>);

impl Weakly {
    pub(crate) fn get(&self) -> Option<Agents> {
        self.0.upgrade().map(|inner| Agents { inner })
    }
}

/// A conversation is being opened while this lives.
pub(crate) struct Opening(Agents);

impl Drop for Opening {
    fn drop(&mut self) {
        let inner = &self.0.inner;
        inner.opening.fetch_sub(1, Ordering::AcqRel);
        inner.changes.send_modify(|count| *count += 1);
    }
}

/// Closes what was opened for something that did not come about.
pub(crate) struct CloseUnless(pub(crate) Option<Session>);

impl CloseUnless {
    /// It did.
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnless {
    fn drop(&mut self) {
        if let (Some(session), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move {
                let by = By::new("host", "what it was opened for did not come about");
                let _ = session.close(CloseReason::SpawnCancelled, by, None).await;
            });
        }
    }
}

impl Agents {
    /// None yet: [`Agents::recover`] is to be called once the sessions have recovered. Must be called in a runtime.
    pub fn new(sessions: Sessions, catalogue: Catalogue, options: AgentsOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                sessions,
                catalogue,
                options,
                registry: Mutex::default(),
                loading: tokio::sync::Mutex::default(),
                pool: Arc::default(),
                changes: watch::Sender::new(0),
                opening: AtomicUsize::new(0),
                handing_on: tokio::sync::Mutex::default(),
            }),
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.inner
            .registry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.inner.pool
    }

    pub(crate) fn weakly(&self) -> Weakly {
        Weakly(Arc::downgrade(&self.inner))
    }

    pub(crate) fn ledger(&self) -> &Ledger {
        self.inner.sessions.ledger()
    }

    /// Takes up the conversations of sessions that were adopted, in the middle of their turns; the turns of others that an
    /// earlier host did not finish become interrupted.
    ///
    /// # Errors
    /// [`Error::Ledger`], [`Error::Read`].
    pub async fn recover(&self) -> Result<Vec<Resumed>> {
        crate::recover::recover(self).await
    }

    /// The agents that there are.
    pub fn catalogue(&self) -> &Catalogue {
        &self.inner.catalogue
    }

    /// The sessions in which they are.
    pub fn sessions(&self) -> &Sessions {
        &self.inner.sessions
    }

    /// The options that it was made with.
    pub fn options(&self) -> &AgentsOptions {
        &self.inner.options
    }

    /// Opens a session and begins a conversation in it. The agent is started at its first use: [`Conversation::ready`].
    ///
    /// Cancel safe: dropped at any await, what was made is closed.
    ///
    /// # Errors
    /// [`Error::NoAgent`], [`Error::Session`], [`Error::Ledger`], [`Error::Invalid`].
    pub async fn open(&self, new: NewConversation, by: By) -> Result<Conversation> {
        let _opening = self.opens();
        let (session, warm) = match self.take_spare(&new, &by).await {
            Some((session, warm)) => (session, Some(warm)),
            None => (self.open_session(&new, &by).await?, None),
        };
        let guard = CloseUnless(Some(session.clone()));
        let conversation = self.begin_with(session, new, warm, by).await?;
        guard.keep();
        Ok(conversation)
    }

    /// The same with the agent up: [`Agents::open`] and [`Conversation::ready`] in one.
    ///
    /// Cancel safe: dropped at any await, also in the middle of the handshake, what was made is closed. So it is on an error.
    ///
    /// # Errors
    /// As both.
    pub async fn open_ready(&self, new: NewConversation, by: By) -> Result<(Conversation, Ready)> {
        let conversation = self.open(new, by.clone()).await?;
        let guard = CloseUnless(Some(conversation.session()));
        let ready = conversation.ready(by).await?;
        guard.keep();
        Ok((conversation, ready))
    }

    async fn open_session(&self, new: &NewConversation, by: &By) -> Result<Session> {
        let spec = self
            .catalogue()
            .get(&new.agent)
            .ok_or_else(|| Error::NoAgent(new.agent.clone()))?;
        // Counted and opened in one: two at a time are not both the last one.
        let _alone = match &new.session.parent {
            Some(parent) => {
                let alone = self.inner.handing_on.lock().await;
                self.may_delegate(parent)?;
                Some(alone)
            }
            None => None,
        };
        let mut options = new.session.clone();
        options.cwd.get_or_insert_with(|| new.cwd.clone());
        if let Some(limits) = &spec.limits {
            options.policy.limits = *limits;
        }
        Ok(self.sessions().open(options, by.clone()).await?)
    }

    /// Begins a conversation in a session that is open and has none.
    ///
    /// Cancel safe: it has begun or not.
    ///
    /// # Errors
    /// As [`Agents::open`]; [`Error::Invalid`] where the session has one.
    pub async fn begin(
        &self,
        session: Session,
        new: NewConversation,
        by: By,
    ) -> Result<Conversation> {
        self.begin_with(session, new, None, by).await
    }

    async fn begin_with(
        &self,
        session: Session,
        new: NewConversation,
        warm: Option<Warm>,
        by: By,
    ) -> Result<Conversation> {
        self.check(&session, &new)?;
        let at = now();
        let row = ConversationRow {
            id: ConversationId::of(session.id()),
            session: session.id().clone(),
            agent: new.agent.clone(),
            cwd: new.cwd.to_string_lossy().into_owned(),
            agent_session: None,
            title: None,
            parent: None,
            forked_at: None,
            state: "live".into(),
            detail: detail_of(&new, None),
            created: at,
            updated: at,
            number: 0,
        };
        let conversation = Box::new(row.clone());
        let change = Change::ConversationBegan { conversation, by };
        self.ledger().write_unsynced(vec![change]).await?;
        let (shared, inbox) = self.shared(row, new, session, Seq::START)?;
        let mut actor = Actor::new(shared.clone(), inbox, None, &Pending::default());
        actor.warm = warm;
        Ok(self.run(shared, actor))
    }

    fn check(&self, session: &Session, new: &NewConversation) -> Result<()> {
        if self.catalogue().get(&new.agent).is_none() {
            return Err(Error::NoAgent(new.agent.clone()));
        }
        if !new.cwd.is_absolute() {
            return Err(Error::Invalid(format!(
                "the directory of a conversation should be absolute: `{}`",
                new.cwd.display()
            )));
        }
        if self.registry().by_session.contains_key(session.id()) {
            let id = session.id();
            return Err(Error::Invalid(format!("session {id} has a conversation")));
        }
        Ok(())
    }

    /// What a conversation's task and its handles share.
    pub(crate) fn shared(
        &self,
        row: ConversationRow,
        new: NewConversation,
        session: Session,
        last: Seq,
    ) -> Result<(
        Arc<Shared>,
        mpsc::UnboundedReceiver<crate::conversation::Message>,
    )> {
        let spec = self
            .catalogue()
            .get(&new.agent)
            .ok_or_else(|| Error::NoAgent(new.agent.clone()))?
            .clone();
        let (mailbox, inbox) = mpsc::unbounded_channel();
        let options = self.options().clone();
        let log = Log::new(row.id.clone(), self.ledger().clone(), last, options.ring);
        let shared = Arc::new(Shared {
            id: row.id.clone(),
            served: Arc::new(Served::new(self.sessions(), session.clone(), roots(&new))),
            session,
            log,
            permission: new.permission.unwrap_or(spec.permission),
            spec,
            new: Arc::new(new),
            options,
            mailbox,
            used: UsedCell::default(),
            said: false.into(),
            row: Mutex::new(row),
            agents: self.weakly(),
            ledger: self.ledger().clone(),
        });
        Ok((shared, inbox))
    }

    /// Lets a conversation be found, and its task run.
    pub(crate) fn run(&self, shared: Arc<Shared>, actor: Actor) -> Conversation {
        let conversation = Conversation { shared };
        let mut registry = self.registry();
        let (id, session) = (conversation.id().clone(), conversation.session());
        registry.by_session.insert(session.id().clone(), id.clone());
        registry.live.insert(id, conversation.clone());
        drop(registry);
        self.inner.changes.send_modify(|count| *count += 1);
        tokio::spawn(actor.run());
        conversation.plan_its_end();
        conversation
    }

    /// Ends idle agents where too many are up.
    pub(crate) fn make_room(&self, but: &ConversationId) {
        let Some(most) = self.options().max_agents else {
            return;
        };
        let up = self.live().into_iter().filter_map(|conversation| {
            let used = conversation.shared.used.get();
            (!matches!(used, Used::Absent | Used::Gone)).then_some((used, conversation))
        });
        let mut up: Vec<(Used, Conversation)> = up.collect();
        let others = up.len() - up.iter().filter(|(_, one)| one.id() == but).count();
        let over = (others + 1).saturating_sub(most);
        up.retain(|(used, one)| matches!(used, Used::Idle(_)) && one.id() != but);
        up.sort_by_key(|(used, _)| *used);
        for (_, conversation) in up.into_iter().take(over) {
            let by = By::new(
                "host",
                "there are too many agents, and this one does nothing",
            );
            conversation.shared.tell(Message::Retire { by });
        }
    }

    /// A conversation is live no more.
    pub(crate) fn forget(&self, shared: &Shared) {
        let mut registry = self.registry();
        let session = shared.session.id();
        registry.by_session.remove(session);
        let same = registry
            .live
            .get(&shared.id)
            .is_some_and(|live| live.shared.session.id() == session);
        if same {
            registry.live.remove(&shared.id);
        }
        drop(registry);
        self.inner.changes.send_modify(|count| *count += 1);
    }

    /// A live one, by its own id, its session's id or its session's name.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, id: &str) -> Result<Conversation> {
        let named = self
            .sessions()
            .get(id)
            .ok()
            .map(|session| session.id().clone());
        let registry = self.registry();
        let own = id
            .parse()
            .ok()
            .and_then(|id: ConversationId| registry.live.get(&id));
        let found = own.or_else(|| {
            let id = registry.by_session.get(&named?)?;
            registry.live.get(id)
        });
        found.cloned().ok_or_else(|| Error::NotFound(id.to_owned()))
    }

    /// A conversation is being opened.
    fn opens(&self) -> Opening {
        self.inner.opening.fetch_add(1, Ordering::AcqRel);
        Opening(self.clone())
    }

    /// Whether a conversation is being opened: a session without one may be about to get it. [`Agents::changes`] tells when not.
    pub fn is_opening(&self) -> bool {
        self.inner.opening.load(Ordering::Acquire) > 0
    }

    /// Changes whenever a conversation becomes live or is live no more.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// All that are live.
    pub fn live(&self) -> Vec<Conversation> {
        self.registry().live.values().cloned().collect()
    }

    /// Conversations, the newest first, from the ledger.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn list(&self, filter: &ConversationFilter) -> Result<Vec<ConversationInfo>> {
        let filter = ConversationsFilter {
            live: filter.live,
            cwd: filter
                .cwd
                .as_ref()
                .map(|cwd| cwd.to_string_lossy().into_owned()),
            agent: filter.agent.clone(),
            before: filter.before,
            limit: match filter.limit {
                0 => 100,
                limit => limit,
            },
        };
        let rows = self.ledger().conversations(&filter)?;
        Ok(rows.into_iter().map(ConversationInfo::from).collect())
    }

    /// One conversation, live or not.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Read`].
    pub fn info(&self, id: &ConversationId) -> Result<ConversationInfo> {
        Ok(self.row(id)?.into())
    }

    /// Entries of any conversation, live or not, from the ledger: up to `limit` with numbers above `after`.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub async fn entries(
        &self,
        id: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<Arc<crate::transcript::Entry>>> {
        crate::follow::read(self.ledger(), id, after, limit).await
    }

    /// Lets go of all conversations for the next host: what was read is written, and nothing more is read or sent. To be
    /// called before [`Sessions::hand_over`].
    pub async fn hand_over(&self) {
        self.end_spares().await;
        for conversation in self.live() {
            conversation.hand_over().await;
        }
    }
}
