//! What happens in sessions, for whoever follows.

use hostler_ledger::{ResourceId, SessionId};
use serde::{Deserialize, Serialize};

use crate::report::CloseReason;

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It is in the ledger; its keeper is being made.
    Starting,
    /// It can be used.
    Active,
    /// It can be used; it had clients, and the last one left.
    Detached,
    /// It is being closed.
    Closing,
    /// It has closed, and nothing is left.
    Closed,
    /// It was to be closed, and something cannot be ended. It is tried again.
    Stuck,
}

impl SessionState {
    /// The word for it in listings and in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Detached => "detached",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Stuck => "stuck",
        }
    }

    /// Whether something may be started in it.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Active | Self::Detached)
    }

    /// Whether it is open or about to be.
    pub(crate) fn is_to_stay(self) -> bool {
        self.is_open() || self == Self::Starting
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitInfo {
    /// Its exit code, if it ended by one.
    pub code: Option<u8>,
    /// The number of the signal that ended it.
    pub signal: Option<i32>,
    /// Whether nobody could tell: its keeper was lost.
    pub lost: bool,
    /// CPU time it used, in microseconds, with what it waited for.
    pub cpu_micros: u64,
    /// The largest resident set of one of its processes, in bytes.
    pub peak_resident: u64,
}

impl ExitInfo {
    /// What a shell would show: the code, or 128 and the signal.
    pub fn shell_code(&self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
            (None, None) => 137,
        }
    }

    /// Whether it ended with code 0.
    pub fn is_success(&self) -> bool {
        self.code == Some(0)
    }
}

impl From<hostler_process::Exit> for ExitInfo {
    fn from(exit: hostler_process::Exit) -> Self {
        use hostler_process::ExitStatus;
        let (code, signal) = match exit.status {
            ExitStatus::Code(code) => (Some(code), None),
            ExitStatus::Signal { signal, .. } => (None, Some(signal)),
            ExitStatus::Lost => (None, None),
        };
        Self {
            code,
            signal,
            lost: exit.status == ExitStatus::Lost,
            cpu_micros: (exit.usage.user + exit.usage.system).as_micros() as u64,
            peak_resident: exit.usage.peak_resident,
        }
    }
}

/// What happens in a session. Somebody who does not read falls behind and is told how many were missed; the ledger has all
/// but matches, by sequence number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum SessionEvent {
    /// The session stands differently.
    State {
        /// Which session.
        session: SessionId,
        /// How it stands now.
        state: SessionState,
        /// Why, where it is closing, closed or stuck.
        reason: Option<CloseReason>,
    },
    /// A process or terminal runs.
    Started {
        /// In which session.
        session: SessionId,
        /// Which.
        resource: ResourceId,
        /// Its pid.
        pid: u32,
    },
    /// It has ended: the notice, exactly once for each, even where it ended before its starter returned. One that is started
    /// again ends once, in the end.
    Exited {
        /// In which session.
        session: SessionId,
        /// Which.
        resource: ResourceId,
        /// How. `None` where it could not be started.
        exit: Option<ExitInfo>,
    },
    /// It has failed and is started again after a pause.
    Restarting {
        /// In which session.
        session: SessionId,
        /// Which.
        resource: ResourceId,
        /// How it ended this time.
        exit: ExitInfo,
        /// How often it was started so far.
        starts: u32,
    },
    /// A line of its output matched.
    Matched {
        /// In which session.
        session: SessionId,
        /// Which.
        resource: ResourceId,
        /// The pattern, as it was given.
        pattern: String,
        /// The line, cut after 1,000 characters.
        line: String,
        /// How many matches before this one were not told, for there were too many.
        unheard: u64,
    },
}

impl SessionEvent {
    /// The session that it is about.
    pub fn session(&self) -> &SessionId {
        match self {
            Self::State { session, .. }
            | Self::Started { session, .. }
            | Self::Exited { session, .. }
            | Self::Restarting { session, .. }
            | Self::Matched { session, .. } => session,
        }
    }
}
