//! What is asked of the turns that wait, and notes that clients want kept.

use hostler_session::By;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::actor::{Actor, Message};
use super::{Conversation, Turn, TurnEnd};
use crate::error::Result;
use crate::rpc::raw;
use crate::transcript::EntryKind;

/// What is asked.
pub(crate) enum Asked {
    /// Another turn in the place of one that waits.
    Replace {
        turn: u64,
        params: Box<RawValue>,
        by: By,
        reply: oneshot::Sender<Result<Turn>>,
    },
    /// One that waits is to be let go of.
    Withdraw {
        turn: u64,
        reply: oneshot::Sender<bool>,
    },
    /// They are to run in this order.
    Reorder {
        order: Vec<u64>,
        note: Box<RawValue>,
        reply: oneshot::Sender<()>,
    },
    /// The turn that runs is to end.
    Cancel {
        turn: u64,
        reply: oneshot::Sender<bool>,
    },
    /// To be kept.
    Note {
        note: Box<RawValue>,
        title: Option<String>,
        reply: oneshot::Sender<()>,
    },
}

/// A note of the order of turns.
#[derive(Serialize)]
struct Reordered<'a> {
    notice: &'static str,
    order: &'a [u64],
    ahp: &'a RawValue,
}

/// A note of a client.
#[derive(Serialize)]
struct Noted<'a> {
    notice: &'static str,
    ahp: &'a RawValue,
}

impl Conversation {
    /// As [`Conversation::prompt`], in the place of a turn that waits, which is let go of.
    ///
    /// Cancel safe, as that.
    ///
    /// # Errors
    /// As [`Conversation::prompt`]; [`crate::Error::Invalid`] where the other turn does not wait any more.
    pub async fn prompt_instead(&self, turn: u64, params: Box<RawValue>, by: By) -> Result<Turn> {
        self.ask_turn(|reply| {
            Message::Queue(Asked::Replace {
                turn,
                params,
                by,
                reply,
            })
        })
        .await
    }

    /// Lets go of a turn that waits; whether it did. Its end is in the transcript.
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub async fn withdraw(&self, turn: u64) -> Result<bool> {
        self.ask(|reply| Message::Queue(Asked::Withdraw { turn, reply }))
            .await
    }

    /// Lets the turns that wait run in this order; those that it does not name come after, in the order that they have. `note`
    /// is kept with it, as `ahp` of the notice.
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub async fn reorder(&self, order: Vec<u64>, note: Box<RawValue>) -> Result<()> {
        self.ask(|reply| Message::Queue(Asked::Reorder { order, note, reply }))
            .await
    }

    /// As [`Conversation::cancel`], of this turn alone, if it is the one that runs; whether it is.
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub async fn cancel_if_running(&self, turn: u64) -> Result<bool> {
        self.ask(|reply| Message::Queue(Asked::Cancel { turn, reply }))
            .await
    }

    /// Keeps a note of a client in the transcript, as `ahp` of a notice, and with it a title for the conversation. It is durable
    /// when this returns.
    ///
    /// # Errors
    /// [`crate::Error::Closed`].
    pub async fn note(&self, note: Box<RawValue>, title: Option<String>) -> Result<()> {
        self.shared.session.touch();
        self.ask(|reply| Message::Queue(Asked::Note { note, title, reply }))
            .await
    }
}

impl Actor {
    pub(crate) async fn asked_of_queue(&mut self, asked: Asked) {
        match asked {
            Asked::Replace {
                turn,
                params,
                by,
                reply,
            } => self.prompt(params, by, Some(turn), reply).await,
            Asked::Withdraw { turn, reply } => {
                let waits = self.queue.iter().any(|queued| queued.id == turn);
                if waits {
                    self.withdraw(turn);
                }
                self.then(move || {
                    let _ = reply.send(waits);
                });
            }
            Asked::Reorder { order, note, reply } => {
                let place = |turn: u64| order.iter().position(|one| *one == turn);
                self.queue
                    .make_contiguous()
                    .sort_by_key(|queued| place(queued.id).unwrap_or(usize::MAX));
                let order: Vec<u64> = self.queue.iter().map(|queued| queued.id).collect();
                let notice = Reordered {
                    notice: "queue_reordered",
                    order: &order,
                    ahp: &note,
                };
                self.push_json(EntryKind::Notice, None, &notice);
                self.dirty = true;
                self.then(move || {
                    let _ = reply.send(());
                });
            }
            Asked::Cancel { turn, reply } => {
                let runs = self
                    .running
                    .as_ref()
                    .is_some_and(|running| running.turn.id == turn);
                // One that waits for its agent to come up has begun, as far as clients know.
                let first = !runs
                    && self.running.is_none()
                    && self.queue.front().is_some_and(|queued| queued.id == turn);
                if runs {
                    self.cancel_running(None);
                } else if first {
                    self.withdraw(turn);
                }
                self.then(move || {
                    let _ = reply.send(runs || first);
                });
            }
            Asked::Note { note, title, reply } => {
                if let Some(title) = title {
                    self.titled(title);
                }
                let notice = Noted {
                    notice: "ahp",
                    ahp: &note,
                };
                self.push_json(EntryKind::Notice, None, &notice);
                self.then(move || {
                    let _ = reply.send(());
                });
            }
        }
    }

    /// The turn that came last takes the place of this one, which is let go of.
    pub(crate) fn takes_place(&mut self, place: usize) {
        let Some(last) = self.queue.pop_back() else {
            return;
        };
        if let Some(old) = self.queue.get_mut(place) {
            let old = std::mem::replace(old, last);
            let cancelled = raw(&serde_json::json!({ "stopReason": "cancelled" }));
            self.over_with(old, TurnEnd::Result(cancelled.into()));
        } else {
            self.queue.push_back(last);
        }
    }
}
