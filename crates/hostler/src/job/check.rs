//! `hostler job check`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::client::error::Result;
use crate::client::show;

/// What `hostler job check` is told.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The flows
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Print them as Mermaid diagrams
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Checks them: 0 when all are right, else 1. What is wrong goes to standard error, as a compiler's words do.
pub(super) fn run(check: &Check) -> Result<u8> {
    let mut all = Vec::new();
    let mut right = true;
    for file in &check.files {
        let loaded = hostler_job::load(file);
        let wrong = loaded.as_ref().err().map_or(&[][..], Vec::as_slice);
        right &= wrong.is_empty();
        if check.json {
            all.push(json!({ "file": file, "ok": wrong.is_empty(), "problems": wrong }));
            continue;
        }
        for each in wrong {
            // The line is to be found by editors: `file:line:column: …`, without our name before it.
            eprintln!("{}", show::plain(&each.to_string()));
        }
        match &loaded {
            Ok(loaded) if check.graph => show::print(&hostler_job::mermaid(&loaded.flow))?,
            Ok(loaded) => {
                let steps = loaded.flow.steps.len();
                let word = if steps == 1 { "step" } else { "steps" };
                let file = show::plain(&file.display().to_string());
                show::print(&format!(
                    "{file}: ok: {}, {steps} {word}\n",
                    loaded.flow.name
                ))?;
            }
            Err(_) => {}
        }
    }
    if check.json {
        show::print_json(&all.into())?;
    }
    Ok(u8::from(!right))
}
