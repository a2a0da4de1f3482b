//! What is asked for when a session is opened or a process started in it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hostler_ledger::SessionId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::{Policy, seconds, seconds_or_none};

/// A session to open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionOptions {
    /// A name, by which it can be found as well as by its id; free again once it has closed. Letters, digits, `-`, `_` and
    /// `.`, up to 64.
    pub name: Option<String>,
    /// The session that it belongs to, and closes before.
    pub parent: Option<SessionId>,
    /// Where its processes start, unless they say otherwise. Without: `/`.
    pub cwd: Option<PathBuf>,
    /// Variables for all its processes, besides those of the host's options.
    pub env: BTreeMap<String, String>,
    /// What it is allowed, and when it ends without being asked.
    pub policy: Policy,
    /// Whatever else its client wants to find in listings. Kept as it is.
    pub labels: Value,
}

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

impl Default for TerminalSize {
    fn default() -> Self {
        Self { rows: 24, cols: 80 }
    }
}

/// Whether somebody waits for a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Somebody does: the session is busy while it runs. Standard output and standard error are apart. Its output waits for
    /// its first reader ([`crate::Session::run`]), who misses nothing.
    #[default]
    Foreground,
    /// Nobody does: it is counted, and its standard output and error share one pipe, in their natural order.
    Background,
    /// It serves whoever speaks with it over its standard streams, which are apart: an agent. It is neither foreground nor
    /// background: not counted as either, and holds no automatic end off by running. Its standard output is held for its
    /// one reader ([`crate::Output::follow_held`]), over the death of the host too.
    Service,
}

/// How much output is kept. Between head and tail there may be a gap; offsets count all bytes ever written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeepOutput {
    /// Bytes kept from the start.
    pub head: u64,
    /// Bytes kept, at the least, up to the end.
    pub tail: u64,
    /// Keep all there is between as well.
    pub whole: bool,
}

impl Default for KeepOutput {
    fn default() -> Self {
        Self {
            head: 256 << 10,
            tail: 1 << 20,
            whole: false,
        }
    }
}

/// Whether a background process that has ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "when")]
pub enum Restart {
    /// It is not.
    #[default]
    Never,
    /// It is, when it ended by a signal or with another code than 0, and nobody asked for its end.
    OnFailure {
        /// The pause before the first restart; each further one is twice as long, up to `longest`. One that ran for ten
        /// times the longest pause starts over with the first.
        #[serde(with = "seconds", rename = "pause_seconds")]
        pause: Duration,
        /// The longest pause.
        #[serde(with = "seconds", rename = "longest_seconds")]
        longest: Duration,
        /// How often at the most.
        most: u32,
    },
}

/// Lines of the output to watch for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// What to look for.
    pub pattern: String,
    /// Whether that is a regular expression; else it is looked for as it is.
    #[serde(default)]
    pub regex: bool,
    /// How many matches a minute are told at the most; the others are counted. 0 for 10.
    #[serde(default)]
    pub per_minute: u32,
}

/// A process to start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecOptions {
    /// The program and its arguments. A program without a slash is looked up in the `PATH` of its environment.
    pub argv: Vec<String>,
    /// A name for listings.
    pub name: Option<String>,
    /// Whether somebody waits for it. A terminal counts as background.
    pub mode: Mode,
    /// Where it starts. Without: where the session's processes do.
    pub cwd: Option<PathBuf>,
    /// Variables, over those of the session.
    pub env: BTreeMap<String, String>,
    /// Whether its standard input is open to be written ([`crate::ProcessHandle::write`]); else it is /dev/null.
    pub stdin: bool,
    /// Runs it on a terminal of this size.
    pub terminal: Option<TerminalSize>,
    /// How much of its output is kept.
    pub output: KeepOutput,
    /// Whether it is started again. Not for foreground processes.
    pub restart: Restart,
    /// Lines to watch for. Each match is an event ([`crate::SessionEvent::Matched`]).
    pub patterns: Vec<Pattern>,
    /// End it after so long.
    #[serde(with = "seconds_or_none", rename = "timeout_seconds")]
    pub timeout: Option<Duration>,
}

impl ExecOptions {
    /// This command, with nothing else asked for.
    pub fn new<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// In the background.
    pub fn background(mut self) -> Self {
        self.mode = Mode::Background;
        self
    }

    /// As a service, with its standard input open.
    pub fn service(mut self) -> Self {
        self.mode = Mode::Service;
        self.stdin = true;
        self
    }

    /// With its standard input open.
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// On a terminal.
    pub fn on_terminal(mut self, size: TerminalSize) -> Self {
        self.terminal = Some(size);
        self
    }

    /// Whether it is a service, such as an agent.
    pub fn is_service(&self) -> bool {
        self.mode == Mode::Service && self.terminal.is_none()
    }

    /// What it is, in one word.
    pub(crate) fn kind(&self) -> &'static str {
        match self.mode {
            _ if self.terminal.is_some() => "terminal",
            Mode::Service => "agent",
            Mode::Foreground | Mode::Background => "process",
        }
    }

    /// Whether its standard error is apart from its standard output.
    pub(crate) fn is_apart(&self) -> bool {
        self.mode != Mode::Background && self.terminal.is_none()
    }

    /// Whether it counts as a foreground process.
    pub fn is_foreground(&self) -> bool {
        self.mode == Mode::Foreground && self.terminal.is_none()
    }
}
