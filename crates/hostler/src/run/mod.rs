//! `hostler run`: a command whose whole tree is owned, with no host running. No configuration is read and no runtime is
//! started on this path.

pub(crate) mod front;
pub(crate) mod options;
mod report;

use std::io::Write;

/// Says one line to the user.
pub(crate) fn say(line: &str) {
    // In one write, so that it is not torn among what the command says. Nobody to hear it is no failure of the command.
    let _ = std::io::stderr().write_all(format!("hostler: {line}\n").as_bytes());
}
