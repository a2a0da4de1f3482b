//! The WebSocket to a host elsewhere, as the `ahp` crate's client wants it.
//!
//! What the host tells by itself goes to whoever follows, through a channel that is bounded and loses nothing: where that is full, no
//! more is read, and the host is what waits. Everything else is the client's.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ahp::{Transport, TransportError, TransportMessage};
use ahp_types::actions::ActionEnvelope;
use futures_util::{SinkExt, StreamExt};
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

use super::address::Address;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the host is asked whether it is there; told so as well, even while nothing can be read.
const PING: Duration = Duration::from_secs(10);
/// Silent for so long, it is not.
const SILENT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unconnected {
    /// It may be there later.
    #[error("cannot reach the host at {0}: {1}")]
    Unreachable(Address, String),
    /// It wants a token, or another one.
    #[error("the host at {0} {1}")]
    Unauthorized(Address, &'static str),
    /// It answers, but not so.
    #[error("there is no Agent Host Protocol at {0}: {1}")]
    Stranger(Address, String),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The connection.
pub(super) struct Wire {
    socket: Socket,
    told: mpsc::Sender<ActionEnvelope>,
    heard: Instant,
    ping: Instant,
}

impl Wire {
    /// Connects. What the host tells by itself goes to `told`.
    pub(super) async fn connect(
        address: &Address,
        told: mpsc::Sender<ActionEnvelope>,
    ) -> Result<Self, Unconnected> {
        let late = |_| {
            let why = format!("no answer within {} s", CONNECT.as_secs());
            Err(Unconnected::Unreachable(address.clone(), why))
        };
        let socket = timeout(CONNECT, open(address)).await.unwrap_or_else(late)?;
        let now = Instant::now();
        Ok(Self {
            socket,
            told,
            heard: now,
            ping: now + PING,
        })
    }
}

/// Asks whether the host is there; the next time at `next`.
async fn ask(socket: &mut Socket, next: &mut Instant) -> Result<(), TransportError> {
    *next = Instant::now() + PING;
    let ping = Message::Ping(Default::default());
    socket.send(ping).await.map_err(broken)
}

fn broken(error: tungstenite::Error) -> TransportError {
    TransportError::Io(error.to_string())
}

async fn open(address: &Address) -> Result<Socket, Unconnected> {
    let unreachable = |why: String| Unconnected::Unreachable(address.clone(), why);
    let stranger = |why: String| Unconnected::Stranger(address.clone(), why);
    let mut request = address
        .to_string()
        .into_client_request()
        .map_err(|error| stranger(error.to_string()))?;
    if let Some(token) = &address.token {
        let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
            Unconnected::Unauthorized(address.clone(), "does not take such a token")
        })?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let connector = match address.secure {
        true => Connector::Rustls(tls().map_err(unreachable)?),
        false => Connector::Plain,
    };
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
    let stream = stream.map_err(|error| unreachable(plain(&error)))?;
    // What is typed is not held back to be sent with more.
    let _ = stream.set_nodelay(true);
    let made = client_async_tls_with_config(request, stream, None, Some(connector)).await;
    let (socket, _) = made.map_err(|error| match error {
        tungstenite::Error::Http(answer) => refused(address, answer.status()),
        tungstenite::Error::Io(error) => unreachable(plain(&error)),
        tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
            unreachable("it hangs up".into())
        }
        tungstenite::Error::Tls(error) => unreachable(error.to_string()),
        error => stranger(error.to_string()),
    })?;
    Ok(socket)
}

/// An error of the kernel without its number.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_owned()
}

fn refused(address: &Address, status: StatusCode) -> Unconnected {
    match status {
        StatusCode::UNAUTHORIZED if address.token.is_none() => Unconnected::Unauthorized(
            address.clone(),
            "wants a token: by --token-file, in HOSTLER_TOKEN, or as `?token=` of the URL",
        ),
        StatusCode::UNAUTHORIZED => {
            Unconnected::Unauthorized(address.clone(), "does not take this token")
        }
        StatusCode::FORBIDDEN => Unconnected::Unauthorized(
            address.clone(),
            "does not answer by this name, or not this client (HTTP 403)",
        ),
        // Another one is taking over, or something before it waits for it.
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => {
            Unconnected::Unreachable(address.clone(), format!("HTTP {status}"))
        }
        status => Unconnected::Stranger(address.clone(), format!("HTTP {status}")),
    }
}

/// What this machine trusts.
fn tls() -> Result<Arc<rustls::ClientConfig>, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this machine has no certificates to trust".into());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(Arc::new(
        config.with_root_certificates(roots).with_no_client_auth(),
    ))
}

/// What the host tells, as far as it has to be known where it goes.
#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
}

/// The action in a message, if there is one.
fn action(text: &str) -> Option<ActionEnvelope> {
    let told: Told<'_> = serde_json::from_str(text).ok()?;
    if told.method.as_deref() != Some("action") {
        return None;
    }
    serde_json::from_str(told.params?.get()).ok()
}

impl Transport for Wire {
    async fn send(&mut self, message: TransportMessage) -> Result<(), TransportError> {
        let text = match message {
            TransportMessage::Text(text) => text,
            other => serde_json::to_string(&other.into_parsed()?)
                .map_err(|error| TransportError::Protocol(error.to_string()))?,
        };
        self.socket.send(Message::text(text)).await.map_err(broken)
    }

    /// Cancel safe: there is room for what is read before it is read.
    async fn recv(&mut self) -> Result<Option<TransportMessage>, TransportError> {
        loop {
            let room = tokio::select! {
                biased;
                room = self.told.reserve() => room,
                () = sleep_until(self.ping) => {
                    ask(&mut self.socket, &mut self.ping).await?;
                    // It was not listened to.
                    self.heard = Instant::now();
                    continue;
                }
            };
            let Ok(room) = room else { return Ok(None) };
            let message = tokio::select! {
                message = self.socket.next() => message,
                () = sleep_until(self.ping) => {
                    if self.heard.elapsed() > SILENT {
                        return Err(TransportError::Io("the host is silent".into()));
                    }
                    ask(&mut self.socket, &mut self.ping).await?;
                    continue;
                }
            };
            self.heard = Instant::now();
            let text = match message {
                None | Some(Ok(Message::Close(_))) => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(_)) => continue,
            };
            match action(&text) {
                Some(action) => room.send(action),
                None => return Ok(Some(TransportMessage::Text(text.as_str().to_owned()))),
            }
        }
    }

    async fn close(&mut self) -> Result<(), TransportError> {
        self.socket.close(None).await.map_err(broken)
    }
}
