//! `hostler attach` at a host elsewhere: a viewer of a terminal, who may come and go.
//!
//! A terminal is held by one client or by a session, and only a client that holds it types. This one takes it when it joins, waits
//! for it where another client has it, and gives it back when it leaves. A process without a terminal is read and typed to as lines.

use std::collections::VecDeque;
use std::time::Duration;

use ahp_types::actions::{
    StateAction, TerminalClaimedAction, TerminalInputAction, TerminalResizedAction,
};
use ahp_types::commands::CreateTerminalParams;
use ahp_types::state::{
    SnapshotState, TerminalClaim, TerminalClientClaim, TerminalLifecycleState,
    TerminalSessionClaim, TerminalState,
};
use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::address::Address;
use super::find::{self, Listed, name_of};
use super::link::{Event, Link};
use super::logs::has_ended;
use super::output::{Piece, Taken};
use super::{TERMINAL, fresh};
use crate::client::api::{Exit, Process};
use crate::client::attach::{Attach, at_terminal, note};
use crate::client::error::{Failure, Result};
use crate::client::follow::HOLD;
use crate::client::keys::Scanner;
use crate::client::modes::Modes;
use crate::client::signals;
use crate::client::streams::{self, Output, Stream};
use crate::client::tty::{self, Raw};

/// How it came to an end.
enum Ending {
    /// The process has ended; with which code, where it had one.
    Exit(Option<i64>),
    Detached,
}

/// Attaches, and returns what to exit with: the process's status, or 0 when the viewer leaves before.
pub(crate) async fn run(address: Address, attach: &Attach) -> Result<u8> {
    let mut link = Link::open(address, false).await?;
    let (channel, of) = target(&mut link, &attach.target).await?;
    let SnapshotState::Terminal(state) = link.follow(&channel).await? else {
        return Err(Failure::Nonsense("a terminal that is none".into()));
    };
    let terminal = state.is_pty != Some(false);
    if terminal {
        at_terminal()?;
    } else {
        note(&format!(
            "[{} has no terminal: lines that you type go to its input, Ctrl-C detaches]",
            name_of(&channel)
        ));
    }
    let home = match (&state.claim, of) {
        (TerminalClaim::Session(claim), _) => Some(TerminalSessionClaim {
            turn_id: None,
            tool_call_id: None,
            ..claim.clone()
        }),
        (_, of) => of,
    };
    let guard = terminal.then(Raw::enter).transpose()?;
    link.raw = guard.is_some();
    let mut viewer = Viewer {
        claim: state.claim.clone(),
        pieces: VecDeque::new(),
        taken: Taken::drawing(),
        modes: Modes::default(),
        exit: None,
        told_held: false,
        rest: Vec::new(),
        drawn: false,
        home,
        terminal,
        channel,
        link,
        guard,
    };
    viewer.state(&state);
    let ended = viewer.view(attach).await;
    // What a program that ended by itself has set, it meant; others had no time to undo it.
    let itself = matches!(&ended, Ok(Ending::Exit(Some(_))));
    if terminal && !itself {
        let _ = streams::put(rustix::stdio::stdout(), viewer.modes.undo().as_bytes());
    }
    viewer.guard = None;
    match ended {
        Ok(Ending::Exit(code)) => {
            let exit = viewer.how(code).await;
            note(&format!("[{}]", exit.shown()));
            viewer.link.leave().await;
            Ok(exit.status())
        }
        Ok(Ending::Detached) => {
            viewer.give_back().await;
            note("[detached]");
            viewer.link.leave().await;
            Ok(0)
        }
        Err(failure) => {
            if terminal {
                note("");
            }
            viewer.link.leave().await;
            Err(failure)
        }
    }
}

/// The channel that is meant, and whose the terminal is when nobody has it.
async fn target(link: &mut Link, text: &str) -> Result<(String, Option<TerminalSessionClaim>)> {
    if text.starts_with(TERMINAL) {
        return Ok((text.to_owned(), None));
    }
    let all = find::sessions(link, true).await?;
    if text.contains('/') {
        return Ok((find::process(&all, text)?.uri, None));
    }
    let session = match find::session(&all, text) {
        Ok(session) => session,
        Err(Failure::Unclear(line)) if line.starts_with("there is no") => {
            return match find::process(&all, text) {
                Err(Failure::Unclear(other)) if other.starts_with("there is no") => Err(
                    Failure::Unclear(format!("there is no session and no process `{text}`")),
                ),
                found => Ok((found?.uri, None)),
            };
        }
        Err(failure) => return Err(failure),
    };
    let held = find::of_session(&all, session);
    let living = held
        .into_iter()
        .filter(|one| one.process.is_terminal() && !one.process.has_ended());
    match living.max_by_key(|one| one.process.started) {
        Some(newest) => Ok((newest.uri, None)),
        None => shell(link, session).await,
    }
}

/// A shell of the host's on a new terminal, in a session.
async fn shell(
    link: &mut Link,
    session: &Listed,
) -> Result<(String, Option<TerminalSessionClaim>)> {
    if !(tty::stdin_is() && tty::stdout_is()) {
        let id = session.id();
        return Err(Failure::Unclear(format!(
            "session `{id}` has no terminal, and there is none here for a shell"
        )));
    }
    let (rows, cols) = tty::size().unwrap_or((24, 80));
    let chat = session.chat.clone();
    let claim = TerminalSessionClaim {
        session: session.uri.clone(),
        chat: chat.unwrap_or_else(|| format!("ahp-chat:/{}", name_of(&session.uri))),
        turn_id: None,
        tool_call_id: None,
    };
    let env: serde_json::Map<String, Value> = ["TERM", "COLORTERM"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?.into())))
        .collect();
    let channel = format!("{TERMINAL}{}", fresh());
    let params = CreateTerminalParams {
        channel: channel.clone(),
        meta: Some(
            [("dev.hostler/env".to_owned(), json!(env))]
                .into_iter()
                .collect(),
        ),
        claim: TerminalClaim::Session(claim.clone()),
        name: None,
        cwd: None,
        cols: Some(cols.into()),
        rows: Some(rows.into()),
    };
    let _: Value = link.request("createTerminal", params).await?;
    Ok((channel, Some(claim)))
}

/// A viewer who has joined.
struct Viewer {
    link: Link,
    channel: String,
    terminal: bool,
    claim: TerminalClaim,
    /// Whose it is again when this leaves.
    home: Option<TerminalSessionClaim>,
    pieces: VecDeque<Piece>,
    taken: Taken,
    /// What is set on the terminal here.
    modes: Modes,
    guard: Option<Raw>,
    exit: Option<Option<i64>>,
    told_held: bool,
    /// The beginning of a character that was typed.
    rest: Vec<u8>,
    /// Whether the screen was drawn since the connection was lost.
    drawn: bool,
}

/// What is to be done next.
enum Next {
    Event(Result<Event>),
    Typed(Option<Vec<u8>>),
    Release,
    Signal(i32),
}

impl Viewer {
    async fn view(&mut self, attach: &Attach) -> Result<Ending> {
        let mut told = signals::receive()?;
        let output = Output::new()?;
        let mut typed = Some(streams::input(&[])?);
        let mut scanner = Scanner::new(&attach.detach_keys);
        let mut release = None;
        self.take_claim().await;
        loop {
            if self.pieces.is_empty()
                && let Some(code) = self.exit
            {
                output.flush().await?;
                return Ok(Ending::Exit(code));
            }
            let types = self.link.has_room() && self.pieces.is_empty();
            let next = tokio::select! {
                Some(signal) = told.recv() => Next::Signal(signal),
                failure = output.failure() => return Err(failure),
                room = output.room(), if !self.pieces.is_empty() => {
                    if let Some((stream, bytes)) = self.pieces.pop_front() {
                        room.fill(stream, bytes);
                    }
                    continue;
                }
                event = self.link.next(), if self.pieces.is_empty() => Next::Event(event),
                bytes = read(&mut typed), if typed.is_some() && types => Next::Typed(bytes),
                () = at(release) => Next::Release,
            };
            match next {
                Next::Event(event) => self.event(event?).await?,
                Next::Typed(None) => {
                    typed = None;
                    if self.terminal {
                        return Ok(Ending::Detached);
                    }
                }
                Next::Typed(Some(bytes)) => {
                    let mut out = Vec::new();
                    if scanner.feed(&bytes, &mut out) {
                        return Ok(Ending::Detached);
                    }
                    release = scanner.holds().then(|| Instant::now() + HOLD);
                    self.types(out).await;
                }
                Next::Release => {
                    release = None;
                    let held = scanner.release();
                    self.types(held).await;
                }
                Next::Signal(signals::WINCH) => self.tell_size().await,
                Next::Signal(signals::TSTP) => self.stop().await?,
                Next::Signal(signals::INT) => return Ok(Ending::Detached),
                Next::Signal(signal) if signals::is_deadly(signal) => {
                    return Err(Failure::Signal(signal));
                }
                Next::Signal(_) => {}
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Action(envelope) if envelope.channel == self.channel => {
                if envelope.rejection_reason.is_some() {
                    // A key or a size that came too late; of the claim, the state tells.
                    self.say_held();
                    return Ok(());
                }
                match &envelope.action {
                    StateAction::TerminalClaimed(claimed) => {
                        self.claim = claimed.claim.clone();
                        if self.is_held() {
                            self.tell_size().await;
                        } else {
                            self.take_claim().await;
                        }
                    }
                    StateAction::TerminalExited(exited) => self.exit = Some(exited.exit_code),
                    _ => {}
                }
                let pieces = self.taken.action(&envelope.action);
                self.shows(pieces);
            }
            Event::Snapshot(snapshot) if snapshot.resource == self.channel => {
                if let SnapshotState::Terminal(state) = &snapshot.state {
                    self.state(state);
                    self.claim = state.claim.clone();
                    self.take_claim().await;
                }
            }
            Event::Gone(gone) if gone == self.channel => {
                let name = name_of(&self.channel);
                let why = format!("`{name}` is no longer there: its session has closed");
                return Err(Failure::Unclear(why));
            }
            Event::Back => {
                let drawn = std::mem::take(&mut self.drawn);
                // Else the line that was said stays in the picture.
                if self.modes.is_full_screen() && !drawn {
                    self.draw_again().await;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Shows all of a state.
    fn state(&mut self, state: &TerminalState) {
        let pieces = self.taken.state(state);
        self.shows(pieces);
        self.drawn = true;
        if let TerminalLifecycleState::Exited(exited) = &state.lifecycle {
            self.exit = Some(exited.exit_code);
        }
        debug_assert_eq!(has_ended(state), self.exit.is_some());
    }

    fn shows(&mut self, pieces: Vec<Piece>) {
        if self.terminal {
            for (_, bytes) in &pieces {
                self.modes.follow(bytes);
            }
        }
        self.pieces.extend(pieces);
    }

    /// Whether this client has the terminal.
    fn is_held(&self) -> bool {
        matches!(&self.claim, TerminalClaim::Client(claim) if claim.client_id == self.link.id())
    }

    /// Takes the terminal, unless another client has it.
    async fn take_claim(&mut self) {
        match &self.claim {
            TerminalClaim::Client(_) if self.is_held() => self.tell_size().await,
            TerminalClaim::Client(_) => self.say_held(),
            TerminalClaim::Session(_) => {
                let claim = TerminalClaim::Client(TerminalClientClaim {
                    client_id: self.link.id().to_owned(),
                });
                self.claims(claim).await;
            }
        }
    }

    async fn claims(&mut self, claim: TerminalClaim) {
        let action = StateAction::TerminalClaimed(TerminalClaimedAction { claim });
        self.link.dispatch(&self.channel, action).await;
    }

    /// Says once that another client has it.
    fn say_held(&mut self) {
        if matches!(&self.claim, TerminalClaim::Client(_)) && !self.is_held() && !self.told_held {
            self.told_held = true;
            let line = "\r\n[another client has this terminal: you see it, and type when that has left]\r\n";
            self.pieces
                .push_back((Stream::Err, Bytes::from_static(line.as_bytes())));
        }
    }

    /// Gives it back to its session, and waits until the host has done so.
    async fn give_back(&mut self) {
        if self.is_held()
            && let Some(home) = self.home.clone()
        {
            self.claims(TerminalClaim::Session(home)).await;
        }
        let done = async {
            while !self.link.is_done() {
                if self.link.next().await.is_err() {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), done).await;
    }

    async fn types(&mut self, bytes: Vec<u8>) {
        self.rest.extend(bytes);
        let (data, rest) = characters(&self.rest);
        self.rest = rest;
        let waits = matches!(&self.claim, TerminalClaim::Client(_)) && !self.is_held();
        if data.is_empty() || waits {
            return;
        }
        let action = StateAction::TerminalInput(TerminalInputAction { data });
        self.link.dispatch(&self.channel, action).await;
    }

    async fn tell_size(&mut self) {
        if let Some(size) = tty::size() {
            self.resize(size).await;
        }
    }

    async fn resize(&mut self, (rows, cols): (u16, u16)) {
        let waits = matches!(&self.claim, TerminalClaim::Client(_)) && !self.is_held();
        if !self.terminal || waits {
            return;
        }
        let action = StateAction::TerminalResized(TerminalResizedAction {
            cols: cols.into(),
            rows: rows.into(),
        });
        self.link.dispatch(&self.channel, action).await;
    }

    /// Has a program draw its screen again: as it does when its size changes, which it does for a moment.
    async fn draw_again(&mut self) {
        if let Some((rows, cols)) = tty::size() {
            self.resize((rows.saturating_sub(1).max(1), cols)).await;
            self.resize((rows, cols)).await;
        }
    }

    /// Stops until somebody has it go on.
    async fn stop(&mut self) -> Result<()> {
        let raw = self.guard.take().is_some();
        let stop = rustix::process::Signal::STOP;
        let _ = rustix::process::kill_process(rustix::process::getpid(), stop);
        if raw {
            self.guard = Some(Raw::enter()?);
            self.tell_size().await;
        }
        Ok(())
    }

    /// How it ended: the protocol has no word for signals, so the host is asked for more.
    async fn how(&mut self, code: Option<i64>) -> Exit {
        let told = Exit {
            code: code.and_then(|code| i32::try_from(code).ok()),
            signal: None,
            status: None,
        };
        if code.is_some() {
            return told;
        }
        let listed =
            tokio::time::timeout(Duration::from_secs(2), find::sessions(&mut self.link, true))
                .await;
        let all = listed.ok().and_then(Result::ok).unwrap_or_default();
        let mut held = all.iter().flat_map(|one| &one.processes);
        let process: Option<&Process> = held
            .find(|one| one.uri == self.channel)
            .map(|one| &one.process);
        process.and_then(|process| process.exit).unwrap_or(told)
    }
}

/// What was typed as text, and the beginning of a character that is not there whole.
fn characters(bytes: &[u8]) -> (String, Vec<u8>) {
    let whole = match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    };
    let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
    (text, bytes[whole..].to_vec())
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

#[cfg(test)]
mod tests {
    use super::characters;

    #[test]
    fn characters_are_typed_whole() {
        assert_eq!(characters("aü".as_bytes()), ("aü".into(), vec![]));
        assert_eq!(characters(b"a\xc3"), ("a".into(), vec![0xc3]));
        assert_eq!(characters(b"\xffa"), ("\u{fffd}a".into(), vec![]));
    }
}
