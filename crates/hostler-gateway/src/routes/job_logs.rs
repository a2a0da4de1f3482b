//! What the steps of a job have written and said.

use axum::Json as Answer;
use axum::extract::State;
use hostler_agent::Seq;
use hostler_ledger::{ConversationId, StepRunRow};
use hostler_session::Output;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::IntoParams;

use super::blocking;
use crate::error::ApiError;
use crate::extract::{Path, Query};
use crate::gateway::Gateway;
use crate::wire::StepLog;

/// How much of what a program that runs has written is given at the most: the end of it, in bytes.
const MOST: u64 = 1 << 20;

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Wanted {
    /// Of this step only.
    step: Option<String>,
    /// Of the run of this number only.
    run: Option<u32>,
}

/// What the runs of a job's steps have written and said, in the order in which they began. Those that did neither are left out.
#[utoipa::path(get, path = "/v1/jobs/{job}/logs", tag = "jobs", params(("job" = String, Path), Wanted), responses((status = 200, body = [StepLog])))]
pub(crate) async fn logs(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    Query(wanted): Query<Wanted>,
) -> Result<Answer<Vec<StepLog>>, ApiError> {
    let live = gateway.jobs().get(&id).map(|job| job.live());
    let live = live.unwrap_or_default();
    let logs = blocking(move || {
        let (record, runs) = gateway.jobs().record(&id)?;
        if let Some(step) = &wanted.step
            && !runs.iter().any(|run| run.step == *step)
            && !has_step(&record.detail, step)
        {
            return Err(ApiError::missing(format!("job {id} has no step `{step}`")));
        }
        if let Some(run) = wanted.run
            && !runs.iter().any(|row| row.number == run)
        {
            return Err(ApiError::missing(format!("job {id} has no run {run}")));
        }
        let runs = runs.iter().filter(|row| {
            wanted.step.as_ref().is_none_or(|step| row.step == *step)
                && wanted.run.is_none_or(|run| row.number == run)
        });
        let logs = runs.map(|row| match live.get(&row.number) {
            Some(known) if !row.state.is_ended() => running(&gateway, row, known),
            _ => recorded(row),
        });
        let of_one = wanted.run.is_some();
        let has =
            |log: &StepLog| log.stdout.is_some() || log.stderr.is_some() || log.text.is_some();
        Ok(logs.filter(|log| of_one || has(log)).collect())
    });
    logs.await?.map(Answer)
}

/// Whether the flow of a job has a step of this name.
fn has_step(detail: &Value, step: &str) -> bool {
    let loaded = hostler_job::Loaded::restore(&detail["flow"]);
    loaded.is_ok_and(|loaded| {
        let mut steps = loaded.flow.steps.iter();
        steps.any(|of| of.id.value.as_str() == step)
    })
}

fn log_of(row: &StepRunRow) -> StepLog {
    StepLog {
        run: row.number,
        step: row.step.clone(),
        item: row.item,
        attempt: row.attempt,
        try_: row.try_,
        state: row.state.to_string(),
        ..StepLog::default()
    }
}

fn recorded(row: &StepRunRow) -> StepLog {
    let text = |value: Option<&Value>| {
        let text = value.and_then(Value::as_str).map(str::to_owned);
        text.filter(|text| !text.is_empty())
    };
    // Of a step with items the outputs are lists; its items have runs of their own.
    let outputs = row.outputs.as_ref();
    StepLog {
        stdout: text(outputs.and_then(|of| of.get("stdout"))),
        stderr: text(row.detail.get("stderr")),
        text: text(outputs.and_then(|of| of.get("text"))),
        process: text(row.detail.get("process")),
        ..log_of(row)
    }
}

fn running(gateway: &Gateway, row: &StepRunRow, known: &Map<String, Value>) -> StepLog {
    let id = known.get("process").and_then(Value::as_str);
    let process = id.and_then(|id| gateway.sessions().process(id).ok());
    let said = || {
        let place = &row.detail["agent"];
        let id: ConversationId = place["conversation"].as_str()?.parse().ok()?;
        let (turn, after) = (place["turn"].as_u64()?, place["after"].as_u64()?);
        gateway.agents().turn_text(&id, turn, Seq(after)).ok()
    };
    StepLog {
        stdout: process.as_ref().and_then(|process| end(&process.stdout())),
        stderr: process.as_ref().and_then(|process| end(&process.stderr()?)),
        text: said().filter(|text| !text.is_empty()),
        process: id.map(str::to_owned),
        ..log_of(row)
    }
}

/// The end of what was written, if anything was.
fn end(output: &Output) -> Option<String> {
    let to = output.progress().len;
    let mut at = to.saturating_sub(MOST);
    let mut bytes = Vec::new();
    while at < to {
        let chunk = output.read_at(at, (to - at) as usize).ok()?;
        if chunk.bytes.is_empty() {
            break;
        }
        bytes.extend_from_slice(&chunk.bytes);
        at = chunk.next;
    }
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}
