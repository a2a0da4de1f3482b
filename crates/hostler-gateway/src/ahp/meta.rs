//! What Hostler knows of a session and the protocol has no word for: in `_meta` of the session's state, under keys that begin
//! with `dev.hostler/`, and as notifications on the extension channel `ahp-hostler-session:/ID`.

use ahp_types::actions::{SessionMetaChangedAction, StateAction};
use ahp_types::commands::ListSessionsParams;
use hostler_session::{Session, Sessions};
use serde_json::{Map, Value, json};

use super::hub::{ChannelState, Hub};
use super::{terminal, uri};
use crate::wire::{CloseReport, Process, Session as Shown};

/// The notification of the extension channel.
const METHOD: &str = "dev.hostler/sessionChanged";
/// Of `_meta` of a listing: that processes are wanted; of a session in it: its processes and terminals.
const RESOURCES: &str = "dev.hostler/resources";
/// How many processes are told of.
const MOST: usize = 1000;

/// What is known without asking the kernel.
pub(super) fn brief(session: &Session) -> Map<String, Value> {
    let info = session.info();
    let limits = &info.policy.limits;
    let mut meta = Map::new();
    meta.insert(
        "dev.hostler/session".into(),
        json!({
            "id": info.id,
            "name": info.name,
            "parent": info.parent,
            "state": info.state,
            "reason": info.reason,
            "contain": info.contain,
            "adopted": info.adopted,
            "remaining": info.remaining,
        }),
    );
    meta.insert(
        "dev.hostler/limits".into(),
        json!({"memory": limits.memory, "pids": limits.pids, "cpuMillis": limits.cpu_millis}),
    );
    if let Some(report) = session.report() {
        let report = CloseReport::from(&*report);
        let report = serde_json::to_value(report).unwrap_or_default();
        meta.insert("dev.hostler/report".into(), report);
    }
    meta
}

/// Whether a listing is to have the processes and terminals of each session.
pub(super) fn wants_resources(params: &ListSessionsParams) -> bool {
    let meta = params.meta.as_ref().and_then(|meta| meta.get(RESOURCES));
    meta.and_then(Value::as_bool) == Some(true)
}

/// What a listing tells of a session besides: as the REST API shows it; and the processes and terminals, with their channels, of it and
/// of those that have its chats, where `sessions` are given to find them.
pub(super) async fn listed(all: &[Session], sessions: Option<&Sessions>) -> Map<String, Value> {
    let mut meta = Map::new();
    if let Some(session) = all.first() {
        let shown = serde_json::to_value(Shown::from(session.info())).unwrap_or_default();
        meta.insert("dev.hostler/session".into(), shown);
    }
    let Some(sessions) = sessions else {
        return meta;
    };
    let mut shown = Vec::new();
    for session in all {
        let own = terminal::own_uri(&session.info().labels);
        // One that closes meanwhile has none to show.
        for resource in session.resources().await.unwrap_or_default() {
            let Ok(handle) = sessions.process(resource.id.as_str()) else {
                continue;
            };
            let own = own.as_ref().filter(|_| handle.is_terminal()).cloned();
            let channel = own.unwrap_or_else(|| uri::terminal(handle.id().as_str()));
            let mut process = serde_json::to_value(Process::from(&handle)).unwrap_or_default();
            process["channel"] = channel.into();
            shown.push(process);
        }
    }
    meta.insert(RESOURCES.into(), shown.into());
    meta
}

/// The same with the processes that live.
async fn whole(session: &Session) -> Map<String, Value> {
    let mut meta = brief(session);
    let Ok(mut processes) = session.census().await else {
        return meta;
    };
    let memory: u64 = processes.iter().map(|process| process.resident).sum();
    processes.sort_by_key(|process| process.id.pid);
    let shown: Vec<Value> = processes
        .iter()
        .take(MOST)
        .map(|process| {
            json!({
                "pid": process.id.pid,
                "startTime": process.id.start_time,
                "parent": process.parent,
                "command": process.command.to_string(),
                "state": char::from(process.state).to_string(),
                "rss": process.resident,
                "cpuMs": process.cpu.as_millis() as u64,
            })
        })
        .collect();
    meta.insert("dev.hostler/memory".into(), memory.into());
    meta.insert("dev.hostler/processes".into(), shown.into());
    meta
}

/// Tells those who follow a session what has changed of it.
pub(super) async fn show(hub: &Hub, channel: &str, session: &Session) {
    let extension = uri::extension(channel);
    let followed = extension.as_ref().is_some_and(|uri| hub.followers(uri) > 0);
    if hub.followers(channel) == 0 && !followed {
        return;
    }
    tell(hub, channel, whole(session).await);
}

/// Tells how it ended.
pub(super) fn show_end(hub: &Hub, channel: &str, session: &Session) {
    tell(hub, channel, brief(session));
}

fn tell(hub: &Hub, channel: &str, meta: Map<String, Value>) {
    let same = hub.look(channel, |state| match state {
        ChannelState::Session(state) => state.meta.as_ref() == Some(&meta),
        _ => true,
    });
    if same != Some(false) {
        return;
    }
    if let Some(extension) = uri::extension(channel) {
        let params = json!({"channel": extension, "session": channel, "changes": &meta});
        hub.notify(&extension, METHOD, &params);
    }
    let meta = Some(meta);
    let action = StateAction::SessionMetaChanged(SessionMetaChangedAction { meta });
    hub.publish(channel, action, None);
}
