//! Where a keeper and its next host find each other: a Unix socket at a path that the first host chose.
//!
//! The path is one keeper's alone. Only its user (and root) may come: the file's mode is 0600, and the kernel says who a peer
//! is (unix(7), `SO_PEERCRED`). Inside a user namespace root has no name, so there it is the keeper's user alone.

use std::ffi::{CStr, CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{geteuid, umask};

use crate::connection::Connection;
use crate::signals::last_errno;

/// How many may wait to be accepted.
const BACKLOG: i32 = 64;

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its pid at the time of its connect(2) or listen(2); 0 for one outside of this pid namespace.
    pub pid: i32,
    /// Its effective user.
    pub uid: u32,
}

impl Peer {
    /// Whether it is this process's user, or root.
    pub fn is_ours(self) -> bool {
        self.uid == 0 || self.uid == geteuid().as_raw()
    }
}

/// Who is at the other end, by the kernel's word.
///
/// # Errors
/// getsockopt(2)'s.
pub fn peer(socket: BorrowedFd<'_>) -> Result<Peer, Errno> {
    let mut credentials = MaybeUninit::<libc::ucred>::zeroed();
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a local, for which all values are valid.
    let credentials = unsafe {
        if libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            credentials.as_mut_ptr().cast(),
            &raw mut length,
        ) == -1
        {
            return Err(last_errno());
        }
        credentials.assume_init()
    };
    Ok(Peer {
        pid: credentials.pid,
        uid: credentials.uid,
    })
}

/// Connects to the keeper that listens at this path, and says who that is. Does not wait.
///
/// # Errors
/// connect(2)'s: `NOENT` and `CONNREFUSED` where nobody listens, `AGAIN` where too many are waiting before this one.
pub fn connect(path: &CStr) -> Result<(Connection, Peer), Errno> {
    let socket = socket()?;
    let address = Address::of(path)?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address.socket))?;
    let peer = peer(socket.as_fd())?;
    Ok((Connection::from(socket), peer))
}

fn socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
}

/// A path as an address holds it. One that is too long for that (107 bytes) is named through its directory's descriptor.
struct Address {
    socket: SocketAddrUnix,
    _directory: Option<OwnedFd>,
}

impl Address {
    fn of(path: &CStr) -> Result<Self, Errno> {
        if let Ok(socket) = SocketAddrUnix::new(path) {
            return Ok(Self {
                socket,
                _directory: None,
            });
        }
        let bytes = path.to_bytes();
        let slash = bytes
            .iter()
            .rposition(|byte| *byte == b'/')
            .ok_or(Errno::NAMETOOLONG)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory =
            rustix::fs::open(OsStr::from_bytes(&bytes[..=slash]), flags, Mode::empty())?;
        let short = [
            format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(),
            &bytes[slash + 1..],
        ]
        .concat();
        Ok(Self {
            socket: SocketAddrUnix::new(OsStr::from_bytes(&short))?,
            _directory: Some(directory),
        })
    }
}

/// A keeper's listening socket.
#[derive(Debug)]
pub(crate) struct Rendezvous {
    socket: OwnedFd,
    path: CString,
    /// Device and inode of the file, by which it is still this keeper's.
    file: (u64, u64),
}

impl AsFd for Rendezvous {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Rendezvous {
    /// Makes the socket, in place of one that nobody listens on.
    ///
    /// # Errors
    /// `INVAL` for a path that is not absolute, `ADDRINUSE` where somebody listens or another kind of file is, and the
    /// kernel's.
    pub(crate) fn listen(path: &CStr) -> Result<Self, Errno> {
        if !path.to_bytes().starts_with(b"/") {
            return Err(Errno::INVAL);
        }
        let socket = socket()?;
        let address = Address::of(path)?;
        // From the first moment on, nobody else may connect.
        let before = umask(Mode::from_raw_mode(0o177));
        let mut bound = rustix::net::bind(&socket, &address.socket);
        if bound == Err(Errno::ADDRINUSE) && remove_dead(path) {
            bound = rustix::net::bind(&socket, &address.socket);
        }
        umask(before);
        bound?;
        crate::hook!("keeper.bound");
        let file = identity(path)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self {
            socket,
            path: path.to_owned(),
            file,
        })
    }

    /// The next one who knocks; `None` for one who may not.
    ///
    /// # Errors
    /// `AGAIN` when there is none, and the kernel's.
    pub(crate) fn accept(&self) -> Result<Option<Connection>, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = match rustix::net::accept_with(&self.socket, flags) {
            // It has gone again.
            Err(Errno::CONNABORTED | Errno::INTR) => return Ok(None),
            other => other?,
        };
        let may = peer(socket.as_fd()).is_ok_and(Peer::is_ours);
        Ok(may.then(|| Connection::from(socket)))
    }

    /// Removes the file, if it is still this keeper's.
    pub(crate) fn remove(&self) {
        if identity(&self.path) == Ok(self.file) {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn identity(path: &CStr) -> Result<(u64, u64), Errno> {
    let stat = rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes a socket that nobody listens on; says whether the path is free.
pub(crate) fn remove_dead(path: &CStr) -> bool {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return true,
        Ok(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_socket() => {}
        _ => return false,
    }
    // Whoever listens is there, even when it takes nobody just now.
    matches!(connect(path), Err(Errno::CONNREFUSED)) && rustix::fs::unlink(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(std::path::PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hostler-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }

        fn path(&self, name: &str) -> CString {
            CString::new(self.0.join(name).into_os_string().into_encoded_bytes()).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn short_and_long_paths_are_found() {
        let dir = Dir::new("paths");
        let deep = dir.0.join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        for path in [dir.path("a"), dir.path(&format!("{}/a", "d".repeat(200)))] {
            assert_eq!(connect(&path).map(drop), Err(Errno::NOENT));
            let door = Rendezvous::listen(&path).unwrap();
            assert_eq!(door.accept().map(drop), Err(Errno::AGAIN));
            let mode = rustix::fs::stat(&path).unwrap().st_mode;
            assert_eq!(mode & 0o777, 0o600);
            let (_connection, peer) = connect(&path).unwrap();
            assert_eq!(peer.pid, std::process::id().cast_signed());
            assert!(peer.is_ours());
            assert!(door.accept().unwrap().is_some());
            assert_eq!(Rendezvous::listen(&path).map(drop), Err(Errno::ADDRINUSE));
            // A dead one's stays behind, and is taken the place of.
            drop(door);
            assert_eq!(connect(&path).map(drop), Err(Errno::CONNREFUSED));
            let door = Rendezvous::listen(&path).unwrap();
            door.remove();
            assert_eq!(connect(&path).map(drop), Err(Errno::NOENT));
        }
        let name = dir.path(&"n".repeat(200));
        assert_eq!(Rendezvous::listen(&name).map(drop), Err(Errno::NAMETOOLONG));
        assert_eq!(Rendezvous::listen(c"a").map(drop), Err(Errno::INVAL));
    }

    #[test]
    fn what_is_not_the_keepers_stays() {
        let dir = Dir::new("others");
        let path = dir.path("a");
        std::fs::write(dir.0.join("a"), "text").unwrap();
        assert_eq!(Rendezvous::listen(&path).map(drop), Err(Errno::ADDRINUSE));
        assert_eq!(std::fs::read(dir.0.join("a")).unwrap(), b"text");
        std::fs::remove_file(dir.0.join("a")).unwrap();
        let first = Rendezvous::listen(&path).unwrap();
        std::fs::remove_file(dir.0.join("a")).unwrap();
        let second = Rendezvous::listen(&path).unwrap();
        first.remove();
        assert!(connect(&path).is_ok());
        second.remove();
    }
}
