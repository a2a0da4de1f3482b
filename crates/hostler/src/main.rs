//! The program that users start. It does `hostler run` itself, as a small program that is soon there; for every other word
//! it executes `hostler-host`, which stands beside it.
#![no_main]
#![forbid(unsafe_code)]

use std::ffi::{CString, OsStr};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use clap::{Parser, Subcommand};
use hostler_keeper::entry::Arguments;
use hostler_keeper::inherit;
use hostler_run::options::Options;

/// The program beside this one that does all but `run`.
const HOST: &str = "hostler-host";

hostler_keeper::entry!(start);

fn start(arguments: Arguments) -> u8 {
    if arguments.get(1) != Some(c"run") {
        return host(&arguments);
    }
    inherit::prepare();
    let words = || std::env::args_os();
    match Options::plain(words().skip(1)) {
        Some(options) => hostler_run::run(&options),
        None => parsed(),
    }
}

/// What of the command line this program reads itself: words as in `hostler-host`.
#[derive(Parser)]
#[command(name = "hostler")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a command, and leave nothing of it behind when it ends
    Run(Box<Options>),
}

/// Runs a command with options.
fn parsed() -> u8 {
    match Cli::try_parse() {
        Ok(Cli {
            command: Command::Run(options),
        }) => hostler_run::run(&options),
        Err(error) if error.use_stderr() => {
            hostler_run::say(&hostler_run::refusal(&error));
            2
        }
        Err(help) => {
            let _ = help.print();
            // What Rust's own `main` does at its end.
            let _ = std::io::stdout().flush();
            0
        }
    }
}

/// Goes on as the other program: the same process, with all that it was given.
fn host(arguments: &Arguments) -> u8 {
    let beside = std::fs::read_link("/proc/self/exe").map(|own| own.with_file_name(HOST));
    let program = beside.unwrap_or_else(|_| HOST.into());
    let errno = match CString::new(program.as_os_str().as_bytes()) {
        Ok(path) => arguments.execute(&path),
        Err(_) => rustix::io::Errno::INVAL,
    };
    inherit::prepare();
    let name = OsStr::from_bytes(arguments.get(1).unwrap_or_default().to_bytes());
    let word = if name.is_empty() {
        String::new()
    } else {
        format!(", which `hostler {}` needs", name.display())
    };
    hostler_run::say(&format!(
        "cannot execute {}{word}: {errno}",
        program.display()
    ));
    127
}
