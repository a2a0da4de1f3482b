//! A program, again and again until it says yes.

use hostler_ledger::StepRunUpdate;
use serde_json::{Map, Value, json};

use super::{Context, Failure, Given, command};
use crate::engine::error::StepError;
use crate::flow::Poll;

/// Makes a run of a poll.
pub(super) async fn run(context: &Context, poll: &Poll) -> Given {
    // What an earlier host had under way counts as the try that it was.
    let known = context
        .earlier
        .as_ref()
        .map(|row| row.detail["tries"].as_u64());
    let mut tries = known.flatten().unwrap_or(0).saturating_sub(1);
    let mut earlier = match &context.earlier {
        Some(_) => command::find(
            &context.jobs,
            &context.session,
            &context.name(),
            &context.plan,
        )
        .await
        .filter(|found| !command::has_ended(&found.process)),
        None => None,
    };
    loop {
        tries += 1;
        context.job.know(context.plan.run, "tries", tries);
        let update = StepRunUpdate {
            detail: Some(json!({ "tries": tries, "fallback": context.plan.fallback })),
            ..StepRunUpdate::default()
        };
        context.note(Vec::new(), update).await?;
        let ran = command::program(context, &poll.program, earlier.take()).await?;
        let (code, stdout) = (json!(ran.code()), json!(ran.stdout));
        let mut outputs = Map::new();
        outputs.insert("exit_code".into(), code.clone());
        outputs.insert("stdout".into(), stdout.clone());
        outputs.insert("tries".into(), tries.into());
        let over = match &poll.until {
            None => ran.code() == 0,
            Some(until) => {
                let tries = Value::from(tries);
                let variables = [
                    ("exit_code", (&code).into()),
                    ("stdout", (&stdout).into()),
                    ("tries", (&tries).into()),
                ];
                match until.value.is_true(variables) {
                    Ok(over) => over,
                    Err(error) => {
                        return Err(Failure {
                            error: StepError::new("expression", error.to_string()),
                            outputs,
                            detail: None,
                        });
                    }
                }
            }
        };
        if over {
            return Ok((outputs, None));
        }
        tokio::select! {
            () = tokio::time::sleep(poll.every) => {}
            () = context.cancel.cancelled() => {
                return Err(Failure {
                    error: StepError::cancelled(),
                    outputs,
                    detail: None,
                });
            }
        }
    }
}
