//! Standard input and output, a line a message. Threads of their own read and write, for both may block.

use std::io::{BufRead, Write};

use tokio::sync::mpsc;

/// The longest line that is taken.
const LINE: u64 = 16 << 20;
/// How many lines wait in a pipe.
const ROOM: usize = 64;

/// A line of the editor.
#[derive(Debug)]
pub(super) enum Line {
    /// One message.
    Whole(String),
    /// One that is longer than may be, or no text; it was let go of.
    Refused(&'static str),
}

/// The lines of standard input, until it ends.
pub(super) fn input() -> mpsc::Receiver<Line> {
    let (send, lines) = mpsc::channel(ROOM);
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let mut line = Vec::new();
            let read = std::io::Read::take(&mut input, LINE).read_until(b'\n', &mut line);
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let whole = line.last() == Some(&b'\n') || (line.len() as u64) < LINE;
            let line = match String::from_utf8(line) {
                Ok(line) if whole && line.trim().is_empty() => continue,
                Ok(line) if whole => Line::Whole(line.trim_end().to_owned()),
                _ if !whole => {
                    // The rest of it.
                    if skip(&mut input).is_err() {
                        return;
                    }
                    Line::Refused("a message may have 16 MiB")
                }
                _ => Line::Refused("this is not UTF-8"),
            };
            if send.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

fn skip(input: &mut impl BufRead) -> std::io::Result<()> {
    loop {
        let bytes = input.fill_buf()?;
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (count, over) = match end {
            Some(end) => (end + 1, true),
            None => (bytes.len(), bytes.is_empty()),
        };
        input.consume(count);
        if over {
            return Ok(());
        }
    }
}

/// Standard output. The receiver ends when everything is written, or nobody reads.
pub(super) fn output() -> (mpsc::Sender<String>, tokio::sync::oneshot::Receiver<()>) {
    let (send, mut lines) = mpsc::channel::<String>(ROOM);
    let (done, written) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut output = std::io::BufWriter::new(std::io::stdout().lock());
        while let Some(line) = lines.blocking_recv() {
            let mut next = Some(line);
            while let Some(line) = next {
                let put = output
                    .write_all(line.as_bytes())
                    .and_then(|()| output.write_all(b"\n"));
                if put.is_err() {
                    return;
                }
                next = lines.try_recv().ok();
            }
            if output.flush().is_err() {
                return;
            }
        }
        let _ = done.send(());
    });
    (send, written)
}
