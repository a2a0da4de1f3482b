//! The connection with an agent's process: its output as lines from the spool, its input with a queue, its calls by number,
//! its last words.

mod lines;
mod writer;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hostler_session::{By, ExitInfo, Follower, ProcessHandle, ResourceState};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

pub(crate) use lines::Lines;
pub(crate) use writer::Writer;

use crate::error::{Error, Result};
use crate::rpc::{self, Answer, RpcError};

/// How much is read of an agent's output at once.
const CHUNK: usize = 256 << 10;
/// How much of its standard error is shown.
const LAST_WORDS: u64 = 4 << 10;

/// Who waits for an answer of the agent.
pub(crate) enum Waiter {
    /// A caller.
    Call(oneshot::Sender<Answer>),
    /// The handshake, for an answer that names the session.
    NewSession(oneshot::Sender<Answer>),
    /// A turn.
    Turn(u64),
    /// The conversation, for a fresh context.
    Renewal,
    /// Nobody: whatever the answer is.
    Nobody,
}

/// What the agent was asked and has not answered.
#[derive(Clone, Default)]
pub(crate) struct Calls {
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    by_number: HashMap<u64, Waiter>,
    /// Whether no answer will come any more.
    closed: bool,
}

impl Calls {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever asks when no answer will come is told at once: the waiter is dropped.
    pub(crate) fn insert(&self, number: u64, waiter: Waiter) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.by_number.insert(number, waiter);
        }
    }

    /// Who waits for this one. An agent that quotes the number as text is understood.
    pub(crate) fn remove(&self, id: &RawValue) -> Option<Waiter> {
        let number = id.get().trim_matches('"').parse().ok()?;
        self.take(number)
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        let waiting = self.lock();
        let mut waiters = waiting.by_number.values();
        waiters.all(|waiter| matches!(waiter, Waiter::Nobody))
    }

    fn take(&self, number: u64) -> Option<Waiter> {
        self.lock().by_number.remove(&number)
    }

    /// No answer will come any more: whoever waits, and whoever asks later, is told by that its waiter is dropped. The end of
    /// a turn is told by whoever ends the agent.
    pub(crate) fn close(&self) {
        let mut waiting = self.lock();
        waiting.closed = true;
        let waiters = std::mem::take(&mut waiting.by_number);
        drop(waiting);
        drop(waiters);
    }
}

/// Asks the agent, from any task.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) writer: Writer,
    pub(crate) calls: Calls,
}

/// Forgets a call whose caller is gone.
struct Forget<'a> {
    calls: &'a Calls,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.calls.take(self.number);
    }
}

impl Caller {
    /// Asks, and waits for the answer. `None` when none will come.
    ///
    /// Cancel safe: the answer is let go of.
    pub(crate) async fn call(
        &self,
        method: &str,
        params: &RawValue,
        waiter: impl FnOnce(oneshot::Sender<Answer>) -> Waiter,
    ) -> Option<Answer> {
        let (asked, answer) = self.ask(method, params, waiter);
        let answer = answer.await.ok();
        drop(asked);
        answer
    }

    /// The same for somebody who may take the request back: the agent is told that then, and has so long to answer all the
    /// same, which is what ACP wants of it. `None` as well when it does not.
    ///
    /// Cancel safe: as [`Caller::call`].
    pub(crate) async fn call_until(
        &self,
        method: &str,
        params: &RawValue,
        taken_back: impl Future<Output = ()>,
        grace: Duration,
    ) -> Option<Answer> {
        let (asked, mut answer) = self.ask(method, params, Waiter::Call);
        tokio::select! {
            biased;
            answer = &mut answer => return answer.ok(),
            () = taken_back => {}
        }
        let which = rpc::raw(&serde_json::json!({ "requestId": asked.number }));
        if let Err(error) = self.writer.send(rpc::notification(rpc::CANCEL, &which)) {
            tracing::debug!(%error, "an agent cannot be told that its answer is not wanted");
        }
        match tokio::time::timeout(grace, answer).await {
            Ok(answer) => answer.ok(),
            Err(_) => Some(Err(RpcError::cancelled())),
        }
    }

    /// Asks. The answer is forgotten with the first of what is given.
    fn ask(
        &self,
        method: &str,
        params: &RawValue,
        waiter: impl FnOnce(oneshot::Sender<Answer>) -> Waiter,
    ) -> (Forget<'_>, oneshot::Receiver<Answer>) {
        let number = self.writer.next_number();
        let (reply, answer) = oneshot::channel();
        self.calls.insert(number, waiter(reply));
        let asked = Forget {
            calls: &self.calls,
            number,
        };
        let line = rpc::request(number, method, params);
        if let Err(full) = self.writer.send(line) {
            let refused = Err(RpcError::internal(full.to_string()));
            if let Some(Waiter::Call(reply) | Waiter::NewSession(reply)) = self.calls.take(number) {
                let _ = reply.send(refused);
            }
        }
        (asked, answer)
    }
}

/// An agent's process and what connects with it.
pub(crate) struct Link {
    pub(crate) agent: String,
    pub(crate) process: ProcessHandle,
    output: Follower,
    pub(crate) lines: Lines,
    pub(crate) caller: Caller,
    /// Set when it has ended; then only what it had written is read.
    pub(crate) exit: Option<Option<ExitInfo>>,
}

/// What comes of waiting for an agent.
pub(crate) enum Heard {
    /// Output.
    Bytes(u64, Vec<u8>),
    /// It has ended, or closed its output, and all that it wrote was read.
    End,
}

impl Link {
    /// With a process whose output was read up to `offset`.
    pub(crate) fn new(
        agent: &str,
        process: ProcessHandle,
        offset: u64,
        (most, unread): (usize, usize),
    ) -> Self {
        let output = process.stdout().follow_held(offset);
        Self {
            agent: agent.to_owned(),
            output,
            lines: Lines::new(offset, most),
            caller: Caller {
                writer: Writer::new(process.clone(), unread),
                calls: Calls::default(),
            },
            process,
            exit: None,
        }
    }

    /// What comes next.
    ///
    /// Cancel safe.
    pub(crate) async fn hear(&mut self) -> Heard {
        loop {
            if self.exit.is_some() && self.output.offset() >= self.output.output().progress().len {
                return Heard::End;
            }
            tokio::select! {
                biased;
                chunk = self.output.next(CHUNK) => match chunk {
                    Ok(Some(chunk)) => return Heard::Bytes(chunk.offset, chunk.bytes),
                    Ok(None) | Err(_) => return Heard::End,
                },
                exit = self.process.wait(), if self.exit.is_none() => self.exit = Some(exit),
            }
        }
    }

    /// What was read up to here is in the ledger.
    pub(crate) fn settle(&self) {
        self.output.settle(self.lines.done());
    }

    /// The error that it ended.
    pub(crate) fn ended(&self) -> Error {
        Error::AgentEnded {
            agent: self.agent.clone(),
            exit: self.exit.flatten(),
            stderr: last_words(&self.process),
        }
    }
}

/// The last that a process wrote to its standard error.
pub(crate) fn last_words(process: &ProcessHandle) -> String {
    let Some(stderr) = process.stderr() else {
        return String::new();
    };
    let from = stderr.last_lines(8, LAST_WORDS).unwrap_or(0);
    let text = stderr.read_text_at(from, LAST_WORDS as usize);
    text.map(|text| text.text.trim_end().to_owned())
        .unwrap_or_default()
}

/// Ends an agent: its input is closed, which the polite take as a reason to go, then it is ended with what is under it.
pub(crate) async fn end(process: &ProcessHandle, grace: Option<Duration>, by: By) -> Result<()> {
    if process.status().state == ResourceState::Ended {
        return Ok(());
    }
    let _ = process.close_input().await;
    process.end(grace, by).await?;
    Ok(())
}
