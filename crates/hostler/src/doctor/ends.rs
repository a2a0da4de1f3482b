//! Who holds the other ends: of pipes, of socket pairs, of connections.
//!
//! Pipes and sockets have inode numbers, which show in `/proc/PID/fd`. Which Unix socket belongs to which is asked of the
//! kernel (sock_diag(7)). Whether a pipe's other end is held at all is asked of the pipe itself, since not every process's
//! descriptors may be seen.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hostler_process::sockets::{Tcp, Unix, tcp, unix};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// What a descriptor is open on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Open {
    Pipe {
        inode: u64,
        reads: bool,
        writes: bool,
    },
    Socket(u64),
    Terminal,
    Null,
    File(PathBuf),
    Other,
}

/// The other end of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Far {
    /// These processes hold it.
    Held(Vec<u32>),
    /// Someone does, or may, whose descriptors this user may not see.
    Unseen,
    /// Nobody but the tree itself.
    Nobody,
    /// Not to be found out.
    Unknown,
}

/// What a standard stream of a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stream {
    Closed,
    Null,
    File,
    Terminal,
    /// A pipe, or one of a pair of sockets.
    Channel(Far),
    Unknown,
}

/// All descriptors that this user may see.
#[derive(Debug)]
pub(crate) struct Ends {
    open: HashMap<u32, Vec<(u32, Open)>>,
    readers: HashMap<u64, Vec<u32>>,
    writers: HashMap<u64, Vec<u32>>,
    sockets: HashMap<u64, Vec<u32>>,
    unix: Option<HashMap<u64, Unix>>,
    net: Option<u64>,
    /// Directories in which processes work.
    places: Vec<PathBuf>,
}

impl Ends {
    /// Reads the descriptors of these processes: all that there are.
    pub(crate) fn read(pids: impl Iterator<Item = u32>) -> Self {
        let mut ends = Self {
            open: HashMap::new(),
            readers: HashMap::new(),
            writers: HashMap::new(),
            sockets: HashMap::new(),
            unix: unix().ok(),
            net: net(std::process::id()),
            places: Vec::new(),
        };
        for pid in pids {
            ends.places
                .extend(fs::read_link(format!("/proc/{pid}/cwd")));
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            let mut open = Vec::new();
            for entry in entries.flatten() {
                let number = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.parse().ok());
                if let (Some(number), Some(what)) = (number, look_at(&entry.path())) {
                    ends.note(pid, &what);
                    open.push((number, what));
                }
            }
            open.sort_by_key(|(number, _)| *number);
            ends.open.insert(pid, open);
        }
        ends
    }

    fn note(&mut self, pid: u32, what: &Open) {
        match *what {
            Open::Pipe {
                inode,
                reads,
                writes,
            } => {
                if reads {
                    self.readers.entry(inode).or_default().push(pid);
                }
                if writes {
                    self.writers.entry(inode).or_default().push(pid);
                }
            }
            Open::Socket(inode) => self.sockets.entry(inode).or_default().push(pid),
            _ => {}
        }
    }

    /// The descriptors of a process; nothing where they may not be seen.
    pub(crate) fn of(&self, pid: u32) -> &[(u32, Open)] {
        self.open.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// What the descriptor `number` of the process is, as seen from a tree of which it is a part.
    pub(crate) fn stream(&self, pid: u32, number: u32, tree: &HashSet<u32>) -> Stream {
        let Some(open) = self.open.get(&pid) else {
            return Stream::Unknown;
        };
        let Some((_, what)) = open.iter().find(|(found, _)| *found == number) else {
            return Stream::Closed;
        };
        match what {
            Open::Pipe { inode, reads, .. } => {
                Stream::Channel(self.pipe(pid, number, *inode, *reads, tree))
            }
            Open::Socket(inode) => match self.pair(pid, *inode, tree) {
                Some(far) => Stream::Channel(far),
                None => Stream::Unknown,
            },
            Open::Terminal => Stream::Terminal,
            Open::Null => Stream::Null,
            Open::File(_) => Stream::File,
            Open::Other => Stream::Unknown,
        }
    }

    fn pipe(&self, pid: u32, number: u32, inode: u64, reads: bool, tree: &HashSet<u32>) -> Far {
        let holders = if reads { &self.writers } else { &self.readers };
        let all = holders.get(&inode).map_or(&[][..], Vec::as_slice);
        let others = outside(all, tree);
        if !others.is_empty() {
            return Far::Held(others);
        }
        if !all.is_empty() {
            // The tree holds both ends of it. Nobody else is seen.
            return Far::Nobody;
        }
        match is_held(&PathBuf::from(format!("/proc/{pid}/fd/{number}")), reads) {
            Ok(false) => Far::Nobody,
            // Another user made the pipe, and may hold it.
            Ok(true) | Err(Errno::ACCESS) => Far::Unseen,
            Err(_) => Far::Unknown,
        }
    }

    /// The other end of a Unix socket, if whoever holds that could be its owner: the other of a pair, or a client. A server
    /// to which the process went itself is none.
    pub(crate) fn pair(&self, pid: u32, inode: u64, tree: &HashSet<u32>) -> Option<Far> {
        let (Some(table), true) = (&self.unix, net(pid) == self.net) else {
            return Some(Far::Unknown);
        };
        let socket = table.get(&inode)?;
        if socket.listens {
            return None;
        }
        let Some(peer) = socket.peer.filter(|peer| *peer != 0) else {
            return Some(Far::Nobody);
        };
        let far = table.get(&peer);
        if !socket.named && far.is_some_and(|far| far.named) {
            return None;
        }
        let all = self.sockets.get(&peer).map_or(&[][..], Vec::as_slice);
        Some(match outside(all, tree) {
            others if !others.is_empty() => Far::Held(others),
            _ if all.is_empty() => Far::Unseen,
            _ => Far::Nobody,
        })
    }

    /// The processes outside of the tree that are connected by TCP to what it listens on, and the addresses of that.
    pub(crate) fn network(&self, pid: u32, tree: &HashSet<u32>) -> (Vec<String>, Far) {
        let table = tcp(pid);
        let own = |socket: &&Tcp| {
            self.sockets
                .get(&socket.inode)
                .is_some_and(|holders| holders.iter().any(|holder| tree.contains(holder)))
        };
        let listening: Vec<&Tcp> = table.iter().filter(|one| one.listens).filter(own).collect();
        let mut clients = Vec::new();
        let mut unseen = false;
        for socket in table.iter().filter(|one| one.established).filter(own) {
            if !listening
                .iter()
                .any(|one| one.local.port == socket.local.port)
            {
                continue;
            }
            let far = table
                .iter()
                .find(|far| far.local == socket.remote && far.remote == socket.local);
            match far.and_then(|far| self.sockets.get(&far.inode)) {
                Some(holders) => clients.extend(outside(holders, tree)),
                // From another machine, or by another user.
                None => unseen = true,
            }
        }
        let named = listening.iter().map(|one| one.local.to_string()).collect();
        let far = match (clients.is_empty(), unseen) {
            (false, _) => Far::Held(clients),
            (true, true) => Far::Unseen,
            (true, false) => Far::Nobody,
        };
        (named, far)
    }

    /// Whether the process listens on a Unix socket.
    pub(crate) fn listens(&self, pid: u32) -> bool {
        let Some(table) = &self.unix else {
            return false;
        };
        self.of(pid).iter().any(|(_, open)| {
            matches!(open, Open::Socket(inode) if table.get(inode).is_some_and(|one| one.listens))
        })
    }

    /// Whether any process works in this directory, or has a file below it open.
    pub(crate) fn is_in_use(&self, dir: &Path) -> bool {
        self.open
            .values()
            .flatten()
            .any(|(_, open)| matches!(open, Open::File(path) if path.starts_with(dir)))
            || self.places.iter().any(|place| place.starts_with(dir))
    }
}

fn outside(holders: &[u32], tree: &HashSet<u32>) -> Vec<u32> {
    let mut others: Vec<u32> = holders
        .iter()
        .filter(|pid| !tree.contains(pid))
        .copied()
        .collect();
    others.sort_unstable();
    others.dedup();
    others
}

fn net(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net"))
        .ok()
        .map(|ns| ns.ino())
}

fn look_at(path: &Path) -> Option<Open> {
    let target = fs::read_link(path).ok()?;
    let text = target.to_string_lossy();
    let inode = |kind: &str| {
        text.strip_prefix(kind)?
            .strip_prefix(":[")?
            .strip_suffix(']')?
            .parse::<u64>()
            .ok()
    };
    if let Some(inode) = inode("pipe") {
        // The link's own permissions say how it was opened.
        let mode = fs::symlink_metadata(path).ok()?.permissions().mode();
        return Some(Open::Pipe {
            inode,
            reads: mode & 0o400 != 0,
            writes: mode & 0o200 != 0,
        });
    }
    if let Some(inode) = inode("socket") {
        return Some(Open::Socket(inode));
    }
    Some(match text.as_ref() {
        "/dev/null" => Open::Null,
        text if text.starts_with("/dev/pts/") || text.starts_with("/dev/tty") => Open::Terminal,
        text if text.starts_with('/') => Open::File(target),
        _ => Open::Other,
    })
}

/// Whether the other end of the pipe behind this descriptor of another process is held by anybody. Nothing is taken out of
/// the pipe: the same end is opened once more, and polled (poll(2)).
fn is_held(path: &Path, reads: bool) -> Result<bool, Errno> {
    let (access, asked, alone) = if reads {
        (OFlags::RDONLY, PollFlags::IN, PollFlags::HUP)
    } else {
        (OFlags::WRONLY, PollFlags::OUT, PollFlags::ERR)
    };
    let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let end = rustix::fs::open(path, flags, Mode::empty())?;
    let mut polled = [PollFd::new(&end, asked)];
    poll(&mut polled, Some(&Timespec::default()))?;
    Ok(!polled[0].revents().contains(alone))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn path(fd: &impl AsRawFd) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    #[test]
    fn a_pipe_says_whether_its_other_end_is_held() {
        let (reader, writer) = std::io::pipe().unwrap();
        assert_eq!(is_held(&path(&reader), true), Ok(true));
        assert_eq!(is_held(&path(&writer), false), Ok(true));
        drop(writer);
        assert_eq!(is_held(&path(&reader), true), Ok(false));
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"unread").unwrap();
        drop(writer);
        assert_eq!(is_held(&path(&reader), true), Ok(false));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(is_held(&path(&writer), false), Ok(false));
    }

    #[test]
    fn a_pair_is_followed_to_its_holder() {
        let own = std::process::id();
        let (left, right) = UnixStream::pair().unwrap();
        let number = left.as_raw_fd().cast_unsigned();
        let ends = Ends::read([own].into_iter());
        let nobody = HashSet::new();
        assert_eq!(
            ends.stream(own, number, &nobody),
            Stream::Channel(Far::Held(vec![own]))
        );
        assert_eq!(
            ends.stream(own, number, &HashSet::from([own])),
            Stream::Channel(Far::Nobody)
        );
        drop(right);
        let ends = Ends::read([own].into_iter());
        assert_eq!(
            ends.stream(own, number, &nobody),
            Stream::Channel(Far::Nobody)
        );
    }
}
