//! Commands that change jobs: cancel, pause, resume, retry, rm.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::api::{self, Job};
use crate::client::error::{Failure, Result};
use crate::client::host::{Host, understand};
use crate::client::{Place, show};
use hostler_run::say;

/// Which jobs to cancel.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    place: Place,
    /// All of this group
    #[arg(long, value_name = "NAME", conflicts_with = "jobs")]
    group: Option<String>,
    /// The jobs
    #[arg(value_name = "JOB", required_unless_present = "group")]
    jobs: Vec<String>,
}

/// Which job is meant.
#[derive(Debug, Args)]
pub(crate) struct One {
    #[command(flatten)]
    place: Place,
    /// The job
    job: String,
}

/// What is to be done again.
#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    place: Place,
    /// From this step on, with what the steps before it gave
    #[arg(long, value_name = "STEP")]
    from: Option<String>,
    /// The job
    job: String,
}

/// Which jobs to forget.
#[derive(Debug, Args)]
pub(crate) struct Rm {
    #[command(flatten)]
    place: Place,
    /// The jobs
    #[arg(value_name = "JOB", required = true)]
    jobs: Vec<String>,
}

/// Cancels them, all at once, and says what came of each.
pub(super) async fn cancel(cancel: &Cancel) -> Result<u8> {
    let mut host = cancel.place.host()?.because("hostler job cancel");
    if let Some(group) = &cancel.group {
        let body = json!({ "group": group });
        let done = host
            .json(Method::POST, "/v1/jobs/cancel", Some(&body))
            .await?;
        let ids = done["cancelled"].as_array().cloned().unwrap_or_default();
        for id in ids {
            said(&understand(
                host.get(&format!("{}?brief=true", api::path(&show::cell(&id))))
                    .await?,
            )?)?;
        }
        return Ok(0);
    }
    each(&mut host, &cancel.jobs, async |mut host, id| {
        let path = format!("{}/cancel", api::path(&id));
        let job: Job = understand(host.json(Method::POST, &path, None).await?)?;
        said(&job)
    })
    .await
}

/// What came of cancelling one.
fn said(job: &Job) -> Result<()> {
    let remaining = job.remaining.map_or_else(|| "?".into(), |n| n.to_string());
    show::print(&format!(
        "job {}: {}; remaining: {remaining}\n",
        job.id, job.state
    ))
}

/// Does it for each of them; one that fails keeps none of the others.
async fn each(
    host: &mut Host,
    jobs: &[String],
    act: impl AsyncFn(Host, String) -> Result<()>,
) -> Result<u8> {
    let mut ids = Vec::new();
    let mut status = 0;
    for text in jobs {
        match api::resolve(host, text).await {
            Ok(id) => ids.push(id),
            Err(failure) if jobs.len() > 1 && !failure.is_hopeless() => {
                say(&show::plain(&failure.to_string()));
                status = 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    let host = &*host;
    let acts = ids.into_iter().map(|id| act(host.another(), id));
    for done in futures_util::future::join_all(acts).await {
        match done {
            Ok(()) => {}
            Err(failure @ (Failure::BrokenPipe | Failure::Signal(_))) => return Err(failure),
            Err(failure) => {
                say(&show::plain(&failure.to_string()));
                status = 1;
            }
        }
    }
    Ok(status)
}

/// Tells it one thing.
pub(super) async fn tell(one: &One, what: &str) -> Result<u8> {
    let mut host = one.place.host()?.because(&format!("hostler job {what}"));
    let id = api::resolve(&mut host, &one.job).await?;
    let path = format!("{}/{what}", api::path(&id));
    host.json(Method::POST, &path, None).await?;
    Ok(0)
}

/// Has it done again: prints the id of the job that does it.
pub(super) async fn retry(retry: &Retry) -> Result<u8> {
    let mut host = retry.place.host()?.because("hostler job retry");
    let id = api::resolve(&mut host, &retry.job).await?;
    let path = format!("{}/retry", api::path(&id));
    let body = match &retry.from {
        Some(from) => json!({ "from": from }),
        None => Value::Object(Default::default()),
    };
    let job: Job = understand(host.json(Method::POST, &path, Some(&body)).await?)?;
    show::print(&format!("{}\n", job.id))?;
    Ok(0)
}

/// Forgets them.
pub(super) async fn rm(rm: &Rm) -> Result<u8> {
    let mut host = rm.place.host()?.because("hostler job rm");
    each(&mut host, &rm.jobs, async |mut host, id| {
        host.json(Method::DELETE, &api::path(&id), None).await?;
        Ok(())
    })
    .await
}
