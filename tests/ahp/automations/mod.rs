//! Schedules as automations: seen, made, run, changed and removed by clients.

mod catalogue;
mod refused;
mod runs;

use ahp::reducers::{apply_action_to_automation, apply_action_to_automation_run};
use ahp_types::actions::StateAction;
use ahp_types::state::{
    AutomationEntry, AutomationRunLifecycle, AutomationRunState, AutomationState, SnapshotState,
};
use serde_json::{Value, json};

use crate::peer::Peer;
use crate::support;

pub(crate) const AUTOMATIONS: &str = "ahp-automations://";

fn uri(name: &str) -> String {
    format!("ahp-automation:/{name}")
}

/// What a client writes: one message for the built-in agent, once a year.
fn definition(text: &str) -> Value {
    json!({
        "title": "Say it",
        "message": {"text": text, "origin": {"kind": "automation"}},
        "session": {"provider": "shell", "workingDirectories": ["file:///tmp"]},
        "enabled": true,
        "triggers": [{"kind": "schedule", "id": "yearly", "schedule": {"expression": "30 4 1 JAN *", "timeZone": "Europe/Berlin"}}],
    })
}

fn create(name: &str, definition: Value) -> Value {
    json!({"type": "automation/createRequested", "resource": uri(name), "definition": definition})
}

fn update(name: &str, changes: Value) -> Value {
    json!({"type": "automation/updateRequested", "resource": uri(name), "changes": changes})
}

fn removed(name: &str) -> Value {
    json!({"type": "automation/removed", "resource": uri(name)})
}

fn cancel() -> Value {
    json!({"type": "automationRun/cancelRequested"})
}

fn status(lifecycle: &AutomationRunLifecycle) -> String {
    let value = serde_json::to_value(lifecycle).expect("JSON");
    value["status"].as_str().expect("a status").to_owned()
}

/// Takes an action into a state, if that is one of these.
pub(crate) fn reduce(state: &mut SnapshotState, action: &StateAction) {
    match state {
        SnapshotState::Automations(state) => drop(apply_action_to_automation(state, action)),
        SnapshotState::AutomationRun(state) => drop(apply_action_to_automation_run(state, action)),
        _ => {}
    }
}

impl Peer {
    fn catalogue(&self) -> AutomationState {
        match self.states.get(AUTOMATIONS) {
            Some(SnapshotState::Automations(state)) => (**state).clone(),
            other => panic!("{other:?}"),
        }
    }

    fn entry(&self, name: &str) -> Option<AutomationEntry> {
        let entries = self.catalogue().entries.into_iter();
        entries.into_iter().find(|one| one.resource == uri(name))
    }

    fn run_of(&self, channel: &str) -> AutomationRunState {
        match self.states.get(channel) {
            Some(SnapshotState::AutomationRun(state)) => (**state).clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Makes an automation, and waits until it is shown.
    async fn make(&mut self, name: &str, definition: Value) {
        self.dispatch(AUTOMATIONS, create(name, definition)).await;
        self.until("it is shown", |peer| peer.entry(name).is_some())
            .await;
    }

    /// Runs one now, and follows the run.
    async fn begin_run(&mut self, name: &str, request: &str) -> String {
        let run = self.ask_run(name, request).await.expect("a run");
        self.follow(&run).await;
        run
    }

    async fn ask_run(&self, name: &str, request: &str) -> Result<String, (i32, String)> {
        let params = json!({"channel": AUTOMATIONS, "automation": uri(name), "requestId": request});
        let answer = self.ask("runAutomation", params).await?;
        Ok(answer["resource"].as_str().expect("a run").to_owned())
    }

    async fn until_is(&mut self, run: &str, wanted: &str) -> AutomationRunState {
        self.until(wanted, |peer| status(&peer.run_of(run).lifecycle) == wanted)
            .await;
        self.run_of(run)
    }

    /// Waits until the newest run of an automation stands like this.
    async fn until_newest(&mut self, name: &str, wanted: &str) {
        self.until(wanted, |peer| {
            let entry = peer.entry(name).expect("an automation");
            let newest = entry.runs.first();
            newest.is_some_and(|run| status(&run.lifecycle) == wanted)
        })
        .await;
    }
}

/// What somebody is given who comes now, of this channel.
async fn fresh(host: &support::Client, channel: &str) -> Value {
    let mut fresh = Peer::new(host, "fresh").await;
    fresh.follow(channel).await;
    let state = fresh.state(channel);
    fresh.client.shutdown().await;
    state
}

/// A peer that follows the catalogue.
async fn peer(host: &support::Client, name: &str) -> Peer {
    let mut peer = Peer::new(host, name).await;
    peer.follow(AUTOMATIONS).await;
    peer
}

fn quick() -> Value {
    json!({"cron": "@hourly", "zone": "UTC", "cwd": "/tmp",
        "flow": "name: quick\ndescription: Does nothing\nsteps: { a: { command: 'true' } }\n"})
}
