//! `hostler agents ls`.

use clap::Args;
use serde_json::json;

use super::{Refused, Source, environment, found};
use crate::client::show::{self, Table, left};

/// What `hostler agents ls` is told.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    #[command(flatten)]
    source: Source,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Lists them.
pub(super) fn run(ls: &Ls) -> Result<u8, Refused> {
    let configured = crate::serve::configured(ls.source.config.as_deref())?;
    let mut table = Table::new(&[left("NAME"), left("COMMAND"), left("FOUND")]);
    let mut all = Vec::new();
    for (name, spec) in configured.agents.iter() {
        let file = found(spec, &environment(&configured, spec));
        let default = name == configured.default_agent;
        all.push(json!({
            "name": name,
            "command": spec.command,
            "found": file,
            "default": default,
        }));
        table.row([
            if default {
                format!("{name} *")
            } else {
                name.to_owned()
            },
            show::cut(&show::command(&spec.command), 60),
            file.map_or_else(|| "no".into(), |file| file.display().to_string()),
        ]);
    }
    let printed = match ls.json {
        true => show::print_json(&all.into()),
        false => table.print(),
    };
    printed
        .map(|()| 0)
        .map_err(|failure| (failure.to_string(), failure.status()))
}
