//! When a keeper was killed: who says that nothing is left.

use std::ffi::CStr;
use std::time::Duration;

use hostler_keeper::cgroup::Cgroup;
use hostler_keeper::identity::ProcessId;
use hostler_keeper::outcome::{EndReason, EndReport};
use hostler_keeper::proc::Proc;
use hostler_keeper::witness::Witness;
use rustix::process::Pid;
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
        if cgroup.is_populated() {
            cgroup.kill_each();
        }
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

/// Who will say what a killed keeper has left.
#[derive(Debug)]
pub(crate) enum Mourner {
    /// The zygote of this host.
    Zygote {
        gone: oneshot::Receiver<EndReport>,
        /// Held so that its task lives and tells.
        zygote: Zygote,
    },
    /// The zygote of the host that this one has the tree from.
    Witness {
        file: Option<Witness>,
        keeper: ProcessId,
        zygote: ProcessId,
    },
}

impl Mourner {
    /// What it has to say from now on. For a keeper that is dead.
    pub(crate) fn listen(self) -> Late {
        match self {
            Self::Zygote { gone, zygote } => Late {
                gone,
                _zygote: Some(zygote),
            },
            Self::Witness {
                file,
                keeper,
                zygote,
            } => {
                let (told, gone) = oneshot::channel();
                if let Some(file) = file {
                    tokio::spawn(read(file, keeper, zygote, told));
                }
                Late {
                    gone,
                    _zygote: None,
                }
            }
        }
    }
}

/// Waits for the zygote's word on the keeper, for as long as the zygote is there and somebody wants to know.
async fn read(
    file: Witness,
    keeper: ProcessId,
    zygote: ProcessId,
    told: oneshot::Sender<EndReport>,
) {
    let mut pause = Duration::from_millis(1);
    while !told.is_closed() {
        // Looked for first: it may have written before it went.
        let lives = lives(zygote);
        match file.find(keeper) {
            Ok(Some(report)) => return drop(told.send(report)),
            Ok(None) if lives => {}
            _ => return,
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn lives(id: ProcessId) -> bool {
    let stat =
        Pid::from_raw(id.pid.cast_signed()).and_then(|pid| Proc::open().ok()?.stat(pid).ok());
    stat.is_some_and(|stat| stat.id == id && !stat.is_dead())
}

/// What is still to be said.
#[derive(Debug)]
pub(crate) struct Late {
    pub(crate) gone: oneshot::Receiver<EndReport>,
    _zygote: Option<Zygote>,
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
