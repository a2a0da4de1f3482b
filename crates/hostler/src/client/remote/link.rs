//! A connection to a host elsewhere that comes back: what is followed goes on where it was, nothing is missed and nothing comes
//! twice.
//!
//! After a loss the client says what it has seen last (`reconnect`), and gets what came since, or states anew where that is too
//! much. What it had dispatched and not seen done is dispatched again in the first case, for then it was not done; in the second it
//! is for the command to tell by the state.

use std::collections::{HashSet, VecDeque};
use std::pin::Pin;
use std::time::Duration;

use ahp::{Client, ClientConfig, ClientError};
use ahp_types::actions::{ActionEnvelope, StateAction};
use ahp_types::commands::{
    DispatchActionParams, Implementation, InitializeParams, InitializeResult, ReconnectParams,
    ReconnectResult, SubscribeParams, SubscribeResult,
};
use ahp_types::common::{JsonObject, ROOT_RESOURCE_URI};
use ahp_types::state::{Snapshot, SnapshotState};
use ahp_types::version::SUPPORTED_PROTOCOL_VERSIONS;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::address::Address;
use super::fresh;
use super::transport::{Unconnected, Wire};
use crate::client::error::{Failure, Result};
use crate::client::{attach, show};
use hostler_run::say;

/// How long the host may take to say that it speaks the protocol.
const HELLO: Duration = Duration::from_secs(15);
/// For so long a host that was lost is looked for.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pauses between two looks for it: the first, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How many actions wait here before no more are read.
const WAITING: usize = 256;
/// How much that was typed may be on its way.
const TYPED: usize = 256 << 10;

/// What comes of what is followed.
#[derive(Debug)]
pub(super) enum Event {
    /// An action, for all or for this client alone.
    Action(Box<ActionEnvelope>),
    /// A channel stands like this now: what came before it does not count.
    Snapshot(Box<Snapshot>),
    /// A channel is no longer there.
    Gone(String),
    /// The connection was lost, and is there again: what was missed came before this.
    Back,
}

type Coming = Pin<Box<dyn Future<Output = Result<(Line, ReconnectResult)>> + Send>>;

/// One connection.
struct Line {
    client: Client,
    told: mpsc::Receiver<ActionEnvelope>,
}

/// Who this is.
#[derive(Debug, Clone)]
struct Who {
    id: String,
    meta: Option<JsonObject>,
}

/// The connection that comes back.
pub(super) struct Link {
    address: Address,
    who: Who,
    line: Line,
    /// A connection that is being made in place of the one that was lost.
    coming: Option<Coming>,
    channels: Vec<String>,
    /// The last number that was seen.
    seen: u64,
    /// What came while something else was waited for.
    waiting: VecDeque<Event>,
    sent: i64,
    /// What was dispatched and not seen done.
    undone: VecDeque<DispatchActionParams>,
    /// Whether the terminal here is raw.
    pub(super) raw: bool,
}

impl Link {
    /// Connects. `answers`: whether somebody is here who answers what an agent asks.
    pub(super) async fn open(address: Address, answers: bool) -> Result<Self> {
        let meta = (!answers).then(|| {
            let member = ("dev.hostler/answers".to_owned(), false.into());
            [member].into_iter().collect()
        });
        let who = Who {
            id: format!("hostler-{}", fresh()),
            meta,
        };
        let line = Line::new(&address).await.map_err(unconnected)?;
        let params = InitializeParams {
            channel: ROOT_RESOURCE_URI.to_owned(),
            meta: who.meta.clone(),
            protocol_versions: SUPPORTED_PROTOCOL_VERSIONS
                .iter()
                .map(|version| (*version).to_owned())
                .collect(),
            client_id: who.id.clone(),
            client_info: Some(Implementation {
                name: "hostler".into(),
                version: Some(env!("CARGO_PKG_VERSION").into()),
                title: None,
            }),
            initial_subscriptions: None,
            locale: None,
            capabilities: None,
        };
        let asked = line.client.request("initialize", params);
        let answer = match timeout(HELLO, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Cancelled),
        };
        let answer: InitializeResult = answer.map_err(|error| {
            let why = match failure(error) {
                Failure::Gone => "it hangs up".to_owned(),
                failure => failure.to_string(),
            };
            unconnected(Unconnected::Stranger(address.clone(), why))
        })?;
        Ok(Self {
            address,
            who,
            line,
            coming: None,
            channels: Vec::new(),
            seen: u64::try_from(answer.server_seq).unwrap_or(0),
            waiting: VecDeque::new(),
            sent: 0,
            undone: VecDeque::new(),
            raw: false,
        })
    }

    /// What the host calls this client.
    pub(super) fn id(&self) -> &str {
        &self.who.id
    }

    /// Asks for something. What comes meanwhile waits.
    ///
    /// # Errors
    /// [`Failure::Gone`] where the connection is lost before the answer: whether it was done is not known.
    pub(super) async fn request<R: DeserializeOwned>(
        &mut self,
        method: &str,
        params: impl Serialize,
    ) -> Result<R> {
        let asked = self.line.client.request(method, params);
        tokio::pin!(asked);
        loop {
            tokio::select! {
                answer = &mut asked => return answer.map_err(failure),
                Some(action) = self.line.told.recv() => {
                    self.seen = self.seen.max(action.server_seq);
                    self.waiting.push_back(Event::Action(Box::new(action)));
                }
            }
        }
    }

    /// Follows a channel from its state on.
    pub(super) async fn follow(&mut self, channel: &str) -> Result<SnapshotState> {
        let params = SubscribeParams {
            channel: channel.to_owned(),
            meta: None,
            delivery: None,
            view: None,
        };
        let answer: SubscribeResult = self.request("subscribe", params).await?;
        let snapshot = answer
            .snapshot
            .ok_or_else(|| Failure::Nonsense(format!("`{channel}` has no state")))?;
        self.channels.push(channel.to_owned());
        self.seen = self.seen.max(u64::try_from(snapshot.from_seq).unwrap_or(0));
        Ok(snapshot.state)
    }

    /// Does something to a channel: whether it was done comes as an [`Event`], with the number that is given back.
    pub(super) async fn dispatch(&mut self, channel: &str, action: StateAction) -> i64 {
        self.sent += 1;
        let params = DispatchActionParams {
            channel: channel.to_owned(),
            client_seq: self.sent,
            action,
        };
        self.undone.push_back(params.clone());
        // Where it is lost, it is sent again over the next connection.
        let _ = self.line.client.notify("dispatchAction", params).await;
        self.sent
    }

    /// Whether more may be typed now.
    pub(super) fn has_room(&self) -> bool {
        let size = |params: &DispatchActionParams| match &params.action {
            StateAction::TerminalInput(input) => input.data.len(),
            _ => 0,
        };
        self.undone.iter().map(size).sum::<usize>() < TYPED
    }

    /// Whether all that was dispatched was done, or refused.
    pub(super) fn is_done(&self) -> bool {
        self.undone.is_empty()
    }

    /// What comes next. A connection that is lost is made again, which is said in one line. Cancel safe.
    ///
    /// # Errors
    /// Where the host cannot be reached again.
    pub(super) async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(self.passed(event));
            }
            if let Some(coming) = &mut self.coming {
                let came = coming.await;
                self.coming = None;
                let (line, result) = came?;
                self.line = line;
                self.is_back(result).await;
                continue;
            }
            match self.line.told.recv().await {
                Some(action) => {
                    self.seen = self.seen.max(action.server_seq);
                    return Ok(self.passed(Event::Action(Box::new(action))));
                }
                None => {
                    self.tell(&format!(
                        "the connection to {} was lost: connecting again",
                        self.address
                    ));
                    let (address, who) = (self.address.clone(), self.who.clone());
                    let (seen, channels) = (self.seen, self.channels.clone());
                    self.coming = Some(Box::pin(come_back(address, who, seen, channels)));
                }
            }
        }
    }

    /// Takes note of what was done of what was dispatched.
    fn passed(&mut self, event: Event) -> Event {
        if let Event::Action(envelope) = &event
            && let Some(origin) = &envelope.origin
            && origin.client_id == self.who.id
        {
            self.undone
                .retain(|params| params.client_seq != origin.client_seq);
        }
        event
    }

    async fn is_back(&mut self, result: ReconnectResult) {
        match result {
            ReconnectResult::Replay(replay) => {
                for channel in &replay.missing {
                    self.waiting.push_back(Event::Gone(channel.clone()));
                }
                self.channels
                    .retain(|channel| !replay.missing.contains(channel));
                let mut done = HashSet::new();
                for action in replay.actions {
                    self.seen = self.seen.max(action.server_seq);
                    if let Some(origin) = action
                        .origin
                        .as_ref()
                        .filter(|o| o.client_id == self.who.id)
                    {
                        done.insert(origin.client_seq);
                    }
                    self.waiting.push_back(Event::Action(Box::new(action)));
                }
                self.undone
                    .retain(|params| !done.contains(&params.client_seq));
                for params in &self.undone {
                    let _ = self
                        .line
                        .client
                        .notify("dispatchAction", params.clone())
                        .await;
                }
            }
            ReconnectResult::Snapshot(result) => {
                self.undone.clear();
                let here = |channel: &String| {
                    result
                        .snapshots
                        .iter()
                        .any(|snapshot| snapshot.resource == *channel)
                };
                let (here, gone): (Vec<String>, Vec<String>) =
                    self.channels.drain(..).partition(here);
                self.channels = here;
                self.waiting.extend(gone.into_iter().map(Event::Gone));
                let mut last = 0;
                for snapshot in result.snapshots {
                    last = last.max(u64::try_from(snapshot.from_seq).unwrap_or(0));
                    self.waiting.push_back(Event::Snapshot(Box::new(snapshot)));
                }
                self.seen = last;
            }
        }
        self.waiting.push_back(Event::Back);
    }

    /// Says a line, whatever the terminal is like.
    fn tell(&self, line: &str) {
        match self.raw {
            true => attach::note(&format!("hostler: {line}")),
            false => say(&show::plain(line)),
        }
    }

    /// Takes leave: what was dispatched has been sent.
    pub(super) async fn leave(self) {
        let _ = timeout(Duration::from_secs(1), async {
            self.line.client.shutdown().await;
            let mut told = self.line.told;
            while told.recv().await.is_some() {}
        })
        .await;
    }
}

impl Line {
    async fn new(address: &Address) -> std::result::Result<Self, Unconnected> {
        let (tell, told) = mpsc::channel(WAITING);
        let wire = Wire::connect(address, tell).await?;
        let config = ClientConfig {
            // Closing a session takes as long as that takes; a host that is silent is found out by the transport.
            default_request_timeout: None,
            ..ClientConfig::default()
        };
        let client = Client::connect(wire, config).await;
        let client =
            client.map_err(|error| Unconnected::Unreachable(address.clone(), error.to_string()))?;
        Ok(Self { client, told })
    }
}

async fn come_back(
    address: Address,
    who: Who,
    seen: u64,
    channels: Vec<String>,
) -> Result<(Line, ReconnectResult)> {
    let until = Instant::now() + PATIENCE;
    let mut pause = PAUSE.0;
    loop {
        let failed = match Line::new(&address).await {
            Err(failed @ Unconnected::Unauthorized(..)) => return Err(unconnected(failed)),
            // It was the host before: something between may still be on its way up, or down.
            Err(failed) => unconnected(failed),
            Ok(line) => {
                let params = ReconnectParams {
                    channel: ROOT_RESOURCE_URI.to_owned(),
                    meta: who.meta.clone(),
                    client_id: who.id.clone(),
                    last_seen_server_seq: i64::try_from(seen).unwrap_or(i64::MAX),
                    subscriptions: channels.clone(),
                };
                let asked = line.client.request("reconnect", params);
                match timeout(HELLO, asked).await {
                    Ok(Ok(result)) => return Ok((line, result)),
                    Ok(Err(error)) => match failure(error) {
                        Failure::Gone => Failure::Gone,
                        failure => return Err(failure),
                    },
                    Err(_) => Failure::Gone,
                }
            }
        };
        if Instant::now() + pause > until {
            return Err(match failed {
                Failure::Gone => Failure::Unclear(format!("the host at {address} went away")),
                failed => failed,
            });
        }
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE.1);
    }
}

/// As one line to the user.
fn unconnected(error: Unconnected) -> Failure {
    Failure::Unclear(show::plain(&error.to_string()))
}

/// Why a request has failed.
fn failure(error: ClientError) -> Failure {
    /// What the client says of requests that it lost with the connection.
    const LOST: i32 = -32000;
    match error {
        ClientError::Rpc(error) if error.code == LOST && error.data.is_none() => Failure::Gone,
        ClientError::Rpc(error) => Failure::Refused {
            code: error.code.to_string(),
            message: error.message,
        },
        ClientError::Shutdown | ClientError::Transport(_) => Failure::Gone,
        ClientError::Cancelled => Failure::Nonsense("it says nothing".into()),
        other => Failure::Nonsense(other.to_string()),
    }
}
