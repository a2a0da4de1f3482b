//! `hostler job run`.

use std::path::PathBuf;
use std::pin::pin;

use clap::{Args, ValueEnum};
use hyper::Method;
use serde_json::{Value, json};

use super::api::Job;
use super::check;
use super::watch::{self, Watching};
use crate::client::error::{Failure, Result};
use crate::client::exec::directory;
use crate::client::host::understand;
use crate::client::{Place, show, signals};

/// What `hostler job run` is told.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    place: Place,
    /// The flow
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// An input: NAME=VALUE, once for each; what is no string is JSON
    #[arg(long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Where its steps work (without: here)
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Jobs of one group are bounded together, and can be listed and cancelled together
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// What becomes of what it runs when the host dies
    #[arg(long, value_enum, value_name = "WHAT")]
    on_host_exit: Option<OnHostExit>,
    /// Print its id and return
    #[arg(short, long)]
    detach: bool,
    /// Print all about it at the end as JSON, and nothing on the way
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnHostExit {
    /// It ends; the next host makes the runs again that were cut off
    Kill,
    /// It waits for the next host, which takes it up
    Keep,
}

/// Makes the job, and watches it to its end.
pub(super) async fn run(run: &Run) -> Result<u8> {
    let inputs = check::inputs(&run.inputs)?;
    let host = run.place.host()?.because("hostler job run");
    let loaded = hostler_job::load(&run.file)
        .and_then(|loaded| check::with_inputs(&run.file, loaded, &inputs));
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
    let mut body = json!({
        "file": directory(&run.file)?,
        "cwd": directory(run.cwd.as_ref().unwrap_or(&here))?.components().collect::<PathBuf>(),
        "inputs": check::values(&loaded, &inputs),
    });
    if let Some(group) = &run.group {
        body["group"] = json!(group);
    }
    if let Some(what) = run.on_host_exit {
        let word = match what {
            OnHostExit::Kill => "kill",
            OnHostExit::Keep => "keep",
        };
        body["policy"] = json!({ "on_host_exit": word });
    }
    // From here on a signal cancels the job, also one that comes while it is being made.
    let mut told = signals::receive()?;
    let mut interrupted = None;
    let mut connected = host.another();
    let made = {
        let mut making = pin!(connected.json(Method::POST, "/v1/jobs", Some(&body)));
        loop {
            tokio::select! {
                made = &mut making => break made,
                Some(signal) = told.recv() => {
                    if signal == signals::TSTP {
                        hostler_keeper::signals::stop(signal);
                    } else if signals::is_deadly(signal) && interrupted.replace(signal).is_some() {
                        return Err(Failure::Signal(signal));
                    }
                }
            }
        }
    };
    let made = match made {
        // It cannot be told whether there is a job now.
        Err(Failure::Gone) => {
            let why = "the host went away while the job was being made; `hostler job ls` says whether it was";
            return Err(Failure::Unclear(why.into()));
        }
        made => made?,
    };
    let job: Job = understand(made)?;
    if run.detach {
        show::print(&format!("{}\n", job.id))?;
        if interrupted.is_none() {
            return Ok(0);
        }
    } else if !run.json {
        watch::line(&format!("job {}: {}", job.id, job.name));
    }
    let watching = Watching {
        host: &host,
        id: &job.id,
        began: job.created,
        json: run.json,
        may_have_below: !loaded.flows.is_empty(),
        cancels: true,
        interrupted,
    };
    watching.run(connected, told).await
}

/// What a job looks like to programs, whole.
pub(super) async fn whole(host: &crate::client::host::Host, id: &str) -> Result<Value> {
    super::feed::patiently(host, Method::GET, &super::api::path(id), None).await
}
