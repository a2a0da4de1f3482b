//! `hostler session`: sessions from their opening to their close report.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde_json::{Map, Value, json};

use super::api::Session;
use super::error::{Failure, Result};
use super::exec::{directory, environment};
use super::host::{Host, part, understand};
use super::policy::Policy;
use super::report::{report, sheet};
use super::show::{self, Table, cell, left, right};
use super::{Place, remote, resolve};
use hostler_run::options::{Containment, Cpus, Size, Time};

/// What is done with sessions.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// Open a session, and print its id
    New(Box<New>),
    /// List the sessions
    Ls(Ls),
    /// Show one session
    Show(Show),
    /// Close a session: end all it owns, wait, and print the report
    Close(Close),
    /// Change when a session ends without being asked
    Set(Box<Set>),
    /// End a session's agent, and nothing else of it; it is started again at its next use
    Evict(Life),
    /// Let a session's agent forget and begin anew; the transcript stays
    Reset(Life),
    /// Open a session with a new conversation that has this one's transcript, and print its id
    Fork(Life),
}

/// A session to open.
#[derive(Debug, Args)]
pub(crate) struct New {
    #[command(flatten)]
    place: Place,
    /// A name, by which it can be found as well as by its id
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Talk to this agent in it
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Where its processes start (without: here)
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// A variable for all its processes; without a value, this command's own
    #[arg(short, long = "env", value_name = "KEY[=VALUE]")]
    env: Vec<String>,
    /// The session that it belongs to, and closes before
    #[arg(long, value_name = "SESSION")]
    parent: Option<String>,
    #[command(flatten)]
    policy: Policy,
    /// Most memory that it may use: 200M, 2G, or bytes
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// Most processes that it may have
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pids: Option<u64>,
    /// Most CPUs that it may use: 2, 0.5
    #[arg(long, value_name = "N")]
    cpu: Option<Cpus>,
    /// How to hold its processes together; `auto` is the strongest that changes nothing for them
    #[arg(long, value_enum)]
    contain: Option<Containment>,
    /// Print all about it, as JSON
    #[arg(long)]
    json: bool,
}

/// Which sessions to list.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    place: Place,
    /// Those that have closed, too
    #[arg(short, long)]
    all: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which session to show.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The session
    session: String,
}

/// Which session to close.
#[derive(Debug, Args)]
pub(crate) struct Close {
    #[command(flatten)]
    place: Place,
    /// Time between SIGTERM and SIGKILL (without: the session's)
    #[arg(long, value_name = "TIME")]
    grace: Option<Time>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// The session
    session: String,
}

/// Which session to change.
#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    policy: Policy,
    /// Print all about it, as JSON
    #[arg(long)]
    json: bool,
    /// The session
    session: String,
}

/// Which session's agent or conversation is meant.
#[derive(Debug, Args)]
pub(crate) struct Life {
    #[command(flatten)]
    place: Place,
    /// The session
    session: String,
}

/// Does it.
pub(crate) async fn run(command: &Command) -> Result<u8> {
    match command {
        Command::New(new) => open(new).await,
        Command::Ls(ls) => list(ls).await,
        Command::Show(show) => show_one(show).await,
        Command::Close(close) => close_one(close).await,
        Command::Set(set) => change(set).await,
        Command::Evict(life) => of_conversation(life, "evict").await,
        Command::Reset(life) => of_conversation(life, "reset").await,
        Command::Fork(life) => of_conversation(life, "fork").await,
    }
}

async fn of_conversation(life: &Life, what: &str) -> Result<u8> {
    if what == "fork"
        && let Some(address) = life.place.remote()?
    {
        let chat = remote::session::fork(address, &life.session).await?;
        show::print(&format!("{chat}\n"))?;
        return Ok(0);
    }
    let mut host = life.place.host()?;
    let id = super::acp::conversation(&mut host, &life.session).await?;
    let path = format!("/v1/conversations/{}/{what}", part(&id));
    let value = host.json(Method::POST, &path, None).await?;
    if let Some(id) = value.get("id").and_then(Value::as_str) {
        show::print(&format!("{id}\n"))?;
    }
    Ok(0)
}

/// Asks for something of the session that `text` means.
async fn ask(
    host: &mut Host,
    text: &str,
    (method, query): (Method, &str),
    body: Option<&Value>,
) -> Result<Value> {
    let path = |id: &str| format!("/v1/sessions/{}{query}", part(id));
    match host.json(method.clone(), &path(text), body).await {
        Err(refusal) => {
            let id = resolve::session(host, text, refusal).await?;
            host.json(method, &path(&id), body).await
        }
        done => done,
    }
}

async fn open(new: &New) -> Result<u8> {
    if let Some(address) = new.place.remote()? {
        let mut body = wanted(new)?;
        if let Some(cwd) = &new.cwd {
            if !cwd.is_absolute() {
                let why = "--cwd: a directory of a host elsewhere begins with `/`";
                return Err(Failure::Usage(why.into()));
            }
            body.insert("cwd".into(), json!(cwd));
        }
        if let Some(parent) = &new.parent {
            body.insert("parent".into(), json!(parent));
        }
        return opened(
            new,
            remote::session::open(address, new.agent.as_deref(), body).await?,
        );
    }
    let mut host = new.place.host()?;
    let mut body = wanted(new)?;
    let here = PathBuf::from(".");
    let cwd = directory(new.cwd.as_ref().unwrap_or(&here))?;
    body.insert("cwd".into(), json!(cwd));
    if let Some(parent) = &new.parent {
        let parent: Session = understand(ask(&mut host, parent, (Method::GET, ""), None).await?)?;
        body.insert("parent".into(), json!(parent.id));
    }
    let body = Value::Object(body);
    let value = match &new.agent {
        Some(agent) => {
            let body = json!({"agent": agent, "session": body});
            host.json(Method::POST, "/v1/conversations", Some(&body))
                .await?
        }
        None => host.json(Method::POST, "/v1/sessions", Some(&body)).await?,
    };
    opened(new, value)
}

/// What is wanted of a session wherever it is: all but its directory and its parent.
fn wanted(new: &New) -> Result<Map<String, Value>> {
    let mut body = Map::new();
    if let Some(name) = &new.name {
        body.insert("name".into(), json!(name));
    }
    let env = environment(&new.env)?;
    if !env.is_empty() {
        body.insert("env".into(), env.into());
    }
    let mut policy = new.policy.json();
    if let Some(memory) = &new.memory {
        policy.insert("memory".into(), memory.bytes.into());
    }
    if let Some(pids) = new.pids {
        policy.insert("pids".into(), pids.into());
    }
    if let Some(cpu) = new.cpu {
        policy.insert("cpu".into(), json!(cpu.millis as f64 / 1000.0));
    }
    if let Some(contain) = new.contain.and_then(|contain| contain.to_possible_value()) {
        policy.insert("contain".into(), contain.get_name().into());
    }
    if !policy.is_empty() {
        body.insert("policy".into(), policy.into());
    }
    Ok(body)
}

/// Says what was opened.
fn opened(new: &New, value: Value) -> Result<u8> {
    if new.json {
        show::print_json(&value)?;
    } else {
        let session: Session = understand(value)?;
        show::print(&format!("{}\n", session.id))?;
    }
    Ok(0)
}

async fn list(ls: &Ls) -> Result<u8> {
    let value = match ls.place.remote()? {
        Some(_) if ls.all => {
            let why = "--all works with a host on this machine only: one elsewhere lists those that are open";
            return Err(Failure::Unclear(why.into()));
        }
        Some(address) => remote::session::list(address).await?,
        None => {
            let query = if ls.all { "?all=true" } else { "" };
            let mut host = ls.place.host()?;
            host.get(&format!("/v1/sessions{query}")).await?
        }
    };
    if ls.json {
        show::print_json(&value)?;
        return Ok(0);
    }
    let sessions: Vec<Session> = understand(value)?;
    let mut table = Table::new(&[
        left("SESSION"),
        left("NAME"),
        left("STATE"),
        right("AGE"),
        right("PROCESSES"),
        left("CONTAIN"),
        left("PARENT"),
    ]);
    for one in sessions {
        let none = || "-".to_owned();
        table.row([
            one.id,
            one.name.unwrap_or_else(none),
            one.state,
            show::ago(one.opened),
            match &one.processes {
                Value::Array(all) => all.len().to_string(),
                other => cell(other),
            },
            match one.contain.get("mechanism") {
                Some(mechanism) => cell(mechanism),
                None => cell(&one.contain),
            },
            one.parent.unwrap_or_else(none),
        ]);
    }
    table.print()?;
    Ok(0)
}

async fn show_one(show: &Show) -> Result<u8> {
    let value = match show.place.remote()? {
        Some(address) => remote::session::show(address, &show.session).await?,
        None => {
            let mut host = show.place.host()?;
            ask(&mut host, &show.session, (Method::GET, ""), None).await?
        }
    };
    if show.json {
        show::print_json(&value)?;
    } else {
        show::print(&sheet(&value))?;
    }
    Ok(0)
}

async fn change(set: &Set) -> Result<u8> {
    let policy = set.policy.json();
    if policy.is_empty() {
        return Err(Failure::Usage("there is nothing to change".into()));
    }
    let mut host = set.place.host()?;
    let body = json!({"policy": policy});
    let value = ask(&mut host, &set.session, (Method::PATCH, ""), Some(&body)).await?;
    if set.json {
        show::print_json(&value)?;
    }
    Ok(0)
}

async fn close_one(close: &Close) -> Result<u8> {
    let grace = close.grace.as_ref().map(|grace| grace.span);
    let value = match close.place.remote()? {
        Some(address) => remote::session::close(address, &close.session, grace).await?,
        None => {
            let query = grace.map(|grace| format!("?grace={}", grace.as_secs_f64()));
            let query = query.unwrap_or_default();
            let mut host = close.place.host()?;
            ask(&mut host, &close.session, (Method::DELETE, &query), None).await?
        }
    };
    if close.json {
        show::print_json(&value)?;
    } else {
        show::print(&report(&value))?;
    }
    let clean = value.get("remaining").and_then(Value::as_u64) == Some(0);
    if !clean {
        return Err(Failure::Unclear(format!(
            "session `{}` could not be closed wholly: what is left is tried again",
            close.session
        )));
    }
    Ok(0)
}
