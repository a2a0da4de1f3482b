//! What was sent last, for clients that come back.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::extract::ws::Utf8Bytes;

/// How much of what was sent is kept, in bytes.
const BYTES: usize = 16 << 20;
/// What an envelope costs besides its text.
const EACH: usize = 128;

/// One envelope that was sent.
#[derive(Debug, Clone)]
pub(super) struct Sent {
    pub(super) seq: u64,
    pub(super) channel: Arc<str>,
    /// The only client that it was sent to.
    pub(super) only: Option<Arc<str>>,
    /// The message as it was sent.
    pub(super) text: Utf8Bytes,
}

/// The last envelopes, of bounded size, without gaps from some number on.
#[derive(Debug, Default)]
pub(super) struct Replay {
    sent: VecDeque<Sent>,
    bytes: usize,
    /// All that was sent above this number is here.
    whole_above: u64,
}

impl Replay {
    /// Adds what was sent last.
    pub(super) fn push(&mut self, sent: Sent) {
        self.bytes += sent.text.len() + EACH;
        self.sent.push_back(sent);
        while self.bytes > BYTES
            && let Some(old) = self.sent.pop_front()
        {
            self.bytes -= old.text.len() + EACH;
            self.whole_above = old.seq;
        }
    }

    /// Up to this number there is nothing to give.
    pub(super) fn reset(&mut self, upto: u64) {
        self.sent.clear();
        self.bytes = 0;
        self.whole_above = upto;
    }

    /// Whether all that was sent above this number is here.
    pub(super) fn reaches(&self, seq: u64) -> bool {
        seq >= self.whole_above
    }

    /// What was sent above this number.
    pub(super) fn above(&self, seq: u64) -> impl Iterator<Item = &Sent> {
        let from = self.sent.partition_point(|sent| sent.seq <= seq);
        self.sent.range(from..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_let_go_of_and_not_said_to_be_there() {
        let mut replay = Replay::default();
        let text = Utf8Bytes::from("x".repeat(BYTES / 4));
        for seq in 1..=6 {
            replay.push(Sent {
                seq,
                channel: "c".into(),
                only: None,
                text: text.clone(),
            });
        }
        assert!(!replay.reaches(0) && !replay.reaches(2) && replay.reaches(3));
        let above: Vec<u64> = replay.above(4).map(|sent| sent.seq).collect();
        assert_eq!(above, [5, 6]);
        replay.reset(9);
        assert!(!replay.reaches(8) && replay.reaches(9));
        assert_eq!(replay.above(0).count(), 0);
    }
}
