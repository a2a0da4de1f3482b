//! Closing quiet sessions when the machine runs out of memory.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hostler_ledger::By;
use tokio::time::sleep;

use crate::open::close_if_quiet;
use crate::process::lock;
use crate::report::CloseReason;
use crate::session::Session;
use crate::sessions::Host;

const EVERY: Duration = Duration::from_secs(5);

/// Looks after it for as long as the host's sessions are there.
pub(crate) fn watch(host: &Arc<Host>) {
    let Some(least) = host.options.min_available.filter(|least| *least > 0) else {
        return;
    };
    let host = Arc::downgrade(host);
    tokio::spawn(async move {
        loop {
            sleep(EVERY).await;
            let Some(host) = host.upgrade() else { return };
            if available().is_none_or(|available| available >= least) {
                continue;
            }
            let mut sessions: Vec<Session> =
                lock(&host.registry).sessions.values().cloned().collect();
            sessions.sort_by_key(|session| session.fixed.used.load(Ordering::Relaxed));
            for session in sessions {
                if close_if_quiet(
                    &session,
                    CloseReason::Limit,
                    By::new("host", "the machine is short of memory"),
                )
                .await
                {
                    break;
                }
            }
        }
    });
}

/// What the kernel says can be had without swapping.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
