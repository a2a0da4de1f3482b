//! Sessions of an earlier host whose keeper lives and cannot be reached, or of which something cannot be ended.
//!
//! Each is shown as stuck and tried again, with pauses that grow, and whenever its close is asked for. When it is reached it
//! goes on or ends, as it would have at the start.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_ledger::{By, SessionId};
use hostler_process::{Adopted, Error, Tree};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

use crate::actor::Actor;
use crate::event::SessionState;
use crate::mailbox::Message;
use crate::options::SessionOptions;
use crate::process::lock;
use crate::recover::{Group, Seen};
use crate::report::{CloseReason, CloseReport};
use crate::sessions::Host;

/// The pauses between tries.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// What is needed to show and to find a session again.
#[derive(Clone)]
pub(crate) struct Trace {
    options: SessionOptions,
    opened: u64,
    socket: PathBuf,
}

/// Of every session that has a tree.
pub(crate) fn traces(levels: &[Vec<Group>]) -> HashMap<SessionId, Trace> {
    let owners = levels.iter().flatten().map(|group| &group.owner);
    owners
        .map(|known| {
            let trace = Trace {
                options: known.detail.options.clone(),
                opened: known.row.opened,
                socket: known.detail.socket.clone(),
            };
            (known.row.id.clone(), trace)
        })
        .collect()
}

/// Shows those that were not reached, and tries them again.
pub(crate) fn watch(host: &Arc<Host>, traces: &HashMap<SessionId, Trace>, seen: &[Seen]) {
    for (id, why) in seen.iter().flat_map(|seen| &seen.unreached) {
        let Some(trace) = traces.get(id) else {
            continue;
        };
        // Where it fails, another one has its name: the next recovery sees to it.
        if let Some(actor) = show(host, id, trace, why) {
            let unreached = Unreached {
                actor,
                trace: trace.clone(),
                asked: None,
            };
            tokio::spawn(unreached.run());
        }
    }
}

fn show(host: &Arc<Host>, id: &SessionId, trace: &Trace, why: &str) -> Option<Actor> {
    let options = trace.options.clone();
    let mut actor = crate::open::register(host, id.clone(), options, trace.opened).ok()?;
    actor.in_ledger = true;
    let report = Arc::new(report(&actor, why));
    actor
        .status
        .send_modify(|status| status.report = Some(report));
    actor.set_state(SessionState::Stuck, Some(CloseReason::HostDied));
    actor.record_state(SessionState::Stuck, By::new("host", why));
    if let Some(parent) = &actor.parent {
        // It is not closed before this one. Nobody waits: it may not act yet.
        let (reply, _) = oneshot::channel();
        let child = actor.session.clone();
        parent.fixed.mailbox.send(Message::Child { child, reply });
    }
    Some(actor)
}

/// Nothing is known of it but that something is there.
fn report(actor: &Actor, why: &str) -> CloseReport {
    CloseReport {
        session: actor.id(),
        name: actor.session.name().map(str::to_owned),
        reason: CloseReason::HostDied,
        by: By::new("host", why),
        took: Duration::ZERO,
        released: Vec::new(),
        processes: Vec::new(),
        connected: Vec::new(),
        remaining: 1,
        proven: false,
        stuck: Vec::new(),
        kept: Vec::new(),
        children: Vec::new(),
        recorded: false,
    }
}

struct Unreached {
    actor: Actor,
    trace: Trace,
    /// Its close is wanted.
    asked: Option<(CloseReason, By, Option<Duration>)>,
}

impl Unreached {
    async fn run(mut self) {
        let mut pause = FIRST_RETRY;
        loop {
            if self.wait(Instant::now() + pause).await {
                // The next host tries on.
                self.actor.leave();
                return;
            }
            pause = (pause * 2).min(LONGEST_RETRY);
            let why = match Tree::adopt(&self.trace.socket).await {
                Ok(adopted) => self.reached(Ok(adopted)).await,
                Err(error @ (Error::NoKeeper(_) | Error::KeeperGone)) => {
                    self.reached(Err(error)).await
                }
                Err(error) => Some(error.to_string()),
            };
            let Some(why) = why else { return };
            // A new report answers those who asked.
            let report = Arc::new(report(&self.actor, &why));
            let status = &self.actor.status;
            status.send_modify(|status| status.report = Some(report));
        }
    }

    /// Until it is to be tried again; whether it is to be left to the next host instead.
    async fn wait(&mut self, until: Instant) -> bool {
        loop {
            let message = tokio::select! {
                () = sleep_until(until) => return false,
                message = self.actor.inbox.recv() => message,
            };
            match message.map(|message| *message) {
                Some(Message::Close {
                    reason,
                    by,
                    grace,
                    judge: false,
                }) => {
                    self.asked.get_or_insert((reason, by, grace));
                    return false;
                }
                Some(Message::HandOver { reply, .. }) => {
                    let _ = reply.send(Ok(Vec::new()));
                    return true;
                }
                Some(Message::Resources { reply }) => drop(reply.send(Vec::new())),
                Some(Message::Child { child, reply }) => {
                    self.actor.children.insert(child.id().clone(), child);
                    let _ = reply.send(Ok(()));
                }
                Some(Message::ChildGone { id }) => drop(self.actor.children.remove(&id)),
                // Who asks for anything else hears that it is not open.
                Some(_) => {}
                None => return true,
            }
        }
    }

    /// Goes on with it, or ends it; why not, where that fails again.
    async fn reached(&mut self, adopted: Result<Adopted, Error>) -> Option<String> {
        let host = self.actor.host.clone();
        let id = self.actor.id();
        let group = match crate::recover::group_of(&host, &id).await {
            Ok(Some(group)) => group,
            // Nothing is to be done for it any more.
            Ok(None) => {
                self.actor.leave();
                return None;
            }
            Err(error) => return Some(error.to_string()),
        };
        self.actor.unregister();
        let mut seen = crate::adopt::reached(&host, group, adopted).await;
        let went_on = crate::revived::go_on(&host, std::mem::take(&mut seen.revived)).await;
        seen.swept.extend(went_on.swept);
        if let Some((_, why)) = seen.unreached.pop() {
            let children = std::mem::take(&mut self.actor.children);
            self.actor = show(&host, &id, &self.trace, &why)?;
            self.actor.children = children;
            return Some(why);
        }
        crate::sweep::record_rest(&host, &mut seen.swept).await;
        let new = lock(&host.registry).sessions.get(&id).cloned();
        if let Some(new) = &new {
            // What was asked meanwhile.
            while let Ok(message) = self.actor.inbox.try_recv() {
                new.fixed.mailbox.send(*message);
            }
        } else {
            for (_, child) in self.actor.children.drain() {
                let by = By::new("host", "its parent is gone");
                let _ = child.close(CloseReason::ParentClosed, by, None).await;
            }
            self.actor.tell_parent_it_is_gone();
        }
        let mut swept = seen.swept.into_iter();
        let mut report = swept.find(|report| report.session == id).map(Arc::new);
        if let (Some(new), Some((reason, by, grace))) = (new, self.asked.take()) {
            report = new.close(reason, by, grace).await.ok();
        }
        if let Some(report) = report {
            self.actor.status.send_modify(|status| {
                status.state = SessionState::Closed;
                status.report = Some(report);
            });
        }
        None
    }
}
