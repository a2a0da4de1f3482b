//! HTTP clients that vanish.

use serde_json::{Value, json};

use crate::peer::{eventually, marked, prompt};
use crate::support::{Client, Host, Place, run};
use http_body_util::Full;
use hyper::{Method, Request};

async fn post(client: &Client, headers: &[(&str, &str)], body: Value) -> crate::support::Answer {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri("/acp")
        .header("host", "localhost")
        .header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request
        .body(Full::new(body.to_string().into()))
        .expect("a request");
    Client::send(client.unix().await, request).await
}

#[test]
fn a_killed_clients_session_is_gone_after_its_lease() {
    run(async {
        let place = Place::new();
        let mut command = place.command(&[]);
        command
            .env("HOSTLER_POLICY_ON_DISCONNECT", "close")
            .env("HOSTLER_ACP_LEASE", "3");
        let host = Host::spawn(command, &place.mark);
        let client = &host.client;
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": 1}});
        let answer = post(client, &[], hello).await;
        assert_eq!(answer.expect(200)["result"]["protocolVersion"], 1);
        let id = answer.header("acp-connection-id").to_owned();
        let id = [("acp-connection-id", id.as_str())];
        // A stream, read by a process that is killed.
        let mut reader = std::process::Command::new("curl")
            .args(["-sN", "--unix-socket"])
            .arg(&client.socket)
            .args([
                "-H",
                "accept: text/event-stream",
                "-H",
                &format!("acp-connection-id: {}", id[0].1),
            ])
            .arg("http://localhost/acp")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("curl");
        let new = json!({"jsonrpc": "2.0", "id": 1, "method": "session/new", "params": {"cwd": "/tmp", "mcpServers": []}});
        assert_eq!(post(client, &id, new).await.status, 202);
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(
            reader.stdout.take().expect("stdout"),
        ));
        let line = tokio::task::spawn_blocking(move || {
            lines.find_map(|line| line.ok()?.strip_prefix("data: ").map(str::to_owned))
        });
        let line = line.await.expect("a task").expect("an event");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        let session = answer["result"]["sessionId"]
            .as_str()
            .expect("a session")
            .to_owned();
        let turn = json!({"jsonrpc": "2.0", "id": 2, "method": "session/prompt", "params": prompt(&session, &marked(&place))});
        assert_eq!(post(client, &id, turn).await.status, 202);
        eventually("it runs", async || !place.living().is_empty()).await;
        // It lives for longer than the lease, for the stream is open.
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        assert!(!place.living().is_empty());
        reader.kill().expect("killed");
        reader.wait().expect("waited");
        place.all_gone();
        let list = json!({"jsonrpc": "2.0", "id": 3, "method": "session/list"});
        eventually("the connection is gone", async || {
            post(client, &id, list.clone()).await.status == 404
        })
        .await;
    });
}

#[test]
fn what_is_no_message_is_answered_at_once() {
    run(async {
        let place = Place::new();
        let host = place.host();
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": 1}});
        let answer = post(&host.client, &[], hello).await;
        let id = answer.header("acp-connection-id").to_owned();
        let id = [("acp-connection-id", id.as_str())];
        let answer = post(&host.client, &id, json!([1])).await;
        assert_eq!(answer.expect(400)["error"]["code"], -32600);
        let of_none = json!({"jsonrpc": "2.0", "id": 3, "method": "session/prompt", "params": {}});
        assert_eq!(post(&host.client, &id, of_none).await.status, 400);
        let none = [("acp-connection-id", "c-none")];
        assert_eq!(post(&host.client, &none, json!({})).await.status, 404);
    });
}
