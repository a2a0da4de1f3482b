//! `hostler run`: a command whose whole tree is owned, with no host running. No configuration is read and no runtime is
//! started on this path.
//!
//! A crate of its own, so that a program can be linked that does this and nothing else: what is linked in is paid for at the
//! start of each command.
#![forbid(unsafe_code)]

mod front;
pub mod options;
mod refusal;
mod report;

use std::io::Write;

pub use front::run;

/// Says one line to the user.
pub fn say(line: &str) {
    // In one write, so that it is not torn among what the command says. Nobody to hear it is no failure of the command.
    let _ = std::io::stderr().write_all(format!("hostler: {line}\n").as_bytes());
}

/// One line: what is wrong, and with which value.
pub fn refusal(error: &clap::Error) -> String {
    let text = error.to_string();
    // What follows the first paragraph is how to use it, at length.
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let text = text.split("\n\n").next().unwrap_or_default();
    let line: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let run = std::env::args_os().nth(1).is_some_and(|word| word == "run");
    let line = if run && error.kind() == clap::error::ErrorKind::MissingRequiredArgument {
        "there is no command to run".into()
    } else {
        line.join(" ")
    };
    format!("{line} (see hostler --help)")
}
