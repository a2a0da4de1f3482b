//! Ending all of a tree but what is kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hostler_process::{
    EndReason, EndReport, Error, How, Left, ProcessId, ProcessInfo, Signal, Target, Tree,
};
use tokio::time::{Instant, sleep};

use crate::process::Shared;

/// How long after the grace what SIGKILL does not end is waited for.
const STUCK_AFTER: Duration = Duration::from_secs(2);

/// Ends everything in the tree but the spared processes and what is under them.
pub(crate) async fn prune(
    tree: &Tree,
    spared: &[Arc<Shared>],
    grace: Duration,
) -> Result<EndReport, Error> {
    let began = Instant::now();
    let spared: HashSet<ProcessId> = spared
        .iter()
        .filter_map(|shared| shared.process().map(|process| process.id()))
        .collect();
    let mut seen: HashMap<ProcessId, Left> = HashMap::new();
    let mut pause = Duration::from_millis(1);
    loop {
        let census = tree.census().await?;
        let rest = beyond(&census, &spared);
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

/// The living processes that are neither spared nor under one that is.
fn beyond(census: &[ProcessInfo], spared: &HashSet<ProcessId>) -> Vec<ProcessInfo> {
    let by_pid: HashMap<u32, &ProcessInfo> =
        census.iter().map(|info| (info.id.pid, info)).collect();
    let is_spared = |info: &ProcessInfo| {
        let mut at = Some(info);
        // Bounded: a census is no snapshot, and parents may form a circle in it.
        for _ in 0..census.len() {
            match at {
                Some(info) if spared.contains(&info.id) => return true,
                Some(info) => at = by_pid.get(&info.parent).copied(),
                None => return false,
            }
        }
        false
    };
    census
        .iter()
        .filter(|info| !matches!(info.state, b'Z' | b'X') && !is_spared(info))
        .copied()
        .collect()
}
