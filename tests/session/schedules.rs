//! Random schedules from a seed: at the end of each, kernel and ledger agree, and nothing is left.
//!
//! `HOSTLER_SEED` gives the seed, `HOSTLER_SCHEDULES` how many there are. A schedule that fails prints its own seed, with which
//! it is the first one; `HOSTLER_SCHEDULE_SAY=1` has it say what it does.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hostler_session::{CloseReason, OnHostExit};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::agreement::agree;
use super::death::{die, die_at, mark_of, new_mark, next_host};
use super::schedule::{Random, World, kill_mark, taken_over};
use super::support::*;

/// How many run at once.
const AT_ONCE: usize = 4;
/// Of a hundred schedules, so many are a host process's that is killed.
const KILLED: u64 = 20;

const STEPS: [&str; 19] = [
    "open.begin",
    "open.intended",
    "open.directories",
    "open.keeper",
    "open.identified",
    "exec.begin",
    "exec.intended",
    "exec.spawned",
    "exec.identified",
    "close.ended",
    "close.removed",
    "close.recorded",
    "sweep.record",
    "hand_over.recorded",
    "hand_over.done",
    "adopt.reached",
    "adopt.revived",
    "",
    "",
];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_random_schedules_kernel_and_ledger_agree() {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = number("HOSTLER_SEED").unwrap_or(clock.as_nanos() as u64 >> 10);
    let count = number("HOSTLER_SCHEDULES").unwrap_or(200);
    println!("HOSTLER_SEED={seed} HOSTLER_SCHEDULES={count}");
    let began = Instant::now();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut schedules = JoinSet::new();
    for seed in (0..count).map(|index| seed.wrapping_add(index)) {
        let turns = turns.clone();
        schedules.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let began = Instant::now();
            let task = tokio::spawn(schedule(seed));
            let time = Duration::from_secs(20) * slack();
            let outcome = tokio::time::timeout(time, task).await;
            let took = began.elapsed();
            match outcome {
                Ok(Ok(killed)) => Ok((killed, took)),
                Ok(Err(_)) => Err(seed),
                Err(_) => {
                    eprintln!("HOSTLER_SEED={seed} hangs");
                    Err(seed)
                }
            }
        });
    }
    let (mut killed, mut longest, mut failed) = (0, Duration::ZERO, Vec::new());
    for outcome in schedules.join_all().await {
        match outcome {
            Ok((was_killed, took)) => {
                killed += u64::from(was_killed);
                longest = longest.max(took);
            }
            Err(seed) => failed.push(seed),
        }
    }
    println!(
        "{count} schedules, {killed} with a host that is killed, in {:?}; the longest took {longest:?}",
        began.elapsed()
    );
    assert!(
        failed.is_empty(),
        "each of these as HOSTLER_SEED, with HOSTLER_SCHEDULES=1: {failed:?}"
    );
}

/// Whether it was one of a host that is killed.
async fn schedule(seed: u64) -> bool {
    let mut random = Random::new(seed);
    let killed = random.percent(KILLED);
    if killed {
        with_hosts_that_are_killed(random).await;
    } else {
        in_this_process(random).await;
    }
    killed
}

async fn in_this_process(mut random: Random) {
    let (dir, mark) = new_mark();
    let count = 5 + random.below(25);
    let stage = Stage::at(dir.path(), &mark, |_| {});
    let end_by_takeover = random.percent(30);
    let mut world = World::new(stage, random, Duration::from_secs(30));
    world.act(count).await;
    world.settle().await;
    if end_by_takeover {
        world.take_over().await;
    }
    agree(&world.stage, "after the schedule").await;
    world.leave();
    ends_with_nothing(&world.stage).await;
}

/// All is closed, and then nothing is there.
async fn ends_with_nothing(stage: &Stage) {
    let time = Duration::from_secs(5) * slack();
    let reports = stage
        .sessions
        .close_all(CloseReason::Shutdown, by(), None, time)
        .await;
    for report in reports {
        assert!(report.is_clean() && report.recorded, "{report:?}");
    }
    until("no session is left", || stage.sessions.list().is_empty()).await;
    agree(stage, "at the end").await;
    assert!(stage.living().is_empty(), "{:?}", stage.living());
    until("no keeper is left", || stage.keepers().is_empty()).await;
}

async fn with_hosts_that_are_killed(mut random: Random) {
    let (dir, mark) = new_mark();
    for _ in 0..1 + random.below(3) {
        let host = Host {
            seed: random.next(),
            step: STEPS[random.below(STEPS.len() as u64) as usize],
            nth: 1 + random.below(4),
            after: 5 + random.below(200),
        };
        host.live(dir.path()).await;
        // The next host may come while the last one's sessions still end.
        if random.percent(60) {
            until("what is to be killed is gone without help", || {
                find(&kill_mark(&mark)).iter().all(|found| !found.lives())
            })
            .await;
        }
    }
    let (stage, recovery) = next_host(dir.path(), &mark).await;
    assert!(recovery.unreached.is_empty(), "{recovery:?}");
    for report in &recovery.swept {
        assert!(report.is_clean() && report.recorded, "{report:?}");
    }
    agree(&stage, "after the host's death").await;
    if !taken_over(dir.path()).exists() {
        for session in stage.sessions.list() {
            assert_eq!(session.info().policy.on_host_exit, OnHostExit::Keep);
        }
    }
    ends_with_nothing(&stage).await;
    // The hosts' own processes bear the directory's name in their environment.
    let name = dir.path().file_name().unwrap().to_str().unwrap().to_owned();
    until("zygotes and keepers are gone", || {
        find(&name).iter().all(|found| !found.lives())
    })
    .await;
}

/// A host process that is killed, at the nth time at a step or after so many milliseconds.
struct Host {
    seed: u64,
    step: &'static str,
    nth: u64,
    after: u64,
}

impl Host {
    async fn live(&self, dir: &Path) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "schedules::the_host_that_is_killed",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env("HOSTLER_TEST_HOST", dir)
            .env("HOSTLER_TEST_SEED", self.seed.to_string())
            .env("HOSTLER_TEST_STEP", self.step)
            .env("HOSTLER_TEST_NTH", self.nth.to_string())
            .env("HOSTLER_TEST_AFTER", self.after.to_string())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut status = None;
        until("the host is killed", || {
            status = child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let signal =
            status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        assert_eq!(signal, Some(9), "it was to be killed: {status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other test"]
async fn the_host_that_is_killed() {
    let (Ok(dir), Some(seed)) = (
        std::env::var("HOSTLER_TEST_HOST"),
        number("HOSTLER_TEST_SEED"),
    ) else {
        return;
    };
    let dir = Path::new(&dir);
    let step = std::env::var("HOSTLER_TEST_STEP").unwrap_or_default();
    if !step.is_empty() {
        die_at(&step, number("HOSTLER_TEST_NTH").unwrap_or(1) as u32);
    }
    let after = Duration::from_millis(number("HOSTLER_TEST_AFTER").unwrap_or(100));
    let (stage, _) = next_host(dir, &mark_of(dir)).await;
    std::thread::spawn(move || {
        std::thread::sleep(after);
        die();
    });
    let mut world = World::new(stage, Random::new(seed), Duration::from_secs(2));
    world.act(40).await;
    die();
}
