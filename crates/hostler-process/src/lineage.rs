//! Which of a tree's processes came of one of them, also once they are no longer under it.
//!
//! What a process orphans becomes its keeper's child, and from then on its parent says nothing of where it came from. Its process
//! group and its session (credentials(7)) still do, for they stay as they are unless it makes new ones; and so does its initial
//! environment, unless that was scrubbed. All of it is asked only of processes that the keeper has: whatever comes of it, it is
//! never a process of another tree.

use std::collections::HashSet;
use std::fs;

use hostler_keeper::identity::ProcessId;
use hostler_keeper::outcome::ProcessInfo;
use hostler_keeper::proc::Proc;
use rustix::process::Pid;

/// Those of the `census` that came of `origin`, with itself where it still lives: what is under it, what is in its process group or
/// its session, what has the variable `name` with this `value` in its environment, and whatever is under these.
pub fn came_of(
    census: &[ProcessInfo],
    origin: ProcessId,
    (name, value): (&str, &str),
) -> Vec<ProcessInfo> {
    let proc = Proc::open().ok();
    // While anything is in a group or session, the kernel gives its number to no new process; so where another has it, nothing is.
    let taken = census
        .iter()
        .any(|info| info.id.pid == origin.pid && info.id != origin);
    let own = |info: &ProcessInfo| {
        if info.id == origin {
            return true;
        }
        match variable(info.id.pid, name) {
            Some(found) => return found == value.as_bytes(),
            None if taken => return false,
            None => {}
        }
        let pid = Pid::from_raw(info.id.pid.cast_signed());
        let stat = proc
            .as_ref()
            .zip(pid)
            .and_then(|(proc, pid)| proc.stat(pid).ok());
        stat.is_some_and(|stat| {
            stat.id == info.id && (stat.group == origin.pid || stat.session == origin.pid)
        })
    };
    let mut found: HashSet<u32> = census
        .iter()
        .filter(|info| own(info))
        .map(|info| info.id.pid)
        .collect();
    loop {
        let before = found.len();
        for info in census {
            if found.contains(&info.parent) {
                found.insert(info.id.pid);
            }
        }
        if found.len() == before {
            break;
        }
    }
    census
        .iter()
        .filter(|info| found.contains(&info.id.pid))
        .cloned()
        .collect()
}

/// A variable of the environment with which the process's program was started; none where it may not be looked at.
fn variable(pid: u32, name: &str) -> Option<Vec<u8>> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    environment.split(|byte| *byte == 0).find_map(|entry| {
        let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use hostler_keeper::identity::Comm;

    use super::*;

    fn info(pid: u32, start_time: u64, parent: u32) -> ProcessInfo {
        ProcessInfo {
            id: ProcessId { pid, start_time },
            parent,
            command: Comm::new(b"x"),
            state: b'S',
            resident: 0,
            cpu: Duration::ZERO,
            key: None,
        }
    }

    fn pids(found: &[ProcessInfo]) -> Vec<u32> {
        found.iter().map(|info| info.id.pid).collect()
    }

    #[test]
    fn what_is_under_it_is_found_and_nothing_else() {
        // No such pids: the kernel has nothing to say of them.
        let base = 1 << 30;
        let census = [
            info(base + 1, 1, 1),
            info(base + 3, 3, base + 2),
            info(base + 2, 2, base + 1),
            info(base + 4, 4, 1),
        ];
        let found = came_of(&census, census[0].id, ("NO", "x"));
        assert_eq!(pids(&found), [base + 1, base + 3, base + 2]);
        let other = ProcessId {
            pid: base + 1,
            start_time: 9,
        };
        assert!(
            came_of(&census, other, ("NO", "x")).is_empty(),
            "another with its pid"
        );
    }

    #[test]
    fn orphans_are_known_by_their_group_and_by_their_environment() {
        let start = |mark: &str, group: i32| {
            let mut command = Command::new("sleep");
            command.arg("60").stdin(Stdio::null()).process_group(group);
            let child = command.env("LINEAGE_MARK", mark).spawn().expect("sleep");
            // It is there a moment before its environment is.
            while variable(child.id(), "LINEAGE_MARK").is_none() {
                std::thread::yield_now();
            }
            child
        };
        let mut leader = start("a", 0);
        let group = leader.id().cast_signed();
        let mut marked = start("a", 0);
        let mut stranger = start("b", group);
        let id = |pid: u32| {
            let pid = Pid::from_raw(pid.cast_signed()).expect("a pid");
            Proc::open()
                .and_then(|proc| proc.stat(pid))
                .expect("stat")
                .id
        };
        let census: Vec<ProcessInfo> = [&leader, &marked, &stranger]
            .iter()
            .map(|child| ProcessInfo {
                id: id(child.id()),
                ..info(0, 0, 1)
            })
            .collect();
        let found = came_of(&census, id(leader.id()), ("LINEAGE_MARK", "a"));
        let by_group = came_of(&census, id(leader.id()), ("LINEAGE_NONE", "a"));
        let (expected, grouped) = (
            vec![leader.id(), marked.id()],
            vec![leader.id(), stranger.id()],
        );
        for child in [&mut leader, &mut marked, &mut stranger] {
            let _ = child.kill();
            let _ = child.wait();
        }
        assert_eq!(
            pids(&found),
            expected,
            "one that says that it is of another is"
        );
        assert_eq!(pids(&by_group), grouped);
    }
}
