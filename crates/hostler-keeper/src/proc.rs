//! What the kernel says of processes, read from /proc (proc(5)).

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use crate::identity::{Comm, ProcessId};

/// A handle on /proc. A keeper opens it once, before it makes namespaces: so it goes on reading the pids of its own.
#[derive(Debug)]
pub struct Proc {
    dir: OwnedFd,
}

/// The part of `/proc/PID/stat` that is used here (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Pid and start time.
    pub id: ProcessId,
    /// The name.
    pub command: Comm,
    /// The state's letter.
    pub state: u8,
    /// The parent's pid; 0 where it is outside of this pid namespace.
    pub parent: u32,
    /// The process group.
    pub group: u32,
    /// The session.
    pub session: u32,
    /// The controlling terminal's device number; 0 where there is none.
    pub terminal: u32,
    /// CPU time so far, in user mode and in the kernel.
    pub cpu: Duration,
    /// Number of threads; 0 in one that is only waited for.
    pub threads: u32,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Stat {
    /// Whether it is dead and only waited for. A process whose first thread has exited while others run on shows Z too,
    /// but it lives.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// Reads the one line of a stat file.
    fn parse(line: &[u8]) -> Option<Stat> {
        // The name stands in parentheses and may itself hold parentheses, blanks and newlines: the last one ends it.
        let open = line.iter().position(|b| *b == b'(')?;
        let close = line.iter().rposition(|b| *b == b')')?;
        let pid = number(line[..open].trim_ascii())? as u32;
        let command = Comm::new(line.get(open + 1..close)?);
        let mut fields = line.get(close + 2..)?.split(|b| *b == b' ');
        let state = *fields.next()?.first()?;
        // From here, the fields 4 to 24.
        let mut values = [0u64; 21];
        for value in &mut values {
            // Negative values (tpgid, nice) are of no use here.
            *value = number(fields.next()?.trim_ascii()).unwrap_or(0);
        }
        let field = |n: usize| values[n - 4];
        Some(Stat {
            id: ProcessId {
                pid,
                start_time: field(22),
            },
            command,
            state,
            parent: field(4) as u32,
            group: field(5) as u32,
            session: field(6) as u32,
            terminal: field(7) as u32,
            cpu: ticks(field(14) + field(15)),
            threads: field(20) as u32,
            resident: field(24) * rustix::param::page_size() as u64,
        })
    }
}

fn ticks(count: u64) -> Duration {
    Duration::from_micros(count * 1_000_000 / rustix::param::clock_ticks_per_second().max(1))
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |sum, byte| match byte {
        b'0'..=b'9' => sum.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// A path built without allocating.
struct Path {
    bytes: [u8; 64],
    len: usize,
}

impl Path {
    fn of(path: std::fmt::Arguments<'_>) -> Result<Self, Errno> {
        let mut name = Path {
            bytes: [0; 64],
            len: 0,
        };
        name.write_fmt(path).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(name)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Write for Path {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.bytes
            .get_mut(self.len..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl AsFd for Proc {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

impl Proc {
    /// Opens /proc.
    ///
    /// # Errors
    /// open(2)'s; `SRCH` for the /proc of another pid namespace, in which the same numbers are other processes.
    pub fn open() -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty())?;
        let own = rustix::fs::readlinkat(&dir, "self", Vec::new())?;
        if number(own.to_bytes())
            != Some(
                rustix::process::getpid()
                    .as_raw_nonzero()
                    .get()
                    .cast_unsigned()
                    .into(),
            )
        {
            return Err(Errno::SRCH);
        }
        Ok(Self { dir })
    }

    /// The same /proc once more, for a process of the same pid namespace.
    pub(crate) fn duplicate(&self) -> Result<Self, Errno> {
        let dir = rustix::io::fcntl_dupfd_cloexec(&self.dir, 0)?;
        Ok(Self { dir })
    }

    fn file(&self, path: std::fmt::Arguments<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
        rustix::fs::openat(
            &self.dir,
            Path::of(path)?.bytes(),
            flags | OFlags::CLOEXEC,
            Mode::empty(),
        )
    }

    fn read<'b>(
        &self,
        path: std::fmt::Arguments<'_>,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], Errno> {
        let file = self.file(path, OFlags::RDONLY)?;
        let mut len = 0;
        while len < buffer.len() {
            match rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer[len..]))? {
                0 => break,
                n => len += n,
            }
        }
        Ok(&buffer[..len])
    }

    /// What the kernel says of the process with this pid.
    ///
    /// # Errors
    /// `NOENT` or `SRCH` when there is none.
    pub fn stat(&self, pid: Pid) -> Result<Stat, Errno> {
        let mut buffer = [0; 1024];
        let line = self.read(format_args!("{}/stat", pid.as_raw_nonzero()), &mut buffer)?;
        Stat::parse(line).ok_or(Errno::SRCH)
    }

    /// What the kernel says of the caller itself, under the number that it has in this /proc.
    ///
    /// # Errors
    /// open(2)'s; `SRCH` where the caller cannot be seen there.
    pub(crate) fn own(&self) -> Result<Stat, Errno> {
        let mut buffer = [0; 1024];
        let file = self.file(format_args!("self/stat"), OFlags::RDONLY)?;
        // The line is shorter than that, and comes whole.
        let len = rustix::io::retry_on_intr(|| rustix::io::read(&file, &mut buffer))?;
        Stat::parse(&buffer[..len]).ok_or(Errno::SRCH)
    }

    /// Makes sure that children can be listed: a kernel may be built without that (`CONFIG_PROC_CHILDREN`), and then it
    /// looks as though nobody had any. To be asked of one that lives.
    ///
    /// # Errors
    /// `NOENT` where it can't.
    pub fn can_list_children(&self, pid: Pid) -> Result<(), Errno> {
        let raw = pid.as_raw_nonzero();
        let path = Path::of(format_args!("{raw}/task/{raw}/children"))?;
        let readable = rustix::fs::Access::READ_OK;
        rustix::fs::accessat(
            &self.dir,
            path.bytes(),
            readable,
            rustix::fs::AtFlags::EACCESS,
        )
    }

    /// Appends the pids of the children of this process, of all its threads (`/proc/PID/task/TID/children`).
    ///
    /// # Errors
    /// `NOENT` or `SRCH` when there is no such process.
    pub fn children(&self, pid: Pid, found: &mut Vec<Pid>) -> Result<(), Errno> {
        let raw = pid.as_raw_nonzero();
        let tasks = self.file(
            format_args!("{raw}/task"),
            OFlags::RDONLY | OFlags::DIRECTORY,
        )?;
        let mut space = [std::mem::MaybeUninit::uninit(); 1024];
        let mut dir = rustix::fs::RawDir::new(tasks.as_fd(), &mut space);
        while let Some(entry) = dir.next() {
            if let Some(task) = number(entry?.file_name().to_bytes()) {
                match self.file(format_args!("{raw}/task/{task}/children"), OFlags::RDONLY) {
                    Ok(file) => read_pids(&file, found)?,
                    // The thread has ended since.
                    Err(Errno::NOENT | Errno::SRCH) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }

    /// Memory that the process would free by its death, in bytes: its proportional set size
    /// (`/proc/PID/smaps_rollup`). Slow: it walks the page tables.
    ///
    /// # Errors
    /// `ACCES` for a process of another user, `NOENT` or `SRCH` when there is none.
    pub fn proportional(&self, pid: Pid) -> Result<u64, Errno> {
        let mut buffer = [0; 1024];
        let text = self.read(
            format_args!("{}/smaps_rollup", pid.as_raw_nonzero()),
            &mut buffer,
        )?;
        let line = text
            .split(|b| *b == b'\n')
            .find_map(|line| line.strip_prefix(b"Pss:"))
            .ok_or(Errno::SRCH)?;
        let kilobytes = line
            .trim_ascii()
            .split(|b| *b == b' ')
            .next()
            .and_then(number)
            .ok_or(Errno::SRCH)?;
        Ok(kilobytes * 1024)
    }

    /// Bytes that the process has read and written so far, by whatever system call (`/proc/PID/io`).
    ///
    /// # Errors
    /// `ACCES` for a process of another user, `NOENT` or `SRCH` when there is none.
    pub fn transferred(&self, pid: Pid) -> Result<u64, Errno> {
        let mut buffer = [0; 512];
        let text = self.read(format_args!("{}/io", pid.as_raw_nonzero()), &mut buffer)?;
        let field = |name: &[u8]| {
            text.split(|b| *b == b'\n')
                .find_map(|line| line.strip_prefix(name))
                .and_then(|v| number(v.trim_ascii()))
        };
        Ok(field(b"rchar:").unwrap_or(0) + field(b"wchar:").unwrap_or(0))
    }
}

/// Reads a list of pids, each followed by a blank.
fn read_pids(file: &OwnedFd, found: &mut Vec<Pid>) -> Result<(), Errno> {
    let mut buffer = [0; 4096];
    let mut pid = 0i32;
    loop {
        let len = rustix::io::retry_on_intr(|| rustix::io::read(file, &mut buffer))?;
        if len == 0 {
            return Ok(());
        }
        for byte in &buffer[..len] {
            if byte.is_ascii_digit() {
                pid = pid * 10 + i32::from(byte - b'0');
            } else {
                found.extend(Pid::from_raw(std::mem::take(&mut pid)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_does_not_shift_the_fields() {
        let rest = "S 7 8 9 34816 -1 4194304 1 2 3 4 50 25 0 0 20 0 3 0 99887 1000000 12 18446744073709551615";
        for name in ["sh", "a) S 1 2 3 (b", "\n \t)", ""] {
            let stat = Stat::parse(format!("42 ({name}) {rest}\n").as_bytes()).unwrap();
            assert_eq!(
                (stat.id.pid, stat.id.start_time, stat.parent, stat.group),
                (42, 99887, 7, 8)
            );
            assert_eq!(stat.command.as_bytes(), name.as_bytes());
            assert_eq!((stat.session, stat.terminal), (9, 34816));
            assert_eq!((stat.state, stat.threads), (b'S', 3));
            assert_eq!(stat.cpu, Duration::from_millis(750));
            assert_eq!(stat.resident, 12 * 4096);
        }
        assert_eq!(Stat::parse(b"42 (sh"), None);
        assert_eq!(Stat::parse(b""), None);
    }

    #[test]
    fn a_leader_that_left_its_threads_behind_lives() {
        let stat = |state: &str, threads: u32| {
            let line =
                format!("1 (x) {state} 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 {threads} 0 5 0 0 0\n");
            Stat::parse(line.as_bytes()).unwrap()
        };
        assert!(stat("Z", 0).is_dead());
        assert!(!stat("Z", 2).is_dead());
        assert!(!stat("S", 1).is_dead());
    }

    #[test]
    fn a_kernel_without_lists_of_children_is_known() {
        let pid = rustix::process::getpid();
        assert_eq!(Proc::open().unwrap().can_list_children(pid), Ok(()));
        let name = format!("hostler-no-children-{}", pid.as_raw_nonzero());
        let root = std::env::temp_dir().join(name);
        let own = pid.as_raw_nonzero().to_string();
        std::fs::create_dir_all(root.join(&own).join("task").join(&own)).unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let proc = Proc {
            dir: rustix::fs::open(&root, flags, Mode::empty()).unwrap(),
        };
        assert_eq!(proc.can_list_children(pid), Err(Errno::NOENT));
        std::fs::remove_dir_all(&root).unwrap();
    }

    #[test]
    fn this_process_is_found_with_its_children() {
        let proc = Proc::open().unwrap();
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
        let mut found = Vec::new();
        proc.children(rustix::process::getpid(), &mut found)
            .unwrap();
        assert!(found.contains(&pid));
        let stat = proc.stat(pid).unwrap();
        assert_eq!(stat.parent, std::process::id());
        assert!(proc.transferred(rustix::process::getpid()).unwrap() > 0);
        assert!(proc.proportional(rustix::process::getpid()).unwrap() > 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(proc.stat(pid).is_err());
    }
}
