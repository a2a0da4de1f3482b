//! What an agent of a real host is offered, started as the agent would: with that and nothing else.

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use rmcp::ServiceExt;
use rmcp::model::CallToolRequestParams;
use serde_json::{Value, json};
use tokio::net::unix::pipe;

use crate::support::{Place, long, run};

/// Writes the parameters of `session/new` down.
const AGENT: &str = r#"
id() { i="${1#*\"id\":}"; i="${i%%,*}"; }
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$i" "$1"; }
read -r line; id "$line"; answer '{"protocolVersion":1}'
read -r line; printf '%s\n' "$line" >"$NEW"; id "$line"; answer '{"sessionId":"s"}'
while read -r line; do :; done
"#;

#[test]
fn it_lists_the_processes_of_the_session() {
    let place = Place::new();
    let new = place.dir.path().join("new");
    let config = place.dir.path().join("config.toml");
    let text = json!(AGENT).to_string();
    let table = format!(
        "[agents.told]\ncommand = ['/bin/sh', '-c', {text}]\nenv = {{ NEW = '{}' }}\n",
        new.display()
    );
    std::fs::write(&config, table).expect("a configuration");
    let host = place.host_with(&["--config", config.to_str().expect("text")]);
    run(async {
        let asked = json!({ "agent": "told", "session": { "cwd": "/tmp" } });
        let opened = host.client.post("/v1/conversations", asked).await;
        let session = opened.expect(201)["session"].as_str().map(str::to_owned);
        let session = session.expect("an id");
        let started = host.client.start(&session, "exec sleep 1000").await;
        let line = std::fs::read_to_string(&new).expect("what it was told");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        let server = &told["params"]["mcpServers"][0];
        assert_eq!(server["name"], "hostler", "{told}");
        let words = |value: &Value| -> Vec<String> {
            serde_json::from_value(value.clone()).expect("texts")
        };
        let mut command = Command::new(server["command"].as_str().expect("a program"));
        command.args(words(&server["args"])).env_clear();
        for variable in server["env"].as_array().expect("a list") {
            let part = |name: &str| variable[name].as_str().expect("text").to_owned();
            command.env(part("name"), part("value"));
        }
        // What SDKs give to every server.
        command.env("PATH", std::env::var("PATH").expect("a path"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("hostler mcp");
        let stdout: OwnedFd = child.stdout.take().expect("a pipe").into();
        let stdin: OwnedFd = child.stdin.take().expect("a pipe").into();
        let pipes = (
            pipe::Receiver::from_owned_fd(stdout).expect("a pipe"),
            pipe::Sender::from_owned_fd(stdin).expect("a pipe"),
        );
        let mut service = ().serve(pipes).await.expect("a handshake");
        let all = json!({ "all": true });
        let call = CallToolRequestParams::new("process_list")
            .with_arguments(all.as_object().expect("an object").clone());
        let answer = tokio::time::timeout(long(), service.call_tool(call));
        let answer = answer.await.expect("in time").expect("an answer");
        let listed = answer.structured_content.expect("a structure").to_string();
        assert!(listed.contains(&started), "{listed}");
        service.close().await.expect("closed");
        child.wait().expect("its end");
    });
    host.stop();
    place.all_gone();
}
