//! A cgroup (v2) for a tree: cgroups(7) and the kernel's admin-guide/cgroup-v2.

use std::ffi::{CStr, CString, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::rand::{GetRandomFlags, getrandom};

use crate::config::Limits;

/// The type of the file system, as statfs(2) gives it.
const CGROUP2: rustix::fs::FsWord = 0x6367_7270;

/// The directory of the cgroup (v2) that this process is in, if a group can be made in it.
///
/// Nothing is made to find out: what a later mkdir says is what counts.
pub fn base() -> Option<PathBuf> {
    let groups = String::from_utf8(read_all("/proc/self/cgroup").ok()?).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let dir = usual(own).or_else(|| {
        let mounts = read_all("/proc/self/mountinfo").ok()?;
        mounts
            .split(|b| *b == b'\n')
            .find_map(|line| mounted(line, own))
    })?;
    let usable = rustix::fs::accessat(
        rustix::fs::CWD,
        &dir,
        rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK,
        AtFlags::EACCESS,
    );
    // CLONE_INTO_CGROUP and a write to cgroup.procs both ask for write access to this file of the common ancestor.
    let procs = rustix::fs::accessat(
        rustix::fs::CWD,
        dir.join("cgroup.procs"),
        rustix::fs::Access::WRITE_OK,
        AtFlags::EACCESS,
    );
    (usable.is_ok() && procs.is_ok()).then_some(dir)
}

/// A path in `base` for a new cgroup: `hostler-WHOSE-` and 64 random bits. A pid alone would not do: another pid namespace
/// has the same, and the kernel gives it out again while what was named by it may still be there.
///
/// # Errors
/// getrandom(2)'s, and `INVAL` for a base that holds a NUL.
pub fn fresh(base: &Path, whose: &str) -> Result<CString, Errno> {
    let mut bits = [0; 8];
    // They need not be secret, and are not worth waiting for while a machine comes up; older kernels know no such flag.
    getrandom(&mut bits, GetRandomFlags::INSECURE)
        .or_else(|_| getrandom(&mut bits, GetRandomFlags::empty()))?;
    let name = format!("hostler-{whose}-{:016x}", u64::from_ne_bytes(bits));
    CString::new(base.join(name).into_os_string().into_vec()).map_err(|_| Errno::INVAL)
}

/// Where the cgroup `own` is on nearly every machine: cgroups(7) and systemd mount the hierarchy here. The kernel takes
/// longer to list all mounts than to look at two.
fn usual(own: &str) -> Option<PathBuf> {
    let below = own.strip_prefix('/').filter(|path| !path.contains(".."))?;
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|root| rustix::fs::statfs(*root).is_ok_and(|fs| fs.f_type == CGROUP2))
        .map(|root| Path::new(root).join(below))
        .filter(|dir| {
            // Not access(2), for which the kernel makes other credentials.
            rustix::fs::accessat(
                rustix::fs::CWD,
                dir.join("cgroup.procs"),
                rustix::fs::Access::EXISTS,
                AtFlags::EACCESS,
            )
            .is_ok()
        })
}

/// A whole file of a kernel's file system, which does not know its length.
fn read_all(path: &str) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    read_to_end(&rustix::fs::open(path, flags, Mode::empty())?)
}

fn read_to_end(file: &OwnedFd) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(1024);
    while rustix::io::read(file, rustix::buffer::spare_capacity(&mut bytes))? > 0 {
        bytes.reserve(1024);
    }
    Ok(bytes)
}

/// Where the cgroup `own` is seen through the mount that this line of mountinfo describes (proc_pid_mountinfo(5)).
fn mounted(line: &[u8], own: &str) -> Option<PathBuf> {
    let (mount, kind) = split_once(line, b" - ")?;
    if !kind.starts_with(b"cgroup2 ") {
        return None;
    }
    let mut fields = mount.split(|b| *b == b' ').skip(3);
    let root = unescape(fields.next()?);
    let point = unescape(fields.next()?);
    let below = Path::new(own).strip_prefix(Path::new(&root)).ok()?;
    Some(Path::new(&point).join(below))
}

fn split_once<'a>(line: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = line.windows(by.len()).position(|window| window == by)?;
    Some((&line[..at], &line[at + by.len()..]))
}

/// Undoes mountinfo's octal escapes of blanks.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\');
        match octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok())
        {
            Some(value) => {
                out.push(value);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(out)
}

/// Which of the limits the kernel enforces through the cgroup; the others are the keeper's to watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enforced {
    /// `memory.max`
    pub memory: bool,
    /// `pids.max`
    pub pids: bool,
    /// `cpu.max`
    pub cpu: bool,
}

/// The very cgroup that somebody has made, whatever is at its path later.
#[derive(Debug)]
pub(crate) struct Made {
    path: CString,
    inode: u64,
}

impl Made {
    /// The group, if it is still there. The kernel does not give an inode number of this file system out again.
    pub(crate) fn open(&self) -> Option<Cgroup> {
        let cgroup = Cgroup::open(&self.path).ok()?;
        (cgroup.inode() == Ok(self.inode)).then_some(cgroup)
    }
}

/// A cgroup that was made for a tree.
#[derive(Debug)]
pub struct Cgroup {
    path: CString,
    dir: OwnedFd,
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Cgroup {
    /// Makes the cgroup.
    ///
    /// # Errors
    /// mkdir(2)'s: `ACCES` where it may not be made, `EXIST` where it is there already.
    pub fn make(path: &CStr) -> Result<Self, Errno> {
        rustix::fs::mkdir(path, Mode::from_raw_mode(0o755))?;
        Self::open(path).inspect_err(|_| {
            let _ = rustix::fs::rmdir(path);
        })
    }

    /// Opens one that is there.
    ///
    /// # Errors
    /// open(2)'s.
    pub fn open(path: &CStr) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self {
            path: path.to_owned(),
            dir,
        })
    }

    fn inode(&self) -> Result<u64, Errno> {
        Ok(rustix::fs::fstat(&self.dir)?.st_ino)
    }

    /// What to find this group by, and no other.
    pub(crate) fn made(&self) -> Result<Made, Errno> {
        Ok(Made {
            path: self.path.clone(),
            inode: self.inode()?,
        })
    }

    fn write(&self, file: &str, value: &str) -> Result<(), Errno> {
        write_in(&self.dir, file, value)
    }

    fn read(&self, file: &str) -> Option<String> {
        let file = rustix::fs::openat(
            &self.dir,
            file,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .ok()?;
        String::from_utf8(read_to_end(&file).ok()?).ok()
    }

    /// The number behind `key` in a flat-keyed file.
    fn keyed(&self, file: &str, key: &str) -> Option<u64> {
        let text = self.read(file)?;
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
            .and_then(|v| v.trim().parse().ok())
    }

    /// Sets what limits it can, and says which. A controller that the parent does not hand down is asked for first, unless
    /// the parent holds processes of its own.
    pub fn limit(&self, limits: &Limits) -> Enforced {
        let mut enforced = Enforced::default();
        if let Some(bytes) = limits.memory {
            self.enable("memory", "memory.max");
            enforced.memory = self.write("memory.max", &bytes.to_string()).is_ok();
            if enforced.memory {
                // Without these the kernel would swap first, and then end one process rather than the tree.
                let _ = self.write("memory.swap.max", "0");
                let _ = self.write("memory.oom.group", "1");
            }
        }
        if let Some(count) = limits.pids {
            self.enable("pids", "pids.max");
            enforced.pids = self.write("pids.max", &count.to_string()).is_ok();
        }
        if let Some(millis) = limits.cpu_millis {
            self.enable("cpu", "cpu.max");
            enforced.cpu = self
                .write("cpu.max", &format!("{} 100000", millis * 100))
                .is_ok();
        }
        enforced
    }

    fn enable(&self, controller: &str, file: &str) {
        let is_there = |name: &str| rustix::fs::statat(&self.dir, name, AtFlags::empty()).is_ok();
        if is_there(file) {
            return;
        }
        // A parent that holds processes (and isn't the root, which has no type) refuses some controllers; worse, it takes
        // others (pids, cpu) and becomes a threaded domain, below which no process can be started in a group.
        let is_root = !is_there("../cgroup.type");
        if is_root
            || self
                .read("../cgroup.procs")
                .is_some_and(|list| list.is_empty())
        {
            let name = format!("+{controller}");
            let _ = write_in(&self.dir, "../cgroup.subtree_control", &name);
        }
    }

    /// Kills every process in it and below it at once (`cgroup.kill`, Linux 5.14); before that, one by one.
    ///
    /// The kernel sends to the first thread of each, so one whose first thread has exited while others run on is not met.
    /// Who has no other way to such a process calls [`kill_each`](Self::kill_each) when somebody is left.
    ///
    /// # Errors
    /// The kernel's, for a cgroup that is gone.
    pub fn kill(&self) -> Result<(), Errno> {
        match self.write("cgroup.kill", "1") {
            Err(Errno::NOENT) => {
                self.kill_each();
                Ok(())
            }
            other => other,
        }
    }

    /// Kills every process in it one by one; not those below it.
    pub fn kill_each(&self) {
        for pid in self.members() {
            // Opened first and looked for again: what is still a member then is what was opened.
            let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            if self.members().contains(&pid) {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
            }
        }
    }

    fn members(&self) -> Vec<Pid> {
        let text = self.read("cgroup.procs").unwrap_or_default();
        text.lines()
            .filter_map(|line| Pid::from_raw(line.parse().ok()?))
            .collect()
    }

    /// Whether any process lives in it or below it (`cgroup.events`).
    pub fn is_populated(&self) -> bool {
        self.keyed("cgroup.events", "populated") == Some(1)
    }

    /// CPU time used in it, by the living and the dead.
    pub fn cpu(&self) -> Option<Duration> {
        self.keyed("cpu.stat", "usage_usec")
            .map(Duration::from_micros)
    }

    /// The most memory used in it at once, where the controller is there.
    pub fn peak_memory(&self) -> Option<u64> {
        self.read("memory.peak")?.trim().parse().ok()
    }

    /// Whether the kernel killed in it for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        self.keyed("memory.events", "oom_kill")
            .is_some_and(|count| count > 0)
    }

    /// Whether the kernel refused a fork in it.
    pub fn ran_out_of_pids(&self) -> bool {
        self.keyed("pids.events", "max")
            .is_some_and(|count| count > 0)
    }

    /// Removes it, and what was made below it.
    ///
    /// # Errors
    /// `BUSY` while a process is in it.
    pub fn remove(&self) -> Result<(), Errno> {
        match rustix::fs::rmdir(&self.path) {
            Err(Errno::BUSY) => {
                remove_below(Path::new(std::ffi::OsStr::from_bytes(self.path.to_bytes())));
                rustix::fs::rmdir(&self.path)
            }
            Err(Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

fn remove_below(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_below(&entry.path());
            let _ = std::fs::remove_dir(entry.path());
        }
    }
}

fn write_in(dir: &OwnedFd, file: &str, value: &str) -> Result<(), Errno> {
    let file = rustix::fs::openat(dir, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, value.as_bytes()).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_groups_have_one_name() {
        let fresh = || fresh(Path::new("/base"), "run").unwrap();
        let (one, other) = (fresh(), fresh());
        assert_ne!(one, other);
        let one = one.into_string().unwrap();
        let bits = one.strip_prefix("/base/hostler-run-").unwrap();
        assert!(bits.len() == 16 && bits.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn the_mount_that_shows_the_group_is_found() {
        let line = |root: &str| {
            format!(
                "36 25 0:31 {root} /sys/fs/cg\\040two rw,relatime shared:9 - cgroup2 cgroup2 rw"
            )
        };
        let find = |root: &str, own: &str| mounted(line(root).as_bytes(), own);
        assert_eq!(find("/", "/a/b"), Some(PathBuf::from("/sys/fs/cg two/a/b")));
        assert_eq!(find("/a", "/a/b"), Some(PathBuf::from("/sys/fs/cg two/b")));
        assert_eq!(find("/other", "/a/b"), None);
        assert_eq!(
            mounted(
                b"36 25 0:31 / /sys/fs/cgroup rw - cgroup cgroup rw,memory",
                "/"
            ),
            None
        );
        assert_eq!(mounted(b"", "/"), None);
    }
}
