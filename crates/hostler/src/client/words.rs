//! What other programs want to know of the command line: completions for shells, manual pages.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::error::{Failure, Result};
use super::show;

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// The directory; it is made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Prints them.
pub(crate) fn completions(completions: &Completions, mut line: clap::Command) -> Result<u8> {
    use clap_complete::{generate, shells};
    let mut out = Vec::new();
    match completions.shell {
        Shell::Bash => generate(shells::Bash, &mut line, "hostler", &mut out),
        Shell::Zsh => generate(shells::Zsh, &mut line, "hostler", &mut out),
        Shell::Fish => generate(shells::Fish, &mut line, "hostler", &mut out),
    }
    show::print_bytes(&out)?;
    Ok(0)
}

/// Writes them, one for each command.
pub(crate) fn man(man: &Man, line: clap::Command) -> Result<u8> {
    std::fs::create_dir_all(&man.dir)
        .and_then(|()| clap_mangen::generate_to(line, &man.dir))
        .map_err(|error| Failure::io("write the manual pages", error))?;
    Ok(0)
}
