//! The background processes and terminals of a session, as the background work of its own chat.

use std::collections::HashMap;

use ahp_types::actions::{
    ChatBackgroundWorkRemovedAction, ChatBackgroundWorkSetAction, StateAction,
};
use ahp_types::state::{BackgroundShellWork, BackgroundWork};
use hostler_session::{Mode, ProcessHandle, ResourceState, Session, Sessions};

use super::chat::Chat;
use super::hub::Hub;
use super::uri;
use crate::wire::iso_8601;

/// Clock ticks in a second, as the kernel tells times to programs (proc(5)).
const TICKS: u64 = 100;

/// Tells those who follow a session's own chat what runs in the background.
pub(super) async fn show(hub: &Hub, chat: &Chat, sessions: &Sessions, session: &Session) {
    if hub.followers(&chat.uri) == 0 {
        return;
    }
    let Ok(resources) = session.resources().await else {
        return;
    };
    let running = resources
        .iter()
        .filter(|one| {
            matches!(
                one.state,
                ResourceState::Running | ResourceState::Restarting
            )
        })
        .filter_map(|one| sessions.process(one.id.as_str()).ok());
    let now: HashMap<String, BackgroundShellWork> = running
        .filter(|one| one.is_terminal() || one.options().mode == Mode::Background)
        .map(|one| (one.id().to_string(), work(&one)))
        .collect();
    let shown = chat.look(|state| {
        let shown = state.background_work.iter().flatten();
        let ids = shown.filter_map(|work| match work {
            BackgroundWork::Shell(work) => Some(work.id.clone()),
            _ => None,
        });
        ids.collect::<Vec<_>>()
    });
    let shown = shown.unwrap_or_default();
    for id in shown.iter().filter(|id| !now.contains_key(*id)) {
        let action = ChatBackgroundWorkRemovedAction { id: id.clone() };
        let action = StateAction::ChatBackgroundWorkRemoved(action);
        hub.publish(&chat.uri, action, None);
    }
    for (id, work) in now {
        if !shown.contains(&id) {
            let work = BackgroundWork::Shell(work);
            let action = StateAction::ChatBackgroundWorkSet(ChatBackgroundWorkSetAction { work });
            hub.publish(&chat.uri, action, None);
        }
    }
}

fn work(process: &ProcessHandle) -> BackgroundShellWork {
    let options = process.options();
    let command = options.argv.join(" ");
    let id = process.id().to_string();
    BackgroundShellWork {
        label: options.name.clone().unwrap_or_else(|| command.clone()),
        started_at: iso_8601(started(process.status().start_time)),
        meta: None,
        command,
        terminal: process.is_terminal().then(|| uri::terminal(&id)),
        id,
    }
}

/// When that was, in Unix time: ticks are counted from the start of the machine.
fn started(ticks: Option<u64>) -> u64 {
    let ms = |clock| {
        let time = rustix::time::clock_gettime(clock);
        u64::try_from(time.tv_sec).unwrap_or(0) * 1000
            + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
    };
    let up = ms(rustix::time::ClockId::Boottime);
    let now = ms(rustix::time::ClockId::Realtime);
    let ago = ticks.map_or(0, |ticks| up.saturating_sub(ticks * 1000 / TICKS));
    now.saturating_sub(ago)
}
