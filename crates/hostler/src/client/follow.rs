//! A process somewhere else, as though it were this one: its output, its input, its signals, its terminal.

use std::collections::VecDeque;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::api::Exit;
use super::control::Control;
use super::error::{Failure, Result};
use super::host::{Host, PATIENCE, UNANNOUNCED};
use super::keys::{Keys, Scanner};
use super::modes::Modes;
use super::relay::{Frame, INPUT, Relay, Room};
use super::resume::{Input, Join, Progress};
use super::signals;
use super::streams::{self, Output, Stream};
use super::tty::{self, Raw};

/// For so long the beginning of the detach keys waits for the rest.
pub(crate) const HOLD: Duration = Duration::from_millis(700);
/// After so long what a viewer joined is expected to be on its screen.
const JOINED: Duration = Duration::from_millis(150);

/// For so long a host that is to stop a process is waited for.
const ANSWER: Duration = Duration::from_secs(1);

/// What is followed, and how.
pub(crate) struct Follow<'a> {
    pub(crate) host: &'a mut Host,
    pub(crate) relay: Relay,
    pub(crate) signals: mpsc::UnboundedReceiver<i32>,
    /// Where it was asked to be started, and how: for a host that is taken over before it has begun.
    pub(crate) first: Option<(String, Value)>,
    /// Its id, once it is known.
    pub(crate) process: Option<String>,
    /// The way to it, once its id is known.
    pub(crate) control: Option<Control>,
    /// Whether standard input is passed on.
    pub(crate) input: bool,
    /// Whether it is on a terminal.
    pub(crate) terminal: bool,
    /// Whether this is a viewer, who may come and go.
    pub(crate) viewer: bool,
    /// What was written before, and its offset: for what it has set on its terminal.
    pub(crate) before: Option<(u64, Vec<u8>)>,
    /// The keys by which one goes.
    pub(crate) detach: Option<&'a Keys>,
}

/// How it came to an end.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The process has ended.
    Exit(Exit),
    /// The viewer has left.
    Detached,
    /// The host has stopped.
    Stopped,
}

/// What is to be done next.
enum Next {
    Frame(Result<Frame>),
    Typed(Option<Vec<u8>>),
    Room(Room),
    Release,
    Joined,
    Signal(i32),
}

/// Follows it to its end. The terminal is as before when this returns, by whatever way.
pub(crate) async fn run(follow: Follow<'_>) -> Result<Ending> {
    let raw = follow.terminal && tty::stdin_is() && follow.input;
    let guard = raw.then(Raw::enter).transpose()?;
    let mut modes = Modes::default();
    let output = Output::new()?;
    let ended = run_raw(follow, &output, &mut modes, guard).await;
    // What a program that ended by itself has set, it meant; others had no time to undo it.
    let itself = matches!(&ended, Ok(Ending::Exit(exit)) if exit.code.is_some());
    if raw && !itself {
        let undo = modes.undo();
        let _ = streams::put(rustix::stdio::stdout(), undo.as_bytes());
    }
    ended
}

async fn run_raw(
    mut follow: Follow<'_>,
    output: &Output,
    modes: &mut Modes,
    mut guard: Option<Raw>,
) -> Result<Ending> {
    let mut typed = match follow.input {
        true => Some(streams::input(INPUT)?),
        false => None,
    };
    let mut inlet = follow.relay.inlet();
    let mut scanner = follow.detach.map(Scanner::new);
    let mut progress = Progress::default();
    let mut pending = VecDeque::new();
    let mut release = None;
    let viewer = follow.viewer;
    let mut joined = (viewer && follow.terminal).then(|| Box::pin(sleep(JOINED)));
    if viewer && follow.terminal {
        follow.tell_size();
    }
    loop {
        let next = tokio::select! {
            Some(signal) = follow.signals.recv() => Next::Signal(signal),
            failure = output.failure() => return Err(failure),
            frame = frame(output, &mut follow.relay) => {
                let (room, frame) = frame;
                match frame {
                    Ok(Frame::Output(bytes)) => {
                        // Only where somebody may have to undo it: it costs a look at every byte.
                        if guard.is_some() {
                            modes.follow(&bytes);
                        }
                        progress.output(bytes.len());
                        room.fill(Stream::Out, bytes);
                        continue;
                    }
                    Ok(Frame::Error(bytes)) => {
                        progress.error(bytes.len());
                        room.fill(Stream::Err, bytes);
                        continue;
                    }
                    Ok(Frame::At(stdout, stderr)) => {
                        progress.begin(stdout, stderr);
                        if let Some((start, bytes)) = follow.before.take() {
                            let known = stdout.saturating_sub(start) as usize;
                            modes.follow(&bytes[..known.min(bytes.len())]);
                            room.fill(Stream::Out, modes.redo().into());
                        }
                        continue;
                    }
                    Ok(Frame::Gap { stream, from, to }) => {
                        progress.skip(stream, to);
                        // A viewer sees the screen, of which nothing is missing.
                        if !viewer {
                            room.fill(Stream::Err, gap(from, to, guard.is_some()));
                        }
                        continue;
                    }
                    other => Next::Frame(other),
                }
            }
            bytes = read(&mut typed), if pending.is_empty() && typed.is_some() => Next::Typed(bytes),
            room = inlet.room(), if !pending.is_empty() => Next::Room(room),
            () = at(release) => Next::Release,
            () = wait(&mut joined) => Next::Joined,
        };
        match next {
            Next::Frame(Ok(Frame::Exit(exit))) => {
                follow.finish(output).await?;
                return Ok(Ending::Exit(exit));
            }
            Next::Frame(Ok(Frame::Closing(reason, taken))) => {
                if reason != "takeover" {
                    follow.finish(output).await?;
                    return Ok(Ending::Stopped);
                }
                progress.taken(taken);
                follow.resume(&mut progress, PATIENCE, &mut pending).await?;
                inlet = follow.relay.inlet();
            }
            // What was typed may be lost; what is read from a file may not, nor come twice.
            Next::Frame(Err(Failure::Gone))
                if follow.process.is_some() && (follow.terminal || progress.is_sure()) =>
            {
                progress.forget();
                follow
                    .resume(&mut progress, UNANNOUNCED, &mut pending)
                    .await?;
                inlet = follow.relay.inlet();
            }
            Next::Frame(Ok(Frame::Taken(taken))) => progress.taken(taken),
            Next::Frame(Ok(Frame::Started(process))) => {
                if follow.control.is_none() {
                    follow.control = Some(Control::new(follow.host.another(), &process.id));
                }
                follow.process = Some(process.id);
            }
            Next::Frame(Ok(_)) => {}
            Next::Frame(Err(failure)) => {
                follow.finish(output).await?;
                return Err(failure);
            }
            Next::Typed(None) => {
                typed = None;
                if viewer && follow.terminal {
                    return Ok(Ending::Detached);
                }
                pending.push_back(Input::Eof);
            }
            Next::Typed(Some(bytes)) => match &mut scanner {
                None => pending.push_back(Input::Bytes(bytes)),
                Some(scanner) => {
                    let mut out = INPUT.to_vec();
                    let detached = scanner.feed(&bytes[INPUT.len()..], &mut out);
                    if detached {
                        return Ok(Ending::Detached);
                    }
                    release = scanner.holds().then(|| Instant::now() + HOLD);
                    if out.len() > INPUT.len() {
                        pending.push_back(Input::Bytes(out));
                    }
                }
            },
            Next::Release => {
                release = None;
                if let Some(scanner) = &mut scanner {
                    let held = scanner.release();
                    pending.push_back(Input::Bytes([INPUT, &held].concat()));
                }
            }
            Next::Room(room) => {
                if let Some(input) = pending.pop_front() {
                    progress.sent(&input);
                    room.fill(input);
                }
            }
            Next::Joined => {
                joined = None;
                if modes.is_full_screen() {
                    follow.draw_again();
                }
            }
            Next::Signal(signals::TSTP) => follow.stop(&mut guard).await?,
            Next::Signal(signals::WINCH) if follow.terminal => follow.tell_size(),
            // Of a viewer, who is not what it views; and of a command that may not even have been started.
            Next::Signal(signal)
                if signals::is_deadly(signal) && (viewer || follow.process.is_none()) =>
            {
                return match signal {
                    signals::INT if viewer => Ok(Ending::Detached),
                    signal => Err(Failure::Signal(signal)),
                };
            }
            Next::Signal(signal) => follow.pass(signal),
        }
    }
}

/// The next frame, when there is room for what it may hold. Cancel safe.
async fn frame<'o>(output: &'o Output, relay: &mut Relay) -> (streams::Room<'o>, Result<Frame>) {
    let room = output.room().await;
    (room, relay.next().await)
}

async fn read(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    typed.as_mut()?.recv().await
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn wait(time: &mut Option<std::pin::Pin<Box<tokio::time::Sleep>>>) {
    match time {
        Some(time) => time.as_mut().await,
        None => std::future::pending().await,
    }
}

/// The line that is said about output that is no longer kept.
pub(crate) fn gap(from: u64, to: u64, raw: bool) -> Bytes {
    let back = if raw { "\r" } else { "" };
    let lost = to.saturating_sub(from);
    format!("hostler: {lost} bytes of output, from {from} to {to}, are no longer kept{back}\n")
        .into()
}

impl Follow<'_> {
    fn pass(&self, signal: i32) {
        if let Some(control) = &self.control {
            control.signal(signal);
        }
    }

    fn tell_size(&self) {
        if let (Some(control), Some(size)) = (&self.control, tty::size()) {
            control.resize(size);
        }
    }

    /// Goes on with the next host.
    async fn resume(
        &mut self,
        progress: &mut Progress,
        patience: Duration,
        pending: &mut VecDeque<Input>,
    ) -> Result<()> {
        let Some(process) = self.process.as_deref() else {
            return self.begin_again(progress, pending).await;
        };
        let join = match self.viewer || self.terminal {
            true => Join::Viewer,
            false => Join::Foreground,
        };
        let resumed = progress.resume(self.host, process, join, patience);
        // Where the next host knows nothing of it, it has gone with the last one.
        let (relay, again) = match resumed.await {
            Err(refusal) if refusal.is_not_found() => return Err(Failure::Gone),
            resumed => resumed?,
        };
        self.relay = relay;
        for input in again.into_iter().rev() {
            pending.push_front(input);
        }
        if self.terminal {
            self.tell_size();
        }
        Ok(())
    }

    /// Has the next host start it, for the last one has not.
    async fn begin_again(
        &mut self,
        progress: &mut Progress,
        pending: &mut VecDeque<Input>,
    ) -> Result<()> {
        let (path, first) = self.first.as_ref().ok_or(Failure::Gone)?;
        self.relay = Relay::open(self.host, path, Some(first.clone())).await?;
        for input in progress.again().into_iter().rev() {
            pending.push_front(input);
        }
        Ok(())
    }

    /// Has a program draw its screen again: as it does when its size changes, which it does for a moment.
    fn draw_again(&self) {
        if let (Some(control), Some((rows, columns))) = (&self.control, tty::size()) {
            control.resize((rows.saturating_sub(1).max(1), columns));
            control.resize((rows, columns));
        }
    }

    /// Stops as the signal says, with what it follows, until somebody has both go on.
    async fn stop(&self, guard: &mut Option<Raw>) -> Result<()> {
        // Not as the terminal does, by SIGTSTP: in a process group that no shell looks after that does nothing.
        const STOP: i32 = 19;
        const CONT: i32 = 18;
        if let (Some(control), false) = (&self.control, self.viewer) {
            // Nothing runs here while this is stopped. A host that does not answer does not hold it up.
            let _ = timeout(ANSWER, control.signal_and_wait(STOP)).await;
        }
        let raw = guard.take().is_some();
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP);
        if raw {
            *guard = Some(Raw::enter()?);
            self.tell_size();
        }
        if !self.viewer {
            self.pass(CONT);
        }
        Ok(())
    }

    /// Waits until all output is written, or somebody ends this.
    async fn finish(&mut self, output: &Output) -> Result<()> {
        loop {
            tokio::select! {
                written = output.flush() => return written,
                Some(signal) = self.signals.recv() => if signals::is_deadly(signal) {
                    return Err(Failure::Signal(signal));
                },
            }
        }
    }
}
