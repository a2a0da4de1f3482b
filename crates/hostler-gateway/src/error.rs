//! What a request can fail with, and the one place where that becomes a status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hostler_ledger::{ReadError, Refusal, WriteError};
use hostler_process::{Error as ProcessError, Step};
use hostler_session::Error as SessionError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of failure it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request makes no sense (400).
    BadRequest,
    /// There is no such program (400).
    NoProgram,
    /// The program is there, and cannot be executed (400).
    NotExecutable,
    /// The token is missing or wrong (401).
    Unauthorized,
    /// Whoever asks may not: another user, another site (403).
    Forbidden,
    /// There is no such thing (404).
    NotFound,
    /// The path knows other methods only (405).
    MethodNotAllowed,
    /// It did not come about in the time that was given (408).
    Timeout,
    /// It does not go with how things stand: closing, closed, ended, a name that is taken (409).
    Conflict,
    /// The body is larger than may be (413).
    TooLarge,
    /// There are as many as may be (429).
    Limit,
    /// The host failed (500).
    Internal,
    /// The agent failed: it did not come up, it ended, it answered with an error (502).
    Agent,
    /// Not now: the host is stopping, the ledger cannot be written (503).
    Unavailable,
}

impl ErrorCode {
    /// Its status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::NoProgram | Self::NotExecutable => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Limit => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Agent => StatusCode::BAD_GATEWAY,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize, ToSchema)]
#[error("{message}")]
pub struct ApiError {
    /// What kind of failure.
    pub code: ErrorCode,
    /// One clear line.
    pub message: String,
}

/// The body of an answer that tells of a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The failure.
    pub error: ApiError,
}

impl ApiError {
    /// A failure of this kind. A message of several lines becomes one.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.contains('\n') {
            let lines: Vec<&str> = message.lines().map(str::trim).collect();
            message = lines.join(" ");
        }
        Self { code, message }
    }

    pub(crate) fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Internal, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.code == ErrorCode::Internal {
            tracing::error!(message = %self.message, "a request failed");
        }
        let status = self.code.status();
        (status, axum::Json(ErrorBody { error: self })).into_response()
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        let code = match &error {
            SessionError::NoSession(_) | SessionError::NoResource(_) => ErrorCode::NotFound,
            SessionError::Invalid(_) => ErrorCode::BadRequest,
            SessionError::NameTaken { .. }
            | SessionError::Closing(_)
            | SessionError::Closed(_)
            | SessionError::Cancelled(_)
            | SessionError::Ended(_)
            | SessionError::NoInput(_)
            | SessionError::NotATerminal(_) => ErrorCode::Conflict,
            SessionError::Limit { .. } => ErrorCode::Limit,
            SessionError::Stopping => ErrorCode::Unavailable,
            SessionError::Ledger(error) => of_write(error),
            SessionError::Process(error) => of_process(error),
            SessionError::Io { error, .. } => of_io(error),
            _ => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}

fn of_write(error: &WriteError) -> ErrorCode {
    match error {
        WriteError::Full | WriteError::ReadOnly | WriteError::Gone => ErrorCode::Unavailable,
        WriteError::Refused(refusal) => match refusal {
            Refusal::NoSession(_)
            | Refusal::NoResource(_)
            | Refusal::NoJob(_)
            | Refusal::NoStepRun { .. } => ErrorCode::NotFound,
            _ => ErrorCode::Conflict,
        },
        _ => ErrorCode::Internal,
    }
}

fn of_process(error: &ProcessError) -> ErrorCode {
    use rustix::io::Errno;
    if let Some(failure) = error.failure() {
        let errno = Errno::from_raw_os_error(failure.errno);
        return match errno {
            // Out of pids, memory or descriptors: it may work later.
            Errno::AGAIN | Errno::NOMEM | Errno::NFILE | Errno::MFILE => ErrorCode::Unavailable,
            // No such process in the tree.
            Errno::SRCH => ErrorCode::NotFound,
            Errno::NOENT if failure.step == Step::Exec => ErrorCode::NoProgram,
            _ if failure.step == Step::Exec => ErrorCode::NotExecutable,
            // What was asked for cannot be run: there is no such program, or directory, or it is none.
            _ if matches!(error, ProcessError::Spawn { .. }) && failure.step != Step::Cgroup => {
                ErrorCode::BadRequest
            }
            _ => ErrorCode::Internal,
        };
    }
    match error {
        ProcessError::Nul(_) => ErrorCode::BadRequest,
        ProcessError::Ended | ProcessError::KeeperGone => ErrorCode::Conflict,
        ProcessError::HungUp | ProcessError::Superseded | ProcessError::ZygoteGone => {
            ErrorCode::Unavailable
        }
        ProcessError::Io { error, .. } => of_io(error),
        _ => ErrorCode::Internal,
    }
}

fn of_io(error: &std::io::Error) -> ErrorCode {
    use std::io::ErrorKind;
    match error.kind() {
        ErrorKind::BrokenPipe => ErrorCode::Conflict,
        ErrorKind::NotFound => ErrorCode::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => {
            ErrorCode::Unavailable
        }
        _ if matches!(
            error.raw_os_error(),
            Some(libc_emfile) if libc_emfile == rustix::io::Errno::MFILE.raw_os_error()
                || libc_emfile == rustix::io::Errno::NFILE.raw_os_error()
        ) =>
        {
            ErrorCode::Unavailable
        }
        _ => ErrorCode::Internal,
    }
}

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        let code = match error {
            ReadError::Gone => ErrorCode::Unavailable,
            _ => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}
