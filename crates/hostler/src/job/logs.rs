//! `hostler job logs`.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use hyper::body::Bytes;
use rustix::stdio::{stderr, stdout};
use serde::Deserialize;

use super::api::{self, Job, Run};
use super::feed::patiently;
use super::timeline::label_of;
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part, understand};
use crate::client::{Place, show, streams};

/// Between two looks at a job that is followed.
const LOOK: Duration = Duration::from_millis(200);
/// How much output is asked for at once, in bytes.
const BLOCK: usize = 1 << 20;

/// What `hostler job logs` is told.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    #[command(flatten)]
    place: Place,
    /// Go on with what is written and said, until the job has ended
    #[arg(short, long)]
    follow: bool,
    /// As JSON
    #[arg(long, conflicts_with = "follow")]
    json: bool,
    /// The job
    job: String,
    /// Of this step only
    step: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Log {
    #[serde(flatten)]
    run: Run,
    stdout: Option<String>,
    stderr: Option<String>,
    text: Option<String>,
}

/// How much of a run is printed.
#[derive(Debug, Default)]
struct Printed {
    process: Option<String>,
    stdout: usize,
    stderr: usize,
    text: usize,
    over: bool,
}

/// Prints them: what went to standard error there, to standard error here.
pub(super) async fn run(logs: &Logs) -> Result<u8> {
    let mut host = logs.place.host()?;
    let id = api::resolve(&mut host, &logs.job).await?;
    let step = logs.step.as_ref();
    let query = step.map_or_else(String::new, |step| format!("?step={}", part(step)));
    if logs.follow {
        // Says that there is no such step, if there is none.
        host.get(&format!("{}/logs{query}", api::path(&id))).await?;
        return Follow::new(&host, &id, step).run().await;
    }
    let value = host.get(&format!("{}/logs{query}", api::path(&id))).await?;
    if logs.json {
        show::print_json(&value)?;
        return Ok(0);
    }
    let all: Vec<Log> = understand(value)?;
    for log in &all {
        if all.len() > 1 {
            header(&log.run)?;
        }
        for text in [&log.stdout, &log.text].into_iter().flatten() {
            out(text.as_bytes())?;
            end_line(text.as_bytes())?;
        }
        if let Some(text) = &log.stderr {
            err(text.as_bytes())?;
        }
    }
    Ok(0)
}

fn header(run: &Run) -> Result<()> {
    let state = match run.state.as_str() {
        "running" => String::new(),
        state => format!(": {state}"),
    };
    show::print(&format!("--- {}{state}\n", show::plain(&label_of(run))))
}

/// What a program has written is passed on as it is, as `hostler logs` does.
fn out(bytes: &[u8]) -> Result<()> {
    put(stdout(), bytes)
}

fn err(bytes: &[u8]) -> Result<()> {
    put(stderr(), bytes)
}

fn put(to: std::os::fd::BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    streams::put(to, bytes).map_err(|error| match error {
        rustix::io::Errno::PIPE => Failure::BrokenPipe,
        error => Failure::io("write the output", error),
    })
}

fn end_line(bytes: &[u8]) -> Result<()> {
    match bytes.last() {
        None | Some(b'\n') => Ok(()),
        Some(_) => out(b"\n"),
    }
}

/// A job whose output is printed as it comes.
struct Follow<'a> {
    host: &'a Host,
    id: &'a str,
    step: Option<&'a String>,
    printed: HashMap<u32, Printed>,
    /// The run that was printed last.
    last: Option<u32>,
}

impl<'a> Follow<'a> {
    fn new(host: &'a Host, id: &'a str, step: Option<&'a String>) -> Self {
        Self {
            host,
            id,
            step,
            printed: HashMap::new(),
            last: None,
        }
    }

    async fn run(mut self) -> Result<u8> {
        let path = format!("{}?brief=true", api::path(self.id));
        loop {
            let job = patiently(self.host, Method::GET, &path, None).await?;
            let job: Job = understand(job)?;
            for run in &job.runs {
                let wanted = self.step.is_none_or(|step| run.step == **step);
                let over = self.printed.get(&run.run).is_some_and(|of| of.over);
                if wanted && !over && run.items.is_none() {
                    self.more(run).await?;
                }
            }
            if job.has_ended() {
                return Ok(0);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Prints what a run has written and said since.
    async fn more(&mut self, run: &Run) -> Result<()> {
        let mut printed = self.printed.remove(&run.run).unwrap_or_default();
        if !api::is_end(&run.state) && run.process.is_some() {
            if printed.process != run.process {
                // A poll has one after the other.
                (printed.stdout, printed.stderr) = (0, 0);
                printed.process.clone_from(&run.process);
            }
            let process = run.process.as_deref().unwrap_or_default();
            for stream in ["stdout", "stderr"] {
                let from = match stream {
                    "stdout" => &mut printed.stdout,
                    _ => &mut printed.stderr,
                };
                let path = format!(
                    "/v1/processes/{}/output?stream={stream}&from={from}&limit={BLOCK}",
                    part(process)
                );
                let answer = self
                    .host
                    .another()
                    .call(Method::GET, &path, Bytes::new())
                    .await;
                // It may be over by now, and is then in the ledger.
                let Ok(answer) = answer else { break };
                *from = answer.number("hostler-next").unwrap_or(0) as usize;
                self.print(run, stream == "stderr", &answer.body)?;
            }
        } else if run.began.is_some() {
            let path = format!("{}/logs?run={}", api::path(self.id), run.run);
            let logs = patiently(self.host, Method::GET, &path, None).await?;
            let logs: Vec<Log> = understand(logs)?;
            for log in &logs {
                printed.over = api::is_end(&log.run.state);
                // Of a poll's earlier processes nothing is kept.
                let same = log.run.process == printed.process || printed.process.is_none();
                let rest = |text: &Option<String>, printed: &mut usize| {
                    let bytes = text.as_deref().unwrap_or_default().as_bytes();
                    let from = (*printed).min(bytes.len());
                    *printed = bytes.len().max(*printed);
                    bytes[from..].to_vec()
                };
                let text = rest(&log.text, &mut printed.text);
                self.print(run, false, &text)?;
                if same {
                    let stdout = rest(&log.stdout, &mut printed.stdout);
                    self.print(run, false, &stdout)?;
                    let stderr = rest(&log.stderr, &mut printed.stderr);
                    self.print(run, true, &stderr)?;
                }
            }
        } else {
            printed.over = api::is_end(&run.state);
        }
        self.printed.insert(run.run, printed);
        Ok(())
    }

    fn print(&mut self, run: &Run, error: bool, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.last != Some(run.run) {
            self.last = Some(run.run);
            show::print(&format!("--- {}\n", show::plain(&label_of(run))))?;
        }
        match error {
            true => err(bytes),
            false => out(bytes),
        }
    }
}
