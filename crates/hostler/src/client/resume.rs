//! How far a connection has come, so that another one can go on from there: when another host takes over, nothing is lost and
//! nothing comes twice.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{Failure, Result};
use super::host::{Host, PAUSE, part};
use super::relay::{INPUT, Relay};

/// The largest piece of input that is sent.
const PIECE: usize = 64 << 10;

/// What is to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// Bytes, after [`INPUT`].
    Bytes(Vec<u8>),
    /// That there is no more.
    Eof,
}

/// As what a process is joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Join {
    /// As the one for whom it runs, and with whom it ends.
    Foreground,
    /// As one of the session's clients.
    Viewer,
    /// As somebody who reads along, and is no client.
    Reader,
}

impl Join {
    /// What is added to the query.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Foreground => "&foreground=true",
            Self::Viewer => "",
            Self::Reader => "&watch=true",
        }
    }
}

/// How far it has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    stdout: Option<u64>,
    stderr: Option<u64>,
    /// Input that was sent, and is not known to have come to the process.
    unsure: VecDeque<u8>,
    /// How much is known to have.
    taken: u64,
    closed: bool,
}

impl Progress {
    /// The connection begins at these offsets.
    pub(crate) fn begin(&mut self, stdout: u64, stderr: Option<u64>) {
        (self.stdout, self.stderr) = (Some(stdout), stderr);
    }

    /// So much standard output has come.
    pub(crate) fn output(&mut self, bytes: usize) {
        self.stdout = self.stdout.map(|at| at + bytes as u64);
    }

    /// So much standard error has.
    pub(crate) fn error(&mut self, bytes: usize) {
        self.stderr = self.stderr.map(|at| at + bytes as u64);
    }

    /// A stream goes on at this offset.
    pub(crate) fn skip(&mut self, stream: u8, to: u64) {
        match stream {
            2 => self.stderr = Some(to),
            _ => self.stdout = Some(to),
        }
    }

    /// This was sent.
    pub(crate) fn sent(&mut self, input: &Input) {
        match input {
            Input::Bytes(bytes) => self.unsure.extend(&bytes[INPUT.len()..]),
            Input::Eof => self.closed = true,
        }
    }

    /// So much input has come to the process, over this connection.
    pub(crate) fn taken(&mut self, total: u64) {
        let more = total.saturating_sub(self.taken) as usize;
        self.unsure.drain(..more.min(self.unsure.len()));
        self.taken = total;
    }

    /// Whether it is known of all input that was sent that it has come to the process.
    pub(crate) fn is_sure(&self) -> bool {
        self.unsure.is_empty()
    }

    /// Gives up input of which that is not known.
    pub(crate) fn forget(&mut self) {
        self.unsure.clear();
    }

    /// Goes on where it was, with the host that is there then, and with what is to be sent again.
    pub(crate) async fn resume(
        &mut self,
        host: &mut Host,
        process: &str,
        join: Join,
        patience: Duration,
    ) -> Result<(Relay, Vec<Input>)> {
        let Some(stdout) = self.stdout else {
            return Err(Failure::Gone);
        };
        let stderr = self.stderr.map(|at| format!("&stderr_from={at}"));
        let path = format!(
            "/v1/processes/{}/attach?from={stdout}{}{}",
            part(process),
            stderr.unwrap_or_default(),
            join.word()
        );
        let until = Instant::now() + patience;
        let relay = loop {
            match Relay::open(host, &path, None).await {
                Ok(relay) => break relay,
                Err(Failure::Refused { code, .. }) if code == "unavailable" => {}
                Err(Failure::Gone | Failure::NoHost(_)) => {}
                Err(failure) => return Err(failure),
            }
            if Instant::now() > until {
                return Err(Failure::Gone);
            }
            sleep(PAUSE).await;
        };
        Ok((relay, self.again()))
    }

    /// What is to be sent again over a new connection.
    pub(crate) fn again(&mut self) -> Vec<Input> {
        self.taken = 0;
        let bytes: Vec<u8> = self.unsure.drain(..).collect();
        let mut again: Vec<Input> = bytes
            .chunks(PIECE)
            .map(|piece| Input::Bytes([INPUT, piece].concat()))
            .collect();
        if std::mem::take(&mut self.closed) {
            again.push(Input::Eof);
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Input {
        Input::Bytes([INPUT, text].concat())
    }

    #[test]
    fn what_was_not_taken_is_sent_again_once() {
        let mut progress = Progress::default();
        for text in [&b"abc"[..], b"defg"] {
            progress.sent(&bytes(text));
        }
        progress.taken(2);
        progress.taken(5);
        progress.sent(&Input::Eof);
        assert_eq!(progress.again(), [bytes(b"fg"), Input::Eof]);
        assert_eq!(progress.again(), []);
        progress.sent(&bytes(b"fg"));
        progress.taken(2);
        assert_eq!(progress.again(), []);
    }

    #[test]
    fn large_input_goes_in_pieces() {
        let mut progress = Progress::default();
        progress.sent(&bytes(&vec![b'x'; PIECE + 1]));
        let sizes: Vec<usize> = progress
            .again()
            .iter()
            .map(|input| match input {
                Input::Bytes(bytes) => bytes.len(),
                Input::Eof => 0,
            })
            .collect();
        assert_eq!(sizes, [PIECE + 1, 2]);
    }
}
