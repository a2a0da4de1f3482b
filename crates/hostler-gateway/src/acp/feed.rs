//! What a conversation's transcript is to one client: its entries as messages, in their order, from the client's own place on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use hostler_agent::{Answer, Conversation, Entry, EntryKind, Follower, RequestId, RpcError, Seq};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::Connection;
use super::message;
use super::outbox::{Line, Scope};

/// How many entries are taken at a time.
const BATCH: usize = 128;
/// What a request's id stands behind, in the reason that its prompt is recorded with.
const REQUEST: &str = "session/prompt, request ";

/// Why a prompt was asked for: this finds the request again that is to be answered when the turn has ended.
pub(super) fn why(id: &str) -> String {
    format!("{REQUEST}{id}")
}

/// The name by which a client answers a request of the agent. The same one for all clients, and after they came back.
pub(super) fn question(conversation: &Conversation, request: RequestId) -> String {
    message::quoted(&format!("{}:{request}", conversation.id()))
}

/// Where a feed begins.
#[derive(Debug)]
pub(super) struct Start {
    /// The last entry that the client has.
    pub(super) after: Seq,
    /// Up to here entries are history, for a client that has none.
    pub(super) history: Seq,
    /// Answered once the client has everything up to `until`.
    pub(super) opening: Option<(String, Answer)>,
    /// See `opening`.
    pub(super) until: Seq,
    /// Requests of the agent before `after` that still wait for an answer.
    pub(super) waiting: Vec<Arc<Entry>>,
    /// Turns that the client asked for over an earlier connection, with the ids of their requests.
    pub(super) turns: HashMap<u64, String>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Feed {
    connection: Arc<Connection>,
    conversation: Conversation,
    follower: Follower,
    scope: Scope,
    /// The stream on which an opening is answered, with all that goes before.
    line: Option<Arc<Line>>,
    start: Start,
    /// The last entry that the client was given.
    at: Seq,
    /// Requests in the history that nobody has answered in it.
    open: BTreeMap<RequestId, Arc<Entry>>,
}

#[derive(Deserialize)]
struct Prompt<'a> {
    turn: u64,
    by: Who,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Deserialize)]
struct Who {
    who: String,
    why: String,
}

#[derive(Deserialize)]
struct Ended<'a> {
    turn: u64,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<RpcError>,
    interrupted: Option<String>,
}

#[derive(Deserialize)]
struct Said<'a> {
    method: String,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Of {
    id: RequestId,
}

impl Feed {
    pub(super) fn new(
        connection: &Arc<Connection>,
        conversation: &Conversation,
        start: Start,
    ) -> Self {
        let scope = Scope::Session(conversation.id().to_string());
        let line = start
            .opening
            .is_some()
            .then(|| connection.outbox.line(&scope));
        Self {
            connection: connection.clone(),
            conversation: conversation.clone(),
            follower: conversation.follow(start.after),
            scope,
            line,
            at: start.after,
            start,
            open: BTreeMap::new(),
        }
    }

    pub(super) fn conversation(&self) -> &Conversation {
        &self.conversation
    }

    /// Goes on until the client is gone or the conversation is over.
    pub(super) async fn run(mut self) {
        let why = self.follow().await;
        if !self.connection.goes_on().await {
            return;
        }
        let turns = std::mem::take(&mut self.start.turns);
        for id in turns.values() {
            let error = RpcError::internal(why.clone());
            self.connection.answer(id, Err(error)).await;
        }
        if let Some((id, _)) = self.start.opening.take() {
            let error = RpcError::internal(why);
            self.connection.answer(&id, Err(error)).await;
        }
        // Not by this task itself, which that ends.
        let (connection, of) = (self.connection.clone(), self.conversation.clone());
        tokio::spawn(async move { connection.ended(&of) });
    }

    /// Why there is no more.
    async fn follow(&mut self) -> String {
        let closed = || format!("conversation {} is closed", self.conversation.id());
        let closed = closed();
        loop {
            if self.start.opening.is_some() && self.follower.after() >= self.start.until {
                self.opened().await;
            }
            let entries = match self.follower.next(BATCH).await {
                Ok(entries) if entries.is_empty() => return closed,
                Ok(entries) => entries,
                Err(error) => return error.to_string(),
            };
            for entry in entries {
                if self.start.opening.is_some() && entry.seq > self.start.until {
                    self.opened().await;
                }
                let seq = entry.seq;
                if !self.show(entry).await {
                    return closed;
                }
                self.at = seq;
                if seq == self.start.history && self.start.opening.is_none() {
                    self.caught_up().await;
                }
            }
        }
    }

    /// The client has what it asked for: it is told, and asked what still waits.
    async fn opened(&mut self) {
        if let Some((id, answer)) = self.start.opening.take() {
            self.connection.landed(&id);
            let text = message::response(&id, &answer);
            let text = self.counted(text, self.at);
            self.push(text).await;
        }
        self.line = None;
        for entry in std::mem::take(&mut self.start.waiting) {
            self.ask(&entry, self.at).await;
        }
        if self.start.history <= self.at {
            self.caught_up().await;
        }
    }

    /// The history is over: what it left open is asked.
    async fn caught_up(&mut self) {
        for entry in std::mem::take(&mut self.open).into_values() {
            self.ask(&entry, self.at).await;
        }
    }

    /// For a client that counts: with the number of the last entry that it has by this message.
    fn counted(&self, message: String, seq: Seq) -> String {
        match self.connection.client.counts {
            true => message::with_seq(message, seq.0),
            false => message,
        }
    }

    async fn push(&self, message: String) -> bool {
        match &self.line {
            Some(line) => line.push(message).await,
            None => self.connection.say(&self.scope, message).await,
        }
    }

    /// Sends what an entry is to the client. `false`: it is gone.
    async fn send(&self, entry: &Entry, message: String) -> bool {
        let message = self.counted(message, entry.seq);
        self.push(message).await
    }

    async fn show(&mut self, entry: Arc<Entry>) -> bool {
        let history = entry.seq <= self.start.history;
        let data = entry.data.get();
        match entry.kind {
            EntryKind::Update => {
                let text = message::notification("session/update", data);
                self.send(&entry, text).await
            }
            EntryKind::Prompt => self.prompt(&entry, history).await,
            EntryKind::TurnEnded => self.turn_ended(&entry).await,
            EntryKind::Request if history => {
                self.open.insert(RequestId(entry.seq.0), entry);
                true
            }
            EntryKind::Request => self.ask(&entry, entry.seq).await,
            EntryKind::Answer => self.settled(&entry).await,
            EntryKind::Notification if history => true,
            EntryKind::Notification => match serde_json::from_str::<Said<'_>>(data) {
                Ok(said) => {
                    let params = said.params.map_or("{}", RawValue::get);
                    let text = message::notification(&said.method, params);
                    self.send(&entry, text).await
                }
                Err(_) => true,
            },
            EntryKind::Notice => true,
        }
    }

    /// A prompt: the client's own is its request, which will be answered; another client's is shown.
    async fn prompt(&mut self, entry: &Entry, history: bool) -> bool {
        let Ok(prompt) = serde_json::from_str::<Prompt<'_>>(entry.data.get()) else {
            return true;
        };
        let session = self.conversation.id().to_string();
        if !history
            && prompt.by.who == self.connection.client.who
            && let Some(id) = prompt.by.why.strip_prefix(REQUEST)
        {
            self.start.turns.insert(prompt.turn, id.to_owned());
            if self.connection.client.counts {
                let session = message::quoted(&session);
                let params = format!(
                    r#"{{"sessionId":{session},"turn":{},"request":{id}}}"#,
                    prompt.turn
                );
                let text = message::notification("_hostler/turn", &params);
                return self.send(entry, text).await;
            }
            return true;
        }
        let members = message::Members::of(prompt.params);
        let blocks = members.get("prompt").map(RawValue::get).unwrap_or("[]");
        let blocks: Vec<&RawValue> = serde_json::from_str(blocks).unwrap_or_default();
        let session = message::quoted(&session);
        for (n, block) in blocks.iter().enumerate() {
            let params = format!(
                r#"{{"sessionId":{session},"update":{{"sessionUpdate":"user_message_chunk","content":{}}}}}"#,
                block.get()
            );
            let text = message::notification("session/update", &params);
            // Of one entry, only the last message says that the client has it.
            let sent = match n + 1 == blocks.len() {
                true => self.send(entry, text).await,
                false => self.push(text).await,
            };
            if !sent {
                return false;
            }
        }
        true
    }

    async fn turn_ended(&mut self, entry: &Entry) -> bool {
        let Ok(ended) = serde_json::from_str::<Ended<'_>>(entry.data.get()) else {
            return true;
        };
        let Some(id) = self.start.turns.remove(&ended.turn) else {
            return true;
        };
        let answer = match (ended.result, ended.error, ended.interrupted) {
            (Some(result), _, _) => Ok(result.to_owned()),
            (None, Some(error), _) => Err(error),
            (None, None, why) => {
                let why = why.unwrap_or_else(|| "it is not known why".to_owned());
                Err(RpcError {
                    data: Some(message::raw(format!(
                        r#"{{"interrupted":{}}}"#,
                        message::quoted(&why)
                    ))),
                    ..RpcError::internal(format!("the turn was cut off: {why}"))
                })
            }
        };
        self.connection.landed(&id);
        self.send(entry, message::response(&id, &answer)).await
    }

    /// Asks the client what the agent asks, which then has everything up to `seq`.
    async fn ask(&self, entry: &Entry, seq: Seq) -> bool {
        let Ok(said) = serde_json::from_str::<Said<'_>>(entry.data.get()) else {
            return true;
        };
        if said.method.starts_with("elicitation/") && !self.connection.can("elicitation") {
            return true;
        }
        let request = RequestId(entry.seq.0);
        let id = question(&self.conversation, request);
        if !self.connection.asks(&id, &self.conversation, request) {
            return true;
        }
        let params = said.params.map(RawValue::get);
        let text = message::request(&id, &said.method, params);
        let text = self.counted(text, seq);
        self.push(text).await
    }

    /// A question is settled: a client that still has it need not answer.
    async fn settled(&mut self, entry: &Entry) -> bool {
        let Ok(of) = serde_json::from_str::<Of>(entry.data.get()) else {
            return true;
        };
        self.open.remove(&of.id);
        let id = question(&self.conversation, of.id);
        let had = self.connection.settles(&id);
        // One that counts may have had it over an earlier connection; it knows what it has answered.
        if !had && !self.connection.client.counts {
            return true;
        }
        let params = format!(r#"{{"requestId":{id}}}"#);
        let text = message::notification("$/cancel_request", &params);
        let text = self.counted(text, entry.seq);
        // Not about a conversation, as far as the transports are concerned.
        self.connection.say(&Scope::Connection, text).await
    }
}

/// The entries of these requests.
pub(super) async fn waiting(
    connection: &Connection,
    conversation: &Conversation,
) -> Vec<Arc<Entry>> {
    let requests = conversation.requests().await.unwrap_or_default();
    let requests: HashSet<RequestId> = requests.into_iter().collect();
    let mut entries = Vec::new();
    for RequestId(seq) in requests {
        let before = Seq(seq.saturating_sub(1));
        let found = connection
            .gateway
            .agents()
            .entries(conversation.id(), before, 1)
            .await;
        let found = found.unwrap_or_default().into_iter();
        entries
            .extend(found.filter(|entry| entry.seq.0 == seq && entry.kind == EntryKind::Request));
    }
    entries.sort_by_key(|entry| entry.seq);
    entries
}
