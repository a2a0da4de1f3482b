//! `hostler agents`: which agents there are, and whether one works.

mod check;
mod list;
pub(crate) mod peer;
pub(crate) mod temporary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use hostler_agent::AgentSpec;

use crate::serve::Configured;
use hostler_run::say;

/// What is asked about agents.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List the agents that there are, and whether their programs are found
    Ls(list::Ls),
    /// Start an agent in a host of its own, talk to it, end it, and count what it leaves
    Check(check::Check),
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The configuration (TOML) [default: as for `hostler serve`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Does it; what to exit with.
pub(crate) fn run(command: &Command) -> u8 {
    let done = match command {
        Command::Ls(ls) => list::run(ls),
        Command::Check(check) => check::run(check),
    };
    done.unwrap_or_else(|(line, status)| {
        say(&line);
        status
    })
}

/// One line, and the exit status.
type Refused = (String, u8);

/// All that an agent gets as its environment: what the host's processes get, what it inherits, and its own.
fn environment(configured: &Configured, spec: &AgentSpec) -> BTreeMap<String, String> {
    let mut env = configured.env.clone();
    env.extend(spec.environment(std::env::vars_os()));
    env
}

/// The program's file, as it is looked up in the `PATH` of its environment.
fn found(spec: &AgentSpec, env: &BTreeMap<String, String>) -> Option<PathBuf> {
    let program = spec.command.first()?;
    let runs = |path: &Path| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| runs(path));
    }
    let path = env.get("PATH").map_or("/usr/bin:/bin", String::as_str);
    std::env::split_paths(path)
        .map(|dir| dir.join(program))
        .find(|path| runs(path))
}
