//! Why a client command does not do what it was told.

use std::io;

/// Each is one line to the user, and an exit status.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nobody listens at the socket.
    #[error("no host is running: nothing answers at {0} (`hostler serve` starts one)")]
    NoHost(String),
    /// The socket is there, but not for this user, or broken.
    #[error("cannot reach the host at {socket}: {error}")]
    Unreachable {
        /// Its path.
        socket: String,
        /// The kernel's reason.
        error: io::Error,
    },
    /// The host said no.
    #[error("{message}")]
    Refused {
        /// The word for the reason.
        code: String,
        /// The host's line.
        message: String,
    },
    /// The connection ended before the answer was there.
    #[error("the host went away")]
    Gone,
    /// It said so.
    #[error("the host has stopped")]
    Stopped,
    /// Not what the API says.
    #[error("the host's answer cannot be understood: {0}")]
    Nonsense(String),
    /// A name that fits nothing, or too much.
    #[error("{0}")]
    Unclear(String),
    /// A command line that makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The kernel said no.
    #[error("cannot {doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The kernel's reason.
        error: io::Error,
    },
    /// Nobody reads the output any more: not said, but died of.
    #[error("nobody reads the output")]
    BrokenPipe,
    /// A signal that ends this process as it would any other.
    #[error("signal {0}")]
    Signal(i32),
}

impl Failure {
    /// What cannot be done because of the kernel.
    pub(crate) fn io(doing: &'static str, error: impl Into<io::Error>) -> Self {
        Self::Io {
            doing,
            error: error.into(),
        }
    }

    /// The exit status that says so: a shell's, where it was a program that could not be run.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Refused { code, .. } if code == "no_program" => 127,
            Self::Refused { code, .. } if code == "not_executable" => 126,
            _ => 1,
        }
    }

    /// Whether there is no host that could be asked for anything else.
    pub(crate) fn is_hopeless(&self) -> bool {
        matches!(
            self,
            Self::NoHost(_) | Self::Unreachable { .. } | Self::Gone | Self::Stopped
        )
    }

    /// Whether the host knows nothing of that name.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "not_found")
    }
}

/// What every client command comes to: an exit status, or why not.
pub(crate) type Result<T> = std::result::Result<T, Failure>;
