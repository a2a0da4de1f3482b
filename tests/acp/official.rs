//! The official Python client, unchanged, over its three transports. `official/setup` installs it.

use std::process::Command;

use crate::support::Place;

#[test]
fn the_python_client_over_stdio_http_and_websocket() {
    let dir = std::env::var("HOSTLER_TEST_ACP_CLIENTS").unwrap_or_default();
    let python = format!("{dir}/venv/bin/python");
    if !std::path::Path::new(&python).exists() {
        println!(
            "skipped: HOSTLER_TEST_ACP_CLIENTS names no directory that tests/acp/official/setup has filled"
        );
        return;
    }
    let place = Place::new();
    let host = place.host();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/acp/official/client.py"
    );
    let (tcp, token) = (&host.client.tcp, &host.client.token);
    let state = format!("HOSTLER_STATE_DIR={}", place.state_dir().display());
    for words in [
        vec!["http".to_owned(), format!("http://{tcp}/acp?token={token}")],
        vec!["ws".to_owned(), format!("ws://{tcp}/acp?token={token}")],
        [
            "stdio",
            "env",
            &state,
            env!("CARGO_BIN_EXE_hostler"),
            "acp",
            "--agent",
            "shell",
        ]
        .map(str::to_owned)
        .to_vec(),
    ] {
        let out = Command::new(&python).arg(script).args(&words).output();
        let out = out.expect("python");
        assert!(out.status.success(), "{}: {out:?}", words[0]);
    }
}
