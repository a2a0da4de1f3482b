//! One prompt: a command, from its start to its exit.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde_json::{Value, json};

use super::wire::{Failure, Wire};
use super::{child, through};

/// A prompt under way.
pub(super) struct Turn {
    /// The request's.
    id: Value,
    pub(super) session: String,
    pub(super) cwd: PathBuf,
    pub(super) command: String,
    /// How its command is called in updates.
    call: String,
    /// Readable once there is something to hear.
    pub(super) wake: OwnedFd,
    heard: Mutex<Heard>,
    /// Whether what it said last did not end a line.
    in_line: AtomicBool,
}

#[derive(Default)]
struct Heard {
    /// How often it was told to stop.
    stops: u32,
    answers: VecDeque<(u64, Result<Value, String>)>,
    /// Requests that are answered when it has ended.
    too: Vec<Value>,
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) code: Option<u64>,
    pub(super) signal: Option<String>,
    /// Why it was not run, or nothing more is known of it.
    pub(super) failed: Option<String>,
}

impl Turn {
    pub(super) fn new(
        id: Value,
        session: String,
        cwd: PathBuf,
        command: String,
    ) -> Result<Self, Failure> {
        static CALLS: AtomicU64 = AtomicU64::new(1);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Failure::internal(format!("cannot make a descriptor: {errno}")))?;
        Ok(Self {
            id,
            call: format!("command-{}", CALLS.fetch_add(1, Ordering::Relaxed)),
            session,
            cwd,
            command,
            wake,
            heard: Mutex::default(),
            in_line: AtomicBool::new(false),
        })
    }

    pub(super) fn id(&self) -> &Value {
        &self.id
    }

    fn tell(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.heard.lock().unwrap_or_else(PoisonError::into_inner));
        // It can fail only when it is readable anyway.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Cancels it; a second time, at once.
    pub(super) fn stop(&self) {
        self.tell(|heard| heard.stops += 1);
    }

    /// Cancels it, and answers this request when it has ended.
    pub(super) fn answer_too(&self, id: Value) {
        self.tell(|heard| {
            heard.stops += 1;
            heard.too.push(id);
        });
    }

    /// Requests that wait for its end.
    pub(super) fn waiting(&self) -> Vec<Value> {
        std::mem::take(
            &mut self
                .heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .too,
        )
    }

    /// The client has answered.
    pub(super) fn hear(&self, id: u64, result: Result<Value, String>) {
        self.tell(|heard| heard.answers.push_back((id, result)));
    }

    /// How often it was told to stop.
    pub(super) fn stops(&self) -> u32 {
        self.heard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .stops
    }

    /// The next answer of the client that has come.
    pub(super) fn answer(&self) -> Option<(u64, Result<Value, String>)> {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.answers.pop_front()
    }

    /// Waits until it hears something, or one of these is readable, or it is time.
    pub(super) fn wait<'a>(&'a self, others: &mut [PollFd<'a>], until: Option<Instant>) {
        let mut all = vec![PollFd::new(&self.wake, PollFlags::IN)];
        all.extend_from_slice(others);
        let left = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                // Rounded up, so as not to wake too early and wait again.
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        });
        if poll(&mut all, left.as_ref()).is_err() {
            return;
        }
        if !all[0].revents().is_empty() {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
        others.clone_from_slice(&all[1..]);
    }

    /// Runs the command and tells of it; what the prompt is answered with.
    pub(super) fn play(self: &Arc<Self>, wire: &Wire, terminals: bool) -> Value {
        self.begun(wire);
        let ended = if terminals {
            through::run(self, wire)
        } else {
            child::run(self, wire)
        };
        let cancelled = self.stops() > 0;
        self.over(wire, &ended, cancelled);
        let reason = if cancelled { "cancelled" } else { "end_turn" };
        json!({"stopReason": reason})
    }

    fn begun(&self, wire: &Wire) {
        wire.update(
            &self.session,
            json!({
                "sessionUpdate": "tool_call",
                "toolCallId": self.call,
                "title": self.command,
                "kind": "execute",
                "status": "in_progress",
                "rawInput": {"command": self.command, "cwd": self.cwd},
            }),
        );
    }

    /// Its terminal is there: clients show it.
    pub(super) fn shown_in(&self, wire: &Wire, terminal: &str) {
        wire.update(
            &self.session,
            json!({
                "sessionUpdate": "tool_call_update",
                "toolCallId": self.call,
                "content": [{"type": "terminal", "terminalId": terminal}],
            }),
        );
    }

    /// What the command has written.
    pub(super) fn say(&self, wire: &Wire, text: &str) {
        if text.is_empty() {
            return;
        }
        self.in_line.store(!text.ends_with('\n'), Ordering::Relaxed);
        wire.update(
            &self.session,
            json!({
                "sessionUpdate": "agent_message_chunk",
                "content": {"type": "text", "text": text},
            }),
        );
    }

    fn over(&self, wire: &Wire, ended: &Ended, cancelled: bool) {
        let how = match ended {
            Ended {
                failed: Some(why), ..
            } => why.clone(),
            Ended {
                signal: Some(signal),
                ..
            } => format!("ended by {signal}"),
            Ended { code, .. } => format!("exit code {}", code.unwrap_or_default()),
        };
        let well = ended.failed.is_none() && ended.signal.is_none() && ended.code == Some(0);
        let how = if cancelled {
            format!("cancelled: {how}")
        } else {
            how
        };
        if cancelled || !well {
            let start = if self.in_line.load(Ordering::Relaxed) {
                "\n"
            } else {
                ""
            };
            self.say(wire, &format!("{start}[{how}]\n"));
        }
        wire.update(
            &self.session,
            json!({
                "sessionUpdate": "tool_call_update",
                "toolCallId": self.call,
                "status": if well && !cancelled { "completed" } else { "failed" },
                "content": [{"type": "content", "content": {"type": "text", "text": how}}],
                "rawOutput": {"exitCode": ended.code, "signal": ended.signal},
            }),
        );
    }
}
