//! The commands that are clients of a running host.

mod acp;
pub(crate) mod api;
mod attach;
mod control;
pub(crate) mod error;
pub(crate) mod events;
pub(crate) mod exec;
mod follow;
pub(crate) mod host;
mod keys;
mod logs;
mod modes;
mod policy;
mod process;
mod prompt;
mod ps;
mod relay;
mod remote;
pub(crate) mod report;
pub(crate) mod resolve;
mod resume;
mod session;
pub(crate) mod show;
pub(crate) mod signals;
pub(crate) mod streams;
mod tree;
pub(crate) mod tty;
pub(crate) mod turn;
mod words;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use error::{Failure, Result};
use hostler_run::say;

/// The commands that are clients of a running host. Their options are looked at only when they are asked for, so that they cost
/// `hostler run` nothing.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Open, list, look at, change and close sessions
    #[command(subcommand)]
    Session(session::Command),
    /// Run a command in a session, as though it ran here; or in the background
    Exec(Box<exec::Exec>),
    /// Prompt the agent of a session, and print what it says
    Prompt(Box<prompt::Prompt>),
    /// Be an agent on standard input and output, for editors (ACP)
    Acp(acp::Acp),
    /// Look at a session's terminal and type into it
    Attach(attach::Attach),
    /// Show the processes of sessions, as the kernel sees them
    Ps(ps::Ps),
    /// Print what a process has written
    Logs(logs::Logs),
    /// Signal a process
    Kill(process::Kill),
    /// End a process and all that is under it
    Stop(process::Stop),
    /// Wait for the end of a process, and exit as it did
    Wait(process::Wait),
    /// Write standard input to a process
    Input(process::Input),
    /// Hand a process to a session of its own, which outlives this one
    Keep(process::Keep),
    /// Print the event log: who asked for each start and each end, and why
    Log(events::Log),
    /// Print the completions for a shell
    Completions(words::Completions),
    /// Write the manual pages into a directory
    Man(words::Man),
}

/// Where the host is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Place {
    /// The host's state directory (without: HOSTLER_STATE_DIR, else the user's own)
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// A host elsewhere, by the Agent Host Protocol: ws://, wss://, http:// or https://HOST:PORT (without: HOSTLER_HOST)
    #[arg(long, value_name = "URL", conflicts_with = "state_dir")]
    host: Option<String>,
    /// The file with the token of a host elsewhere (without: HOSTLER_TOKEN, if the URL has no `?token=`)
    #[arg(long, value_name = "FILE", conflicts_with = "state_dir")]
    token_file: Option<PathBuf>,
}

impl Place {
    /// The host that is meant, for a command that only one on this machine can carry out.
    pub(crate) fn host(&self) -> Result<host::Host> {
        if let Some(url) = self.elsewhere() {
            return Err(Failure::Unclear(format!(
                "this works with a host on this machine only, not with {}: prompt, attach, logs, and session new, ls, show, close and fork work with `--host`",
                remote::without_token(&url)
            )));
        }
        if self.token_file.is_some() {
            let why = "--token-file is for a host elsewhere: `--host URL` says where";
            return Err(Failure::Usage(why.into()));
        }
        host::Host::find(self.state_dir.as_deref())
    }

    /// The host elsewhere that is meant, if one is.
    pub(crate) fn remote(&self) -> Result<Option<remote::Address>> {
        let Some(url) = self.elsewhere() else {
            return Ok(None);
        };
        remote::Address::find(&url, self.token_file.as_deref()).map(Some)
    }

    fn elsewhere(&self) -> Option<String> {
        if self.state_dir.is_some() {
            return None;
        }
        let set = || std::env::var("HOSTLER_HOST").ok();
        self.host.clone().or_else(set).filter(|url| !url.is_empty())
    }
}

/// Runs one and returns what to exit with.
pub(crate) fn run(command: &Command, line: clap::Command) -> u8 {
    finish(match command {
        Command::Completions(completions) => words::completions(completions, line),
        Command::Man(man) => words::man(man, line),
        command => block_on(connected(command)),
    })
}

/// What to exit with, once the reason for a failure is said.
pub(crate) fn finish(done: Result<u8>) -> u8 {
    match done {
        Ok(status) => status,
        Err(Failure::BrokenPipe) => die(signals::PIPE),
        Err(Failure::Signal(signal)) => die(signal),
        Err(failure) => {
            say(&show::plain(&failure.to_string()));
            failure.status()
        }
    }
}

/// Does it in a runtime of this one thread.
pub(crate) fn block_on(work: impl Future<Output = Result<u8>>) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::io("start", error))?;
    runtime.block_on(work)
}

async fn connected(command: &Command) -> Result<u8> {
    match command {
        Command::Session(command) => session::run(command).await,
        Command::Exec(exec) => exec::run(exec).await,
        Command::Prompt(prompt) => prompt::run(prompt).await,
        Command::Acp(acp) => acp::run(acp).await,
        Command::Attach(attach) => attach::run(attach).await,
        Command::Ps(ps) => ps::run(ps).await,
        Command::Logs(logs) => logs::run(logs).await,
        Command::Kill(kill) => process::kill(kill).await,
        Command::Stop(stop) => process::stop(stop).await,
        Command::Wait(wait) => process::wait(wait).await,
        Command::Input(input) => process::input(input).await,
        Command::Keep(keep) => process::keep(keep).await,
        Command::Log(log) => events::run(log).await,
        Command::Completions(_) | Command::Man(_) => Ok(0),
    }
}

/// Dies of a signal, as a program does that does nothing about it.
fn die(signal: i32) -> u8 {
    // What stops by default is stopped by this; what ends by default is ended.
    hostler_keeper::signals::stop(signal);
    128u8.wrapping_add(signal as u8)
}
