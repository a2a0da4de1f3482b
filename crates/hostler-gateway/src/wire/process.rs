//! Processes and terminals.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hostler_session::{ExecOptions, Mode, ProcessHandle, ResourceState, TerminalSize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{By, PolicyChange, duration};
use crate::error::ApiError;

/// How large a terminal is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub cols: u16,
}

impl From<Size> for TerminalSize {
    fn from(size: Size) -> Self {
        Self {
            rows: size.rows,
            cols: size.cols,
        }
    }
}

impl From<TerminalSize> for Size {
    fn from(size: TerminalSize) -> Self {
        Self {
            rows: size.rows,
            cols: size.cols,
        }
    }
}

/// How much output is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct KeepOutput {
    /// Bytes kept from the start.
    pub head: Option<u64>,
    /// Bytes kept, at the least, up to the end.
    pub tail: Option<u64>,
    /// Keep all there is between as well.
    pub whole: bool,
}

/// Whether a process that has ended is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "when", rename_all = "snake_case", deny_unknown_fields)]
pub enum Restart {
    /// It is not.
    #[default]
    Never,
    /// It is, when it failed and nobody asked for its end.
    OnFailure {
        /// Seconds before the first restart (1); each further one waits twice as long, up to `longest`.
        pause: Option<f64>,
        /// The longest pause in seconds (60).
        longest: Option<f64>,
        /// How often at the most (10).
        most: Option<u32>,
    },
}

/// Lines of the output to watch for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// What to look for.
    pub pattern: String,
    /// Whether that is a regular expression.
    #[serde(default)]
    pub regex: bool,
    /// How many matches a minute are told at the most. 0 for 10.
    #[serde(default)]
    pub per_minute: u32,
}

/// A process to start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments. A program without a slash is looked up in the `PATH` of its environment.
    pub argv: Vec<String>,
    /// Where it starts. Without: where the session's processes do.
    #[schema(value_type = Option<String>)]
    pub cwd: Option<PathBuf>,
    /// Variables, over those of the session.
    pub env: BTreeMap<String, String>,
    /// A name for listings.
    pub name: Option<String>,
    /// Run it on a terminal of this size.
    pub tty: Option<Size>,
    /// Whether its standard input is open to be written; else it is /dev/null.
    pub stdin: bool,
    /// Whether it is started again.
    pub restart: Restart,
    /// Lines to watch for; each match is an event.
    pub patterns: Vec<Pattern>,
    /// How much of its output is kept.
    pub keep_output: KeepOutput,
    /// End it after so many seconds.
    pub timeout: Option<f64>,
    /// Hand it to a session of its own, of this name, which outlives this one.
    pub keep: Option<String>,
}

impl ExecRequest {
    /// As a session wants it.
    pub(crate) fn options(self, mode: Mode) -> Result<ExecOptions, ApiError> {
        if self.argv.is_empty() {
            return Err(ApiError::bad("`argv` is empty: there is no command to run"));
        }
        let mut output = hostler_session::KeepOutput::default();
        output.head = self.keep_output.head.unwrap_or(output.head);
        output.tail = self.keep_output.tail.unwrap_or(output.tail);
        output.whole = self.keep_output.whole;
        let restart = match self.restart {
            Restart::Never => hostler_session::Restart::Never,
            Restart::OnFailure {
                pause,
                longest,
                most,
            } => hostler_session::Restart::OnFailure {
                pause: duration("restart.pause", pause.unwrap_or(1.0))?,
                longest: duration("restart.longest", longest.unwrap_or(60.0))?,
                most: most.unwrap_or(10),
            },
        };
        let patterns = self
            .patterns
            .into_iter()
            .map(|pattern| hostler_session::Pattern {
                pattern: pattern.pattern,
                regex: pattern.regex,
                per_minute: pattern.per_minute,
            });
        Ok(ExecOptions {
            argv: self.argv,
            name: self.name,
            mode,
            cwd: self.cwd,
            env: self.env,
            stdin: self.stdin,
            terminal: self.tty.map(TerminalSize::from),
            output,
            restart,
            patterns: patterns.collect(),
            timeout: timeout(self.timeout)?,
        })
    }
}

/// A time limit; 0 is none.
fn timeout(seconds: Option<f64>) -> Result<Option<Duration>, ApiError> {
    let time = seconds
        .map(|seconds| duration("timeout", seconds))
        .transpose()?;
    Ok(time.filter(|time| !time.is_zero()))
}

/// In what form output is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text; what is not UTF-8 is replaced.
    #[default]
    Text,
    /// As it is, in base64.
    Base64,
}

/// A command to run to its end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunRequest {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Where it starts. Without: where the session's processes do.
    #[schema(value_type = Option<String>)]
    pub cwd: Option<PathBuf>,
    /// Variables, over those of the session.
    pub env: BTreeMap<String, String>,
    /// A name for listings.
    pub name: Option<String>,
    /// Run it on a terminal of this size.
    pub tty: Option<Size>,
    /// What it reads from its standard input.
    pub stdin: Option<String>,
    /// The same, in base64.
    pub stdin_base64: Option<String>,
    /// End it after so many seconds.
    pub timeout: Option<f64>,
    /// In what form its output is given.
    pub encoding: Encoding,
}

/// What running a command came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunAnswer {
    /// The process it was.
    pub id: String,
    /// How it ended.
    pub exit: Exit,
    /// Its standard output, or what it wrote to its terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// Its standard error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr: Option<String>,
    /// The same in base64, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_base64: Option<String>,
    /// The same in base64, where that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_base64: Option<String>,
    /// Whether there was more output than is given here.
    pub truncated: bool,
    /// Whether it was ended for its time.
    pub timed_out: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Exit {
    /// Its exit code, if it ended by one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
    /// The number of the signal that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What a shell would show: the code, or 128 and the signal.
    pub status: u8,
    /// Set where nobody could tell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
    /// CPU time that it used, with what it waited for, in milliseconds.
    pub cpu_ms: u64,
    /// The largest resident set of one of its processes, in bytes.
    pub peak_rss: u64,
}

impl From<hostler_session::ExitInfo> for Exit {
    fn from(exit: hostler_session::ExitInfo) -> Self {
        Self {
            code: exit.code,
            signal: exit.signal,
            status: exit.shell_code(),
            lost: exit.lost,
            cpu_ms: exit.cpu_micros / 1000,
            peak_rss: exit.peak_resident,
        }
    }
}

/// How a process stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It runs.
    Running,
    /// It failed and is started again after a pause.
    Restarting,
    /// It has ended; its output is still there.
    Exited,
}

/// A process or terminal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its id.
    pub id: String,
    /// The session that owns it.
    pub session: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its name.
    pub name: Option<String>,
    /// Its pid, while it runs and after: a number for people.
    pub pid: Option<u32>,
    /// When it started, in clock ticks since boot.
    pub start_time: Option<u64>,
    /// How it stands.
    pub state: ProcessState,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Whether it is on a terminal.
    pub tty: bool,
    /// Its terminal's size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// When it started (the last time): Unix time in milliseconds.
    pub started: Option<u64>,
    /// How often it was started.
    pub starts: u32,
    /// How many bytes it has written (standard output, or all where that is one).
    pub output_bytes: u64,
    /// How many bytes it has written to its standard error, where that is apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stderr_bytes: Option<u64>,
    /// Whether somebody waits for it.
    pub foreground: bool,
    /// Who asked for it, and why.
    pub by: By,
}

impl From<&ProcessHandle> for Process {
    fn from(process: &ProcessHandle) -> Self {
        let status = process.status();
        let options = process.options();
        Self {
            id: process.id().to_string(),
            session: process.session().to_string(),
            argv: options.argv.clone(),
            name: options.name.clone(),
            pid: status.pid,
            start_time: status.start_time,
            state: match status.state {
                ResourceState::Ended => ProcessState::Exited,
                ResourceState::Restarting => ProcessState::Restarting,
                _ => ProcessState::Running,
            },
            exit: status.exit.map(Exit::from),
            tty: process.is_terminal(),
            size: process.size().ok().map(Size::from),
            started: status.start_time.map(unix_time),
            starts: status.starts,
            output_bytes: process.stdout().progress().len,
            stderr_bytes: process.stderr().map(|stderr| stderr.progress().len),
            foreground: options.is_foreground(),
            by: process.by().clone().into(),
        }
    }
}

/// Clock ticks since boot as Unix time in milliseconds.
fn unix_time(ticks: u64) -> u64 {
    use rustix::time::{ClockId, clock_gettime};
    let millis = |clock| {
        let now = clock_gettime(clock);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    };
    let boot = millis(ClockId::Realtime) - millis(ClockId::Boottime);
    let since = ticks * 1000 / rustix::param::clock_ticks_per_second();
    boot.max(0).cast_unsigned() + since
}

/// A signal: its name, with or without `SIG`, or its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SignalName {
    /// Its name.
    Name(String),
    /// Its number.
    Number(i32),
}

impl SignalName {
    /// The signal.
    pub(crate) fn signal(&self) -> Result<hostler_session::Signal, ApiError> {
        use hostler_session::Signal;
        const NAMES: [(&str, Signal); 29] = [
            ("HUP", Signal::HUP),
            ("INT", Signal::INT),
            ("QUIT", Signal::QUIT),
            ("ILL", Signal::ILL),
            ("TRAP", Signal::TRAP),
            ("ABRT", Signal::ABORT),
            ("BUS", Signal::BUS),
            ("FPE", Signal::FPE),
            ("KILL", Signal::KILL),
            ("USR1", Signal::USR1),
            ("SEGV", Signal::SEGV),
            ("USR2", Signal::USR2),
            ("PIPE", Signal::PIPE),
            ("ALRM", Signal::ALARM),
            ("TERM", Signal::TERM),
            ("CHLD", Signal::CHILD),
            ("CONT", Signal::CONT),
            ("STOP", Signal::STOP),
            ("TSTP", Signal::TSTP),
            ("TTIN", Signal::TTIN),
            ("TTOU", Signal::TTOU),
            ("URG", Signal::URG),
            ("XCPU", Signal::XCPU),
            ("XFSZ", Signal::XFSZ),
            ("VTALRM", Signal::VTALARM),
            ("PROF", Signal::PROF),
            ("WINCH", Signal::WINCH),
            ("IO", Signal::IO),
            ("SYS", Signal::SYS),
        ];
        let found = match self {
            Self::Name(name) => {
                let upper = name.to_ascii_uppercase();
                let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
                NAMES.iter().find(|(name, _)| *name == bare)
            }
            Self::Number(number) => NAMES.iter().find(|(_, signal)| signal.as_raw() == *number),
        };
        found.map(|(_, signal)| *signal).ok_or_else(|| {
            let shown = match self {
                Self::Name(name) => format!("`{}`", name.chars().take(40).collect::<String>()),
                Self::Number(number) => number.to_string(),
            };
            ApiError::bad(format!("{shown} is not a signal: `TERM`, `KILL`, 15, …"))
        })
    }
}

/// A signal to send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignalRequest {
    /// Which.
    pub signal: SignalName,
    /// To the process group that it leads, rather than to it alone.
    #[serde(default)]
    pub group: bool,
    /// To this one of its session's living processes instead; `start_time` proves which is meant.
    pub pid: Option<u32>,
    /// When that one started, as the census says.
    pub start_time: Option<u64>,
}

/// Where to hand a process.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeepRequest {
    /// The session that shall have it, which is made if there is none of this name.
    pub name: String,
    /// What that one's policy shall have different from the host's defaults.
    #[serde(default)]
    pub policy: PolicyChange,
}
