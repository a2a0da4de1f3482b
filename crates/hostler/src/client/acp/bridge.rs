//! Between an editor's pipes and the host's `/acp`.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use hyper::header::HeaderName;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::super::error::{Failure, Result};
use super::super::host::{Host, PAUSE, part};
use super::super::relay::websocket;
use super::super::signals;
use super::pipes::{self, Line};
use super::sessions::{Book, Out};
use hostler_run::say;

/// How long a host that is gone is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the last requests may take.
const END: Duration = Duration::from_secs(60);
/// How many messages wait here before no more are read.
const ROOM: usize = 64;

/// A connection. Dropping it leaves.
struct Link {
    frames: SplitStream<WebSocketStream<UnixStream>>,
    sender: mpsc::Sender<String>,
    writing: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

impl Link {
    async fn open(host: &Host, path: &str, name: &str) -> Result<Self> {
        let headers = [(HeaderName::from_static("hostler-client"), name)];
        let socket = websocket(host, path, headers).await?;
        let (mut sink, frames) = socket.split();
        let (sender, mut messages) = mpsc::channel::<String>(1);
        let writing = tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                if sink.send(Message::text(message)).await.is_err() {
                    // The one that reads sees the end, too.
                    std::future::pending::<()>().await;
                }
            }
            let _ = sink.close().await;
        });
        Ok(Self {
            frames,
            sender,
            writing,
        })
    }
}

/// The next message; `None` when the connection is over. Cancel safe.
async fn next(frames: &mut SplitStream<WebSocketStream<UnixStream>>) -> Option<String> {
    loop {
        match frames.next().await? {
            Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

struct Bridge<'h> {
    host: &'h Host,
    path: String,
    name: String,
    book: Book,
    to_host: VecDeque<String>,
    to_editor: VecDeque<String>,
}

enum Next {
    Editor(Option<Line>),
    Host(Option<String>),
    Sent,
    Written(bool),
    Signal,
    Late,
}

/// Carries messages until the editor is gone, or the host is and no other comes.
pub(super) async fn run(
    host: &Host,
    agent: Option<&str>,
    join: Option<String>,
    private: bool,
) -> Result<()> {
    let agent = agent.map(|agent| format!("&agent={}", part(agent)));
    let random = hostler_gateway::access::Token::random()
        .map_err(|error| Failure::io("find a name", error))?;
    let mut bridge = Bridge {
        host,
        path: format!("/acp?seq=true{}", agent.unwrap_or_default()),
        name: format!("hostler acp {}", &random.reveal()[..12]),
        book: Book::new(join),
        to_host: VecDeque::new(),
        to_editor: VecDeque::new(),
    };
    let link = Link::open(host, &bridge.path, &bridge.name).await?;
    bridge.carry(link, private).await
}

impl Bridge<'_> {
    fn put(&mut self, out: Vec<Out>) {
        for one in out {
            match one {
                Out::ToHost(text) => self.to_host.push_back(text),
                Out::ToEditor(text) => self.to_editor.push_back(text),
            }
        }
    }

    async fn carry(&mut self, link: Link, private: bool) -> Result<()> {
        let mut lines = pipes::input();
        let (output, written) = pipes::output();
        let mut told = signals::receive()?;
        let mut link = link;
        let mut end: Option<Instant> = None;
        let mut closing: Vec<String> = Vec::new();
        loop {
            if end.is_some()
                && self.to_host.is_empty()
                && !closing.iter().any(|session| self.book.holds(session))
            {
                break;
            }
            let next = tokio::select! {
                biased;
                room = output.reserve(), if !self.to_editor.is_empty() => {
                    match (room, self.to_editor.pop_front()) {
                        (Ok(room), Some(text)) => {
                            room.send(text);
                            Next::Written(true)
                        }
                        _ => Next::Written(false),
                    }
                }
                room = link.sender.reserve(), if !self.to_host.is_empty() => {
                    if let (Ok(room), Some(text)) = (room, self.to_host.pop_front()) {
                        room.send(text);
                    }
                    Next::Sent
                }
                text = next(&mut link.frames), if self.to_editor.len() < ROOM => Next::Host(text),
                line = lines.recv(), if end.is_none() && self.to_host.len() < ROOM => Next::Editor(line),
                Some(signal) = told.recv(), if end.is_none() => match signal {
                    signals::TERM | signals::INT | signals::HUP => Next::Signal,
                    _ => Next::Sent,
                },
                () = late(end) => Next::Late,
            };
            match next {
                Next::Sent | Next::Written(true) => {}
                Next::Host(Some(text)) => {
                    let out = self.book.host_says(text);
                    self.put(out);
                }
                Next::Editor(Some(Line::Whole(text))) => {
                    let out = self.book.editor_says(text);
                    self.put(out);
                }
                Next::Editor(Some(Line::Refused(why))) => {
                    let error = serde_json::json!({"code": -32600, "message": why});
                    let text = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{error}}}"#);
                    self.to_editor.push_back(text);
                }
                Next::Host(None) if end.is_some() => break,
                Next::Host(None) => match self.come_back(private).await {
                    Ok(again) => link = again,
                    Err(failure) => {
                        let out = self.book.give_up(&failure.to_string());
                        self.put(out);
                        while let Some(text) = self.to_editor.pop_front() {
                            let _ = output.send(text).await;
                        }
                        drop(output);
                        let _ = written.await;
                        return Err(failure);
                    }
                },
                // Nobody is there any more whom anything could be told.
                Next::Editor(None) | Next::Signal | Next::Written(false) => {
                    if end.is_some() {
                        break;
                    }
                    end = Some(Instant::now() + END);
                    closing = self.leave().await;
                }
                Next::Late => break,
            }
        }
        while let Some(text) = self.to_editor.pop_front() {
            if output.send(text).await.is_err() {
                break;
            }
        }
        drop(output);
        let _ = tokio::time::timeout(END, written).await;
        Ok(())
    }

    /// The editor is gone: what it opened and nobody else is at is closed.
    async fn leave(&mut self) -> Vec<String> {
        let mut host = self.host.another();
        let mut closing = Vec::new();
        for conversation in self.book.own() {
            let found = host
                .get(&format!("/v1/conversations/{}", part(&conversation)))
                .await;
            let session = found.ok().and_then(|found| {
                let session = found.get("session")?.as_str()?;
                Some(session.to_owned())
            });
            let clients = match session {
                Some(session) => host.get(&format!("/v1/sessions/{}", part(&session))).await,
                None => continue,
            };
            let clients = clients
                .ok()
                .and_then(|found| found.get("clients")?.as_u64());
            if clients.is_none_or(|clients| clients <= 1) {
                self.to_host.push_back(Book::close(&conversation));
                closing.push(conversation);
            }
        }
        closing
    }

    /// Waits for the next host, and goes on with it.
    async fn come_back(&mut self, private: bool) -> Result<Link> {
        // What was not sent is known, and sent again in its order.
        self.to_host.clear();
        if private {
            return Err(Failure::Gone);
        }
        let until = Instant::now() + PATIENCE;
        let mut said = false;
        let link = loop {
            match Link::open(self.host, &self.path, &self.name).await {
                Ok(link) => break link,
                Err(Failure::Gone | Failure::NoHost(_) | Failure::Stopped) => {}
                Err(Failure::Refused { code, .. }) if code == "unavailable" => {}
                Err(failure) => return Err(failure),
            }
            let now = Instant::now();
            if now > until {
                return Err(Failure::Gone);
            }
            if !said && until - now < PATIENCE - Duration::from_secs(2) {
                said = true;
                say("the host is gone: waiting for the next one");
            }
            sleep(PAUSE).await;
        };
        self.to_host.extend(self.book.again());
        Ok(link)
    }
}

async fn late(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}
