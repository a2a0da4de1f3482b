//! Jobs as the host tells of them, as far as is looked into here. What is not known is ignored: hosts may be newer.

use hostler_gateway::wire::WantedAnswer;
use serde::Deserialize;
use serde_json::Value;

use crate::client::error::{Failure, Result};
use crate::client::host::{Host, part};
use crate::client::resolve::{self, Named};

/// How many jobs are asked for at once.
const PAGE: usize = 1000;

/// A job.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Job {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) state: String,
    #[serde(default)]
    pub(super) why: Value,
    #[serde(default)]
    pub(super) group: Option<String>,
    #[serde(default)]
    pub(super) outputs: Option<Value>,
    #[serde(default)]
    pub(super) created: u64,
    #[serde(default)]
    pub(super) began: Option<u64>,
    #[serde(default)]
    pub(super) ended: Option<u64>,
    #[serde(default)]
    pub(super) released: bool,
    #[serde(default)]
    pub(super) remaining: Option<u64>,
    #[serde(default)]
    pub(super) asks: Vec<Question>,
    #[serde(default)]
    pub(super) runs: Vec<Run>,
    #[serde(default)]
    pub(super) leases: Vec<Lease>,
}

/// What a step asks.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Question {
    /// The job below that asks.
    #[serde(default)]
    pub(super) job: Option<String>,
    pub(super) run: u32,
    /// Which of what its agent asks permission for.
    #[serde(default)]
    pub(super) request: Option<u64>,
    #[serde(default)]
    pub(super) step: String,
    #[serde(default)]
    pub(super) text: String,
    #[serde(default)]
    pub(super) wants: Vec<WantedAnswer>,
}

/// A run of a step.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Run {
    pub(super) run: u32,
    pub(super) step: String,
    pub(super) item: Option<u32>,
    pub(super) items: Option<u64>,
    pub(super) attempt: u32,
    #[serde(rename = "try")]
    pub(super) try_: u32,
    pub(super) fallback: bool,
    pub(super) state: String,
    pub(super) began: Option<u64>,
    pub(super) ended: Option<u64>,
    pub(super) error: Option<Value>,
    pub(super) follows: Option<Value>,
    pub(super) why: Option<String>,
    pub(super) process: Option<String>,
    pub(super) conversation: Option<String>,
    pub(super) job: Option<String>,
    pub(super) asks: Option<String>,
    pub(super) answered_by: Option<String>,
    pub(super) tries: Option<u64>,
}

/// An agent that the job has a lease on.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Lease {
    pub(super) session: String,
    #[serde(default)]
    pub(super) key: String,
}

impl Job {
    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        is_end(&self.state)
    }

    /// Why it is as it is, in one line; empty where nothing was said.
    pub(super) fn reason(&self) -> String {
        message(&self.why)
    }
}

/// Whether this word is an end, of a job or of a run.
pub(super) fn is_end(state: &str) -> bool {
    matches!(state, "completed" | "failed" | "cancelled" | "skipped")
}

/// The message of a reason or an error.
pub(super) fn message(why: &Value) -> String {
    why["message"].as_str().unwrap_or_default().to_owned()
}

impl Named for Job {
    fn id(&self) -> &str {
        &self.id
    }
    fn name(&self) -> Option<&str> {
        // A flow's name is that of all its jobs.
        None
    }
    fn rank(&self) -> (bool, u64) {
        (!self.has_ended(), self.created)
    }
}

/// The path of a job.
pub(super) fn path(id: &str) -> String {
    format!("/v1/jobs/{}", part(id))
}

/// The newest jobs that a listing gives: all, or as many as `limit` says.
pub(super) async fn listed(
    host: &mut Host,
    query: &str,
    limit: Option<usize>,
) -> Result<Vec<Value>> {
    let mut all: Vec<Value> = Vec::new();
    let mut before = String::new();
    loop {
        let wanted = limit.map_or(PAGE, |limit| PAGE.min(limit - all.len()));
        let path = format!("/v1/jobs?limit={wanted}{before}{query}");
        let Value::Array(page) = host.get(&path).await? else {
            return Err(Failure::Nonsense("the jobs are no list".into()));
        };
        let (count, last) = (page.len(), page.last().map(|job| job["number"].clone()));
        all.extend(page);
        match last {
            Some(last) if count == wanted && limit.is_none_or(|limit| all.len() < limit) => {
                before = format!("&before={last}");
            }
            _ => return Ok(all),
        }
    }
}

/// The id of the job that `text` means: its id, or the start of it, with or without the letter.
pub(super) async fn resolve(host: &mut Host, text: &str) -> Result<String> {
    let whole = text.len() == 10 && text.starts_with("j-");
    if whole {
        return Ok(text.to_owned());
    }
    let starts = match text.strip_prefix("j-") {
        Some(_) => text.to_owned(),
        None => format!("j-{text}"),
    };
    let query = format!("&all=true&starts={}", part(&starts));
    let found = listed(host, &query, None).await?.into_iter();
    let found: Vec<Job> = found
        .map(crate::client::host::understand)
        .collect::<Result<_>>()?;
    // Those that have not ended go before those that have.
    let (ended, open): (Vec<Job>, Vec<Job>) = found.into_iter().partition(Job::has_ended);
    match resolve::choose(&open, text, "job") {
        Ok(one) => Ok(one.id.clone()),
        Err(Failure::Unclear(line)) if !line.starts_with("there is no") => {
            Err(Failure::Unclear(line))
        }
        Err(_) => Ok(resolve::choose(&ended, text, "job")?.id.clone()),
    }
}
