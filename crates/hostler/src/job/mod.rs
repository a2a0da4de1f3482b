//! `hostler job`: flows of steps, and the jobs that run them.

mod answer;
mod api;
mod check;
mod control;
mod feed;
mod list;
mod logs;
mod run;
mod schedule;
mod timeline;
mod watch;

use clap::{Args, Subcommand};

use crate::client;
use crate::client::show;

/// What is done with flows and jobs.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Run a flow as a job, and watch it to its end; Ctrl-C cancels it
    Run(Box<run::Run>),
    /// List the jobs
    Ls(list::Ls),
    /// Show a job: what was done, what is being done, what it asks
    Show(list::Show),
    /// Print what the steps of a job have written and said
    Logs(logs::Logs),
    /// Watch a job to its end; leaving does not cancel it
    Watch(watch::Watch),
    /// Cancel jobs, and wait until nothing of them is left
    Cancel(control::Cancel),
    /// Pause a job: nothing more of it begins, what runs goes on
    Pause(control::One),
    /// Let a paused job go on
    Resume(control::One),
    /// Do a job again: in place where it is paused, else as a new job
    Retry(control::Retry),
    /// Answer a step that asks
    Answer(answer::Answer),
    /// Forget jobs, with those below them; what runs is cancelled first
    Rm(control::Rm),
    /// Run flows by the clock
    #[command(subcommand)]
    Schedule(schedule::Command),
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
    client::finish(match command {
        Command::Check(check) => check::run(check),
        Command::Schema(Schema {}) => show::print(hostler_job::schema()).map(|()| 0),
        command => client::block_on(connected(command)),
    })
}

async fn connected(command: &Command) -> client::error::Result<u8> {
    match command {
        Command::Run(run) => run::run(run).await,
        Command::Ls(ls) => list::list(ls).await,
        Command::Show(show) => list::show(show).await,
        Command::Logs(logs) => logs::run(logs).await,
        Command::Watch(watch) => watch::run(watch).await,
        Command::Cancel(cancel) => control::cancel(cancel).await,
        Command::Pause(one) => control::tell(one, "pause").await,
        Command::Resume(one) => control::tell(one, "resume").await,
        Command::Retry(retry) => control::retry(retry).await,
        Command::Answer(answer) => answer::run(answer).await,
        Command::Rm(rm) => control::rm(rm).await,
        Command::Schedule(command) => schedule::run(command).await,
        Command::Check(_) | Command::Schema(_) => Ok(0),
    }
}
