//! Running a process for a client, who has its streams.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::HeaderMap;
use axum::response::Response;
use hostler_session::{Attachment, By, EndOnDrop, Mode, ProcessHandle, Session};

use super::relay::{End, Streams, relay};
use super::{client, frame, prepared};
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Path};
use crate::gateway::Gateway;
use crate::server::Peer;
use crate::wire::ExecRequest;

/// How long a client may take to say what it wants.
const FIRST: Duration = Duration::from_secs(15);

/// Run a process with its streams on a WebSocket (subprotocol `hostler.v1`). The first text frame is an ExecRequest. A process
/// whose client vanishes is ended. On a terminal, the client counts as one of the session's.
#[utoipa::path(get, path = "/v1/sessions/{session}/exec", tag = "websockets",
    params(("session" = String, Path, description = "Id or name")), responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn exec(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    drop(gateway.starting()?);
    let upgrade = upgrade.map_err(|error| ApiError::bad(error.body_text()))?;
    let session = gateway.sessions().get(&name)?;
    let who = client(&headers, &by);
    let connected = gateway.connected();
    Ok(prepared(upgrade).on_upgrade(async move |mut socket| {
        let _connected = connected;
        let Some(request) = first(&mut socket).await else {
            return;
        };
        match start(&gateway, &session, by, who, &request).await {
            Ok(running) => running.relay(&gateway, peer, socket).await,
            Err(error) => {
                let last = if error.code == ErrorCode::Unavailable && gateway.is_handed_over().await
                {
                    // Nothing was started: the next host is to be asked.
                    let close = frame::close(close_code::RESTART, "another host has taken over");
                    [frame::closing("takeover", 0), close]
                } else {
                    [frame::error(&error), frame::done()]
                };
                for message in last {
                    let _ = socket.send(message).await;
                }
            }
        }
    }))
}

/// The first text frame.
async fn first(socket: &mut WebSocket) -> Option<String> {
    let frame = async {
        loop {
            match socket.recv().await?.ok()? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Ping(_) | Message::Pong(_) => {}
                Message::Binary(_) | Message::Close(_) => return None,
            }
        }
    };
    tokio::time::timeout(FIRST, frame).await.ok().flatten()
}

/// A process with its client's claims on it.
struct Running {
    process: ProcessHandle,
    streams: Streams,
    /// Ends it when the client is gone; not one that was handed to a session of its own.
    guard: Option<EndOnDrop>,
    attachment: Option<Attachment>,
}

async fn start(
    gateway: &Gateway,
    session: &Session,
    by: By,
    who: String,
    request: &str,
) -> Result<Running, ApiError> {
    let _starting = gateway.starting()?;
    let mut request: ExecRequest = serde_json::from_str(request).map_err(|error| {
        ApiError::bad(format!("the first frame is not what is expected: {error}"))
    })?;
    let keep = request.keep.take();
    let on_terminal = request.tty.is_some();
    let options = request.options(Mode::Foreground)?;
    let attachment = match on_terminal {
        true => Some(session.attach(who).await?),
        false => None,
    };
    let running = session.run(options, by.clone()).await?;
    let process = running.process;
    let mut guard = Some(process.end_on_drop(by.clone()));
    if let Some(keep) = keep {
        let policy = gateway.defaults().clone();
        session
            .keep(gateway.sessions(), process.id(), &keep, policy, by)
            .await?;
        drop(guard.take().map(EndOnDrop::release));
    }
    // "A detached terminal lives on": it is the session's, until that ends it.
    if on_terminal {
        drop(guard.take().map(EndOnDrop::release));
    }
    Ok(Running {
        process,
        streams: Streams {
            stdout: running.stdout,
            stderr: running.stderr,
        },
        guard,
        attachment,
    })
}

impl Running {
    async fn relay(self, gateway: &Gateway, peer: Peer, socket: WebSocket) {
        let end = relay(gateway, peer, socket, &self.process, self.streams, true).await;
        if end == End::Exited {
            drop(self.guard.map(EndOnDrop::release));
        }
        // Else the guard ends it here; where another host has it, nobody hears that.
        drop(self.attachment);
    }
}
