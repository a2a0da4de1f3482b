//! Why a command does not run, and the status that says so.

use std::io;

use hostler_keeper::connection::ConnectionError;
use hostler_keeper::message::{Failure, Step};

use crate::options::Options;

/// Why the command does not run.
pub(crate) struct Refusal {
    pub(crate) status: u8,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(text: impl std::fmt::Display) -> Self {
        Self {
            status: 1,
            text: text.to_string(),
        }
    }
}

impl From<ConnectionError> for Refusal {
    fn from(error: ConnectionError) -> Self {
        Self::new(error)
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::new(error)
    }
}

/// Why the command could not be started, with the status that a shell would give.
pub(crate) fn refused(options: &Options, failure: Failure) -> Refusal {
    let name = options.command[0].to_string_lossy();
    let reason = io::Error::from_raw_os_error(failure.errno);
    match failure.step {
        Step::Exec => {
            let status = if reason.kind() == io::ErrorKind::NotFound {
                127
            } else {
                126
            };
            Refusal {
                status,
                text: format!("cannot execute `{name}`: {reason}"),
            }
        }
        step => Refusal {
            status: 126,
            text: format!("cannot {} for `{name}`: {reason}", step.as_str()),
        },
    }
}
