//! What is done with one process: signal, end, wait for, feed, keep.

use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::api::{Process, Session};
use super::error::{Failure, Result};
use super::host::understand;
use super::signals::{self, Signal};
use super::{Place, resolve, show, streams};
use hostler_run::options::Time;

/// Which process to signal.
#[derive(Debug, Args)]
pub(crate) struct Kill {
    #[command(flatten)]
    place: Place,
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "TERM")]
    signal: Signal,
    /// Signal the process group that it leads
    #[arg(short, long)]
    group: bool,
    /// The processes
    #[arg(required = true, value_name = "PROCESS")]
    processes: Vec<String>,
}

/// Which process to end.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    place: Place,
    /// Time between SIGTERM and SIGKILL (without: the session's)
    #[arg(long, value_name = "TIME")]
    grace: Option<Time>,
    /// Print how it ended, as JSON
    #[arg(long)]
    json: bool,
    /// The process
    process: String,
}

/// Which process to wait for.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    place: Place,
    /// No longer than this; then the status is 1
    #[arg(long, value_name = "TIME")]
    timeout: Option<Time>,
    /// Print how it ended, as JSON
    #[arg(long)]
    json: bool,
    /// The process
    process: String,
}

/// Which process to feed.
#[derive(Debug, Args)]
pub(crate) struct Input {
    #[command(flatten)]
    place: Place,
    /// At the end, close its standard input (on a terminal, type Ctrl-D)
    #[arg(long)]
    eof: bool,
    /// The process
    process: String,
}

/// Which process to keep.
#[derive(Debug, Args)]
pub(crate) struct Keep {
    #[command(flatten)]
    place: Place,
    /// Print the session that has it, as JSON
    #[arg(long)]
    json: bool,
    /// The process
    process: String,
    /// The name of the session that it is handed to
    name: String,
}

/// Signals it.
pub(crate) async fn kill(kill: &Kill) -> Result<u8> {
    let mut host = kill.place.host()?;
    let mut body = json!({"signal": signals::word(kill.signal.0)});
    if kill.group {
        body["group"] = true.into();
    }
    let mut failed = None;
    for text in &kill.processes {
        let done = async {
            let process = resolve::process(&mut host, text).await?;
            let path = format!("/v1/processes/{}/signal", process.id);
            host.json(Method::POST, &path, Some(&body)).await
        };
        match done.await {
            Ok(_) => {}
            // The others are signalled all the same.
            Err(failure @ (Failure::Refused { .. } | Failure::Unclear(_))) => {
                if let Some(earlier) = failed.replace(failure) {
                    hostler_run::say(&show::plain(&earlier.to_string()));
                }
            }
            Err(failure) => return Err(failure),
        }
    }
    failed.map_or(Ok(0), Err)
}

/// Ends it.
pub(crate) async fn stop(stop: &Stop) -> Result<u8> {
    let mut host = stop.place.host()?;
    let process = resolve::process(&mut host, &stop.process).await?;
    let grace = match &stop.grace {
        Some(grace) => format!("?grace={}", grace.span.as_secs_f64()),
        None => String::new(),
    };
    let path = format!("/v1/processes/{}{grace}", process.id);
    let value = host.json(Method::DELETE, &path, None).await?;
    if stop.json {
        show::print_json(&value)?;
        return Ok(0);
    }
    let process: Process = understand(value)?;
    let how = process
        .exit
        .map_or_else(|| process.state.clone(), |exit| exit.shown());
    show::print(&format!("{} {how}\n", process.id))?;
    Ok(0)
}

/// Waits for it.
pub(crate) async fn wait(wait: &Wait) -> Result<u8> {
    let mut host = wait.place.host()?;
    let process = resolve::process(&mut host, &wait.process).await?;
    let timeout = match &wait.timeout {
        Some(timeout) => format!("?timeout={}", timeout.span.as_secs_f64()),
        None => String::new(),
    };
    let path = format!("/v1/processes/{}/wait{timeout}", process.id);
    let value = match host.get(&path).await {
        Err(Failure::Refused { code, .. }) if code == "timeout" => {
            let shown = wait.timeout.as_ref().map(ToString::to_string);
            let shown = shown.unwrap_or_default();
            return Err(Failure::Unclear(format!(
                "{} still runs after {shown}",
                process.id
            )));
        }
        answer => answer?,
    };
    if wait.json {
        show::print_json(&value)?;
    }
    let process: Process = understand(value)?;
    match process.exit {
        Some(exit) => Ok(exit.status()),
        None => Err(Failure::Unclear(format!(
            "{} was never started",
            process.id
        ))),
    }
}

/// Feeds it.
pub(crate) async fn input(input: &Input) -> Result<u8> {
    let mut host = input.place.host()?;
    let process = resolve::process(&mut host, &input.process).await?;
    let path = format!("/v1/processes/{}/input", process.id);
    let mut typed = streams::input(&[])?;
    while let Some(bytes) = typed.recv().await {
        host.call(Method::POST, &path, Bytes::from(bytes)).await?;
    }
    if input.eof {
        let path = format!("{path}?eof=true");
        host.call(Method::POST, &path, Bytes::new()).await?;
    }
    Ok(0)
}

/// Keeps it.
pub(crate) async fn keep(keep: &Keep) -> Result<u8> {
    let mut host = keep.place.host()?;
    let process = resolve::process(&mut host, &keep.process).await?;
    let path = format!("/v1/processes/{}/keep", process.id);
    let body: Value = json!({"name": keep.name});
    let value = host.json(Method::POST, &path, Some(&body)).await?;
    if keep.json {
        show::print_json(&value)?;
    } else {
        let session: Session = understand(value)?;
        show::print(&format!("{}\n", session.id))?;
    }
    Ok(0)
}
