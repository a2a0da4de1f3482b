//! What does not go, what can't be seen, and what is somebody else's: none of it is taken for the other.

#[path = "support/async_tree.rs"]
#[allow(dead_code)]
mod support;

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_keeper::cgroup::{Cgroup, base, fresh};
use hostler_keeper::config::{Contain, KeeperConfig};
use hostler_keeper::connection::Connection;
use hostler_keeper::identity::Key;
use hostler_keeper::message::{
    Event, Failure, Group, Reply, Request, Spawn, Step, Tidy, ZygoteReply, ZygoteRequest,
};
use hostler_keeper::zygote::Zygote;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::{Stage, children_of, find};
use tokio::io::AsyncBufReadExt;

const GRACE: Duration = Duration::from_millis(200);

/// A zygote whose messages the test reads itself.
fn zygote() -> Zygote {
    Zygote::exec(Path::new(env!("CARGO_BIN_EXE_hostler")), &["__zygote"]).expect("a zygote")
}

/// Asks for a keeper; the host's end of its connection.
fn ask_for_keeper(zygote: &Zygote, config: KeeperConfig) -> Connection {
    let (ours, theirs) = Connection::pair().unwrap();
    let request = ZygoteRequest::Keeper(Box::new(config));
    zygote
        .connection
        .send(1, &request, &[theirs.as_fd()])
        .unwrap();
    ours
}

fn next_reply(zygote: &Zygote) -> ZygoteReply {
    let received = zygote.connection.receive().unwrap().expect("a word");
    received.message().unwrap()
}

/// A cgroup that is none of Hostler's, with a process in it.
struct Foreign {
    path: PathBuf,
    group: Cgroup,
    member: std::process::Child,
}

impl Foreign {
    fn new() -> Option<Self> {
        let name = fresh(&base()?, "foreign").unwrap();
        let group = Cgroup::make(&name).ok()?;
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()));
        let procs = path.join("cgroup.procs");
        let mut command = std::process::Command::new("sleep");
        // SAFETY: writes to a file, and allocates nothing that another thread could have locked: the path is made already.
        unsafe {
            command.pre_exec(move || {
                let file = rustix::fs::open(
                    &procs,
                    rustix::fs::OFlags::WRONLY,
                    rustix::fs::Mode::empty(),
                )?;
                rustix::io::write(&file, b"0")?;
                Ok(())
            });
        }
        let member = command.arg("1000").spawn().ok()?;
        Some(Self {
            path,
            group,
            member,
        })
    }

    fn name(&self) -> CString {
        CString::new(self.path.as_os_str().as_bytes()).unwrap()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.member.kill();
        let _ = self.member.wait();
        let _ = self.group.remove();
    }
}

#[test]
fn a_group_that_is_there_already_is_not_touched() {
    let Some(mut foreign) = Foreign::new() else {
        return println!("skipped: no group can be made here");
    };
    let zygote = zygote();
    let mut config = KeeperConfig::new(Contain::Cgroup, GRACE);
    config.cgroup = Some(foreign.name());
    let keeper = ask_for_keeper(&zygote, config);
    let word = keeper.receive().unwrap().expect("a word");
    assert_eq!(
        word.message::<Event>().unwrap(),
        Event::Unfit(Failure {
            step: Step::Cgroup,
            errno: libc::EEXIST
        })
    );
    assert!(matches!(next_reply(&zygote), ZygoteReply::Forked(_)));
    let ZygoteReply::KeeperGone { report, .. } = next_reply(&zygote) else {
        panic!("it is told that the keeper has gone");
    };
    assert_eq!((report.remaining, report.left.len()), (0, 0));
    assert!(
        foreign.member.try_wait().unwrap().is_none(),
        "somebody else's process was killed"
    );
    assert!(foreign.path.exists());
    zygote.dismiss(false);
}

/// The lowest descriptor number that this process has free.
fn lowest_free(pid: Pid) -> u64 {
    let taken = |fd: &u64| {
        let link = format!("/proc/{}/fd/{fd}", pid.as_raw_nonzero());
        std::fs::symlink_metadata(link).is_ok()
    };
    (0..).find(|fd| !taken(fd)).unwrap()
}

/// Leaves the process no more descriptors than those below `count`; what it had before.
fn limit_descriptors(pid: Pid, count: u64) -> Rlimit {
    let mut old = rustix::process::getrlimit(Resource::Nofile);
    old.current = Some(count);
    prlimit(Some(pid), Resource::Nofile, old).expect("a limit for a process of ours")
}

fn spawn_sleep<'a>(env: &'a [&'a CStr]) -> Request<'a> {
    Request::Spawn(Box::new(Spawn {
        key: Key(1),
        main: false,
        program: c"/bin/sleep",
        args: vec![c"sleep", c"1000"],
        env: env.to_vec(),
        cwd: None,
        fds: Vec::new(),
        group: Group::Inherit,
        nice: None,
        umask: None,
        rlimits: Vec::new(),
        blocked: 0,
        ignored: None,
        stored: Vec::new(),
        tidy: Tidy::default(),
    }))
}

#[test]
fn what_cannot_be_named_is_not_started() {
    let zygote = zygote();
    let keeper = ask_for_keeper(&zygote, KeeperConfig::new(Contain::Tree, GRACE));
    let ZygoteReply::Forked(id) = next_reply(&zygote) else {
        panic!("a keeper");
    };
    let ready = keeper.receive().unwrap().expect("a word");
    assert!(matches!(ready.message(), Ok(Event::Ready { .. })));
    let pid = Pid::from_raw(id.pid.cast_signed()).unwrap();
    let before = limit_descriptors(pid, lowest_free(pid));
    let mark = CString::new(format!("HOSTLER_TEST_MARK=unnamed-{}", id.pid)).unwrap();
    keeper.send(7, &spawn_sleep(&[&mark]), &[]).unwrap();
    let answer = keeper.receive().unwrap().expect("an answer");
    let failed = Failure {
        step: Step::Fork,
        errno: libc::EMFILE,
    };
    assert_eq!(answer.message(), Ok(Reply::Failed(failed)));
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    keeper.send(8, &Request::End { grace: GRACE }, &[]).unwrap();
    loop {
        let answer = keeper.receive().unwrap().expect("an answer");
        if answer.header.id == 8 {
            let Ok(Reply::Ended(report)) = answer.message() else {
                panic!("a report");
            };
            assert_eq!(report.remaining, 0);
            break;
        }
    }
    assert!(
        find(&format!("unnamed-{}", id.pid))
            .iter()
            .all(|found| !found.lives())
    );

    // The zygote: room for the connection that comes with the request, and for nothing more.
    assert!(matches!(
        next_reply(&zygote),
        ZygoteReply::KeeperGone { .. }
    ));
    let before = limit_descriptors(zygote.pid, lowest_free(zygote.pid) + 1);
    let _unborn = ask_for_keeper(&zygote, KeeperConfig::new(Contain::Tree, GRACE));
    assert_eq!(next_reply(&zygote), ZygoteReply::Failed(failed));
    assert!(children_of(zygote.pid.as_raw_nonzero().get()).is_empty());
    prlimit(Some(zygote.pid), Resource::Nofile, before).unwrap();
    let _keeper = ask_for_keeper(&zygote, KeeperConfig::new(Contain::Tree, GRACE));
    assert!(matches!(next_reply(&zygote), ZygoteReply::Forked(_)));
}

#[tokio::test]
async fn a_group_made_anew_at_the_path_of_another_is_not_that_one() {
    let stage = Stage::new();
    let mut options = stage.options();
    options.contain = Some(hostler_process::Contain::Cgroup);
    let Ok(tree) = stage.zygote.tree(options).await else {
        return println!("skipped: no group can be made here");
    };
    let path = tree.cgroup().expect("it has one").to_owned();
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // Nothing is in it yet.
    std::fs::remove_dir(&path).unwrap();
    let other = Cgroup::make(&name).unwrap();
    let keeper = rustix::process::Pid::from_raw(tree.keeper().pid.cast_signed()).unwrap();
    rustix::process::kill_process(keeper, rustix::process::Signal::KILL).unwrap();
    assert_eq!(tree.ended().await.unwrap().remaining, 0);
    assert!(path.exists(), "it was removed");
    other.remove().unwrap();
}

/// Stops a process of a tree as a debugger does: what is traced and killed stays, for its parent, until the tracer has
/// taken leave of it.
struct Tracer {
    thread: Option<std::thread::JoinHandle<()>>,
    go: std::sync::mpsc::Sender<()>,
}

impl Tracer {
    fn seize(pid: u32) -> Self {
        let (go, wait) = std::sync::mpsc::channel();
        let (told, seized) = std::sync::mpsc::channel();
        let pid = pid.cast_signed();
        let thread = std::thread::spawn(move || {
            // SAFETY: takes hold of a process of the test's own; the tracer is this thread, which lets go below.
            let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) };
            told.send(result).unwrap();
            let _ = wait.recv();
            // SAFETY: waits for that process alone.
            unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::__WALL) };
        });
        assert_eq!(seized.recv().unwrap(), 0, "it can be traced");
        Self {
            thread: Some(thread),
            go,
        }
    }

    /// Lets go of the dead.
    fn release(mut self) {
        let _ = self.go.send(());
        self.thread.take().unwrap().join().unwrap();
    }
}

#[tokio::test]
async fn what_another_holds_is_not_called_gone() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let tracer = Tracer::seize(process.id().pid);
    let report = tree.end(GRACE).await.unwrap();
    assert_eq!(report.remaining, 1, "{report:?}");
    tracer.release();
    assert_eq!(tree.ended().await.unwrap().remaining, 0);
}

#[tokio::test]
async fn a_stuck_process_is_tried_again_and_later_callers_hear_of_its_end() {
    let stage = Stage::new();
    let tree = stage.tree().await;
    let process = tree
        .spawn(stage.command("sleep").arg("1000"))
        .await
        .unwrap();
    let tracer = Tracer::seize(process.id().pid);
    let report = process.end(GRACE).await.unwrap();
    assert_eq!(report.remaining, 1, "{report:?}");
    let report = process.end(GRACE).await.unwrap();
    assert_eq!(report.remaining, 1, "{report:?}");
    // The keeper answers in order: once it has counted, it has heard of the later end.
    let (later, ()) = tokio::join!(process.end(GRACE), async {
        tree.census().await.unwrap();
        tracer.release();
    });
    let later = later.unwrap();
    assert_eq!(later.remaining, 0, "{later:?}");
    assert_eq!(later.left.len(), 1, "it is the same end: {later:?}");
    assert_eq!(tree.end(GRACE).await.unwrap().remaining, 0);
}

#[tokio::test]
async fn a_stuck_leftover_of_one_killed_keeper_does_not_hide_the_end_of_another() {
    let stage = Stage::new();
    let mut options = stage.options();
    options.contain = Some(hostler_process::Contain::Tree);
    let (one, other) = (
        stage.zygote.tree(options.clone()).await.unwrap(),
        stage.zygote.tree(options).await.unwrap(),
    );
    let script = "(setsid sleep 1000 & echo $!) ; sleep 1000";
    let pid = orphan_of(&stage, &one, script).await;
    let of_other = orphan_of(&stage, &other, script).await;
    let tracer = Tracer::seize(pid);
    kill(one.keeper().pid);
    let report = one.ended().await.unwrap();
    assert_eq!(report.remaining, 1, "{report:?}");
    let zygote = stage.zygote.pid().as_raw_nonzero().get();
    let before = cpu_ticks(zygote);
    kill(other.keeper().pid);
    let begun = std::time::Instant::now();
    let report = other.ended().await.unwrap();
    assert_eq!(report.remaining, 0, "{report:?}");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let left: Vec<u32> = report.left.iter().map(|left| left.id.pid).collect();
    assert!(left.contains(&of_other) && !left.contains(&pid), "{left:?}");
    // It is looked after once a second, not a thousand times.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let spent = cpu_ticks(zygote) - before;
    assert!(spent < 10, "{spent} ticks");
    tracer.release();
    support::until("it is gone from the zygote", || {
        children_of(zygote).is_empty()
    })
    .await;
}

#[test]
fn a_front_does_not_wait_for_ever_for_what_does_not_die() {
    use std::io::BufRead;
    let mut front = std::process::Command::new(env!("CARGO_BIN_EXE_hostler"))
        .args(["run", "--contain", "tree", "--", "sh", "-c"])
        .arg("setsid sleep 1000 & echo $!; wait")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(front.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let tracer = Tracer::seize(line.trim().parse().unwrap());
    let zygote = children_of(front.id().cast_signed())[0].pid;
    let keeper = children_of(zygote)[0].pid;
    kill(zygote.cast_unsigned());
    kill(keeper.cast_unsigned());
    let begun = std::time::Instant::now();
    let status = loop {
        if let Some(status) = front.try_wait().unwrap() {
            break status;
        }
        let waited = begun.elapsed();
        if waited > Duration::from_secs(20) {
            tracer.release();
            let _ = front.wait();
            panic!("it waits on");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    tracer.release();
    assert_eq!(status.code(), Some(137));
}

/// The first number that this script prints, run in the tree and left there.
async fn orphan_of(stage: &Stage, tree: &hostler_process::Tree, script: &str) -> u32 {
    let command = stage.shell(script).stdout(hostler_process::Stdio::Piped);
    let mut process = tree.spawn(command).await.unwrap();
    let output = process.take_stdout().unwrap();
    let mut line = String::new();
    tokio::io::BufReader::new(output)
        .read_line(&mut line)
        .await
        .unwrap();
    process.detach_into_tree();
    line.trim().parse().unwrap()
}

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

fn cpu_ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}
