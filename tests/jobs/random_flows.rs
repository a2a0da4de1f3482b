//! Random flows, ended at random moments in random ways: no open run, no lease, no process, no session.

use std::fmt::Write;
use std::time::Duration;

use hostler_agent::PoolOptions;
use hostler_job::Job;
use serde_json::json;

use crate::random::{Random, number};
use crate::support::*;

/// A flow of a few steps that mostly are soon over.
fn flow(random: &mut Random, deep: bool) -> String {
    let steps = 2 + random.below(6);
    let mut text = String::from("name: x\n");
    if random.percent(15) {
        let _ = writeln!(text, "limits: {{ time: {}ms }}", 100 + random.below(1500));
    }
    text.push_str("steps:\n");
    for number in 0..steps {
        let _ = writeln!(text, "  s{number}:");
        let sleep = random.below(120);
        let code = u8::from(random.percent(15));
        let what = match random.below(if deep { 9 } else { 8 }) {
            0 | 1 => format!("command: 'setsid sleep 1000 & sleep 0.{sleep:03}; exit {code}'"),
            2 => format!("command: 'sh -c \"sleep 0.{sleep:03}; exit {code}\"'"),
            3 => "command: 'sleep 1000'".to_owned(),
            4 => format!(
                "agent: {{ name: peer, prompt: slow {} 5 }}",
                random.below(20)
            ),
            5 => match random.below(4) {
                0 => "agent: { name: peer, prompt: wait }".to_owned(),
                1 => "agent: { name: peer, prompt: crash }".to_owned(),
                2 => "agent: { name: peer, prompt: child }".to_owned(),
                _ => "agent: { name: peer, prompt: stream 2 }".to_owned(),
            },
            6 => format!("sleep: {sleep}ms"),
            7 => "input: What?".to_owned(),
            _ => "flow: below.yaml".to_owned(),
        };
        let _ = writeln!(text, "    {what}");
        if what.starts_with("agent") && random.percent(40) {
            let _ = writeln!(text, "    session: work");
        }
        let after: Vec<String> = (0..number)
            .filter(|_| random.percent(30))
            .map(|of| format!("s{of}"))
            .collect();
        if !after.is_empty() {
            let _ = writeln!(text, "    after: [{}]", after.join(", "));
        }
        if random.percent(15) && !what.starts_with("input") && !what.starts_with("flow") {
            let _ = writeln!(text, "    limits: {{ time: {}ms }}", 20 + random.below(300));
        }
        if random.percent(20) {
            let _ = writeln!(
                text,
                "    retry: {{ times: {}, backoff: {}ms }}",
                random.below(3),
                1 + random.below(50)
            );
        }
        if random.percent(10) {
            let _ = writeln!(text, "    fallback: {{ sleep: 10ms }}");
        }
        let policy = ["fail", "continue", "continue", "pause"][random.below(4) as usize];
        let _ = writeln!(text, "    on_error: {policy}");
        if random.percent(15) {
            let rules = [
                "{ name: again, when: attempt < 3, action: loop, target: SELF, max_iterations: 2 }",
                "{ name: look, when: error != null, action: escalate }",
                "{ name: no, when: error != null, action: abandon }",
                "{ name: on, when: error == null, action: advance }",
            ];
            let rule = rules[random.below(4) as usize].replace("SELF", &format!("s{number}"));
            let _ = writeln!(text, "    exits: [{rule}]");
        }
    }
    text
}

/// Does something to a job; what of it is refused is nobody's failure.
async fn meddle(shop: &Shop, job: &Job, random: &mut Random) {
    match random.below(7) {
        0 => drop(job.pause(by()).await),
        1 => drop(job.resume(by()).await),
        2 | 3 => {
            let answer = json!({ "answer": "this" })
                .as_object()
                .cloned()
                .unwrap_or_default();
            let waiting = job
                .live()
                .into_iter()
                .find(|(_, known)| known.contains_key("asks"));
            drop(job.answer(waiting.map(|(run, _)| run), answer, by()).await);
        }
        4 => {
            let step = format!("s{}", random.below(8)).parse().expect("a name");
            drop(job.retry_from(&step, by()).await);
        }
        5 => {
            // Who asks for its end gives up.
            let limit = Duration::from_micros(random.below(2000));
            drop(tokio::time::timeout(limit, job.cancel(by())).await);
        }
        _ => {
            let sessions = shop.host.stage.sessions.list();
            if let Some(place) = random.pick(&sessions)
                && random.percent(15)
            {
                let reason = hostler_session::CloseReason::Client;
                drop(
                    sessions[place]
                        .close(reason, by(), Some(Duration::ZERO))
                        .await,
                );
            }
        }
    }
}

async fn play(seed: u64) {
    let mut random = Random::new(seed);
    let shop = Shop::with(PoolOptions {
        all: random.below(4) as usize,
        by_agent: random.below(3) as usize,
        ..PoolOptions::default()
    });
    std::fs::write(
        shop.host.stage.dir.join("below.yaml"),
        flow(&mut random, false),
    )
    .expect("written");
    let mut jobs = Vec::new();
    for _ in 0..1 + random.below(3) {
        jobs.push(shop.start(&flow(&mut random, true)).await);
    }
    for _ in 0..random.below(12) {
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        if let Some(place) = random.pick(&jobs) {
            meddle(&shop, &jobs[place], &mut random).await;
        }
    }
    if random.percent(25) {
        soon("the host stops", shop.stop()).await;
    }
    for job in &jobs {
        let status = soon("cancelled", job.cancel(by()))
            .await
            .expect("its status");
        assert!(status.state.is_ended() && status.released, "{status:?}");
        shop.nothing_left(job).await;
    }
    until("no job is left", || shop.jobs.live().is_empty()).await;
    shop.host.stage.await_none("after all jobs").await;
    let ledger = shop.host.stage.sessions.ledger();
    assert!(ledger.leases(None).expect("leases").is_empty());
    until("no agent is left", || shop.jobs.pool().members().is_empty()).await;
    until("no session is left", || {
        shop.host.stage.sessions.list().is_empty()
    })
    .await;
    let open = shop
        .jobs
        .list(&hostler_ledger::JobFilter::default())
        .expect("jobs");
    assert!(open.is_empty(), "{open:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_random_flows_that_end_at_random() {
    if let Some(seed) = number("HOSTLER_SEED") {
        return play(seed).await;
    }
    let first = u64::from(std::process::id()) << 20;
    for seed in first..first + number("HOSTLER_SCHEDULES").unwrap_or(60) {
        let played = tokio::spawn(play(seed)).await;
        if let Err(failed) = played {
            eprintln!("again: HOSTLER_SEED={seed}");
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}
