//! Another flow, as a job below this one.

use std::sync::Arc;

use hostler_ledger::{JobEnd, JobId, JobOrigin, JobState, JobSummary, StepRunRow, StepRunUpdate};
use serde_json::{Map, Value, json};

use super::{Context, Given};
use crate::engine::error::{Error, StepError};
use crate::engine::jobs::Jobs;
use crate::engine::make::Making;
use crate::engine::new::{Kept, bounded, directory};
use crate::engine::progress::Plan;
use crate::flow::SubFlow;
use crate::given;

/// The job that an earlier host made for a run: by the run, for it may have been made a moment before that was killed.
pub(super) fn find(jobs: &Jobs, plan: &Plan, row: &StepRunRow) -> Option<JobSummary> {
    let known: Option<JobId> = row.detail["job"].as_str().and_then(|id| id.parse().ok());
    let found = match known {
        Some(known) => jobs.ledger().job_summary(&known),
        None => jobs.ledger().job_of_run(&plan.job, plan.run),
    };
    found.ok().flatten()
}

/// Makes a run of a flow.
pub(super) async fn run(context: &Context, sub: &SubFlow) -> Given {
    let id = match context
        .earlier
        .as_ref()
        .and_then(|row| find(&context.jobs, &context.plan, row))
    {
        Some(record) => record.id,
        None => begin(context, sub).await?,
    };
    context.job.know(context.plan.run, "job", id.to_string());
    let detail = Some(json!({ "job": id }));
    let ended = match context.jobs.get(id.as_str()) {
        Ok(job) => {
            let ended = tokio::select! {
                ended = job.wait() => ended,
                () = context.cancel.cancelled() => {
                    let _ = job.cancel(context.by()).await;
                    return Err(StepError::cancelled().into());
                }
            };
            let Ok(status) = ended else {
                // It is left to the next host, as this one will be.
                context.cancel.cancelled().await;
                return Err(StepError::cancelled().into());
            };
            (status.state, status.why, status.outputs)
        }
        Err(Error::Stopping) => {
            context.cancel.cancelled().await;
            return Err(StepError::cancelled().into());
        }
        Err(_) => {
            let jobs = context.jobs.clone();
            let wanted = id.clone();
            let record = tokio::task::spawn_blocking(move || jobs.record(wanted.as_str())).await;
            match record {
                Ok(Ok((record, _))) => (record.summary.state, record.summary.why, record.outputs),
                _ => {
                    return Err(StepError::new(
                        "no_job",
                        format!("job {id} is not there any more"),
                    )
                    .into());
                }
            }
        }
    };
    match ended {
        (JobState::Ended(JobEnd::Completed), _, outputs) => {
            let outputs = match outputs {
                Some(Value::Object(outputs)) => outputs,
                _ => Map::new(),
            };
            Ok((outputs, detail))
        }
        (state, why, _) => {
            let why = why["message"].as_str().unwrap_or_default();
            let message = format!("job {id} {}: {why}", state.as_str());
            Err(super::Failure {
                error: StepError::new("job_failed", message),
                outputs: Map::new(),
                detail,
            })
        }
    }
}

async fn begin(context: &Context, sub: &SubFlow) -> Result<JobId, StepError> {
    let loaded = context.job.loaded.flows.get(&sub.file.value);
    let loaded = loaded.ok_or_else(|| {
        StepError::new(
            "bad_flow",
            format!("the flow `{}` is not there", sub.file.value),
        )
    })?;
    let told = context.plan.inputs.clone().into_iter().collect();
    let wrong = |message: String| StepError::new("wrong_input", message);
    let inputs = given(&loaded.flow, &told).map_err(|problems| {
        let lines: Vec<String> = problems
            .iter()
            .map(|problem| problem.message.clone())
            .collect();
        wrong(lines.join("; "))
    })?;
    let cwd = directory(&loaded.flow, context.job.cwd(), &inputs)
        .map_err(|problem| wrong(problem.message))?;
    let kept = Kept {
        flow: loaded.stored(),
        inputs,
        cwd,
        policy: bounded(&context.job.kept.policy, &loaded.flow),
        again: Vec::new(),
    };
    let place = (context.job.group.clone(), Some(context.job.id.clone()));
    let mut making = Making::new(Arc::new(loaded.clone()), kept, place);
    making.origin = JobOrigin::Run(context.plan.run);
    let job = match context.jobs.make(making, context.by()).await {
        Ok(job) => job,
        // The next host makes it, or this run is told to end.
        Err(Error::Stopping) => {
            context.cancel.cancelled().await;
            return Err(StepError::cancelled());
        }
        Err(error) => return Err(StepError::new("no_job", error.to_string())),
    };
    let update = StepRunUpdate {
        detail: Some(json!({ "job": job.id(), "fallback": context.plan.fallback })),
        ..StepRunUpdate::default()
    };
    context.note(Vec::new(), update).await?;
    Ok(job.id().clone())
}
