//! An answer that was taken, and had not reached the agent when the host was killed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use hostler_agent::{AgentSpec, ClientCapabilities, EntryKind, Seq};
use hostler_session::OnHostExit;

use super::support::*;

/// Asks for a permission, and then reads nothing until a file is there. It reads byte by byte, so nothing is read ahead.
const AGENT: &str = r#"
id() { i="${1#*\"id\":}"; i="${i%%,*}"; }
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$i" "$1"; }
read -r line; id "$line"; answer '{"protocolVersion":1}'
read -r line; id "$line"; answer '{"sessionId":"s"}'
read -r line; id "$line"
printf '%s\n' '{"jsonrpc":"2.0","id":"ask","method":"session/request_permission","params":{"sessionId":"s","options":[],"toolCall":{"toolCallId":"c"}}}'
while [ ! -e "$GO" ]; do sleep 0.01; done
while read -r line; do
    case "$line" in *'"id":"ask"'*) break ;; esac
done
answer '{"stopReason":"end_turn"}'
while read -r line; do :; done
"#;

fn agent(go: &Path) -> AgentSpec {
    let mut spec = AgentSpec::new(["/bin/sh", "-c", AGENT]);
    let path = std::env::var("PATH").unwrap_or_default();
    spec.env.insert("PATH".into(), path);
    spec.env.insert("GO".into(), go.display().to_string());
    spec
}

/// Takes the answer in while the agent does not read, and its pipe is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the other test"]
async fn the_host_that_answers_and_dies() {
    let Ok(dir) = std::env::var("HOSTLER_TEST_HOST") else {
        return;
    };
    let mark = std::env::var("HOSTLER_TEST_MARK").expect("a mark");
    let dir = Path::new(&dir);
    let stage = Stage::at(dir, &mark, |_| {});
    stage.sessions.recover(&[]).await.expect("recovered");
    let host = Host::on(stage, agent(&dir.with_file_name("go")), options());
    let mut new = host.conversation();
    new.session.policy.on_host_exit = OnHostExit::Keep;
    // So long it is there at the most, where the test is broken off.
    new.session.policy.keep_for = std::time::Duration::from_secs(300);
    let conversation = host.agents.open(new, by()).await.expect("a conversation");
    let client = conversation.attach("a client", ClientCapabilities::default());
    let _client = client.await.expect("attached");
    let _turn = prompt(&conversation, "ask").await;
    let mut follower = conversation.follow(Seq(0));
    'asked: loop {
        for entry in follower.next(64).await.expect("entries") {
            if entry.kind == EntryKind::Request {
                break 'asked;
            }
        }
    }
    // More than a pipe holds, in lines that are written whole or not at all.
    for _ in 0..40 {
        let filler = serde_json::json!({ "filler": "x".repeat(3900) });
        let filler = serde_json::value::to_raw_value(&filler).expect("JSON");
        let told = conversation.notify("_filler", filler);
        told.await.expect("told");
    }
    let requests = conversation.requests().await.expect("requests");
    let outcome = serde_json::json!({ "outcome": { "outcome": "cancelled" } });
    let outcome = serde_json::value::to_raw_value(&outcome).expect("JSON");
    let answer = conversation.answer(requests[0], Ok(outcome), by());
    answer.await.expect("answered");
    writeln!(std::io::stderr(), "answered {}", conversation.id()).expect("told");
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reaches_the_agent_from_the_next_host() {
    let place = tempfile::Builder::new()
        .prefix("hostler-agent-")
        .tempdir()
        .expect("a directory");
    let dir = place.path().join("state");
    let mark = format!("mark-agent-{}-{}", std::process::id(), dir.display());
    let (host, name) = (dir.clone(), mark.clone());
    let id = tokio::task::spawn_blocking(move || {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "resend::the_host_that_answers_and_dies"])
            .args(["--ignored", "--nocapture"])
            .env("HOSTLER_TEST_HOST", host)
            .env("HOSTLER_TEST_MARK", name)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a host");
        let lines = BufReader::new(child.stderr.take().expect("its output")).lines();
        let id = lines
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("answered ")?.to_owned()));
        child.kill().expect("killed");
        child.wait().expect("waited");
        id
    });
    let id = id.await.expect("joined").expect("it answered");
    let go = dir.with_file_name("go");
    let stage = Stage::at(&dir, &mark, |_| {});
    let earlier = stage.sessions.recover(&stage.earlier);
    earlier.await.expect("recovered");
    let host = Host::on(stage, agent(&go), options());
    let resumed = host.agents.recover().await.expect("recovered");
    assert!(resumed[0].interrupted.is_empty(), "the turn goes on");
    let conversation = host.agents.get(&id).expect("it is live");
    let requests = conversation.requests().await.expect("requests");
    assert!(requests.is_empty(), "nobody is asked again");
    std::fs::write(&go, "").expect("a file");
    let mut follower = conversation.follow(Seq(0));
    let end = 'ended: loop {
        for entry in soon("the end", follower.next(64)).await.expect("entries") {
            if entry.kind == EntryKind::TurnEnded {
                break 'ended json(&entry);
            }
        }
    };
    assert_eq!(end["result"]["stopReason"], "end_turn", "{end}");
    host.end(&conversation).await;
}
