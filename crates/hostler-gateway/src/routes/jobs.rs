//! Jobs: flows of steps that run.

use std::path::PathBuf;

use axum::Json as Answer;
use axum::extract::State;
use axum::http::StatusCode;
use hostler_agent::RequestId;
use hostler_job::{Error as JobError, FlowSource, Job as Living, Loaded, NewJob as Making};
use hostler_ledger::{JobFilter, JobId, JobRecord, JobSummary as Listed, Which};
use hostler_session::SessionState;
use serde::Deserialize;
use utoipa::IntoParams;

use super::blocking;
use crate::error::{ApiError, ErrorCode};
use crate::extract::{Asker, Json, Path, Query};
use crate::gateway::Gateway;
use crate::wire::{
    CancelledJobs, GroupRequest, Job, JobAnswer, JobAnswered, JobSummary, NewJob, Question,
    RetryRequest, StepRun, WantedAnswer, duration,
};

/// How many jobs are listed where nothing is said, and at the most.
const LIMIT: usize = 1000;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Those that have ended, too.
    all: bool,
    /// Those of this group only.
    group: Option<String>,
    /// Those of the flow of this name only.
    name: Option<String>,
    /// Those whose id starts so only.
    starts: Option<String>,
    /// Those below this job only.
    #[param(value_type = Option<String>)]
    parent: Option<JobId>,
    /// Those with a lower number only.
    before: Option<u64>,
    /// How many at the most, up to 1000.
    limit: Option<usize>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Showing {
    /// Without the outputs of runs, which may be large.
    brief: bool,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Waiting {
    /// Seconds to wait at the most. Without: until it has ended.
    timeout: Option<f64>,
    /// Without the outputs of runs, which may be large.
    brief: bool,
}

/// Make a job, which begins at once. A flow that is wrong is refused with all that is wrong with it, as `problems`.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = NewJob, responses((status = 201, body = Job)))]
pub(crate) async fn create(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    Json(new): Json<NewJob>,
) -> Result<(StatusCode, Answer<Job>), ApiError> {
    let _starting = gateway.starting()?;
    let (flow, file) = match (new.file, new.flow) {
        (Some(file), None) if file.is_absolute() => (FlowSource::File(file.clone()), Some(file)),
        (Some(file), None) => {
            let message = format!("`file`: {} is not an absolute path", file.display());
            return Err(ApiError::bad(message));
        }
        (None, Some(text)) => (FlowSource::Text(text), None),
        _ => return Err(ApiError::bad("either `file` or `flow` says what it does")),
    };
    let beside = file.as_deref().and_then(std::path::Path::parent);
    let beside = beside.map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let making = Making {
        flow,
        inputs: new.inputs,
        cwd: new.cwd.unwrap_or(beside),
        group: new.group,
        policy: new.policy.over(gateway.defaults())?,
    };
    let job = gateway.jobs().create(making, by).await.map_err(|error| {
        let refused = ApiError::from(error);
        match &file {
            Some(file) => refused.in_file(file),
            None => refused,
        }
    })?;
    let shown = show_one(&gateway, job.id().as_str(), false).await?;
    Ok((StatusCode::CREATED, Answer(shown)))
}

/// Jobs, the newest first: how they stand, without what they were given, gave and did.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(Listing), responses((status = 200, body = [JobSummary])))]
pub(crate) async fn list(
    State(gateway): State<Gateway>,
    Query(listing): Query<Listing>,
) -> Result<Answer<Vec<JobSummary>>, ApiError> {
    let filter = JobFilter {
        which: if listing.all { Which::All } else { Which::Open },
        parent: listing.parent,
        group: listing.group,
        name: listing.name,
        starts: listing.starts,
        before: listing.before,
        limit: listing.limit.unwrap_or(LIMIT).clamp(1, LIMIT),
    };
    let jobs = gateway.jobs().clone();
    let found = blocking(move || jobs.list(&filter)).await??;
    let shown = found.iter().map(|job| listed(&gateway, job));
    Ok(Answer(shown.collect()))
}

fn listed(gateway: &Gateway, job: &Listed) -> JobSummary {
    let mut shown = JobSummary::from(job);
    if let Some(living) = gateway.jobs().living(&job.id) {
        shown.released = living.status().released;
        shown.asks = questions(&living);
    } else {
        shown.released = job.state.is_ended() && leftover(gateway, job).is_none();
    }
    shown
}

fn questions(job: &Living) -> Vec<Question> {
    let live = job.live();
    let asked = live.iter().filter_map(|(run, known)| {
        let text = known.get("asks")?.as_str()?.to_owned();
        let question = Question {
            run: *run,
            text,
            ..Question::default()
        };
        (!known.contains_key("answered_by")).then_some(question)
    });
    asked.collect()
}

/// The session of an ended job that an earlier host left, and that is not gone yet.
fn leftover(gateway: &Gateway, job: &Listed) -> Option<hostler_session::Session> {
    let session = gateway.sessions().get(job.session.as_ref()?.as_str());
    session.ok().filter(|of| of.state() != SessionState::Closed)
}

/// One job, with its runs: what was done, what is being done, and what it asks.
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path), Showing), responses((status = 200, body = Job)))]
pub(crate) async fn show(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(showing): Query<Showing>,
) -> Result<Answer<Job>, ApiError> {
    show_one(&gateway, &id, showing.brief).await.map(Answer)
}

pub(super) async fn show_one(gateway: &Gateway, id: &str, brief: bool) -> Result<Job, ApiError> {
    // Before the ledger is read: what ends in between is then as the ledger says.
    let living = gateway.jobs().get(id).ok();
    let (live, status) = match &living {
        Some(living) => (living.live(), Some(living.status())),
        None => Default::default(),
    };
    let jobs = gateway.jobs().clone();
    let ledger = gateway.sessions().ledger().clone();
    let wanted = id.to_owned();
    let read = blocking(move || {
        let (record, runs) = jobs.record(&wanted)?;
        let leases = ledger
            .leases(Some(&record.summary.id))
            .map_err(JobError::from)?;
        Ok::<_, JobError>((record, runs, leases))
    });
    let (record, runs, leases) = read.await??;
    let mut job = Job::from(&record);
    let runs = runs.iter().map(|row| {
        let mut run = StepRun::recorded(row);
        if brief {
            run.outputs = None;
        }
        match live.get(&row.number) {
            Some(known) if !row.state.is_ended() => run.live(known),
            _ => run,
        }
    });
    let runs: Vec<StepRun> = runs.collect();
    if runs.iter().any(|run| run.asks.is_some()) {
        job.summary.asks = asked(&record, &runs);
    }
    for below in below(gateway, id) {
        job.summary.asks.extend(asked_below(gateway, below).await?);
    }
    job.runs = runs;
    job.leases = leases.into_iter().map(Into::into).collect();
    let of = &record.summary;
    job.summary.released = match &status {
        Some(status) => status.released,
        None => of.state.is_ended() && leftover(gateway, of).is_none(),
    };
    if job.summary.released {
        job.remaining = match status.and_then(|status| status.report) {
            Some(report) => Some(report.remaining),
            None => recorded_remaining(gateway, of).await?,
        };
    }
    Ok(job)
}

/// The jobs below this one that ask something.
fn below(gateway: &Gateway, id: &str) -> Vec<Living> {
    let all = gateway.jobs().live();
    let mut above = vec![id.to_owned()];
    let mut found = Vec::new();
    while let Some(id) = above.pop() {
        let of = |job: &&Living| job.parent().is_some_and(|parent| parent.as_str() == id);
        for job in all.iter().filter(of) {
            above.push(job.id().to_string());
            if !questions(job).is_empty() {
                found.push(job.clone());
            }
        }
    }
    found
}

async fn asked_below(gateway: &Gateway, job: Living) -> Result<Vec<Question>, ApiError> {
    let jobs = gateway.jobs().clone();
    let asked = blocking(move || {
        let live = job.live();
        let (record, rows) = match jobs.record(job.id().as_str()) {
            Err(JobError::NoJob(_)) => return Ok(Vec::new()),
            read => read?,
        };
        let runs = rows.iter().filter_map(|row| {
            let known = live.get(&row.number).filter(|_| !row.state.is_ended())?;
            Some(StepRun::recorded(row).live(known))
        });
        let runs: Vec<StepRun> = runs.collect();
        let mut asked = asked(&record, &runs);
        for question in &mut asked {
            question.job = Some(record.summary.id.to_string());
        }
        Ok::<_, JobError>(asked)
    });
    Ok(asked.await??)
}

/// What the runs of a job ask, and what would be an answer.
fn asked(record: &JobRecord, runs: &[StepRun]) -> Vec<Question> {
    let loaded = Loaded::restore(&record.detail["flow"]).ok();
    let wants = |step: &str| {
        let mut steps = loaded.iter().flat_map(|loaded| &loaded.flow.steps);
        let step = steps.find(|of| of.id.value.as_str() == step);
        let outputs = step.map_or(&[][..], |step| &step.outputs);
        outputs.iter().map(WantedAnswer::of).collect()
    };
    let asked = runs.iter().filter_map(|run| {
        Some(Question {
            job: None,
            run: run.run,
            request: run.request,
            step: run.step.clone(),
            text: run.asks.clone()?,
            wants: match run.choices.as_slice() {
                [] => wants(&run.step),
                choices => vec![WantedAnswer::one_of(choices)],
            },
        })
    });
    asked.collect()
}

/// How many processes the report of a job's session says are left; without a session there were none.
async fn recorded_remaining(gateway: &Gateway, job: &Listed) -> Result<Option<u64>, ApiError> {
    let Some(session) = &job.session else {
        return Ok(Some(0));
    };
    let closed = super::sessions::closed(gateway, session.as_str()).await?;
    let report = closed.and_then(|record| record.closed);
    let report = report.and_then(|closed| crate::wire::recorded_report(&closed.report));
    Ok(report.map(|report| report.remaining))
}

/// Wait until a job has ended, and all that it held is gone.
#[utoipa::path(get, path = "/v1/jobs/{job}/wait", tag = "jobs", params(("job" = String, Path), Waiting),
    responses((status = 200, body = Job), (status = 408, description = "It still runs.")))]
pub(crate) async fn wait(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(waiting): Query<Waiting>,
) -> Result<Answer<Job>, ApiError> {
    let limit = waiting.timeout.map(|seconds| duration("timeout", seconds));
    let limit = limit.transpose()?;
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    // Looked at before: of a job that has ended only in the ledger something may be left by an earlier host.
    let (jobs, wanted) = (gateway.jobs().clone(), id.clone());
    let found = blocking(move || jobs.summary(&wanted)).await??;
    let left = leftover(&gateway, &found);
    tokio::select! {
        biased;
        gone = gone(&gateway, &id, left) => gone?,
        () = over => return Err(ApiError::new(ErrorCode::Timeout, format!("{id} still runs"))),
        error = gateway.over() => return Err(error),
    }
    // It is gone, and that is told also by a host that has stopped meanwhile.
    show_one(&gateway, &id, waiting.brief).await.map(Answer)
}

/// Waits until a job has ended, and nothing of it is left: not even in its session, which an earlier host may have left.
async fn gone(
    gateway: &Gateway,
    id: &str,
    left: Option<hostler_session::Session>,
) -> Result<(), ApiError> {
    match gateway.jobs().get(id) {
        Ok(job) => {
            let ended = job.wait().await;
            if let Err(error) = ended {
                return Err(stopping(gateway, error).await);
            }
        }
        Err(JobError::Ended(_)) => {
            if let Some(session) = left {
                let mut state = session.state();
                while state != SessionState::Closed {
                    state = session.changed_from(state).await;
                }
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// A job that this host has let go of goes on in the next one: which is said once it is known which host goes on.
async fn stopping(gateway: &Gateway, error: JobError) -> ApiError {
    match error {
        JobError::Stopping => gateway.over().await,
        error => error.into(),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Cancelling {
    /// Whether the answer waits until all that the job held is gone.
    wait: bool,
}

impl Default for Cancelling {
    fn default() -> Self {
        Self { wait: true }
    }
}

/// Cancel a job: end what it runs, and the jobs below it. Waits until all that it held is gone. One that has ended stays as it is.
#[utoipa::path(post, path = "/v1/jobs/{job}/cancel", tag = "jobs", params(("job" = String, Path), Cancelling), responses((status = 200, body = Job)))]
pub(crate) async fn cancel(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(how): Query<Cancelling>,
    Asker(by): Asker,
) -> Result<Answer<Job>, ApiError> {
    match gateway.jobs().get(&id) {
        Ok(job) if !how.wait => job.begin_cancel(by),
        Ok(job) => tokio::select! {
            ended = job.cancel(by) => {
                if let Err(error) = ended {
                    return Err(stopping(&gateway, error).await);
                }
            }
            error = gateway.over() => return Err(error),
        },
        Err(JobError::Ended(_)) => {}
        Err(error) => return Err(error.into()),
    }
    show_one(&gateway, &id, true).await.map(Answer)
}

/// Cancel all jobs of a group that have not ended, and wait until all that they held is gone.
#[utoipa::path(post, path = "/v1/jobs/cancel", tag = "jobs", request_body = GroupRequest, responses((status = 200, body = CancelledJobs)))]
pub(crate) async fn cancel_group(
    State(gateway): State<Gateway>,
    Asker(by): Asker,
    Json(asked): Json<GroupRequest>,
) -> Result<Answer<CancelledJobs>, ApiError> {
    let jobs = gateway.jobs().live();
    // Those below others end with them.
    let jobs = jobs.into_iter().filter(|job| {
        let of_group = job.group() == Some(asked.group.as_str()) && job.parent().is_none();
        of_group && !job.status().state.is_ended()
    });
    let jobs: Vec<Living> = jobs.collect();
    let all = futures_util::future::join_all(jobs.iter().map(|job| job.cancel(by.clone())));
    let ended = tokio::select! {
        ended = all => ended,
        error = gateway.over() => return Err(error),
    };
    for ended in ended {
        if let Err(error) = ended {
            return Err(stopping(&gateway, error).await);
        }
    }
    let mut cancelled: Vec<String> = jobs.iter().map(|job| job.id().to_string()).collect();
    cancelled.sort_unstable();
    Ok(Answer(CancelledJobs { cancelled }))
}

/// Pause a job: nothing more of it begins; what runs goes on, and its result is kept.
#[utoipa::path(post, path = "/v1/jobs/{job}/pause", tag = "jobs", params(("job" = String, Path)), responses((status = 200, body = Job)))]
pub(crate) async fn pause(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
) -> Result<Answer<Job>, ApiError> {
    let _starting = gateway.starting()?;
    gateway.jobs().get(&id)?.pause(by).await?;
    show_one(&gateway, &id, true).await.map(Answer)
}

/// Let a paused job go on, also past a step for which a person was asked.
#[utoipa::path(post, path = "/v1/jobs/{job}/resume", tag = "jobs", params(("job" = String, Path)), responses((status = 200, body = Job)))]
pub(crate) async fn resume(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
) -> Result<Answer<Job>, ApiError> {
    let _starting = gateway.starting()?;
    gateway.jobs().get(&id)?.resume(by).await?;
    show_one(&gateway, &id, true).await.map(Answer)
}

/// Do steps again: in a job that is paused, in place, which goes on then; of one that has ended, as a new job (201), with what the
/// steps before `from` gave.
#[utoipa::path(post, path = "/v1/jobs/{job}/retry", tag = "jobs", params(("job" = String, Path)), request_body = RetryRequest,
    responses((status = 200, body = Job), (status = 201, body = Job)))]
pub(crate) async fn retry(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
    Json(asked): Json<RetryRequest>,
) -> Result<(StatusCode, Answer<Job>), ApiError> {
    let _starting = gateway.starting()?;
    let living = match gateway.jobs().get(&id) {
        Ok(job) if !job.status().state.is_ended() => Some(job),
        Ok(_) | Err(JobError::Ended(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(job) = living {
        let Some(from) = &asked.from else {
            let message =
                format!("job {id} has not ended: `from` says from which step it is done again");
            return Err(ApiError::bad(message));
        };
        let missing = || ApiError::bad(format!("there is no step `{from}`"));
        let step = from.parse().map_err(|_| missing())?;
        job.retry_from(&step, by).await?;
        return Ok((StatusCode::OK, Answer(show_one(&gateway, &id, true).await?)));
    }
    let job = gateway.jobs().retry(&id, asked.from.as_deref(), by);
    let id = job.await?.id().to_string();
    Ok((
        StatusCode::CREATED,
        Answer(show_one(&gateway, &id, true).await?),
    ))
}

/// Answer a step that asks: with `answer`, or with the `outputs` that it declares.
#[utoipa::path(post, path = "/v1/jobs/{job}/answer", tag = "jobs", params(("job" = String, Path)), request_body = JobAnswer,
    responses((status = 200, body = JobAnswered)))]
pub(crate) async fn answer(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
    Json(asked): Json<JobAnswer>,
) -> Result<Answer<JobAnswered>, ApiError> {
    let _starting = gateway.starting()?;
    let values = match (asked.answer, asked.outputs) {
        (Some(answer), None) => [("answer".to_owned(), answer)].into_iter().collect(),
        (None, Some(outputs)) => outputs,
        _ => return Err(ApiError::bad("either `answer` or `outputs` is the answer")),
    };
    let job = gateway.jobs().get(&id)?;
    let run = job
        .answer_that((asked.run, asked.request.map(RequestId)), values, by)
        .await?;
    Ok(Answer(JobAnswered { run }))
}

/// Take a job out of the ledger, with the jobs below it. One that runs is cancelled first.
#[utoipa::path(delete, path = "/v1/jobs/{job}", tag = "jobs", params(("job" = String, Path)), responses((status = 204)))]
pub(crate) async fn delete(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Asker(by): Asker,
) -> Result<StatusCode, ApiError> {
    tokio::select! {
        deleted = gateway.jobs().delete(&id, by) => match deleted {
            Ok(()) => Ok(StatusCode::NO_CONTENT),
            Err(error) => Err(stopping(&gateway, error).await),
        },
        error = gateway.over() => Err(error),
    }
}
