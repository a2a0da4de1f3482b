//! A connection between two of the host, the zygote and a keeper: whole messages, with descriptors beside them.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use crate::frame::{self, Frame};
use crate::message::Message;
use crate::wire::{BODY_MAX, HEADER_LEN, Header, INLINE_MAX, WireError, Writer};

/// The most descriptors beside one message: what the kernel allows (unix(7), `SCM_MAX_FD`), less one for a body that
/// travels in a memory file.
pub const FDS_MAX: usize = 252;

/// What can go wrong on a connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// This process, or the machine, has no descriptors left for those that came with a message: they are lost, and it with
    /// them.
    #[error("no descriptors are left for those of a message")]
    Descriptors {
        /// The message's id.
        id: u32,
    },
    /// The message makes no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<Errno> for ConnectionError {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// A message that is ready to go: packed once, sent when the socket takes it.
#[derive(Debug)]
pub struct Packet {
    header: [u8; HEADER_LEN],
    body: Vec<u8>,
    file: Option<OwnedFd>,
}

impl Packet {
    /// Packs a message. `id` ties an answer to its request and is 0 in an event.
    ///
    /// # Errors
    /// [`WireError::Long`], and the kernel's where it has no room for the memory file of a long body.
    pub fn new<'a>(id: u32, message: &impl Message<'a>) -> Result<Self, ConnectionError> {
        let mut writer = Writer::new();
        let kind = message.encode(&mut writer);
        let body = writer.finish();
        if body.len() > BODY_MAX {
            return Err(WireError::Long(body.len()).into());
        }
        let in_file = body.len() > INLINE_MAX;
        let header = Header { kind, in_file, id }.encode();
        if !in_file {
            return Ok(Self {
                header,
                body,
                file: None,
            });
        }
        let file = memfd_create("hostler-message", MemfdFlags::CLOEXEC)?;
        let mut rest = body.as_slice();
        while !rest.is_empty() {
            rest = &rest[rustix::io::write(&file, rest)?..];
        }
        Ok(Self {
            header,
            body: Vec::new(),
            file: Some(file),
        })
    }
}

/// A message as it came.
#[derive(Debug)]
pub struct Received {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Vec<u8>,
    /// The descriptors beside it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Received {
    /// Reads the message.
    ///
    /// # Errors
    /// [`WireError`] where it isn't one of this type.
    pub fn message<'a, M: Message<'a>>(&'a self) -> Result<M, WireError> {
        M::decode(self.header.kind, &self.body)
    }
}

/// One end of a connection. Nothing here blocks but [`Connection::wait`] and what says so.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<OwnedFd> for Connection {
    /// `socket` must be a connected `SOCK_SEQPACKET` socket.
    fn from(socket: OwnedFd) -> Self {
        Self { socket }
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.socket
    }
}

impl Connection {
    /// Both ends of a new connection, close-on-exec.
    ///
    /// # Errors
    /// The kernel's, when out of descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Self { socket: a }, Self { socket: b }))
    }

    /// Sends a packed message with descriptors beside it, if the socket takes it now.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when it does not; [`io::ErrorKind::BrokenPipe`] when the other end is gone.
    pub fn try_send(&self, packet: &Packet, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let all: Vec<BorrowedFd<'_>> = packet
            .file
            .iter()
            .map(AsFd::as_fd)
            .chain(fds.iter().copied())
            .collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX + 1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !all.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&all)) {
            return Err(Errno::TOOBIG.into());
        }
        let parts = [IoSlice::new(&packet.header), IoSlice::new(&packet.body)];
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.socket, &parts, &mut control, flags)
        })?;
        Ok(())
    }

    /// Packs and sends, waiting for room if there is none.
    ///
    /// # Errors
    /// Those of [`Packet::new`] and [`Connection::try_send`], but for `WouldBlock`.
    pub fn send<'a>(
        &self,
        id: u32,
        message: &impl Message<'a>,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ConnectionError> {
        let packet = Packet::new(id, message)?;
        loop {
            match self.try_send(&packet, fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::OUT)?
                }
                other => return Ok(other?),
            }
        }
    }

    /// The next message, if one is there; `None` when the other end is gone and nothing is left to read.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none yet; [`WireError`] for a frame that is none (it is then gone from
    /// the socket).
    pub fn try_receive(&self) -> Result<Option<Received>, ConnectionError> {
        let Some(Frame {
            bytes,
            mut fds,
            lacks_fds,
            is_cut,
        }) = frame::take(&self.socket)?
        else {
            return Ok(None);
        };
        let (header, _) = Header::decode(&bytes)?;
        if lacks_fds {
            return Err(ConnectionError::Descriptors { id: header.id });
        }
        if is_cut {
            return Err(WireError::Long(bytes.len()).into());
        }
        let body = if header.in_file {
            if fds.is_empty() {
                return Err(WireError::Short.into());
            }
            read_file(&fds.remove(0))?
        } else {
            let mut body = bytes;
            body.drain(..HEADER_LEN);
            body
        };
        Ok(Some(Received { header, body, fds }))
    }

    /// The next message, waiting for it; `None` when the other end is gone.
    ///
    /// # Errors
    /// Those of [`Connection::try_receive`], but for `WouldBlock`.
    pub fn receive(&self) -> Result<Option<Received>, ConnectionError> {
        loop {
            match self.try_receive() {
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::IN)?;
                }
                other => return other,
            }
        }
    }

    /// Blocks until the socket is ready, or the other end is gone.
    ///
    /// # Errors
    /// poll(2)'s.
    pub fn wait(&self, flags: PollFlags) -> io::Result<()> {
        let mut poll = [PollFd::new(&self.socket, flags)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, None))?;
        Ok(())
    }
}

/// A long body, from its memory file.
fn read_file(file: &OwnedFd) -> Result<Vec<u8>, ConnectionError> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(usize::MAX);
    if size > BODY_MAX {
        return Err(WireError::Long(size).into());
    }
    let mut body = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::pread(file, &mut body[filled..], filled as u64)? {
            0 => return Err(WireError::Short.into()),
            n => filled += n,
        }
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Key;
    use crate::message::{Request, Spawn, Tidy};

    fn spawn<'a>(env: Vec<&'a std::ffi::CStr>) -> Request<'a> {
        Request::Spawn(Box::new(Spawn {
            key: Key(7),
            main: true,
            program: c"/bin/true",
            args: vec![c"true", c"--x"],
            env,
            cwd: Some(c"/tmp"),
            fds: vec![0, 1, 9],
            group: crate::message::Group::Terminal(0),
            nice: Some(-3),
            umask: Some(0o22),
            rlimits: vec![crate::message::Rlimit {
                resource: 7,
                soft: 1,
                hard: u64::MAX,
            }],
            blocked: 1 << 63,
            ignored: Some(1),
            stored: vec![b"7.stdout"],
            tidy: Tidy {
                forget: vec![Key(5), Key(6)],
                discard: vec![b"6.stdout", b""],
            },
        }))
    }

    #[test]
    fn short_and_long_messages_arrive_whole_with_their_descriptors() {
        let (a, b) = Connection::pair().unwrap();
        let long = std::ffi::CString::new(vec![b'x'; 100_000]).unwrap();
        for env in [vec![c"A=1"], vec![long.as_c_str(); 20]] {
            let message = spawn(env);
            a.send(3, &message, &[a.as_fd(), b.as_fd()]).unwrap();
            let received = b.receive().unwrap().unwrap();
            assert_eq!(received.fds.len(), 2);
            assert_eq!(received.header.id, 3);
            assert_eq!(received.message::<Request<'_>>().unwrap(), message);
        }
    }

    #[test]
    fn the_end_and_emptiness_are_told_apart() {
        let (a, b) = Connection::pair().unwrap();
        assert!(
            matches!(b.try_receive(), Err(ConnectionError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock)
        );
        a.send(1, &Request::Census, &[]).unwrap();
        drop(a);
        assert!(b.try_receive().unwrap().is_some());
        assert!(b.try_receive().unwrap().is_none());
        assert_eq!(
            b.try_send(&Packet::new(1, &Request::Census).unwrap(), &[])
                .unwrap_err()
                .kind(),
            io::ErrorKind::BrokenPipe
        );
    }

    #[test]
    fn the_last_words_of_one_who_did_not_listen_are_heard() {
        let (a, b) = Connection::pair().unwrap();
        a.send(1, &Request::Names, &[]).unwrap();
        b.send(2, &Request::Census, &[]).unwrap();
        drop(b);
        assert_eq!(a.try_receive().unwrap().unwrap().header.id, 2);
        assert!(a.try_receive().unwrap().is_none());
    }

    #[test]
    fn nonsense_is_an_error_and_the_next_message_is_read() {
        let (a, b) = Connection::pair().unwrap();
        rustix::net::send(&a, b"xx", SendFlags::empty()).unwrap();
        a.send(1, &Request::Names, &[]).unwrap();
        assert!(matches!(
            b.try_receive(),
            Err(ConnectionError::Wire(WireError::Short))
        ));
        assert_eq!(
            b.try_receive()
                .unwrap()
                .unwrap()
                .message::<Request<'_>>()
                .unwrap(),
            Request::Names
        );
    }
}
