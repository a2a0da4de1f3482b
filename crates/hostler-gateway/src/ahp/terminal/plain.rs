//! Processes without a terminal as channels: `ahp-terminal:/ID` with `isPty: false`. They are in no listing, and open when a client
//! first follows one, so that its output can be followed and its input typed from afar.
//!
//! The output comes as parts of kind `command`, each of one stream. Their ids say where they stand: `stdout@OFFSET`, counted in bytes of
//! the stream, or `stdout@OFFSET+LENGTH` for bytes that are no UTF-8 and of which only what replaces them can be told. By these a client that
//! was away, and one that sees content again, knows what it has. Of the content the last 2 to 4 MiB are kept: what is shortened
//! comes again, from its new beginning, behind a `terminal/cleared`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahp::reducers::apply_action_to_terminal;
use ahp_types::actions::{StateAction, TerminalClaimedAction, TerminalExitedAction};
use ahp_types::state::{
    TerminalClaim, TerminalLifecycleState, TerminalRunningLifecycleState, TerminalSessionClaim,
    TerminalState,
};
use hostler_session::{Chunk, Output, ProcessHandle};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::claim;
use super::pieces::{Content, KEPT};
use crate::ahp::error::{AhpError, Rejection};
use crate::ahp::hub::{
    Act, Channel, ChannelState, Dispatched, GRACE, Held, Hub, Taken, Who, Work, missing,
};
use crate::ws::tap::Tap;

/// How much output becomes one action at the most.
const CHUNK: usize = 64 << 10;
/// How long output waits for a client that has room.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many pieces of input wait for a process that does not read.
const INPUT: usize = 64;

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
                content: Content::new(line),
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
        let last = state.content.end(exit_code);
        self.publish(last);
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
