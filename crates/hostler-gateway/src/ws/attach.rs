//! Joining a process that runs.

use axum::Extension;
use axum::extract::State;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::http::HeaderMap;
use axum::response::Response;
use hostler_session::{EndOnDrop, Output, ProcessHandle, TerminalSize};
use serde::Deserialize;
use utoipa::IntoParams;

use super::relay::{End, Streams, relay};
use super::{client, prepared};
use crate::error::ApiError;
use crate::extract::{Asker, Path, Query};
use crate::gateway::Gateway;
use crate::server::Peer;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Joining {
    /// From this offset in its standard output. Without: on a terminal the last screenful, else all that is kept.
    from: Option<u64>,
    /// From this offset in its standard error, where that is apart.
    stderr_from: u64,
    /// End the process when this client vanishes: for one that comes back after a takeover.
    foreground: bool,
    /// Only read along: such a client is none of the session's, so it neither holds it open nor ends it by leaving, and what it sends
    /// is let go of.
    watch: bool,
}

/// Join a process: its output on a WebSocket (subprotocol `hostler.v1`), its input from it. Any number of clients may. The client
/// counts as one of the session's, unless it only reads along.
#[utoipa::path(get, path = "/v1/processes/{id}/attach", tag = "websockets", params(("id" = String, Path), Joining),
    responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn attach(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(joining): Query<Joining>,
    Asker(by): Asker,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad(error.body_text()))?;
    let process = gateway.sessions().process(&id)?;
    let streams = streams(&process, &joining)?;
    if joining.watch && joining.foreground {
        return Err(ApiError::bad("`watch` and `foreground` do not go together"));
    }
    // A session that is closing takes no client; what it still has to say can be read.
    let attachment = match joining.watch {
        true => None,
        false => {
            let session = gateway.sessions().get(process.session().as_str())?;
            Some(session.attach(client(&headers, &by)).await?)
        }
    };
    let guard = joining.foreground.then(|| process.end_on_drop(by));
    let connected = gateway.connected();
    Ok(prepared(upgrade).on_upgrade(async move |socket| {
        let _connected = connected;
        let end = relay(&gateway, peer, socket, &process, streams, !joining.watch).await;
        if end == End::Exited {
            drop(guard.map(EndOnDrop::release));
        }
        drop(attachment);
    }))
}

fn streams(process: &ProcessHandle, joining: &Joining) -> Result<Streams, ApiError> {
    let stdout = match joining.from {
        Some(from) if joining.foreground => process.stdout().follow_paced(from),
        Some(from) => process.stdout().follow(from),
        None if process.is_terminal() => {
            let screen = process.size().unwrap_or_else(|_| TerminalSize::default());
            process.view(screen)?
        }
        None => process.stdout().follow(0),
    };
    let follow = |stderr: Output| match joining.foreground {
        true => stderr.follow_paced(joining.stderr_from),
        false => stderr.follow(joining.stderr_from),
    };
    Ok(Streams {
        stdout,
        stderr: process.stderr().map(follow),
    })
}
