//! A connection as a task drives it: messages out as the socket takes them, messages in as they come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use hostler_keeper::connection::{Connection, ConnectionError, Packet, Received};
use hostler_keeper::message::Message;
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::time::sleep;

#[derive(Debug)]
struct Socket(Connection);

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// Takes a descriptor into the runtime that this is called in.
pub fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` owns its descriptor, and nothing replaces or closes that before it is dropped.
    Ok(unsafe { AsyncFd::register(fd)? })
}

/// The same, to be told of nothing but this.
fn register_for(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as above.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest)? })
}

/// How long to wait for room in a socket that there is no descriptor left to watch for it.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug)]
struct Outgoing {
    id: u32,
    packet: Packet,
    /// Held until the message is sent, and closed then.
    fds: Vec<OwnedFd>,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// Watched for what comes only: to be told that there is room would wake this process whenever the other end has read.
    socket: AsyncFd<Socket>,
    /// Watched for room, while there is none.
    room: Option<AsyncFd<OwnedFd>>,
    outbox: VecDeque<Outgoing>,
    unsent: Vec<(u32, io::Error)>,
}

impl Link {
    /// Takes the connection into the runtime that this is called in.
    pub(crate) fn new(connection: Connection) -> io::Result<Self> {
        // SAFETY: `Socket` owns its descriptor, and nothing replaces or closes that before it is dropped.
        let socket =
            unsafe { AsyncFd::register_with_interest(Socket(connection), Interest::READABLE)? };
        Ok(Self {
            socket,
            room: None,
            outbox: VecDeque::new(),
            unsent: Vec::new(),
        })
    }

    /// Sends a message now, or as soon as the socket takes it (while [`Link::receive`] is awaited).
    pub(crate) fn post<'a>(
        &mut self,
        id: u32,
        message: &impl Message<'a>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), ConnectionError> {
        let packet = Packet::new(id, message)?;
        self.outbox.push_back(Outgoing { id, packet, fds });
        flush(&self.socket, &mut self.outbox, &mut self.unsent);
        Ok(())
    }

    /// Requests that the kernel would not send, with its reasons. A connection whose other end is gone is not among them:
    /// [`Link::receive`] tells that.
    pub(crate) fn take_unsent(&mut self) -> Vec<(u32, io::Error)> {
        std::mem::take(&mut self.unsent)
    }

    /// Whether there are such requests.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The next message; `None` when the other end is gone. Sends what waits to be sent meanwhile.
    ///
    /// Cancel safe: a message is either returned or still in the socket.
    pub(crate) async fn receive(&mut self) -> Result<Option<Received>, ConnectionError> {
        loop {
            if self.outbox.is_empty() {
                self.room = None;
            } else if self.room.is_none() {
                let again = self.socket.get_ref().0.as_fd().try_clone_to_owned();
                self.room = again
                    .and_then(|again| register_for(again, Interest::WRITABLE))
                    .ok();
            }
            tokio::select! {
                guard = self.socket.readable() => {
                    let mut guard = guard?;
                    match self.socket.get_ref().0.try_receive() {
                        Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                            guard.clear_ready();
                        }
                        other => return other,
                    }
                }
                guard = room(self.room.as_ref()), if !self.outbox.is_empty() => {
                    if !flush(&self.socket, &mut self.outbox, &mut self.unsent)
                        && let Some(Ok(mut guard)) = guard
                    {
                        guard.clear_ready();
                    }
                }
            }
        }
    }
}

/// Waits until there may be room; how to say that there is none, where that is known.
async fn room(
    socket: Option<&AsyncFd<OwnedFd>>,
) -> Option<io::Result<AsyncFdReadyGuard<'_, OwnedFd>>> {
    match socket {
        Some(socket) => Some(socket.writable().await),
        None => {
            sleep(PAUSE).await;
            None
        }
    }
}

/// Sends what the socket takes; false when it takes no more now.
fn flush(
    socket: &AsyncFd<Socket>,
    outbox: &mut VecDeque<Outgoing>,
    unsent: &mut Vec<(u32, io::Error)>,
) -> bool {
    while let Some(Outgoing { id, packet, fds }) = outbox.front() {
        let beside: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        match socket.get_ref().0.try_send(packet, &beside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                ) => {}
            Err(error) => unsent.push((*id, error)),
        }
        outbox.pop_front();
    }
    true
}
