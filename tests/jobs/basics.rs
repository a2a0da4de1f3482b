//! What flows say is what is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostler_agent::PoolOptions;
use hostler_job::Error;
use hostler_ledger::{JobEnd, StepRunState};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::TryRecvError;

use crate::support::*;

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_are_given_what_others_gave_and_the_job_gives_what_it_says() {
    let shop = Shop::new();
    let flow = r#"
name: x
steps:
  one:
    command: { run: 'printf "{\"n\": 20, \"list\": [1, 2, 3]}"; echo late >&2', stdout: json }
    outputs: { n: integer, list: { items: integer } }
  two:
    inputs: { n: one.n }
    command: { argv: [sh, -c, "echo $((${n} + 1)) > \"$HOSTLER_STEP.txt\"; cat"], stdin: "n is ${n}", files: { file: two.txt } }
  each:
    for_each: { in: one.list, parallel: 3 }
    inputs: { n: $item, of: one.n }
    command: 'echo "$n of $of"'
  pause: { sleep: 10ms }
  wait: { after: two, poll: { run: "echo x >> tries; test $(wc -l < tries) = 3", every: 5ms } }
outputs: { sum: two.file, said: two.stdout, each: each.stdout, tries: wait.tries }
"#;
    let (job, status) = shop.run(flow).await;
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(
        outputs(&status),
        json!({ "sum": "21\n", "said": "n is 20", "each": ["1 of 20\n", "2 of 20\n", "3 of 20\n"], "tries": 3 })
    );
    let rows = shop.rows(&job);
    let one = rows.iter().find(|row| row.step == "one").expect("a run");
    assert_eq!(one.detail["stderr"], "late\n");
    assert!(one.began <= one.ended && one.began.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_says_what_is_wanted_and_steps_share_its_conversation() {
    let shop = Shop::new();
    let flow = r#"
name: x
steps:
  a: { agent: { name: peer, prompt: "stream 3" }, session: work }
  b: { after: a, agent: { name: peer, prompt: "run echo $PPID" }, session: work }
  c: { after: b, agent: { name: peer, prompt: "stream 2" }, session: work }
  d: { agent: { name: peer, prompt: "stream 4" } }
outputs: { a: a.text, c: c.text, d: d.text }
"#;
    let (job, status) = shop.run(flow).await;
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(
        outputs(&status),
        json!({ "a": "012", "c": "01", "d": "0123" })
    );
    let rows = shop.rows(&job);
    let of = |step: &str| {
        let row = rows.iter().find(|row| row.step == step).expect("a run");
        row.detail["agent"]["conversation"].clone()
    };
    assert_eq!(of("a"), of("c"));
    assert_ne!(of("a"), of("d"));
    shop.host
        .stage
        .await_none("agents of a job that has ended")
        .await;
    assert!(shop.jobs.pool().members().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_what_is_wanted_is_asked_for_again_and_then_fails() {
    let shop = Shop::new();
    let flow = r#"
name: x
steps:
  a:
    agent: { name: peer, prompt: "stream 3", corrections: 2 }
    outputs: { verdict: { choices: [good, bad] } }
"#;
    let (job, status) = shop.run(flow).await;
    is(&status, JobEnd::Failed, "step_failed");
    let rows = shop.rows(&job);
    assert_eq!(rows[0].error.as_ref().expect("why")["code"], "wrong_output");
    assert_eq!(rows[0].detail["agent"]["turns"], 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_is_asked_and_a_wrong_answer_is_refused() {
    let shop = Shop::new();
    let flow = r#"
name: x
steps:
  ask: { input: "Keep it?", outputs: { keep: boolean, why: { type: string, optional: true } } }
  free: { input: "What?" }
outputs: { keep: ask.keep, why: ask.why, free: free.answer }
"#;
    let job = shop.start(flow).await;
    let ask = until_state(&shop, &job, "ask", StepRunState::Suspended).await;
    until("both are asked", || job.live().len() == 2).await;
    assert_eq!(job.live()[&ask.number]["asks"], "Keep it?");
    let none = job
        .answer(None, object(json!({ "answer": "x" })), by())
        .await;
    assert!(
        none.expect_err("two wait")
            .to_string()
            .contains("say which: 1, 2")
    );
    for (wrong, why) in [
        (json!({ "keep": "perhaps" }), "a boolean"),
        (json!({}), "missing"),
        (
            json!({ "keep": true, "more": 1 }),
            "`more` is not asked for",
        ),
    ] {
        let refused = job.answer(Some(ask.number), object(wrong), by()).await;
        let refused = refused.expect_err("no answer").to_string();
        assert!(refused.contains(why), "{refused}");
    }
    let keep = object(json!({ "keep": "true" }));
    assert_eq!(
        job.answer(Some(ask.number), keep, by())
            .await
            .expect("answered"),
        1
    );
    until("one is left", || job.live().len() == 1).await;
    let free = object(json!({ "answer": "this" }));
    assert_eq!(job.answer(None, free, by()).await.expect("answered"), 2);
    let status = soon("the job", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(
        outputs(&status),
        json!({ "keep": true, "why": null, "free": "this" })
    );
    shop.nothing_left(&job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_below_gives_its_outputs_and_its_failure_is_its_steps() {
    let shop = Shop::new();
    let dir = &shop.host.stage.dir;
    std::fs::write(
        dir.join("greet.yaml"),
        "name: greet\ninputs: { who: string }\nsteps: { say: { inputs: { who: $job.who }, command: 'test -n \"$who\" && printf \"hello %s\" \"$who\"' } }\noutputs: { text: say.stdout }\n",
    )
    .expect("written");
    let flow = |who: &str| {
        format!(
            "name: x\nsteps:\n  a: {{ flow: greet.yaml, inputs: {{ who: {{ value: '{who}' }} }} }}\noutputs: {{ text: a.text }}\n"
        )
    };
    let (_, status) = shop.run(&flow("you")).await;
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(outputs(&status), json!({ "text": "hello you" }));
    let (_, status) = shop.run(&flow("")).await;
    is(&status, JobEnd::Failed, "step_failed");
    assert_eq!(status.why["error"]["code"], "job_failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_flows_are_refused_and_what_cannot_be_started_fails_with_the_reason() {
    let shop = Shop::new();
    for (flow, code, why) in [
        (
            "name: x\nsteps: { a: { command: { argv: [/no/such/program] } } }\n",
            "not_started",
            "No such file",
        ),
        (
            "name: x\nsteps: { a: { command: { run: 'true', cwd: nowhere } } }\n",
            "not_started",
            "nowhere",
        ),
        (
            "name: x\nsteps: { a: { command: { run: 'true', files: { f: none.txt } } } }\n",
            "missing_file",
            "none.txt",
        ),
        (
            "name: x\nsteps: { a: { command: { run: 'echo {', stdout: json } } }\n",
            "no_json",
            "no JSON",
        ),
        (
            "name: x\nsteps: { a: { command: { run: 'echo 1', stdout: json }, outputs: { n: string } } }\n",
            "wrong_output",
            "`n` (a string) is missing",
        ),
        (
            "name: x\nsteps: { a: { agent: { name: nobody, prompt: x } } }\n",
            "no_agent",
            "nobody",
        ),
        (
            "name: x\nsteps: { a: { command: 'echo why >&2; exit 3' } }\n",
            "exit_code",
            "exited with 3: why",
        ),
        (
            "name: x\nsteps: { a: { command: 'kill -9 $$' } }\n",
            "exit_code",
            "signal 9",
        ),
        (
            "name: x\nsteps: { a: { command: 'sleep 60', limits: { time: 50ms } } }\n",
            "timeout",
            "longer than 50ms",
        ),
        (
            "name: x\nsteps: { a: { agent: { name: peer, prompt: crash } } }\n",
            "agent_failed",
            "",
        ),
    ] {
        let (_, status) = shop.run(flow).await;
        is(&status, JobEnd::Failed, "step_failed");
        let error = &status.why["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains(why), "{error}");
        assert!(
            error["code"] == code || (code == "agent_failed" && error["code"] == "agent_ended"),
            "{error}"
        );
    }
    for (flow, why) in [
        (
            "name: x\nsteps:\n  a: { command: x, after: b }\n  b: { command: x, after: a }\n",
            "wait",
        ),
        (
            "name: x\nsteps: { a: { command: x, after: b } }\n",
            "there is no step `b`",
        ),
        (
            "name: x\nsteps: { a: { command: x, inputs: { n: $job.n } } }\n",
            "`n`",
        ),
        (
            "name: x\ncwd: /no/such/place\nsteps: { a: { command: x } }\n",
            "/no/such/place",
        ),
        (
            "name: x\ninputs: { n: integer }\nsteps: { a: { command: x } }\n",
            "is not given",
        ),
        (
            "name: x\nsteps: { a: { flow: none.yaml } }\n",
            "there is no file",
        ),
    ] {
        let refused = shop
            .jobs
            .create(shop.job(flow), by())
            .await
            .expect_err(flow);
        assert!(
            matches!(refused, Error::Wrong(_) | Error::Inputs(_)),
            "{refused:?}"
        );
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_while_it_is_paused_is_kept_and_a_step_may_be_done_again() {
    let shop = Shop::new();
    let flow = "
name: x
steps:
  a: { command: 'until test -e go; do sleep 0.01; done; echo a >> order' }
  b: { after: a, command: 'echo b >> order' }
  c: { after: b, command: 'echo c >> order; cat order', exits: [{ name: look, when: attempt == 1, action: escalate }] }
outputs: { order: c.stdout }
";
    let job = shop.start(flow).await;
    until_state(&shop, &job, "a", StepRunState::Running).await;
    job.pause(by()).await.expect("paused");
    std::fs::write(shop.host.stage.dir.join("go"), "").expect("written");
    until_state(&shop, &job, "a", StepRunState::Completed).await;
    assert_eq!(shop.rows(&job).len(), 1, "nothing begins");
    assert_eq!(job.status().why["code"], "paused");
    job.resume(by()).await.expect("resumed");
    until("a person is asked", || {
        job.status().why["code"] == "escalated"
    })
    .await;
    let step = "b".parse().expect("a name");
    job.retry_from(&step, by()).await.expect("again");
    let status = soon("the job", job.wait()).await.expect("its status");
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(outputs(&status), json!({ "order": "a\nb\nc\nb\nc\n" }));
    shop.nothing_left(&job).await;
    // One that has ended is done again as another, with what came before.
    let again = shop
        .jobs
        .retry(job.id().as_str(), Some("c"), by())
        .await
        .expect("a job");
    until("a person is asked", || {
        again.status().why["code"] == "escalated"
    })
    .await;
    again.resume(by()).await.expect("resumed");
    let status = soon("the job", again.wait()).await.expect("its status");
    assert_eq!(outputs(&status), json!({ "order": "a\nb\nc\nb\nc\nc\n" }));
    shop.jobs
        .delete(job.id().as_str(), by())
        .await
        .expect("deleted");
    assert!(matches!(
        shop.jobs.record(job.id().as_str()),
        Err(Error::NoJob(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_memory_is_a_steps_own() {
    let shop = Shop::new();
    let flow = "
name: x
steps:
  small: { command: 'head -c 300M /dev/zero | tail -c 200M | wc -c', limits: { memory: 40M }, on_error: continue }
  free: { command: 'head -c 300M /dev/zero | tail -c 200M | wc -c' }
outputs: { free: free.stdout, small: { from: small.stdout, optional: true } }
";
    if hostler_process::contain::auto().as_str() != "cgroup" {
        eprintln!("skipped: no cgroup can be made here");
        return;
    }
    let (_, status) = shop.run(flow).await;
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(
        outputs(&status),
        json!({ "free": "209715200\n", "small": null })
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_share_agents_and_one_that_is_cancelled_does_not_touch_the_others() {
    let shop = Shop::with(PoolOptions {
        all: 1,
        ..PoolOptions::default()
    });
    let slow = "name: x\nsteps:\n  a: { agent: { name: peer, prompt: wait } }\n";
    let quick = "name: x\nsteps:\n  a: { agent: { name: peer, prompt: stream 3 } }\n  b: { after: a, agent: { name: peer, prompt: stream 3 } }\noutputs: { text: b.text }\n";
    let first = shop.start(slow).await;
    until_state(&shop, &first, "a", StepRunState::Running).await;
    let second_job = shop.start(quick).await;
    until("it waits for the one agent", || {
        shop.jobs.pool().waiting() == 1
    })
    .await;
    let ended = soon("cancelled", first.cancel(by()))
        .await
        .expect("its status");
    is(&ended, JobEnd::Cancelled, "cancelled");
    shop.nothing_left(&first).await;
    let status = soon("the other", second_job.wait())
        .await
        .expect("its status");
    is(&status, JobEnd::Completed, "completed");
    assert_eq!(outputs(&status), json!({ "text": "012" }));
    shop.nothing_left(&second_job).await;
    shop.host.stage.await_none("the agent").await;
}

/// Of what has not ended nobody is told that it has, or that the host stops.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_job_is_found_from_the_moment_in_which_the_ledger_has_it() {
    const MAKERS: usize = 3;
    const EACH: usize = 100;
    let shop = Shop::new();
    let ledger = shop.host.stage.sessions.ledger().clone();
    let (mut told, jobs) = (ledger.subscribe(), shop.jobs.clone());
    let over = Arc::new(AtomicBool::new(false));
    let is_over = over.clone();
    let looking = std::thread::spawn(move || {
        let mut seen = 0;
        loop {
            let event = match told.try_recv() {
                Ok(event) => event,
                Err(TryRecvError::Empty) if is_over.load(Ordering::SeqCst) => return seen,
                // Looked for without pause: the moment is short.
                Err(_) => {
                    std::hint::spin_loop();
                    continue;
                }
            };
            let Some(job) = event.job.filter(|_| event.kind.starts_with("job.")) else {
                continue;
            };
            match jobs.get(job.as_str()) {
                Ok(_) | Err(Error::Ended(_)) => {}
                Err(error) => panic!("{job}, at {}: {error}", event.kind),
            }
            seen += usize::from(event.kind == "job.created");
        }
    });
    let makers = (0..MAKERS).map(|_| async {
        for _ in 0..EACH {
            shop.start("name: x\nsteps: { a: { sleep: 0s } }\n").await;
        }
    });
    futures_util::future::join_all(makers).await;
    over.store(true, Ordering::SeqCst);
    assert!(looking.join().expect("each is found") > EACH);
    for job in shop.jobs.live() {
        soon("it ends", job.wait()).await.expect("its status");
    }
}
