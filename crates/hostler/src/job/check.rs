//! `hostler job check`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use hostler_job::{Loaded, Wrong};
use serde_json::{Value, json};

use crate::client::error::{Failure, Result};
use crate::client::show;

/// What `hostler job check` is told.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The flows
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Check the inputs of a job, too: NAME=VALUE, once for each; what is no string is JSON
    #[arg(long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Print them as Mermaid diagrams
    #[arg(long, conflicts_with = "json")]
    graph: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Checks them: 0 when all are right, else 1. What is wrong goes to standard error, as a compiler's words do.
pub(super) fn run(check: &Check) -> Result<u8> {
    let inputs = inputs(&check.inputs)?;
    if !inputs.is_empty() && check.files.len() > 1 {
        let why = "--input is for one flow, and there are several";
        return Err(Failure::Usage(why.into()));
    }
    let mut all = Vec::new();
    let mut right = true;
    for file in &check.files {
        let loaded = hostler_job::load(file).and_then(|loaded| match inputs.is_empty() {
            true => Ok(loaded),
            false => with_inputs(file, loaded, &inputs),
        });
        let wrong = loaded.as_ref().err().map_or(&[][..], Vec::as_slice);
        right &= loaded.is_ok();
        if check.json {
            all.push(json!({ "file": file, "ok": loaded.is_ok(), "problems": wrong }));
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
                let name = &loaded.flow.name;
                show::print(&format!("{file}: ok: {name}, {steps} {word}\n"))?;
            }
            Err(_) => {}
        }
    }
    if check.json {
        show::print_json(&all.into())?;
    }
    Ok(u8::from(!right))
}

/// The inputs, as they were written. Of one that stands twice the last would win, which is hardly meant.
pub(super) fn inputs(words: &[String]) -> Result<BTreeMap<&str, &str>> {
    let mut inputs = BTreeMap::new();
    for input in words {
        let Some((name, value)) = input.split_once('=') else {
            let why = format!("--input is NAME=VALUE, and `{input}` has no `=`");
            return Err(Failure::Usage(why));
        };
        if inputs.insert(name, value).is_some() {
            let why = format!("--input {name}=… is given twice");
            return Err(Failure::Usage(why));
        }
    }
    Ok(inputs)
}

/// What the texts of a command line stand for as inputs of a flow.
pub(super) fn values(loaded: &Loaded, inputs: &BTreeMap<&str, &str>) -> BTreeMap<String, Value> {
    let values = inputs.iter().map(|(name, text)| {
        let value = hostler_job::input_from_text(&loaded.flow, name, text);
        ((*name).to_owned(), value)
    });
    values.collect()
}

/// Whether a job of that flow could be given these inputs.
pub(super) fn with_inputs(
    file: &Path,
    loaded: Loaded,
    inputs: &BTreeMap<&str, &str>,
) -> std::result::Result<Loaded, Vec<Wrong>> {
    let told = values(&loaded, inputs);
    match hostler_job::given(&loaded.flow, &told) {
        Ok(_) => Ok(loaded),
        Err(problems) => {
            let in_file = |problem| Wrong {
                file: file.to_owned(),
                problem,
            };
            Err(problems.into_iter().map(in_file).collect())
        }
    }
}
