//! `hostler serve`: the host.
//!
//! The order of a start: everything that was said is read and understood; the zygote is forked, while this process has one thread;
//! the ledger is opened, which makes sure that this is the only host; the sockets are bound; what earlier hosts left is adopted
//! or swept; then requests are served. Nothing is started for anybody before that.

mod agents;
mod config;
mod lifetime;
mod sockets;
mod start;
mod state;
mod stop;
mod takeover;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

/// How `hostler serve` was asked for.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The configuration (TOML) [default: hostler/config.toml in the XDG configuration directory, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where all state is [default: hostler in the XDG state directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Listen on this address too, or on none but the Unix socket [default: 127.0.0.1:7717]
    #[arg(long, value_name = "ADDR|none")]
    listen: Option<String>,
    /// Take over from the host that runs: its sessions go on, and its sockets are handed over
    #[arg(long)]
    takeover: bool,
    /// Live as long as standard input is open, then close everything and remove the state directory
    #[arg(long, hide = true)]
    private: bool,
}

/// Why the host does not start: one clear line, and the exit status.
#[derive(Debug)]
struct Refused {
    line: String,
    status: u8,
}

impl Refused {
    /// What was asked for makes no sense.
    fn usage(line: impl Into<String>) -> Self {
        let line = line.into();
        Self { line, status: 2 }
    }

    /// It cannot be done.
    fn failed(line: impl Into<String>) -> Self {
        let line = line.into();
        Self { line, status: 1 }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

/// What a host that starts here would know of agents.
#[derive(Debug)]
pub(crate) struct Configured {
    /// All that there are.
    pub(crate) agents: hostler_agent::Catalogue,
    /// The one of a client that names none.
    pub(crate) default_agent: String,
    /// What of this process's environment its processes would get.
    pub(crate) env: BTreeMap<String, String>,
}

/// Reads the configuration as a start does; a line and an exit status where it cannot be.
pub(crate) fn configured(file: Option<&Path>) -> Result<Configured, (String, u8)> {
    let file = start::file(file);
    let config = config::Config::read(file.as_deref(), state::variable)
        .map_err(|refused| (refused.line, refused.status))?;
    let env =
        config.allowed_env(std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        }));
    Ok(Configured {
        agents: config.agents,
        default_agent: config.default_agent,
        env,
    })
}

/// Is the host, until it is told to stop or taken over.
pub(crate) fn run(options: &Options) -> ExitCode {
    match start::serve(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(refused) => {
            hostler_run::say(&refused.line);
            ExitCode::from(refused.status)
        }
    }
}
