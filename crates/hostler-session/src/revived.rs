//! From when on adopted sessions act: when all of them are known.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hostler_ledger::{By, SessionId};

use crate::actor::Actor;
use crate::mailbox::Message;
use crate::process::lock;
use crate::recover::Seen;
use crate::report::CloseReason;
use crate::session::Session;
use crate::sessions::Host;

/// A session that goes on here, and does not act yet.
pub(crate) struct Revived {
    pub(crate) actor: Actor,
    /// It only lends its tree to one that goes on, and is closed.
    pub(crate) ends: bool,
}

/// Has sessions act again, each with the children it has: one may be about to close, and takes them with it. What became of those
/// that end.
pub(crate) async fn go_on(host: &Arc<Host>, revived: Vec<Revived>) -> Seen {
    let mut seen = Seen::default();
    let mut children: HashMap<SessionId, HashMap<SessionId, Session>> = HashMap::new();
    for session in lock(&host.registry).sessions.values() {
        if let Some(parent) = &session.fixed.options.parent {
            let of_parent = children.entry(parent.clone()).or_default();
            of_parent.insert(session.id().clone(), session.clone());
        }
    }
    let ids: HashSet<SessionId> = revived.iter().map(|revived| revived.actor.id()).collect();
    let mut to_end = Vec::new();
    for Revived { mut actor, ends } in revived {
        let session = actor.session.clone();
        actor.children = children.remove(session.id()).unwrap_or_default();
        let parent = actor.parent.clone();
        tokio::spawn(actor.run());
        // One that acts already is told; it may be waiting for this one itself.
        if let Some(parent) = parent.filter(|parent| !ids.contains(parent.id())) {
            tokio::spawn(join(parent, session.clone()));
        }
        if ends {
            to_end.push(session);
        } else {
            seen.adopted.push(session.id().clone());
        }
    }
    for session in to_end {
        let by = By::new("host", "swept: its host died");
        if let Ok(report) = session.close(CloseReason::HostDied, by, None).await {
            seen.swept.push((*report).clone());
        }
    }
    seen
}

/// Makes one the child of the other, or closes it.
async fn join(parent: Session, child: Session) {
    let told = child.clone();
    let told = parent
        .ask(|reply| Message::Child { child: told, reply })
        .await;
    if !matches!(told, Ok(Ok(()))) {
        let by = By::new("host", "its parent is gone");
        let _ = child.close(CloseReason::ParentClosed, by, None).await;
    }
}
