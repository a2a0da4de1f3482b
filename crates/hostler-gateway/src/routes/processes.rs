//! Processes and terminals.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use hostler_session::{Mode, ProcessHandle, ProcessId, Session};
use serde::Deserialize;
use utoipa::IntoParams;

use super::sessions::Ending;
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Json, Path, Query};
use crate::gateway::Gateway;
use crate::wire::{self, ExecRequest, KeepRequest, Member, Process, SignalRequest, Size};

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Waiting {
    /// For how many seconds.
    timeout: Option<f64>,
}

/// The processes and terminals of a session, in the order in which they were started.
pub(super) async fn of(
    gateway: &Gateway,
    session: &Session,
) -> Result<Vec<ProcessHandle>, ApiError> {
    let resources = session.resources().await?;
    let handles = resources
        .iter()
        // One that is not a process, or was let go of meanwhile.
        .filter_map(|resource| gateway.sessions().process(resource.id.as_str()).ok());
    Ok(handles.collect())
}

/// The processes and terminals of a session; also what has ended and is kept for looking at.
#[utoipa::path(get, path = "/v1/sessions/{session}/processes", tag = "processes",
    params(("session" = String, Path, description = "Id or name")), responses((status = 200, body = [Process])))]
pub(crate) async fn list_of(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Answer<Vec<Process>>, ApiError> {
    let session = gateway.sessions().get(&name)?;
    let handles = of(&gateway, &session).await?;
    Ok(Answer(handles.iter().map(Process::from).collect()))
}

/// Those of all sessions.
#[utoipa::path(get, path = "/v1/processes", tag = "processes", responses((status = 200, body = [Process])))]
pub(crate) async fn list(State(gateway): State<Gateway>) -> Answer<Vec<Process>> {
    let mut all = Vec::new();
    for session in gateway.sessions().list() {
        // One that closes meanwhile has none to show.
        if let Ok(handles) = of(&gateway, &session).await {
            all.extend(handles.iter().map(Process::from));
        }
    }
    Answer(all)
}

/// Start a process in the background.
#[utoipa::path(post, path = "/v1/sessions/{session}/processes", tag = "processes",
    params(("session" = String, Path, description = "Id or name")), request_body = ExecRequest, responses((status = 201, body = Process)))]
pub(crate) async fn start(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(mut request): Json<ExecRequest>,
) -> Result<(StatusCode, Answer<Process>), ApiError> {
    let _starting = gateway.starting()?;
    let session = gateway.sessions().get(&name)?;
    let keep = request.keep.take();
    let options = request.options(Mode::Background)?;
    let process = session.exec(options, by.clone()).await?;
    if let Some(keep) = keep {
        let guard = process.end_on_drop(by.clone());
        let policy = gateway.defaults().clone();
        session
            .keep(gateway.sessions(), process.id(), &keep, policy, by)
            .await?;
        drop(guard.release());
    }
    Ok((StatusCode::CREATED, Answer(Process::from(&process))))
}

/// One process.
#[utoipa::path(get, path = "/v1/processes/{id}", tag = "processes", params(("id" = String, Path)), responses((status = 200, body = Process)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
) -> Result<Answer<Process>, ApiError> {
    let process = gateway.sessions().process(&id)?;
    Ok(Answer(Process::from(&process)))
}

/// Wait for a process to end.
#[utoipa::path(get, path = "/v1/processes/{id}/wait", tag = "processes", params(("id" = String, Path), Waiting),
    responses((status = 200, body = Process), (status = 408, description = "It still runs.")))]
pub(crate) async fn wait(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(waiting): Query<Waiting>,
) -> Result<Answer<Process>, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let limit = waiting
        .timeout
        .map(|seconds| wire::duration("timeout", seconds));
    let limit = limit.transpose()?;
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        _ = process.wait() => Ok(Answer(Process::from(&process))),
        () = over => Err(ApiError::new(ErrorCode::Timeout, format!("{id} still runs"))),
        error = gateway.over() => Err(error),
    }
}

/// Send a signal.
#[utoipa::path(post, path = "/v1/processes/{id}/signal", tag = "processes", params(("id" = String, Path)),
    request_body = SignalRequest, responses((status = 204)))]
pub(crate) async fn signal(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Json(request): Json<SignalRequest>,
) -> Result<StatusCode, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let signal = request.signal.signal()?;
    match (request.pid, request.start_time) {
        (None, None) if request.group => process.signal_group(signal).await?,
        (None, None) => process.signal(signal).await?,
        (Some(pid), Some(start_time)) if !request.group => {
            let id = ProcessId { pid, start_time };
            process.signal_descendant(id, signal).await?;
        }
        (Some(_), Some(_)) => return Err(ApiError::bad("`group` and `pid` do not go together")),
        _ => {
            let message =
                "`pid` and `start_time` go together: a pid alone may be another process's by now";
            return Err(ApiError::bad(message));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

/// Give a terminal another size.
#[utoipa::path(post, path = "/v1/processes/{id}/resize", tag = "processes", params(("id" = String, Path)),
    request_body = Size, responses((status = 204)))]
pub(crate) async fn resize(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Json(size): Json<Size>,
) -> Result<StatusCode, ApiError> {
    gateway.sessions().process(&id)?.resize(size.into())?;
    Ok(StatusCode::NO_CONTENT)
}

/// End a process and what is under it.
#[utoipa::path(delete, path = "/v1/processes/{id}", tag = "processes", params(("id" = String, Path), Ending),
    responses((status = 200, body = Process)))]
pub(crate) async fn end(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(ending): Query<Ending>,
    Asker(by): Asker,
) -> Result<Answer<Process>, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let grace = ending.grace()?;
    tokio::select! {
        ended = process.end(grace, by) => {
            ended?;
            Ok(Answer(Process::from(&process)))
        }
        error = gateway.over() => Err(error),
    }
}

/// Hand a process to a session of its own, which outlives its present one.
#[utoipa::path(post, path = "/v1/processes/{id}/keep", tag = "processes", params(("id" = String, Path)),
    request_body = KeepRequest, responses((status = 200, body = wire::Session)))]
pub(crate) async fn keep(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
    Json(request): Json<KeepRequest>,
) -> Result<Answer<wire::Session>, ApiError> {
    let _starting = gateway.starting()?;
    let sessions = gateway.sessions();
    let process = sessions.process(&id)?;
    let policy = request.policy.over(gateway.defaults())?;
    let session = sessions.get(process.session().as_str())?;
    let keeper = session
        .keep(sessions, process.id(), &request.name, policy, by)
        .await?;
    Ok(Answer(wire::Session::open(&keeper)))
}

/// The living processes that came of it, itself with them, and where they listen; also those that it has orphaned, as far as their
/// process group, their session or their environment (`HOSTLER_PROCESS`) still tells.
#[utoipa::path(get, path = "/v1/processes/{id}/members", tag = "processes", params(("id" = String, Path)),
    responses((status = 200, body = [Member])))]
pub(crate) async fn members(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
) -> Result<Answer<Vec<Member>>, ApiError> {
    let process = gateway.sessions().process(&id)?;
    let members = process.members().await?;
    Ok(Answer(members.into_iter().map(Member::from).collect()))
}
