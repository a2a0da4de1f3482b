//! What a tree's task knows of one process.

use std::time::Duration;

use hostler_keeper::outcome::{EndReason, EndReport, Exit};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ask::Answer;
use crate::error::Result;
use crate::process::LOST;

/// A process that was started.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) exit: watch::Sender<Option<Exit>>,
    /// Whether somebody owns it apart from the tree.
    pub(crate) guarded: bool,
    /// The end that was asked for, and until when it gives grace.
    pub(crate) releasing: Option<Instant>,
    pub(crate) waiting: Vec<Answer<EndReport>>,
    pub(crate) released: Option<EndReport>,
}

impl Record {
    /// One that was just started, and has an owner.
    pub(crate) fn new(exit: watch::Sender<Option<Exit>>) -> Self {
        Self {
            exit,
            guarded: true,
            releasing: None,
            waiting: Vec::new(),
            released: None,
        }
    }

    /// Tells whoever waits for a process of a tree that is over.
    pub(crate) fn finish(self, outcome: &Result<EndReport>) {
        self.exit.send_if_modified(|exit| {
            let unknown = exit.is_none();
            exit.get_or_insert(LOST);
            unknown
        });
        for reply in self.waiting {
            let _ = reply.send(outcome.clone());
        }
    }
}

/// The report on an end that had nothing to do.
pub(crate) fn nothing_left() -> EndReport {
    EndReport {
        reason: EndReason::Request,
        left: Vec::new(),
        remaining: 0,
        took: Duration::ZERO,
        cpu: Duration::ZERO,
        peak_memory: 0,
    }
}
