//! What clients write: a definition, which becomes a schedule whose flow is one turn with an agent, and changes of one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use ahp_types::common::JsonObject;
use ahp_types::state::{
    AutomationDefinition, AutomationDefinitionPatch, AutomationDisableCondition,
    AutomationMisfirePolicy, AutomationSessionTemplate, AutomationTrigger, Message, MessageKind,
};
use hostler_job::{NewSchedule, ScheduleChange, Scheduled, ScheduledFlow};
use hostler_ledger::Overlap;
use serde_json::Value;

use super::cron;
use super::entry::{self, Said};
use super::refused;
use crate::ahp::error::{AhpError, Rejection};
use crate::ahp::uri;
use crate::gateway::Gateway;
use crate::wire::PolicyChange;

/// The longest title, in bytes.
const TITLE: usize = 1000;
/// The longest message, and the most of `_meta`, in bytes.
const TEXT: usize = 64 << 10;
/// When a schedule without a trigger is due: it is run by hand.
const NEVER: &str = "@never";

type Taken<T> = Result<T, Rejection>;

fn no(why: impl Into<String>) -> Rejection {
    Rejection::new(why)
}

/// The schedule of this name that a definition is.
pub(super) fn new(
    gateway: &Gateway,
    name: &str,
    definition: AutomationDefinition,
) -> Taken<NewSchedule> {
    let mut what = Scheduled {
        flow: ScheduledFlow::Flow(String::new()),
        inputs: BTreeMap::new(),
        cwd: PathBuf::new(),
        group: None,
        policy: PolicyChange::default()
            .over(gateway.defaults())
            .map_err(AhpError::from)?,
        make_up: true,
        about: Value::Null,
    };
    let mut said = Said {
        title: Some(title(definition.title)?),
        meta: meta(definition.meta)?,
        ..Said::default()
    };
    unconditional(definition.disable_conditions.as_deref())?;
    let (cron, zone) = due(&definition.triggers, &mut said, &mut what)?;
    turn(
        gateway,
        name,
        (definition.message, definition.session),
        &mut said,
        &mut what,
    )?;
    said.keep(&mut what);
    Ok(NewSchedule {
        name: name.to_owned(),
        cron,
        zone,
        what,
        overlap: Overlap::default(),
        enabled: definition.enabled,
    })
}

/// What changes of the schedule of this name. Reads the ledger.
pub(super) async fn change(
    gateway: &Gateway,
    name: &str,
    changes: AutomationDefinitionPatch,
) -> Taken<ScheduleChange> {
    let schedules = gateway.jobs().schedules();
    let record = schedules.get(name).map_err(refused)?;
    let mut what = Scheduled::try_from(&record).map_err(refused)?;
    let before = what.clone();
    let mut said = Said::of(&what);
    let is = entry::definition(&schedules, &record, &what, &said);
    // As it would be kept, though nothing is changed.
    let mut before = before;
    said.keep(&mut before);
    if let Some(new) = changes.title {
        said.title = Some(title(new)?);
    }
    if changes.meta.is_some() {
        said.meta = meta(changes.meta)?;
    }
    unconditional(changes.disable_conditions.as_deref())?;
    let (mut cron, mut zone) = (None, None);
    if let Some(triggers) = &changes.triggers
        && *triggers != is.triggers
    {
        let (new, of) = due(triggers, &mut said, &mut what)?;
        (cron, zone) = (Some(new), Some(of));
    }
    let message = changes.message.filter(|message| *message != is.message);
    let session = changes.session.filter(|session| *session != is.session);
    if message.is_some() || session.is_some() {
        if said.message.is_none() {
            let why = "what it does, and where, is said by its flow: `hostler job schedule set` gives it another one";
            return Err(no(why));
        }
        let both = (message.unwrap_or(is.message), session.unwrap_or(is.session));
        turn(gateway, name, both, &mut said, &mut what)?;
    }
    said.keep(&mut what);
    Ok(ScheduleChange {
        cron,
        zone,
        overlap: None,
        enabled: changes.enabled,
        what: Some(what).filter(|what| *what != before),
    })
}

fn title(title: String) -> Taken<String> {
    match title.trim().is_empty() || title.len() > TITLE {
        true => Err(no(format!("a title is to have 1 to {TITLE} bytes"))),
        false => Ok(title),
    }
}

fn meta(meta: Option<JsonObject>) -> Taken<Option<JsonObject>> {
    let size = meta.as_ref().map(serde_json::to_string);
    match size {
        Some(Ok(text)) if text.len() > TEXT => {
            Err(no(format!("`_meta` may have {TEXT} bytes at the most")))
        }
        _ => Ok(meta),
    }
}

fn unconditional(conditions: Option<&[AutomationDisableCondition]>) -> Taken<()> {
    match conditions.unwrap_or_default() {
        [] => Ok(()),
        _ => Err(no(
            "there are no disable conditions here: an automation is disabled by hand",
        )),
    }
}

/// When it is due, in which time zone.
fn due(
    triggers: &[AutomationTrigger],
    said: &mut Said,
    what: &mut Scheduled,
) -> Taken<(String, Option<String>)> {
    let trigger = match triggers {
        [] => return Ok((NEVER.to_owned(), None)),
        [AutomationTrigger::Schedule(trigger)] => trigger,
        [AutomationTrigger::Event(_), ..] => {
            return Err(no("there are no event triggers here"));
        }
        _ => return Err(no("an automation has one schedule here")),
    };
    if trigger.id.is_empty() || trigger.id.len() > 256 {
        return Err(no("the id of a trigger is to have 1 to 256 bytes"));
    }
    what.make_up = match &trigger.misfire_policy {
        None | Some(AutomationMisfirePolicy::RunOnce) => true,
        Some(AutomationMisfirePolicy::Skip) => false,
        Some(AutomationMisfirePolicy::Unknown(other)) => {
            let other: String = other.chars().take(64).collect();
            return Err(no(format!("there is no misfire policy `{other}` here")));
        }
    };
    said.trigger = Some(trigger.id.clone());
    let schedule = &trigger.schedule;
    cron::check(&schedule.expression).map_err(no)?;
    Ok((
        schedule.expression.clone(),
        Some(schedule.time_zone.clone()),
    ))
}

/// The flow of one turn with an agent, in a conversation of its own.
fn turn(
    gateway: &Gateway,
    name: &str,
    (message, session): (Message, AutomationSessionTemplate),
    said: &mut Said,
    what: &mut Scheduled,
) -> Taken<()> {
    if message.origin.kind != MessageKind::Automation {
        return Err(no("`message.origin.kind` is to be `automation`"));
    }
    if message.text.trim().is_empty() || message.text.len() > TEXT {
        return Err(no(format!("a message is to have 1 to {TEXT} bytes")));
    }
    if message
        .attachments
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        return Err(no(
            "a message of an automation is a text here, without attachments",
        ));
    }
    if session.model.is_some() || message.model.is_some() {
        return Err(no(
            "the model of an automation is the one that its agent begins with: none can be chosen",
        ));
    }
    if session.agent.is_some() || message.agent.is_some() {
        return Err(no("there are no custom agents here"));
    }
    if session.config.as_ref().is_some_and(|all| !all.is_empty()) {
        return Err(no(
            "an agent says what can be chosen once it is up: an automation has no session config here",
        ));
    }
    if session
        .customizations
        .as_ref()
        .is_some_and(|all| !all.is_empty())
    {
        return Err(no("there are no customizations here"));
    }
    let provider = session.provider.clone();
    let provider = provider.unwrap_or_else(|| gateway.acp().agent.clone());
    if gateway.agents().catalogue().get(&provider).is_none() {
        return Err(AhpError::no_provider(&provider).into());
    }
    what.cwd = match session.working_directories.as_deref().unwrap_or_default() {
        [] => std::env::home_dir().unwrap_or_else(|| "/".into()),
        [one] => uri::path(one)
            .ok_or_else(|| no(format!("`{one}` is no `file:` URI of this machine")))?,
        _ => return Err(no("a session has one working directory here")),
    };
    what.flow = ScheduledFlow::Flow(flow(name));
    let inputs = [
        ("agent".to_owned(), Value::from(provider)),
        ("message".to_owned(), Value::from(message.text.clone())),
    ];
    what.inputs = inputs.into();
    said.message = Some(message);
    said.session = Some(session);
    Ok(())
}

/// What was said stands in the inputs, so that nothing in it is taken for a part of the flow.
fn flow(name: &str) -> String {
    // A name of a schedule is one of a flow, but may look like a number.
    format!(
        r#"name: "{name}"
description: An automation
inputs: {{ agent: string, message: string }}
steps:
  run:
    inputs: {{ agent: $job.agent, message: $job.message }}
    agent: {{ name: "${{agent}}", prompt: "${{message}}" }}
    session: run
outputs: {{ text: run.text }}
"#
    )
}
