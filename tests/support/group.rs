//! A cgroup of the scene's own: what the kernel counts, whatever the processes call themselves.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::read_text;

/// A cgroup (v2) that holds a scene's processes. Dropped, it ends what is still in it.
pub(crate) struct Group {
    path: PathBuf,
}

impl Group {
    /// A new group named `name`, next to the one that this process is in. `owner` may make groups in it. Nothing where
    /// the machine does not let this user make one.
    pub(crate) fn create(name: &str, owner: Option<u32>) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            right
                .starts_with("cgroup2 ")
                .then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })?;
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let path = mount.join(own).join(name);
        fs::create_dir(&path).ok()?;
        let group = Self { path };
        if let Some(owner) = owner {
            for file in [
                "",
                "cgroup.procs",
                "cgroup.threads",
                "cgroup.subtree_control",
            ] {
                chown(group.path.join(file), Some(owner), Some(owner)).ok()?;
            }
        }
        // A process of ours must be able to go in: of a group that it can't leave, moving into ours is refused.
        let probe = std::process::Command::new("sh")
            .args(["-c", "echo 0 > \"$0\""])
            .arg(group.entrance())
            .stderr(std::process::Stdio::null())
            .status();
        probe.is_ok_and(|status| status.success()).then_some(group)
    }

    /// The file to which a process writes 0 to enter.
    pub(crate) fn entrance(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// The living processes in it and in the groups below it.
    pub(crate) fn pids(&self) -> Vec<i32> {
        fn collect(path: &Path, into: &mut Vec<i32>) {
            into.extend(
                read_text(&path.join("cgroup.procs"))
                    .lines()
                    .filter_map(|line| line.parse::<i32>().ok()),
            );
            for below in below(path) {
                collect(&below, into);
            }
        }
        let mut pids = Vec::new();
        collect(&self.path, &mut pids);
        pids
    }

    /// Whether anything lives in it or below, by the kernel's own flag.
    pub(crate) fn populated(&self) -> bool {
        read_text(&self.path.join("cgroup.events")).contains("populated 1")
    }

    /// The groups that were made in it.
    pub(crate) fn groups(&self) -> Vec<PathBuf> {
        below(&self.path)
    }
}

fn below(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

impl Drop for Group {
    fn drop(&mut self) {
        fn remove(path: &Path) -> std::io::Result<()> {
            for below in below(path) {
                remove(&below)?;
            }
            fs::remove_dir(path)
        }
        for _ in 0..1000 {
            let _ = fs::write(self.path.join("cgroup.kill"), "1");
            // The kernel sends that to the first thread of each, which does nothing to a process that has lost its first.
            for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
            if remove(&self.path).is_ok() || !self.path.exists() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}
