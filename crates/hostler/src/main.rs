//! Hostler's command line.
#![forbid(unsafe_code)]

mod doctor;
mod run;
mod serve;

use clap::{Parser, Subcommand};

/// An agent host that never leaks.
#[derive(Parser)]
#[command(name = "hostler", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command, and leave nothing of it behind when it ends
    Run(Box<run::options::Options>),
    /// Say how processes are held together here, and what agents have leaked
    Doctor(doctor::Options),
    /// Be the host: sessions, for many clients at once
    Serve(serve::Options),
    /// Be the zygote of the process that started this one (not for people)
    #[command(name = "__zygote", hide = true)]
    Zygote,
}

fn main() -> std::process::ExitCode {
    if let Some(options) = run::options::Options::plain(std::env::args_os().skip(1)) {
        return std::process::ExitCode::from(run::front::run(&options));
    }
    match Cli::try_parse() {
        Ok(Cli {
            command: Command::Run(options),
        }) => std::process::ExitCode::from(run::front::run(&options)),
        Ok(Cli {
            command: Command::Doctor(options),
        }) => std::process::ExitCode::from(doctor::run(&options)),
        Ok(Cli {
            command: Command::Serve(options),
        }) => serve::run(&options),
        Ok(Cli {
            command: Command::Zygote,
        }) => hostler_keeper::zygote::serve_inherited(),
        Err(error) if error.use_stderr() => {
            // One line: what is wrong, and with which value.
            let text = error.to_string();
            let text = text
                .split("\n\nUsage")
                .next()
                .unwrap_or_default()
                .replace("error: ", "");
            let line: Vec<&str> = text
                .lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .collect();
            let missing = error.kind() == clap::error::ErrorKind::MissingRequiredArgument;
            let line = if missing {
                vec!["there is no command to run"]
            } else {
                line
            };
            run::say(&format!("{} (see hostler --help)", line.join(" ")));
            std::process::ExitCode::from(2)
        }
        Err(help) => {
            let _ = help.print();
            std::process::ExitCode::SUCCESS
        }
    }
}
