//! A terminal whose channel is open: what it writes becomes actions, and what clients dispatch is done.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahp::reducers::apply_action_to_terminal;
use ahp_types::actions::{
    StateAction, TerminalClaimedAction, TerminalExitedAction, TerminalResizedAction,
};
use ahp_types::state::{
    TerminalClaim, TerminalExitedLifecycleState, TerminalLifecycleState,
    TerminalRunningLifecycleState, TerminalSessionClaim, TerminalState,
};
use hostler_session::{Chunk, ProcessHandle, ResourceState, TerminalSize};
use tokio::sync::{Notify, watch};

use super::claim;
use super::model::Model;
use crate::ahp::error::{AhpError, Rejection};
use crate::ahp::hub::{Act, Channel, ChannelState, Dispatched, Held, Hub, Taken, Who, Work};
use crate::ws::tap::Tap;

/// How much output becomes one action at the most.
const CHUNK: usize = 256 << 10;
/// How long output waits for a client that has room: past it, those who have none are overrun.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much is published that nobody follows, for those who come back soon.
const UNFOLLOWED: usize = 256 << 10;
/// How much input waits for a program that does not read.
const INPUT: usize = 1 << 20;
/// The largest terminal, in lines and in columns.
pub(super) const LARGEST: u16 = 1000;

/// What changes of an open terminal.
#[derive(Debug)]
struct State {
    model: Model,
    claim: TerminalClaim,
    size: TerminalSize,
    exit: Option<TerminalExitedLifecycleState>,
    /// How much was written since the last follower left.
    unfollowed: usize,
    /// Whether more was written than the channel's state knows.
    stale: bool,
}

/// An open terminal.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) uri: Arc<str>,
    pub(super) process: ProcessHandle,
    hub: Hub,
    /// Whose it is when no client holds it.
    home: TerminalSessionClaim,
    state: Mutex<State>,
    /// How many follow, or are about to.
    followers: watch::Sender<usize>,
    /// Whether all was told that there is to tell.
    finished: watch::Sender<bool>,
    input: Mutex<VecDeque<String>>,
    typed: Notify,
    waiting: AtomicUsize,
    /// Told when what a listing shows of it changes.
    listed: Arc<Notify>,
}

/// A follower. Dropping it is its leaving.
struct Following(Arc<Live>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.followers.send_modify(|count| *count -= 1);
    }
}

/// What a terminal is opened with.
pub(super) struct Opening {
    pub(super) uri: Arc<str>,
    pub(super) process: ProcessHandle,
    pub(super) hub: Hub,
    pub(super) home: TerminalSessionClaim,
    pub(super) claim: TerminalClaim,
    pub(super) title: String,
    /// Where it was started, as a `file:` URI.
    pub(super) directory: Option<String>,
    pub(super) listed: Arc<Notify>,
}

fn now() -> i64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed();
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

impl Live {
    /// Opens it: takes what was written so far, makes the channel, and follows it from there on. It reads files: to be called where
    /// that may take its time.
    pub(super) fn open(opening: Opening) -> Arc<Self> {
        let process = opening.process;
        let size = process.size().ok().or(process.options().terminal);
        let size = size.unwrap_or_default();
        let mut model = Model::new(size.rows, size.cols, opening.title, opening.directory);
        let mut state = blank(&model, size, &opening.claim);
        let mut from = 0;
        let output = process.stdout();
        let upto = output.progress().len;
        let mut whole = true;
        while from < upto {
            match output.read_at(from, CHUNK) {
                Ok(chunk) if chunk.next > from => {
                    from = chunk.next;
                    whole &= chunk.skipped == 0;
                    reduce(&mut state, &take(&mut model, &chunk));
                }
                _ => break,
            }
        }
        if !whole || model.wants_base() {
            reduce(&mut state, &model.rebase());
        }
        let live = Arc::new(Self {
            uri: opening.uri,
            process,
            hub: opening.hub,
            home: opening.home,
            state: Mutex::new(State {
                model,
                claim: opening.claim,
                size,
                exit: None,
                unfollowed: 0,
                stale: false,
            }),
            followers: watch::Sender::new(0),
            finished: watch::Sender::new(false),
            input: Mutex::default(),
            typed: Notify::new(),
            waiting: AtomicUsize::new(0),
            listed: opening.listed,
        });
        live.register(state);
        tokio::spawn(live.clone().run(from));
        tokio::spawn(live.clone().type_in());
        live
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What it guards is whole at every moment, and it is held over no await.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its title, and who holds it.
    pub(super) fn facts(&self) -> (String, TerminalClaim) {
        let state = self.state();
        (state.model.title().to_owned(), state.claim.clone())
    }

    fn register(self: &Arc<Self>, state: TerminalState) {
        let channel: Arc<dyn Channel> = Arc::new(Door(self.clone()));
        let state = ChannelState::Terminal(Box::new(state));
        self.hub.register(self.uri.clone(), state, channel);
    }

    /// Puts the channel's state in place of what it was: as it is now.
    fn refresh(self: &Arc<Self>, state: &mut State) {
        let mut whole = blank(&state.model, state.size, &state.claim);
        if let Some(exit) = &state.exit {
            whole.lifecycle = TerminalLifecycleState::Exited(exit.clone());
        }
        reduce(&mut whole, &state.model.base());
        self.register(whole);
        (state.stale, state.unfollowed) = (false, 0);
    }

    fn publish(&self, actions: Vec<StateAction>) {
        for action in actions {
            self.hub.publish(&self.uri, action, None);
        }
    }

    /// Takes what was written.
    fn take(&self, chunk: &Chunk) {
        let mut state = self.state();
        let title = state.model.title().to_owned();
        let actions = take(&mut state.model, chunk);
        if *self.followers.borrow() == 0 {
            state.unfollowed += chunk.bytes.len();
            state.stale |= state.unfollowed > UNFOLLOWED;
        }
        if !state.stale {
            self.publish(actions);
        }
        if title != state.model.title() {
            self.listed.notify_one();
        }
    }

    /// Follows the output to its end.
    async fn run(self: Arc<Self>, from: u64) {
        let output = self.process.stdout();
        let mut followers = self.followers.subscribe();
        let mut tap = Tap::new(output.follow(from), &self.process);
        let mut paced = false;
        loop {
            let followed = *followers.borrow_and_update() > 0;
            if followed != paced {
                paced = followed;
                let at = tap.offset();
                // It writes on only as fast as the fastest of those who follow reads.
                let follower = match paced {
                    true => output.follow_paced(at),
                    false => output.follow(at),
                };
                tap = Tap::new(follower, &self.process);
            }
            if paced {
                let _ = tokio::time::timeout(PATIENCE, self.hub.room(&self.uri)).await;
            }
            tokio::select! {
                biased;
                // Whoever drops the last handle does not follow either.
                _ = followers.changed() => {}
                chunk = tap.next(CHUNK) => match chunk {
                    Ok(Some(chunk)) => self.take(&chunk),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(uri = &*self.uri, %error, "the output cannot be read");
                        break;
                    }
                },
            }
        }
        let exit = self.process.wait().await;
        let code = exit.and_then(|exit| exit.code).map(i64::from);
        let mut state = self.state();
        state.exit = Some(TerminalExitedLifecycleState { exit_code: code });
        let action = TerminalExitedAction { exit_code: code };
        self.publish(vec![StateAction::TerminalExited(action)]);
        if *self.followers.borrow() == 0 {
            // What is kept of it is what can be seen.
            let base = state.model.rebase();
            self.publish(base);
        }
        drop(state);
        self.finished.send_replace(true);
        self.typed.notify_one();
        self.listed.notify_one();
    }

    /// Waits until all was told that there is to tell of a terminal that has ended; not for ever, for a follower may take its time.
    pub(super) async fn finished(&self) {
        let mut finished = self.finished.subscribe();
        let told = async {
            let _ = finished.wait_for(|finished| *finished).await;
        };
        let _ = tokio::time::timeout(PATIENCE, told).await;
    }

    /// Types what clients have sent.
    async fn type_in(self: Arc<Self>) {
        loop {
            let next = self.input().pop_front();
            let Some(text) = next else {
                if self.process.status().state == ResourceState::Ended {
                    return;
                }
                self.typed.notified().await;
                continue;
            };
            let typed = tokio::select! {
                typed = self.process.write(text.as_bytes()) => typed,
                _ = self.process.wait() => return,
            };
            self.waiting.fetch_sub(text.len(), Ordering::Relaxed);
            if let Err(error) = typed {
                tracing::debug!(uri = &*self.uri, %error, "input is not taken");
            }
        }
    }

    fn input(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_in(&self, text: &str) -> Result<(), Rejection> {
        if self.process.status().state == ResourceState::Ended {
            return Err(Rejection::new("the terminal's process has ended"));
        }
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting + text.len() > INPUT {
            let why = "the program does not read: more input waits for it than may be";
            return Err(Rejection::new(why));
        }
        self.waiting.fetch_add(text.len(), Ordering::Relaxed);
        self.input().push_back(text.to_owned());
        self.typed.notify_one();
        Ok(())
    }

    fn resize(&self, state: &mut State, action: &TerminalResizedAction) -> Result<(), Rejection> {
        let size = size(action.rows, action.cols).map_err(Rejection::new)?;
        self.process.resize(size)?;
        state.model.resize(size.rows, size.cols);
        state.size = size;
        Ok(())
    }

    /// Does what a client dispatched, and shows it to all.
    fn act(&self, who: &Who, dispatched: Dispatched) -> Result<Taken, Rejection> {
        let client = &*who.client;
        let mut state = self.state();
        let state = &mut *state;
        let mut after = Vec::new();
        match &dispatched.action {
            StateAction::TerminalInput(action) => {
                claim::may_type(&state.claim, client).map_err(Rejection)?;
                self.put_in(&action.data)?;
            }
            StateAction::TerminalResized(action) => {
                claim::may_change(&state.claim, client).map_err(Rejection)?;
                self.resize(state, action)?;
            }
            StateAction::TerminalClaimed(action) => {
                let is_here = |id: &str| self.hub.is_here(id);
                let change = (&state.claim, &action.claim);
                claim::may_hand_on(change, client, &self.home, is_here).map_err(Rejection)?;
                state.claim = action.claim.clone();
                self.listed.notify_one();
            }
            StateAction::TerminalTitleChanged(action) => {
                claim::may_change(&state.claim, client).map_err(Rejection)?;
                state.model.rename(action.title.clone());
                self.listed.notify_one();
            }
            StateAction::TerminalCleared(_) => {
                claim::may_change(&state.claim, client).map_err(Rejection)?;
                after = state.model.clear();
                if after.is_empty() {
                    let why = "the program is in the middle of a sequence: try again";
                    return Err(Rejection::new(why));
                }
            }
            _ => return Err(Rejection::new("clients do not dispatch this to a terminal")),
        }
        self.hub.act(&self.uri, Act::from(dispatched));
        self.publish(after);
        Ok(Taken::Shown)
    }

    /// A client is gone: what it held, its session holds.
    pub(super) fn release(&self, client: &str) {
        let mut state = self.state();
        if matches!(&state.claim, TerminalClaim::Client(claim) if claim.client_id == client) {
            let claim = TerminalClaim::Session(self.home.clone());
            state.claim = claim.clone();
            let action = TerminalClaimedAction { claim };
            self.publish(vec![StateAction::TerminalClaimed(action)]);
            self.listed.notify_one();
        }
    }

    /// A client is about to follow.
    fn follow(self: &Arc<Self>) -> Held {
        let mut state = self.state();
        self.followers.send_modify(|count| *count += 1);
        let following = Following(self.clone());
        if state.stale {
            self.refresh(&mut state);
        } else if state.model.wants_base() {
            let base = state.model.rebase();
            self.publish(base);
        }
        state.unfollowed = 0;
        Box::new(following)
    }
}

/// The state of a terminal without content.
fn blank(model: &Model, size: TerminalSize, claim: &TerminalClaim) -> TerminalState {
    TerminalState {
        title: model.title().to_owned(),
        cwd: model.directory().map(str::to_owned),
        cols: Some(size.cols.into()),
        rows: Some(size.rows.into()),
        content: Vec::new(),
        lifecycle: TerminalLifecycleState::Running(TerminalRunningLifecycleState {}),
        claim: claim.clone(),
        supports_command_detection: model.marks().then_some(true),
        is_pty: Some(true),
    }
}

fn reduce(state: &mut TerminalState, actions: &[StateAction]) {
    for action in actions {
        apply_action_to_terminal(state, action);
    }
}

fn take(model: &mut Model, chunk: &Chunk) -> Vec<StateAction> {
    if chunk.skipped > 0 {
        model.gap();
    }
    model.output(&chunk.bytes, now())
}

/// A size that a terminal can have.
pub(super) fn size(rows: i64, cols: i64) -> Result<TerminalSize, String> {
    let fits = |count: i64| {
        u16::try_from(count)
            .ok()
            .filter(|count| (1..=LARGEST).contains(count))
    };
    match (fits(rows), fits(cols)) {
        (Some(rows), Some(cols)) => Ok(TerminalSize { rows, cols }),
        _ => Err(format!(
            "a terminal has 1 to {LARGEST} rows and columns, not {rows} and {cols}"
        )),
    }
}

/// What the hub knows of an open terminal.
#[derive(Debug)]
struct Door(Arc<Live>);

impl Channel for Door {
    fn join<'a>(&'a self, _: &'a Who) -> Work<'a, Result<Option<Held>, AhpError>> {
        Box::pin(async { Ok(Some(self.0.follow())) })
    }

    fn dispatch<'a>(
        &'a self,
        who: &'a Who,
        dispatched: Dispatched,
    ) -> Work<'a, Result<Taken, Rejection>> {
        Box::pin(async { self.0.act(who, dispatched) })
    }
}
