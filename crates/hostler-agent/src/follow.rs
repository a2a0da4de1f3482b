//! Following a transcript.

use std::sync::Arc;

use hostler_ledger::EntrySeq as Seq;

use crate::error::Result;
use crate::transcript::Entry;

/// Reads a conversation's transcript from a place on, as it grows. Any number may, each at its own speed: nobody waits for
/// them.
#[derive(Debug)]
pub struct Follower {
    pub(crate) after: Seq,
}

impl Follower {
    /// The number of the last entry that it has given.
    pub fn after(&self) -> Seq {
        self.after
    }

    /// The next entries, up to `max` (1 at the least), as soon as there are any; none when no more will come, for the
    /// conversation has closed here.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    ///
    /// # Errors
    /// [`crate::Error::Read`] where older ones cannot be read from the ledger.
    pub async fn next(&mut self, _max: usize) -> Result<Vec<Arc<Entry>>> {
        Ok(Vec::new())
    }
}
