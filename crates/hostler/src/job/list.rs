//! `hostler job ls` and `hostler job show`.

use clap::Args;
use serde_json::Value;

use super::api::{self, Job};
use super::timeline;
use crate::client::Place;
use crate::client::error::Result;
use crate::client::host::{part, understand};
use crate::client::show::{self, Table, left, right};

/// Which jobs to list.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    place: Place,
    /// Those that have ended, too
    #[arg(short, long)]
    all: bool,
    /// At the most so many: the newest
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Those of this group only
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Which job to show.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The job
    job: String,
}

/// Lists them, the newest first.
pub(super) async fn list(ls: &Ls) -> Result<u8> {
    let mut host = ls.place.host()?;
    let mut query = String::new();
    if ls.all {
        query.push_str("&all=true");
    }
    if let Some(group) = &ls.group {
        query.push_str(&format!("&group={}", part(group)));
    }
    let limit = ls.limit.map(|limit| limit as usize);
    let all = api::listed(&mut host, &query, limit).await?;
    if ls.json {
        show::print_json(&Value::Array(all))?;
        return Ok(0);
    }
    let mut table = Table::new(&[
        left("ID"),
        left("FLOW"),
        left("GROUP"),
        left("STATE"),
        right("AGE"),
        right("TOOK"),
        left("WHAT"),
    ]);
    for job in all {
        let job: Job = understand(job)?;
        let what = match job.asks.first() {
            Some(question) => format!("asks: {}", question.text),
            None if job.has_ended() && !job.released => "is being ended".to_owned(),
            None if job.state == "completed" => String::new(),
            None => job.reason(),
        };
        table.row([
            job.id.clone(),
            job.name.clone(),
            job.group.clone().unwrap_or_else(|| "-".into()),
            job.state.clone(),
            show::ago(job.created),
            took(&job),
            what,
        ]);
    }
    table.print()?;
    Ok(0)
}

fn took(job: &Job) -> String {
    match (job.began, job.ended) {
        (Some(began), Some(ended)) => show::span(ended.saturating_sub(began)),
        (Some(began), None) => show::ago(began),
        _ => "-".into(),
    }
}

/// Shows one, with all that was done.
pub(super) async fn show(one: &Show) -> Result<u8> {
    let mut host = one.place.host()?;
    let id = api::resolve(&mut host, &one.job).await?;
    if one.json {
        show::print_json(&host.get(&api::path(&id)).await?)?;
        return Ok(0);
    }
    let value = host.get(&format!("{}?brief=true", api::path(&id))).await?;
    let job: Job = understand(value.clone())?;
    let mut lines = Vec::new();
    let mut say = |key: &str, value: String| lines.push((key.to_owned(), value));
    say("job", job.id.clone());
    say("flow", job.name.clone());
    let state = match job.reason() {
        why if why.is_empty() || job.state == "completed" => job.state.clone(),
        why => format!("{}: {why}", job.state),
    };
    say("state", state);
    for key in ["group", "parent", "retry_of", "session", "cwd"] {
        if let Some(text) = value[key].as_str() {
            say(key, text.to_owned());
        }
    }
    say("created", show::time(job.created));
    say("took", took(&job));
    for (name, value) in value["inputs"].as_object().into_iter().flatten() {
        say(
            &format!("inputs.{name}"),
            show::cut(&show::cell(value), 200),
        );
    }
    for lease in &job.leases {
        say(
            "agent",
            format!("{} in session {}", lease.key, lease.session),
        );
    }
    for question in &job.asks {
        say(
            "asks",
            format!(
                "{} (run {}): {}",
                question.step, question.run, question.text
            ),
        );
        let asking = super::answer::Asking::new(question.clone());
        say("answer", asking.command(&job.id));
    }
    if let Some(remaining) = job.remaining {
        say("remaining", remaining.to_string());
    }
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    for (key, value) in &lines {
        show::print(&format!("{key:width$}  {}\n", show::plain(value)))?;
    }
    if !job.runs.is_empty() {
        show::print("\n")?;
        timeline::table(&job).print()?;
    }
    let outputs = timeline::outputs(job.outputs.as_ref().unwrap_or(&Value::Null));
    if !outputs.is_empty() {
        show::print(&format!("\n{outputs}"))?;
    }
    Ok(0)
}
