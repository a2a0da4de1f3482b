//! All that the command line does: the host, its clients, the doctor. `hostler` executes this program for every word but
//! `run`, so that what it links is not paid for at the start of each command.
#![forbid(unsafe_code)]

mod agents;
mod client;
mod demo;
mod doctor;
mod job;
mod mcp;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// An agent host that never leaks.
#[derive(Parser)]
#[command(name = "hostler", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
#[command(defer = true)]
enum Command {
    /// Run a command, and leave nothing of it behind when it ends
    Run(Box<hostler_run::options::Options>),
    /// Be the host: sessions, for many clients at once
    Serve(serve::Options),
    /// Say how processes are held together here, and what agents have leaked
    Doctor(doctor::Options),
    /// List agents, and check whether one works
    #[command(subcommand)]
    Agents(agents::Command),
    /// Run flows of steps over commands and agents, and look at those that run
    #[command(subcommand)]
    Job(job::Command),
    /// Show what hostler does: a host, a session, an agent whose command escapes, and its end
    Demo(demo::Demo),
    /// Offer the background processes of a session to its agent, as MCP tools on standard input and output
    Mcp(mcp::Options),
    #[command(flatten)]
    Client(client::Command),
    /// Be the zygote of the process that started this one (not for people)
    #[command(name = "__zygote", hide = true)]
    Zygote,
    /// Be the agent `shell`, on stdin and stdout (not for people)
    #[command(name = "__agent-shell", hide = true)]
    AgentShell,
}

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(Cli { command }) => match command {
            Command::Run(options) => ExitCode::from(hostler_run::run(&options)),
            Command::Serve(options) => serve::run(&options),
            Command::Doctor(options) => ExitCode::from(doctor::run(&options)),
            Command::Agents(command) => ExitCode::from(agents::run(&command)),
            Command::Job(command) => ExitCode::from(job::run(&command)),
            Command::Demo(demo) => ExitCode::from(demo::run(&demo)),
            Command::Mcp(options) => ExitCode::from(mcp::run(&options)),
            Command::Client(command) => ExitCode::from(client::run(&command, Cli::command())),
            Command::Zygote => hostler_keeper::zygote::serve_inherited(),
            Command::AgentShell => hostler_agent::shell::run(),
        },
        Err(error) if error.use_stderr() => {
            hostler_run::say(&hostler_run::refusal(&error));
            ExitCode::from(2)
        }
        Err(help) => {
            let _ = help.print();
            ExitCode::SUCCESS
        }
    }
}
