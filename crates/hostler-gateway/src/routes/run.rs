//! Running a command to its end.

use std::time::Instant;

use axum::Json as Answer;
use axum::extract::State;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use hostler_session::{Mode, ProcessHandle, Session};

use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Json, Path};
use crate::gateway::Gateway;
use crate::wire::{Encoding, ExecRequest, Exit, RunAnswer, RunRequest};
use crate::ws::tap::Tap;

/// How much of each stream is given.
const KEPT: usize = 1 << 20;
/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// Run a command and wait for its end. It is ended when whoever asked goes away.
#[utoipa::path(post, path = "/v1/sessions/{session}/run", tag = "processes",
    params(("session" = String, Path, description = "Id or name")), request_body = RunRequest, responses((status = 200, body = RunAnswer)))]
pub(crate) async fn run(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(request): Json<RunRequest>,
) -> Result<Answer<RunAnswer>, ApiError> {
    gateway.must_serve()?;
    let session = gateway.sessions().get(&name)?;
    let input =
        match (request.stdin, request.stdin_base64) {
            (None, None) => None,
            (Some(text), None) => Some(text.into_bytes()),
            (None, Some(coded)) => Some(BASE64_STANDARD.decode(coded).map_err(|error| {
                ApiError::bad(format!("`stdin_base64` is not base64: {error}"))
            })?),
            (Some(_), Some(_)) => {
                return Err(ApiError::bad(
                    "`stdin` and `stdin_base64` do not go together",
                ));
            }
        };
    let exec = ExecRequest {
        argv: request.argv,
        cwd: request.cwd,
        env: request.env,
        name: request.name,
        tty: request.tty,
        stdin: input.is_some(),
        timeout: request.timeout,
        ..ExecRequest::default()
    };
    let limit = crate::wire::timeout(exec.timeout)?;
    let options = exec.options(Mode::Foreground)?;
    let began = Instant::now();
    let mut ran = tokio::select! {
        ran = finish(&session, options, by, input) => ran?,
        error = gateway.over() => return Err(error),
    };
    let over = limit.is_some_and(|limit| began.elapsed() >= limit);
    ran.timed_out = over && ran.exit.code.is_none_or(|code| code != 0);
    Ok(Answer(ran.answer(request.encoding)))
}

/// What it came to, before it is put into words.
struct Ran {
    id: String,
    exit: Exit,
    stdout: (Vec<u8>, bool),
    stderr: Option<(Vec<u8>, bool)>,
    timed_out: bool,
}

async fn finish(
    session: &Session,
    options: hostler_session::ExecOptions,
    by: hostler_session::By,
    input: Option<Vec<u8>>,
) -> Result<Ran, ApiError> {
    let running = session.run(options, by.clone()).await?;
    let process = running.process;
    let guard = process.end_on_drop(by);
    let stdout = Tap::new(running.stdout, &process);
    let stderr = running.stderr.map(|stderr| Tap::new(stderr, &process));
    let fed = feed(&process, input);
    let (stdout, stderr, exit) = {
        let read = async {
            let stderr = async {
                match stderr {
                    Some(stderr) => collect(stderr).await.map(Some),
                    None => Ok(None),
                }
            };
            tokio::try_join!(collect(stdout), stderr)
        };
        // Input that nobody reads ends with the process.
        let read = async {
            tokio::select! {
                biased;
                read = read => read,
                never = fed => match never {},
            }
        };
        let (stdout, stderr) = read.await.map_err(|error| {
            ApiError::internal(format!(
                "cannot read the output of {}: {error}",
                process.id()
            ))
        })?;
        (stdout, stderr, process.wait().await)
    };
    drop(guard.release());
    let exit = exit.ok_or_else(|| {
        ApiError::new(
            ErrorCode::Conflict,
            format!("{} was ended before it had started", process.id()),
        )
    })?;
    Ok(Ran {
        id: process.id().to_string(),
        exit: exit.into(),
        stdout,
        stderr,
        timed_out: false,
    })
}

/// Gives the process its input, and then waits for ever. A process that does not read it is nobody's failure.
async fn feed(process: &ProcessHandle, input: Option<Vec<u8>>) -> std::convert::Infallible {
    if let Some(input) = input {
        let _ = process.write(&input).await;
        let _ = process.close_input().await;
    }
    std::future::pending().await
}

/// Reads to the end; what is more than is given is read and let go of. Says whether there was more.
async fn collect(mut tap: Tap) -> std::io::Result<(Vec<u8>, bool)> {
    let (mut bytes, mut more) = (Vec::new(), false);
    while let Some(chunk) = tap.next(CHUNK).await? {
        let room = KEPT - bytes.len();
        more |= chunk.skipped > 0 || chunk.bytes.len() > room;
        bytes.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
    }
    Ok((bytes, more))
}

impl Ran {
    fn answer(self, encoding: Encoding) -> RunAnswer {
        let truncated = self.stdout.1 || self.stderr.as_ref().is_some_and(|stderr| stderr.1);
        let stderr = self.stderr.map(|stderr| stderr.0);
        let mut answer = RunAnswer {
            id: self.id,
            exit: self.exit,
            stdout: None,
            stderr: None,
            stdout_base64: None,
            stderr_base64: None,
            truncated,
            timed_out: self.timed_out,
        };
        match encoding {
            Encoding::Text => {
                answer.stdout = Some(text(self.stdout.0));
                answer.stderr = stderr.map(text);
            }
            Encoding::Base64 => {
                answer.stdout_base64 = Some(BASE64_STANDARD.encode(self.stdout.0));
                answer.stderr_base64 = stderr.map(|stderr| BASE64_STANDARD.encode(stderr));
            }
        }
        answer
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
