//! The WebSocket at `/ahp`: one message a text frame; a binary frame is taken as text.

use std::sync::Arc;

use axum::extract::ws::{Utf8Bytes, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::response::Response;

use super::connection::Connection;
use crate::acp::MESSAGE;
use crate::error::ApiError;
use crate::extract::Asker;
use crate::gateway::Gateway;
use crate::ws::pump::{Talk, pump};

/// Follow sessions, chats and terminals of this host, and act on them, by the Agent Host Protocol 1.0
/// (https://microsoft.github.io/agent-host-protocol/): a WebSocket, one JSON-RPC message a text frame.
#[utoipa::path(get, path = "/ahp", tag = "ahp", responses((status = 101, description = "A WebSocket.")))]
pub(crate) async fn get(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    request: Request,
) -> Result<Response, ApiError> {
    drop(gateway.starting()?);
    let (mut parts, _) = request.into_parts();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &gateway).await;
    let upgrade = upgrade.map_err(|error| ApiError::bad(error.body_text()))?;
    let connected = gateway.connected();
    let connection = Connection::new(gateway, by.who);
    let upgrade = upgrade
        .max_frame_size(MESSAGE)
        .max_message_size(MESSAGE)
        .max_write_buffer_size(2 * MESSAGE);
    Ok(upgrade.on_upgrade(async move |socket| {
        let _connected = connected;
        pump(&connection, socket).await;
    }))
}

impl Talk for Arc<Connection> {
    const BINARY: bool = true;

    fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    async fn hear(&self, text: &str) {
        self.receive(text).await;
    }

    async fn next(&self) -> Option<Utf8Bytes> {
        self.outbox.next().await
    }

    fn take(&self) -> Option<Utf8Bytes> {
        self.outbox.take()
    }

    async fn broken(&self) -> (u16, &'static str) {
        self.outbox.broken().await
    }

    async fn ended(&self) {
        self.end();
    }
}
