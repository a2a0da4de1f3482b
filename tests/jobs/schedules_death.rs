//! Hosts that are killed with SIGKILL as a schedule is due, and the next one.
//!
//! The host that dies is this program again, told by its environment to run [`the_host_by_the_clock`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hostler_agent::PoolOptions;
use hostler_job::{NewSchedule, ScheduledFlow};
use hostler_ledger::{JobFilter, Overlap};

use crate::schedules::{NOON, SHORT, events, jobs, made, what};
use crate::support::*;

const MINUTE: u64 = 60_000;

/// A host whose clock is a file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other test"]
async fn the_host_by_the_clock() {
    let Ok(dir) = std::env::var("HOSTLER_TEST_HOST") else {
        return;
    };
    let mark = std::env::var("HOSTLER_TEST_MARK").expect("a mark");
    let shop = next(Path::new(&dir), &mark).await;
    let schedules = shop.jobs.schedules();
    schedules.begin();
    loop {
        schedules.look();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn next(dir: &Path, mark: &str) -> Shop {
    let stage = Stage::at(dir, mark, |_| {});
    let earlier = stage.earlier.clone();
    stage.sessions.recover(&earlier).await.expect("recovered");
    let host = Host::on(stage, spec(&[]), options());
    host.agents.recover().await.expect("recovered");
    let mut shop = Shop::of(host, PoolOptions::default());
    let file = clock_of(dir);
    shop.jobs = jobs(&shop, move || {
        let text = std::fs::read_to_string(&file).expect("a clock");
        text.parse().expect("a time")
    });
    shop.jobs.recover().await.expect("recovered");
    shop
}

fn clock_of(state: &Path) -> PathBuf {
    state.parent().expect("its place").join("clock")
}

/// Sets a clock in one go, for it is read at any time.
fn set_clock(state: &Path, time: u64) {
    let clock = clock_of(state);
    let draft = clock.with_extension("draft");
    std::fs::write(&draft, time.to_string()).expect("written");
    std::fs::rename(draft, clock).expect("renamed");
}

fn host(state: &Path, mark: &str) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "schedules_death::the_host_by_the_clock"])
        .args(["--ignored", "--nocapture"])
        .env("HOSTLER_TEST_HOST", state)
        .env("HOSTLER_TEST_MARK", mark)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a host")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_hosts_are_killed_each_time_has_one_job() {
    let dir = tempfile::Builder::new()
        .prefix("hostler-jobs-")
        .tempdir()
        .expect("a directory");
    let state = dir.path().join("state");
    let mark = format!("mark-clock-{}", dir.path().display());
    set_clock(&state, NOON);
    let shop = next(&state, &mark).await;
    let flow = ScheduledFlow::Flow(SHORT.to_owned());
    let new = NewSchedule {
        name: "minutely".into(),
        cron: "* * * * *".into(),
        zone: Some("UTC".into()),
        what: what(&shop, flow, dir.path().to_owned()),
        overlap: Overlap::Allow,
        enabled: true,
    };
    shop.jobs.schedules().set(new, by()).await.expect("set");
    leave(shop).await;
    let mut random = crate::random::Random::new(std::process::id().into());
    const TIMES: u64 = 12;
    let ledger = state.join("ledger.db");
    for minute in 1..=TIMES {
        let mut child = host(&state, &mark);
        // Not before it is there: else it is always the next that does all.
        until("it is there", || {
            std::fs::read_to_string(state.join("host.lock"))
                .is_ok_and(|said| said.contains(&child.id().to_string()))
        })
        .await;
        set_clock(&state, NOON + minute * MINUTE);
        // Somewhere between the clock that is read and the job that has ended.
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        child.kill().expect("killed");
        child.wait().expect("waited");
        assert!(ledger.exists());
        if minute % 2 == 0 {
            // What was cut off is made up for before the next time comes.
            let shop = next(&state, &mark).await;
            let schedules = shop.jobs.schedules();
            schedules.begin();
            let wanted = Some(NOON + minute * MINUTE);
            let is = || schedules.get("minutely").expect("it is there").last_at;
            until("it is dealt with", || is() == wanted).await;
            leave(shop).await;
        }
    }
    let shop = next(&state, &mark).await;
    let ran = events(&shop, "schedule.ran");
    let mut at: Vec<u64> = ran
        .iter()
        .filter_map(|one| one.detail["at"].as_u64())
        .collect();
    let times = at.len();
    at.dedup();
    assert_eq!(at.len(), times, "none twice: {ran:?}");
    let even = (2..=TIMES).step_by(2).map(|minute| NOON + minute * MINUTE);
    for time in even {
        assert!(at.contains(&time), "{time} of {at:?}");
    }
    let made: Vec<_> = made(&shop).into_iter().map(|job| Some(job.id)).collect();
    let told: Vec<_> = ran.into_iter().map(|event| event.job).collect();
    assert_eq!(
        made, told,
        "no job without its time, no time without its job"
    );
    for job in shop.jobs.live() {
        soon("it ends", job.wait()).await.expect("its status");
    }
    shop.host.stage.await_none("after the jobs").await;
}

/// Lets a host in this process go, so that another may come.
async fn leave(shop: Shop) {
    let sessions = &shop.host.stage.sessions;
    // In the ledger first: a job is there a moment before it is among those that run. What is being closed cannot be handed over.
    let over = || {
        let open = shop.jobs.list(&JobFilter::default()).expect("jobs");
        open.is_empty() && shop.jobs.live().is_empty() && sessions.list().is_empty()
    };
    until("all has ended", over).await;
    shop.jobs.hand_over().await;
    shop.host.agents.hand_over().await;
    let failed = sessions.hand_over(Duration::from_secs(30)).await;
    assert!(failed.is_empty(), "{failed:?}");
    let ledger = sessions.ledger().clone();
    tokio::task::spawn_blocking(move || ledger.close())
        .await
        .expect("a task")
        .expect("closed");
}
