//! How a command is held together, whatever it does to get away.
//!
//! A session's keeper knows of what was orphaned that it is the session's, not which process it came of. So each command runs under a
//! keeper of its own, by `hostler run --keep-children`: all that comes of it stays below the process that the host knows, also what has
//! left its group, its session and its environment, and is ended with it. That process lives for as long as any of it does, and exits
//! as the command did.

use crate::client::api::Process;
use crate::client::error::{Failure, Result};

/// What `run` is told. Its grace is never the one that ends: the host's is, which asks all of them and kills all of them.
const RUN: [&str; 9] = [
    "run",
    "--keep-children",
    "--contain",
    "tree",
    "--die-with",
    "none",
    "--grace",
    "1h",
    "--",
];

/// The program and arguments that run this command line.
pub(super) fn argv(command: &str) -> Result<Vec<String>> {
    let own = std::env::current_exe().map_err(|error| Failure::io("find this program", error))?;
    let own = own.to_str().ok_or_else(|| {
        Failure::Unclear(format!(
            "the path of this program is not text: {}",
            own.display()
        ))
    })?;
    let words = [own].into_iter().chain(RUN).chain(["sh", "-c", command]);
    Ok(words.map(str::to_owned).collect())
}

/// The command line that a process runs, if it was started by [`argv`].
pub(super) fn command(process: &Process) -> Option<&str> {
    match process.argv.get(1..)? {
        [run @ .., sh, flag, command] if run == RUN && sh == "sh" && flag == "-c" => Some(command),
        _ => None,
    }
}

/// Whether a process of this name is part of what holds, rather than of what is held.
pub(super) fn holds(name: &str) -> bool {
    let own = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    name == own.trim_end() || name.starts_with("hostler")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_shown_as_it_was_asked_for() {
        let process = |argv: Vec<String>| -> Process {
            serde_json::from_value(serde_json::json!({ "id": "p-1", "argv": argv }))
                .expect("a process")
        };
        let held = process(argv("a && b").expect("words"));
        assert_eq!(command(&held), Some("a && b"));
        let other = process(vec!["sh".into(), "-c".into(), "a".into()]);
        assert_eq!(command(&other), None);
    }
}
