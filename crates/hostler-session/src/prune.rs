//! Ending a part of a tree.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_process::{
    EndReason, EndReport, Error, How, Key, Left, ProcessId, ProcessInfo, Signal, Target, Tree,
    lineage,
};
use tokio::time::{Instant, sleep};

use crate::mailbox::Message;
use crate::process::Shared;
use crate::session::Session;

/// How long after the grace what SIGKILL does not end is waited for.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// What of a tree is to end.
#[derive(Clone)]
pub(crate) enum Rest {
    /// Everything but what came of the processes of this session, which gets the tree; also of those that it starts meanwhile.
    AllBut(Session),
    /// What came of these.
    Of(Vec<Arc<Shared>>),
}

/// Ends that.
pub(crate) async fn prune(tree: &Tree, which: Rest, grace: Duration) -> Result<EndReport, Error> {
    let began = Instant::now();
    let mut seen: HashMap<ProcessId, Left> = HashMap::new();
    let mut pause = Duration::from_millis(1);
    loop {
        let rest = which.of(tree.census().await?).await?;
        let took = began.elapsed();
        for left in seen.values_mut() {
            if left.took.is_zero() && !rest.iter().any(|info| info.id == left.id) {
                left.took = took;
            }
        }
        let over = took > grace.saturating_add(STUCK_AFTER);
        if rest.is_empty() || over {
            for info in &rest {
                if let Some(left) = seen.get_mut(&info.id) {
                    left.how = How::Stuck;
                    left.took = took;
                }
            }
            return Ok(EndReport {
                reason: EndReason::Request,
                left: seen.into_values().collect(),
                remaining: rest.len() as u64,
                took,
                cpu: Duration::ZERO,
                peak_memory: 0,
            });
        }
        let kill = took >= grace;
        for info in rest {
            let new = !seen.contains_key(&info.id);
            let left = seen.entry(info.id).or_insert(Left {
                id: info.id,
                command: info.command,
                how: How::Terminated,
                took: Duration::ZERO,
            });
            let target = Target::Descendant(info.id);
            if kill {
                left.how = How::Killed;
                let _ = tree.signal(target, Signal::KILL).await;
            } else if new {
                let _ = tree.signal(target, Signal::TERM).await;
                if info.state == b'T' {
                    let _ = tree.signal(target, Signal::CONT).await;
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

impl Rest {
    /// Those of a census. Whoever is asked for its processes is asked after that was taken, so that it knows of each that it has
    /// started by then.
    async fn of(&self, census: Vec<ProcessInfo>) -> Result<Vec<ProcessInfo>, Error> {
        let (known, wanted) = match self {
            Self::AllBut(session) => {
                match session.ask(|reply| Message::Processes { reply }).await {
                    Ok(known) => (known, false),
                    // One that has closed has none.
                    Err(crate::Error::Closed(_)) => (Vec::new(), false),
                    // It is the next host's, and the tree with it.
                    Err(_) => return Err(Error::Superseded),
                }
            }
            Self::Of(known) => (known.clone(), true),
        };
        let look = move || {
            let of_known = came_of(&census, &known);
            let chosen = |info: &ProcessInfo| of_known.contains(&info.id) == wanted;
            census.into_iter().filter(chosen).collect()
        };
        tokio::task::spawn_blocking(look)
            .await
            .map_err(|error| Error::Io {
                doing: "look at its processes",
                error: std::io::Error::other(error).into(),
            })
    }
}

fn came_of(census: &[ProcessInfo], known: &[Arc<Shared>]) -> HashSet<ProcessId> {
    let mut found = HashSet::new();
    for shared in known {
        // One that starts just now has a number before it has a pid.
        let key = Some(Key(shared.key.load(Ordering::Relaxed)));
        let started = census
            .iter()
            .find(|info| info.key == key)
            .map(|info| info.id);
        let status = *shared.status.borrow();
        let last = status.pid.zip(status.start_time);
        let last = last.map(|(pid, start_time)| ProcessId { pid, start_time });
        let id = shared.id.to_string();
        for origin in started.into_iter().chain(last) {
            let members = lineage::came_of(census, origin, (crate::members::MARK, &id));
            found.extend(members.into_iter().map(|info| info.id));
        }
    }
    found
}
