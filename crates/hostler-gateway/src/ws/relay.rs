//! Between a WebSocket and a process.
//!
//! Three things go on at once, in one task: frames from the client are taken, input is written to the process, output is sent. The
//! next piece of output is read from its spool when the socket has taken the last one, so a slow client costs one frame of memory.
//! Input waits in a short line; when that is full the socket is not read, which slows the client.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, close_code};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hostler_session::{Follower, ProcessHandle};

use super::frame::{self, Said};
use super::input::{self, Input};
use super::tap::Tap;
use crate::error::ApiError;
use crate::gateway::{Gateway, Phase};
use crate::server::Peer;
use crate::wire::{Exit, Process};

/// How much output is sent at a time.
const CHUNK: usize = 64 << 10;
/// How often it is looked whether the client is there.
const LOOK: Duration = Duration::from_secs(2);
/// At each so many looks the client is asked, or at each while its input is not read, for then its leaving is not seen either.
const LOOKS: u32 = 5;
/// How long a client on TCP may show no sign of life.
const SILENCE: Duration = Duration::from_secs(30);
/// After so much input the client is told how much the process has taken.
const TELL: u64 = 256 << 10;
/// How long a client that is there may take for the last frames. Whoever does not read is in nobody's way: what is closed before
/// they are read is lost to it.
const FAREWELL: Duration = Duration::from_secs(600);

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The process has ended, and the client knows.
    Exited,
    /// The client is gone.
    Gone,
    /// This host has the process no more.
    Over,
}

/// Why sending stopped.
enum Stop {
    Exited(Option<Exit>),
    Over,
    Failed(ApiError),
    /// The client is gone.
    Gone,
}

/// What both directions share.
struct Shared {
    /// How much input the process has taken.
    taken: AtomicU64,
    /// When the client last showed that it lives, in milliseconds since `began`.
    alive: AtomicU64,
    /// Whether the socket is not read, for the process does not read.
    blocked: AtomicBool,
    began: Instant,
}

impl Shared {
    fn lives(&self) {
        let now = self.began.elapsed().as_millis() as u64;
        self.alive.store(now, Ordering::Relaxed);
    }

    fn silence(&self) -> Duration {
        let alive = Duration::from_millis(self.alive.load(Ordering::Relaxed));
        self.began.elapsed().saturating_sub(alive)
    }
}

/// The output of a process, from where the client wants it.
pub(super) struct Streams {
    pub(super) stdout: Follower,
    pub(super) stderr: Option<Follower>,
}

/// Carries frames until the process has ended or the client is gone. What the client sends is let go of where it `speaks` not.
pub(super) async fn relay(
    gateway: &Gateway,
    peer: Peer,
    socket: WebSocket,
    process: &ProcessHandle,
    streams: Streams,
    speaks: bool,
) -> End {
    let shared = Shared {
        taken: AtomicU64::new(0),
        alive: AtomicU64::new(0),
        blocked: AtomicBool::new(false),
        began: Instant::now(),
    };
    let (mut sink, mut stream) = socket.split();
    let (input, mut writer) = input::line(process);
    let mut sender = Sender {
        gateway,
        shared: &shared,
        stdout: Tap::new(streams.stdout, process),
        stderr: streams.stderr.map(|stderr| Tap::new(stderr, process)),
        process,
        told: 0,
        local: peer.is_local(),
    };
    let stop = {
        let paused = |phase: Phase| phase == Phase::HandingOver || phase.is_over();
        let inwards = async {
            let mut phases = gateway.phases();
            loop {
                let _ = phases.wait_for(|phase| !paused(*phase)).await;
                let pause = phases.wait_for(|phase| paused(*phase));
                tokio::select! {
                    biased;
                    _ = pause => {}
                    () = receive(&mut stream, &input, speaks, &shared) => return,
                    () = writer.run(&shared.taken) => {}
                }
            }
        };
        tokio::select! {
            Err(stop) = sender.run(&mut sink) => stop,
            // Nobody is there: what is still to be sent is not wanted.
            () = inwards => Stop::Gone,
        }
    };
    let taken = shared.taken.load(Ordering::Relaxed);
    let (end, last) = match stop {
        Stop::Gone => return End::Gone,
        Stop::Exited(Some(exit)) => (End::Exited, vec![frame::exit(&exit), frame::done()]),
        Stop::Exited(None) => {
            let error = ApiError::internal(format!("nobody knows how {} ended", process.id()));
            (End::Exited, vec![frame::error(&error), frame::done()])
        }
        Stop::Over if gateway.phase() == Phase::HandedOver => {
            let close = frame::close(close_code::RESTART, "another host has taken over");
            (End::Over, vec![frame::closing("takeover", taken), close])
        }
        Stop::Over => {
            let close = frame::close(close_code::AWAY, "the host has stopped");
            (End::Over, vec![frame::closing("shutdown", taken), close])
        }
        Stop::Failed(error) => {
            let close = frame::close(close_code::ERROR, "");
            (End::Gone, vec![frame::error(&error), close])
        }
    };
    let patience = match peer.is_local() {
        true => FAREWELL,
        false => SILENCE,
    };
    farewell(sink, stream, last, patience).await;
    end
}

/// Says the last, and waits for the client to close, so that nothing of it is lost. What the client still sends is let go of, but
/// shows that it lives.
async fn farewell(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    last: Vec<Message>,
    patience: Duration,
) {
    let say = async {
        for message in last {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let hear = async {
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until {
            match tokio::time::timeout(patience, stream.next()).await {
                Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => return,
                Ok(Some(Ok(_))) => {}
            }
        }
    };
    tokio::select! {
        () = say => {}
        () = hear => {}
    }
}

/// Takes frames until the client is gone.
async fn receive(
    stream: &mut SplitStream<WebSocket>,
    input: &Input,
    speaks: bool,
    shared: &Shared,
) {
    loop {
        let message = match stream.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => {
                tracing::debug!(%error, "a WebSocket ended");
                return;
            }
            None => return,
        };
        shared.lives();
        shared.blocked.store(true, Ordering::Relaxed);
        match message {
            Message::Binary(_) | Message::Text(_) if !speaks => {}
            Message::Binary(bytes) if bytes.first() == Some(&frame::INPUT) => {
                input.bytes(bytes.slice(1..)).await;
            }
            Message::Text(text) => said(&text, input).await,
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return,
        }
        shared.blocked.store(false, Ordering::Relaxed);
        shared.lives();
    }
}

/// Does what the client says. What cannot be done is no reason to end: the process may just have ended.
async fn said(text: &str, input: &Input) {
    let result = match serde_json::from_str::<Said>(text) {
        Ok(Said::Resize(size)) => input.resize(size),
        Ok(Said::Signal(signal)) => input.signal(&signal).await,
        Ok(Said::Eof(true)) => {
            input.eof().await;
            Ok(())
        }
        Ok(Said::Eof(false)) => Ok(()),
        Err(error) => Err(ApiError::bad(error.to_string())),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "what a client said was not done");
    }
}

/// Sends output, pings, and what is to be told.
struct Sender<'a> {
    gateway: &'a Gateway,
    shared: &'a Shared,
    stdout: Tap,
    stderr: Option<Tap>,
    process: &'a ProcessHandle,
    told: u64,
    local: bool,
}

/// What there is to do next.
enum Next {
    Output(u8, std::io::Result<Option<hostler_session::Chunk>>),
    Exit(Option<Exit>),
    Stand,
    Look,
}

impl Sender<'_> {
    /// Until there is no more to send, or nobody to send it to.
    async fn run(&mut self, sink: &mut SplitSink<WebSocket, Message>) -> Result<Infallible, Stop> {
        let at = frame::at(self.stdout.offset(), self.stderr.as_ref().map(Tap::offset));
        self.send(sink, frame::started(&Process::from(self.process)))
            .await?;
        self.send(sink, at).await?;
        let mut phases = self.gateway.phases();
        let mut look = tokio::time::interval(LOOK);
        let mut looks = 0;
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut out, mut err) = (true, self.stderr.is_some());
        loop {
            let next = {
                let stderr = async {
                    match &mut self.stderr {
                        Some(stderr) => stderr.next(CHUNK).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    _ = phases.wait_for(|phase| *phase == Phase::HandingOver || phase.is_over()) => {
                        Next::Stand
                    }
                    chunk = self.stdout.next(CHUNK), if out => Next::Output(frame::STDOUT, chunk),
                    chunk = stderr, if err => Next::Output(frame::STDERR, chunk),
                    exit = self.process.wait(), if !out && !err => Next::Exit(exit.map(Exit::from)),
                    _ = look.tick() => Next::Look,
                }
            };
            match next {
                Next::Output(stream, Ok(Some(chunk))) => {
                    if let Some(gap) = frame::gap(&chunk, stream) {
                        self.send(sink, gap).await?;
                    }
                    if !chunk.bytes.is_empty() {
                        self.send(sink, frame::data(chunk.bytes, stream)).await?;
                    }
                }
                Next::Output(frame::STDOUT, Ok(None)) => out = false,
                Next::Output(_, Ok(None)) => err = false,
                Next::Output(_, Err(error)) => {
                    let message =
                        format!("cannot read the output of {}: {error}", self.process.id());
                    return Err(Stop::Failed(ApiError::internal(message)));
                }
                Next::Exit(exit) => return Err(Stop::Exited(exit)),
                Next::Stand => {
                    // Stands still until it is known which host goes on.
                    let phase = phases.wait_for(|phase| *phase != Phase::HandingOver).await;
                    if phase.is_ok_and(|phase| phase.is_over()) {
                        return Err(Stop::Over);
                    }
                }
                Next::Look => {
                    looks += 1;
                    if self.is_silent() {
                        return Err(Stop::Gone);
                    }
                    if looks % LOOKS == 0 || self.shared.blocked.load(Ordering::Relaxed) {
                        self.send(sink, Message::Ping(Bytes::new())).await?;
                    }
                }
            }
            self.tell_input(sink).await?;
        }
    }

    /// Tells the client, now and then, how much of its input the process has taken.
    async fn tell_input(&mut self, sink: &mut SplitSink<WebSocket, Message>) -> Result<(), Stop> {
        let taken = self.shared.taken.load(Ordering::Relaxed);
        if taken - self.told < TELL {
            return Ok(());
        }
        self.told = taken;
        self.send(sink, frame::input(taken)).await
    }

    /// Whether the client must be taken for gone. On a Unix socket the kernel tells; a client that was stopped is still there.
    fn is_silent(&self) -> bool {
        !self.local
            && !self.shared.blocked.load(Ordering::Relaxed)
            && self.shared.silence() > SILENCE
    }

    /// Sends one frame: returns when the kernel has it.
    async fn send(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        message: Message,
    ) -> Result<(), Stop> {
        let mut sending = std::pin::pin!(sink.send(message));
        // What goes at once says nothing of the client: the kernel may have had room.
        if let Poll::Ready(result) = futures_util::poll!(sending.as_mut()) {
            return result.map_err(|_| Stop::Gone);
        }
        let silent = async {
            while self.local || self.shared.silence() <= SILENCE {
                tokio::time::sleep(SILENCE / 6).await;
            }
        };
        tokio::select! {
            result = sending => {
                result.map_err(|_| Stop::Gone)?;
                self.shared.lives();
                Ok(())
            }
            () = silent => Err(Stop::Gone),
            // The client reads on from where it is, from the next host.
            _ = self.gateway.over() => Err(Stop::Over),
        }
    }
}
