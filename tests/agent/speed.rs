//! How fast updates go through. Measurements, run by name in release builds.

use std::time::{Duration, Instant};

use hostler_agent::{EntryKind, Seq};

use super::support::*;

/// Updates a second, from the agents' writes to followers, with the ledger on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn updates_a_second() {
    for sessions in [1, 10] {
        let host = Host::new(&[]);
        let all = std::env::var("HOSTLER_UPDATES").ok();
        let all: usize = all.and_then(|all| all.parse().ok()).unwrap_or(1_000_000);
        let each = all / sessions;
        let mut all = Vec::new();
        for _ in 0..sessions {
            let conversation = host.open().await;
            conversation.ready(by()).await.expect("an agent");
            all.push(conversation);
        }
        let began = Instant::now();
        let mut reads = tokio::task::JoinSet::new();
        for conversation in &all {
            let _turn = prompt(conversation, &format!("flood {each}")).await;
            let mut follower = conversation.follow(Seq(0));
            reads.spawn(async move {
                let mut updates = 0;
                loop {
                    for entry in follower.next(1000).await.expect("entries") {
                        updates += usize::from(entry.kind == EntryKind::Update);
                        if entry.kind == EntryKind::TurnEnded {
                            return updates;
                        }
                    }
                }
            });
        }
        let seen: usize = reads.join_all().await.into_iter().sum();
        let took = began.elapsed();
        let rate = seen as f64 / took.as_secs_f64();
        println!("{sessions} sessions: {seen} updates in {took:?}: {rate:.0} a second");
        assert_eq!(seen, each * sessions);
        for conversation in &all {
            let report = conversation.close(hostler_session::CloseReason::Client, by());
            assert_eq!(report.await.expect("closed").remaining, 0);
        }
        host.stage.await_none("after the closes").await;
    }
}

/// What is added to an update on its way from the agent's write to a follower: both read the same clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn latency_of_an_update() {
    let script = r#"
import sys, time, json
def reply(result):
    line = json.loads(sys.stdin.readline())
    print(json.dumps({"jsonrpc": "2.0", "id": line["id"], "result": result}, separators=(",", ":")), flush=True)
    return line
reply({"protocolVersion": 1})
reply({"sessionId": "x"})
line = json.loads(sys.stdin.readline())
for i in range(2000):
    time.sleep(0.002)
    sys.stdout.write('{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"x","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"%d"}}}}\n' % time.clock_gettime_ns(time.CLOCK_MONOTONIC))
    sys.stdout.flush()
print(json.dumps({"jsonrpc": "2.0", "id": line["id"], "result": {"stopReason": "end_turn"}}), flush=True)
sys.stdin.read()
"#;
    let mut python = hostler_agent::AgentSpec::new(["python3", "-c", script]);
    python
        .env
        .insert("PATH".into(), std::env::var("PATH").unwrap_or_default());
    python.handshake_timeout = Duration::from_secs(60);
    let host = Host::with(python, options());
    let conversation = host.open().await;
    conversation.ready(by()).await.expect("an agent");
    let mut follower = conversation.follow(Seq(0));
    let _turn = prompt(&conversation, "go").await;
    let mut took = Vec::new();
    'all: loop {
        let entries = follower.next(1000).await.expect("entries");
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now = now.tv_sec * 1_000_000_000 + now.tv_nsec;
        for entry in entries {
            match entry.kind {
                EntryKind::Update => {
                    let update = json(&entry);
                    let text = update["update"]["content"]["text"].as_str().expect("text");
                    took.push((now - text.parse::<i64>().expect("a number")) / 1000);
                }
                EntryKind::TurnEnded => break 'all,
                _ => {}
            }
        }
    }
    took.sort_unstable();
    let at = |part: usize| took[(took.len() * part / 100).min(took.len() - 1)];
    println!(
        "{} updates: p50 {} µs, p90 {} µs, p99 {} µs",
        took.len(),
        at(50),
        at(90),
        at(99)
    );
    host.end(&conversation).await;
}
