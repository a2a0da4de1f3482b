//! `hostler job`: flows of steps. What is here needs no host.

mod check;

use clap::{Args, Subcommand};

use crate::client::show;
use hostler_run::say;

/// What is done with flows.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say all that is wrong with flows, with line and reason; needs no host
    Check(check::Check),
    /// Print the JSON Schema of flows, for editors
    Schema(Schema),
}

/// What `hostler job schema` is told.
#[derive(Debug, Args)]
pub(crate) struct Schema {}

/// Does it; what to exit with.
pub(crate) fn run(command: &Command) -> u8 {
    let done = match command {
        Command::Check(check) => check::run(check),
        Command::Schema(Schema {}) => show::print(hostler_job::schema()).map(|()| 0),
    };
    done.unwrap_or_else(|failure| {
        say(&show::plain(&failure.to_string()));
        failure.status()
    })
}
