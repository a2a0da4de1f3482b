//! What a session has: processes as resources, and lists of all it owns.

use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::ResourceId;
use hostler_process::Signal;
use serde_json::json;

use crate::actor::{Actor, Entry};
use crate::closing::Owned;
use crate::event::SessionState;
use crate::process::Shared;
use crate::resource::{Releasing, Resource, ResourceInfo, ResourceState};

/// A process or terminal as a resource.
pub(crate) struct ProcessResource {
    pub(crate) shared: Arc<Shared>,
}

impl Resource for ProcessResource {
    fn kind(&self) -> &'static str {
        self.shared.kind()
    }

    fn shown(&self) -> String {
        self.shared.shown()
    }

    fn describe(&self) -> serde_json::Value {
        let status = *self.shared.status.borrow();
        let (out, err) = (&self.shared.stdout, &self.shared.stderr);
        json!({
            "argv": self.shared.options.argv,
            "cwd": self.shared.options.cwd,
            "foreground": self.shared.options.is_foreground(),
            "status": status,
            "by": self.shared.by,
            "stdout_bytes": out.progress().len,
            "stderr_bytes": err.as_ref().map(|err| err.progress().len),
        })
    }

    fn busy(&self) -> bool {
        self.shared.options.is_foreground() && self.shared.state() != ResourceState::Ended
    }

    fn release(&mut self, grace: Duration) -> Releasing<'_> {
        Box::pin(async move {
            end(&self.shared, grace).await;
            let mut status = self.shared.status.subscribe();
            let _ = status
                .wait_for(|status| status.state == ResourceState::Ended)
                .await;
            Actor::outcome(&self.shared, true)
        })
    }
}

/// Ends a process and what is under it; it is not started again.
pub(crate) async fn end(shared: &Shared, grace: Duration) {
    shared.stop.send_replace(true);
    // One that is being started is ended when it is there.
    let mut status = shared.status.subscribe();
    let _ = status
        .wait_for(|status| status.state != ResourceState::Starting)
        .await;
    if let Some(process) = shared.process() {
        if shared.options.terminal.is_some() {
            let _ = process.signal_group(Signal::HUP).await;
            let _ = process.signal_group(Signal::CONT).await;
        }
        let _ = process.end(grace).await;
    }
}

impl Actor {
    /// All, in the order in which they came.
    pub(crate) fn list(&self) -> Vec<ResourceInfo> {
        let mut entries: Vec<(&ResourceId, &Entry)> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.order);
        let stuck = self.state() == SessionState::Stuck;
        entries
            .into_iter()
            .map(|(id, entry)| {
                let (state, detail) = match (&entry.process, &entry.resource) {
                    (Some(shared), _) => {
                        let shared = shared.clone();
                        let state = match shared.state() {
                            ResourceState::Running if stuck => ResourceState::Stuck,
                            ResourceState::Running if entry.ended_by.is_some() => {
                                ResourceState::Releasing
                            }
                            state => state,
                        };
                        (state, ProcessResource { shared }.describe())
                    }
                    (None, Some(resource)) => (ResourceState::Running, resource.describe()),
                    (None, None) => (ResourceState::Releasing, serde_json::Value::Null),
                };
                ResourceInfo {
                    id: id.clone(),
                    kind: entry.kind.clone(),
                    name: entry.name.clone(),
                    shown: entry.shown.clone(),
                    state,
                    detail,
                }
            })
            .collect()
    }

    /// All, for the close. What plugs in is taken out.
    pub(crate) fn owned(&mut self) -> Vec<Owned> {
        let mut entries: Vec<(&ResourceId, &mut Entry)> = self.entries.iter_mut().collect();
        entries.sort_by_key(|(_, entry)| entry.order);
        entries
            .into_iter()
            .map(|(id, entry)| Owned {
                id: id.clone(),
                kind: entry.kind.clone(),
                shown: entry.shown.clone(),
                resource: entry.resource.take(),
                process: entry.process.clone(),
                hung_up: entry.process.as_ref().is_some_and(|shared| {
                    shared.options.terminal.is_some() && shared.state() != ResourceState::Ended
                }),
                recorded: entry.recorded,
                outcome: entry
                    .process
                    .as_ref()
                    .filter(|_| entry.recorded)
                    .map(|shared| Self::outcome(shared, entry.ended_by.is_some())),
                took: Duration::ZERO,
            })
            .collect()
    }
}
