//! Accepting connections, and ending them.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::error::{ApiError, ErrorCode};
use crate::gateway::{Gateway, Phase};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A process on this machine, as the kernel names it.
    Unix {
        /// Whose process it is.
        uid: u32,
        /// Its pid when it connected; 0 when it lives where this process cannot see it.
        pid: u32,
    },
    /// Somebody on TCP.
    Tcp {
        /// The address.
        address: SocketAddr,
    },
}

impl Peer {
    /// Whether the kernel tells when the other end is gone.
    pub(crate) fn is_local(self) -> bool {
        matches!(self, Self::Unix { .. })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { uid, pid } => write!(f, "uid {uid}, pid {pid}"),
            Self::Tcp { address } => address.fmt(f),
        }
    }
}

/// Where connections come from.
#[derive(Debug)]
pub enum Listening {
    /// A Unix socket.
    Unix(UnixListener),
    /// TCP.
    Tcp(TcpListener),
}

/// How long a client may take for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// How long a connection has for its first request when the host ends.
const FIRST: Duration = Duration::from_millis(500);
/// The pause after the kernel could not give a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How many connections there may be at once. More wait in the kernel.
const CONNECTIONS: usize = 8192;

/// Serves a gateway. Dropping it stops accepting; connections that are there go on.
#[derive(Debug)]
pub struct Server {
    accepting: JoinSet<()>,
    ending: watch::Sender<bool>,
}

impl Server {
    /// Accepts on all of these, from now on.
    pub fn start(gateway: &Gateway, listening: Vec<Listening>) -> Self {
        let router = crate::routes::router(gateway.clone());
        let ending = watch::Sender::new(false);
        let mut accepting = JoinSet::new();
        for listener in listening {
            let (gateway, router, ending) = (gateway.clone(), router.clone(), ending.clone());
            accepting.spawn(accept(listener, gateway, router, ending));
        }
        Self { accepting, ending }
    }

    /// Accepts no more. When this returns nothing is taken from the listening sockets; what comes waits in them.
    pub async fn stop_accepting(&mut self) {
        self.accepting.shutdown().await;
    }

    /// Lets every connection finish the request that it is at, and then go.
    pub fn finish(&self) {
        self.ending.send_replace(true);
    }
}

async fn accept(
    listener: Listening,
    gateway: Gateway,
    router: Router,
    ending: watch::Sender<bool>,
) {
    loop {
        if gateway.connections() >= CONNECTIONS {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        }
        let result = match &listener {
            Listening::Unix(listener) => listener.accept().await.and_then(|(stream, _)| {
                let peer = stream.peer_cred()?;
                let pid = peer.pid().map_or(0, i32::cast_unsigned);
                let peer = Peer::Unix {
                    uid: peer.uid(),
                    pid,
                };
                serve(stream, peer, &gateway, &router, &ending);
                Ok(())
            }),
            Listening::Tcp(listener) => listener.accept().await.and_then(|(stream, address)| {
                stream.set_nodelay(true)?;
                serve(stream, Peer::Tcp { address }, &gateway, &router, &ending);
                Ok(())
            }),
        };
        match result {
            Ok(()) => {}
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether the next connection may be better.
fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::InvalidInput
    )
}

fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: Peer,
    gateway: &Gateway,
    router: &Router,
    ending: &watch::Sender<bool>,
) {
    let router = router.clone();
    let mut ending = ending.subscribe();
    let phases = gateway.phases();
    let connected = gateway.connected();
    tokio::spawn(async move {
        let _connected = connected;
        let asked = Arc::new(Notify::new());
        let service = {
            let asked = asked.clone();
            service_fn(move |request: hyper::Request<Incoming>| {
                asked.notify_one();
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(peer);
                answer(request, router.clone(), phases.clone())
            })
        };
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let told = async {
            let _ = ending.wait_for(|ending| *ending).await;
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = told => {
                // One that has asked nothing yet is about to, and is owed an answer.
                tokio::select! {
                    result = connection.as_mut() => return ended(peer, result),
                    _ = tokio::time::timeout(FIRST, asked.notified()) => {}
                }
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        ended(peer, result);
    });
}

fn ended(peer: Peer, result: hyper::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}

/// Answers a request. While the host is handed over, those that come wait, and so do answers, for what they tell of sessions may
/// come from their being frozen. Then they are told to ask again.
async fn answer(
    request: Request,
    router: Router,
    mut phases: watch::Receiver<Phase>,
) -> Result<Response, Infallible> {
    if settled(&mut phases).await.is_over() {
        return Ok(ask_again());
    }
    let answer = router.oneshot(request).await?;
    let upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let phase = if upgrade {
        // The relay waits, and says what is to be said.
        *phases.borrow()
    } else {
        settled(&mut phases).await
    };
    let status = answer.status();
    let told = status.is_success()
        || status.is_redirection()
        || answer.extensions().get::<Final>().is_some();
    let over = phase == Phase::HandedOver && !told;
    Ok(if over { ask_again() } else { answer })
}

/// Marks an answer that tells of a failure and holds whatever host goes on: asked again, the request would do twice what it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Final;

/// The phase, once it is known which host goes on.
async fn settled(phases: &mut watch::Receiver<Phase>) -> Phase {
    let phase = phases.wait_for(|phase| *phase != Phase::HandingOver).await;
    phase.map_or(Phase::Stopped, |phase| *phase)
}

fn ask_again() -> Response {
    let message = "another host has taken over, or this one has stopped: ask again";
    let mut response = ApiError::new(ErrorCode::Unavailable, message).into_response();
    let now = HeaderValue::from_static("0");
    response.headers_mut().insert(header::RETRY_AFTER, now);
    response
}
