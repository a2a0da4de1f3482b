//! ACP on a WebSocket: one message a text frame.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::HeaderValue;
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::watch;

use super::connection::Connection;
use super::outbox::Outbox;
use super::{CONNECTION, Client, MESSAGE};
use crate::gateway::{Gateway, Phase};

/// How long the last frames may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Why it ends.
enum End {
    /// The client is gone, or says nothing any more.
    Gone,
    /// It sent what is more than may be.
    TooLarge,
    /// This host has the sessions no more.
    Over(Phase),
}

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
            serve(&connection, socket).await;
        });
    if let Ok(id) = id {
        response.headers_mut().insert(CONNECTION, id);
    }
    response
}

async fn serve(connection: &Arc<Connection>, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let alive = watch::Sender::new(Instant::now());
    let end = {
        let receiving = receive(connection, &mut stream, &alive);
        let sending = send(connection, &mut sink, &alive);
        let mut phases = connection.gateway.phases();
        let over = async {
            let phase = phases.wait_for(|phase| phase.is_over()).await;
            End::Over(phase.map_or(Phase::Stopped, |phase| *phase))
        };
        tokio::select! {
            end = receiving => end,
            end = sending => end,
            end = over => end,
        }
    };
    connection.end().await;
    let close = match end {
        End::Gone => return,
        End::TooLarge => frame(close_code::SIZE, "a message may have 16 MiB"),
        End::Over(Phase::HandedOver) => frame(close_code::RESTART, "takeover"),
        End::Over(_) => frame(close_code::AWAY, "shutdown"),
    };
    let farewell = async {
        sink.send(close).await?;
        while let Some(Ok(message)) = stream.next().await {
            if matches!(message, Message::Close(_)) {
                break;
            }
        }
        Ok::<_, axum::Error>(())
    };
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}

fn frame(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }))
}

/// Takes messages until there are no more.
async fn receive(
    connection: &Arc<Connection>,
    stream: &mut SplitStream<WebSocket>,
    alive: &watch::Sender<Instant>,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                let text = error.to_string();
                tracing::debug!(error = text, "an ACP WebSocket ended");
                // The only thing that is said of it.
                let large = text.contains("too long") || text.contains("too large");
                return if large { End::TooLarge } else { End::Gone };
            }
            None => return End::Gone,
        };
        alive.send_replace(Instant::now());
        match message {
            Message::Text(text) => {
                // A client whose messages are not taken, for it reads nothing, is not heard either.
                connection.receive(text.as_str(), None).await;
                alive.send_replace(Instant::now());
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return End::Gone,
        }
    }
}

/// Sends what there is, and asks whether the client lives.
async fn send(
    connection: &Arc<Connection>,
    sink: &mut SplitSink<WebSocket, Message>,
    alive: &watch::Sender<Instant>,
) -> End {
    let ping = connection.gateway.acp().ping;
    let mut turn = tokio::time::interval_at((Instant::now() + ping).into(), ping);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    let line = connection.outbox.connection();
    loop {
        let next = tokio::select! {
            biased;
            _ = turn.tick() => None,
            message = line.next() => match message {
                Some(message) => Some(message),
                None => return End::Gone,
            },
        };
        let began = Instant::now();
        let sent = match next {
            Some(message) => write(sink, message, line, ping).await,
            None if asked.is_some_and(|asked| *alive.borrow() < asked) => return End::Gone,
            None => {
                asked = Some(began);
                let asking = sink.send(Message::Ping(Bytes::new()));
                let asking = tokio::time::timeout(ping, asking).await;
                asking.is_ok_and(|sent| sent.is_ok())
            }
        };
        if !sent {
            return End::Gone;
        }
        // What had to wait until the client read shows that it reads.
        if began.elapsed() > Duration::from_millis(200) {
            alive.send_replace(Instant::now());
        }
    }
}

/// Sends one message and all that is there behind it. `false`: the client is gone, or takes nothing for twice the time.
async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    first: String,
    line: &super::outbox::Line,
    ping: Duration,
) -> bool {
    let mut next = Some(first);
    while let Some(message) = next {
        let feeding = tokio::time::timeout(2 * ping, sink.feed(Message::text(message)));
        if !feeding.await.is_ok_and(|fed| fed.is_ok()) {
            return false;
        }
        next = line.take();
    }
    let flushing = tokio::time::timeout(2 * ping, sink.flush());
    flushing.await.is_ok_and(|flushed| flushed.is_ok())
}
