//! Signals: their names, and those that are passed on.

use std::str::FromStr;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::error::{Failure, Result};

pub(crate) const HUP: i32 = 1;
pub(crate) const INT: i32 = 2;
pub(crate) const QUIT: i32 = 3;
pub(crate) const KILL: i32 = 9;
pub(crate) const PIPE: i32 = 13;
pub(crate) const ALRM: i32 = 14;
pub(crate) const TERM: i32 = 15;
pub(crate) const TSTP: i32 = 20;
pub(crate) const WINCH: i32 = 28;
const USR1: i32 = 10;
const USR2: i32 = 12;

/// Numbers and names of Linux on x86_64 and aarch64.
const NAMES: [(i32, &str); 31] = [
    (1, "HUP"),
    (2, "INT"),
    (3, "QUIT"),
    (4, "ILL"),
    (5, "TRAP"),
    (6, "ABRT"),
    (7, "BUS"),
    (8, "FPE"),
    (9, "KILL"),
    (10, "USR1"),
    (11, "SEGV"),
    (12, "USR2"),
    (13, "PIPE"),
    (14, "ALRM"),
    (15, "TERM"),
    (16, "STKFLT"),
    (17, "CHLD"),
    (18, "CONT"),
    (19, "STOP"),
    (20, "TSTP"),
    (21, "TTIN"),
    (22, "TTOU"),
    (23, "URG"),
    (24, "XCPU"),
    (25, "XFSZ"),
    (26, "VTALRM"),
    (27, "PROF"),
    (28, "WINCH"),
    (29, "IO"),
    (30, "PWR"),
    (31, "SYS"),
];

/// What people call it.
pub(crate) fn name(signal: i32) -> String {
    match NAMES.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => format!("SIG{name}"),
        None => format!("signal {signal}"),
    }
}

/// What the API calls it.
pub(crate) fn word(signal: i32) -> serde_json::Value {
    match NAMES.iter().find(|(number, _)| *number == signal) {
        Some((_, name)) => (*name).into(),
        None => signal.into(),
    }
}

/// A signal on the command line: `TERM`, `SIGTERM`, `term`, `15`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signal(pub(crate) i32);

impl FromStr for Signal {
    type Err = &'static str;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        const ALLOWED: &str = "a signal's name or number is allowed: TERM, SIGINT, 9";
        if let Ok(number) = text.parse() {
            return if (1..=64).contains(&number) {
                Ok(Self(number))
            } else {
                Err(ALLOWED)
            };
        }
        let upper = text.to_ascii_uppercase();
        let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
        let found = NAMES.iter().find(|(_, name)| *name == bare);
        found.map(|(number, _)| Self(*number)).ok_or(ALLOWED)
    }
}

impl std::fmt::Display for Signal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// Signals as they come to this process. Those that it was started to ignore (by nohup, by a shell's `&`) stay ignored.
pub(crate) fn receive() -> Result<mpsc::UnboundedReceiver<i32>> {
    let ignored = hostler_keeper::signals::ignored();
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in [HUP, INT, QUIT, USR1, USR2, ALRM, TERM, TSTP, WINCH] {
        if ignored & (1 << (number - 1)) != 0 {
            continue;
        }
        let mut stream = signal(SignalKind::from_raw(number))
            .map_err(|error| Failure::io("receive signals", error))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(number).is_err() {
                    break;
                }
            }
        });
    }
    Ok(receiver)
}

/// Whether it is one that ends a process which does nothing about it.
pub(crate) fn is_deadly(signal: i32) -> bool {
    !matches!(signal, WINCH | TSTP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_as_people_write_them() {
        for text in ["TERM", "SIGTERM", "sigterm", "term", "15"] {
            assert_eq!(text.parse(), Ok(Signal(15)), "{text}");
        }
        assert_eq!("64".parse(), Ok(Signal(64)));
        for text in ["", "0", "65", "-9", "KILLER", "SIG"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
        assert_eq!(name(9), "SIGKILL");
        assert_eq!(word(15), "TERM");
        assert_eq!(word(34), 34);
    }
}
