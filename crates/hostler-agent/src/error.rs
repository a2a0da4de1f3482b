//! What can go wrong. Each is one clear line.

use std::fmt;
use std::sync::Arc;

use hostler_ledger::{ConversationId, ReadError, WriteError};
use hostler_session::ExitInfo;

use crate::rpc::RpcError;

/// What most of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// A step of bringing an agent up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Starting its process.
    Start,
    /// `initialize`.
    Initialize,
    /// `session/new`.
    NewSession,
    /// `session/load`.
    LoadSession,
    /// `session/resume`.
    ResumeSession,
}

impl Step {
    /// As it is called on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Initialize => "initialize",
            Self::NewSession => "session/new",
            Self::LoadSession => "session/load",
            Self::ResumeSession => "session/resume",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why something was not done. Cheap to clone.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The catalogue has no agent of this name.
    #[error("there is no agent `{0}` in the configuration or the built-in catalogue")]
    NoAgent(String),
    /// There is no such conversation.
    #[error("there is no conversation `{0}`")]
    NotFound(String),
    /// Of the session.
    #[error(transparent)]
    Session(#[from] hostler_session::Error),
    /// The ledger cannot be written.
    #[error(transparent)]
    Ledger(#[from] WriteError),
    /// The ledger cannot be read.
    #[error(transparent)]
    Read(Arc<ReadError>),
    /// The agent did not come up. It was ended with all that it had started.
    #[error("agent `{agent}` did not come up at {step}: {why}{}", last_lines(.stderr))]
    Handshake {
        /// Its name.
        agent: String,
        /// Where it stopped.
        step: Step,
        /// Why.
        why: String,
        /// The agent's own answer, where that was an error: authentication that is wanted, for one.
        rpc: Option<Box<RpcError>>,
        /// The last that it wrote to its standard error.
        stderr: String,
    },
    /// The agent ended before it answered.
    #[error("agent `{agent}` ended{}{}", how(.exit), last_lines(.stderr))]
    AgentEnded {
        /// Its name.
        agent: String,
        /// How, where that is known.
        exit: Option<ExitInfo>,
        /// The last that it wrote to its standard error.
        stderr: String,
    },
    /// As much waits as may.
    #[error("{what}: at most {limit}")]
    Busy {
        /// What there is too much of.
        what: &'static str,
        /// How much there may be.
        limit: usize,
    },
    /// The conversation has ended, or its host is handing it over.
    #[error("conversation {0} is closed")]
    Closed(ConversationId),
    /// The agent answered with an error.
    #[error(transparent)]
    Rpc(RpcError),
    /// It is not allowed.
    #[error("{0}")]
    Denied(String),
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(Arc::new(error))
    }
}

impl From<RpcError> for Error {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

fn how(exit: &Option<ExitInfo>) -> String {
    match exit {
        Some(ExitInfo {
            signal: Some(signal),
            ..
        }) => format!(" by signal {signal}"),
        Some(ExitInfo {
            code: Some(code), ..
        }) => format!(" with exit code {code}"),
        _ => String::new(),
    }
}

fn last_lines(stderr: &str) -> String {
    match stderr.trim() {
        "" => String::new(),
        text => format!("; its standard error ends: {text}"),
    }
}
