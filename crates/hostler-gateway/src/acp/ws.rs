//! ACP on a WebSocket: one message a text frame.

use std::sync::Arc;

use axum::extract::ws::{Utf8Bytes, WebSocketUpgrade};
use axum::http::HeaderValue;
use axum::response::Response;

use super::connection::Connection;
use super::outbox::Outbox;
use super::{CONNECTION, Client, MESSAGE};
use crate::gateway::Gateway;
use crate::ws::pump::{Talk, pump};

/// Makes it a WebSocket.
pub(super) fn upgrade(gateway: &Gateway, client: Client, upgrade: WebSocketUpgrade) -> Response {
    let connection = Connection::new(gateway.clone(), client, Outbox::together());
    let id = HeaderValue::from_str(&connection.id);
    let connected = gateway.connected();
    let mut response = upgrade
        .max_frame_size(MESSAGE)
        .max_message_size(MESSAGE)
        .max_write_buffer_size(2 * MESSAGE)
        .on_upgrade(async move |socket| {
            let _connected = connected;
            pump(&connection, socket).await;
        });
    if let Ok(id) = id {
        response.headers_mut().insert(CONNECTION, id);
    }
    response
}

impl Talk for Arc<Connection> {
    const BINARY: bool = false;

    fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    async fn hear(&self, text: &str) {
        self.receive(text, None).await;
    }

    async fn next(&self) -> Option<Utf8Bytes> {
        self.outbox.connection().next().await.map(Utf8Bytes::from)
    }

    fn take(&self) -> Option<Utf8Bytes> {
        self.outbox.connection().take().map(Utf8Bytes::from)
    }

    async fn broken(&self) -> (u16, &'static str) {
        std::future::pending().await
    }

    async fn ended(&self) {
        self.end().await;
    }
}
