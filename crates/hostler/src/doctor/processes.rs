//! One look at all processes.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use hostler_keeper::identity::ProcessId;
use hostler_keeper::proc::{Proc, Stat};
use rustix::process::Pid;
use rustix::time::{ClockId, clock_gettime};

use super::words::{Names, hint, names};

/// A process at the time of the look.
#[derive(Debug)]
pub(crate) struct Process {
    /// What the kernel says in one line.
    pub stat: Stat,
    /// Whether this user may end it: its own in every respect, or this user is root.
    pub ours: bool,
    /// Its arguments, as far as they are text.
    pub args: Vec<String>,
    /// What it is called.
    pub names: Names,
    /// The group in the hierarchy that a service manager uses: v2, else `name=systemd`.
    pub unit: Option<String>,
    /// Its group in the v2 hierarchy.
    pub group: Option<String>,
    /// Its pid namespace; `None` where that may not be seen.
    pub namespace: Option<u64>,
    /// Bytes read and written so far; `None` where that may not be seen.
    pub moved: Option<u64>,
}

impl Process {
    fn read(proc: &Proc, stat: Stat) -> Option<Self> {
        let pid = stat.id.pid;
        let at = |file: &str| format!("/proc/{pid}/{file}");
        let line = fs::read(at("cmdline")).ok()?;
        let args: Vec<String> = line
            .strip_suffix(&[0])
            .unwrap_or(&line)
            .split(|byte| *byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let exe = fs::read_link(at("exe")).ok();
        let exe = exe
            .as_deref()
            .and_then(|path| path.file_name()?.to_str())
            .map(|name| name.trim_end_matches(" (deleted)"));
        let groups = fs::read_to_string(at("cgroup")).unwrap_or_default();
        let group = |name: &str| {
            groups
                .lines()
                .find_map(|line| line.split_once(':')?.1.strip_prefix(name))
                .map(str::to_owned)
        };
        let v2 = group(":").or_else(|| group("").filter(|path| path.starts_with('/')));
        Some(Self {
            ours: is_ours(&at("status")),
            names: names(&args, exe),
            unit: v2
                .clone()
                .filter(|path| path != "/")
                .or_else(|| group("name=systemd:")),
            group: v2,
            namespace: fs::metadata(at("ns/pid")).ok().map(|ns| ns.ino()),
            moved: Pid::from_raw(pid.cast_signed()).and_then(|pid| proc.transferred(pid).ok()),
            args,
            stat,
        })
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.stat.id.pid
    }

    /// Whether a program of Hostler itself: those own what is below them.
    pub(crate) fn is_hostler(&self) -> bool {
        let name = self.stat.command;
        let name = name.as_bytes();
        name == b"hostler" || name.starts_with(b"hostler-")
    }

    /// Its arguments in one line, safe to print.
    pub(crate) fn line(&self) -> String {
        let line = self.args.join(" ");
        let line = line.trim_end();
        if line.is_empty() {
            return self.stat.command.to_string();
        }
        printable(line)
    }

    /// The agent's mark in its environment.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        if !self.ours {
            return None;
        }
        hint(&fs::read(format!("/proc/{}/environ", self.pid())).ok()?)
    }

    /// Whether its environment or arguments hold this text.
    #[cfg(debug_assertions)]
    pub(crate) fn carries(&self, mark: &str) -> bool {
        let environ = fs::read(format!("/proc/{}/environ", self.pid())).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(mark)
            || self.args.iter().any(|word| word.contains(mark))
    }
}

/// The text without what could move a terminal's cursor.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Whether real, effective and saved user are this one, or this one is root.
fn is_ours(status: &str) -> bool {
    let own = rustix::process::geteuid();
    if own.is_root() {
        return true;
    }
    let text = fs::read(status).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let uids = text.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| {
        uids.split_whitespace()
            .take(3)
            .all(|uid| uid.parse() == Ok(own.as_raw()))
    })
}

/// All living processes at one time.
#[derive(Debug)]
pub(crate) struct Look {
    /// By pid.
    pub processes: HashMap<u32, Process>,
    children: HashMap<u32, Vec<u32>>,
    /// Time since boot.
    pub taken: Duration,
}

impl Look {
    /// Looks.
    ///
    /// # Errors
    /// Where /proc is not to be had.
    pub(crate) fn take(proc: &Proc) -> std::io::Result<Self> {
        let mut look = Self {
            processes: HashMap::new(),
            children: HashMap::new(),
            taken: since_boot(),
        };
        for entry in fs::read_dir("/proc")?.flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            let Some(stat) = pid
                .and_then(Pid::from_raw)
                .and_then(|pid| proc.stat(pid).ok())
            else {
                continue;
            };
            if !stat.is_dead()
                && let Some(process) = Process::read(proc, stat)
            {
                look.processes.insert(process.pid(), process);
            }
        }
        for process in look.processes.values() {
            look.children
                .entry(process.stat.parent)
                .or_default()
                .push(process.pid());
        }
        for children in look.children.values_mut() {
            children.sort_unstable();
        }
        Ok(look)
    }

    /// The process of that pid.
    pub(crate) fn get(&self, pid: u32) -> Option<&Process> {
        self.processes.get(&pid)
    }

    /// The same process as then.
    pub(crate) fn same(&self, id: ProcessId) -> Option<&Process> {
        self.get(id.pid).filter(|process| process.stat.id == id)
    }

    /// Its living children.
    pub(crate) fn children(&self, pid: u32) -> &[u32] {
        self.children.get(&pid).map_or(&[], Vec::as_slice)
    }

    /// Its parent, its parent's parent, and so on.
    pub(crate) fn ancestors(&self, pid: u32) -> Vec<&Process> {
        let mut found: Vec<&Process> = Vec::new();
        let mut next = self.get(pid).map(|process| process.stat.parent);
        while let Some(process) = next.and_then(|pid| self.get(pid)) {
            // A listing that was taken while things moved may hold a ring.
            if found.iter().any(|seen| seen.pid() == process.pid()) {
                break;
            }
            next = Some(process.stat.parent);
            found.push(process);
        }
        found
    }

    /// The process and all below it that is not Hostler's, parents before children.
    pub(crate) fn tree(&self, root: u32) -> Vec<u32> {
        let mut seen = HashSet::from([root]);
        let mut found = vec![root];
        let mut next = 0;
        while next < found.len() {
            for child in self.children(found[next]) {
                let own = self
                    .get(*child)
                    .is_some_and(|process| !process.is_hostler());
                if own && seen.insert(*child) {
                    found.push(*child);
                }
            }
            next += 1;
        }
        found
    }

    /// How old it is.
    pub(crate) fn age(&self, process: &Process) -> Duration {
        self.taken.saturating_sub(started(process.stat.id))
    }
}

/// When it started, as time since boot.
pub(crate) fn started(id: ProcessId) -> Duration {
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(id.start_time.saturating_mul(1000) / ticks)
}

fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        now.tv_sec.cast_unsigned(),
        now.tv_nsec.cast_unsigned() as u32,
    )
}

/// Memory of these processes, in bytes, and whether all of it is their proportional share rather than what is resident.
pub(crate) fn memory(proc: &Proc, look: &Look, pids: &[u32]) -> (u64, bool) {
    pids.iter()
        .filter_map(|pid| look.get(*pid))
        .fold((0, true), |(sum, exact), process| {
            let pid = Pid::from_raw(process.pid().cast_signed());
            match pid.and_then(|pid| proc.proportional(pid).ok()) {
                Some(bytes) => (sum + bytes, exact),
                None => (sum + process.stat.resident, false),
            }
        })
}
