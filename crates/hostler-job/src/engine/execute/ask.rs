//! A person, or whoever answers for one.

use serde_json::{Map, Value};

use super::{Context, Given, output};
use crate::engine::actor::suspended;
use crate::engine::error::StepError;
use crate::engine::new::fill;
use crate::flow::{Ask, Executor, Kind, Step};

/// Asks, and waits until it is answered or cancelled.
pub(super) async fn run(context: &Context, ask: &Ask) -> Given {
    let question = fill(&ask.prompt, &context.plan.inputs);
    context.job.know(context.plan.run, "asks", question);
    if !context.plan.pause.is_zero() {
        context.note(Vec::new(), suspended()).await?;
    }
    // The answer is for the job's task: it ends the run.
    context.cancel.cancelled().await;
    Err(StepError::cancelled().into())
}

/// An answer, if it is one to this step: its outputs, or where it names none, `answer`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn checked(
    step: &Step,
    mut values: Map<String, Value>,
) -> Result<Map<String, Value>, StepError> {
    let asks = |executor: &Executor| matches!(executor, Executor::Input(_));
    let fallback = step
        .fallback
        .as_ref()
        .is_some_and(|executor| asks(&executor.value));
    if !asks(&step.executor.value) && !fallback {
        let message = format!("the step `{}` does not ask anything", step.id.value);
        return Err(StepError::new("wrong_answer", message));
    }
    let names: Vec<&str> = match step.outputs.is_empty() {
        true => vec!["answer"],
        false => step
            .outputs
            .iter()
            .map(|output| output.name.value.as_str())
            .collect(),
    };
    // The one thing that is wanted, said as `answer`.
    if names.len() == 1
        && names[0] != "answer"
        && values.len() == 1
        && let Some(value) = values.remove("answer")
    {
        values.insert(names[0].to_owned(), value);
    }
    // What comes from a command line is text.
    for output in &step.outputs {
        let name = output.name.value.as_str();
        if let Some(Value::String(text)) = values.get(name)
            && !matches!(output.kind, Kind::String | Kind::Choice(_) | Kind::Any)
            && let Ok(value) = serde_json::from_str(text)
        {
            values.insert(name.to_owned(), value);
        }
    }
    if let Some(strange) = values.keys().find(|name| !names.contains(&name.as_str())) {
        let message = format!(
            "`{strange}` is not asked for; there is: {}",
            names.join(", ")
        );
        return Err(StepError::new("wrong_answer", message));
    }
    if step.outputs.is_empty() && !values.get("answer").is_some_and(Value::is_string) {
        let message = "a text is wanted, as `answer`";
        return Err(StepError::new("wrong_answer", message));
    }
    let checked = output::declared(step, values);
    checked.map_err(|(error, _)| StepError::new("wrong_answer", error.message))
}
