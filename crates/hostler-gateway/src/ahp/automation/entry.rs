//! A schedule, as an automation.

use ahp_types::common::JsonObject;
use ahp_types::state::{
    AutomationDefinition, AutomationEntry, AutomationMisfirePolicy, AutomationOperation,
    AutomationSchedule, AutomationScheduleTrigger, AutomationSessionTemplate, AutomationTrigger,
    Message, MessageKind, MessageOrigin,
};
use hostler_job::{Scheduled, ScheduledFlow, Schedules, load_text, machine_zone};
use hostler_ledger::{Overlap, ReadError, ScheduleRecord};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::cron;
use super::run::{Run, Shown};
use crate::ahp::uri;
use crate::wire::iso_8601;

/// By what the times of a schedule are called that no client has given a name.
const TRIGGER: &str = "schedule";
/// Under what all that clients have said of an automation is kept with its schedule.
const KEY: &str = "ahp";

/// What clients have said of an automation, and a schedule has no place for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Said {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) title: Option<String>,
    /// The message, where the flow was made for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Message>,
    /// The session in which it is to be said; with the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<AutomationSessionTemplate>,
    /// The name of the trigger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trigger: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) meta: Option<JsonObject>,
}

impl Said {
    /// What was said of what a schedule runs.
    pub(super) fn of(what: &Scheduled) -> Self {
        let said = what.about.get(KEY).cloned().unwrap_or_default();
        serde_json::from_value(said).unwrap_or_default()
    }

    /// Keeps it.
    pub(super) fn keep(&self, what: &mut Scheduled) {
        what.about = json!({ KEY: self });
    }

    /// The name of the trigger.
    pub(super) fn trigger(&self) -> &str {
        self.trigger.as_deref().unwrap_or(TRIGGER)
    }
}

/// What it does, in words: as it was said, or which flow it is. Reads no files but those that a flow given as a text uses.
fn message(what: &Scheduled, said: &Said) -> Message {
    if let Some(message) = &said.message {
        return message.clone();
    }
    let text = match &what.flow {
        ScheduledFlow::File(file) => format!("Flow {}", file.display()),
        ScheduledFlow::Flow(text) => match load_text(text, &what.cwd) {
            Ok(loaded) => {
                let description = loaded.flow.description;
                description.unwrap_or_else(|| format!("Flow {}", loaded.flow.name))
            }
            Err(_) => "A flow that can no longer be read".into(),
        },
    };
    Message {
        text,
        origin: MessageOrigin {
            kind: MessageKind::Automation,
        },
        attachments: None,
        model: None,
        agent: None,
        meta: None,
    }
}

/// How a schedule is defined.
pub(super) fn definition(
    schedules: &Schedules,
    record: &ScheduleRecord,
    what: &Scheduled,
    said: &Said,
) -> AutomationDefinition {
    let row = &record.row;
    let session = said.session.clone();
    let session = session.unwrap_or_else(|| AutomationSessionTemplate {
        working_directories: Some(vec![uri::of_path(&what.cwd)]),
        ..AutomationSessionTemplate::default()
    });
    let misfire = match schedules.makes_up(record) {
        true => AutomationMisfirePolicy::RunOnce,
        false => AutomationMisfirePolicy::Skip,
    };
    let trigger = cron::written_out(&row.cron).map(|expression| {
        let time_zone = row.zone.clone().or_else(machine_zone);
        AutomationTrigger::Schedule(AutomationScheduleTrigger {
            id: said.trigger().to_owned(),
            schedule: AutomationSchedule {
                expression,
                time_zone: time_zone.unwrap_or_else(|| "UTC".into()),
            },
            misfire_policy: Some(misfire),
        })
    });
    AutomationDefinition {
        title: said.title.clone().unwrap_or_else(|| row.name.clone()),
        message: message(what, said),
        session,
        enabled: row.enabled,
        triggers: trigger.into_iter().collect(),
        disable_conditions: None,
        meta: said.meta.clone(),
    }
}

/// A schedule with so many of its runs, the newest first, and whether one of them is being ended. Reads the ledger.
pub(super) fn entry(
    record: &ScheduleRecord,
    what: &Scheduled,
    window: usize,
    shown: &Shown<'_>,
) -> Result<(AutomationEntry, Vec<hostler_ledger::JobId>), ReadError> {
    let name = &record.row.name;
    let schedules = shown.jobs.schedules();
    let said = Said::of(what);
    let shown = Shown {
        trigger: said.trigger(),
        ..*shown
    };
    let mut jobs = shown.ledger.scheduled_jobs(name, None, window + 1)?;
    let more = jobs.len() > window;
    jobs.truncate(window);
    let cursor = jobs
        .last()
        .filter(|_| more)
        .map(|job| job.number.to_string());
    let (mut runs, mut ending) = (Vec::new(), Vec::new());
    for (job, scheduled) in jobs
        .iter()
        .filter_map(|job| Some((job, job.origin.scheduled()?)))
    {
        let run = Run::of(job, scheduled, &shown)?;
        if run.is_ending {
            ending.push(job.id.clone());
        }
        runs.push(run.summary());
    }
    let mut operations = vec![AutomationOperation::Update, AutomationOperation::Remove];
    let runs_now = jobs.first().is_some_and(|job| !job.state.is_ended());
    if !(runs_now && record.row.overlap == Overlap::Skip) {
        operations.push(AutomationOperation::Run);
    }
    let mut meta = JsonObject::new();
    meta.insert("dev.hostler/overlap".into(), json!(record.row.overlap));
    if let Some(skipped) = &record.skipped {
        meta.insert("dev.hostler/skipped".into(), skipped.clone());
    }
    let entry = AutomationEntry {
        resource: uri::automation(name),
        definition: definition(&schedules, record, what, &said),
        next_run_at: record.row.next_at.map(iso_8601),
        run_count: None,
        runs,
        runs_next_cursor: cursor,
        operations,
        customizations: None,
        created_at: iso_8601(record.created),
        modified_at: iso_8601(record.modified),
        meta: Some(meta),
    };
    Ok((entry, ending))
}
