//! What the tools are asked: their arguments, with the descriptions that a model reads.

use std::collections::BTreeMap;

use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;

/// A process to start.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    /// The command line, run by `sh -c`. Do not put `&` or `nohup` around it: it runs in the background as it is.
    pub(super) command: String,
    /// The directory in which it runs; without: the one in which the agent runs.
    pub(super) cwd: Option<String>,
    /// Environment variables, over those of the session.
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    /// A short name by which it can be called as well as by its id.
    pub(super) name: Option<String>,
    /// Regular expressions; lines of the output that match are shown by process_poll and process_list.
    #[serde(default)]
    pub(super) patterns: Vec<String>,
    /// Whether its standard input is to be written to with process_write; else it reads nothing.
    #[serde(default)]
    pub(super) stdin: bool,
}

/// One process.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// Its id or name.
    pub(super) process: String,
}

/// A part of a log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Log {
    /// Its id or name.
    pub(super) process: String,
    /// Read from this byte on (an earlier answer's `next`). Without: the end of the log.
    pub(super) offset: Option<u64>,
    /// How many of the last lines to give, where there is no offset (100).
    pub(super) tail: Option<usize>,
    /// How many bytes to give at the most (16384; at most 262144).
    pub(super) limit: Option<usize>,
}

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Until {
    /// Its end.
    #[default]
    Exit,
    /// That it listens on a TCP port, as a server does once it is up.
    Port,
    /// A line of its output that matches `pattern`.
    Output,
}

/// A wait.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wait {
    /// Its id or name.
    pub(super) process: String,
    /// What for: `exit` (the default), `port` (it listens) or `output` (a line matches `pattern`).
    #[serde(default)]
    pub(super) until: Until,
    /// With `output`: a regular expression; what it has written before counts.
    pub(super) pattern: Option<String>,
    /// For how many seconds at the most (30; at most 600).
    pub(super) timeout: Option<f64>,
}

/// Input.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Write {
    /// Its id or name.
    pub(super) process: String,
    /// What to write, as it is: a line needs its newline.
    #[serde(default)]
    pub(super) text: String,
    /// Close its standard input after that.
    #[serde(default)]
    pub(super) eof: bool,
}

/// An end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Kill {
    /// Its id or name.
    pub(super) process: String,
    /// The first signal (`TERM`); `INT` for what cleans up on Ctrl-C, `KILL` for at once. What is left after the grace is killed.
    pub(super) signal: Option<String>,
    /// Seconds between the first signal and SIGKILL (without: the session's; at most 60).
    pub(super) grace: Option<f64>,
}

/// The end of all.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StopAll {
    /// Seconds between SIGTERM and SIGKILL (without: the session's; at most 60).
    pub(super) grace: Option<f64>,
}

/// Work to hand on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Delegate {
    /// The agent that is to do it, such as `claude` or `codex`; without: the host's default one.
    pub(super) agent: Option<String>,
    /// What it is to do. It knows nothing of this conversation.
    pub(super) prompt: String,
    /// The directory in which it works; without: the one in which this agent runs.
    pub(super) cwd: Option<String>,
    /// For how many seconds at the most (600; at most 7200).
    pub(super) timeout: Option<f64>,
}

/// A listing.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct List {
    /// Also what others have started in this session.
    pub(super) all: bool,
}

/// What to keep.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keep {
    /// Its id or name.
    pub(super) process: String,
    /// The name of the session that it is handed to; made where there is none of this name.
    pub(super) name: String,
}
