//! Hosts that are killed with SIGKILL as a schedule is due, and the next one.
//!
//! The host that dies is this program again, told by its environment to run [`the_host_by_the_clock`].

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hostler_agent::PoolOptions;
use hostler_job::{NewSchedule, ScheduledFlow};
use hostler_ledger::{JobEnd, JobFilter, JobState, Overlap};

use crate::hooks::Hooks;
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

fn host(state: &Path, mark: &str, hooks: Option<&Hooks>) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    if let Some(hooks) = hooks {
        command.env("HOSTLER_TEST_HOOKS", hooks.path());
    }
    command
        .args(["--exact", "schedules_death::the_host_by_the_clock"])
        .args(["--ignored", "--nocapture"])
        .env("HOSTLER_TEST_HOST", state)
        .env("HOSTLER_TEST_MARK", mark)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a host")
}

/// Waits until the host has the ledger.
async fn is_there(state: &Path, child: &Child) {
    until("it is there", || {
        std::fs::read_to_string(state.join("host.lock"))
            .is_ok_and(|said| said.contains(&child.id().to_string()))
    })
    .await;
}

/// A place with a schedule that is due each minute, the state of its hosts, and their mark.
async fn minutely() -> (tempfile::TempDir, PathBuf, String) {
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
    (dir, state, mark)
}

/// At the three places at which a death could make a job that its schedule knows nothing of, or lose or double one.
#[cfg(debug_assertions)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_around_the_write_of_a_job_makes_it_once() {
    let (_dir, state, mark) = minutely().await;
    let hooks = Hooks::new();
    let places = [
        ("job.before-write", false),
        ("job.after-write", true),
        ("job.before-answer", true),
    ];
    for (minute, (place, written)) in (1..).zip(places.into_iter().cycle().take(6)) {
        let (before, time) = (NOON + (minute - 1) * MINUTE, NOON + minute * MINUTE);
        let mut child = host(&state, &mark, Some(&hooks));
        is_there(&state, &child).await;
        hooks.hold(place);
        set_clock(&state, time);
        let held = hooks.arrival();
        child.kill().expect("killed");
        child.wait().expect("waited");
        drop(held);

        // As the dead one has left it: the job and the time that it is for, or neither.
        let shop = next(&state, &mark).await;
        let schedules = shop.jobs.schedules();
        let last_at = || schedules.get("minutely").expect("it is there").last_at;
        let dealt_with = if written { time } else { before };
        let was = (dealt_with > NOON).then_some(dealt_with);
        let jobs = (minute - 1 + u64::from(written)) as usize;
        assert_eq!((last_at(), made(&shop).len()), (was, jobs), "{place}");

        // What it did not make, the next one does; what it made, the next one goes on with.
        schedules.begin();
        until("it is dealt with", || last_at() == Some(time)).await;
        let all = made(&shop);
        assert_eq!(all.len(), minute as usize, "{place}: one for each time");
        let last = all.last().expect("a job").id.clone();
        leave(shop).await;

        let shop = next(&state, &mark).await;
        let ended = shop.jobs.summary(last.as_str()).expect("its record");
        assert_eq!(ended.state, JobState::Ended(JobEnd::Completed), "{place}");
        let told: Vec<_> = events(&shop, "schedule.ran")
            .into_iter()
            .map(|event| (event.job, event.detail["at"].as_u64()))
            .collect();
        let wanted: Vec<_> = (1..=minute)
            .map(|minute| Some(NOON + minute * MINUTE))
            .zip(made(&shop))
            .map(|(at, job)| (Some(job.id), at))
            .collect();
        assert_eq!(
            told, wanted,
            "{place}: no job without its time, no time without its job"
        );
        leave(shop).await;
    }
    let shop = next(&state, &mark).await;
    shop.host.stage.await_none("after the jobs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_hosts_are_killed_each_time_has_one_job() {
    let (_dir, state, mark) = minutely().await;
    let mut random = crate::random::Random::new(std::process::id().into());
    const TIMES: u64 = 12;
    let ledger = state.join("ledger.db");
    for minute in 1..=TIMES {
        let mut child = host(&state, &mark, None);
        is_there(&state, &child).await;
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
    // What is being closed cannot be handed over.
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
