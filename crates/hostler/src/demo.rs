//! `hostler demo`: the main job, before one's eyes. A host on a temporary state directory, a session, an agent in it that is
//! prompted to run a command which escapes, the tree as the kernel sees it, the close and its report, and nothing left.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use crate::agents::peer::Peer;
use crate::agents::temporary::Temporary;
use crate::client::show;
use crate::run::say;

/// `hostler demo` has no options.
#[derive(Debug, Args)]
pub(crate) struct Demo {}

/// A command that leaves two processes behind: one in a session of its own, one that ignores SIGHUP.
const PROMPT: &str =
    "setsid sleep 1000 & nohup sleep 2000 >/dev/null 2>&1 & echo 'the command is over'";

/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Shows it; what to exit with.
pub(crate) fn run(_: &Demo) -> u8 {
    match play() {
        Ok(0) => 0,
        Ok(left) => {
            say(&format!("{left} processes are left, which must not be"));
            1
        }
        Err(error) => {
            say(&error);
            1
        }
    }
}

/// Says something to whoever looks on; nobody to read it is no reason to stop.
fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Shows a command and what it prints.
fn show_command(host: &Temporary, words: &[&str]) -> Result<(), String> {
    tell(&format!("$ hostler {}\n", words.join(" ")));
    let output = host.output(words)?;
    tell(&indented(&output));
    Ok(())
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Plays it; how many processes are left, by the kernel.
fn play() -> Result<usize, String> {
    let keep = ["PATH", "HOME", "USER", "LANG", "TMPDIR"];
    let mut env: BTreeMap<String, String> = keep
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
        .collect();
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    // So that the agent is shown by the name of the program, and not by a long path.
    let name = program.file_name().unwrap_or_default().to_owned();
    if let Some(dir) = program.parent().and_then(|dir| dir.to_str()) {
        let path = env.entry("PATH".into()).or_default();
        *path = format!("{dir}:{path}");
    }
    tell("Starting a host of its own, on a temporary directory.\n\n");
    let host = Temporary::start(&env)?;
    let state = host.dir().display().to_string();
    tell(&format!("$ hostler serve --state-dir {state} &\n"));
    tell("$ hostler session new --name demo\n");
    let session = host.json(&[
        "session", "new", "--json", "--name", "demo", "--cwd", "/tmp",
    ])?;
    tell(&format!("  {}\n", session["id"].as_str().unwrap_or("demo")));

    tell("\nThe agent `shell` runs in the session, and does what it is prompted:\n");
    tell(&format!("> {PROMPT}\n"));
    let mut command = host.command(["exec", "-T", "--name", "agent", "demo", "--"]);
    command.arg(name).arg("__agent-shell");
    let mut agent = Peer::start(command)?;
    prompt(&mut agent)?;

    tell("\nIt says that it is done. What the kernel sees in the session:\n");
    show_command(&host, &["ps", "--tree", "demo"])?;
    let seen = pids(&host.json(&["ps", "--json", "demo"])?);
    tell(
        "The two sleeps have escaped from their command. They have not escaped from the session:\n\n",
    );
    show_command(&host, &["session", "close", "demo"])?;
    drop(agent);
    let left = seen.iter().filter(|one| lives(**one)).count();
    tell(&format!(
        "\nOf the {} processes that were there, {} are left: asked of the kernel, one by one.\n",
        seen.len(),
        if left == 0 {
            "none".into()
        } else {
            left.to_string()
        }
    ));
    drop(host);
    tell("The host has stopped, and its directory is gone.\n");
    Ok(left)
}

fn prompt(agent: &mut Peer) -> Result<(), String> {
    let params = json!({"protocolVersion": 1, "clientCapabilities": {}});
    agent.call("initialize", &params, PATIENCE, |_| {})?;
    let params = json!({"cwd": "/tmp", "mcpServers": []});
    let opened = agent.call("session/new", &params, PATIENCE, |_| {})?;
    let text = json!([{"type": "text", "text": PROMPT}]);
    let params = json!({"sessionId": opened["sessionId"], "prompt": text});
    let mut said = String::new();
    agent.call("session/prompt", &params, PATIENCE, |message| {
        let update = &message["params"]["update"];
        if update["sessionUpdate"] == "agent_message_chunk" {
            said += update["content"]["text"].as_str().unwrap_or_default();
        }
    })?;
    for line in said.lines() {
        tell(&indented(&show::plain(line)));
    }
    Ok(())
}

/// The processes of a census: pid and start.
fn pids(census: &Value) -> Vec<(u64, u64)> {
    let of = |process: &Value| Some((process["pid"].as_u64()?, process["start_time"].as_u64()?));
    census
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(of)
        .collect()
}

/// Whether the kernel still has it.
pub(crate) fn lives((pid, start): (u64, u64)) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let now = stat.ok().and_then(|stat| {
        let field = stat.rsplit_once(") ")?.1.split(' ').nth(19)?;
        field.parse::<u64>().ok()
    });
    now == Some(start)
}
