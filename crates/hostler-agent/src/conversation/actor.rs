//! The task that alone owns a conversation.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hostler_ledger::{Change, ConversationUpdate, EntryRows, EntrySeq as Seq, LinkRow, WriteError};
use hostler_session::{By, SessionState};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until};

use super::asked::Asked;
use super::pending::{Pending, PendingAnswer, PendingServed};
use super::turns::{Queued, Running};
use super::{Answered, Ready, Shared, Turn};
use crate::error::Result;
use crate::handshake::{Built, Spawned};
use crate::link::{Caller, Heard, Link};
use crate::rpc::{Answer, UpdatePath, raw};
use crate::transcript::{Entry, EntryKind, RequestId};
use crate::warm::Warm;

/// Between tries to write what the disk has no room for.
const AGAIN: Duration = Duration::from_millis(200);

/// What a conversation's task is asked and told.
pub(crate) enum Message {
    /// Bring the agent up.
    Ready {
        token: u64,
        by: By,
        reply: oneshot::Sender<Result<(Ready, Caller)>>,
    },
    /// Whoever waited for that is gone.
    Unwait {
        token: u64,
    },
    Prompt {
        params: Box<RawValue>,
        by: By,
        reply: oneshot::Sender<Result<Turn>>,
    },
    /// Whoever asked for this turn did not hear that it is there.
    Unheard {
        turn: u64,
    },
    Cancel {
        by: By,
        reply: oneshot::Sender<()>,
    },
    /// What is asked of the turns that wait.
    Queue(super::queue::Asked),
    Notify {
        method: String,
        params: Box<RawValue>,
        reply: oneshot::Sender<Result<()>>,
    },
    Answer {
        request: RequestId,
        answer: Answer,
        by: By,
        reply: oneshot::Sender<Result<Answered>>,
    },
    Requests {
        reply: oneshot::Sender<Vec<RequestId>>,
    },
    Attach {
        client: u64,
        answers: bool,
    },
    Detach {
        client: u64,
    },
    /// End the agent; with `forget`, it begins anew.
    Evict {
        forget: bool,
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    /// End the agent if it does nothing.
    Retire {
        by: By,
    },
    /// Where the transcript is, between two writes.
    Place {
        reply: oneshot::Sender<Seq>,
    },
    /// The agent's process is there.
    Spawned {
        generation: u64,
        spawned: Spawned,
    },
    /// The handshake is over.
    Built {
        generation: u64,
        built: Result<Built>,
    },
    /// The kernel has the prompt of a turn.
    Sent {
        turn: u64,
    },
    /// The kernel has a long line.
    Written {
        generation: u64,
    },
    /// The kernel has an answer.
    Answered {
        generation: u64,
        key: u64,
    },
    /// The host has answered this request of the agent.
    Served {
        generation: u64,
        key: u64,
    },
    /// The session is not open any more.
    SessionEnds,
    /// Let go of everything for the next host.
    HandOver {
        reply: oneshot::Sender<()>,
    },
}

/// How the agent stands.
pub(crate) enum Agent {
    Absent,
    /// Its handshake is under way.
    Building(AbortHandle),
    Up(Ready),
}

pub(crate) struct Actor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inbox: mpsc::UnboundedReceiver<Message>,
    // --- the transcript ---
    pub(crate) last: Seq,
    pub(crate) batch: Vec<Arc<Entry>>,
    pub(crate) effects: Vec<Box<dyn FnOnce() + Send>>,
    /// Whether what is under way has changed since it was written.
    pub(crate) dirty: bool,
    pub(crate) offset: u64,
    pub(crate) pending_text: Arc<str>,
    pub(crate) update: Option<ConversationUpdate>,
    // --- the agent ---
    pub(crate) agent: Agent,
    pub(crate) link: Option<Link>,
    /// An agent that was started ahead, for the first use.
    pub(crate) warm: Option<Warm>,
    pub(crate) path: Option<UpdatePath>,
    pub(crate) agent_session: Option<String>,
    /// Counts agents, so that what one left behind is not taken for the next one's.
    pub(crate) generation: u64,
    pub(crate) waiting: HashMap<u64, oneshot::Sender<Result<(Ready, Caller)>>>,
    /// The end of an agent that is under way.
    pub(crate) ending: Option<watch::Receiver<()>>,
    pub(crate) untold: bool,
    pub(crate) forgotten: Seq,
    // --- turns ---
    pub(crate) next_turn: u64,
    pub(crate) queue: VecDeque<Queued>,
    pub(crate) running: Option<Running>,
    // --- requests of the agent ---
    pub(crate) requests: BTreeMap<RequestId, Asked>,
    pub(crate) served: HashMap<u64, (PendingServed, AbortHandle)>,
    pub(crate) next_key: u64,
    /// Answers that the kernel does not have yet.
    pub(crate) unsent: BTreeMap<u64, PendingAnswer>,
    pub(crate) clients: HashMap<u64, bool>,
    /// How many lines are being written that may be cut if the host dies.
    pub(crate) long: u32,
    /// How much of what makes no sense was noted of this agent.
    pub(crate) noted: u32,
    /// The time of what is added.
    pub(crate) at: u64,
    /// When somebody last used the agent, or heard of it.
    pub(crate) used: Instant,
    pub(crate) over: bool,
}

/// Unix time in milliseconds.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}

impl Actor {
    pub(crate) fn new(
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Message>,
        agent_session: Option<String>,
        pending: &Pending,
    ) -> Self {
        Self {
            last: shared.log.last(),
            shared,
            inbox,
            batch: Vec::new(),
            effects: Vec::new(),
            dirty: false,
            offset: 0,
            pending_text: Arc::default(),
            update: None,
            agent: Agent::Absent,
            link: None,
            warm: None,
            path: None,
            agent_session,
            generation: 0,
            waiting: HashMap::new(),
            ending: None,
            untold: pending.untold,
            forgotten: pending.forgotten,
            next_turn: pending.next_turn.max(1),
            queue: VecDeque::new(),
            running: None,
            requests: BTreeMap::new(),
            served: HashMap::new(),
            next_key: 0,
            unsent: BTreeMap::new(),
            clients: HashMap::new(),
            long: 0,
            noted: 0,
            at: now(),
            used: Instant::now(),
            over: false,
        }
    }

    /// Until the session closes, or the next host has the conversation.
    pub(crate) async fn run(mut self) {
        // What it has from before it began.
        self.commit().await;
        self.start_next();
        let (session, mailbox) = (self.shared.session.clone(), self.shared.mailbox.clone());
        let watch = tokio::spawn(async move {
            let mut state = session.state();
            while state.is_open() || state == SessionState::Starting {
                state = session.changed_from(state).await;
            }
            let _ = mailbox.send(Message::SessionEnds);
        });
        while !self.over {
            let wake = self.wake();
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(message) => self.handle(message).await,
                    None => break,
                },
                heard = hear(&mut self.link) => match heard {
                    Heard::Bytes(offset, bytes) => self.heard(offset, &bytes),
                    Heard::End => self.agent_ended(),
                },
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.at = now();
                    self.due();
                }
            }
            self.commit().await;
        }
        watch.abort();
        self.shared.log.end();
        self.shared.forget();
    }

    async fn handle(&mut self, message: Message) {
        self.at = now();
        self.note_use(&message);
        match message {
            Message::Ready { token, by, reply } => self.ready(token, by, reply),
            Message::Unwait { token } => {
                self.waiting.remove(&token);
                self.unneeded();
            }
            Message::Prompt { params, by, reply } => self.prompt(params, by, None, reply).await,
            Message::Unheard { turn } => self.withdraw(turn),
            Message::Cancel { by, reply } => {
                self.cancel(&by);
                self.then(move || {
                    let _ = reply.send(());
                });
            }
            Message::Queue(asked) => self.asked_of_queue(asked).await,
            Message::Notify {
                method,
                params,
                reply,
            } => {
                let _ = reply.send(self.notify(&method, &params));
            }
            Message::Answer {
                request,
                answer,
                by,
                reply,
            } => self.answer(request, answer, &by, reply),
            Message::Requests { reply } => {
                let open = self.requests.keys().copied().collect();
                // What it says is in the transcript by then.
                self.then(move || drop(reply.send(open)));
            }
            Message::Attach { client, answers } => {
                self.clients.insert(client, answers);
            }
            Message::Detach { client } => {
                self.clients.remove(&client);
                self.nobody_is_there();
            }
            Message::Evict { forget, by, reply } => self.evict(forget, &by, reply),
            Message::Retire { by } => self.retire(&by),
            Message::Place { reply } => drop(reply.send(self.last)),
            Message::Spawned {
                generation,
                spawned,
            } => self.spawned(generation, spawned),
            Message::Built { generation, built } => self.built(generation, built),
            Message::Sent { turn } => self.sent(turn),
            Message::Written { generation } => {
                if generation == self.generation {
                    self.long = self.long.saturating_sub(1);
                    self.dirty = true;
                }
            }
            Message::Answered { generation, key } => {
                if generation == self.generation && self.unsent.remove(&key).is_some() {
                    self.dirty = true;
                }
            }
            Message::Served { generation, key } => {
                if generation == self.generation && self.served.remove(&key).is_some() {
                    self.dirty = true;
                }
            }
            Message::SessionEnds => self.session_ends(),
            Message::HandOver { reply } => {
                self.hand_over();
                // Nothing more is read from here on; the link stays, for it says how far that was.
                self.commit().await;
                let _ = reply.send(());
            }
        }
    }

    // --- writing ---

    /// Adds an entry; it is shown once it is in the ledger.
    pub(crate) fn push(&mut self, kind: EntryKind, turn: Option<u64>, data: Arc<RawValue>) -> Seq {
        self.last = Seq(self.last.0 + 1);
        self.batch.push(Arc::new(Entry {
            seq: self.last,
            at: self.at,
            turn,
            kind,
            data,
        }));
        self.last
    }

    pub(crate) fn push_json(
        &mut self,
        kind: EntryKind,
        turn: Option<u64>,
        data: &impl Serialize,
    ) -> Seq {
        self.push(kind, turn, raw(data).into())
    }

    /// Does something once what was added so far is in the ledger.
    pub(crate) fn then(&mut self, effect: impl FnOnce() + Send + 'static) {
        self.effects.push(Box::new(effect));
    }

    fn pending(&self) -> Pending {
        let running = self.running.iter().map(Running::pending);
        Pending {
            next_turn: self.next_turn,
            turns: running
                .chain(self.queue.iter().map(Queued::pending))
                .collect(),
            requests: self
                .requests
                .iter()
                .map(|(id, asked)| asked.pending(*id))
                .collect(),
            served: self
                .served
                .values()
                .map(|(served, _)| served.clone())
                .collect(),
            answers: self.unsent.values().cloned().collect(),
            up: matches!(self.agent, Agent::Up(_)),
            writing: self.long > 0,
            untold: self.untold,
            forgotten: self.forgotten,
        }
    }

    fn changes(&mut self, offset: u64) -> Vec<Change> {
        let id = self.shared.id.clone();
        let mut changes = Vec::with_capacity(2);
        if let Some(update) = &self.update {
            changes.push(Change::ConversationChanged {
                id: id.clone(),
                update: Box::new(update.clone()),
            });
        }
        if self.dirty {
            let text = serde_json::to_string(&self.pending()).unwrap_or_default();
            self.pending_text = text.into();
        }
        let moved = self.dirty || offset != self.offset;
        let link = moved.then(|| LinkRow {
            process: self.link.as_ref().map(|link| link.process.id().clone()),
            offset,
            pending: self.pending_text.clone(),
        });
        if link.is_some() || !self.batch.is_empty() {
            changes.push(Change::TranscriptAppended {
                id,
                entries: rows(&self.batch),
                link,
            });
        }
        changes
    }

    fn read_to(&self) -> u64 {
        self.link.as_ref().map_or(0, |link| link.lines.done())
    }

    /// Tries once to write what was added.
    pub(crate) async fn write(&mut self) -> std::result::Result<(), WriteError> {
        let offset = self.read_to();
        let changes = self.changes(offset);
        if !changes.is_empty() {
            self.shared.ledger().write_unsynced(changes).await?;
        }
        if offset != self.offset
            && let Some(link) = &self.link
        {
            link.settle();
        }
        self.offset = offset;
        self.dirty = false;
        self.update = None;
        self.shared.log.publish(std::mem::take(&mut self.batch));
        for effect in std::mem::take(&mut self.effects) {
            effect();
        }
        Ok(())
    }

    /// Writes what was added, shows it, and does what was to be done then. Waits for room on the disk: meanwhile the agent
    /// is not read from, and waits too.
    pub(crate) async fn commit(&mut self) {
        self.show_use();
        loop {
            match self.write().await {
                Ok(()) => return,
                Err(WriteError::Full | WriteError::ReadOnly | WriteError::Io(_))
                    if self.shared.session.state().is_open() =>
                {
                    sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::error!(conversation = %self.shared.id, %error, "a transcript cannot be written");
                    self.batch.clear();
                    self.effects.clear();
                    self.over = true;
                    return;
                }
            }
        }
    }
}

async fn hear(link: &mut Option<Link>) -> Heard {
    match link {
        Some(link) => link.hear().await,
        None => std::future::pending().await,
    }
}

/// Entries as rows: updates that follow one another share one.
fn rows(entries: &[Arc<Entry>]) -> Vec<EntryRows> {
    let alike = |a: &Arc<Entry>, b: &Arc<Entry>| {
        a.kind == EntryKind::Update && b.kind == EntryKind::Update && a.turn == b.turn
    };
    entries
        .chunk_by(alike)
        .filter_map(|group| {
            let first = group.first()?;
            let length: usize = group.iter().map(|entry| entry.data.get().len() + 1).sum();
            let mut data = String::with_capacity(length);
            for (index, entry) in group.iter().enumerate() {
                if index > 0 {
                    data.push('\n');
                }
                data.push_str(entry.data.get());
            }
            Some(EntryRows {
                seq: first.seq,
                n: group.len() as u32,
                at: first.at,
                turn: first.turn,
                kind: first.kind.as_str().into(),
                data,
            })
        })
        .collect()
}
