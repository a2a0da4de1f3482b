//! A host that is killed with SIGKILL, at every step; then the next one. Kernel and ledger agree.
//!
//! The host that dies is this program again, told by its environment to run [`the_host_that_dies`].

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostler_session::{CloseReason, OnHostExit, Recovery, ResourceState, TerminalSize};

use super::agreement::agree;
use super::support::*;

/// Kills this process when the step comes for the nth time.
pub(crate) fn die_at(step: &str, nth: u32) {
    let count = std::sync::atomic::AtomicU32::new(0);
    fail::cfg_callback(step, move || {
        if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == nth {
            die();
        }
    })
    .expect("a fail point");
}

pub(crate) fn die() {
    let own = rustix::process::getpid();
    let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
    std::thread::sleep(Duration::from_secs(60));
}

/// What the host does until it is killed: told by `HOSTLER_TEST_STEP` (`step:nth`) and `HOSTLER_TEST_ON_EXIT`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests"]
async fn the_host_that_dies() {
    let Ok(dir) = std::env::var("HOSTLER_TEST_HOST") else {
        return;
    };
    let mark = mark_of(Path::new(&dir));
    let step = std::env::var("HOSTLER_TEST_STEP").unwrap_or_default();
    let on_host_exit = match std::env::var("HOSTLER_TEST_ON_EXIT").as_deref() {
        Ok("keep") => OnHostExit::Keep,
        _ => OnHostExit::Kill,
    };
    if let Some((step, nth)) = step.split_once(':') {
        die_at(step, nth.parse().expect("a number"));
    }
    let stage = Stage::at(Path::new(&dir), &mark, |_| {});
    stage.sessions.recover(&[]).await.unwrap();
    let open = async |name: &str| {
        stage
            .open_with(|options| {
                options.name = Some(name.into());
                options.policy.on_host_exit = on_host_exit;
            })
            .await
    };
    let one = open("one").await;
    exec(
        &one,
        shell("setsid sleep 1000 & exec sleep 1001").background(),
    )
    .await;
    exec(
        &one,
        shell("n=0; while :; do n=$((n+1)); echo $n; sleep 0.01; done").background(),
    )
    .await;
    exec(&one, shell("cat").on_terminal(TerminalSize::default())).await;
    let shows = shell("n=0; while :; do n=$((n+1)); printf 'line %s\\n' $n; sleep 0.01; done");
    exec(&one, shows.on_terminal(TerminalSize::default())).await;
    exec(&one, shell("true").background()).await.wait().await;
    let two = open("two").await;
    let sleeper = exec(&two, shell("sleep 1000").background()).await;
    sleeper.end(None, by()).await.unwrap();
    exec(
        &two,
        shell("trap '' TERM; while :; do sleep 1; done").background(),
    )
    .await;
    two.close(CloseReason::Client, by(), None).await.unwrap();
    let three = open("three").await;
    let kept = exec(&three, shell("sleep 1000").background()).await;
    exec(&three, shell("sleep 1000").background()).await;
    let policy = three.info().policy;
    three
        .keep(&stage.sessions, kept.id(), "kept", policy, by())
        .await
        .unwrap();
    three.close(CloseReason::Client, by(), None).await.unwrap();
    if on_host_exit == OnHostExit::Keep {
        // What is kept lives on, though its lender would not.
        let four = stage
            .open_with(|options| options.policy.on_host_exit = OnHostExit::Kill)
            .await;
        let kept = exec(&four, shell("sleep 1000").background()).await;
        let policy = one.info().policy;
        four.keep(&stage.sessions, kept.id(), "lent", policy, by())
            .await
            .unwrap();
    }
    let child = stage
        .open_with(|options| {
            options.parent = Some(one.id().clone());
            options.policy.on_host_exit = on_host_exit;
        })
        .await;
    exec(&child, shell("sleep 1000").background()).await;
    println!("stands");
    die();
}

struct Host {
    child: Child,
}

impl Host {
    fn start(dir: &Path, step: &str, on_exit: &str) -> Self {
        let child = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "death::the_host_that_dies",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("HOSTLER_TEST_HOST", dir)
            .env("HOSTLER_TEST_STEP", step)
            .env("HOSTLER_TEST_ON_EXIT", on_exit)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a host");
        Self { child }
    }

    /// Waits until it was killed.
    fn dead(mut self) {
        let deadline = Instant::now() + Duration::from_secs(10) * slack();
        loop {
            if let Some(status) = self.child.try_wait().expect("its status") {
                assert_eq!(status.signal(), Some(9), "it was to be killed: {status}");
                return;
            }
            assert!(Instant::now() < deadline, "the host does not die");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) fn new_mark() -> (tempfile::TempDir, String) {
    let dir = tempfile::Builder::new()
        .prefix("hostler-death-")
        .tempdir()
        .expect("a directory");
    let mark = mark_of(dir.path());
    (dir, mark)
}

/// Nothing that the host that dies has in its own environment, which its zygote inherits.
pub(crate) fn mark_of(dir: &Path) -> String {
    let name = dir.file_name().expect("a name").to_string_lossy();
    format!("mark-{name}")
}

pub(crate) async fn next_host(dir: &Path, mark: &str) -> (Stage, Recovery) {
    let stage = Stage::at(dir, mark, |_| {});
    let recovery = stage
        .sessions
        .recover(&stage.earlier)
        .await
        .expect("a recovery");
    (stage, recovery)
}

const STEPS: [&str; 17] = [
    "open.begin:1",
    "open.intended:1",
    "open.directories:1",
    "open.keeper:1",
    "open.identified:1",
    "open.keeper:2",
    "exec.begin:1",
    "exec.intended:1",
    "exec.spawned:1",
    "exec.identified:3",
    "close.ended:1",
    "close.removed:1",
    "close.recorded:1",
    "close.ended:2",
    "close.removed:2",
    "close.recorded:2",
    "",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_killed_is_gone_whenever_the_host_dies() {
    for step in STEPS {
        let (dir, mark) = new_mark();
        Host::start(dir.path(), step, "kill").dead();
        let began = Instant::now();
        until("all of it is gone without help", || {
            find(&mark).iter().all(|found| !found.lives())
        })
        .await;
        println!("{step:18} gone after {:?}", began.elapsed());
        let (stage, recovery) = next_host(dir.path(), &mark).await;
        assert!(
            recovery.adopted.is_empty() && recovery.unreached.is_empty(),
            "{step}: {recovery:?}"
        );
        agree(&stage, step).await;
        assert!(stage.sessions.list().is_empty());
        assert!(
            recovery
                .swept
                .iter()
                .all(|report| report.is_clean() && report.recorded),
            "{step}: {recovery:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_to_be_kept_is_adopted_whole_whenever_the_host_dies() {
    for step in STEPS {
        let (dir, mark) = new_mark();
        Host::start(dir.path(), step, "keep").dead();
        let before: BTreeSet<u32> = find(&mark)
            .iter()
            .filter(|found| found.lives())
            .map(|found| found.pid.cast_unsigned())
            .collect();
        let (stage, recovery) = next_host(dir.path(), &mark).await;
        println!(
            "{step:18} {} processes, {} adopted, {} swept, {:?}",
            before.len(),
            recovery.adopted.len(),
            recovery.swept.len(),
            recovery.took
        );
        assert!(recovery.unreached.is_empty(), "{step}: {recovery:?}");
        agree(&stage, step).await;
        if step.is_empty() {
            assert_eq!(recovery.adopted.len(), 4, "{recovery:?}");
            let lent = stage.sessions.get("lent").unwrap();
            let list = lent.resources().await.unwrap();
            assert_eq!(list[0].state, ResourceState::Running);
            goes_on(&stage).await;
        }
        for session in stage.sessions.list() {
            let report = session
                .close(CloseReason::Client, by(), None)
                .await
                .unwrap();
            assert!(report.is_clean() && report.recorded, "{step}: {report:?}");
        }
        assert!(stage.living().is_empty(), "{step}: {:?}", stage.living());
        agree(&stage, step).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_terminal_shows_comes_once_whenever_the_host_dies() {
    for nth in [1, 2, 9, 30] {
        let (dir, mark) = new_mark();
        let step = format!("terminal.staged:{nth}");
        Host::start(dir.path(), &step, "keep").dead();
        let (stage, recovery) = next_host(dir.path(), &mark).await;
        assert!(recovery.unreached.is_empty(), "{step}: {recovery:?}");
        let one = stage.sessions.get("one").unwrap();
        let list = one.resources().await.unwrap();
        let shows = list.iter().find(|found| found.shown.contains("printf"));
        let shows = stage.sessions.process(shows.expect(&step).id.as_str());
        let mut follower = shows.unwrap().stdout().follow(0);
        let mut text = String::new();
        while text.lines().count() < nth as usize + 50 {
            text += &follower.next_text(4096).await.unwrap().unwrap().text;
        }
        let upto = text.rfind('\n').unwrap();
        for (line, number) in text[..upto].split("\r\n").zip(1..) {
            assert_eq!(line.trim_end(), format!("line {number}"), "{step}: {text}");
        }
        for session in stage.sessions.list() {
            let report = session.close(CloseReason::Client, by(), None).await;
            assert!(report.unwrap().is_clean(), "{step}");
        }
        assert!(stage.living().is_empty(), "{step}: {:?}", stage.living());
    }
}

/// The numbered lines come once and in order, the terminal still answers, and the child knows its parent.
async fn goes_on(stage: &Stage) {
    let one = stage.sessions.get("one").unwrap();
    assert!(one.info().adopted);
    let list = one.resources().await.unwrap();
    let find = |text: &str| {
        let resource = list.iter().find(|resource| resource.shown.contains(text));
        stage
            .sessions
            .process(resource.expect(text).id.as_str())
            .unwrap()
    };
    let counter = find("echo $n");
    let mut follower = counter.stdout().follow(0);
    let mut text = String::new();
    while text.lines().count() < 50 + 1 {
        text += &follower.next_text(4096).await.unwrap().unwrap().text;
    }
    let upto = text.rfind('\n').unwrap();
    for (line, number) in text[..upto].lines().zip(1..) {
        assert_eq!(line.parse(), Ok(number), "{text}");
    }
    let terminal = find("cat");
    terminal.write(b"hello\n").await.unwrap();
    let mut follower = terminal.stdout().follow(0);
    let mut text = String::new();
    while text.matches("hello").count() < 2 {
        text += &follower.next_text(4096).await.unwrap().unwrap().text;
    }
    let child = stage
        .sessions
        .list()
        .into_iter()
        .find(|session| session.info().parent.is_some());
    assert_eq!(child.unwrap().info().parent.as_ref(), Some(one.id()));
    let new = exec(&one, shell("echo new").background()).await;
    assert_eq!(output_of(&new).await, "new\n");
}
