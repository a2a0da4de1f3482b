//! Lines out of an agent's output, with their place in it.

use crate::rpc::Malformed;

/// Cuts chunks of output into lines. Keeps what has no end yet, up to a limit.
#[derive(Debug)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    /// Whether the rest of a line that is too long, or whose beginning is lost, is let go of.
    skipping: bool,
    /// The place after the last line that had an end, or that is let go of.
    done: u64,
    at: u64,
    most: usize,
}

impl Lines {
    /// From this place in the output on; no line is longer than `most`.
    pub(crate) fn new(from: u64, most: usize) -> Self {
        Self {
            partial: Vec::new(),
            skipping: false,
            done: from,
            at: from,
            most,
        }
    }

    /// The place from which on output is still needed.
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Takes what comes next, and gives `line` each line that has its end now, without it; or says that one is too long.
    pub(crate) fn take(
        &mut self,
        offset: u64,
        bytes: &[u8],
        mut line: impl FnMut(Result<&[u8], Malformed>),
    ) {
        if offset != self.at {
            // Some is lost, on a disk that was full: the line that it was in is no line.
            self.partial = Vec::new();
            self.skipping = true;
            self.at = offset;
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let part = &bytes[start..end];
            if std::mem::take(&mut self.skipping) {
            } else if self.partial.len() + part.len() > self.most {
                self.partial = Vec::new();
                line(Err(Malformed::TooLong(self.most)));
            } else if self.partial.is_empty() {
                line(Ok(part));
            } else {
                self.partial.extend_from_slice(part);
                line(Ok(&self.partial));
                self.partial.clear();
                // One large line does not hold memory for ever.
                self.partial.shrink_to(64 << 10);
            }
            start = end + 1;
            self.done = self.at + start as u64;
        }
        self.at += bytes.len() as u64;
        let rest = &bytes[start..];
        if self.skipping {
            self.done = self.at;
        } else if self.partial.len() + rest.len() > self.most {
            self.partial = Vec::new();
            self.skipping = true;
            self.done = self.at;
            line(Err(Malformed::TooLong(self.most)));
        } else {
            self.partial.extend_from_slice(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_the_output_is_cut() {
        let text = b"one\n\ntwo and more\nwaytoolongforthis, which goes on\nthree\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::new(100, 12);
            let mut seen = Vec::new();
            let mut offset = 100;
            for chunk in text.chunks(size) {
                lines.take(offset, chunk, |line| {
                    seen.push(
                        line.map(|line| String::from_utf8_lossy(line).into_owned())
                            .map_err(|_| ()),
                    );
                });
                offset += chunk.len() as u64;
            }
            let expected = [
                Ok("one".to_owned()),
                Ok(String::new()),
                Ok("two and more".to_owned()),
                Err(()),
                Ok("three".to_owned()),
            ];
            assert_eq!(seen, expected, "in pieces of {size}");
            assert_eq!(lines.done(), 100 + text.len() as u64 - 4);
        }
    }

    #[test]
    fn a_line_of_which_some_is_lost_is_none() {
        let mut lines = Lines::new(0, 100);
        let mut seen = Vec::new();
        let mut take = |offset, bytes: &[u8]| {
            lines.take(offset, bytes, |line| {
                seen.push(line.expect("a line").to_vec());
            });
        };
        take(0, b"a\nb");
        take(10, b"c\nd\n");
        assert_eq!(seen, [b"a".to_vec(), b"d".to_vec()]);
    }
}
