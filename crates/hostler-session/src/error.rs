//! What can go wrong.

use hostler_ledger::{ResourceId, SessionId, WriteError};

/// Why something was not done.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No session has this id or name.
    #[error("there is no session `{0}`")]
    NoSession(String),
    /// No process or terminal has this id.
    #[error("there is no process or terminal `{0}`")]
    NoResource(String),
    /// Another session has the name.
    #[error("the name `{name}` belongs to session {holder}")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: SessionId,
    },
    /// A value that makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The session is closing; nothing new starts in it.
    #[error("session {0} is closing")]
    Closing(SessionId),
    /// The session has closed.
    #[error("session {0} has closed")]
    Closed(SessionId),
    /// The host is stopping, or being taken over; nothing new starts.
    #[error("the host is stopping")]
    Stopping,
    /// As much runs as may.
    #[error("{what}: at most {limit}")]
    Limit {
        /// What there are too many of.
        what: String,
        /// How many there may be.
        limit: u64,
    },
    /// Whoever asked is gone, or what was asked for was ended before it was there.
    #[error("{0} was ended before it had started")]
    Cancelled(ResourceId),
    /// It has ended.
    #[error("{0} has ended")]
    Ended(ResourceId),
    /// It has no standard input to write to.
    #[error("the standard input of {0} is not open")]
    NoInput(ResourceId),
    /// It is not a terminal.
    #[error("{0} is not a terminal")]
    NotATerminal(ResourceId),
    /// What comes before starting cannot be recorded, so nothing was started.
    #[error("the ledger cannot be written, so nothing was started: {0}")]
    Ledger(#[from] WriteError),
    /// The tree or the process could not be made, or is gone.
    #[error(transparent)]
    Process(#[from] hostler_process::Error),
    /// A file or a descriptor could not be made.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The kernel's reason.
        error: std::sync::Arc<std::io::Error>,
    },
}

impl Error {
    pub(crate) fn io(doing: &'static str, error: impl Into<std::io::Error>) -> Self {
        Self::Io {
            doing,
            error: std::sync::Arc::new(error.into()),
        }
    }
}

/// What most of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what the kernel refused.
pub(crate) trait Doing<T> {
    /// The error, as one of `doing`.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|error| Error::io(doing, error))
    }
}
