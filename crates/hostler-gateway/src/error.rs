//! What a request can fail with, and the one place where that becomes a status.

use std::path::Path;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hostler_job::{Error as JobError, Problem};
use hostler_ledger::{ReadError, Refusal, WriteError};
use hostler_process::{Error as ProcessError, Step};
use hostler_session::Error as SessionError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a flow is called that stands in no file.
const FLOW: &str = "flow";
/// How much of what is wrong with a flow is told in the message.
const TOLD: usize = 3;

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
    /// All that is wrong with the flow of a job, where that is the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<FlowProblem>,
}

/// One thing that is wrong with a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowProblem {
    /// In which file; `flow` for one that was given as text.
    pub file: String,
    /// In which line, from 1.
    pub line: usize,
    /// In which column, from 1, in characters.
    pub column: usize,
    /// What kind of a problem it is, in one word.
    pub code: String,
    /// In which field, as `steps.code.retry.times`; empty for the whole file.
    pub field: String,
    /// What is wrong. One line.
    pub message: String,
}

impl std::fmt::Display for FlowProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl FlowProblem {
    fn new(file: &Path, problem: &Problem) -> Self {
        let code = serde_json::to_value(problem.code);
        let code = code.ok().and_then(|code| code.as_str().map(str::to_owned));
        Self {
            file: file.display().to_string(),
            line: problem.place.line,
            column: problem.place.column,
            code: code.unwrap_or_default(),
            field: problem.field.clone(),
            message: problem.message.clone(),
        }
    }
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
        Self {
            code,
            message,
            problems: Vec::new(),
        }
    }

    /// Of a flow with which this is wrong.
    fn of_flow(problems: Vec<FlowProblem>) -> Self {
        let told: Vec<String> = problems
            .iter()
            .take(TOLD)
            .map(ToString::to_string)
            .collect();
        let mut message = told.join("; ");
        if problems.len() > TOLD {
            message.push_str(&format!("; and {} more", problems.len() - TOLD));
        }
        let bad = Self::bad(message);
        Self { problems, ..bad }
    }

    /// The same, where what is said of the flow itself is said of this file.
    pub(crate) fn in_file(self, file: &Path) -> Self {
        if self.problems.is_empty() {
            return self;
        }
        let mut problems = self.problems;
        for problem in &mut problems {
            if problem.file == FLOW {
                problem.file = file.display().to_string();
            }
        }
        Self::of_flow(problems)
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

impl From<JobError> for ApiError {
    fn from(error: JobError) -> Self {
        let code = match &error {
            JobError::Wrong(wrong) => {
                let problems = wrong
                    .iter()
                    .map(|wrong| FlowProblem::new(&wrong.file, &wrong.problem));
                return Self::of_flow(problems.collect());
            }
            JobError::Inputs(problems) => {
                let problems = problems
                    .iter()
                    .map(|problem| FlowProblem::new(Path::new(FLOW), problem));
                return Self::of_flow(problems.collect());
            }
            JobError::NoJob(_) | JobError::NoSchedule(_) => ErrorCode::NotFound,
            JobError::Invalid(_) => ErrorCode::BadRequest,
            JobError::Conflict(_) | JobError::Ended(_) => ErrorCode::Conflict,
            JobError::Stopping => ErrorCode::Unavailable,
            JobError::Ledger(error) => of_write(error),
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
            | Refusal::NoSchedule(_)
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
