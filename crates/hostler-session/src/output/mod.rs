//! What processes write, kept in files.
//!
//! Each output is a *spool*: a file below the session's directory in which every byte stands at its absolute offset. Pipes are
//! moved into it by splice(2), so a byte is in the pipe or in the file at every moment, and a host that is killed loses none. The
//! file is made when there is a first byte.
//! Between the head and the tail that are kept, the file is given back to the disk by punching a hole; where the file system
//! cannot do that, head and tail are copied into a new file, sparse between them, which takes the old one's place.
//!
//! Readers read the file at any offset; nothing of it is held in memory. They learn of growth and of the gap by a watch.

mod place;
mod read;
mod spool;

pub use read::{Chunk, Follower, Output, TextChunk};
pub(crate) use spool::{Drained, Spool};

/// What is known of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// How many bytes were written so far: the offset of the next one.
    pub len: u64,
    /// Where the bytes that are not kept begin.
    pub gap_start: u64,
    /// Where they end; as much as `gap_start` when all are kept.
    pub gap_end: u64,
    /// Whether no more will come.
    pub ended: bool,
}

impl Progress {
    /// Whether some of these bytes are not kept.
    fn lost(&self, from: u64, to: u64) -> bool {
        from < self.gap_end && to > self.gap_start
    }
}
