//! `hostler logs`: what a process has written, and writes.

use clap::{Args, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;

use super::error::{Failure, Result};
use super::follow;
use super::host::{Host, PATIENCE, UNANNOUNCED};
use super::relay::{Frame, Relay};
use super::resume::{Join, Progress};
use super::streams::{Output, Stream};
use super::{Place, remote, resolve};

/// How much is asked for at once.
const BLOCK: u64 = 1 << 20;

/// What `hostler logs` is told.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    place: Place,
    /// Go on with what it writes, until it ends
    #[arg(short, long, conflicts_with = "head")]
    pub(super) follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "N", conflicts_with_all = ["head", "since"])]
    pub(super) tail: Option<u64>,
    /// Only the first so many lines
    #[arg(long, value_name = "N")]
    pub(super) head: Option<u64>,
    /// From this offset, counted in bytes from the start
    #[arg(long, value_name = "OFFSET")]
    pub(super) since: Option<u64>,
    /// Which of the two, where they are apart
    #[arg(long, value_enum, value_name = "STREAM", conflicts_with = "follow")]
    pub(super) stream: Option<Which>,
    /// The process
    pub(super) process: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Which {
    Stdout,
    Stderr,
}

impl From<Which> for Stream {
    fn from(which: Which) -> Self {
        match which {
            Which::Stdout => Self::Out,
            Which::Stderr => Self::Err,
        }
    }
}

/// Where to look.
struct Source {
    path: String,
    stream: &'static str,
}

/// A piece of the output.
struct Piece {
    bytes: Bytes,
    next: u64,
    /// What is no longer kept before it.
    gap: Option<(u64, u64)>,
    /// Whether there is no more for now.
    last: bool,
}

impl Source {
    async fn read(&self, host: &mut Host, from: u64, limit: u64) -> Result<Piece> {
        let Self { path, stream } = self;
        let path = format!("{path}?from={from}&limit={limit}{stream}");
        let answer = host.call(Method::GET, &path, Bytes::new()).await?;
        let offset = answer.number("hostler-offset").unwrap_or(from);
        let length = answer.body.len() as u64;
        let next = answer.number("hostler-next").unwrap_or(offset + length);
        Ok(Piece {
            gap: (offset > from).then_some((from, offset)),
            last: length == 0 && next <= from.max(offset),
            bytes: answer.body,
            next,
        })
    }
}

/// Prints it.
pub(crate) async fn run(logs: &Logs) -> Result<u8> {
    if let Some(address) = logs.place.remote()? {
        return remote::logs::run(address, logs).await;
    }
    let mut host = logs.place.host()?;
    let process = resolve::process(&mut host, &logs.process).await?;
    let source = Source {
        path: format!("/v1/processes/{}/output", process.id),
        stream: match logs.stream {
            None => "",
            Some(Which::Stdout) => "&stream=stdout",
            Some(Which::Stderr) => "&stream=stderr",
        },
    };
    let from = match logs.tail {
        Some(lines) => last_lines(&mut host, &source, process.output_bytes, lines).await?,
        None => logs.since.unwrap_or(0),
    };
    let output = Output::new()?;
    if logs.follow {
        return follow(&mut host, &process.id, from, &output).await;
    }
    let mut from = from;
    let mut lines = logs.head;
    loop {
        let mut piece = source.read(&mut host, from, BLOCK).await?;
        if let Some((from, to)) = piece.gap {
            write(&output, Stream::Err, follow::gap(from, to, false)).await?;
        }
        if let Some(left) = &mut lines {
            let end = first_lines(&piece.bytes, left);
            piece.bytes.truncate(end);
        }
        if !piece.bytes.is_empty() {
            write(&output, Stream::Out, piece.bytes).await?;
        }
        if piece.last || lines == Some(0) || piece.next <= from {
            break;
        }
        from = piece.next;
    }
    output.flush().await?;
    Ok(0)
}

async fn write(output: &Output, stream: Stream, bytes: Bytes) -> Result<()> {
    tokio::select! {
        biased;
        failure = output.failure() => Err(failure),
        room = output.room() => {
            room.fill(stream, bytes);
            Ok(())
        }
    }
}

async fn follow(host: &mut Host, id: &str, from: u64, output: &Output) -> Result<u8> {
    let path = format!(
        "/v1/processes/{id}/attach?from={from}{}",
        Join::Reader.word()
    );
    let mut relay = Relay::open(host, &path, None).await?;
    let mut progress = Progress::default();
    loop {
        let frame = tokio::select! {
            failure = output.failure() => return Err(failure),
            frame = relay.next() => frame,
        };
        let frame = match frame {
            Err(Failure::Gone) => {
                relay = progress
                    .resume(host, id, Join::Reader, UNANNOUNCED)
                    .await?
                    .0;
                continue;
            }
            frame => frame?,
        };
        match frame {
            Frame::Output(bytes) => {
                progress.output(bytes.len());
                write(output, Stream::Out, bytes).await?;
            }
            Frame::Error(bytes) => {
                progress.error(bytes.len());
                write(output, Stream::Err, bytes).await?;
            }
            Frame::Gap { stream, from, to } => {
                progress.skip(stream, to);
                write(output, Stream::Err, follow::gap(from, to, false)).await?;
            }
            Frame::At(stdout, stderr) => progress.begin(stdout, stderr),
            Frame::Closing(reason, _) if reason == "takeover" => {
                relay = progress.resume(host, id, Join::Reader, PATIENCE).await?.0;
            }
            Frame::Closing(..) => return Err(Failure::Stopped),
            Frame::Exit(_) => break,
            Frame::Started(_) | Frame::Taken(_) | Frame::Unknown => {}
        }
    }
    output.flush().await?;
    Ok(0)
}

/// Where the first of the last `lines` lines starts, looking back from `end` further and further.
async fn last_lines(host: &mut Host, source: &Source, end: u64, lines: u64) -> Result<u64> {
    let mut back: u64 = 64 << 10;
    loop {
        let from = end.saturating_sub(back);
        let mut text = Vec::new();
        let mut at = from;
        let mut start = None;
        while at < end {
            let piece = source.read(host, at, (end - at).min(BLOCK)).await?;
            if piece.gap.is_some() || start.is_none() {
                // What is before a gap is not among the last lines; what is after it is.
                text.clear();
                start = Some(piece.gap.map_or(at, |(_, to)| to));
            }
            text.extend_from_slice(&piece.bytes);
            if piece.last || piece.next <= at {
                break;
            }
            at = piece.next;
        }
        let start = start.unwrap_or(from);
        match nth_line_back(&text, lines) {
            Some(at) => return Ok(start + at as u64),
            None if from == 0 || start > from => return Ok(start),
            None if back > 64 << 20 => {
                return Err(Failure::Unclear(
                    "the last lines are too long for --tail; --since OFFSET shows them".into(),
                ));
            }
            None => back *= 8,
        }
    }
}

/// Where the first of the last `lines` lines starts, if that many end in it. One without an end counts.
pub(super) fn nth_line_back(text: &[u8], lines: u64) -> Option<usize> {
    let Some(mut left) = lines.checked_sub(1) else {
        return Some(text.len());
    };
    let body = text.strip_suffix(b"\n").unwrap_or(text);
    for (at, byte) in body.iter().enumerate().rev() {
        if *byte == b'\n' {
            if left == 0 {
                return Some(at + 1);
            }
            left -= 1;
        }
    }
    None
}

/// Where the first `left` lines end; takes those that are there from it.
pub(super) fn first_lines(text: &[u8], left: &mut u64) -> usize {
    if *left == 0 {
        return 0;
    }
    for (at, byte) in text.iter().enumerate() {
        if *byte == b'\n' {
            *left -= 1;
            if *left == 0 {
                return at + 1;
            }
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_are_counted_from_the_end() {
        let text = b"one\ntwo\nthree\n";
        assert_eq!(nth_line_back(text, 0), Some(14));
        assert_eq!(nth_line_back(text, 1), Some(8));
        assert_eq!(nth_line_back(text, 2), Some(4));
        assert_eq!(nth_line_back(text, 3), None);
        assert_eq!(nth_line_back(b"one\ntwo", 1), Some(4));
        assert_eq!(nth_line_back(b"", 1), None);
        assert_eq!(nth_line_back(b"\n\n", 1), Some(1));
    }

    #[test]
    fn first_lines_are_counted_over_pieces() {
        let mut left = 2;
        assert_eq!(first_lines(b"on", &mut left), 2);
        assert_eq!(first_lines(b"e\nt", &mut left), 3);
        assert_eq!(first_lines(b"wo\nthree\n", &mut left), 3);
        assert_eq!(left, 0);
        assert_eq!(first_lines(b"more", &mut left), 0);
    }
}
