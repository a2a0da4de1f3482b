//! `hostler exec`: a command in a session, as though it ran here.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value, json};

use super::api::Process;
use super::attach;
use super::error::{Failure, Result};
use super::follow::{self, Ending, Follow};
use super::host::{Host, part, understand};
use super::keys::Keys;
use super::relay::Relay;
use super::{Place, resolve, show, tty};

/// What `hostler exec` is told.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    place: Place,
    /// On a terminal (without -t or -T: if standard input and output are terminals)
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,
    /// Not on a terminal
    #[arg(short = 'T', long, overrides_with = "tty")]
    no_tty: bool,
    /// With -d: keep its standard input open, for `hostler input` (without -d it always is)
    #[arg(short, long, conflicts_with = "no_stdin")]
    interactive: bool,
    /// Give it nothing to read, and leave this standard input alone
    #[arg(short = 'n', long)]
    no_stdin: bool,
    /// With a terminal: keys that leave it to itself, as in `hostler attach`
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<Keys>,
    /// In the background: print its id and return
    #[arg(short, long)]
    detach: bool,
    /// In the background, and handed to a session of its own of this name, which outlives this one
    #[arg(long, value_name = "NAME")]
    keep: Option<String>,
    /// A name for listings and commands
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where it starts (without: where the session's processes do)
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A variable for it, over the session's; without a value, this command's own
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// With -d: start it again when it fails
    #[arg(long, value_enum, value_name = "WHEN")]
    restart: Option<Restart>,
    /// With -d: print what was started as JSON
    #[arg(long)]
    json: bool,
    /// The session
    #[arg(value_name = "SESSION")]
    session: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// When a process is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Restart {
    /// Never
    No,
    /// When it ends by a signal or with another code than 0
    OnFailure,
}

impl Exec {
    fn is_background(&self) -> bool {
        self.detach || self.keep.is_some()
    }

    fn check(&self) -> Result<()> {
        let only = |set: bool, option: &str| {
            if set && !self.is_background() {
                return Err(Failure::Usage(format!("{option} is for -d")));
            }
            Ok(())
        };
        only(self.json, "--json")?;
        only(self.restart.is_some(), "--restart")
    }

    fn on_terminal(&self) -> bool {
        if self.is_background() {
            return self.tty;
        }
        self.tty || !self.no_tty && !self.no_stdin && tty::stdin_is() && tty::stdout_is()
    }

    fn request(&self, terminal: Option<(u16, u16)>) -> Result<Map<String, Value>> {
        let mut request = Map::new();
        request.insert("argv".into(), json!(self.command));
        let mut env = environment(&self.env)?;
        if let Some((rows, cols)) = terminal {
            request.insert("tty".into(), json!({"rows": rows, "cols": cols}));
            // What the terminal is, which is this one.
            for name in ["TERM", "COLORTERM"] {
                if let Ok(value) = std::env::var(name) {
                    env.entry(name).or_insert(value.into());
                }
            }
        }
        if !env.is_empty() {
            request.insert("env".into(), Value::Object(env));
        }
        if let Some(cwd) = &self.cwd {
            request.insert("cwd".into(), json!(directory(cwd)?));
        }
        let name = self.name.as_ref();
        if let Some(name) = name {
            request.insert("name".into(), json!(name));
        }
        let stdin = if self.is_background() {
            self.interactive
        } else {
            !self.no_stdin
        };
        request.insert("stdin".into(), json!(stdin));
        if self.restart == Some(Restart::OnFailure) {
            request.insert("restart".into(), json!({"when": "on_failure"}));
        }
        if let Some(keep) = &self.keep {
            request.insert("keep".into(), json!(keep));
        }
        Ok(request)
    }
}

/// Runs it and returns what to exit with.
pub(crate) async fn run(exec: &Exec) -> Result<u8> {
    exec.check()?;
    let mut host = exec.place.host()?;
    let terminal = exec.on_terminal().then(|| tty::size().unwrap_or((24, 80)));
    let request = exec.request(terminal)?;
    if exec.is_background() {
        let body = Value::Object(request);
        let value = start(&mut host, &exec.session, &body).await?;
        if exec.json {
            show::print_json(&value)?;
        } else {
            let process: Process = understand(value)?;
            show::print(&format!("{}\n", process.id))?;
        }
        return Ok(0);
    }
    // Before anything is started: what comes from now on is passed on, or ends this and what was started.
    let signals = super::signals::receive()?;
    let first = Value::Object(request);
    let open = |id: &str| format!("/v1/sessions/{}/exec", part(id));
    let mut path = open(&exec.session);
    let connected = Relay::open(&mut host, &path, Some(first.clone())).await;
    let relay = match connected {
        Err(refusal) => {
            path = open(&resolve::session(&mut host, &exec.session, refusal).await?);
            Relay::open(&mut host, &path, Some(first.clone())).await?
        }
        Ok(relay) => relay,
    };
    let follow = Follow {
        host: &mut host,
        relay,
        signals,
        first: Some((path, first)),
        process: None,
        control: None,
        input: !exec.no_stdin,
        terminal: terminal.is_some(),
        viewer: false,
        before: None,
        detach: exec.detach_keys.as_ref(),
    };
    match follow::run(follow).await? {
        Ending::Exit(exit) => Ok(exit.status()),
        Ending::Detached => {
            attach::note("[detached]");
            Ok(0)
        }
        Ending::Stopped => Err(Failure::Stopped),
    }
}

/// Starts a process in the background.
pub(crate) async fn start(host: &mut Host, session: &str, body: &Value) -> Result<Value> {
    let path = |id: &str| format!("/v1/sessions/{}/processes", part(id));
    match host.json(Method::POST, &path(session), Some(body)).await {
        Err(refusal) => {
            let id = resolve::session(host, session, refusal).await?;
            host.json(Method::POST, &path(&id), Some(body)).await
        }
        done => done,
    }
}

/// `KEY=VALUE`s as JSON; a `KEY` alone has this process's value, or none if there is none.
pub(crate) fn environment(words: &[String]) -> Result<Map<String, Value>> {
    let mut env = Map::new();
    for word in words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word.as_str(), std::env::var(word).ok()),
        };
        if key.is_empty() {
            return Err(Failure::Usage(format!(
                "invalid value '{word}' for '--env': KEY=VALUE or KEY is allowed"
            )));
        }
        if let Some(value) = value {
            env.insert(key.into(), value.into());
        }
    }
    Ok(env)
}

/// A directory as the host can find it: from the root.
pub(crate) fn directory(path: &std::path::Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|error| Failure::io("find the current directory", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    fn exec(words: &[&str]) -> Exec {
        let words = [&["exec"], words].concat();
        Line::try_parse_from(words)
            .map(|line| line.exec)
            .expect("a command line")
    }

    #[test]
    fn the_commands_own_options_are_its_own() {
        let exec = exec(&["s-1", "ls", "-t", "--json", "--", "-d"]);
        assert_eq!(exec.command, ["ls", "-t", "--json", "--", "-d"]);
        assert!(!exec.tty && !exec.json && !exec.detach);
    }

    #[test]
    fn a_request_has_what_was_asked_for_and_no_more() {
        let plain = exec(&["s-1", "--", "true"]).request(None);
        assert_eq!(
            plain.map(Value::Object).ok(),
            Some(json!({"argv": ["true"], "stdin": true}))
        );
        let words = [
            "-d",
            "--name",
            "n",
            "--cwd",
            "/tmp",
            "-e",
            "A=b=c",
            "--restart",
            "on-failure",
            "--keep",
            "k",
            "s-1",
            "--",
            "x",
        ];
        assert_eq!(
            exec(&words).request(None).map(Value::Object).ok(),
            Some(json!({
                "argv": ["x"], "name": "n", "cwd": "/tmp", "env": {"A": "b=c"},
                "restart": {"when": "on_failure"}, "keep": "k", "stdin": false
            }))
        );
    }

    #[test]
    fn what_goes_with_the_background_only_is_refused_without() {
        assert!(exec(&["--json", "s", "x"]).check().is_err());
        assert!(exec(&["--json", "-d", "s", "x"]).check().is_ok());
        assert!(environment(&["=x".into()]).is_err());
    }
}
