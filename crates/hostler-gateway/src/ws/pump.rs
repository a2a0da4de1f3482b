//! Carries the messages of one client on a WebSocket: in, out, and whether it lives.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::watch;

use crate::gateway::{Gateway, Phase};

/// How long the last frames may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// Who talks on a WebSocket: one message a text frame.
pub(crate) trait Talk: Send + Sync {
    /// Whether binary frames are text, too; else they are let go of.
    const BINARY: bool;

    /// The host.
    fn gateway(&self) -> &Gateway;

    /// Takes a message of the client; the next one is read when this returns.
    fn hear(&self, text: &str) -> impl Future<Output = ()> + Send;

    /// Waits for a message to the client. `None`: there will be none. Must be cancel safe.
    fn next(&self) -> impl Future<Output = Option<Utf8Bytes>> + Send;

    /// The next one, if it is there.
    fn take(&self) -> Option<Utf8Bytes>;

    /// Waits until this side ends it: with what code, and why.
    fn broken(&self) -> impl Future<Output = (u16, &'static str)> + Send;

    /// It has ended.
    fn ended(&self) -> impl Future<Output = ()> + Send;
}

/// Why it ends.
enum End {
    /// The client is gone, or says nothing any more.
    Gone,
    /// It sent what is more than may be.
    TooLarge,
    /// This host has the sessions no more.
    Over(Phase),
    /// This side has ended it.
    Broken(u16, &'static str),
}

/// Talks until one side ends it.
pub(crate) async fn pump(talk: &impl Talk, socket: WebSocket) {
    let (mut sink, mut stream) = socket.split();
    let alive = watch::Sender::new(Instant::now());
    let end = {
        let receiving = receive(talk, &mut stream, &alive);
        let sending = send(talk, &mut sink, &alive);
        let mut phases = talk.gateway().phases();
        let over = async {
            let phase = phases.wait_for(|phase| phase.is_over()).await;
            End::Over(phase.map_or(Phase::Stopped, |phase| *phase))
        };
        tokio::select! {
            end = receiving => end,
            end = sending => end,
            end = over => end,
            (code, why) = talk.broken() => End::Broken(code, why),
        }
    };
    talk.ended().await;
    let close = match end {
        End::Gone => return,
        End::TooLarge => frame(close_code::SIZE, "a message may have 16 MiB"),
        End::Over(Phase::HandedOver) => frame(close_code::RESTART, "takeover"),
        End::Over(_) => frame(close_code::AWAY, "shutdown"),
        End::Broken(code, why) => frame(code, why),
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
async fn receive<T: Talk>(
    talk: &T,
    stream: &mut SplitStream<WebSocket>,
    alive: &watch::Sender<Instant>,
) -> End {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                let text = error.to_string();
                tracing::debug!(error = text, "a WebSocket ended");
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
                talk.hear(text.as_str()).await;
                alive.send_replace(Instant::now());
            }
            Message::Binary(bytes) if T::BINARY => {
                talk.hear(&String::from_utf8_lossy(&bytes)).await;
                alive.send_replace(Instant::now());
            }
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return End::Gone,
        }
    }
}

/// Sends what there is, and asks whether the client lives.
async fn send(
    talk: &impl Talk,
    sink: &mut SplitSink<WebSocket, Message>,
    alive: &watch::Sender<Instant>,
) -> End {
    let ping = talk.gateway().acp().ping;
    let mut turn = tokio::time::interval_at((Instant::now() + ping).into(), ping);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    loop {
        let next = tokio::select! {
            biased;
            _ = turn.tick() => None,
            message = talk.next() => match message {
                Some(message) => Some(message),
                None => return End::Gone,
            },
        };
        let began = Instant::now();
        let sent = match next {
            Some(message) => write(talk, sink, message, ping).await,
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
    talk: &impl Talk,
    sink: &mut SplitSink<WebSocket, Message>,
    first: Utf8Bytes,
    ping: Duration,
) -> bool {
    let mut next = Some(first);
    while let Some(message) = next {
        // Mostly there is room, and no clock is needed.
        let mut room = poll_fn(|context| sink.poll_ready_unpin(context));
        let ready = match (&mut room).now_or_never() {
            Some(ready) => Ok(ready),
            None => tokio::time::timeout(2 * ping, room).await,
        };
        let ready = ready.is_ok_and(|ready| ready.is_ok());
        if !ready || sink.start_send_unpin(Message::Text(message)).is_err() {
            return false;
        }
        next = talk.take();
    }
    let flushing = tokio::time::timeout(2 * ping, sink.flush());
    flushing.await.is_ok_and(|flushed| flushed.is_ok())
}
