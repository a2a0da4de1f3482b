//! A client of the protocol, and what it sees of one terminal.

use std::time::{Duration, Instant};

use ahp::reducers::{apply_action_to_root, apply_action_to_terminal};
use ahp::{Client, ClientConfig, ClientError, SessionSubscription, SubscriptionEvent};
use ahp_types::actions::{StateAction, TerminalInputAction};
use ahp_types::commands::{CreateTerminalParams, DisposeTerminalParams};
use ahp_types::state::{
    RootState, SnapshotState, TerminalClaim, TerminalClientClaim, TerminalContentPart,
    TerminalInfo, TerminalLifecycleState, TerminalState,
};
use serde_json::{Value, json};

use crate::support::{Host, Place, long};

/// A client.
pub(crate) struct Peer {
    pub(crate) id: String,
    pub(crate) client: Client,
}

/// A terminal as a client sees it: the snapshot, and every action since.
pub(crate) struct Seen {
    subscription: SessionSubscription,
    pub(crate) state: TerminalState,
    /// The number of the last action that is in the state.
    pub(crate) seq: u64,
    /// The number of the snapshot, and that of the last action that came, refused ones too.
    from: u64,
    last: u64,
    /// Why actions of this client were refused.
    pub(crate) refused: Vec<String>,
}

/// The root channel as a client sees it.
pub(crate) struct Root {
    subscription: SessionSubscription,
    pub(crate) state: RootState,
}

pub(crate) fn by_client(id: &str) -> TerminalClaim {
    TerminalClaim::Client(TerminalClientClaim {
        client_id: id.to_owned(),
    })
}

/// The URL of the host for the protocol.
pub(crate) fn url(host: &Host) -> String {
    format!("ws://{}/ahp?token={}", host.client.tcp, host.client.token)
}

/// A client that has said who it is.
pub(crate) async fn connect(url: &str, id: &str) -> Client {
    let transport = ahp_ws::WebSocketTransport::connect(url)
        .await
        .expect("a WebSocket");
    let config = ClientConfig {
        default_request_timeout: Some(long()),
        subscription_buffer: 1 << 16,
    };
    let client = Client::connect(transport, config).await.expect("a client");
    let versions = vec![ahp_types::PROTOCOL_VERSION.to_string()];
    client
        .initialize(id.into(), versions, Vec::new())
        .await
        .expect("initialized");
    client
}

impl Peer {
    pub(crate) async fn new(host: &Host, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            client: connect(&url(host), id).await,
        }
    }

    /// Makes a terminal that it holds, in which this script runs; its processes carry the mark.
    pub(crate) async fn make(&self, place: &Place, uri: &str, script: &str) {
        let claim = by_client(&self.id);
        self.try_make(place, uri, script, claim)
            .await
            .expect("made");
    }

    pub(crate) async fn try_make(
        &self,
        place: &Place,
        uri: &str,
        script: &str,
        claim: TerminalClaim,
    ) -> Result<(), ClientError> {
        let meta = json!({
            "dev.hostler/argv": ["sh", "-c", script],
            "dev.hostler/env": { "HOSTLER_MARK": place.mark },
        });
        let Value::Object(meta) = meta else {
            unreachable!("an object");
        };
        let params = CreateTerminalParams {
            channel: uri.to_owned(),
            meta: Some(meta),
            claim,
            name: Some("test".into()),
            cwd: Some(format!("file://{}", place.dir.path().display())),
            cols: Some(80),
            rows: Some(24),
        };
        self.client
            .request::<_, Value>("createTerminal", params)
            .await
            .map(drop)
    }

    pub(crate) async fn dispose(&self, uri: &str) -> Result<(), ClientError> {
        let params = DisposeTerminalParams {
            channel: uri.to_owned(),
            meta: None,
        };
        self.client
            .request::<_, Value>("disposeTerminal", params)
            .await
            .map(drop)
    }

    pub(crate) async fn follow(&self, uri: &str) -> Seen {
        let (result, subscription) = self
            .client
            .subscribe(uri.to_owned())
            .await
            .expect("subscribed");
        let snapshot = result.snapshot.expect("a snapshot");
        let SnapshotState::Terminal(state) = snapshot.state else {
            panic!("{:?}", snapshot.state);
        };
        let from = u64::try_from(snapshot.from_seq).expect("a number");
        Seen {
            subscription,
            state: *state,
            seq: from,
            from,
            last: from,
            refused: Vec::new(),
        }
    }

    pub(crate) async fn root(&self) -> Root {
        let uri = ahp_types::ROOT_RESOURCE_URI.to_string();
        let (result, subscription) = self.client.subscribe(uri).await.expect("subscribed");
        let SnapshotState::Root(state) = result.snapshot.expect("a snapshot").state else {
            panic!("another state");
        };
        Root {
            subscription,
            state: *state,
        }
    }

    pub(crate) async fn act(&self, uri: &str, action: StateAction) {
        self.client
            .dispatch(uri.to_owned(), action)
            .await
            .expect("sent");
    }

    pub(crate) async fn type_in(&self, uri: &str, text: &str) {
        let data = text.to_owned();
        self.act(
            uri,
            StateAction::TerminalInput(TerminalInputAction { data }),
        )
        .await;
    }
}

/// All the text of a terminal.
pub(crate) fn text(state: &TerminalState) -> String {
    let text = |part: &TerminalContentPart| match part {
        TerminalContentPart::Unclassified(part) => part.value.clone(),
        TerminalContentPart::Command(part) => part.output.clone(),
        TerminalContentPart::Unknown(value) => panic!("{value}"),
    };
    state.content.iter().map(text).collect()
}

/// What an emulator of the terminal's size shows of it.
pub(crate) fn screen(state: &TerminalState) -> vt100::Parser {
    let count = |count: Option<i64>| {
        let count = u16::try_from(count.expect("a size")).expect("small");
        count.try_into().expect("not 0")
    };
    let mut emulator = vt100::Parser::new(count(state.rows), count(state.cols), 0);
    emulator.process(text(state).as_bytes());
    emulator
}

impl Seen {
    /// Takes the next action in.
    async fn step(&mut self, left: Duration) -> bool {
        match tokio::time::timeout(left, self.subscription.recv()).await {
            Ok(Some(SubscriptionEvent::Action(envelope))) => {
                if envelope.server_seq <= self.from {
                    // Of an earlier subscription: the snapshot has it.
                    return true;
                }
                assert!(envelope.server_seq > self.last, "numbers go up");
                self.last = envelope.server_seq;
                match envelope.rejection_reason {
                    Some(why) => self.refused.push(why),
                    None => {
                        self.seq = envelope.server_seq;
                        apply_action_to_terminal(&mut self.state, &envelope.action);
                    }
                }
                true
            }
            Ok(Some(_)) => true,
            Ok(None) => panic!("the connection has ended"),
            Err(_) => false,
        }
    }

    /// Takes actions in until something holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + long();
        while !holds(self) {
            let left = until.saturating_duration_since(Instant::now());
            if !self.step(left).await {
                let shown = screen(&self.state).screen().contents();
                panic!(
                    "not within {:?}: {what}\n{:?}\n{shown}",
                    long(),
                    self.state.claim
                );
            }
        }
    }

    pub(crate) async fn until_text(&mut self, wanted: &str) {
        self.until(wanted, |seen| text(&seen.state).contains(wanted))
            .await;
    }

    pub(crate) async fn until_shown(&mut self, wanted: &str) {
        self.until(wanted, |seen| {
            screen(&seen.state).screen().contents().contains(wanted)
        })
        .await;
    }

    pub(crate) async fn until_exited(&mut self) -> Option<i64> {
        self.until("its end", |seen| {
            matches!(seen.state.lifecycle, TerminalLifecycleState::Exited(_))
        })
        .await;
        match &self.state.lifecycle {
            TerminalLifecycleState::Exited(exited) => exited.exit_code,
            other => panic!("{other:?}"),
        }
    }

    /// Takes in what comes until nothing does, and compares with what another client sees.
    pub(crate) async fn same_as(&mut self, other: &mut Self) {
        let until = Instant::now() + long();
        let quiet = Duration::from_millis(300);
        // A snapshot has the host's number, which may be above the terminal's last.
        while self.step(quiet).await || other.step(quiet).await || self.state != other.state {
            assert!(
                Instant::now() < until,
                "{:?}\n{:?}",
                self.state,
                other.state
            );
        }
    }
}

impl Root {
    pub(crate) fn terminal(&self, uri: &str) -> Option<&TerminalInfo> {
        let all = self.state.terminals.as_ref()?;
        all.iter().find(|info| info.resource == uri)
    }

    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let until = Instant::now() + long();
        while !holds(self) {
            let left = until.saturating_duration_since(Instant::now());
            match tokio::time::timeout(left, self.subscription.recv()).await {
                Ok(Some(SubscriptionEvent::Action(envelope))) => {
                    apply_action_to_root(&mut self.state, &envelope.action);
                }
                Ok(Some(_)) => {}
                _ => panic!(
                    "not within {:?}: {what}\n{:?}",
                    long(),
                    self.state.terminals
                ),
            }
        }
    }
}

/// The code and the line of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (i32, String) {
    match result.expect_err("refused") {
        ClientError::Rpc(error) => (error.code, error.message),
        other => panic!("{other}"),
    }
}
