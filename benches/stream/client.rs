//! A client of the bare relay, of `/acp` or of `/ahp`: only what is needed to be told what an agent says.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::agent::{MARK, clock};
use crate::socket::Socket;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// The relay: the agent's own lines.
    Bare,
    Acp,
    Ahp,
}

impl Protocol {
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "bare" => Self::Bare,
            "acp" => Self::Acp,
            "ahp" => Self::Ahp,
            other => panic!("what is `{other}`?"),
        }
    }
}

pub(crate) struct Client {
    socket: Socket,
    protocol: Protocol,
    agent: String,
    /// The number of the last request, or of the last action.
    last: u64,
    /// The session (ACP) or the chat (AHP).
    pub(crate) session: String,
    /// What it calls itself.
    pub(crate) name: String,
}

fn unique(what: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{what}-{}-{next}", std::process::id())
}

fn has(text: &[u8], what: &str) -> bool {
    text.windows(what.len()).any(|part| part == what.as_bytes())
}

/// The time that an update has in it.
pub(crate) fn time_in(text: &[u8]) -> Option<i64> {
    let at = text.iter().position(|byte| *byte == MARK)?;
    let digits = text[at + 1..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |all, digit| all * 10 + i64::from(digit - b'0')))
}

impl Client {
    /// Connects, and says who it is.
    pub(crate) async fn new(protocol: Protocol, address: &str, agent: &str) -> io::Result<Self> {
        let path = match protocol {
            Protocol::Bare | Protocol::Acp => format!("/acp?agent={agent}"),
            Protocol::Ahp => "/ahp".to_owned(),
        };
        let mut client = Self {
            socket: Socket::new(address, &path).await?,
            protocol,
            agent: agent.to_owned(),
            last: 0,
            session: String::new(),
            name: unique("bench"),
        };
        let params = match protocol {
            Protocol::Bare | Protocol::Acp => {
                json!({"protocolVersion": 1, "clientCapabilities": {}})
            }
            Protocol::Ahp => {
                json!({"channel": "ahp-root://", "protocolVersions": ["1.0.0"], "clientId": client.name, "initialSubscriptions": []})
            }
        };
        client.ask("initialize", params).await?;
        Ok(client)
    }

    /// Opens a session of its own, and follows it.
    pub(crate) async fn open(&mut self) -> io::Result<()> {
        if self.protocol != Protocol::Ahp {
            let params = json!({"cwd": "/tmp", "mcpServers": []});
            let answer = self.ask("session/new", params).await?;
            answer["sessionId"]
                .as_str()
                .expect("a name")
                .clone_into(&mut self.session);
            return Ok(());
        }
        let session = format!("ahp-session:/{}", unique("bench"));
        let params = json!({"channel": session, "provider": self.agent, "workingDirectories": ["file:///tmp"]});
        self.ask("createSession", params).await?;
        let answer = self.subscribe(&session, None).await?;
        answer["snapshot"]["state"]["defaultChat"]
            .as_str()
            .expect("a chat")
            .clone_into(&mut self.session);
        let chat = self.session.clone();
        self.subscribe(&chat, None).await.map(drop)
    }

    /// Follows the session of another client, too.
    pub(crate) async fn join(&mut self, session: &str) -> io::Result<()> {
        session.clone_into(&mut self.session);
        match self.protocol {
            Protocol::Bare => panic!("a relay has one client"),
            Protocol::Acp => {
                let params = json!({"sessionId": session, "cwd": "/tmp", "mcpServers": []});
                self.ask("session/load", params).await.map(drop)
            }
            Protocol::Ahp => self.subscribe(session, None).await.map(drop),
        }
    }

    /// Follows a channel of AHP, with so many turns at first.
    pub(crate) async fn subscribe(
        &mut self,
        channel: &str,
        turns: Option<u64>,
    ) -> io::Result<Value> {
        let mut params = json!({"channel": channel});
        if let Some(turns) = turns {
            params["view"] = json!({"turns": turns});
        }
        self.ask("subscribe", params).await
    }

    pub(crate) async fn send(&mut self, method: &str, params: Value) -> io::Result<u64> {
        self.last += 1;
        let message =
            json!({"jsonrpc": "2.0", "id": self.last, "method": method, "params": params});
        self.socket.send(&message.to_string()).await?;
        Ok(self.last)
    }

    /// Dispatches an action of AHP.
    pub(crate) async fn act(&mut self, channel: &str, action: Value) -> io::Result<()> {
        self.last += 1;
        let params = json!({"channel": channel, "clientSeq": self.last, "action": action});
        let message = json!({"jsonrpc": "2.0", "method": "dispatchAction", "params": params});
        self.socket.send(&message.to_string()).await
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> io::Result<&[u8]> {
        let message = self.socket.next().await?;
        message.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
    }

    /// The text of the answer to a request.
    pub(crate) async fn answered(&mut self, id: u64) -> io::Result<Vec<u8>> {
        let own = format!("\"id\":{id},");
        loop {
            let text = self.hear().await?;
            // An answer begins with the number; the agent's own may end with it.
            let head = &text[..text.len().min(40)];
            if has(head, &own) && !has(head, "method") {
                return Ok(text.to_vec());
            }
        }
    }

    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> io::Result<Value> {
        let id = self.send(method, params).await?;
        let text = self.answered(id).await?;
        let mut answer: Value = serde_json::from_slice(&text)?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(format!("{method}: {error}"))),
            None => Ok(answer["result"].take()),
        }
    }

    /// Begins a turn.
    pub(crate) async fn prompt(&mut self, text: &str) -> io::Result<()> {
        if self.protocol != Protocol::Ahp {
            let params =
                json!({"sessionId": self.session, "prompt": [{"type": "text", "text": text}]});
            return self.send("session/prompt", params).await.map(drop);
        }
        let action = json!({
            "type": "chat/turnStarted",
            "turnId": unique("turn"),
            "startedAt": "2026-01-01T00:00:00.000Z",
            "message": {"text": text, "origin": {"kind": "user"}},
        });
        let chat = self.session.clone();
        self.act(&chat, action).await
    }

    /// Waits for the end of a turn.
    pub(crate) async fn ended(&mut self) -> io::Result<()> {
        let end = match self.protocol {
            Protocol::Ahp => "\"chat/turnComplete\"",
            Protocol::Bare | Protocol::Acp => "\"stopReason\"",
        };
        while !has(self.hear().await?, end) {}
        Ok(())
    }

    /// Waits for the next update: how many nanoseconds ago the agent wrote it.
    pub(crate) async fn update(&mut self) -> io::Result<i64> {
        loop {
            let text = self.hear().await?;
            let now = clock();
            if let Some(time) = time_in(text) {
                return Ok(now - time);
            }
            if has(text, "rejectionReason") || has(text, "\"error\":{") {
                return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
            }
        }
    }

    pub(crate) async fn updates(&mut self, count: usize) -> io::Result<Vec<i64>> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.update().await?);
        }
        Ok(all)
    }
}
