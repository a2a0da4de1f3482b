//! Logs: their ends, what is new in them, and lines that match.

use std::collections::VecDeque;
use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use regex::Regex;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part};

/// How much is read at a time, in bytes.
const CHUNK: usize = 256 << 10;
/// How many matches are remembered until they are asked for.
const REMEMBERED: usize = 20;
/// How much of a line is shown, in characters, and looked at, in bytes.
const SHOWN: usize = 400;
const LOOKED_AT: usize = 64 << 10;
/// Between two looks at something that is waited for.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// A part of a log.
#[derive(Debug, Serialize)]
pub(super) struct Piece {
    /// Where it begins, in bytes.
    pub(super) offset: u64,
    /// Where to go on.
    pub(super) next: u64,
    pub(super) text: String,
    /// How many bytes before it are no longer kept, where they were asked for.
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) gone: u64,
    /// Whether there is more behind it by now.
    pub(super) more: bool,
    /// Whether no more will come.
    pub(super) complete: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's way")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// What a process has written from an offset on.
pub(super) async fn read(host: &mut Host, id: &str, from: u64, limit: usize) -> Result<Piece> {
    let path = format!(
        "/v1/processes/{}/output?from={from}&limit={limit}",
        part(id)
    );
    let answer = host.call(Method::GET, &path, Bytes::new()).await?;
    let number = |header: &str| answer.number(header).unwrap_or(from);
    let next = number("hostler-next");
    Ok(Piece {
        offset: number("hostler-offset"),
        next,
        gone: answer.number("hostler-gap").unwrap_or(0),
        more: answer.body.len() >= limit,
        complete: answer.is("hostler-end", "true"),
        text: String::from_utf8_lossy(&answer.body).into_owned(),
    })
}

/// The last lines of what it has written: so many of them, and so many bytes, at the most.
pub(super) async fn tail(
    host: &mut Host,
    id: &str,
    written: u64,
    lines: usize,
    limit: usize,
) -> Result<Piece> {
    let from = written.saturating_sub(limit as u64);
    let mut piece = read(host, id, from, limit).await?;
    let mut begin = 0;
    if from > 0 {
        // A line of which the start is missing, unless it is all there is.
        begin = piece.text.find('\n').map_or(0, |end| end + 1);
    }
    let kept = &piece.text[begin..];
    let ends = kept.trim_end_matches('\n').rmatch_indices('\n');
    if let Some((end, _)) = ends.into_iter().nth(lines.saturating_sub(1)) {
        begin += end + 1;
    }
    piece.offset += begin as u64;
    piece.text.drain(..begin);
    // What was never asked for is not missed, and the end is the end.
    piece.gone = 0;
    piece.more = false;
    Ok(piece)
}

/// Lines of a log that match, found as it grows.
#[derive(Debug, Default)]
pub(super) struct Matches {
    patterns: Vec<Regex>,
    at: u64,
    line: Vec<u8>,
    found: VecDeque<String>,
}

impl Matches {
    /// # Errors
    /// A pattern that is no regular expression, by name.
    pub(super) fn new(patterns: &[String]) -> Result<Self> {
        let patterns = patterns.iter().map(|pattern| regex(pattern));
        Ok(Self {
            patterns: patterns.collect::<Result<_>>()?,
            ..Self::default()
        })
    }

    /// Reads on, and gives the matches since it was last asked; of many, the last.
    pub(super) async fn look(&mut self, host: &mut Host, id: &str) -> Result<Vec<String>> {
        while !self.patterns.is_empty() {
            let piece = raw(host, id, self.at).await?;
            self.at = piece.1;
            self.take(&piece.0);
            if piece.2 {
                self.end_line();
            }
            if piece.0.len() < CHUNK {
                break;
            }
        }
        Ok(self.found.drain(..).collect())
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LOOKED_AT.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches(['\r', '\n']);
        if !line.is_empty() && self.patterns.iter().any(|pattern| pattern.is_match(line)) {
            if self.found.len() == REMEMBERED {
                self.found.pop_front();
            }
            self.found.push_back(line.chars().take(SHOWN).collect());
        }
    }
}

/// A regular expression.
///
/// # Errors
/// In one line, what is wrong with it.
fn regex(pattern: &str) -> Result<Regex> {
    Regex::new(pattern).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().last().unwrap_or_default();
        Failure::Usage(format!("`{pattern}` is no regular expression: {line}"))
    })
}

/// Bytes, where to go on, and whether that was all.
async fn raw(host: &mut Host, id: &str, from: u64) -> Result<(Bytes, u64, bool)> {
    let path = format!(
        "/v1/processes/{}/output?from={from}&limit={CHUNK}",
        part(id)
    );
    let answer = host.call(Method::GET, &path, Bytes::new()).await?;
    let next = answer.number("hostler-next").unwrap_or(from);
    let end = answer.is("hostler-end", "true");
    Ok((answer.body, next, end))
}

/// Waits for a line that matches, until then. `None`: there was none, or it can come no more.
pub(super) async fn wait_for_line(
    host: &mut Host,
    id: &str,
    pattern: &str,
    until: Instant,
) -> Result<Option<String>> {
    let mut matches = Matches::new(&[pattern.to_owned()])?;
    loop {
        let piece = raw(host, id, matches.at).await?;
        matches.at = piece.1;
        matches.take(&piece.0);
        // A prompt ends no line; it is looked at once nothing more has come.
        let quiet = piece.0.is_empty() && matches.patterns[0].is_match(&text(&matches.line));
        if piece.2 || quiet {
            matches.end_line();
        }
        if let Some(line) = matches.found.pop_front() {
            return Ok(Some(line));
        }
        if piece.2 || Instant::now() >= until {
            return Ok(None);
        }
        if piece.0.is_empty() {
            sleep(PAUSE).await;
        }
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_match_however_they_come() {
        let mut matches = Matches::new(&["rea.y".into(), "^x$".into()]).expect("patterns");
        matches.take(b"not yet\nrea");
        matches.take(b"dy on 3000\r\nx");
        assert_eq!(matches.found, ["ready on 3000"]);
        matches.end_line();
        assert_eq!(matches.found, ["ready on 3000", "x"]);
        for _ in 0..100 {
            matches.take(b"ready\n");
        }
        assert_eq!(matches.found.len(), REMEMBERED);
        matches.take(&vec![b'y'; 3 * LOOKED_AT]);
        assert_eq!(
            matches.line.len(),
            LOOKED_AT,
            "a line that never ends is bounded"
        );
    }

    #[test]
    fn a_pattern_that_is_none_is_said_in_a_line() {
        let error = Matches::new(&["(".into()])
            .expect_err("no pattern")
            .to_string();
        assert!(
            error.starts_with("`(` is no regular expression") && !error.contains('\n'),
            "{error}"
        );
    }
}
