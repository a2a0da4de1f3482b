//! The agents in the configuration: `[agents.NAME]`, over the built-in catalogue.

use std::path::PathBuf;
use std::time::Duration;

use hostler_agent::{AgentSpec, BeforeClose, Catalogue, PermissionPolicy};
use hostler_session::{Policy, SessionLimits};
use toml::Value;

use super::Refused;
use super::values::{COUNT, CPU, SIZE, TIME, count, cpus, names, size, time};

/// A key of an agent: what is allowed as its value, and what is done with it. `None`: that is not allowed.
struct Key {
    name: &'static str,
    allowed: &'static str,
    set: fn(&mut AgentSpec, &Value) -> Option<()>,
}

macro_rules! key {
    ($name:literal, $allowed:expr, |$spec:ident, $value:ident| $set:expr) => {
        Key {
            name: $name,
            allowed: $allowed,
            set: |$spec, $value| {
                $set;
                Some(())
            },
        }
    };
}

const KEYS: &[Key] = &[
    key!(
        "command",
        "a list of texts: the program and its arguments",
        |spec, value| spec.command = command(value)?
    ),
    key!(
        "env",
        "a table of names and texts, such as { KEY = \"value\" }",
        |spec, value| spec.env = variables(value)?
    ),
    key!(
        "inherit",
        "names of variables, each may end with *",
        |spec, value| spec.inherit = names(value)?
    ),
    key!("cwd", "an absolute path", |spec, value| {
        let path = PathBuf::from(value.as_str()?);
        spec.cwd = Some(path).filter(|path| path.is_absolute());
        spec.cwd.as_ref()?
    }),
    key!("warm", "a number", |spec, value| spec.warm =
        u32::try_from(count(value)?).ok()?),
    key!("tools", "true or false", |spec, value| {
        spec.tools = match value {
            Value::Boolean(offered) => *offered,
            value => value.as_str()?.parse().ok()?,
        }
    }),
    key!(
        "handshake_timeout",
        "seconds, or a number with ms, s, m or h",
        |spec, value| spec.handshake_timeout = Some(span(value)?).filter(|time| !time.is_zero())?
    ),
    key!("turn_idle", TIME, |spec, value| spec.turn_idle =
        span(value)?),
    key!("turn_limit", TIME, |spec, value| spec.turn_limit =
        span(value)?),
    key!("cancel_grace", TIME, |spec, value| spec.cancel_grace =
        span(value)?),
    key!("permission", "ask, allow or deny", |spec, value| {
        spec.permission = match value.as_str()? {
            "ask" => PermissionPolicy::Ask,
            "allow" => PermissionPolicy::Allow,
            "deny" => PermissionPolicy::Deny,
            _ => return None,
        }
    }),
    key!("permission_timeout", TIME, |spec, value| spec
        .permission_timeout =
        span(value)?),
    key!("before_close.prompt", "a text", |spec, value| last(spec)
        .prompt =
        Some(value.as_str()?.to_owned())),
    key!(
        "before_close.command",
        "a list of texts: the program and its arguments",
        |spec, value| last(spec).command = command(value)?
    ),
    key!("before_close.timeout", "a time above 0", |spec, value| {
        last(spec).timeout = Some(span(value)?).filter(|time| !time.is_zero())?
    }),
    key!("limits.memory", SIZE, |spec, value| limits(spec).memory =
        some(size(value)?)),
    key!("limits.pids", COUNT, |spec, value| limits(spec).pids =
        some(count(value)?)),
    key!("limits.cpu", CPU, |spec, value| limits(spec).cpu_millis =
        some(cpus(value)?)),
    key!("limits.background", COUNT, |spec, value| limits(spec)
        .background =
        u32::try_from(count(value)?).ok()?),
];

fn last(spec: &mut AgentSpec) -> &mut BeforeClose {
    spec.before_close.get_or_insert_default()
}

fn limits(spec: &mut AgentSpec) -> &mut SessionLimits {
    spec.limits.get_or_insert_with(|| Policy::default().limits)
}

fn some(number: u64) -> Option<u64> {
    Some(number).filter(|number| *number != 0)
}

fn span(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(time(value)?).ok()
}

/// A list; in a variable of the environment, words.
fn command(value: &Value) -> Option<Vec<String>> {
    let words: Vec<String> = match value {
        Value::Array(words) => words
            .iter()
            .map(|word| word.as_str().map(str::to_owned))
            .collect::<Option<_>>()?,
        _ => return None,
    };
    let fits = words.first().is_some_and(|program| !program.is_empty())
        && words.iter().all(|word| !word.contains('\0'));
    fits.then_some(words)
}

fn variables(value: &Value) -> Option<std::collections::BTreeMap<String, String>> {
    let set = |(name, value): (&String, &Value)| {
        let fits = !name.is_empty() && !name.contains(['=', '\0']);
        let value = value.as_str().filter(|value| !value.contains('\0'))?;
        fits.then(|| (name.clone(), value.to_owned()))
    };
    value.as_table()?.iter().map(set).collect()
}

/// Sets one key of one agent.
fn set(
    spec: &mut AgentSpec,
    key: &str,
    full: &str,
    value: &Value,
    origin: &str,
) -> Result<(), Refused> {
    let Some(known) = KEYS.iter().find(|known| known.name == key) else {
        let names: Vec<&str> = KEYS.iter().map(|known| known.name).collect();
        return Err(Refused::usage(format!(
            "{origin}: there is no key `{full}`; an agent has {}",
            names.join(", ")
        )));
    };
    (known.set)(spec, value).ok_or_else(|| {
        Refused::usage(format!(
            "{origin}: `{full}` cannot be {value}: allowed is {}",
            known.allowed
        ))
    })
}

/// Reads the table `agents` over what is in the catalogue: keys of a known agent take the place of its own.
pub(super) fn read(catalogue: &mut Catalogue, agents: &Value, origin: &str) -> Result<(), Refused> {
    let shape = |what: &str, value: &Value| {
        Refused::usage(format!(
            "{origin}: `{what}` cannot be {value}: allowed is a table, as in [agents.NAME]"
        ))
    };
    let table = agents.as_table().ok_or_else(|| shape("agents", agents))?;
    for (name, keys) in table {
        let full = format!("agents.{name}");
        let keys = keys.as_table().ok_or_else(|| shape(&full, keys))?;
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(Refused::usage(format!(
                "{origin}: an agent cannot be called `{name}`: allowed are letters, digits, - and _"
            )));
        }
        let mut spec = catalogue.get(name).cloned().unwrap_or_default();
        for (key, value) in keys {
            match (key.as_str(), value) {
                ("limits" | "before_close", Value::Table(inner)) => {
                    for (inner_key, value) in inner {
                        let key = format!("{key}.{inner_key}");
                        set(&mut spec, &key, &format!("{full}.{key}"), value, origin)?;
                    }
                }
                _ => set(&mut spec, key, &format!("{full}.{key}"), value, origin)?,
            }
        }
        let insert = catalogue.insert(name.clone(), spec);
        insert.map_err(|error| {
            Refused::usage(format!("{origin}: {error}: `{full}.command` has to say it"))
        })?;
    }
    Ok(())
}

/// Reads `HOSTLER_AGENTS_NAME_KEY` for all agents that there are.
pub(super) fn environment(
    catalogue: &mut Catalogue,
    get: impl Fn(&str) -> Option<String>,
) -> Result<(), Refused> {
    let names: Vec<String> = catalogue.iter().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let mut spec = catalogue.get(&name).cloned().unwrap_or_default();
        for key in KEYS.iter().filter(|key| key.name != "env") {
            let variable = format!("HOSTLER_AGENTS_{name}_{}", key.name)
                .replace(['.', '-'], "_")
                .to_uppercase();
            let Some(text) = get(&variable).filter(|text| !text.is_empty()) else {
                continue;
            };
            let value = if key.name == "command" {
                let words = text.split_whitespace();
                Value::Array(words.map(|word| Value::String(word.to_owned())).collect())
            } else {
                match text.parse::<i64>() {
                    Ok(number) => Value::Integer(number),
                    Err(_) => Value::String(text),
                }
            };
            set(&mut spec, key.name, &variable, &value, "environment")?;
        }
        let insert = catalogue.insert(name, spec);
        insert.map_err(|error| Refused::usage(format!("environment: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read_all(toml: &str, env: &[(&str, &str)]) -> Result<Catalogue, String> {
        let mut catalogue = Catalogue::built_in(Path::new("/usr/bin/hostler"));
        let table: toml::Table = toml.parse().expect("TOML");
        let read = match table.get("agents") {
            Some(agents) => read(&mut catalogue, agents, "file"),
            None => Ok(()),
        };
        let get = |name: &str| {
            let found = env.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        read.and_then(|()| environment(&mut catalogue, get))
            .map(|()| catalogue)
            .map_err(|refused| refused.to_string())
    }

    #[test]
    fn keys_go_over_the_built_in_agent_and_new_ones_are_made() {
        let toml = "[agents.claude]\nenv = { A = 'b' }\nturn_limit = '1h'\n[agents.claude.limits]\nmemory = '2G'\n\
                    [agents.mine]\ncommand = ['my-agent', '--acp']\npermission = 'deny'\nwarm = 1";
        let env = [
            ("HOSTLER_AGENTS_MINE_WARM", "3"),
            ("HOSTLER_AGENTS_GOOSE_COMMAND", "a b"),
        ];
        let catalogue = read_all(toml, &env).expect("a catalogue");
        let claude = catalogue.get("claude").expect("claude");
        assert_eq!(claude.command, ["claude-agent-acp"]);
        assert_eq!(claude.env["A"], "b");
        assert_eq!(claude.turn_limit, Duration::from_secs(3600));
        let limits = claude.limits.expect("limits");
        assert_eq!((limits.memory, limits.background), (Some(2 << 30), 64));
        let mine = catalogue.get("mine").expect("mine");
        assert_eq!(mine.command, ["my-agent", "--acp"]);
        assert_eq!((mine.permission, mine.warm), (PermissionPolicy::Deny, 3));
        assert_eq!(catalogue.get("goose").expect("goose").command, ["a", "b"]);
        assert!(catalogue.get("shell").is_some());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value_and_what_is_allowed() {
        let none = ("X", "");
        for (toml, env, parts) in [
            ("agents = 3", none, ["agents", "3", "a table"]),
            ("agents.a = 'x'", none, ["agents.a", "x", "a table"]),
            (
                "[agents.a]\nwarm = 1",
                none,
                ["`a`", "no command", "agents.a.command"],
            ),
            (
                "[agents.a]\ncommand = 'x y'",
                none,
                ["agents.a.command", "x y", "a list"],
            ),
            (
                "[agents.a]\ncommand = []",
                none,
                ["agents.a.command", "[]", "a list"],
            ),
            (
                "[agents.a]\ncommand = ['x', 1]",
                none,
                ["agents.a.command", "1", "a list"],
            ),
            (
                "[agents.claude]\nenv = { A = 1 }",
                none,
                ["agents.claude.env", "A = 1", "a table"],
            ),
            (
                "[agents.claude]\ncwd = 'x'",
                none,
                ["agents.claude.cwd", "x", "absolute"],
            ),
            (
                "[agents.claude]\nturn_idle = 'x'",
                none,
                ["agents.claude.turn_idle", "x", "seconds"],
            ),
            (
                "[agents.claude]\nhandshake_timeout = 0",
                none,
                ["handshake_timeout", "0", "seconds"],
            ),
            (
                "[agents.claude]\npermission = 'x'",
                none,
                ["agents.claude.permission", "x", "deny"],
            ),
            (
                "[agents.claude]\nfoo = 1",
                none,
                ["agents.claude.foo", "no key", "command"],
            ),
            (
                "[agents.claude.limits]\ncpu = 'x'",
                none,
                ["agents.claude.limits.cpu", "x", "CPUs"],
            ),
            (
                "[agents.'a b']\ncommand = ['x']",
                none,
                ["a b", "letters", "digits"],
            ),
            (
                "",
                ("HOSTLER_AGENTS_CLAUDE_WARM", "x"),
                ["HOSTLER_AGENTS_CLAUDE_WARM", "x", "a number"],
            ),
        ] {
            let error = read_all(toml, &[env]).expect_err(toml);
            for part in parts {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }
}
