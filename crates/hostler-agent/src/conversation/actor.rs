//! The task that alone owns a conversation.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use hostler_ledger::{ConversationUpdate, EntrySeq as Seq};
use hostler_session::{By, SessionState};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::asked::{Answers, Asked};
use super::pending::{Pending, PendingAnswer, PendingServed};
use super::renewal::Renewing;
use super::turns::{Queued, Running};
use super::{Answered, Ready, Shared, Turn, Used};
use crate::error::{Error, Result};
use crate::handshake::{Built, Spawned};
use crate::link::{Caller, Heard, Link};
use crate::rpc::{Answer, UpdatePath};
use crate::transcript::{Entry, RequestId};
use crate::warm::Warm;

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
    /// This turn is not wanted any more.
    Withdraw {
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
        answers: Answers,
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
    /// Begin a fresh context with the agent that is up.
    Renew {
        by: By,
        reply: oneshot::Sender<Result<()>>,
    },
    /// Say when nothing is under way any more, and whether the agent is up then.
    Quiet {
        reply: oneshot::Sender<bool>,
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
    /// That the agent has ended which is being brought up.
    pub(crate) ended_early: Option<Error>,
    /// The end of an agent that is under way.
    pub(crate) ending: Option<watch::Receiver<()>>,
    pub(crate) untold: bool,
    pub(crate) forgotten: Seq,
    /// A fresh context that the agent is asked for.
    pub(crate) renewing: Option<Renewing>,
    /// What the agent called contexts that are forgotten: what it says of those is let go of.
    pub(crate) former: VecDeque<String>,
    /// Who waits for nothing to be under way.
    pub(crate) quiet: Vec<oneshot::Sender<bool>>,
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
    /// Who is attached, and what each answers.
    pub(crate) clients: HashMap<u64, Answers>,
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
        shared.said.store(pending.next_turn > 1, Ordering::Relaxed);
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
            ended_early: None,
            ending: None,
            untold: pending.untold,
            forgotten: pending.forgotten,
            renewing: None,
            former: VecDeque::new(),
            quiet: Vec::new(),
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
            self.tell_quiet();
        }
        watch.abort();
        self.shared.log.end();
        if !self.shared.session.state().is_open() {
            self.shared.used.set(Used::Gone);
        }
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
            Message::Withdraw { turn } => self.withdraw(turn),
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
                self.attendance_changed();
            }
            Message::Detach { client } => {
                self.clients.remove(&client);
                self.attendance_changed();
            }
            Message::Evict { forget, by, reply } => self.evict(forget, &by, reply),
            Message::Retire { by } => self.retire(&by),
            Message::Renew { by, reply } => self.renew(by, reply),
            Message::Quiet { reply } => self.quiet.push(reply),
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
}

async fn hear(link: &mut Option<Link>) -> Heard {
    match link {
        Some(link) => link.hear().await,
        None => std::future::pending().await,
    }
}
