//! A client that speaks raw ACP on a WebSocket, and remembers what it heard.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Place, long};

pub(crate) struct Peer {
    pub(crate) socket: WebSocketStream<UnixStream>,
    next: u64,
    /// All that came that is no answer to a request.
    pub(crate) heard: Vec<Value>,
    answers: Vec<Value>,
}

impl Peer {
    /// Connects, and says nothing.
    pub(crate) async fn silent(client: &Client) -> Self {
        let stream = client.unix().await;
        let (socket, _) = tokio_tungstenite::client_async("ws://localhost/acp", stream)
            .await
            .expect("a WebSocket");
        Self {
            socket,
            next: 0,
            heard: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Connects and initializes.
    pub(crate) async fn new(client: &Client) -> Self {
        let mut peer = Self::silent(client).await;
        let params = json!({"protocolVersion": 1, "clientCapabilities": {}});
        let answer = peer.ask("initialize", params).await;
        assert_eq!(answer["result"]["protocolVersion"], 1, "{answer}");
        assert_eq!(answer["result"]["agentCapabilities"]["loadSession"], true);
        peer
    }

    pub(crate) async fn say(&mut self, text: impl Into<String>) {
        let text = Message::text(text.into());
        self.socket.send(text).await.expect("sent");
    }

    /// Sends a request, and gives its id.
    pub(crate) async fn send(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = json!(self.next);
        let text = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.say(text.to_string()).await;
        id
    }

    pub(crate) async fn tell(&mut self, method: &str, params: Value) {
        let text = json!({"jsonrpc": "2.0", "method": method, "params": params});
        self.say(text.to_string()).await;
    }

    /// Takes one message in; `false` at the end.
    pub(crate) async fn hear(&mut self) -> bool {
        match self.socket.next().await {
            Some(Ok(Message::Text(text))) => {
                let value: Value = serde_json::from_str(&text).expect("JSON");
                match value.get("method") {
                    Some(_) => self.heard.push(value),
                    None => self.answers.push(value),
                }
                true
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => false,
            Some(Ok(_)) => true,
        }
    }

    pub(crate) async fn answer(&mut self, id: &Value) -> Value {
        // A deadline for all of it: pings come for ever.
        let until = Instant::now() + long();
        loop {
            if let Some(n) = self.answers.iter().position(|answer| answer["id"] == *id) {
                return self.answers.remove(n);
            }
            match timeout_at(until, self.hear()).await {
                Ok(more) => assert!(more, "closed before the answer to {id}"),
                Err(_) => panic!("no answer to {id} in time; heard: {:?}", self.heard),
            }
        }
    }

    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params).await;
        self.answer(&id).await
    }

    /// Opens a session.
    pub(crate) async fn open(&mut self) -> String {
        let answer = self
            .ask("session/new", json!({"cwd": "/tmp", "mcpServers": []}))
            .await;
        let id = answer["result"]["sessionId"].as_str();
        id.unwrap_or_else(|| panic!("no session: {answer}"))
            .to_owned()
    }

    pub(crate) async fn load(&mut self, session: &str) -> Value {
        let params = json!({"sessionId": session, "cwd": "/tmp", "mcpServers": []});
        self.ask("session/load", params).await
    }

    /// Prompts, and gives the answer.
    pub(crate) async fn prompt(&mut self, session: &str, text: &str) -> Value {
        self.ask("session/prompt", prompt(session, text)).await
    }

    /// Waits until something was heard.
    pub(crate) async fn until(&mut self, holds: impl Fn(&[Value]) -> bool) {
        let until = Instant::now() + long();
        while !holds(&self.heard) {
            match timeout_at(until, self.hear()).await {
                Ok(more) => assert!(more, "closed early: {:?}", self.heard),
                Err(_) => panic!("not in time; heard: {:?}", self.heard),
            }
        }
    }

    /// What the agent has said, put together.
    pub(crate) fn said(&self) -> String {
        said(&self.heard)
    }
}

pub(crate) fn prompt(session: &str, text: &str) -> Value {
    json!({"sessionId": session, "prompt": [{"type": "text", "text": text}]})
}

pub(crate) fn of_kind<'v>(heard: &'v [Value], kind: &str) -> Vec<&'v Value> {
    let updates = heard.iter().map(|heard| &heard["params"]["update"]);
    updates
        .filter(|update| update["sessionUpdate"] == kind)
        .collect()
}

pub(crate) fn said(heard: &[Value]) -> String {
    let chunks = of_kind(heard, "agent_message_chunk");
    chunks
        .iter()
        .filter_map(|chunk| chunk["content"]["text"].as_str())
        .collect()
}

/// A command that lives long and carries the place's mark.
pub(crate) fn marked(place: &Place) -> String {
    format!("echo begun; env MARK={} sleep 1000", place.mark)
}

/// Waits for something that has no event of its own.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(long(), waiting)
        .await
        .unwrap_or_else(|_| panic!("not in time: {what}"));
}
