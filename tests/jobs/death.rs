//! Hosts that are killed with SIGKILL in the middle of jobs, or taken over, and the next one.
//!
//! The host that dies is this program again, told by its environment to run [`the_host_that_dies`].

use std::path::Path;
use std::time::Duration;

use hostler_job::Job;
use hostler_ledger::{JobEnd, StepRunState};
use hostler_session::OnHostExit;
use serde_json::json;

use crate::place::{Place, next};
use crate::support::*;

/// Goes on with the jobs that there are, and makes one where it is told which; cancels it where it is told to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other tests"]
async fn the_host_that_dies() {
    let Ok(dir) = std::env::var("HOSTLER_TEST_HOST") else {
        return;
    };
    let mark = std::env::var("HOSTLER_TEST_MARK").expect("a mark");
    let shop = next(Path::new(&dir), &mark).await;
    if let Ok(flow) = std::env::var("HOSTLER_TEST_FLOW") {
        let mut new = shop.job(&flow);
        new.cwd = Path::new(&dir).parent().expect("its place").to_owned();
        if std::env::var_os("HOSTLER_TEST_KEEP").is_some() {
            new.policy.on_host_exit = OnHostExit::Keep;
        }
        let job = shop.jobs.create(new, by()).await.expect("a job");
        eprintln!("job {}", job.id());
    }
    eprintln!("ready");
    if std::env::var_os("HOSTLER_TEST_CANCEL").is_some() {
        let job = shop
            .jobs
            .live()
            .into_iter()
            .find(|job| job.parent().is_none());
        let job = job.expect("a job");
        until_state(&shop, &job, "held", StepRunState::Running).await;
        eprintln!("cancelling");
        let _ = job.cancel(by()).await;
    }
    // Until all has ended: then it says so.
    loop {
        let live = shop.jobs.live();
        let Some(job) = live.first() else { break };
        let _ = job.wait().await;
    }
    eprintln!("over");
    std::future::pending::<()>().await;
}

fn only(shop: &Shop) -> Job {
    let live = shop.jobs.live();
    let mut top = live.into_iter().filter(|job| job.parent().is_none());
    top.next().expect("a job that goes on")
}

const THREE: &str = "
name: x
steps:
  a: { command: 'echo a >> order' }
  b: { after: a, command: 'echo begin >> order; until test -e go; do sleep 0.01; done; echo b >> order; echo $$' MORE }
  c: { after: b, command: 'echo c >> order' }
outputs: { pid: b.stdout }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_kept_is_picked_up_and_finished_steps_are_not_run_again() {
    let place = Place::new();
    let mut host = place.host(Some(&THREE.replace("MORE", "")), &["HOSTLER_TEST_KEEP"]);
    host.says("ready");
    until("b has begun", || place.lines("order").len() == 2).await;
    host.kill();
    // Twice, and the second one as soon as it goes on.
    let mut host = place.host(None, &[]);
    host.says("ready");
    host.kill();
    let shop = place.next().await;
    let job = only(&shop);
    place.write("go");
    let status = soon("it ends", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(place.lines("order"), ["a", "begin", "b", "c"]);
    shop.nothing_left(&job).await;
    shop.host.stage.await_none("after the job").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_ended_with_the_host_is_made_again_or_has_failed() {
    for (more, order, end) in [
        (
            "",
            vec!["a", "begin", "begin", "b", "c"],
            (JobEnd::Completed, "completed"),
        ),
        (
            ", interrupted: fail",
            vec!["a", "begin"],
            (JobEnd::Failed, "step_failed"),
        ),
        (
            ", interrupted: fail, retry: { times: 1, backoff: 1ms }",
            vec!["a", "begin", "begin", "b", "c"],
            (JobEnd::Completed, "completed"),
        ),
    ] {
        let place = Place::new();
        let mut host = place.host(Some(&THREE.replace(" MORE", more)), &[]);
        host.says("ready");
        until("b has begun", || place.lines("order").len() == 2).await;
        host.kill();
        let shop = place.next().await;
        let id = shop.newest();
        if let Some(job) = shop.jobs.live().into_iter().next() {
            place.write("go");
            let status = soon("it ends", job.wait()).await.expect("its status");
            is(&status, end.0, end.1);
            shop.nothing_left(&job).await;
        }
        let now = shop.jobs.summary(id.as_str()).expect("its record");
        assert_eq!(now.state.as_str(), end.0.as_str());
        assert_eq!(place.lines("order"), order);
        shop.host.stage.await_none("after the job").await;
    }
}

const AGENTS: &str = "
name: x
steps:
  a: { agent: { name: peer, prompt: stream 3 }, session: work }
  b: { after: a, agent: { name: peer, prompt: 'slow 100 30' }, session: work }
  mark: { after: a, command: 'sleep 0.3; echo in >> order' }
  c: { after: b, agent: { name: peer, prompt: stream 2 }, session: work }
outputs: { a: a.text, b: b.text, c: c.text }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_goes_on_where_it_was_kept_and_is_cleanly_made_again_where_not() {
    for keep in [true, false] {
        let place = Place::new();
        let more: &[&str] = if keep { &["HOSTLER_TEST_KEEP"] } else { &[] };
        let mut host = place.host(Some(AGENTS), more);
        host.says("ready");
        until("b is in its turn", || !place.lines("order").is_empty()).await;
        host.kill();
        let shop = place.next().await;
        let job = only(&shop);
        let status = soon("it ends", job.wait()).await.expect("its status");
        is(&status, JobEnd::Completed, "completed");
        let hundred: String = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(
            outputs(&status),
            json!({ "a": "012", "b": hundred, "c": "01" })
        );
        let rows = shop.rows(&job);
        let of_b = rows.iter().filter(|row| row.step == "b").count();
        assert_eq!(of_b, if keep { 1 } else { 2 }, "{rows:?}");
        let conversation = |step: &str| {
            let row = rows.iter().rfind(|row| row.step == step).expect("a run");
            row.detail["agent"]["conversation"].clone()
        };
        assert_eq!(conversation("a") == conversation("c"), keep);
        shop.nothing_left(&job).await;
        shop.host.stage.await_none("after the job").await;
        assert!(shop.host.stage.sessions.list().is_empty());
    }
}

const MANY: &str = "
name: many
steps:
  list: { command: { run: 'sleep 0.05; echo list >> order; echo \"{\\\"all\\\": [1, 2, 3, 4]}\"', stdout: json }, outputs: { all: { items: integer } } }
  each:
    for_each: { in: list.all, parallel: 2 }
    inputs: { n: $item }
    command: 'sleep 0.1; echo each $n >> order'
  again:
    after: list
    command: 'sleep 0.05; echo again >> order; exit 0'
    exits:
      - { name: loop, when: attempt < 3, action: loop, target: again, max_iterations: 5 }
      - { name: on, action: advance }
  below: { after: list, flow: below.yaml }
  last: { after: [each, again, below], command: 'sleep 0.05; echo last >> order' }
outputs: { each: each.exit_code }
";

const BELOW: &str = "
name: below
steps:
  one: { command: 'sleep 0.1; echo one >> order' }
  two: { after: one, command: 'sleep 0.1; echo two >> order' }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whenever_its_hosts_are_killed_each_step_is_done_once() {
    let mut random = crate::random::Random::new(std::process::id().into());
    for round in 0..4 {
        let place = Place::new();
        std::fs::write(place.file("below.yaml"), BELOW).expect("written");
        let mut host = place.host(Some(MANY), &["HOSTLER_TEST_KEEP"]);
        host.says("ready");
        let mut kills = 0;
        while kills < 5 {
            tokio::time::sleep(Duration::from_millis(random.below(250))).await;
            host.kill();
            kills += 1;
            host = place.host(None, &[]);
            host.says("ready");
        }
        tokio::task::spawn_blocking(move || {
            host.says("over");
            host.kill();
        })
        .await
        .expect("it ends");
        let shop = place.next().await;
        let id = shop.newest_of("many");
        let (record, runs) = shop.jobs.record(id.as_str()).expect("its record");
        let mut order = place.lines("order");
        order.sort();
        let wanted = [
            "again", "again", "again", "each 1", "each 2", "each 3", "each 4", "last", "list",
            "one", "two",
        ];
        if record.summary.state.as_str() != "completed" || order != wanted {
            let ledger = shop.host.stage.sessions.ledger();
            let all = ledger
                .events(hostler_ledger::Seq::START, 10_000, &Default::default())
                .expect("events");
            for event in all {
                eprintln!("{event:?}");
            }
        }
        assert_eq!(
            record.summary.state.as_str(),
            "completed",
            "{round}: {} {runs:#?}",
            record.summary.why
        );
        assert!(runs.iter().all(|run| run.state.is_ended()));
        assert_eq!(order, wanted, "{round}: {runs:#?}");
        shop.host.stage.await_none("after the job").await;
        assert!(shop.host.stage.sessions.list().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_while_it_ends_a_job_leaves_the_rest_to_the_next() {
    let flow = "name: x\nsteps:\n  held: { command: 'setsid sleep 1000 & sleep 1000' }\n  agent: { agent: { name: peer, prompt: child } }\n  turn: { after: agent, agent: { name: peer, prompt: wait } }\n";
    for step in 0..10u64 {
        let place = Place::new();
        let mut host = place.host(Some(flow), &["HOSTLER_TEST_KEEP", "HOSTLER_TEST_CANCEL"]);
        host.says("cancelling");
        tokio::time::sleep(Duration::from_millis(step * step / 2)).await;
        host.kill();
        let shop = place.next().await;
        // Either it was cancelled, or it goes on and can be.
        for job in shop.jobs.live() {
            let _ = soon("cancelled", job.cancel(by())).await;
        }
        let (record, runs) = shop
            .jobs
            .record(shop.newest().as_str())
            .expect("its record");
        assert_eq!(record.summary.state.as_str(), "cancelled");
        assert!(runs.iter().all(|run| run.state.is_ended()), "{runs:?}");
        assert!(
            shop.host
                .stage
                .sessions
                .ledger()
                .leases(None)
                .expect("leases")
                .is_empty()
        );
        shop.host.stage.await_none("after the job").await;
        until("its sessions are closed", || {
            shop.host.stage.sessions.list().is_empty()
        })
        .await;
    }
}

const ALL: &str = "
name: x
steps:
  cmd: { command: 'echo in >> cmds; until test -e go; do sleep 0.01; done; echo $$' }
  turn: { agent: { name: peer, prompt: 'slow 60 30' } }
  work: { agent: { name: peer, prompt: stream 2 }, session: work }
  ask: { input: What? }
  sleep: { sleep: 1s }
  poll: { poll: { run: 'echo tried >> tries; test -e go', every: 20ms } }
  small: { command: 'echo in >> smalls; until test -e go; do sleep 0.01; done; cat', limits: { memory: 100M } }
  fed: { command: { run: 'echo in >> feds; until test -e go; do sleep 0.01; done; wc -c', stdin: 'some words' } }
  below: { flow: below.yaml }
  more: { after: ask, agent: { name: peer, prompt: stream 3 }, session: work }
outputs: { turn: turn.text, ask: ask.answer, more: more.text, fed: fed.stdout }
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_is_not_noticed_by_a_job() {
    let place = Place::new();
    std::fs::write(
        place.file("below.yaml"),
        "name: below\nsteps:\n  one: { command: 'echo in >> belows; until test -e go; do sleep 0.01; done' }\n",
    )
    .expect("written");
    let shop = place.next().await;
    let mut new = shop.job(ALL);
    new.cwd = place.dir.path().to_owned();
    let job = shop.jobs.create(new, by()).await.expect("a job");
    until_state(&shop, &job, "work", StepRunState::Completed).await;
    for step in ["turn", "small", "fed", "poll"] {
        until_state(&shop, &job, step, StepRunState::Running).await;
    }
    until("they have begun", || {
        let begun = |name: &str| !place.lines(name).is_empty();
        let all = ["cmds", "smalls", "feds", "tries", "belows"];
        all.into_iter().all(begun)
    })
    .await;
    until("what it reads is written", || {
        shop.rows(&job).iter().any(|row| row.detail["fed"] == true)
    })
    .await;
    let id = job.id().clone();
    let before = shop.rows(&job).len();
    shop.jobs.hand_over().await;
    shop.host.agents.hand_over().await;
    let failed = shop
        .host
        .stage
        .sessions
        .hand_over(Duration::from_secs(30))
        .await;
    assert!(failed.is_empty(), "{failed:?}");
    assert!(soon("it is left", job.wait()).await.is_err());
    drop(job);
    drop(shop);
    let shop = place.next().await;
    let job = shop.jobs.get(id.as_str()).expect("it goes on");
    assert_eq!(shop.rows(&job).len(), before, "nothing is made again");
    until("it asks again", || {
        !job.live().is_empty() && job.live().values().any(|known| known.contains_key("asks"))
    })
    .await;
    let answer = json!({ "answer": "this" })
        .as_object()
        .expect("an object")
        .clone();
    job.answer(None, answer, by()).await.expect("answered");
    place.write("go");
    let status = soon("it ends", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    let sixty: String = (0..60).map(|n| n.to_string()).collect();
    assert_eq!(
        outputs(&status),
        json!({ "turn": sixty, "ask": "this", "more": "012", "fed": "10\n" })
    );
    let rows = shop.rows(&job);
    let conversation = |step: &str| {
        let row = rows.iter().find(|row| row.step == step).expect("a run");
        row.detail["agent"]["conversation"].clone()
    };
    assert_eq!(
        conversation("work"),
        conversation("more"),
        "its context is kept"
    );
    for once in ["cmds", "smalls", "feds", "belows"] {
        assert_eq!(place.lines(once), ["in"], "it is not started twice");
    }
    assert_eq!(rows.len(), before + 1);
    shop.nothing_left(&job).await;
    shop.host.stage.await_none("after the job").await;
    until("no session is left", || {
        shop.host.stage.sessions.list().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_only_labelled_as_a_jobs_is_not_touched() {
    let place = Place::new();
    let shop = place.next().await;
    let labels = [
        json!({ "job": "nightly" }),
        json!({ "pool": "mine" }),
        json!({ "dev.hostler/job": "j-nobody00" }),
    ];
    let mut others = Vec::new();
    for labels in labels {
        let opened = shop.host.stage.open_with(|options| options.labels = labels);
        others.push(opened.await.id().clone());
    }
    shop.jobs.hand_over().await;
    shop.host.agents.hand_over().await;
    let wait = Duration::from_secs(30);
    let failed = shop.host.stage.sessions.hand_over(wait).await;
    assert!(failed.is_empty(), "{failed:?}");
    drop(shop);
    let shop = place.next().await;
    // What would close them has begun by the time that another job is over.
    let (_, status) = shop
        .run("name: x\nsteps: { a: { command: 'true' } }\n")
        .await;
    is(&status, JobEnd::Completed, "completed");
    for id in others {
        let session = shop
            .host
            .stage
            .sessions
            .get(id.as_str())
            .expect("it is there");
        assert!(session.state().is_open());
        let reason = hostler_session::CloseReason::Client;
        let report = session.close(reason, by(), None).await.expect("closed");
        assert_eq!(report.remaining, 0);
    }
}
