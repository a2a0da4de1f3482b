//! What is found at which path.

pub(crate) mod conversations;
pub(crate) mod events;
pub(crate) mod host;
pub(crate) mod job_logs;
pub(crate) mod jobs;
pub(crate) mod output;
pub(crate) mod processes;
pub(crate) mod run;
pub(crate) mod schedules;
pub(crate) mod sessions;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};

use crate::access;
use crate::acp::http;
use crate::error::{ApiError, ErrorCode};
use crate::gateway::{Gateway, Phase};
use crate::ws;

/// The most that a body of JSON may be, in bytes.
const BODY: usize = 4 << 20;

/// All of the API. Requests need a [`crate::Peer`] among their extensions.
pub fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/healthz", get(host::health))
        .route("/v1/openapi.json", get(host::openapi))
        .route("/v1/host", get(host::show))
        .route("/v1/host/shutdown", post(host::shutdown))
        .route("/v1/sessions", get(sessions::list).post(sessions::open))
        .route(
            "/v1/sessions/{session}",
            get(sessions::show)
                .patch(sessions::change)
                .delete(sessions::close),
        )
        .route("/v1/sessions/{session}/census", get(sessions::census))
        .route("/v1/census", get(sessions::census_of_all))
        .route("/v1/sessions/{session}/run", post(run::run))
        .route("/v1/sessions/{session}/exec", get(ws::exec::exec))
        .route(
            "/v1/sessions/{session}/processes",
            get(processes::list_of).post(processes::start),
        )
        .route("/v1/processes", get(processes::list))
        .route(
            "/v1/processes/{id}",
            get(processes::show).delete(processes::end),
        )
        .route("/v1/processes/{id}/wait", get(processes::wait))
        .route("/v1/processes/{id}/result", get(run::result))
        .route("/v1/processes/{id}/output", get(output::read))
        .route("/v1/processes/{id}/input", post(output::write))
        .route("/v1/processes/{id}/signal", post(processes::signal))
        .route("/v1/processes/{id}/resize", post(processes::resize))
        .route("/v1/processes/{id}/keep", post(processes::keep))
        .route("/v1/processes/{id}/members", get(processes::members))
        .route("/v1/processes/{id}/attach", get(ws::attach::attach))
        .route("/v1/agents", get(conversations::agents))
        .route("/v1/agents/pool", get(conversations::pool))
        .route("/v1/jobs", get(jobs::list).post(jobs::create))
        .route("/v1/jobs/cancel", post(jobs::cancel_group))
        .route("/v1/jobs/{job}", get(jobs::show).delete(jobs::delete))
        .route("/v1/jobs/{job}/wait", get(jobs::wait))
        .route("/v1/jobs/{job}/cancel", post(jobs::cancel))
        .route("/v1/jobs/{job}/pause", post(jobs::pause))
        .route("/v1/jobs/{job}/resume", post(jobs::resume))
        .route("/v1/jobs/{job}/retry", post(jobs::retry))
        .route("/v1/jobs/{job}/answer", post(jobs::answer))
        .route("/v1/jobs/{job}/logs", get(job_logs::logs))
        .route("/v1/schedules", get(schedules::list))
        .route(
            "/v1/schedules/{name}",
            get(schedules::show)
                .put(schedules::set)
                .patch(schedules::change)
                .delete(schedules::remove),
        )
        .route("/v1/schedules/{name}/run", post(schedules::run))
        .route(
            "/v1/conversations",
            get(conversations::list).post(conversations::open),
        )
        .route("/v1/conversations/{conversation}", get(conversations::show))
        .route(
            "/v1/conversations/{conversation}/transcript",
            get(conversations::transcript),
        )
        .route(
            "/v1/conversations/{conversation}/load",
            post(conversations::load),
        )
        .route(
            "/v1/conversations/{conversation}/prompt",
            post(conversations::prompt),
        )
        .route(
            "/v1/conversations/{conversation}/cancel",
            post(conversations::cancel),
        )
        .route(
            "/v1/conversations/{conversation}/answer",
            post(conversations::answer),
        )
        .route(
            "/v1/conversations/{conversation}/evict",
            post(conversations::evict),
        )
        .route(
            "/v1/conversations/{conversation}/reset",
            post(conversations::reset),
        )
        .route(
            "/v1/conversations/{conversation}/fork",
            post(conversations::fork),
        )
        .route("/v1/events", get(events::events))
        .route("/acp", get(http::get).post(http::post).delete(http::delete))
        .route("/ahp", get(crate::ahp::ws::get))
        .fallback(async || ApiError::missing("there is nothing at this path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                ErrorCode::MethodNotAllowed,
                "this path does not know this method",
            )
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(axum::middleware::from_fn_with_state(
            gateway.clone(),
            access::guard,
        ))
        .with_state(gateway)
}

impl Gateway {
    /// Waits until this host has no sessions any more: for what would wait for them in vain.
    pub(crate) async fn over(&self) -> ApiError {
        let mut phases = self.phases();
        let phase = phases.wait_for(|phase| phase.is_over()).await;
        let message = match phase.map(|phase| *phase) {
            Ok(Phase::HandedOver) => "another host has taken over: ask again",
            _ => "the host has stopped",
        };
        ApiError::new(ErrorCode::Unavailable, message)
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("a task of the host failed: {error}")))
}
