//! How processes can be held together here, found by trying, and what each way leaves open.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hostler_keeper::cgroup::{self, Cgroup};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

/// What is in force.
#[derive(Debug, Serialize)]
pub(crate) struct Mechanism {
    /// Where `--contain auto` ends up: `tree` or `cgroup`.
    pub in_force: &'static str,
    pub kernel: Kernel,
    pub ways: Vec<Way>,
    pub cgroup: Hierarchy,
    pub limits: Vec<Limit>,
    /// Whether /proc hides the processes of others (`hidepid`): what they hold shows all the same, but not who they are.
    pub hides_others: bool,
}

/// The kernel.
#[derive(Debug, Serialize)]
pub(crate) struct Kernel {
    pub release: String,
    /// What it is too old for.
    pub lacks: Vec<&'static str>,
}

/// A way to contain.
#[derive(Debug, Serialize)]
pub(crate) struct Way {
    pub name: &'static str,
    pub available: bool,
    /// Why not.
    pub because: Option<String>,
    pub leaves_open: &'static str,
}

/// The v2 hierarchy, and the place in it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Hierarchy {
    pub mounted: Option<PathBuf>,
    /// Whether v1 hierarchies are mounted beside it.
    pub hybrid: bool,
    pub own: Option<PathBuf>,
    /// Controllers that groups made here can have.
    pub controllers: Vec<String>,
    /// Files that groups made here have.
    pub kill: bool,
    pub freeze: bool,
}

/// A limit that agents may run into.
#[derive(Debug, Serialize)]
pub(crate) struct Limit {
    pub name: &'static str,
    /// `None` for none.
    pub value: Option<u64>,
    /// How much of it is used, where that is known.
    pub used: Option<u64>,
}

/// What the kernel must have, and since when it has.
const NEEDED: &[((u32, u32), &str)] = &[
    ((5, 3), "pidfd_open (5.3): hostler cannot run"),
    ((5, 4), "waitid on a pidfd (5.4): hostler cannot run"),
    (
        (5, 7),
        "clone3 into a cgroup (5.7): --contain cgroup cannot be used",
    ),
    ((5, 9), "close_range (5.9): hostler cannot run"),
    (
        (5, 14),
        "cgroup.kill (5.14): groups are killed one process at a time",
    ),
];

/// Finds out. Makes and removes a cgroup, and runs `true` in a pid namespace.
pub(crate) fn find() -> Mechanism {
    let kernel = kernel(
        read("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim(),
    );
    let (hierarchy, group) = hierarchy();
    let pidns = try_namespace();
    let ways = vec![
        Way {
            name: "tree",
            available: true,
            because: None,
            leaves_open: "if front, zygote and keeper are all killed at once, only direct children die",
        },
        Way {
            name: "cgroup",
            available: group.is_ok(),
            because: group.as_ref().err().cloned(),
            leaves_open: "as tree; but survivors stay named by their cgroup, and doctor finds them",
        },
        Way {
            name: "pidns",
            available: pidns.is_ok(),
            because: pidns.err(),
            leaves_open: "nothing; what runs in it sees other pids, and sudo may not work",
        },
    ];
    Mechanism {
        in_force: if group.is_ok() { "cgroup" } else { "tree" },
        kernel,
        ways,
        cgroup: hierarchy,
        limits: limits(),
        hides_others: !Path::new("/proc/1/stat").exists(),
    }
}

fn kernel(release: &str) -> Kernel {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let lacks = NEEDED.iter().filter(|(since, _)| version < *since);
    Kernel {
        release: release.to_owned(),
        lacks: lacks.map(|(_, what)| *what).collect(),
    }
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn words(path: impl AsRef<Path>) -> Vec<String> {
    let text = read(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Where the v2 hierarchy is mounted.
pub(crate) fn mounted() -> Option<PathBuf> {
    mounts("cgroup2").into_iter().next()
}

fn mounts(kind: &str) -> Vec<PathBuf> {
    let text = read("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let fits = right.split(' ').next() == Some(kind);
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        fits.then(|| PathBuf::from(point))
    });
    points.collect()
}

/// The hierarchy, and whether a group can be made, or why not.
fn hierarchy() -> (Hierarchy, Result<(), String>) {
    let mut found = Hierarchy {
        mounted: mounted(),
        hybrid: !mounts("cgroup").is_empty(),
        ..Hierarchy::default()
    };
    if found.mounted.is_none() {
        return (found, Err("no cgroup v2 hierarchy is mounted".to_owned()));
    }
    let Some(base) = cgroup::base() else {
        let group = read("/proc/self/cgroup").unwrap_or_default();
        let own = group
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .unwrap_or("?");
        let why = format!(
            "this user may not make groups in its own, {own} (systemd hands one over with Delegate=yes, as in: systemd-run --user --scope -p Delegate=yes)"
        );
        return (found, Err(why));
    };
    let path = base.join(format!("hostler-{}-0", std::process::id()));
    found.own = Some(base.clone());
    let name = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
    let group = match Cgroup::make(&name) {
        Ok(group) => group,
        Err(errno) => {
            let why = format!("cannot make a group in {}: {errno}", base.display());
            return (found, Err(why));
        }
    };
    found.kill = path.join("cgroup.kill").exists();
    found.freeze = path.join("cgroup.freeze").exists();
    // A group with processes of its own hands none down, the root excepted (cgroups(7)).
    let free = !base.join("cgroup.type").exists() || words(base.join("cgroup.procs")).is_empty();
    let given = words(path.join("cgroup.controllers"));
    found.controllers = words(base.join("cgroup.controllers"))
        .into_iter()
        .filter(|name| free || given.contains(name))
        .collect();
    let removed = group
        .remove()
        .map_err(|errno| format!("cannot remove a group in {}: {errno}", base.display()));
    (found, removed)
}

/// Runs `true` in a pid namespace.
fn try_namespace() -> Result<(), String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(own)
        .args([
            "run",
            "--contain",
            "pidns",
            "--timeout",
            "10s",
            "--",
            "true",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().next().unwrap_or_default();
    Err(said.trim_start_matches("hostler: ").to_owned())
}

fn limits() -> Vec<Limit> {
    let number = |path: &str| read(path)?.trim().parse().ok();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let processes = processes.filter(|entry| {
        let name = entry.file_name();
        name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
    });
    let threads = read("/proc/loadavg").and_then(|text| {
        let (_, all) = text.split(' ').nth(3)?.split_once('/')?;
        all.parse().ok()
    });
    let mut found = vec![
        Limit {
            name: "pid_max",
            value: number("/proc/sys/kernel/pid_max"),
            used: Some(processes.count() as u64),
        },
        Limit {
            name: "threads_max",
            value: number("/proc/sys/kernel/threads-max"),
            used: threads,
        },
        Limit {
            name: "open_files",
            value: getrlimit(Resource::Nofile).current,
            used: None,
        },
        Limit {
            name: "processes",
            value: getrlimit(Resource::Nproc).current,
            used: None,
        },
    ];
    found.extend(group_pids());
    found
}

/// The tightest `pids.max` of the groups that this process is in.
fn group_pids() -> Option<Limit> {
    let text = read("/proc/self/cgroup")?;
    let group = |list: &str| {
        text.lines().find_map(|line| {
            let (names, path) = line.split_once(':')?.1.split_once(':')?;
            names
                .split(',')
                .any(|name| name == list)
                .then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let v1 = mounts("cgroup")
        .into_iter()
        .find(|point| point.ends_with("pids"));
    let places = [mounted().zip(group("")), v1.zip(group("pids"))];
    let limits = places.into_iter().flatten().flat_map(|(root, own)| {
        let dir = root.join(own);
        let above: Vec<PathBuf> = dir
            .ancestors()
            .take_while(|dir| dir.starts_with(&root))
            .map(Path::to_owned)
            .collect();
        above
    });
    limits
        .filter_map(|dir| {
            let number = |file: &str| read(dir.join(file))?.trim().parse().ok();
            Some(Limit {
                name: "cgroup_pids",
                value: Some(number("pids.max")?),
                used: number("pids.current"),
            })
        })
        .min_by_key(|limit| limit.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_lack_what_came_later() {
        assert_eq!(kernel("6.18.44-fc").lacks, [""; 0]);
        assert_eq!(kernel("5.10.0-28-amd64").lacks.len(), 1);
        assert_eq!(kernel("5.4.0").lacks.len(), 3);
        assert_eq!(kernel("4.19").lacks.len(), NEEDED.len());
    }
}
