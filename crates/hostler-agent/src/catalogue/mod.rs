//! Which agents there are, and how each is started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_session::SessionLimits;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::permission::PermissionPolicy;

const BUILT_IN: &str = include_str!("builtin.toml");

/// Why a description of agents makes no sense.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogueError {
    /// It is not TOML, or has a key that is not known.
    #[error("{0}")]
    Toml(String),
    /// An agent without a command.
    #[error("agent `{0}` has no command")]
    NoCommand(String),
}

/// How an agent is started and treated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSpec {
    /// The program and its arguments. Without a slash it is looked up in the `PATH` of its environment.
    pub command: Vec<String>,
    /// Variables for it.
    pub env: BTreeMap<String, String>,
    /// Names of variables that it gets from the host's own environment, where they are set there; each may end with `*`.
    pub inherit: Vec<String>,
    /// Where it starts. Without: where the client is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// How many are kept started and initialized ahead.
    pub warm: u32,
    /// Whether it is offered the host's own tools, as an MCP server.
    pub tools: bool,
    /// How long it may take from its start to its answer to `session/new`.
    #[serde(with = "time")]
    pub handshake_timeout: Duration,
    /// A turn in which the agent says nothing for so long is cancelled, unless it waits for somebody's answer. 0: never.
    #[serde(with = "time")]
    pub turn_idle: Duration,
    /// A turn that lasts longer is cancelled. 0: never.
    #[serde(with = "time")]
    pub turn_limit: Duration,
    /// How long an agent has to end a turn that is cancelled, before it is ended itself.
    #[serde(with = "time")]
    pub cancel_grace: Duration,
    /// Who answers its requests for permission when nobody is attached.
    pub permission: PermissionPolicy,
    /// How long such a request waits for somebody, with [`PermissionPolicy::Ask`].
    #[serde(with = "time")]
    pub permission_timeout: Duration,
    /// What is done before a session that it was used in ends by its idle time, its age or its daily reset.
    pub before_close: Option<BeforeClose>,
    /// Limits of the sessions that are opened for it.
    pub limits: Option<SessionLimits>,
}

/// A last turn or a last command, for a bounded time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BeforeClose {
    /// What the agent is prompted.
    #[serde(default)]
    pub prompt: Option<String>,
    /// A program and its arguments, run in the session before that.
    #[serde(default)]
    pub command: Vec<String>,
    /// How long both may take together.
    #[serde(with = "time", default = "BeforeClose::usual")]
    pub timeout: Duration,
}

impl BeforeClose {
    fn usual() -> Duration {
        Duration::from_secs(60)
    }
}

impl Default for BeforeClose {
    fn default() -> Self {
        Self {
            prompt: None,
            command: Vec::new(),
            timeout: Self::usual(),
        }
    }
}

impl Default for AgentSpec {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            env: BTreeMap::new(),
            inherit: Vec::new(),
            cwd: None,
            warm: 0,
            tools: true,
            handshake_timeout: Duration::from_secs(60),
            turn_idle: Duration::ZERO,
            turn_limit: Duration::ZERO,
            cancel_grace: Duration::from_secs(10),
            permission: PermissionPolicy::Ask,
            permission_timeout: Duration::from_secs(60),
            before_close: None,
            limits: None,
        }
    }
}

impl AgentSpec {
    /// This command, with nothing else asked for.
    pub fn new<S: Into<String>>(command: impl IntoIterator<Item = S>) -> Self {
        Self {
            command: command.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The variables that it gets besides those of its session: what it inherits of `all`, and over that its own.
    pub fn environment(
        &self,
        all: impl Iterator<Item = (OsString, OsString)>,
    ) -> BTreeMap<String, String> {
        let inherits = |name: &str| {
            self.inherit
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => name == pattern,
                })
        };
        all.filter_map(|(name, value)| {
            let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
            inherits(&name).then_some((name, value))
        })
        .chain(self.env.clone())
        .collect()
    }
}

/// Agents by name.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalogue {
    agents: BTreeMap<String, AgentSpec>,
}

impl Catalogue {
    /// No agents.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The well-known ones, and `shell`, which `program` (the host's own file) is when it is called with `__agent-shell`.
    pub fn built_in(program: &Path) -> Self {
        // It is part of this program, and a test reads it.
        let mut catalogue = Self::parse(BUILT_IN).unwrap_or_default();
        let shell = AgentSpec::new([&*program.to_string_lossy(), "__agent-shell"]);
        catalogue.agents.insert("shell".into(), shell);
        catalogue
    }

    /// Reads tables of agents by name.
    ///
    /// # Errors
    /// See [`CatalogueError`].
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let agents: BTreeMap<String, AgentSpec> = toml::from_str(text)
            .map_err(|error| CatalogueError::Toml(error.message().to_owned()))?;
        let mut catalogue = Self::empty();
        for (name, spec) in agents {
            catalogue.insert(name, spec)?;
        }
        Ok(catalogue)
    }

    /// Adds one, or takes the place of the one of the same name.
    ///
    /// # Errors
    /// [`CatalogueError::NoCommand`].
    pub fn insert(
        &mut self,
        name: impl Into<String>,
        spec: AgentSpec,
    ) -> Result<(), CatalogueError> {
        let name = name.into();
        if spec.command.first().is_none_or(String::is_empty) {
            return Err(CatalogueError::NoCommand(name));
        }
        self.agents.insert(name, spec);
        Ok(())
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<&AgentSpec> {
        self.agents.get(name)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AgentSpec)> {
        self.agents.iter().map(|(name, spec)| (name.as_str(), spec))
    }
}

/// A time as `"90s"`, `"10m"`, `"2h"`, `"250ms"`, `"0"`, or as a number of seconds.
mod time {
    use super::*;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Whole(u64),
        Part(f64),
    }

    pub(super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{}ms", time.as_millis()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let written = Written::deserialize(deserializer)?;
        let read = match &written {
            Written::Text(text) => read(text),
            Written::Whole(seconds) => Some(Duration::from_secs(*seconds)),
            Written::Part(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
        };
        read.ok_or_else(|| serde::de::Error::custom("a time looks like \"90s\", \"10m\" or \"0\""))
    }

    fn read(text: &str) -> Option<Duration> {
        let text = text.trim();
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let number: f64 = number.parse().ok()?;
        let scale = match unit.trim() {
            "ms" => 0.001,
            "s" | "" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        Duration::try_from_secs_f64(number * scale).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_catalogue_is_whole() {
        let catalogue = Catalogue::built_in(Path::new("/usr/bin/hostler"));
        let names: Vec<&str> = catalogue.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            ["claude", "codex", "gemini", "goose", "opencode", "shell"]
        );
    }

    #[test]
    fn an_agent_gets_what_is_allowed_and_its_own() {
        let text = "[a]\ncommand = ['x']\ninherit = ['KEY', 'MY_*']\nenv = { MY_A = 'own' }";
        let catalogue = Catalogue::parse(text).expect("a catalogue");
        let all = [
            ("KEY", "k"),
            ("KEY2", "-"),
            ("MY_A", "-"),
            ("MY_B", "b"),
            ("SECRET", "-"),
        ];
        let all = all.map(|(name, value)| (name.into(), value.into()));
        let env = catalogue.get("a").expect("a").environment(all.into_iter());
        let env: Vec<(&str, &str)> = env.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(env, [("KEY", "k"), ("MY_A", "own"), ("MY_B", "b")]);
    }

    #[test]
    fn times_and_unknown_keys_are_read_with_care() {
        let text = "[a]\ncommand = ['x']\nturn_idle = '90s'\nturn_limit = 2\ncancel_grace = '1.5m'";
        let catalogue = Catalogue::parse(text).expect("a catalogue");
        let spec = catalogue.get("a").expect("a");
        assert_eq!(spec.turn_idle, Duration::from_secs(90));
        assert_eq!(spec.turn_limit, Duration::from_secs(2));
        assert_eq!(spec.cancel_grace, Duration::from_secs(90));
        for wrong in [
            "[a]\ncommand = []",
            "[a]\ncommand = ['x']\nfoo = 1",
            "[a]\ncommand = ['x']\nturn_idle = '3 moons'",
        ] {
            assert!(Catalogue::parse(wrong).is_err(), "{wrong}");
        }
    }
}
