//! What does not go, what can't be seen, and what is somebody else's: none of it is taken for the other.

#[path = "support/async_tree.rs"]
#[allow(dead_code)]
mod support;

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_keeper::cgroup::{Cgroup, base, fresh};
use hostler_keeper::config::{Contain, KeeperConfig};
use hostler_keeper::connection::Connection;
use hostler_keeper::message::{Event, Failure, Step, ZygoteReply, ZygoteRequest};
use hostler_keeper::zygote::Zygote;
use support::Stage;

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
