//! `hostler attach`: a viewer of a terminal, who may come and go.

use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::json;

use super::api::Process;
use super::control::Control;
use super::error::{Failure, Result};
use super::exec;
use super::follow::{self, Ending, Follow};
use super::host::{Host, part, understand};
use super::keys::{self, Keys};
use super::relay::Relay;
use super::{Place, remote, resolve, show, streams, tty};

/// How much of what was shown before is looked through.
const BEFORE: u64 = 1 << 20;

/// What `hostler attach` is told.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    #[command(flatten)]
    place: Place,
    /// The keys that detach, typed one after the other, with commas between; `none`: nothing does
    #[arg(long, value_name = "KEYS", default_value = keys::DEFAULT)]
    pub(super) detach_keys: Keys,
    /// A session, for its newest terminal or a shell on a new one; or SESSION/TERMINAL, or a terminal
    #[arg(value_name = "SESSION[/TERMINAL]")]
    pub(super) target: String,
}

/// Attaches, and returns what to exit with: the process's status, or 0 when the viewer leaves before.
pub(crate) async fn run(attach: &Attach) -> Result<u8> {
    if let Some(address) = attach.place.remote()? {
        return remote::attach::run(address, attach).await;
    }
    let mut host = attach.place.host()?;
    let process = find(&mut host, &attach.target).await?;
    let terminal = process.is_terminal();
    if terminal {
        at_terminal()?;
    }
    let before = match terminal {
        true => Some(before(&mut host, &process).await?),
        false => None,
    };
    let signals = super::signals::receive()?;
    let path = format!("/v1/processes/{}/attach", part(&process.id));
    let relay = Relay::open(&mut host, &path, None).await?;
    if !terminal {
        note(&format!(
            "[{} has no terminal: lines that you type go to its input, Ctrl-C detaches]",
            process.id
        ));
    }
    let control = Control::new(host.another(), &process.id);
    let follow = Follow {
        host: &mut host,
        relay,
        signals,
        first: None,
        process: Some(process.id.clone()),
        control: Some(control),
        input: true,
        terminal,
        viewer: true,
        before,
        detach: Some(&attach.detach_keys),
    };
    match follow::run(follow).await {
        Ok(Ending::Exit(exit)) => {
            note(&format!("[{}]", exit.shown()));
            Ok(exit.status())
        }
        Ok(Ending::Detached) => {
            note("[detached]");
            Ok(0)
        }
        Ok(Ending::Stopped) => Err(Failure::Stopped),
        Err(failure) => {
            if terminal {
                note("");
            }
            Err(failure)
        }
    }
}

/// Makes sure that there is a terminal here.
pub(super) fn at_terminal() -> Result<()> {
    match tty::stdin_is() && tty::stdout_is() {
        true => Ok(()),
        false => Err(Failure::Unclear(
            "there is no terminal here to attach (`hostler logs -f` shows what it writes, `hostler input` types)"
                .into(),
        )),
    }
}

/// Says how it came to an end, on a line of its own.
pub(super) fn note(text: &str) {
    // Nobody to hear it is no failure.
    let start = if text.is_empty() { "" } else { "\r\n" };
    let line = format!("{start}{}\r\n", show::plain(text));
    let _ = streams::put(rustix::stdio::stderr(), line.as_bytes());
}

/// The end of what a terminal has shown so far. The host shows the last screenful again; what was set before is set by this.
async fn before(host: &mut Host, process: &Process) -> Result<(u64, Vec<u8>)> {
    let start = process.output_bytes.saturating_sub(BEFORE);
    let path = format!(
        "/v1/processes/{}/output?from={start}&limit={BEFORE}",
        part(&process.id)
    );
    let answer = host.call(Method::GET, &path, Bytes::new()).await?;
    let start = answer.number("hostler-offset").unwrap_or(start);
    Ok((start, answer.body.to_vec()))
}

async fn find(host: &mut Host, target: &str) -> Result<Process> {
    if target.contains('/') {
        return resolve::process(host, target).await;
    }
    match resolve::processes_of(host, target).await {
        Ok(all) => {
            let terminals = all.into_iter().filter(|one| one.is_terminal());
            let living = terminals.filter(|one| !one.has_ended());
            match living.max_by_key(|one| one.started) {
                Some(newest) => Ok(newest),
                None => shell(host, target).await,
            }
        }
        // Perhaps it is a terminal's own name.
        Err(Failure::Unclear(line)) if line.starts_with("there is no") => {
            match resolve::process(host, target).await {
                Err(Failure::Unclear(other)) if other.starts_with("there is no") => Err(
                    Failure::Unclear(format!("there is no session and no process `{target}`")),
                ),
                answer => answer,
            }
        }
        Err(failure) => Err(failure),
    }
}

/// A shell on a new terminal.
async fn shell(host: &mut Host, session: &str) -> Result<Process> {
    if !(tty::stdin_is() && tty::stdout_is()) {
        return Err(Failure::Unclear(format!(
            "session `{session}` has no terminal, and there is none here for a shell"
        )));
    }
    let shell = std::env::var("SHELL").ok().filter(|path| !path.is_empty());
    let shell = shell.unwrap_or_else(|| "/bin/sh".into());
    let (rows, cols) = tty::size().unwrap_or((24, 80));
    let mut body = json!({"argv": [shell], "tty": {"rows": rows, "cols": cols}, "stdin": true});
    let env = exec::environment(&["TERM".into(), "COLORTERM".into()])?;
    if !env.is_empty() {
        body["env"] = env.into();
    }
    understand(exec::start(host, session, &body).await?)
}
