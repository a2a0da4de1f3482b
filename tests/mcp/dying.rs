//! Whoever dies: the host, the server, the session.

use serde_json::{Value, json};

use crate::client::{Mcp, SERVER, is_free};
use crate::support::{Place, run, wait_until};

#[test]
fn a_host_that_is_gone_is_said_and_the_next_one_is_found() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host
            .client
            .open(json!({ "on_host_exit": "keep", "keep_for": 300 }))
            .await;
        let mcp = Mcp::new(&host.client, &session).await;
        let id = mcp.start(SERVER).await;
        let port = mcp.listening(&id, 1).await[0];
        host.kill();
        let line = mcp.refused("process_list", json!({})).await;
        assert!(line.contains("no host is running"), "{line}");
        let line = mcp
            .refused("process_start", json!({ "command": "true" }))
            .await;
        assert!(line.contains("no host is running"), "{line}");

        let next = place.host();
        let listed = mcp.ok("process_list", json!({})).await;
        assert_eq!(listed["processes"][0]["id"], id, "{listed}");
        assert_eq!(listed["processes"][0]["ports"], json!([port]));
        let stopped = mcp.ok("process_stop_all", json!({})).await;
        assert_eq!(stopped["all_stopped"], true);
        assert!(is_free(port));
        mcp.leave().await;
        next.stop();
    });
    place.all_gone();
}

#[test]
fn a_host_that_dies_leaves_nothing_of_it() {
    let place = Place::new();
    let host = place.host();
    let port = run_for(async {
        let session = host.client.open(json!({ "grace": 0.3 })).await;
        let mcp = Mcp::new(&host.client, &session).await;
        mcp.start("trap '' TERM; while :; do sleep 0.1; done").await;
        let id = mcp.start(&format!("setsid -f {SERVER}")).await;
        mcp.listening(&id, 1).await[0]
    });
    host.kill();
    place.all_gone();
    wait_until("the port is free", || is_free(port));
}

/// As an agent has it: started within the session, told nothing.
#[test]
fn within_a_session_it_finds_the_session_and_the_host() {
    let place = Place::new();
    let host = place.host();
    run(async {
        let session = host.client.open(json!({})).await;
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "0" } });
        let call = |id: u32, tool: &str, arguments: Value| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
        let lines = [
            json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello }),
            json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }),
            call(2, "process_start", json!({ "command": "sleep 1000" })),
        ];
        let input: String = lines.iter().map(|line| format!("{line}\n")).collect();
        // It is left standing once its input has ended: what it was asked is done first.
        let script = "(cat; sleep 1) | \"$0\" mcp";
        let body = json!({
            "argv": ["sh", "-c", script, env!("CARGO_BIN_EXE_hostler")], "stdin": input,
        });
        let ran = host
            .client
            .post(&format!("/v1/sessions/{session}/run"), body)
            .await
            .expect(200);
        let stdout = ran["stdout"].as_str().expect("its output");
        let answers: Vec<Value> = stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        let started = answers
            .iter()
            .find(|answer| answer["id"] == 2)
            .expect("an answer");
        assert_eq!(started["result"]["isError"], false, "{ran}");
        let info = host
            .client
            .get(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        assert_eq!(info["background"], 1, "{info}");
        host.client
            .delete(&format!("/v1/sessions/{session}"))
            .await
            .expect(200);
        place.all_gone();
    });
}

#[test]
fn without_a_session_it_does_not_start() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_hostler"))
        .arg("mcp")
        .env_remove("HOSTLER_SESSION")
        .output()
        .expect("hostler");
    let line = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert!(
        line.lines().count() == 1 && line.contains("HOSTLER_SESSION"),
        "{line}"
    );
}

fn run_for<T>(test: impl Future<Output = T>) -> T {
    let mut found = None;
    run(async { found = Some(test.await) });
    found.expect("it has run")
}
