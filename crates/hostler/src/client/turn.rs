//! What people see of a turn, whichever way it comes here: text as it is said, a short line beside for what is done.

use std::io::{BufRead, IsTerminal};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use super::error::{Failure, Result};
use super::show;
use hostler_run::say;

/// The longest line beside, in characters.
const NOTE: usize = 120;

/// What of a turn is on the screen.
#[derive(Debug, Default)]
pub(super) struct Shown {
    in_line: bool,
}

impl Shown {
    /// The agent says more.
    pub(super) fn says(&mut self, text: &str) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        show::print_bytes(&Bytes::from(text.to_owned()))?;
        self.in_line = !text.ends_with('\n');
        Ok(())
    }

    /// A short line beside.
    pub(super) fn note(&mut self, what: &str, text: &str) -> Result<()> {
        let text: String = show::plain(text).chars().take(NOTE).collect();
        self.end_line()?;
        eprintln!("[{}] {text}", show::plain(what));
        Ok(())
    }

    /// The agent asks whether it may do something: whoever is here is asked, if `typed`.
    pub(super) fn asks(&mut self, what: &str, typed: bool) -> Result<()> {
        if typed {
            self.end_line()?;
            eprint!("{}: allow? [y/n] ", show::plain(what));
        } else {
            say(&format!(
                "the agent asks for permission, and there is no terminal to ask, so another client or the session's policy decides: {}",
                show::plain(what)
            ));
        }
        Ok(())
    }

    /// What was asked is answered, by somebody else.
    pub(super) fn answered(&self) {
        eprintln!("(answered by another client)");
    }

    /// What comes next begins a line.
    pub(super) fn end_line(&mut self) -> Result<()> {
        if std::mem::take(&mut self.in_line) {
            show::print("\n")?;
        }
        Ok(())
    }
}

/// How a turn ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// For this reason, in the agent's word; `None` where it gives none.
    Stopped(Option<String>),
    /// The agent failed.
    Failed(String),
    /// It was cut off.
    Cut(String),
}

impl End {
    /// What to exit with: 0 only for a turn that the agent ended by itself.
    pub(super) fn status(self) -> Result<u8> {
        match self {
            Self::Stopped(Some(reason)) if reason == "end_turn" => Ok(0),
            Self::Stopped(reason) => {
                let reason = reason.as_deref().unwrap_or("it is not said why");
                say(&format!("the turn ended: {}", show::plain(reason)));
                Ok(1)
            }
            Self::Failed(why) => Err(Failure::Unclear(format!("the agent failed: {why}"))),
            Self::Cut(why) => Err(Failure::Unclear(format!("the turn was cut off: {why}"))),
        }
    }
}

/// Whether an answer that was typed is a yes.
pub(crate) fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// What is to be said: `-` stands for what is on standard input.
pub(crate) fn said(text: &str) -> Result<String> {
    match text {
        "-" => std::io::read_to_string(std::io::stdin())
            .map_err(|error| Failure::io("read standard input", error)),
        text => Ok(text.to_owned()),
    }
}

/// Lines that people type, where they are there.
pub(crate) fn typed() -> (mpsc::Receiver<String>, bool) {
    let (send, lines) = mpsc::channel(1);
    let there = std::io::stdin().is_terminal();
    if there {
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(|line| line.ok()) {
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
    }
    (lines, there)
}
