//! `hostler job schedule`: jobs by the clock.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{api, check, watch};
use crate::client::Place;
use crate::client::error::{Failure, Result};
use crate::client::exec::directory;
use crate::client::host::{part, understand};
use crate::client::show::{self, Table, left, plain};

/// What is done with schedules.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a flow by the clock, or change when one is run
    Set(Box<Set>),
    /// List the schedules: when they are due, and what came of the last time
    Ls(Ls),
    /// Forget schedules; their jobs stay
    Rm(Rm),
    /// Make the job of a schedule now; prints its id
    Run(Run),
}

/// What `hostler job schedule set` is told.
#[derive(Debug, Args)]
pub(crate) struct Set {
    #[command(flatten)]
    place: Place,
    /// When: minute, hour, day of the month, month, day of the week; or @hourly, @daily, @weekly, @monthly, @yearly
    #[arg(long, value_name = "WHEN", required_unless_present_any = ["zone", "overlap", "enable", "disable"])]
    cron: Option<String>,
    /// In which time zone, such as Europe/Berlin (without, or local: the host's)
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// When the job of the time before has not ended: skip (the default), allow, or cancel that one first
    #[arg(long, value_enum, value_name = "WHAT")]
    overlap: Option<Overlap>,
    /// Let it be due again
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Keep it, and do not let it be due
    #[arg(long)]
    disable: bool,
    /// An input: NAME=VALUE, once for each; what is no string is JSON
    #[arg(long = "input", value_name = "NAME=VALUE", requires = "file")]
    inputs: Vec<String>,
    /// Where its steps work (without: here)
    #[arg(long, value_name = "DIR", requires = "file")]
    cwd: Option<PathBuf>,
    /// The group of its jobs
    #[arg(long, value_name = "GROUP", requires = "file")]
    group: Option<String>,
    /// Its name
    name: String,
    /// The flow, which is read each time; without it, a schedule that there is is changed
    #[arg(requires = "cron")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Overlap {
    /// No job is made
    Skip,
    /// One is made beside it
    Allow,
    /// That one is cancelled first
    Cancel,
}

impl Overlap {
    fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Allow => "allow",
            Self::Cancel => "cancel",
        }
    }
}

/// How to list the schedules.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    place: Place,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which schedules to forget.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    place: Place,
    /// The schedules
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Which schedule to run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    place: Place,
    /// The schedule
    name: String,
}

/// A schedule as the host tells of it, as far as is looked into here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Schedule {
    name: String,
    cron: String,
    zone: Option<String>,
    overlap: String,
    enabled: bool,
    next_at: Option<u64>,
    last_at: Option<u64>,
    last_job: Option<String>,
    last_state: Option<String>,
    skipped: Value,
}

/// Does it.
pub(super) async fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Set(set) => self::set(set).await,
        Command::Ls(ls) => list(ls).await,
        Command::Rm(rm) => remove(rm).await,
        Command::Run(run) => now(run).await,
    }
}

fn path(name: &str) -> String {
    format!("/v1/schedules/{}", part(name))
}

async fn set(set: &Set) -> Result<u8> {
    let mut host = set.place.host()?;
    let mut body = json!({});
    for (key, value) in [
        ("cron", &set.cron),
        ("zone", &set.zone),
        ("overlap", &set.overlap.map(|word| word.as_str().to_owned())),
    ] {
        if let Some(value) = value {
            body[key] = json!(value);
        }
    }
    if set.enable || set.disable {
        body["enabled"] = json!(set.enable);
    }
    let method = match &set.file {
        None => Method::PATCH,
        Some(file) => {
            let inputs = check::inputs(&set.inputs)?;
            let loaded = hostler_job::load(file)
                .and_then(|loaded| check::with_inputs(file, loaded, &inputs));
            let loaded = match loaded {
                Ok(loaded) => loaded,
                Err(wrong) => {
                    for each in wrong {
                        watch::line(&each.to_string());
                    }
                    return Ok(1);
                }
            };
            let here = PathBuf::from(".");
            let cwd = directory(set.cwd.as_ref().unwrap_or(&here))?;
            body["file"] = json!(directory(file)?);
            body["cwd"] = json!(cwd.components().collect::<PathBuf>());
            body["inputs"] = json!(check::values(&loaded, &inputs));
            if let Some(group) = &set.group {
                body["group"] = json!(group);
            }
            Method::PUT
        }
    };
    let set = host.json(method, &path(&set.name), Some(&body)).await?;
    let set: Schedule = understand(set)?;
    let next = match set.next_at {
        Some(next) => format!("next at {}", show::time(next)),
        None if set.enabled => "run by hand only".to_owned(),
        None => "disabled".to_owned(),
    };
    show::print(&format!("{}: {next}\n", plain(&set.name)))?;
    Ok(0)
}

async fn list(ls: &Ls) -> Result<u8> {
    let mut host = ls.place.host()?;
    let all = host.get("/v1/schedules").await?;
    if ls.json {
        show::print_json(&all)?;
        return Ok(0);
    }
    let all: Vec<Schedule> = understand(all)?;
    let mut table = Table::new(&[
        left("NAME"),
        left("CRON"),
        left("ZONE"),
        left("OVERLAP"),
        left("NEXT"),
        left("LAST"),
        left("JOB"),
        left("STATE"),
    ]);
    for one in all {
        let time = |at: Option<u64>| at.map_or_else(|| "-".into(), minute);
        let next = match one.enabled {
            true => time(one.next_at),
            false => "disabled".to_owned(),
        };
        let skipped = api::message(&one.skipped);
        let state = match skipped.is_empty() {
            true => one.last_state.unwrap_or_else(|| "-".into()),
            false => format!("skipped: {skipped}"),
        };
        table.row([
            one.name,
            one.cron,
            one.zone.unwrap_or_else(|| "local".into()),
            one.overlap,
            next,
            time(one.last_at),
            one.last_job.unwrap_or_else(|| "-".into()),
            state,
        ]);
    }
    table.print()?;
    Ok(0)
}

/// A time to the second, for nothing is due in between.
fn minute(at: u64) -> String {
    let text = show::time(at);
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

async fn remove(rm: &Rm) -> Result<u8> {
    let mut host = rm.place.host()?;
    let mut status = 0;
    for name in &rm.names {
        match host.json(Method::DELETE, &path(name), None).await {
            Ok(_) => {}
            Err(failure @ Failure::Refused { .. }) if rm.names.len() > 1 => {
                hostler_run::say(&plain(&failure.to_string()));
                status = 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(status)
}

async fn now(run: &Run) -> Result<u8> {
    let mut host = run.place.host()?;
    let path = format!("{}/run", path(&run.name));
    let job: api::Job = understand(host.json(Method::POST, &path, None).await?)?;
    show::print(&format!("{}\n", job.id))?;
    Ok(0)
}
