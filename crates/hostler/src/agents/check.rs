//! `hostler agents check`: an agent is started in a host of its own, spoken to, and ended; what it needs and leaves is counted by
//! the kernel.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use hostler_agent::AgentSpec;
use serde_json::{Value, json};

use super::peer::Peer;
use super::temporary::Temporary;
use super::{Refused, Source, environment, found};
use crate::client::show;
use crate::serve::Configured;

/// What `hostler agents check` is told.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    source: Source,
    /// Where it works [default: here]
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The agent's name, as in `hostler agents ls`
    name: String,
}

/// What was found out, so far as it came.
#[derive(Debug, Default)]
struct Found {
    initialize: Option<Value>,
    times: Vec<(&'static str, Duration)>,
    processes: usize,
    rss: u64,
    pss: Option<u64>,
    /// What is left of its processes, by the kernel.
    remaining: Option<u64>,
    survivors: Vec<u64>,
    error: Option<String>,
}

/// Checks one.
pub(super) fn run(check: &Check) -> Result<u8, Refused> {
    let configured = crate::serve::configured(check.source.config.as_deref())?;
    let name = &check.name;
    let spec = configured.agents.get(name).ok_or_else(|| {
        let names: Vec<&str> = configured.agents.iter().map(|(name, _)| name).collect();
        let all = names.join(", ");
        (format!("there is no agent `{name}`; there are {all}"), 1)
    })?;
    let mut found = Found::default();
    if let Err(error) = examine(check, &configured, spec, &mut found) {
        found.error = Some(error);
    }
    let shown = match check.json {
        true => show::print_json(&as_json(name, spec, &found)),
        false => show::print(&as_lines(name, spec, &found)),
    };
    shown.map_err(|failure| (failure.to_string(), failure.status()))?;
    match found.error {
        Some(error) => Err((format!("agent `{name}`: {error}"), 1)),
        None => Ok(0),
    }
}

fn examine(
    check: &Check,
    configured: &Configured,
    spec: &AgentSpec,
    out: &mut Found,
) -> Result<(), String> {
    let env = environment(configured, spec);
    if found(spec, &env).is_none() {
        let program = spec.command.first().map_or("", String::as_str);
        return Err(format!("its program `{program}` is not found"));
    }
    let cwd = match check.cwd.as_ref().or(spec.cwd.as_ref()) {
        Some(cwd) => std::path::absolute(cwd),
        None => std::env::current_dir(),
    };
    let cwd = cwd.map_err(|error| format!("where to work cannot be told: {error}"))?;
    let cwd = cwd.to_str().ok_or("the directory's name is not UTF-8")?;

    let host = Temporary::start(&env)?;
    let session = host.json(&["session", "new", "--json", "--name", "check", "--cwd", cwd])?;
    let session = session["id"]
        .as_str()
        .ok_or("the session has no id")?
        .to_owned();
    let mut command = host.command(["exec", "-T", &session, "--"]);
    command.args(&spec.command);
    let mut peer = Peer::start(command)?;
    let talked = talk(&mut peer, spec, cwd, out);
    let seen = measure(&host, &session, out);
    let talked = talked.and_then(|()| goodbye(&mut peer, spec, out));
    let closed = close(&host, &session, seen.as_deref().unwrap_or_default(), out);
    drop(peer);
    talked?;
    seen?;
    closed
}

fn timed<T>(
    out: &mut Found,
    what: &'static str,
    work: impl FnOnce() -> Result<T, String>,
) -> Result<T, String> {
    let start = Instant::now();
    let done = work()?;
    out.times.push((what, start.elapsed()));
    Ok(done)
}

fn talk(peer: &mut Peer, spec: &AgentSpec, cwd: &str, out: &mut Found) -> Result<(), String> {
    let within = spec.handshake_timeout;
    let params = json!({
        "protocolVersion": 1,
        "clientCapabilities": {"fs": {"readTextFile": false, "writeTextFile": false}, "terminal": false},
        "clientInfo": {"name": "hostler", "title": "Hostler", "version": env!("CARGO_PKG_VERSION")},
    });
    let answer = timed(out, "initialize", || {
        peer.call("initialize", &params, within, |_| {})
    })?;
    if answer["protocolVersion"] != 1 {
        let version = &answer["protocolVersion"];
        return Err(format!("it speaks version {version} of ACP, not 1"));
    }
    out.initialize = Some(answer);
    let params = json!({"cwd": cwd, "mcpServers": []});
    let answer = timed(out, "session/new", || {
        peer.call("session/new", &params, within, |_| {})
    })?;
    let id = answer["sessionId"].as_str();
    let id = id.ok_or("its answer to session/new names no session")?;
    if let Some(initialize) = &mut out.initialize {
        initialize["sessionId"] = json!(id);
    }
    Ok(())
}

fn goodbye(peer: &mut Peer, spec: &AgentSpec, out: &mut Found) -> Result<(), String> {
    let Some(initialize) = out.initialize.clone() else {
        return Ok(());
    };
    let can = &initialize["agentCapabilities"]["sessionCapabilities"]["close"];
    if can.is_null() {
        return Ok(());
    }
    let params = json!({"sessionId": initialize["sessionId"]});
    timed(out, "session/close", || {
        peer.call("session/close", &params, spec.handshake_timeout, |_| {})
    })?;
    Ok(())
}

/// A process, by its pid and its start.
type Seen = (u64, u64);

fn measure(host: &Temporary, session: &str, out: &mut Found) -> Result<Vec<Seen>, String> {
    let census = host.json(&["ps", "--json", session])?;
    let mut seen = Vec::new();
    let mut pss = Some(0);
    for process in census.as_array().into_iter().flatten() {
        let pid = process["pid"].as_u64().unwrap_or_default();
        seen.push((pid, process["start_time"].as_u64().unwrap_or_default()));
        out.rss += process["rss"].as_u64().unwrap_or_default();
        pss = pss.and_then(|sum| Some(sum + proportional(pid)?));
    }
    out.processes = seen.len();
    out.pss = pss.filter(|pss| *pss > 0);
    Ok(seen)
}

/// Its proportional set size in bytes (proc_pid_smaps_rollup(5)).
fn proportional(pid: u64) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn close(host: &Temporary, session: &str, seen: &[Seen], out: &mut Found) -> Result<(), String> {
    let report = timed(out, "close", || {
        host.json(&["session", "close", "--json", session])
    })?;
    let remaining = report["remaining"].as_u64();
    out.remaining = remaining;
    out.survivors = seen
        .iter()
        .filter(|one| crate::demo::lives(**one))
        .map(|one| one.0)
        .collect();
    match (remaining, out.survivors.as_slice()) {
        (Some(0), []) => Ok(()),
        (Some(0), left) => Err(format!("{} of its processes are still there", left.len())),
        (remaining, _) => {
            let left = remaining.unwrap_or_default();
            Err(format!("{left} of its processes could not be ended"))
        }
    }
}

fn as_json(name: &str, spec: &AgentSpec, found: &Found) -> Value {
    let initialize = found.initialize.clone().unwrap_or_default();
    let times: serde_json::Map<String, Value> = found
        .times
        .iter()
        .map(|(what, time)| ((*what).to_owned(), json!(time.as_secs_f64() * 1000.0)))
        .collect();
    json!({
        "name": name,
        "command": spec.command,
        "ok": found.error.is_none(),
        "error": found.error,
        "agent": initialize["agentInfo"],
        "protocol": initialize["protocolVersion"],
        "capabilities": initialize["agentCapabilities"],
        "processes": found.processes,
        "rss": found.rss,
        "pss": found.pss,
        "ms": times,
        "remaining": found.remaining,
        "survivors": found.survivors,
    })
}

fn as_lines(name: &str, spec: &AgentSpec, found: &Found) -> String {
    let mut lines = vec![format!("{name}: {}", show::command(&spec.command))];
    if let Some(initialize) = &found.initialize {
        let info = &initialize["agentInfo"];
        if let Some(called) = info["name"].as_str() {
            let version = info["version"].as_str().unwrap_or_default();
            lines.push(format!("  agent         {called} {version}"));
        }
    }
    for (what, time) in &found.times {
        let ms = time.as_secs_f64() * 1000.0;
        lines.push(format!("  {what:<13} {ms:.0} ms"));
    }
    if found.processes > 0 {
        let memory = match found.pss {
            Some(pss) => format!("{} (PSS), {} (RSS)", show::size(pss), show::size(found.rss)),
            None => format!("{} (RSS)", show::size(found.rss)),
        };
        let plural = if found.processes == 1 {
            "process"
        } else {
            "processes"
        };
        lines.push(format!(
            "  memory        {memory}, {} {plural}",
            found.processes
        ));
    }
    if found.remaining == Some(0) && found.survivors.is_empty() {
        lines.push("  survivors     none".into());
    }
    lines.push(String::new());
    lines.join("\n")
}
