//! What clients ask of automations, by its method.

use std::sync::Arc;

use ahp_types::commands::{
    AutomationCapabilities, AutomationCreateCapability, AutomationRunCancellationCapability,
    AutomationScheduleCapabilities, FetchAutomationRunsParams,
    ListAutomationTriggerDefinitionsParams, RunAutomationParams, RunAutomationResult,
};
use ahp_types::errors::ahp_error_codes::CONFLICT;
use hostler_job::Error as JobError;
use serde_json::json;
use serde_json::value::RawValue;

use super::{MOST, PAGE};
use crate::ahp::connection::Connection;
use crate::ahp::error::AhpError;
use crate::ahp::hub::Who;
use crate::ahp::methods::{Answer, read, write};
use crate::ahp::uri::{self, AUTOMATIONS};

/// What a request may be called, in bytes.
const LONGEST: usize = 256;

/// What is offered.
pub(in crate::ahp) fn capabilities() -> AutomationCapabilities {
    AutomationCapabilities {
        create: Some(AutomationCreateCapability {}),
        schedules: Some(AutomationScheduleCapabilities {
            min_interval_minutes: None,
        }),
        run_cancellation: Some(AutomationRunCancellationCapability {}),
        run_history_limit: None,
        customizations: None,
    }
}

/// Whether this is a method that is answered here.
pub(in crate::ahp) fn serves(method: &str) -> bool {
    matches!(
        method,
        "runAutomation" | "fetchAutomationRuns" | "listAutomationTriggerDefinitions"
    )
}

/// Carries one out.
pub(in crate::ahp) async fn call(
    connection: &Arc<Connection>,
    who: &Who,
    method: &str,
    params: &RawValue,
) -> Answer {
    match method {
        "runAutomation" => run(connection, who, read(params)?).await,
        "fetchAutomationRuns" => fetch(connection, read(params)?).await,
        "listAutomationTriggerDefinitions" => definitions(connection, &read(params)?),
        _ => Err(AhpError::no_method(method)),
    }
}

fn failed(error: JobError) -> AhpError {
    let line = error.to_string();
    match error {
        JobError::NoSchedule(_) | JobError::NoJob(_) => AhpError::not_found(line),
        JobError::Conflict(_) | JobError::Ended(_) => AhpError::new(CONFLICT, line),
        JobError::Invalid(_) | JobError::Wrong(_) | JobError::Inputs(_) => AhpError::params(line),
        _ => AhpError::internal(line),
    }
}

fn name_of(automation: &str) -> Result<String, AhpError> {
    let shown: String = automation.chars().take(300).collect();
    let name = uri::automation_part(automation).map(str::to_owned);
    name.ok_or_else(|| AhpError::not_found(format!("there is no automation `{shown}`")))
}

/// Answered when the run is durable. What it is called makes it one run, however often it is asked for.
async fn run(connection: &Arc<Connection>, who: &Who, params: RunAutomationParams) -> Answer {
    let name = name_of(&params.automation)?;
    let request = params.request_id;
    if request.is_empty() || request.len() > LONGEST {
        let why = format!("`requestId` is to have 1 to {LONGEST} bytes");
        return Err(AhpError::params(why));
    }
    let gateway = connection.gateway.clone();
    let starting = gateway.starting()?;
    let by = who.by("runAutomation");
    // Whoever asked may be gone: it is made all the same, or not.
    let made = tokio::spawn(async move {
        let _starting = starting;
        let schedules = gateway.jobs().schedules();
        let job = schedules.run_once(&name, &request, by).await;
        let job = job.map_err(failed)?;
        let automations = gateway.ahp().automations();
        let mut books = automations.inner.books.lock().await;
        automations.show(&gateway, &mut books, &name).await?;
        Ok::<_, AhpError>(job)
    });
    let job = made
        .await
        .map_err(|error| AhpError::internal(error.to_string()))??;
    write(&RunAutomationResult {
        resource: uri::automation_run(job.as_str()),
    })
}

/// More of the history of an automation is shown, to all who follow.
async fn fetch(connection: &Connection, params: FetchAutomationRunsParams) -> Answer {
    let gateway = &connection.gateway;
    let automations = gateway.ahp().automations();
    let name = name_of(&params.automation)?;
    let mut books = automations.inner.books.lock().await;
    if !books.open.contains_key(AUTOMATIONS) {
        let why = format!("`{AUTOMATIONS}` is to be subscribed to before");
        return Err(AhpError::invalid_request(why));
    }
    let shown = automations.shown(&params.automation);
    let shown = shown.ok_or_else(|| {
        AhpError::not_found(format!("there is no automation `{}`", params.automation))
    })?;
    let number = |cursor: &str| cursor.parse::<u64>().ok();
    let is_last = match (&params.cursor, &shown.runs_next_cursor) {
        (None, next) => next.is_some(),
        (Some(asked), next) if Some(asked) == next.as_ref() => true,
        (Some(asked), next) => {
            let asked = number(asked);
            let asked = asked.ok_or_else(|| AhpError::params("there is no such cursor here"))?;
            // Runs have begun since, or another client was quicker: the page is there, or a part of it.
            let next = next.as_deref().and_then(number);
            next.is_some_and(|next| asked <= next)
        }
    };
    if is_last {
        let window = books.windows.get(&name).copied().unwrap_or(PAGE);
        if window >= MOST {
            let why = format!("no more than {MOST} runs of an automation are shown");
            return Err(AhpError::params(why));
        }
        books
            .windows
            .insert(name.clone(), (window + PAGE).min(MOST));
        automations.show(gateway, &mut books, &name).await?;
    }
    write(&json!({}))
}

/// There are no events here that could start a run.
fn definitions(connection: &Connection, params: &ListAutomationTriggerDefinitionsParams) -> Answer {
    let catalogue = connection.gateway.agents().catalogue();
    if let Some(provider) = &params.provider
        && catalogue.get(provider).is_none()
    {
        return Err(AhpError::no_provider(provider));
    }
    write(&json!({ "items": [] }))
}
