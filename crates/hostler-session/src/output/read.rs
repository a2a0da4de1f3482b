//! Reading a spool: at any offset, and as it grows.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tokio::sync::watch;

use super::Progress;
use super::spool::Shared;

/// The output of a process, for reading. Clones are the same output. It can be read for as long as the session is open,
/// also after the process has ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub(super) shared: Arc<Shared>,
}

/// Bytes that were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chunk {
    /// Where they begin.
    pub offset: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// How many bytes before them were asked for and are not kept.
    pub skipped: u64,
    /// Where to go on.
    pub next: u64,
}

/// Text that was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TextChunk {
    /// Where its bytes begin.
    pub offset: u64,
    /// The text; what is not UTF-8 is replaced.
    pub text: String,
    /// How many bytes before it were asked for and are not kept.
    pub skipped: u64,
    /// Where to go on.
    pub next: u64,
}

impl Output {
    /// How much there is, and what of it is kept.
    pub fn progress(&self) -> Progress {
        *self.shared.progress.borrow()
    }

    /// Keeps it readable, by a descriptor, for as long as any clone of it is there, also when its session has forgotten the
    /// process by then.
    pub fn hold(&self) {
        self.shared.hold();
    }

    /// Reads up to `most` bytes at an offset. From within the gap it goes on behind it. Nothing is there yet, or no more
    /// will come, where the answer is empty.
    ///
    /// # Errors
    /// The kernel's; `NotFound` once the session has closed.
    pub fn read_at(&self, offset: u64, most: usize) -> io::Result<Chunk> {
        loop {
            let progress = self.progress();
            let mut chunk = Chunk {
                offset,
                next: offset,
                ..Chunk::default()
            };
            if (progress.gap_start..progress.gap_end).contains(&offset) {
                chunk.skipped = progress.gap_end - offset;
                chunk.offset = progress.gap_end;
            }
            let limit = if chunk.offset < progress.gap_start && progress.gap_end > 0 {
                progress.gap_start.min(progress.len)
            } else {
                progress.len
            };
            let count = limit.saturating_sub(chunk.offset).min(most as u64);
            chunk.next = chunk.offset + count;
            if count == 0 {
                return Ok(chunk);
            }
            let file = self.shared.reader()?;
            chunk.bytes.resize(count as usize, 0);
            file.read_exact_at(&mut chunk.bytes, chunk.offset)?;
            // What was punched out meanwhile reads as zeros; the gap is told before it is made.
            if !self.progress().lost(chunk.offset, chunk.next) {
                return Ok(chunk);
            }
        }
    }

    /// Reads up to `most` bytes (4 at the least) as text. Never ends or starts within a character: one that is not there
    /// whole yet is left for the next time.
    ///
    /// # Errors
    /// As [`Output::read_at`].
    pub fn read_text_at(&self, offset: u64, most: usize) -> io::Result<TextChunk> {
        let mut chunk = self.read_at(offset, most.max(4))?;
        let progress = self.progress();
        let mut start = 0;
        if chunk.skipped > 0 {
            // The rest of a character whose beginning is not kept.
            while start < 3
                && chunk
                    .bytes
                    .get(start)
                    .is_some_and(|byte| byte & 0xC0 == 0x80)
            {
                start += 1;
            }
        }
        let cut = incomplete(&chunk.bytes[start..]);
        let over = (progress.ended && chunk.next == progress.len)
            || (progress.gap_end > progress.gap_start && chunk.next == progress.gap_start);
        if !over {
            chunk.bytes.truncate(chunk.bytes.len() - cut);
            chunk.next -= cut as u64;
        }
        Ok(TextChunk {
            offset: chunk.offset + start as u64,
            text: String::from_utf8_lossy(&chunk.bytes[start..]).into_owned(),
            skipped: chunk.skipped,
            next: chunk.next,
        })
    }

    /// The offset from which the last `lines` lines are there, looking back `most` bytes at the furthest.
    ///
    /// # Errors
    /// As [`Output::read_at`].
    pub fn last_lines(&self, lines: usize, most: u64) -> io::Result<u64> {
        let progress = self.progress();
        let mut from = progress.len.saturating_sub(most);
        if from < progress.gap_end && progress.gap_end > progress.gap_start {
            from = progress.gap_end;
        }
        let chunk = self.read_at(from, (progress.len - from) as usize)?;
        let mut left = lines;
        // The newline that ends the last line begins none.
        for (index, byte) in chunk.bytes.iter().enumerate().rev().skip(1) {
            if *byte == b'\n' {
                left = left.saturating_sub(1);
                if left == 0 {
                    return Ok(chunk.offset + index as u64 + 1);
                }
            }
        }
        Ok(if lines == 0 { chunk.next } else { chunk.offset })
    }

    /// Follows it from an offset on.
    pub fn follow(&self, from: u64) -> Follower {
        Follower {
            output: self.clone(),
            progress: self.shared.progress.subscribe(),
            offset: from,
            pacing: Pacing::Not,
        }
    }

    /// Follows the output of a [`crate::Mode::Service`] from an offset on. It writes on only as fast as this reads, waits
    /// while nobody does, and all that was not [settled](Follower::settle) is kept for whoever follows next: in this
    /// host or, where the session is adopted, in the next one. There is one such follower at a time.
    pub fn follow_held(&self, from: u64) -> Follower {
        self.shared.consumed(Some(from));
        let mut follower = self.follow(from);
        follower.pacing = Pacing::Held;
        follower
    }

    /// Waits until no more will come.
    ///
    /// Cancel safe.
    pub async fn ended(&self) {
        let mut progress = self.shared.progress.subscribe();
        let _ = progress.wait_for(|progress| progress.ended).await;
    }
}

/// Reads an output as it grows. Any number of them may follow one output, each at its own speed.
#[derive(Debug)]
pub struct Follower {
    output: Output,
    progress: watch::Receiver<Progress>,
    offset: u64,
    pub(super) pacing: Pacing,
}

/// Whether the writer waits for a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pacing {
    /// It does not.
    Not,
    /// While the follower is there.
    WhileThere,
    /// Also while it is away; and nothing is given back that it has not settled.
    Held,
}

impl Follower {
    /// The output that it follows.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Where it is.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next bytes, up to `most`, as soon as there are any; `None` when no more will come.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    ///
    /// # Errors
    /// As [`Output::read_at`].
    pub async fn next(&mut self, most: usize) -> io::Result<Option<Chunk>> {
        loop {
            self.progress.borrow_and_update();
            let chunk = self.output.read_at(self.offset, most)?;
            if chunk.next > self.offset {
                self.advance(chunk.next);
                return Ok(Some(chunk));
            }
            if !self.wait().await {
                return Ok(None);
            }
        }
    }

    /// The next text, up to `most` bytes of it, in whole characters; `None` when no more will come.
    ///
    /// Cancel safe: nothing is lost by dropping this.
    ///
    /// # Errors
    /// As [`Output::read_at`].
    pub async fn next_text(&mut self, most: usize) -> io::Result<Option<TextChunk>> {
        loop {
            self.progress.borrow_and_update();
            let chunk = self.output.read_text_at(self.offset, most)?;
            if chunk.next > self.offset {
                self.advance(chunk.next);
                return Ok(Some(chunk));
            }
            if !self.wait().await {
                return Ok(None);
            }
        }
    }

    fn advance(&mut self, to: u64) {
        self.offset = to;
        match self.pacing {
            Pacing::Not => {}
            Pacing::WhileThere => self.output.shared.consumed(Some(to)),
            Pacing::Held => self.output.shared.read(to),
        }
    }

    /// Of one that the output is held for: what is before this offset is needed no more, by nobody who follows later either.
    pub fn settle(&self, before: u64) {
        if self.pacing == Pacing::Held {
            self.output.shared.settled(before);
        }
    }

    /// Waits for more than was there at the last look; whether there may be any.
    async fn wait(&mut self) -> bool {
        let progress = *self.progress.borrow();
        if progress.ended && progress.len <= self.offset {
            return false;
        }
        if self.progress.changed().await.is_ok() {
            return true;
        }
        // Its writer is gone without a word, which ends it.
        let progress = self.output.progress();
        progress.len > self.offset
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if self.pacing == Pacing::WhileThere {
            self.output.shared.consumed(None);
        }
    }
}

/// How many bytes at the end begin a character that is not there whole.
fn incomplete(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let whole = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if whole > back { back } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::incomplete;

    #[test]
    fn characters_that_are_not_whole_are_seen() {
        for (text, cut) in [
            ("a".as_bytes(), 0),
            (&"é".as_bytes()[..1], 1),
            ("é".as_bytes(), 0),
            (&"€".as_bytes()[..2], 2),
            (&"🦀".as_bytes()[..3], 3),
            ("🦀".as_bytes(), 0),
            (&[0x80, 0x80, 0x80], 0),
            (&[0xFF], 0),
            (&[], 0),
        ] {
            assert_eq!(incomplete(text), cut, "{text:?}");
        }
    }
}
