//! Running a command to its end.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse, Redirect, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use hostler_session::{By, Foreground, Mode, ProcessHandle};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Json, Path, Query};
use crate::gateway::{Gateway, Phase};
use crate::wire::{Encoding, ExecRequest, Exit, RunAnswer, RunRequest};
use crate::ws::tap::Tap;

/// How much of each stream is given.
const KEPT: usize = 1 << 20;
/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// Run a command and wait for its end. It is ended when whoever asked goes away. Where another host takes over meanwhile, the answer
/// is a redirect to the result, which that one gives.
#[utoipa::path(post, path = "/v1/sessions/{session}/run", tag = "processes",
    params(("session" = String, Path, description = "Id or name")), request_body = RunRequest, responses(
        (status = 200, body = RunAnswer),
        (status = 303, description = "Another host has taken over, and gives the result.")
    ))]
pub(crate) async fn run(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(request): Json<RunRequest>,
) -> Result<Response, ApiError> {
    let starting = gateway.starting()?;
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
    let options = exec.options(Mode::Foreground)?;
    let running = session.run(options, by.clone()).await?;
    drop(starting);
    finish(&gateway, running, by, input, request.encoding).await
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// How output is given.
    encoding: Encoding,
}

/// What a command that `run` was asked for came to: waits for its end, as that does. It gets no more input, and is ended when whoever
/// asks goes away.
#[utoipa::path(get, path = "/v1/processes/{id}/result", tag = "processes", params(("id" = String, Path), Wanted), responses(
        (status = 200, body = RunAnswer),
        (status = 303, description = "Another host has taken over, and gives the result.")
    ))]
pub(crate) async fn result(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
    Asker(by): Asker,
) -> Result<Response, ApiError> {
    let process = gateway.sessions().process(&id)?;
    if process.options().mode != Mode::Foreground {
        let message = format!("{id} runs in the background; /wait waits for it");
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    if !process.is_terminal() {
        // The host that had the input has written all of it, and could not close this end.
        let _ = process.close_input().await;
    }
    let running = Foreground {
        stdout: process.stdout().follow_paced(0),
        stderr: process.stderr().map(|stderr| stderr.follow_paced(0)),
        process,
    };
    finish(&gateway, running, by, None, wanted.encoding).await
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
    gateway: &Gateway,
    running: Foreground,
    by: By,
    input: Option<Vec<u8>>,
    encoding: Encoding,
) -> Result<Response, ApiError> {
    let process = running.process;
    let guard = process.end_on_drop(by);
    let stdout = Tap::new(running.stdout, &process);
    let stderr = running.stderr.map(|stderr| Tap::new(stderr, &process));
    // Asked again when it is over, it is over.
    let mut fed = std::pin::pin!(feed(&process, input).fuse());
    let read = async {
        let stderr = async {
            match stderr {
                Some(stderr) => collect(stderr).await.map(Some),
                None => Ok(None),
            }
        };
        tokio::try_join!(collect(stdout), stderr)
    };
    let read = {
        // Input that nobody reads ends with the process.
        let read = async {
            tokio::pin!(read);
            tokio::select! {
                biased;
                read = &mut read => return read,
                () = fed.as_mut() => {}
            }
            read.await
        };
        // Output ends also where it is frozen for another host; the process does not.
        let read = async { (read.await, process.wait().await) };
        tokio::select! {
            biased;
            error = gateway.over() => Err(error),
            read = read => Ok(read),
        }
    };
    let (read, exit) = match read {
        Ok(read) => read,
        Err(_) if gateway.phase() == Phase::HandedOver => {
            // This host's end of its standard input is as good as ever; the next one does not have what is to go into it.
            if !fed.is_terminated() {
                fed.await;
            }
            let coding = match encoding {
                Encoding::Text => "text",
                Encoding::Base64 => "base64",
            };
            let place = format!("/v1/processes/{}/result?encoding={coding}", process.id());
            return Ok(Redirect::to(&place).into_response());
        }
        Err(error) => return Err(error),
    };
    let (stdout, stderr) = read.map_err(|error| {
        ApiError::internal(format!(
            "cannot read the output of {}: {error}",
            process.id()
        ))
    })?;
    drop(guard.release());
    let exit = exit.ok_or_else(|| {
        ApiError::new(
            ErrorCode::Conflict,
            format!("{} was ended before it had started", process.id()),
        )
    })?;
    let ran = Ran {
        id: process.id().to_string(),
        timed_out: process.timed_out() && exit.code.is_none_or(|code| code != 0),
        exit: exit.into(),
        stdout,
        stderr,
    };
    Ok(Answer(ran.answer(encoding)).into_response())
}

/// Gives the process its input. A process that does not read it is nobody's failure.
async fn feed(process: &ProcessHandle, input: Option<Vec<u8>>) {
    if let Some(input) = input {
        let _ = process.write(&input).await;
        let _ = process.close_input().await;
    }
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
