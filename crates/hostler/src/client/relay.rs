//! A WebSocket to a process: its output as frames, and its input.

use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::api::{Exit, Process};
use super::error::{Failure, Result};
use super::host::{Host, request};
use super::resume::Input;

/// The first byte of a frame with input.
pub(crate) const INPUT: &[u8] = &[0];
/// How often the host is told that this client lives, even while it cannot read.
const ALIVE: Duration = Duration::from_secs(10);

/// What the host says.
#[derive(Debug)]
pub(crate) enum Frame {
    /// Standard output, or what a terminal shows.
    Output(Bytes),
    /// Standard error.
    Error(Bytes),
    /// It runs.
    Started(Box<Process>),
    /// It has ended, and all output was before.
    Exit(Exit),
    /// The offsets at which output begins.
    At(u64, Option<u64>),
    /// Output between these offsets is no longer kept.
    Gap {
        /// Of which stream.
        stream: u8,
        /// The first that is not.
        from: u64,
        /// The next that is.
        to: u64,
    },
    /// So much input has come to the process.
    Taken(u64),
    /// The host has it no more, for this reason, and so much input has come to it.
    Closing(String, u64),
    /// Something that newer hosts say.
    Unknown,
}

/// The connection. Dropping it leaves.
#[derive(Debug)]
pub(crate) struct Relay {
    frames: SplitStream<WebSocketStream<UnixStream>>,
    input: mpsc::Sender<Input>,
    sender: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        // With it the connection is closed.
        self.sender.abort();
    }
}

/// Where input goes.
#[derive(Debug)]
pub(crate) struct Inlet(mpsc::Sender<Input>);

impl Inlet {
    /// Waits until there is room. Cancel safe.
    pub(crate) async fn room(&self) -> Room {
        match self.0.clone().reserve_owned().await {
            Ok(permit) => Room(permit),
            Err(_) => std::future::pending().await,
        }
    }
}

/// Room for one piece of input.
#[derive(Debug)]
pub(crate) struct Room(mpsc::OwnedPermit<Input>);

impl Room {
    /// Sends it.
    pub(crate) fn fill(self, input: Input) {
        self.0.send(input);
    }
}

/// A WebSocket at this path, over a connection of its own.
pub(crate) async fn websocket<'h>(
    host: &Host,
    path: &str,
    headers: impl IntoIterator<Item = (HeaderName, &'h str)>,
) -> Result<WebSocketStream<UnixStream>> {
    let key = generate_key();
    let mut request = request(Method::GET, path)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header(SEC_WEBSOCKET_VERSION, "13")
        .header(SEC_WEBSOCKET_KEY, &key);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request
        .body(Full::default())
        .map_err(|error| Failure::Nonsense(error.to_string()))?;
    // A connection of its own, which this becomes.
    let answer = host.another().send(request).await?;
    let accepted = answer
        .headers()
        .get(SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS || !accepted {
        return Err(Failure::Nonsense("it is no WebSocket".into()));
    }
    let upgraded = hyper::upgrade::on(answer)
        .await
        .map_err(|_| Failure::Gone)?;
    let parts = upgraded
        .downcast::<TokioIo<UnixStream>>()
        .map_err(|_| Failure::Gone)?;
    Ok(WebSocketStream::from_partially_read(
        parts.io.into_inner(),
        parts.read_buf.to_vec(),
        Role::Client,
        None,
    )
    .await)
}

impl Relay {
    /// Connects. `first` is sent at once.
    pub(crate) async fn open(host: &mut Host, path: &str, first: Option<Value>) -> Result<Self> {
        let subprotocol = [(SEC_WEBSOCKET_PROTOCOL, "hostler.v1")];
        let socket = websocket(host, path, subprotocol).await?;
        let (mut sink, frames) = socket.split();
        let (input, mut inputs) = mpsc::channel(1);
        if let Some(first) = first {
            let first = Message::text(first.to_string());
            sink.send(first).await.map_err(|_| Failure::Gone)?;
        }
        let sender = tokio::spawn(async move {
            let mut alive = tokio::time::interval(ALIVE);
            alive.reset();
            loop {
                let message = tokio::select! {
                    Some(input) = inputs.recv() => match input {
                        Input::Bytes(bytes) => Message::binary(bytes),
                        Input::Eof => Message::text(json!({"eof": true}).to_string()),
                    },
                    _ = alive.tick() => Message::Pong(Default::default()),
                };
                if sink.send(message).await.is_err() {
                    // What there is to say about it is said by whoever reads.
                    std::future::pending::<()>().await;
                }
            }
        });
        Ok(Self {
            frames,
            input,
            sender,
        })
    }

    /// What comes next; [`Failure::Gone`] when the connection has ended. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Frame> {
        loop {
            match self.frames.next().await {
                Some(Ok(Message::Binary(bytes))) => match bytes.first() {
                    Some(1) => return Ok(Frame::Output(bytes.slice(1..))),
                    Some(2) => return Ok(Frame::Error(bytes.slice(1..))),
                    _ => {}
                },
                Some(Ok(Message::Text(text))) => return frame(text.as_str()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Err(Failure::Gone),
            }
        }
    }

    /// Where its input goes.
    pub(crate) fn inlet(&self) -> Inlet {
        Inlet(self.input.clone())
    }
}

fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

fn frame(text: &str) -> Result<Frame> {
    let nonsense = |error: serde_json::Error| Failure::Nonsense(error.to_string());
    let mut value: Value = serde_json::from_str(text).map_err(nonsense)?;
    let mut take = |key: &str| value.get_mut(key).map(Value::take);
    if let Some(exit) = take("exit") {
        return Ok(Frame::Exit(serde_json::from_value(exit).map_err(nonsense)?));
    }
    if let Some(started) = take("started") {
        let process = serde_json::from_value(started).map_err(nonsense)?;
        return Ok(Frame::Started(Box::new(process)));
    }
    if let Some(gap) = take("gap") {
        return Ok(Frame::Gap {
            stream: number(&gap, "stream").unwrap_or(1) as u8,
            from: number(&gap, "from").unwrap_or(0),
            to: number(&gap, "to").unwrap_or(0),
        });
    }
    if let Some(error) = take("error") {
        let text = |key| super::show::cell(error.get(key).unwrap_or(&Value::Null));
        return Err(Failure::Refused {
            code: text("code"),
            message: text("message"),
        });
    }
    if let Some(closing) = take("closing") {
        let taken = number(&closing, "input").unwrap_or(0);
        return Ok(Frame::Closing(super::show::at(&closing, "reason"), taken));
    }
    if let Some(at) = take("at") {
        let stdout = number(&at, "stdout").unwrap_or(0);
        return Ok(Frame::At(stdout, number(&at, "stderr")));
    }
    if let Some(taken) = value.get("input").and_then(Value::as_u64) {
        return Ok(Frame::Taken(taken));
    }
    Ok(Frame::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_understood() {
        assert!(matches!(
            frame(r#"{"exit":{"code":3,"signal":null,"status":3}}"#),
            Ok(Frame::Exit(exit)) if exit.status() == 3
        ));
        assert!(matches!(
            frame(r#"{"exit":{"signal":9}}"#),
            Ok(Frame::Exit(exit)) if exit.status() == 137
        ));
        assert!(matches!(
            frame(r#"{"gap":{"from":5,"to":9}}"#),
            Ok(Frame::Gap {
                stream: 1,
                from: 5,
                to: 9
            })
        ));
        assert!(matches!(
            frame(r#"{"closing":{"reason":"takeover","input":7}}"#),
            Ok(Frame::Closing(reason, 7)) if reason == "takeover"
        ));
        assert!(matches!(
            frame(r#"{"at":{"stdout":3,"stderr":null}}"#),
            Ok(Frame::At(3, None))
        ));
        assert!(matches!(frame(r#"{"input":4}"#), Ok(Frame::Taken(4))));
        assert!(matches!(
            frame(r#"{"error":{"code":"limit","message":"too many"}}"#),
            Err(Failure::Refused { message, .. }) if message == "too many"
        ));
        assert!(matches!(frame(r#"{"news":1}"#), Ok(Frame::Unknown)));
        assert!(matches!(frame("nonsense"), Err(Failure::Nonsense(_))));
        assert!(matches!(
            frame(r#"{"started":{"id":"p-1","session":"s-1","more":1}}"#),
            Ok(Frame::Started(process)) if process.id == "p-1"
        ));
    }
}
