//! When a keeper was killed: who says that nothing is left.

use std::ffi::CStr;
use std::time::Duration;

use hostler_keeper::cgroup::Cgroup;
use hostler_keeper::outcome::{EndReason, EndReport};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::error::{Error, Result};
use crate::record::nothing_left;
use crate::zygote::Zygote;

/// How long the zygote may take to end what a killed keeper left behind, before it is said that this is not proven.
pub(crate) const ZYGOTE_TIME: Duration = Duration::from_secs(5);
/// Without keeper and zygote, a cgroup is all that still knows what belonged to the tree: kills what is in it, until the
/// kernel says that nothing is.
pub(crate) async fn end_cgroup(path: Option<&CStr>) -> Result<EndReport> {
    let began = Instant::now();
    let Some(cgroup) = path.and_then(|path| Cgroup::open(path).ok()) else {
        return Err(Error::Unproven);
    };
    while cgroup.is_populated() {
        if cgroup.kill().is_err() || began.elapsed() > ZYGOTE_TIME {
            return Err(Error::Unproven);
        }
        sleep(Duration::from_millis(2)).await;
    }
    let report = EndReport {
        reason: EndReason::KeeperLost,
        took: began.elapsed(),
        cpu: cgroup.cpu().unwrap_or_default(),
        peak_memory: cgroup.peak_memory().unwrap_or_default(),
        ..nothing_left()
    };
    let _ = cgroup.remove();
    Ok(report)
}

/// What the zygote has still to say.
#[derive(Debug)]
pub(crate) struct Late {
    gone: oneshot::Receiver<EndReport>,
    /// Held so that its task lives and tells.
    _zygote: Zygote,
}

impl Late {
    pub(crate) fn new(gone: oneshot::Receiver<EndReport>, zygote: Zygote) -> Self {
        Self {
            gone,
            _zygote: zygote,
        }
    }
}

/// Waits for that; for ever where nothing is to come.
pub(crate) async fn hear(
    late: &mut Option<Late>,
) -> std::result::Result<EndReport, oneshot::error::RecvError> {
    match late {
        Some(late) => (&mut late.gone).await,
        None => std::future::pending().await,
    }
}
