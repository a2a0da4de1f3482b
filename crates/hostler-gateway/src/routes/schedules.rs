//! Schedules: jobs by the clock.

use std::path::PathBuf;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use hostler_job::{
    Error as JobError, NewSchedule as Setting, ScheduleChange as Changing, Scheduled,
    ScheduledFlow, Schedules,
};
use hostler_ledger::ScheduleRecord;

use super::{blocking, jobs};
use crate::error::ApiError;
use crate::extract::{Asker, Json, Path};
use crate::gateway::Gateway;
use crate::wire::{Job, NewSchedule, Schedule, ScheduleChange};

/// The word for the time zone of the machine.
const LOCAL: &str = "local";

/// All schedules, by their names.
#[utoipa::path(get, path = "/v1/schedules", tag = "jobs", responses((status = 200, body = [Schedule])))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
) -> Result<Answer<Vec<Schedule>>, ApiError> {
    let schedules = gateway.jobs().schedules();
    let list = blocking(move || {
        let list = schedules.list()?;
        let shown = list.into_iter().map(|record| shown(&schedules, record));
        shown.collect::<Result<Vec<_>, ApiError>>()
    });
    Ok(Answer(list.await??))
}

/// One schedule: when it is due, and what came of the last time.
#[utoipa::path(get, path = "/v1/schedules/{name}", tag = "jobs", params(("name" = String, Path)), responses((status = 200, body = Schedule)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
) -> Result<Answer<Schedule>, ApiError> {
    let schedules = gateway.jobs().schedules();
    let one = blocking(move || {
        let record = schedules.get(&name)?;
        shown(&schedules, record)
    });
    Ok(Answer(one.await??))
}

/// With the state of its last job. Blocks.
fn shown(schedules: &Schedules, record: ScheduleRecord) -> Result<Schedule, ApiError> {
    let state = schedules.last_state(&record)?;
    Schedule::of(record, state)
}

/// Set a schedule; one of this name is replaced. A flow that is wrong is refused with all that is wrong with it, as `problems`.
#[utoipa::path(put, path = "/v1/schedules/{name}", tag = "jobs", params(("name" = String, Path)), request_body = NewSchedule,
    responses((status = 200, body = Schedule)))]
pub(crate) async fn set(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(new): Json<NewSchedule>,
) -> Result<Answer<Schedule>, ApiError> {
    let _starting = gateway.starting()?;
    let (flow, file) = match (new.file, new.flow) {
        (Some(file), None) if file.is_absolute() => (ScheduledFlow::File(file.clone()), Some(file)),
        (Some(file), None) => {
            let message = format!("`file`: {} is not an absolute path", file.display());
            return Err(ApiError::bad(message));
        }
        (None, Some(text)) => (ScheduledFlow::Flow(text), None),
        _ => return Err(ApiError::bad("either `file` or `flow` says what it does")),
    };
    let beside = file.as_deref().and_then(std::path::Path::parent);
    let beside = beside.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let setting = Setting {
        name,
        cron: new.cron,
        zone: new.zone.filter(|zone| zone != LOCAL),
        what: Scheduled {
            flow,
            inputs: new.inputs,
            cwd: new.cwd.unwrap_or(beside),
            group: new.group,
            policy: new.policy.over(gateway.defaults())?,
            make_up: true,
            about: serde_json::Value::Null,
        },
        overlap: new.overlap,
        enabled: new.enabled,
    };
    let schedules = gateway.jobs().schedules();
    let set = schedules.set(setting, by).await.map_err(|error| {
        let refused = ApiError::from(error);
        match &file {
            Some(file) => refused.in_file(file),
            None => refused,
        }
    })?;
    blocking(move || shown(&schedules, set)).await?.map(Answer)
}

/// Change when a schedule is due, or whether.
#[utoipa::path(patch, path = "/v1/schedules/{name}", tag = "jobs", params(("name" = String, Path)), request_body = ScheduleChange,
    responses((status = 200, body = Schedule)))]
pub(crate) async fn change(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
    Json(asked): Json<ScheduleChange>,
) -> Result<Answer<Schedule>, ApiError> {
    let _starting = gateway.starting()?;
    let changing = Changing {
        cron: asked.cron,
        zone: asked
            .zone
            .map(|zone| Some(zone).filter(|zone| zone != LOCAL)),
        overlap: asked.overlap,
        enabled: asked.enabled,
        what: None,
    };
    let schedules = gateway.jobs().schedules();
    let changed = schedules.change(&name, changing, by).await?;
    blocking(move || shown(&schedules, changed))
        .await?
        .map(Answer)
}

/// Forget a schedule. Its jobs stay.
#[utoipa::path(delete, path = "/v1/schedules/{name}", tag = "jobs", params(("name" = String, Path)), responses((status = 204)))]
pub(crate) async fn remove(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<StatusCode, ApiError> {
    let _starting = gateway.starting()?;
    gateway.jobs().schedules().remove(&name, by).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Make the job of a schedule now, whatever the clock says. When it is due stays as it is.
#[utoipa::path(post, path = "/v1/schedules/{name}/run", tag = "jobs", params(("name" = String, Path)), responses((status = 201, body = Job),
    (status = 409, description = "Its last job has not ended, and `overlap` is `skip`.")))]
pub(crate) async fn run(
    State(gateway): State<Gateway>,
    Path(name): Path<String>,
    Asker(by): Asker,
) -> Result<(StatusCode, Answer<Job>), ApiError> {
    let _starting = gateway.starting()?;
    let schedules = gateway.jobs().schedules();
    let job = tokio::select! {
        job = schedules.run(&name, by) => match job {
            Ok(job) => job,
            Err(JobError::Stopping) => return Err(gateway.over().await),
            Err(error) => return Err(error.into()),
        },
        error = gateway.over() => return Err(error),
    };
    let shown = jobs::show_one(&gateway, job.id().as_str(), false).await?;
    Ok((StatusCode::CREATED, Answer(shown)))
}
