//! Every way in which a job can end, with commands, agents and shared agents in flight: nothing of it is left, and the job beside
//! it, which shares its agents, is not touched.

use std::path::Path;
use std::time::{Duration, Instant};

use hostler_agent::PoolOptions;
use hostler_job::{Error, Job, JobStatus};
use hostler_ledger::{JobEnd, StepRunState};

use crate::support::*;

/// What is in flight: a wrapper with a child, one that has escaped, an agent of its own, one whose conversation is shared.
const HELD: &str = r#"
  cmd:
    command: 'setsid sleep 1000 & sh -c "sleep 1000; :"; :'
  agent:
    agent: { name: peer, prompt: "child" }
  turn:
    after: agent
    agent: { name: peer, prompt: wait }
  shared:
    agent: { name: peer, prompt: wait }
    session: work
  below:
    flow: below.yaml
"#;

const BELOW: &str = r#"
name: below
steps:
  cmd: { command: 'setsid sleep 1000 & sleep 1000' }
  agent: { agent: { name: peer, prompt: wait } }
"#;

/// What the job beside it does.
const BESIDE: &str = r#"
name: beside
steps:
  a: { agent: { name: peer, prompt: "stream 3" } }
  wait: { after: a, command: 'until test -e done; do sleep 0.02; done' }
  b: { after: wait, agent: { name: peer, prompt: "stream 3" } }
outputs: { a: a.text, b: b.text }
"#;

/// Waits for `go`, and then does this.
fn trigger(then: &str, more: &str) -> String {
    format!("  trigger:\n    command: 'until test -e go; do sleep 0.01; done; {then}'\n{more}")
}

/// Who ends it.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    /// Its own steps do.
    Go,
    Cancel,
    CancelTwice,
    PausedThenCancel,
    EscalatedThenCancel,
    Delete,
    KillAgents,
    CloseSession,
    Stop,
}

struct Way {
    name: &'static str,
    head: &'static str,
    trigger: String,
    act: Act,
    end: JobEnd,
    code: &'static str,
}

fn ways() -> Vec<Way> {
    let way = |name, head, trigger, act, end, code| Way {
        name,
        head,
        trigger,
        act,
        end,
        code,
    };
    let exits = |rule: &str| format!("    exits: [{rule}]\n");
    let (failed, cancelled) = (JobEnd::Failed, JobEnd::Cancelled);
    vec![
        way(
            "a step fails",
            "",
            trigger("exit 7", ""),
            Act::Go,
            failed,
            "step_failed",
        ),
        way(
            "abandoned on success",
            "",
            trigger(":", &exits("{ name: no, action: abandon }")),
            Act::Go,
            failed,
            "abandoned",
        ),
        way(
            "abandoned on failure",
            "",
            trigger(
                "exit 7",
                &exits("{ name: no, when: error != null, action: abandon }"),
            ),
            Act::Go,
            failed,
            "abandoned",
        ),
        way(
            "no exit holds",
            "",
            trigger(":", &exits("{ name: no, when: 1 == 2, action: advance }")),
            Act::Go,
            failed,
            "step_failed",
        ),
        way(
            "an expression fails",
            "",
            trigger(
                ":",
                &exits("{ name: no, when: 1 / 0 == 2, action: advance }"),
            ),
            Act::Go,
            failed,
            "step_failed",
        ),
        way(
            "loop limit",
            "",
            trigger(
                ":",
                &exits(
                    "{ name: again, when: attempt > 0, action: loop, target: trigger, max_iterations: 2 }",
                ),
            ),
            Act::Go,
            failed,
            "loop_limit",
        ),
        way(
            "time limit",
            "limits: { time: 1500ms }\n",
            trigger("sleep 1000", ""),
            Act::Go,
            failed,
            "timeout",
        ),
        way(
            "cancelled",
            "",
            trigger("sleep 1000", ""),
            Act::Cancel,
            cancelled,
            "cancelled",
        ),
        way(
            "cancelled twice",
            "",
            trigger("sleep 1000", ""),
            Act::CancelTwice,
            cancelled,
            "cancelled",
        ),
        way(
            "cancelled while paused",
            "",
            trigger("sleep 1000", ""),
            Act::PausedThenCancel,
            cancelled,
            "cancelled",
        ),
        way(
            "escalated, then cancelled",
            "",
            trigger(":", &exits("{ name: look, action: escalate }")),
            Act::EscalatedThenCancel,
            cancelled,
            "cancelled",
        ),
        way(
            "deleted while it runs",
            "",
            trigger("sleep 1000", ""),
            Act::Delete,
            cancelled,
            "cancelled",
        ),
        way(
            "its agents die",
            "",
            trigger("sleep 1000", ""),
            Act::KillAgents,
            failed,
            "step_failed",
        ),
        way(
            "its session is closed",
            "",
            trigger("sleep 1000", ""),
            Act::CloseSession,
            failed,
            "session_closed",
        ),
        way(
            "the host stops",
            "",
            trigger("sleep 1000", ""),
            Act::Stop,
            cancelled,
            "shutdown",
        ),
    ]
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).expect("written");
}

/// All that it holds is in flight.
async fn in_flight(shop: &Shop, job: &Job) {
    for step in ["cmd", "turn", "shared", "below", "trigger"] {
        until_state(shop, job, step, StepRunState::Running).await;
    }
    until("the job below is in flight", || {
        let below = shop
            .jobs
            .live()
            .into_iter()
            .find(|below| below.parent() == Some(job.id()));
        below.is_some_and(|below| {
            let rows = shop.rows(&below);
            let runs = rows.iter().filter(|row| row.state == StepRunState::Running);
            // Not only begun: its agent has been asked.
            runs.filter(|row| row.step == "cmd" || row.detail["agent"]["turn"].is_number())
                .count()
                == 2
        })
    })
    .await;
    until("the turns are under way", || {
        let rows = shop.rows(job);
        let asked = rows
            .iter()
            .filter(|row| !row.detail["agent"]["turn"].is_null());
        asked.count() >= 3
    })
    .await;
    // sh, sleep, the escaped sleep; below: sleep and its escaped one; the trigger.
    until("its processes run", || {
        find(job.id().as_str())
            .iter()
            .filter(|found| found.lives())
            .count()
            >= 4
    })
    .await;
}

async fn act(shop: &Shop, job: &Job, way: &Way) -> Result<JobStatus, Error> {
    let dir = job_dir(shop);
    match way.act {
        Act::Go => {
            write(&dir, "go", "");
            job.wait().await
        }
        Act::Cancel => job.cancel(by()).await,
        Act::CancelTwice => {
            // One who gives up does not stop it.
            let first = tokio::time::timeout(Duration::from_millis(1), job.cancel(by())).await;
            drop(first);
            let (one, two) = tokio::join!(job.cancel(by()), job.cancel(by()));
            let (one, two) = (one?, two?);
            assert_eq!(one.why, two.why);
            Ok(one)
        }
        Act::PausedThenCancel => {
            job.pause(by()).await?;
            job.cancel(by()).await
        }
        Act::EscalatedThenCancel => {
            write(&dir, "go", "");
            until("a person is asked", || {
                job.status().why["code"] == "escalated"
            })
            .await;
            job.cancel(by()).await
        }
        Act::Delete => {
            shop.jobs.delete(job.id().as_str(), by()).await?;
            job.wait().await
        }
        Act::KillAgents => {
            for row in shop.rows(job) {
                let Some(conversation) = row.detail["agent"]["conversation"].as_str() else {
                    continue;
                };
                // The first that dies ends the job, and so the others.
                let Ok(conversation) = shop.host.agents.get(conversation) else {
                    continue;
                };
                let living = conversation.session().census().await;
                for process in living.unwrap_or_default() {
                    let pid = process.id.pid.cast_signed();
                    if let Some(found) = Found::read(pid) {
                        found.signal(rustix::process::Signal::KILL);
                    }
                }
            }
            job.wait().await
        }
        Act::CloseSession => {
            let session = job.status().session.expect("a session");
            let session = shop
                .host
                .stage
                .sessions
                .get(session.as_str())
                .expect("it is open");
            let _ = session
                .close(hostler_session::CloseReason::Client, by(), None)
                .await;
            job.wait().await
        }
        Act::Stop => {
            shop.stop().await;
            job.wait().await
        }
    }
}

fn job_dir(shop: &Shop) -> std::path::PathBuf {
    shop.host.stage.dir.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_job_however_it_ends_and_the_one_beside_it_goes_on() {
    for way in ways() {
        eprintln!("{}", way.name);
        let shop = Shop::with(PoolOptions {
            all: 6,
            ..PoolOptions::default()
        });
        let dir = job_dir(&shop);
        write(&dir, "below.yaml", BELOW);
        let beside = shop.start(BESIDE).await;
        until_state(&shop, &beside, "wait", StepRunState::Running).await;
        let flow = format!("name: x\n{}steps:{HELD}{}", way.head, way.trigger);
        let job = shop.start(&flow).await;
        in_flight(&shop, &job).await;
        let began = Instant::now();
        let limit =
            Duration::from_secs(10).max(Duration::from_secs(10) * crate::stage::slack() / 5);
        let status = tokio::time::timeout(limit * 3, act(&shop, &job, &way)).await;
        let status = status
            .unwrap_or_else(|_| panic!("not in time: {}", way.name))
            .expect(way.name);
        assert!(
            began.elapsed() < limit,
            "{}: {:?}",
            way.name,
            began.elapsed()
        );
        is(&status, way.end, way.code);
        if way.act != Act::Delete {
            shop.nothing_left(&job).await;
        }
        assert!(shop.jobs.live().iter().all(|live| live.id() == beside.id()));
        if way.act == Act::Stop {
            shop.host.stage.await_none("the host has stopped").await;
            continue;
        }
        // Of all that lives now, nothing is the job's.
        let members = shop.jobs.pool().members();
        assert!(
            members
                .iter()
                .all(|member| !member.holders.contains(job.id().as_str())),
            "{members:?}"
        );
        write(&dir, "done", "");
        let status = soon("the one beside it", beside.wait())
            .await
            .expect("its status");
        is(&status, JobEnd::Completed, "completed");
        assert_eq!(
            outputs(&status),
            serde_json::json!({ "a": "012", "b": "012" })
        );
        shop.nothing_left(&beside).await;
        shop.host.stage.await_none(way.name).await;
        assert!(shop.host.stage.sessions.list().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_completed_steps_leave_behind_goes_with_the_job() {
    let shop = Shop::new();
    let (job, status) = shop
        .run("name: x\nsteps:\n  a: { command: 'setsid sleep 1000 & sleep 1000 & :' }\n  b: { after: a, agent: { name: peer, prompt: child } }\n")
        .await;
    is(&status, JobEnd::Completed, "completed");
    shop.nothing_left(&job).await;
    shop.host.stage.await_none("it has completed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_cancelled_at_any_moment_of_its_start_leaves_nothing() {
    let shop = Shop::new();
    write(&job_dir(&shop), "below.yaml", BELOW);
    for step in 0..40u64 {
        let flow = format!("name: x\nsteps:{HELD}");
        let job = shop.start(&flow).await;
        tokio::time::sleep(Duration::from_micros(step * step * 150)).await;
        let status = soon("cancelled", job.cancel(by()))
            .await
            .expect("its status");
        is(&status, JobEnd::Cancelled, "cancelled");
        shop.nothing_left(&job).await;
    }
    shop.host.stage.await_none("forty jobs").await;
    assert!(shop.host.stage.sessions.list().is_empty());
    assert!(shop.jobs.pool().members().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_gives_up_making_a_job_has_one_or_none() {
    let shop = Shop::new();
    for step in 0..30u64 {
        let flow = "name: x\nsteps: { a: { command: 'setsid sleep 1000 & sleep 1000' } }\n";
        let making = shop.jobs.create(shop.job(flow), by());
        let _ = tokio::time::timeout(Duration::from_micros(step * 100), making).await;
    }
    soon("all end", shop.stop()).await;
    shop.host.stage.await_none("the host has stopped").await;
    assert!(shop.host.stage.sessions.list().is_empty());
}
