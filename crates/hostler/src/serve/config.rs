//! The configuration: one TOML file, each key of which an environment variable can override.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_agent::{Catalogue, Delegation};
use hostler_gateway::AcpOptions;
use hostler_gateway::wire::PolicyChange;
use hostler_job::JobsOptions;
use hostler_ledger::Durability;
use hostler_session::{Containment, OnDisconnect, OnHostExit, Policy};
use toml::Value;

use super::Refused;
use super::values::{COUNT, CPU, SIZE, TIME, count, cpus, listen, names, size, span, time};

/// The longest time that schedules make up for.
const LONGEST_CATCH_UP: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a host does where nobody says otherwise.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Where to listen on TCP, if at all.
    pub listen: Option<String>,
    /// Whether somebody said so; else it is the default, for a host that was given no socket.
    pub listen_asked: bool,
    pub durability: Durability,
    pub max_sessions: Option<usize>,
    pub min_available: Option<u64>,
    /// The names (or their beginnings, with `*`) of variables of the host's own that its processes get.
    pub env: Vec<String>,
    /// How long the sessions have when the host stops.
    pub shutdown_deadline: Duration,
    /// The policy of a session that asks for nothing.
    pub policy: Policy,
    /// The agents that there are.
    pub agents: Catalogue,
    /// The agent of a client that names none.
    pub default_agent: String,
    /// An agent that nobody has used for so long is ended; zero for never.
    pub agent_idle: Duration,
    /// How many agents may be up.
    pub max_agents: Option<usize>,
    /// How many agents are kept started ahead at the most, of all kinds together.
    pub max_warm: usize,
    /// How deep, and how many at a time, sessions of agents may have others.
    pub delegation: Delegation,
    /// How jobs share agents.
    pub jobs: JobsOptions,
    /// How clients that speak ACP are served.
    pub acp: AcpOptions,
}

/// Read so far.
struct Draft {
    config: Config,
    policy: PolicyChange,
}

impl Default for Draft {
    fn default() -> Self {
        let env = [
            "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ",
            "TMPDIR",
        ];
        Self {
            config: Config {
                listen: Some("127.0.0.1:7717".into()),
                listen_asked: false,
                durability: Durability::default(),
                max_sessions: None,
                min_available: None,
                env: env.map(str::to_owned).to_vec(),
                shutdown_deadline: Duration::from_secs(60),
                policy: Policy::default(),
                agents: Catalogue::built_in(&this_program()),
                default_agent: "shell".into(),
                agent_idle: Duration::ZERO,
                max_agents: None,
                max_warm: hostler_agent::AgentsOptions::default().max_spares,
                delegation: Delegation::default(),
                jobs: JobsOptions::default(),
                acp: AcpOptions::default(),
            },
            policy: PolicyChange::default(),
        }
    }
}

/// A key: what is allowed as its value, and what is done with it. `None`: that is not allowed.
struct Key {
    name: &'static str,
    allowed: &'static str,
    set: fn(&mut Draft, &Value) -> Option<()>,
}

macro_rules! key {
    ($name:literal, $allowed:expr, |$draft:ident, $value:ident| $set:expr) => {
        Key {
            name: $name,
            allowed: $allowed,
            set: |$draft, $value| {
                $set;
                Some(())
            },
        }
    };
}

const KEYS: &[Key] = &[
    key!(
        "listen",
        "an address and a port, such as 127.0.0.1:7717, or none",
        |draft, value| {
            draft.config.listen = listen(value.as_str()?)?;
            draft.config.listen_asked = true;
        }
    ),
    key!("durability", "power or process", |draft, value| {
        draft.config.durability = match value.as_str()? {
            "power" => Durability::Power,
            "process" => Durability::Process,
            _ => return None,
        }
    }),
    key!("max_sessions", COUNT, |draft, value| {
        let most = usize::try_from(count(value)?).ok()?;
        draft.config.max_sessions = Some(most).filter(|most| *most != 0)
    }),
    key!("min_available", SIZE, |draft, value| {
        draft.config.min_available = Some(size(value)?).filter(|size| *size != 0)
    }),
    key!(
        "env",
        "names of variables, each may end with *",
        |draft, value| { draft.config.env = names(value)? }
    ),
    key!(
        "shutdown_deadline",
        "seconds, or a number with ms, s, m or h",
        |draft, value| {
            draft.config.shutdown_deadline = Duration::try_from_secs_f64(time(value)?).ok()?
        }
    ),
    key!(
        "default_agent",
        "the name of an agent that there is",
        |draft, value| { draft.config.default_agent = value.as_str()?.to_owned() }
    ),
    key!("agent_idle", TIME, |draft, value| {
        draft.config.agent_idle = Duration::try_from_secs_f64(time(value)?).ok()?
    }),
    key!("max_agents", COUNT, |draft, value| {
        let most = usize::try_from(count(value)?).ok()?;
        draft.config.max_agents = Some(most).filter(|most| *most != 0)
    }),
    key!("max_warm", "a number", |draft, value| {
        draft.config.max_warm = usize::try_from(count(value)?).ok()?
    }),
    key!("delegation.max_depth", "a number", |draft, value| {
        draft.config.delegation.max_depth = usize::try_from(count(value)?).ok()?
    }),
    key!("delegation.max_children", "a number", |draft, value| {
        draft.config.delegation.max_children = usize::try_from(count(value)?).ok()?
    }),
    key!("jobs.agents_warm", TIME, |draft, value| {
        draft.config.jobs.pool.warm = Duration::try_from_secs_f64(time(value)?).ok()?
    }),
    key!("jobs.max_agents", COUNT, |draft, value| {
        draft.config.jobs.pool.all = usize::try_from(count(value)?).ok()?
    }),
    key!("jobs.max_agents_alike", COUNT, |draft, value| {
        draft.config.jobs.pool.by_agent = usize::try_from(count(value)?).ok()?
    }),
    key!("jobs.max_agents_of_group", COUNT, |draft, value| {
        draft.config.jobs.pool.by_group = usize::try_from(count(value)?).ok()?
    }),
    key!("jobs.catch_up", "a time up to 7d", |draft, value| {
        let time = Duration::try_from_secs_f64(time(value)?).ok()?;
        if time > LONGEST_CATCH_UP {
            return None;
        }
        draft.config.jobs.schedules.catch_up = time
    }),
    key!("acp.ping", "a time above 0", |draft, value| {
        draft.config.acp.ping = span(value)?
    }),
    key!("acp.lease", "a time above 0", |draft, value| {
        draft.config.acp.lease = span(value)?
    }),
    key!("policy.idle", TIME, |draft, value| draft.policy.idle =
        Some(time(value)?)),
    key!("policy.max_age", TIME, |draft, value| draft
        .policy
        .max_age =
        Some(time(value)?)),
    key!(
        "policy.daily_reset",
        "an hour of the day, 0 to 23, or -1 for never",
        |draft, value| {
            let hour = i8::try_from(value.as_integer()?).ok()?;
            draft.policy.daily_reset = Some(hour).filter(|hour| (-1..=23).contains(hour));
            draft.policy.daily_reset?
        }
    ),
    key!("policy.detached_grace", TIME, |draft, value| {
        draft.policy.detached_grace = Some(time(value)?)
    }),
    key!("policy.on_disconnect", "close or detach", |draft, value| {
        draft.policy.on_disconnect = Some(match value.as_str()? {
            "close" => OnDisconnect::Close,
            "detach" => OnDisconnect::Detach,
            _ => return None,
        })
    }),
    key!("policy.on_host_exit", "kill or keep", |draft, value| {
        draft.policy.on_host_exit = Some(match value.as_str()? {
            "kill" => OnHostExit::Kill,
            "keep" => OnHostExit::Keep,
            _ => return None,
        })
    }),
    key!("policy.keep_for", TIME, |draft, value| draft
        .policy
        .keep_for =
        Some(time(value)?)),
    key!("policy.grace", TIME, |draft, value| draft.policy.grace =
        Some(time(value)?)),
    key!(
        "policy.contain",
        "auto, tree, cgroup or pidns",
        |draft, value| {
            draft.policy.contain = Some(match value.as_str()? {
                "auto" => Containment::Auto,
                "tree" => Containment::Tree,
                "cgroup" => Containment::Cgroup,
                "pidns" => Containment::Pidns,
                _ => return None,
            })
        }
    ),
    key!("policy.memory", SIZE, |draft, value| draft.policy.memory =
        Some(size(value)?)),
    key!("policy.pids", COUNT, |draft, value| draft.policy.pids =
        Some(count(value)?)),
    key!("policy.cpu", CPU, |draft, value| draft.policy.cpu =
        Some(cpus(value)? as f64 / 1000.0)),
    key!("policy.background_holds", TIME, |draft, value| {
        draft.policy.background_holds = Some(time(value)?)
    }),
    key!("policy.max_background", COUNT, |draft, value| {
        draft.policy.max_background = Some(u32::try_from(count(value)?).ok()?)
    }),
];

impl Draft {
    fn set(&mut self, key: &str, shown: &str, value: &Value, origin: &str) -> Result<(), Refused> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            let names: Vec<&str> = KEYS.iter().map(|known| known.name).collect();
            return Err(Refused::usage(format!(
                "{origin}: there is no key `{key}`; there are {}",
                names.join(", ")
            )));
        };
        let value_shown = value.to_string();
        (known.set)(self, value).ok_or_else(|| {
            Refused::usage(format!(
                "{origin}: `{shown}` cannot be {value_shown}: allowed is {}",
                known.allowed
            ))
        })
    }

    fn file(&mut self, path: &Path) -> Result<(), Refused> {
        let origin = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Refused::failed(format!("cannot read {origin}: {error}")))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let place = error.span().map_or_else(String::new, |span| {
                let line = text[..span.start.min(text.len())].matches('\n').count() + 1;
                format!(" in line {line}")
            });
            Refused::usage(format!("{origin} is not TOML{place}: {}", error.message()))
        })?;
        for (key, value) in &table {
            match value {
                agents if key == "agents" => {
                    super::agents::read(&mut self.config.agents, agents, &origin)?;
                }
                Value::Table(inner) => {
                    for (inner_key, value) in inner {
                        let key = format!("{key}.{inner_key}");
                        self.set(&key, &key, value, &origin)?;
                    }
                }
                value => self.set(key, key, value, &origin)?,
            }
        }
        Ok(())
    }

    fn environment(&mut self, get: impl Fn(&str) -> Option<String>) -> Result<(), Refused> {
        for key in KEYS {
            let variable = variable(key.name);
            let Some(text) = get(&variable).filter(|text| !text.is_empty()) else {
                continue;
            };
            let value = match text.parse::<i64>() {
                Ok(number) => Value::Integer(number),
                Err(_) => Value::String(text),
            };
            self.set(key.name, &variable, &value, "environment")?;
        }
        super::agents::environment(&mut self.config.agents, get)?;
        let (agents, default) = (&self.config.agents, &self.config.default_agent);
        if agents.get(default).is_none() {
            let names: Vec<&str> = agents.iter().map(|(name, _)| name).collect();
            return Err(Refused::usage(format!(
                "`default_agent` cannot be {default:?}: there are {}",
                names.join(", ")
            )));
        }
        Ok(())
    }
}

/// The variable that overrides a key.
fn variable(key: &str) -> String {
    format!("HOSTLER_{}", key.replace('.', "_").to_uppercase())
}

impl Config {
    /// Reads the file, if there is one, and then the environment.
    pub(super) fn read(
        file: Option<&Path>,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Refused> {
        let mut draft = Draft::default();
        if let Some(file) = file {
            draft.file(file)?;
        }
        draft.environment(get)?;
        let policy = draft.policy.over(&Policy::default());
        draft.config.policy = policy.map_err(|error| Refused::usage(error.message))?;
        Ok(draft.config)
    }

    /// What of this process's environment its processes get.
    pub(super) fn allowed_env(
        &self,
        all: impl Iterator<Item = (String, String)>,
    ) -> BTreeMap<String, String> {
        let allowed = |name: &str| {
            self.env
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => name == pattern,
                })
        };
        all.filter(|(name, _)| allowed(name)).collect()
    }
}

/// This program, which is the agent `shell` too.
pub(super) fn this_program() -> PathBuf {
    // Where its file was exchanged since, the one that has its name now.
    let program = std::env::current_exe().unwrap_or_else(|_| "hostler".into());
    let shown = program.to_string_lossy();
    match shown.strip_suffix(" (deleted)") {
        Some(bare) => bare.into(),
        None => program,
    }
}

/// The file that is read where none is named, if it is there.
pub(super) fn default_file(get: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let base = get("XDG_CONFIG_HOME")
        .filter(|dir| dir.starts_with('/'))
        .or_else(|| get("HOME").map(|home| format!("{home}/.config")))?;
    let file = PathBuf::from(base).join("hostler/config.toml");
    file.exists().then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("config.toml");
        std::fs::write(&path, toml).expect("written");
        let get = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Config::read(Some(&path), get).map_err(|refused| refused.to_string())
    }

    #[test]
    fn the_file_is_read_and_the_environment_goes_over_it() {
        let toml = "listen = 'none'\nmax_sessions = 5\nmax_warm = 3\nenv = ['PATH', 'MY_*']\n[policy]\nidle = '10m'\nmemory = '2G'\ncpu = 1.5\n";
        let config = read(toml, &[]).expect("a configuration");
        assert_eq!(config.listen, None);
        assert_eq!(config.max_sessions, Some(5));
        assert_eq!(config.max_warm, 3);
        assert_eq!(config.policy.idle, Some(Duration::from_secs(600)));
        assert_eq!(config.policy.limits.memory, Some(2 << 30));
        assert_eq!(config.policy.limits.cpu_millis, Some(1500));
        let all = [("PATH", "a"), ("MY_X", "b"), ("SECRET", "c")];
        let all = all.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env = config.allowed_env(all.into_iter());
        assert_eq!(env.keys().collect::<Vec<_>>(), ["MY_X", "PATH"]);

        let env = [
            ("HOSTLER_LISTEN", "127.0.0.1:0"),
            ("HOSTLER_POLICY_IDLE", "0"),
            ("HOSTLER_POLICY_ON_HOST_EXIT", "keep"),
            ("HOSTLER_MAX_SESSIONS", ""),
        ];
        let config = read(toml, &env).expect("a configuration");
        assert_eq!(config.listen.as_deref(), Some("127.0.0.1:0"));
        assert_eq!(config.policy.idle, None);
        assert_eq!(config.policy.on_host_exit, OnHostExit::Keep);
        assert_eq!(config.max_sessions, Some(5));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_what_is_allowed() {
        for (toml, env, parts) in [
            (
                "durability = 'maybe'",
                ("X", ""),
                ["durability", "maybe", "power or process"],
            ),
            (
                "[policy]\nidle = -3",
                ("X", ""),
                ["policy.idle", "-3", "seconds"],
            ),
            (
                "[policy]\nmemory = true",
                ("X", ""),
                ["policy.memory", "true", "bytes"],
            ),
            (
                "[policy]\ndaily_reset = 24",
                ("X", ""),
                ["policy.daily_reset", "24", "0 to 23"],
            ),
            (
                "",
                ("HOSTLER_LISTEN", "7717"),
                ["HOSTLER_LISTEN", "7717", "127.0.0.1:7717"],
            ),
            (
                "",
                ("HOSTLER_POLICY_CPU", "many"),
                ["HOSTLER_POLICY_CPU", "many", "CPUs"],
            ),
            (
                "default_agent = 'nobody'",
                ("X", ""),
                ["default_agent", "nobody", "shell"],
            ),
            (
                "[agents.a]\ncommand = 3",
                ("X", ""),
                ["agents.a.command", "3", "a list"],
            ),
            (
                "polcy = 1",
                ("X", ""),
                ["polcy", "there is no key", "policy.idle"],
            ),
            ("a = [", ("X", ""), ["not TOML", "line 1", "config.toml"]),
        ] {
            let error = read(toml, &[env]).expect_err(toml);
            for part in parts {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }
}
