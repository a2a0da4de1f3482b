//! Processes without a terminal as channels: `ahp-terminal:/ID` with `isPty: false`. They are in no listing, and open when a client
//! first follows one, so that its output can be followed and its input typed from afar.
//!
//! The output comes as parts of kind `command`, each of one stream. Their ids say where they stand: `stdout@OFFSET`, counted in bytes of
//! the stream, or `stdout@OFFSET+LENGTH` for bytes that are no UTF-8 and of which only what replaces them can be told. By these a client that
//! was away, and one that sees content again, knows what it has. Of the content the last 2 to 4 MiB are kept: what is shortened
//! comes again, from its new beginning, behind a `terminal/cleared`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahp::reducers::apply_action_to_terminal;
use ahp_types::actions::{
    StateAction, TerminalClaimedAction, TerminalClearedAction, TerminalCommandExecutedAction,
    TerminalCommandFinishedAction, TerminalDataAction, TerminalExitedAction,
};
use ahp_types::state::{
    TerminalClaim, TerminalLifecycleState, TerminalRunningLifecycleState, TerminalSessionClaim,
    TerminalState,
};
use hostler_session::{Chunk, Output, ProcessHandle};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::claim;
use super::live::now;
use crate::ahp::error::{AhpError, Rejection};
use crate::ahp::hub::{
    Act, Channel, ChannelState, Dispatched, GRACE, Held, Hub, Taken, Who, Work, missing,
};
use crate::ws::tap::Tap;

/// How much content there is at the most, and how much is kept of it then, in bytes.
const CONTENT: usize = 4 << 20;
const KEPT: usize = 2 << 20;
/// What a part of the content counts besides its text.
const PART: usize = 256;
/// How much output becomes one action at the most.
const CHUNK: usize = 64 << 10;
/// How long output waits for a client that has room.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many pieces of input wait for a process that does not read.
const INPUT: usize = 64;
const STREAMS: [&str; 2] = ["stdout", "stderr"];

/// A piece of the output of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    stream: usize,
    at: u64,
    /// How many bytes it was, where the text only replaces them.
    replaced: Option<u64>,
    text: String,
}

impl Segment {
    fn id(&self) -> String {
        let (stream, at) = (STREAMS[self.stream], self.at);
        match self.replaced {
            Some(length) => format!("{stream}@{at}+{length}"),
            None => format!("{stream}@{at}"),
        }
    }

    fn size(&self) -> usize {
        self.text.len() + PART
    }

    /// Whether this goes on where that ends.
    fn follows(&self, before: &Self) -> bool {
        self.stream == before.stream
            && self.replaced.is_none()
            && before.replaced.is_none()
            && before.at + before.text.len() as u64 == self.at
    }
}

/// What was written, as parts.
#[derive(Debug, Default)]
struct Content {
    segments: VecDeque<Segment>,
    size: usize,
    /// The beginning of a character of each stream, and where it stands.
    held: [(u64, Vec<u8>); 2],
    line: String,
}

impl Content {
    /// Takes what a stream wrote from this offset on.
    fn output(&mut self, stream: usize, at: u64, bytes: &[u8]) -> Vec<StateAction> {
        let (from, mut whole) = std::mem::take(&mut self.held[stream]);
        let mut out = Vec::new();
        let from = if whole.is_empty() { at } else { from };
        if from + (whole.len() as u64) < at {
            // Something between is not kept: what was held stands alone.
            out.extend(self.replace(stream, from, &std::mem::take(&mut whole)));
            return out
                .into_iter()
                .chain(self.output(stream, at, bytes))
                .collect();
        }
        whole.extend_from_slice(bytes);
        let upto = match std::str::from_utf8(&whole) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => whole.len(),
        };
        let rest = whole.split_off(upto);
        self.held[stream] = (from + upto as u64, rest);
        match String::from_utf8(whole) {
            Ok(text) => out.extend(self.push(Segment {
                stream,
                at: from,
                replaced: None,
                text,
            })),
            Err(error) => out.extend(self.replace(stream, from, error.as_bytes())),
        }
        out.extend(self.shorten());
        out
    }

    fn replace(&mut self, stream: usize, at: u64, bytes: &[u8]) -> Vec<StateAction> {
        self.push(Segment {
            stream,
            at,
            replaced: Some(bytes.len() as u64),
            text: String::from_utf8_lossy(bytes).into_owned(),
        })
    }

    fn push(&mut self, segment: Segment) -> Vec<StateAction> {
        if segment.text.is_empty() {
            return Vec::new();
        }
        let data = StateAction::TerminalData(TerminalDataAction {
            data: segment.text.clone(),
        });
        if let Some(last) = self
            .segments
            .back_mut()
            .filter(|last| segment.follows(last))
        {
            self.size += segment.text.len();
            last.text.push_str(&segment.text);
            return vec![data];
        }
        self.size += segment.size();
        let mut out: Vec<StateAction> = self.finish(None).into_iter().collect();
        out.push(self.begin(&segment));
        out.push(data);
        self.segments.push_back(segment);
        out
    }

    fn begin(&self, segment: &Segment) -> StateAction {
        StateAction::TerminalCommandExecuted(TerminalCommandExecutedAction {
            command_id: segment.id(),
            command_line: self.line.clone(),
            timestamp: now(),
        })
    }

    /// The last part is over.
    fn finish(&self, exit_code: Option<i64>) -> Option<StateAction> {
        let last = self.segments.back()?;
        Some(StateAction::TerminalCommandFinished(
            TerminalCommandFinishedAction {
                command_id: last.id(),
                exit_code,
                duration_ms: None,
            },
        ))
    }

    /// Keeps the end alone, where it is too much.
    fn shorten(&mut self) -> Vec<StateAction> {
        if self.size <= CONTENT {
            return Vec::new();
        }
        while self.size > KEPT {
            let Some(mut first) = self.segments.pop_front() else {
                break;
            };
            self.size -= first.size();
            let over = (self.size + first.size()).saturating_sub(KEPT);
            if first.replaced.is_none() && over < first.text.len() {
                let cut = first.text.ceil_char_boundary(over);
                first.text.drain(..cut);
                first.at += cut as u64;
                self.size += first.size();
                self.segments.push_front(first);
                break;
            }
        }
        let cleared = StateAction::TerminalCleared(TerminalClearedAction {});
        std::iter::once(cleared).chain(self.parts()).collect()
    }

    /// All parts; the last one goes on.
    fn parts(&self) -> Vec<StateAction> {
        let mut out = Vec::new();
        for (place, segment) in self.segments.iter().enumerate() {
            out.push(self.begin(segment));
            out.push(StateAction::TerminalData(TerminalDataAction {
                data: segment.text.clone(),
            }));
            if place + 1 < self.segments.len() {
                out.push(StateAction::TerminalCommandFinished(
                    TerminalCommandFinishedAction {
                        command_id: segment.id(),
                        exit_code: None,
                        duration_ms: None,
                    },
                ));
            }
        }
        out
    }
}

#[derive(Debug)]
struct State {
    content: Content,
    claim: TerminalClaim,
    /// Nobody has followed it for a while: it is to be opened anew.
    closed: bool,
}

/// A process whose channel is open.
#[derive(Debug)]
pub(super) struct Plain {
    uri: Arc<str>,
    process: ProcessHandle,
    hub: Hub,
    home: TerminalSessionClaim,
    state: Mutex<State>,
    followers: watch::Sender<usize>,
    input: mpsc::Sender<String>,
}

/// A follower. Dropping it is its leaving.
struct Following(Arc<Plain>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.followers.send_modify(|count| *count -= 1);
    }
}

/// Where the end of an output begins that is told.
fn start(output: &Output) -> u64 {
    output.progress().len.saturating_sub(KEPT as u64)
}

impl Plain {
    /// Opens it, until nobody has followed it for a while. It reads files: to be called where that may take its time.
    pub(super) fn open(
        uri: Arc<str>,
        process: ProcessHandle,
        hub: Hub,
        home: TerminalSessionClaim,
    ) {
        let (input, inputs) = mpsc::channel(INPUT);
        let line = process.options().argv.join(" ");
        let claim = TerminalClaim::Session(home.clone());
        let plain = Arc::new(Self {
            uri,
            hub,
            home,
            state: Mutex::new(State {
                content: Content {
                    line,
                    ..Content::default()
                },
                claim: claim.clone(),
                closed: false,
            }),
            followers: watch::Sender::new(0),
            input,
            process,
        });
        let mut whole = TerminalState {
            title: super::title(&plain.process),
            cwd: None,
            cols: None,
            rows: None,
            content: Vec::new(),
            lifecycle: TerminalLifecycleState::Running(TerminalRunningLifecycleState {}),
            claim,
            supports_command_detection: Some(true),
            is_pty: Some(false),
        };
        // What was written so far.
        let mut from = [0; 2];
        for (stream, output) in plain.outputs().into_iter().enumerate() {
            let Some(output) = output else { continue };
            from[stream] = start(&output);
            let upto = output.progress().len;
            while from[stream] < upto {
                match output.read_at(from[stream], CHUNK) {
                    Ok(chunk) if chunk.next > from[stream] => {
                        from[stream] = chunk.next;
                        for action in plain.state().content.take(stream, &chunk) {
                            apply_action_to_terminal(&mut whole, &action);
                        }
                    }
                    _ => break,
                }
            }
        }
        let channel: Arc<dyn Channel> = Arc::new(Door(plain.clone()));
        let state = ChannelState::Terminal(Box::new(whole));
        plain.hub.register(plain.uri.clone(), state, channel);
        tokio::spawn(plain.clone().type_in(inputs));
        tokio::spawn(plain.run(from));
    }

    fn outputs(&self) -> [Option<Output>; 2] {
        [Some(self.process.stdout()), self.process.stderr()]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at every moment, and it is held over no await.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, actions: impl IntoIterator<Item = StateAction>) {
        for action in actions {
            self.hub.publish(&self.uri, action, None);
        }
    }

    /// Follows the output to its end, and goes when nobody has followed it for a while.
    async fn run(self: Arc<Self>, from: [u64; 2]) {
        let mut followers = self.followers.subscribe();
        let tap = |(output, from): (Option<Output>, u64)| {
            output.map(|output| Tap::new(output.follow(from), &self.process))
        };
        let [mut out, mut err] = [0, 1].map(|n| tap((self.outputs()[n].clone(), from[n])));
        let mut idle = Some(Instant::now() + GRACE);
        let mut ended = false;
        loop {
            if !ended && out.is_none() && err.is_none() {
                ended = true;
                self.ends().await;
            }
            if *followers.borrow() > 0 {
                let _ = timeout(PATIENCE, self.hub.room(&self.uri)).await;
            }
            tokio::select! {
                biased;
                changed = followers.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let nobody = *followers.borrow_and_update() == 0;
                    idle = nobody.then(|| Instant::now() + GRACE);
                }
                () = at(idle) => {
                    if self.close() {
                        return;
                    }
                    idle = None;
                }
                more = next(&mut out) => self.take(0, more, &mut out),
                more = next(&mut err) => self.take(1, more, &mut err),
            }
        }
    }

    fn take(&self, stream: usize, more: Option<Chunk>, tap: &mut Option<Tap>) {
        match more {
            Some(chunk) => {
                let mut state = self.state();
                let actions = state.content.take(stream, &chunk);
                self.publish(actions);
            }
            None => *tap = None,
        }
    }

    /// All was written.
    async fn ends(&self) {
        let exit = self.process.wait().await;
        let exit_code = exit.and_then(|exit| exit.code).map(i64::from);
        let mut state = self.state();
        for stream in 0..STREAMS.len() {
            let (at, rest) = std::mem::take(&mut state.content.held[stream]);
            let actions = state.content.replace(stream, at, &rest);
            self.publish(actions);
        }
        let finished = state.content.finish(exit_code);
        self.publish(finished);
        let exited = TerminalExitedAction { exit_code };
        self.publish([StateAction::TerminalExited(exited)]);
    }

    /// Lets go of the channel, unless somebody follows.
    fn close(&self) -> bool {
        let mut state = self.state();
        if *self.followers.borrow() > 0 {
            return false;
        }
        state.closed = true;
        self.hub.remove(&self.uri);
        true
    }

    async fn type_in(self: Arc<Self>, mut inputs: mpsc::Receiver<String>) {
        let mut status = self.process.watch();
        let ended = status.wait_for(|status| status.state == hostler_session::ResourceState::Ended);
        tokio::pin!(ended);
        loop {
            let text = tokio::select! {
                _ = &mut ended => return,
                text = inputs.recv() => text,
            };
            let Some(text) = text else { return };
            tokio::select! {
                _ = &mut ended => return,
                typed = self.process.write(text.as_bytes()) => if let Err(error) = typed {
                    tracing::debug!(uri = &*self.uri, %error, "input is not taken");
                }
            }
        }
    }

    async fn act(&self, who: &Who, dispatched: Dispatched) -> Result<Taken, Rejection> {
        let client = &*who.client;
        match &dispatched.action {
            StateAction::TerminalInput(action) => {
                claim::may_type(&self.state().claim, client).map_err(Rejection)?;
                // Whether it takes input at all.
                self.process.write(b"").await?;
                self.input
                    .try_send(action.data.clone())
                    .map_err(|_| Rejection::new("the process does not read: try again"))?;
                Ok(Taken::Echo)
            }
            StateAction::TerminalClaimed(action) => {
                let mut state = self.state();
                let is_here = |id: &str| self.hub.is_here(id);
                let change = (&state.claim, &action.claim);
                claim::may_hand_on(change, client, &self.home, is_here).map_err(Rejection)?;
                state.claim = action.claim.clone();
                self.hub.act(&self.uri, Act::from(dispatched));
                Ok(Taken::Shown)
            }
            StateAction::TerminalResized(_)
            | StateAction::TerminalTitleChanged(_)
            | StateAction::TerminalCleared(_) => {
                Err(Rejection::new("this process has no terminal"))
            }
            _ => Err(Rejection::new("clients do not dispatch this to a process")),
        }
    }

    fn release(&self, client: &str) {
        let mut state = self.state();
        if matches!(&state.claim, TerminalClaim::Client(claim) if claim.client_id == client) {
            state.claim = TerminalClaim::Session(self.home.clone());
            let claim = state.claim.clone();
            self.publish([StateAction::TerminalClaimed(TerminalClaimedAction {
                claim,
            })]);
        }
    }
}

impl Content {
    fn take(&mut self, stream: usize, chunk: &Chunk) -> Vec<StateAction> {
        self.output(stream, chunk.offset, &chunk.bytes)
    }
}

async fn next(tap: &mut Option<Tap>) -> Option<Chunk> {
    match tap {
        Some(tap) => tap.next(CHUNK).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "the output cannot be read");
            None
        }),
        None => std::future::pending().await,
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What the hub knows of an open process.
#[derive(Debug)]
struct Door(Arc<Plain>);

impl Channel for Door {
    fn join<'a>(&'a self, _: &'a Who) -> Work<'a, Result<Option<Held>, AhpError>> {
        Box::pin(async {
            let state = self.0.state();
            if state.closed {
                return Err(missing(&self.0.uri));
            }
            self.0.followers.send_modify(|count| *count += 1);
            let held: Held = Box::new(Following(self.0.clone()));
            Ok(Some(held))
        })
    }

    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(self.0.act(who, dispatched))
    }

    fn left<'a>(&'a self, client: &'a str) -> Work<'a, ()> {
        Box::pin(async { self.0.release(client) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(actions: &[StateAction]) -> Vec<(String, String, bool)> {
        let mut state: TerminalState = serde_json::from_value(serde_json::json!({
            "title": "", "content": [], "lifecycle": {"status": "running"}, "isPty": false,
            "claim": {"kind": "session", "session": "s", "chat": "c"}
        }))
        .expect("a state");
        for action in actions {
            apply_action_to_terminal(&mut state, action);
        }
        let part = |part| match part {
            ahp_types::state::TerminalContentPart::Command(c) => {
                (c.command_id, c.output, c.is_complete)
            }
            other => panic!("{other:?}"),
        };
        state.content.into_iter().map(part).collect()
    }

    #[test]
    fn pieces_say_where_they_stand() {
        let mut content = Content::default();
        let mut actions = content.output(0, 0, "ab\u{fc}".as_bytes());
        actions.extend(content.output(0, 4, b"c\xc3"));
        actions.extend(content.output(1, 0, b"bad"));
        actions.extend(content.output(0, 6, b"\xbcd"));
        actions.extend(content.output(0, 8, b"\xff\xfe"));
        actions.extend(content.output(0, 10, b"end"));
        // Something is not kept.
        actions.extend(content.output(0, 20, b"x"));
        let all = reduced(&actions);
        let all: Vec<(&str, &str, bool)> = all.iter().map(|(i, t, c)| (&**i, &**t, *c)).collect();
        assert_eq!(
            all,
            [
                ("stdout@0", "ab\u{fc}c", true),
                ("stderr@0", "bad", true),
                ("stdout@5", "\u{fc}d", true),
                ("stdout@8+2", "\u{fffd}\u{fffd}", true),
                ("stdout@10", "end", true),
                ("stdout@20", "x", false),
            ]
        );
    }

    #[test]
    fn content_is_bounded_and_its_end_is_kept() {
        let mut content = Content::default();
        let mut actions = Vec::new();
        let piece = "0123456789abcde\n".repeat(4096);
        for n in 0..200u64 {
            actions.extend(content.output(0, n * piece.len() as u64, piece.as_bytes()));
            assert!(content.size <= CONTENT, "{}", content.size);
        }
        let all = reduced(&actions);
        let [(id, text, false)] = &all[..] else {
            panic!("{} parts", all.len());
        };
        let at: u64 = id
            .strip_prefix("stdout@")
            .and_then(|at| at.parse().ok())
            .expect("a place");
        assert_eq!(at + text.len() as u64, 200 * piece.len() as u64);
        assert!(text.len() >= KEPT - PART && text.ends_with("abcde\n"));
    }
}
