//! What Hostler itself has left: empty cgroups, and sockets and temporary directories in the state directory. Also where the
//! state directory is, and whether a host runs on it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, test_kill_process};

use super::ends::Ends;

/// What is younger may be about to be used, by a `hostler` in another pid namespace.
const YOUNG: Duration = Duration::from_secs(10);
/// How deep cgroups are looked through.
const DEPTH: usize = 12;

/// Something that nobody needs any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leftover {
    pub what: What,
    pub path: PathBuf,
    pub reason: String,
}

/// What it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum What {
    Cgroup,
    Socket,
    TempDir,
}

impl What {
    /// In words.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Socket => "socket",
            Self::TempDir => "temporary directory",
        }
    }
}

/// Whether a host runs on a state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    /// It holds the lock.
    Running {
        pid: Option<u32>,
        address: Option<String>,
    },
    /// None does. One may have been there.
    NotRunning { before: Option<u32> },
    /// There is no state directory.
    NoDirectory,
}

#[derive(serde::Deserialize)]
struct Holder {
    pid: u32,
    #[serde(default)]
    address: Option<String>,
}

/// The state directory where none is named: `HOSTLER_STATE_DIR`, else in the XDG state directory.
pub(crate) fn state_dir() -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    named("HOSTLER_STATE_DIR").map(PathBuf::from).or_else(|| {
        let state = named("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(Path::new(&named("HOME")?).join(".local/state")))?;
        Some(state.join("hostler"))
    })
}

/// Whether a host holds the lock of this state directory. It is looked up, not tried: a host that starts in this moment must
/// not find it taken.
pub(crate) fn host(dir: &Path) -> Host {
    let path = dir.join("host.lock");
    let Ok(found) = fs::metadata(&path) else {
        return if dir.is_dir() {
            Host::NotRunning { before: None }
        } else {
            Host::NoDirectory
        };
    };
    let said: Option<Holder> = fs::read(&path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    match locks.lines().find_map(|line| holder(line, &found)) {
        Some(pid) => {
            // The file may still speak of an earlier holder. A pid of -1 or 0 is one of another namespace.
            let said = said.filter(|said| pid.is_none_or(|pid| pid == said.pid));
            Host::Running {
                pid: pid.or(said.as_ref().map(|said| said.pid)),
                address: said.and_then(|said| said.address),
            }
        }
        None => Host::NotRunning {
            before: said.map(|said| said.pid),
        },
    }
}

/// Who has this file locked, by a line of /proc/locks (proc_locks(5)).
fn holder(line: &str, file: &fs::Metadata) -> Option<Option<u32>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (["FLOCK" | "OFDLCK", _, _, pid, place], true) = (fields.get(1..6)?, fields[1] != "->")
    else {
        return None;
    };
    let mut parts = place.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode: u64 = parts.next()?.parse().ok()?;
    let same = inode == file.ino()
        && (major, minor) == (rustix::fs::major(file.dev()), rustix::fs::minor(file.dev()));
    same.then(|| pid.parse().ok().filter(|pid| *pid > 0))
}

/// Whose a cgroup of this name is: that of a `hostler run` is called `hostler-run-PID-HEX`, that of a session
/// `hostler-PID-HEX`, with 16 digits that are its own.
pub(crate) fn owner_in_name(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("hostler-")?;
    let (pid, own) = rest.strip_prefix("run-").unwrap_or(rest).split_once('-')?;
    let is_own = own.len() == 16 && own.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_plain = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    pid.parse().ok().filter(|_| is_own && is_plain)
}

/// Whether there is a process of that pid.
pub(crate) fn lives(pid: u32) -> bool {
    let Some(pid) = Pid::from_raw(pid.cast_signed()) else {
        return false;
    };
    test_kill_process(pid) != Err(Errno::SRCH)
}

/// Empty cgroups below `root` whose `hostler` is gone, and its keeper too: that has the group open. `young` ones are left
/// out unless asked for.
pub(crate) fn cgroups(root: &Path, young: bool, ends: &Ends) -> Vec<Leftover> {
    let mut found = Vec::new();
    walk(root, DEPTH, young, &mut found);
    found.retain(|one| !ends.is_in_use(&one.path));
    found
}

fn walk(dir: &Path, depth: usize, young: bool, found: &mut Vec<Leftover>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        match entry.file_name().to_str().and_then(owner_in_name) {
            Some(pid) => {
                let old = fs::metadata(&path).is_ok_and(|meta| {
                    meta.modified()
                        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > YOUNG))
                });
                if (old || young) && !lives(pid) && is_empty(&path) {
                    let reason = format!("nothing is in it, and its hostler (pid {pid}) is gone");
                    found.push(Leftover {
                        what: What::Cgroup,
                        path,
                        reason,
                    });
                }
            }
            None if depth > 0 => walk(&path, depth - 1, young, found),
            None => {}
        }
    }
}

fn is_empty(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events"));
    events.is_ok_and(|text| text.lines().any(|line| line == "populated 0"))
}

/// Sockets that nobody listens on, and temporary directories of sessions whose keeper is gone. Only to be asked with no host
/// running.
pub(crate) fn stale(dir: &Path, ends: &Ends) -> Vec<Leftover> {
    let mut found = Vec::new();
    let socket = |path: PathBuf, found: &mut Vec<Leftover>| {
        let is_socket = fs::symlink_metadata(&path).is_ok_and(|meta| meta.file_type().is_socket());
        let stale = is_socket && !is_listened_on(&path);
        if stale {
            let reason = "nobody listens on it".to_owned();
            found.push(Leftover {
                what: What::Socket,
                path,
                reason,
            });
        }
        !is_socket || stale
    };
    socket(dir.join("host.sock"), &mut found);
    for session in fs::read_dir(dir.join("sessions"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let session = session.path();
        let over = socket(session.join("keeper"), &mut found);
        let tmp = session.join("tmp");
        let is_dir = fs::symlink_metadata(&tmp).is_ok_and(|meta| meta.is_dir());
        if over && is_dir && !ends.is_in_use(&tmp) {
            let reason = "its session's keeper is gone, and nobody works in it".to_owned();
            found.push(Leftover {
                what: What::TempDir,
                path: tmp,
                reason,
            });
        }
    }
    found
}

/// Whether anybody listens on the socket. No connection is made: the type does not fit, and the kernel looks for a
/// listener before it looks at that.
fn is_listened_on(path: &Path) -> bool {
    let Ok(address) = SocketAddrUnix::new(path) else {
        return true;
    };
    rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|socket| rustix::net::connect(&socket, &address))
        != Err(Errno::CONNREFUSED)
}

/// Removes it, having looked again.
///
/// # Errors
/// Why it is still there.
pub(crate) fn remove(leftover: &Leftover, dir: Option<&Path>) -> io::Result<()> {
    let path = &leftover.path;
    if leftover.what == What::Cgroup {
        // The kernel refuses one that is not empty.
        return fs::remove_dir(path);
    }
    // A host that starts meanwhile waits.
    let lock = dir.map(|dir| File::open(dir.join("host.lock"))).transpose();
    let absent = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let lock = lock.or_else(|error| if absent(&error) { Ok(None) } else { Err(error) })?;
    if let Some(lock) = &lock {
        lock.try_lock()
            .map_err(|_| io::Error::other("a host has started"))?;
    }
    match leftover.what {
        What::Socket if is_listened_on(path) => Err(io::Error::other("somebody listens on it now")),
        What::Socket => fs::remove_file(path),
        What::TempDir | What::Cgroup => fs::remove_dir_all(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn names_of_cgroups() {
        assert_eq!(owner_in_name("hostler-run-12-0123456789abcdef"), Some(12));
        assert_eq!(owner_in_name("hostler-34-0123456789abcdef"), Some(34));
        for name in [
            "hostler-test-1-2",
            "hostler-run-12",
            "hostler-run-0123456789abcdef",
            "hostler-1",
            "hostler-run-1x-0123456789abcdef",
            "x-1-0123456789abcdef",
            "hostler-+1-0123456789abcdef",
        ] {
            assert_eq!(owner_in_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_lock_tells_that_a_host_runs() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(host(&dir.path().join("none")), Host::NoDirectory);
        assert_eq!(host(dir.path()), Host::NotRunning { before: None });
        let own = std::process::id();
        let path = dir.path().join("host.lock");
        fs::write(
            &path,
            format!("{{\"pid\":{own},\"address\":\"there\"}}   \n"),
        )
        .unwrap();
        assert_eq!(host(dir.path()), Host::NotRunning { before: Some(own) });
        let lock = File::open(&path).unwrap();
        lock.lock().unwrap();
        let running = Host::Running {
            pid: Some(own),
            address: Some("there".to_owned()),
        };
        assert_eq!(host(dir.path()), running);
    }

    #[test]
    fn only_what_nobody_uses_is_stale() {
        let dir = tempfile::tempdir().unwrap();
        for (session, live) in [("s-dead", false), ("s-live", true)] {
            let session = dir.path().join("sessions").join(session);
            fs::create_dir_all(session.join("tmp")).unwrap();
            let listener = UnixListener::bind(session.join("keeper")).unwrap();
            if live {
                std::mem::forget(listener);
            }
        }
        let ends = Ends::read([std::process::id()].into_iter());
        let found: Vec<(What, PathBuf)> = stale(dir.path(), &ends)
            .into_iter()
            .map(|one| (one.what, one.path))
            .collect();
        let dead = dir.path().join("sessions/s-dead");
        assert_eq!(
            found,
            [
                (What::Socket, dead.join("keeper")),
                (What::TempDir, dead.join("tmp"))
            ]
        );
        let open = File::create(dead.join("tmp/x")).unwrap();
        let ends = Ends::read([std::process::id()].into_iter());
        assert_eq!(stale(dir.path(), &ends).len(), 1);
        drop(open);
    }
}
