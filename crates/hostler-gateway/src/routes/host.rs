//! The host itself.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;

use crate::error::ApiError;
use crate::extract::{Asker, Json};
use crate::gateway::{Gateway, Phase, ShutdownAsked};
use crate::wire::{Health, Host, ShutdownRequest, duration};

/// Whether the host answers. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "host", security(()), responses((status = 200, body = Health)))]
pub(crate) async fn health(State(gateway): State<Gateway>) -> Answer<Health> {
    let facts = gateway.facts();
    Answer(Health {
        status: "ok".into(),
        version: facts.version.clone(),
        pid: facts.pid,
        uptime: gateway.uptime().as_secs_f64(),
    })
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "host", responses((status = 200, body = Object)))]
pub(crate) async fn openapi() -> Answer<utoipa::openapi::OpenApi> {
    Answer(crate::document())
}

/// The host.
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, body = Host)))]
pub(crate) async fn show(State(gateway): State<Gateway>) -> Answer<Host> {
    let facts = gateway.facts().clone();
    let sessions = gateway.sessions().list();
    let running = sessions.iter().map(|session| {
        let info = session.info();
        u64::from(info.foreground) + u64::from(info.background)
    });
    Answer(Host {
        pid: facts.pid,
        version: facts.version,
        state_dir: facts.state_dir.to_string_lossy().into_owned(),
        started: facts.started,
        uptime: gateway.uptime().as_secs_f64(),
        addresses: facts.addresses,
        contain: facts.contain,
        leaves_open: facts.leaves_open,
        processes: running.sum(),
        sessions: sessions.len() as u64,
        connections: gateway.connections() as u64,
        draining: gateway.phase() != Phase::Open,
    })
}

/// Stop the host: as SIGTERM does, or (`all`) closing also what would be kept for the next host.
#[utoipa::path(post, path = "/v1/host/shutdown", tag = "host", request_body = ShutdownRequest,
    responses((status = 202, description = "It stops.")))]
pub(crate) async fn shutdown(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    Json(request): Json<ShutdownRequest>,
) -> Result<StatusCode, ApiError> {
    let deadline = request
        .deadline
        .map(|seconds| duration("deadline", seconds));
    gateway.ask_shutdown(ShutdownAsked {
        all: request.all,
        deadline: deadline.transpose()?,
        by,
    });
    Ok(StatusCode::ACCEPTED)
}
