//! A WebSocket client that costs next to nothing, so that what is measured is whoever is at the other end.

use std::io;
use std::ops::Range;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How much is read at once.
const READ: usize = 256 << 10;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// What of the buffer was given out.
    at: usize,
}

impl Socket {
    /// Connects to a Unix socket (a path) or to HOST:PORT.
    pub(crate) async fn new(address: &str, path: &str) -> io::Result<Self> {
        let stream: Box<dyn Stream> = if address.starts_with('/') {
            Box::new(UnixStream::connect(address).await?)
        } else {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        };
        let mut socket = Self {
            stream,
            buffer: Vec::with_capacity(READ),
            at: 0,
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        );
        socket.stream.write_all(request.as_bytes()).await?;
        loop {
            let head = socket
                .buffer
                .windows(4)
                .position(|four| four == b"\r\n\r\n");
            if let Some(end) = head {
                let first = String::from_utf8_lossy(&socket.buffer[..end]).into_owned();
                socket.at = end + 4;
                return match first.contains(" 101 ") {
                    true => Ok(socket),
                    false => Err(io::Error::other(first)),
                };
            }
            socket.read().await?;
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        if self.at == self.buffer.len() {
            self.buffer.clear();
            self.at = 0;
        } else if self.at > READ {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.reserve(READ);
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The next frame, if all of it has been read: what it is, and where.
    fn frame(&mut self) -> Option<(u8, Range<usize>)> {
        let rest = &self.buffer[self.at..];
        let (kind, length) = (rest.first()? & 0x0f, rest.get(1)? & 0x7f);
        let (head, length) = match length {
            126 => (
                4,
                usize::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?) as usize,
            ),
            short => (2, usize::from(short)),
        };
        rest.get(head..head + length)?;
        let start = self.at + head;
        self.at = start + length;
        Some((kind, start..start + length))
    }

    /// The next message. `None`: the other side has closed.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match self.frame() {
                Some((CLOSE, what)) => {
                    let why = self.buffer[what].get(2..).unwrap_or_default();
                    if !why.is_empty() {
                        eprintln!("closed: {}", String::from_utf8_lossy(why));
                    }
                    return Ok(None);
                }
                Some((PING, what)) => {
                    let what = self.buffer[what].to_vec();
                    self.write(PONG, &what).await?;
                }
                Some((PONG, _)) => {}
                Some((_, what)) => return Ok(Some(&self.buffer[what])),
                None => self.read().await?,
            }
        }
    }

    pub(crate) async fn send(&mut self, text: &str) -> io::Result<()> {
        self.write(1, text.as_bytes()).await
    }

    async fn write(&mut self, kind: u8, what: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | kind];
        match what.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            length @ 126..65536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        // The mask is zero, which leaves all as it is.
        frame.extend_from_slice(&[0; 4]);
        frame.extend_from_slice(what);
        self.stream.write_all(&frame).await
    }
}
