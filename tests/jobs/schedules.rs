//! Jobs by the clock, which the tests set.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hostler_agent::PoolOptions;
use hostler_job::{
    Clock, Error, Jobs, JobsOptions, NewSchedule, ScheduleChange, ScheduleOptions, Scheduled,
    ScheduledFlow,
};
use hostler_ledger::{
    Event, EventFilter, JobEnd, JobFilter, JobOrigin, JobSummary, Overlap, ScheduleRecord,
    ScheduledFor, Seq, StepRunState, Which,
};

use crate::support::*;

const HOUR: u64 = 3_600_000;
/// 2026-01-01 12:00 UTC, in milliseconds.
pub(crate) const NOON: u64 = 1_767_268_800_000;
pub(crate) const SHORT: &str = "name: short\nsteps: { a: { command: 'echo a >> order' } }\n";
const LONG: &str = "name: long\nsteps: { held: { command: 'setsid sleep 1000 & sleep 1000' } }\n";

/// A host whose clock is set by hand.
struct Hand {
    shop: Shop,
    clock: Arc<AtomicU64>,
}

impl Hand {
    fn new() -> Self {
        Self::on(Shop::new())
    }

    fn on(mut shop: Shop) -> Self {
        let clock = Arc::new(AtomicU64::new(NOON));
        let read = clock.clone();
        shop.jobs = jobs(&shop, move || read.load(Ordering::SeqCst));
        shop.jobs.schedules().begin();
        Self { shop, clock }
    }

    fn set_clock(&self, time: u64) {
        self.clock.store(time, Ordering::SeqCst);
        self.shop.jobs.schedules().look();
    }

    fn new_schedule(&self, name: &str, cron: &str, flow: ScheduledFlow) -> NewSchedule {
        NewSchedule {
            name: name.to_owned(),
            cron: cron.to_owned(),
            zone: Some("UTC".into()),
            what: what(&self.shop, flow, self.shop.host.stage.dir.clone()),
            overlap: Overlap::default(),
            enabled: true,
        }
    }

    /// A schedule that is due each hour.
    async fn hourly(&self, flow: &str, overlap: Overlap) -> ScheduleRecord {
        let flow = ScheduledFlow::Flow(flow.to_owned());
        let new = NewSchedule {
            overlap,
            ..self.new_schedule("hourly", "@hourly", flow)
        };
        let set = self.shop.jobs.schedules().set(new, by()).await;
        set.expect("it is set")
    }

    fn is(&self) -> ScheduleRecord {
        self.shop
            .jobs
            .schedules()
            .get("hourly")
            .expect("it is there")
    }

    /// Waits until this time was dealt with.
    async fn dealt_with(&self, at: u64) -> ScheduleRecord {
        let what = format!("{at} is dealt with");
        until(&what, || self.is().last_at == Some(at)).await;
        self.is()
    }

    fn made(&self) -> Vec<JobSummary> {
        made(&self.shop)
    }

    /// All that is being made is there, and nothing more is.
    async fn settled(&self) -> Vec<JobSummary> {
        self.shop.jobs.stop(|_| false, by()).await;
        self.made()
    }
}

pub(crate) fn jobs(shop: &Shop, read: impl Fn() -> u64 + Send + Sync + 'static) -> Jobs {
    let schedules = ScheduleOptions {
        clock: Clock::new(read),
        ..ScheduleOptions::default()
    };
    let pool = PoolOptions::default();
    Jobs::new(shop.host.agents.clone(), JobsOptions { pool, schedules })
}

pub(crate) fn what(shop: &Shop, flow: ScheduledFlow, cwd: PathBuf) -> Scheduled {
    Scheduled {
        flow,
        inputs: BTreeMap::new(),
        cwd,
        group: Some("nightly".into()),
        policy: shop.job("").policy,
        make_up: true,
        about: serde_json::Value::Null,
    }
}

/// All jobs, the oldest first.
pub(crate) fn made(shop: &Shop) -> Vec<JobSummary> {
    let filter = JobFilter {
        which: Which::All,
        ..JobFilter::default()
    };
    let mut made = shop.jobs.list(&filter).expect("jobs");
    made.reverse();
    made
}

pub(crate) fn events(shop: &Shop, kind: &str) -> Vec<Event> {
    let filter = EventFilter {
        kind: Some(kind.to_owned()),
        ..EventFilter::default()
    };
    let ledger = shop.host.stage.sessions.ledger();
    ledger.events(Seq::START, 1000, &filter).expect("events")
}

/// For what its jobs were made.
fn runs(hand: &Hand) -> Vec<ScheduledFor> {
    let ledger = hand.shop.host.stage.sessions.ledger();
    let jobs = ledger.scheduled_jobs("hourly", None, 100).expect("jobs");
    let scheduled = |job: &JobSummary| job.origin.scheduled().cloned();
    jobs.iter().filter_map(scheduled).collect()
}

/// What is due after the hour, half an hour late, where that is not to be made up for; and what is run by hand only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_to_be_made_up_for_is_not_and_never_is_never() {
    let hand = Hand::new();
    let schedules = hand.shop.jobs.schedules();
    let flow = ScheduledFlow::Flow(SHORT.to_owned());
    let mut new = hand.new_schedule("hourly", "@hourly", flow);
    new.what.make_up = false;
    let again = new.clone();
    schedules.create(new, by()).await.expect("it is set");
    let taken = schedules.create(again, by()).await;
    assert!(matches!(taken, Err(Error::Conflict(_))), "{taken:?}");
    hand.set_clock(NOON + HOUR + HOUR / 2);
    let is = hand.dealt_with(NOON + HOUR).await;
    assert_eq!(code(&is), "missed");
    let never = ScheduleChange {
        cron: Some("@never".into()),
        ..ScheduleChange::default()
    };
    let set = schedules.change("hourly", never, by()).await;
    let set = set.expect("changed");
    assert!(set.row.enabled && set.row.next_at.is_none());
    hand.set_clock(NOON + 400 * 24 * HOUR);
    // By one name it is run once, whoever asks, and when.
    let (one, two) = tokio::join!(
        schedules.run_once("hourly", "r", by()),
        schedules.run_once("hourly", "r", by()),
    );
    let one = one.expect("a job");
    assert_eq!(two.expect("the job"), one);
    if let Ok(job) = hand.shop.jobs.get(one.as_str()) {
        soon("it ends", job.wait()).await.expect("its status");
    }
    let three = schedules.run_once("hourly", "r", by()).await;
    assert_eq!(three.expect("the job"), one);
    let other = schedules.run_once("hourly", "s", by()).await;
    assert_ne!(other.expect("another"), one);
    assert_eq!(hand.settled().await.len(), 2);
    assert!(runs(&hand).iter().all(|run| run.due.is_none()));
}

fn code(record: &ScheduleRecord) -> String {
    let skipped = record.skipped.clone().unwrap_or_default();
    skipped["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_made_at_each_time_once_and_the_file_is_read_then() {
    let hand = Hand::new();
    let file = hand.shop.host.stage.dir.join("flow.yaml");
    std::fs::write(&file, SHORT).expect("written");
    let flow = ScheduledFlow::File(file.clone());
    let new = NewSchedule {
        overlap: Overlap::Allow,
        ..hand.new_schedule("hourly", "0 * * * *", flow)
    };
    let schedules = hand.shop.jobs.schedules();
    let set = schedules.set(new, by()).await.expect("it is set");
    assert_eq!(set.row.next_at, Some(NOON + HOUR), "not at once");
    hand.set_clock(NOON + HOUR - 1);
    hand.set_clock(NOON + HOUR + 3);
    let one = hand.dealt_with(NOON + HOUR).await;
    assert_eq!(one.row.next_at, Some(NOON + 2 * HOUR));
    let other = SHORT.replace("short", "other");
    std::fs::write(&file, other).expect("written");
    hand.set_clock(NOON + 2 * HOUR);
    let two = hand.dealt_with(NOON + 2 * HOUR).await;
    assert_ne!(one.last_job, two.last_job);
    for _ in 0..50 {
        schedules.look();
        tokio::task::yield_now().await;
    }
    let made = hand.settled().await;
    let names: Vec<&str> = made.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["short", "other"]);
    assert_eq!(made[0].group.as_deref(), Some("nightly"));
    let JobOrigin::Schedule(of) = &made[0].origin else {
        panic!("{:?}", made[0].origin);
    };
    assert_eq!(of.schedule, "hourly");
    assert_eq!(Some(&made[1].id), two.last_job.as_ref());
    let of = runs(&hand);
    let for_what: Vec<_> = of.iter().map(|run| (run.due, run.late)).collect();
    let wanted = [(Some(NOON + 2 * HOUR), false), (Some(NOON + HOUR), false)];
    assert_eq!(for_what, wanted, "the newest first");
    let ran = events(&hand.shop, "schedule.ran");
    let at: Vec<u64> = ran
        .iter()
        .filter_map(|one| one.detail["at"].as_u64())
        .collect();
    assert_eq!(at, [NOON + HOUR, NOON + 2 * HOUR]);
    hand.shop.host.stage.await_none("after the jobs").await;
}

/// Who asks twice does not cancel what was made the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_request_there_is_one_job_also_where_the_next_cancels_the_last() {
    let hand = Hand::new();
    hand.hourly(LONG, Overlap::Cancel).await;
    let schedules = hand.shop.jobs.schedules();
    for round in ["r", "s"] {
        let asks = (0..8).map(|_| schedules.run_once("hourly", round, by()));
        let made = futures_util::future::join_all(asks).await;
        let made: Vec<_> = made.into_iter().map(|made| made.expect("a job")).collect();
        assert!(made.iter().all(|job| *job == made[0]), "{made:?}");
        let job = hand.shop.jobs.get(made[0].as_str()).expect("it runs");
        until_state(&hand.shop, &job, "held", StepRunState::Running).await;
    }
    let last = hand.is().last_job.expect("a job");
    let last = hand.shop.jobs.get(last.as_str()).expect("it runs");
    last.cancel(by()).await.expect("cancelled");
    hand.settled().await;
    hand.shop.host.stage.await_none("after the jobs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_job_of_the_time_before_is_waited_for_left_alone_or_cancelled() {
    for overlap in [Overlap::Skip, Overlap::Allow, Overlap::Cancel] {
        let hand = Hand::new();
        hand.hourly(LONG, overlap).await;
        hand.set_clock(NOON + HOUR);
        let first = hand.dealt_with(NOON + HOUR).await.last_job.expect("a job");
        // It is in the ledger a moment before it is among those that run.
        let get = || hand.shop.jobs.get(first.as_str());
        until("it runs", || get().is_ok()).await;
        let first = get().expect("it runs");
        until_state(&hand.shop, &first, "held", StepRunState::Running).await;
        hand.set_clock(NOON + 2 * HOUR);
        let is = hand.dealt_with(NOON + 2 * HOUR).await;
        let status = first.status();
        match overlap {
            Overlap::Skip => {
                assert_eq!(code(&is), "overlap");
                assert_eq!(is.last_job.as_ref(), Some(first.id()));
                assert!(!status.state.is_ended());
                let run = hand.shop.jobs.schedules().run("hourly", by()).await;
                assert!(matches!(run, Err(Error::Conflict(_))), "{run:?}");
                // Once it has ended, the next time is as any other.
                first.cancel(by()).await.expect("cancelled");
                hand.set_clock(NOON + 3 * HOUR);
                let is = hand.dealt_with(NOON + 3 * HOUR).await;
                assert_eq!((is.skipped.clone(), hand.made().len()), (None, 2));
            }
            Overlap::Allow => {
                assert_eq!((is.skipped, hand.made().len()), (None, 2));
                assert!(!status.state.is_ended());
            }
            Overlap::Cancel => {
                assert_eq!((is.skipped, hand.made().len()), (None, 2));
                crate::support::is(&status, JobEnd::Cancelled, "cancelled");
                hand.shop.nothing_left(&first).await;
            }
        }
        hand.settled().await;
        hand.shop.host.stage.await_none("after the jobs").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_that_is_wrong_when_it_is_due_is_skipped_and_the_schedule_stays() {
    let hand = Hand::new();
    let file = hand.shop.host.stage.dir.join("flow.yaml");
    std::fs::write(&file, SHORT).expect("written");
    let new = NewSchedule {
        overlap: Overlap::Cancel,
        ..hand.new_schedule("hourly", "@hourly", ScheduledFlow::File(file.clone()))
    };
    hand.shop
        .jobs
        .schedules()
        .set(new, by())
        .await
        .expect("set");
    let wrong = "name: x\nsteps: { a: { command: make, after: z } }\n";
    std::fs::write(&file, wrong).expect("written");
    hand.set_clock(NOON + HOUR);
    let is = hand.dealt_with(NOON + HOUR).await;
    assert_eq!(code(&is), "bad_flow");
    std::fs::write(
        &file,
        "name: x\ninputs: { who: string }\nsteps: { a: { sleep: 1 } }\n",
    )
    .expect("written");
    hand.set_clock(NOON + 2 * HOUR);
    assert_eq!(code(&hand.dealt_with(NOON + 2 * HOUR).await), "wrong_input");
    std::fs::remove_file(&file).expect("removed");
    hand.set_clock(NOON + 3 * HOUR);
    assert_eq!(code(&hand.dealt_with(NOON + 3 * HOUR).await), "bad_flow");
    let told = events(&hand.shop, "schedule.skipped");
    assert_eq!(told.len(), 3);
    let why = told[0].detail["why"]["message"].as_str().expect("why");
    assert!(why.contains("there is no step `z`"), "{why}");
    assert_eq!(hand.made(), []);
    std::fs::write(&file, SHORT).expect("written");
    hand.set_clock(NOON + 4 * HOUR);
    let is = hand.dealt_with(NOON + 4 * HOUR).await;
    assert_eq!((is.skipped, hand.settled().await.len()), (None, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_times_that_have_gone_by_the_last_is_made_up_for_unless_it_is_too_long_ago() {
    let hand = Hand::new();
    hand.hourly(SHORT, Overlap::Skip).await;
    // Five have gone by, the last of them half an hour ago.
    hand.set_clock(NOON + 5 * HOUR + HOUR / 2);
    let is = hand.dealt_with(NOON + 5 * HOUR).await;
    assert_eq!((is.skipped, is.row.next_at), (None, Some(NOON + 6 * HOUR)));
    assert_eq!(hand.made().len(), 1);
    let made_up = (runs(&hand)[0].due, runs(&hand)[0].late);
    assert_eq!(made_up, (Some(NOON + 5 * HOUR), true));
    let job = hand.shop.jobs.get(is.last_job.expect("a job").as_str());
    if let Ok(job) = job {
        soon("it ends", job.wait()).await.expect("its status");
    }
    // Once a day, and three hours ago.
    let daily = ScheduleChange {
        cron: Some("0 0 * * *".into()),
        ..ScheduleChange::default()
    };
    let schedules = hand.shop.jobs.schedules();
    schedules
        .change("hourly", daily, by())
        .await
        .expect("changed");
    hand.set_clock(NOON + 15 * HOUR);
    let is = hand.dealt_with(NOON + 12 * HOUR).await;
    assert_eq!(
        (code(&is).as_str(), is.row.next_at),
        ("missed", Some(NOON + 36 * HOUR))
    );
    assert_eq!(hand.settled().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_back_makes_nothing_twice_and_far_back_begins_anew() {
    let hand = Hand::new();
    hand.hourly(SHORT, Overlap::Allow).await;
    hand.set_clock(NOON + HOUR);
    hand.dealt_with(NOON + HOUR).await;
    hand.set_clock(NOON + HOUR / 2);
    hand.set_clock(NOON + HOUR + 1);
    hand.set_clock(NOON + 2 * HOUR);
    hand.dealt_with(NOON + 2 * HOUR).await;
    assert_eq!(hand.made().len(), 2);
    assert_eq!(events(&hand.shop, "schedule.armed"), []);
    hand.set_clock(NOON - 48 * HOUR);
    let next = Some(NOON - 47 * HOUR);
    until("it is due by the new clock", || {
        hand.is().row.next_at == next
    })
    .await;
    hand.set_clock(NOON - 47 * HOUR);
    hand.dealt_with(NOON - 47 * HOUR).await;
    assert_eq!(events(&hand.shop, "schedule.armed").len(), 1);
    assert_eq!(hand.settled().await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_disabled_or_removed_is_not_due_and_by_hand_it_is_run_all_the_same() {
    let hand = Hand::new();
    hand.hourly(SHORT, Overlap::Skip).await;
    let schedules = hand.shop.jobs.schedules();
    let enabled = |enabled| ScheduleChange {
        enabled: Some(enabled),
        ..ScheduleChange::default()
    };
    let off = schedules.change("hourly", enabled(false), by()).await;
    assert_eq!(off.expect("changed").row.next_at, None);
    let job = schedules.run("hourly", by()).await.expect("a job");
    let status = soon("it ends", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    hand.set_clock(NOON + 3 * HOUR / 2);
    assert_eq!(hand.is().last_job.as_ref(), Some(job.id()));
    let on = schedules.change("hourly", enabled(true), by()).await;
    let next = Some(NOON + 2 * HOUR);
    assert_eq!(
        on.expect("changed").row.next_at,
        next,
        "nothing is made up for"
    );
    schedules.run("hourly", by()).await.expect("a job");
    assert_eq!(hand.is().row.next_at, next, "it is due when it was");
    schedules.remove("hourly", by()).await.expect("removed");
    hand.set_clock(NOON + 2 * HOUR);
    let none = Error::NoSchedule("hourly".into()).to_string();
    for gone in [
        schedules.remove("hourly", by()).await.expect_err("gone"),
        schedules.run("hourly", by()).await.expect_err("gone"),
        schedules
            .change("hourly", enabled(true), by())
            .await
            .expect_err("gone"),
    ] {
        assert_eq!(gone.to_string(), none);
    }
    assert_eq!(hand.settled().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_refused_and_nothing_is_set() {
    let hand = Hand::new();
    let flow = || ScheduledFlow::Flow(SHORT.into());
    let good = || hand.new_schedule("x", "@daily", flow());
    let wrong = ScheduledFlow::Flow(SHORT.replace("command", "comand"));
    let mut astray = good();
    astray.what.cwd = "/nowhere/at/all".into();
    let zone = Some("Mars".to_owned());
    for (new, words) in [
        (hand.new_schedule("", "@daily", flow()), "a name of"),
        (hand.new_schedule("a/b", "@daily", flow()), "a name of"),
        (hand.new_schedule("x", "* * *", flow()), "five fields"),
        (hand.new_schedule("x", "0 0 31 feb *", flow()), "never due"),
        (hand.new_schedule("x", "@daily", wrong), "comand"),
        (NewSchedule { zone, ..good() }, "`Mars`"),
        (astray, "/nowhere/at/all"),
    ] {
        let error = hand.shop.jobs.schedules().set(new, by()).await;
        let error = error.expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert_eq!(hand.shop.jobs.schedules().list().expect("list"), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stops_or_hands_over_makes_no_more() {
    for stops in [true, false] {
        let hand = Hand::new();
        hand.hourly(LONG, Overlap::Cancel).await;
        hand.set_clock(NOON + HOUR);
        hand.dealt_with(NOON + HOUR).await;
        // In the middle of making the next one, whichever is first.
        hand.set_clock(NOON + 2 * HOUR);
        match stops {
            true => hand.shop.jobs.stop(|_| false, by()).await,
            false => hand.shop.jobs.hand_over().await,
        }
        let then = (hand.made().len(), hand.is());
        hand.set_clock(NOON + 3 * HOUR);
        let run = hand.shop.jobs.schedules().run("hourly", by()).await;
        assert!(matches!(run, Err(Error::Stopping)), "{run:?}");
        assert_eq!((hand.made().len(), hand.is()), then);
        // One for each time that was dealt with.
        assert_eq!(then.0, events(&hand.shop, "schedule.ran").len());
        if !stops {
            // The next one goes on, with the last time that has gone by.
            let next = hand.shop;
            let next = Hand::on(next);
            next.shop.jobs.recover().await.expect("recovered");
            next.set_clock(NOON + 3 * HOUR);
            next.dealt_with(NOON + 3 * HOUR).await;
            assert_eq!(next.settled().await.len(), then.0 + 1);
            next.shop.host.stage.await_none("after the jobs").await;
        }
    }
}
