//! What a session is allowed, and when it ends without being asked.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Durations in JSON: seconds, with a fraction.
pub(crate) mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        let number = f64::deserialize(from)?;
        Duration::try_from_secs_f64(number).map_err(serde::de::Error::custom)
    }
}

/// The same where there may be none; 0 is none too.
pub(crate) mod seconds_or_none {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.serialize_some(&time.as_secs_f64()),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let number = Option::<f64>::deserialize(from)?.filter(|number| *number != 0.0);
        number
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(serde::de::Error::custom)
    }
}

/// What becomes of a session when its last client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It is closed at once.
    Close,
    /// It lives on, for [`Policy::detached_grace`].
    #[default]
    Detach,
}

/// What becomes of a session when the host dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnHostExit {
    /// Its processes end within its grace; the next host records it as closed.
    #[default]
    Kill,
    /// It waits for the next host, for [`Policy::keep_for`].
    Keep,
}

/// How a session's processes are held together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Containment {
    /// The strongest that changes nothing for the child.
    #[default]
    Auto,
    /// By parentage.
    Tree,
    /// And by a cgroup.
    Cgroup,
    /// And by a pid namespace.
    Pidns,
}

/// What the processes of a session may use together. `None`: as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SessionLimits {
    /// Memory in bytes.
    pub memory: Option<u64>,
    /// Number of processes.
    pub pids: Option<u64>,
    /// Thousandths of a CPU.
    pub cpu_millis: Option<u64>,
    /// How many background processes and terminals may run at once; more are refused. 0 is no limit.
    pub background: u32,
    /// How many processes that have ended are kept for looking at, with their output; the oldest go first.
    pub ended: u32,
}

/// What a session is allowed, and when it ends without being asked. In JSON times are seconds; 0 or `null` turns a reaper
/// off.
///
/// All reapers run on monotonic time, which does not go on while the machine is suspended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Close after so long without a client's input, a foreground process, a turn, or a busy resource.
    #[serde(with = "seconds_or_none", rename = "idle_seconds")]
    pub idle: Option<Duration>,
    /// Close at this age.
    #[serde(with = "seconds_or_none", rename = "max_age_seconds")]
    pub max_age: Option<Duration>,
    /// Close when this hour of the day (local time, 0 to 23) comes.
    pub daily_reset: Option<u8>,
    /// Close so long after the last client left.
    #[serde(with = "seconds_or_none", rename = "detached_grace_seconds")]
    pub detached_grace: Option<Duration>,
    /// When the last client leaves.
    pub on_disconnect: OnDisconnect,
    /// When the host dies.
    pub on_host_exit: OnHostExit,
    /// How long a session whose host died waits for the next one.
    #[serde(with = "seconds", rename = "keep_seconds")]
    pub keep_for: Duration,
    /// Between SIGTERM and SIGKILL.
    #[serde(with = "seconds", rename = "grace_seconds")]
    pub grace: Duration,
    /// For so long running background processes hold an automatic end off, once it is due. An explicit close ends them.
    #[serde(with = "seconds", rename = "background_holds_seconds")]
    pub background_holds: Duration,
    /// What its processes may use together.
    pub limits: SessionLimits,
    /// How they are held together.
    pub contain: Containment,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            idle: None,
            max_age: None,
            daily_reset: None,
            detached_grace: None,
            on_disconnect: OnDisconnect::default(),
            on_host_exit: OnHostExit::default(),
            keep_for: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(5),
            background_holds: Duration::from_secs(24 * 3600),
            limits: SessionLimits {
                background: 64,
                ended: 100,
                ..SessionLimits::default()
            },
            contain: Containment::default(),
        }
    }
}
