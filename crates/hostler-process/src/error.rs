//! What can go wrong.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hostler_keeper::connection::ConnectionError;
use hostler_keeper::message::Failure;

/// Why something was not done. Cheap to clone, so that all who wait for one thing get the same answer.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process could not be started; nothing of it is left. A program that cannot be executed fails with
    /// [`Step::Exec`](crate::Step::Exec) and the kernel's reason.
    #[error("cannot start `{program}`: {failure}")]
    Spawn {
        /// What was to be run.
        program: String,
        /// The step that failed, and why.
        failure: Failure,
    },
    /// A tree could not be made; nothing of it is left.
    #[error("cannot make a keeper: {0}")]
    Keeper(Failure),
    /// A keeper refused something.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The zygote is gone. Trees that were made live on; no new one can be made with it.
    #[error("the zygote is gone: trees that exist live on, but no new one can be made")]
    ZygoteGone,
    /// The keeper is gone, and what was under it with it.
    #[error("the tree's keeper is gone")]
    KeeperGone,
    /// The tree has ended, or is about to.
    #[error("the tree has ended")]
    Ended,
    /// The tree was left to the next host.
    #[error("the tree was left to the next host")]
    HungUp,
    /// Another host has adopted the tree, and has it now. Nothing of it was ended.
    #[error("another host has taken the tree over")]
    Superseded,
    /// No keeper is there to be adopted: there is no socket at the rendezvous, or nobody listens on it. Its tree has ended,
    /// or it was killed; [`crate::contain::end_group`] makes sure.
    #[error("no keeper is there at `{0}`")]
    NoKeeper(PathBuf),
    /// The keeper to be adopted did not answer in time. Nothing was changed.
    #[error("the keeper does not answer")]
    Silent,
    /// The socket at the rendezvous is another user's. Nothing was sent to it.
    #[error("the keeper belongs to user {uid}")]
    Foreign {
        /// Whose it is.
        uid: u32,
    },
    /// The keeper to be adopted speaks none of the protocol versions that this side does. Nothing was changed.
    #[error("the keeper speaks protocol versions {oldest} to {newest} only")]
    Incompatible {
        /// Its oldest version.
        oldest: u8,
        /// Its newest.
        newest: u8,
    },
    /// The keeper is gone, and the zygote, which would have ended what it left behind, has not said (within a bound) that
    /// nothing is left. Nobody is told that a tree is gone when it may not be.
    #[error("the tree's keeper is gone, and nobody could count what it left behind")]
    Unproven,
    /// A string for the kernel holds a NUL byte.
    #[error("`{0}` holds a NUL byte")]
    Nul(String),
    /// The kernel refused.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Its reason.
        error: Arc<io::Error>,
    },
    /// The other side does not speak the protocol.
    #[error("unexpected answer: {0}")]
    Protocol(Arc<ConnectionError>),
}

impl Error {
    /// The kernel refused `doing`.
    pub(crate) fn io(doing: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Io {
            doing,
            error: Arc::new(error.into()),
        }
    }

    /// The failed step and the kernel's reason, where it was one.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Self::Spawn { failure, .. } | Self::Keeper(failure) | Self::Failed(failure) => {
                Some(*failure)
            }
            _ => None,
        }
    }
}

impl From<ConnectionError> for Error {
    fn from(error: ConnectionError) -> Self {
        Self::Protocol(Arc::new(error))
    }
}

/// What most of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what the kernel refused.
pub(crate) trait Doing<T> {
    /// The error, as one of `doing`.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|error| Error::io(doing, error))
    }
}
