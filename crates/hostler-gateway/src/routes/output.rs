//! What a process writes, and what it is given to read.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::blocking;
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Path, Query};
use crate::gateway::{Gateway, Phase};
use crate::server::Final;

/// How much is read where nothing is said, and at the most.
const LIMIT: usize = 1 << 20;
const MOST: usize = 8 << 20;
/// The most that one request can give a process to read.
const INPUT: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Stream {
    #[default]
    Stdout,
    Stderr,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Reading {
    /// The offset of the first byte.
    from: u64,
    /// How many bytes at the most.
    limit: Option<usize>,
    /// `stdout` (also what a terminal or a background process writes) or `stderr`.
    #[param(inline)]
    stream: Stream,
}

/// Read what a process has written. The headers say where the bytes begin (`hostler-offset`), where to go on (`hostler-next`), how
/// many bytes before them were asked for and are not kept (`hostler-gap`), and whether no more will come (`hostler-end`).
#[utoipa::path(get, path = "/v1/processes/{id}/output", tag = "processes", params(("id" = String, Path), Reading),
    responses((status = 200, content_type = "application/octet-stream", body = [u8])))]
pub(crate) async fn read(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(reading): Query<Reading>,
) -> Result<impl IntoResponse, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let output = match reading.stream {
        Stream::Stdout => process.stdout(),
        Stream::Stderr => process.stderr().ok_or_else(|| {
            ApiError::bad(format!(
                "{id} has no standard error apart: it is in its standard output"
            ))
        })?,
    };
    let limit = reading.limit.unwrap_or(LIMIT).min(MOST);
    let (chunk, end) = blocking(move || {
        let progress = output.progress();
        let chunk = output.read_at(reading.from, limit)?;
        let end = progress.ended && chunk.next >= progress.len;
        Ok::<_, std::io::Error>((chunk, end))
    })
    .await?
    .map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ApiError::missing(format!("the output of {id} is gone")),
        _ => ApiError::internal(format!("cannot read the output of {id}: {error}")),
    })?;
    let name = HeaderName::from_static;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (name("hostler-offset"), chunk.offset.to_string()),
        (name("hostler-next"), chunk.next.to_string()),
        (name("hostler-gap"), chunk.skipped.to_string()),
        (name("hostler-end"), end.to_string()),
    ];
    Ok((headers, Bytes::from(chunk.bytes)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Writing {
    /// Close its standard input after that; on a terminal, type Ctrl-D.
    eof: bool,
}

/// Write to a process's standard input, or type at its terminal. Answers when the kernel has all of it, which waits for the process
/// to read.
#[utoipa::path(post, path = "/v1/processes/{id}/input", tag = "processes", params(("id" = String, Path), Writing),
    request_body(content = [u8], content_type = "application/octet-stream"), responses((status = 204)))]
pub(crate) async fn write(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(writing): Query<Writing>,
    body: Body,
) -> Result<Response, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let mut body = body.into_data_stream();
    let mut total = 0;
    while let Some(bytes) = body.next().await {
        let bytes =
            bytes.map_err(|error| ApiError::bad(format!("the body ends early: {error}")))?;
        total += bytes.len() as u64;
        if total > INPUT {
            let message =
                format!("more than {INPUT} bytes at once; the first {INPUT} were written");
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
        // Also while another host takes over: this one's end of it is as good as ever, and nothing is to be written twice.
        tokio::select! {
            written = process.write(&bytes) => written?,
            _ = process.wait() => {
                return Err(ApiError::new(ErrorCode::Conflict, format!("{id} has ended")));
            }
        }
    }
    if writing.eof {
        match process.close_input().await {
            Err(_) if gateway.phase() != Phase::Open && total > 0 => {
                let message = "all was written; another host has taken over: ask that one, with no body, to close the input";
                let mut answer = ApiError::new(ErrorCode::Unavailable, message).into_response();
                answer.extensions_mut().insert(Final);
                return Ok(answer);
            }
            closed => closed?,
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
