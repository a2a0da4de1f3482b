//! A `hostler` that a test has started, and how it ended.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::scene::Scene;
use super::{Found, children_of, read_text, slack};

/// A running `hostler`. Dropped, it is killed and waited for; the scene ends what is under it.
pub(crate) struct Front<'a> {
    pub(super) scene: &'a Scene,
    pub(super) child: Child,
    pub(super) started: Instant,
    pub(super) out: PathBuf,
    pub(super) err: PathBuf,
    pub(super) status: Option<ExitStatus>,
}

/// How a command ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// As a shell shows it: the status, or 128 and the signal. A signal is told from a status by `signal`.
    pub(crate) code: i32,
    /// The signal that ended it, if one did.
    pub(crate) signal: Option<i32>,
    /// What it wrote to standard output.
    pub(crate) out: String,
    /// What it wrote to standard error.
    pub(crate) err: String,
    /// How long it ran.
    pub(crate) took: Duration,
}

impl Front<'_> {
    /// Its pid.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// The child handle.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "it has been waited for");
        kill_process(Pid::from_raw(self.pid()).expect("a pid"), signal).expect("kill");
    }

    /// Its zygote: its child.
    pub(crate) fn zygote(&self) -> Found {
        only("zygote", children_of(self.pid()))
    }

    /// Its keeper: the zygote's child.
    pub(crate) fn keeper(&self) -> Found {
        only("keeper", children_of(self.zygote().pid))
    }

    /// Waits for its end, no longer than `limit` times the slack.
    pub(crate) fn wait(&mut self, limit: Duration) -> ExitStatus {
        let pid = Pid::from_raw(self.pid()).expect("a pid");
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait");
        }
        if self.status.is_none() {
            let fd = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd_open");
            let time = Timespec {
                tv_sec: (limit * slack()).as_secs().cast_signed() + 1,
                tv_nsec: 0,
            };
            let ended =
                poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&time)).expect("poll") > 0;
            let said = read_text(&self.err);
            assert!(
                ended,
                "hostler has not ended within {limit:?}\n{said}\n{:?}",
                self.scene.living()
            );
            self.status = Some(self.child.wait().expect("wait"));
        }
        self.status.expect("it has ended")
    }

    /// Waits for its end within 30 s times the slack.
    pub(crate) fn outcome(mut self) -> Outcome {
        let status = self.wait(Duration::from_secs(30));
        Outcome {
            code: status.code().unwrap_or(128 + status.signal().unwrap_or(0)),
            signal: status.signal(),
            out: read_text(&self.out),
            err: read_text(&self.err),
            took: self.started.elapsed(),
        }
    }

    /// What it has written to standard error so far.
    pub(crate) fn err(&self) -> String {
        read_text(&self.err)
    }

    /// The file that its standard output goes to.
    pub(crate) fn out_path(&self) -> &Path {
        &self.out
    }
}

impl Drop for Front<'_> {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn only(what: &str, mut found: Vec<Found>) -> Found {
    found.retain(Found::lives);
    assert_eq!(found.len(), 1, "one {what} expected: {found:?}");
    found.remove(0)
}
