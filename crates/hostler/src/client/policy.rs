//! A session's policy, as it is said on the command line.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use hostler_run::options::Time;

/// When a session ends without being asked, and how.
#[derive(Debug, Default, Args)]
pub(crate) struct Policy {
    /// Close it when nothing happened in it for so long; 0: never
    #[arg(long, value_name = "TIME")]
    idle_ttl: Option<Time>,
    /// Close it at this age; 0: never
    #[arg(long, value_name = "TIME")]
    max_age: Option<Time>,
    /// Close it when this hour of the day comes (0 to 23, local time), or `never`
    #[arg(long, value_name = "HOUR")]
    daily_reset: Option<Hour>,
    /// Time between SIGTERM and SIGKILL when it closes
    #[arg(long, value_name = "TIME")]
    grace: Option<Time>,
    /// Close it so long after its last client left; 0: never
    #[arg(long, value_name = "TIME")]
    detached_grace: Option<Time>,
    /// What becomes of it when its last client leaves
    #[arg(long, value_enum, value_name = "WHAT")]
    on_disconnect: Option<OnDisconnect>,
    /// How long it waits for the next host, if it is kept
    #[arg(long, value_name = "TIME")]
    keep_for: Option<Time>,
    /// What becomes of it when the host dies
    #[arg(long, value_enum, value_name = "WHAT")]
    on_host_exit: Option<OnHostExit>,
    /// For so long running background processes hold off an end that nobody asked for
    #[arg(long, value_name = "TIME")]
    background_holds: Option<Time>,
    /// Most background processes at once; 0: no limit
    #[arg(long, value_name = "N")]
    max_background: Option<u32>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnDisconnect {
    /// It is closed at once
    Close,
    /// It lives on for its detached grace
    Detach,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnHostExit {
    /// Its processes end within its grace
    Kill,
    /// It waits for the next host
    Keep,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hour(Option<u8>);

impl std::str::FromStr for Hour {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        if text == "never" {
            return Ok(Self(None));
        }
        let hour = text.parse().ok().filter(|hour| *hour < 24);
        hour.map(|hour| Self(Some(hour)))
            .ok_or("an hour from 0 to 23 or `never` is allowed")
    }
}

impl Policy {
    /// As the control API takes it.
    pub(super) fn json(&self) -> Map<String, Value> {
        let mut out = Map::new();
        let mut put = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out.insert(key.into(), value);
            }
        };
        let seconds =
            |time: &Option<Time>| time.as_ref().map(|time| json!(time.span.as_secs_f64()));
        put("idle", seconds(&self.idle_ttl));
        put("max_age", seconds(&self.max_age));
        put(
            "daily_reset",
            self.daily_reset
                .map(|hour| hour.0.map_or(json!(-1), Value::from)),
        );
        put("keep_for", seconds(&self.keep_for));
        put("grace", seconds(&self.grace));
        put("detached_grace", seconds(&self.detached_grace));
        put("background_holds", seconds(&self.background_holds));
        put("max_background", self.max_background.map(Value::from));
        let word = |text: &str| Some(Value::from(text));
        put(
            "on_disconnect",
            self.on_disconnect.and_then(|what| match what {
                OnDisconnect::Close => word("close"),
                OnDisconnect::Detach => word("detach"),
            }),
        );
        put(
            "on_host_exit",
            self.on_host_exit.and_then(|what| match what {
                OnHostExit::Kill => word("kill"),
                OnHostExit::Keep => word("keep"),
            }),
        );
        out
    }
}
