//! A job to be made, and what the ledger keeps of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hostler_session::Policy;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::progress::Again;
use crate::flow::{Flow, Template};
use crate::problem::At;
use crate::{Loaded, Wrong, given, load, load_text};

/// Where the flow of a job stands.
#[derive(Debug, Clone)]
pub enum FlowSource {
    /// In this file; absolute.
    File(PathBuf),
    /// It is this text. The files that it uses are named from the job's directory.
    Text(String),
}

/// A job to be made.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its flow.
    pub flow: FlowSource,
    /// What it is given.
    pub inputs: BTreeMap<String, Value>,
    /// Where its steps work, unless the flow says otherwise; absolute.
    pub cwd: PathBuf,
    /// Jobs of one group are bounded together, and can be listed and cancelled together.
    pub group: Option<String>,
    /// The policy of its sessions. What would end them by themselves is turned off: they end with the job.
    pub policy: Policy,
}

/// What the ledger keeps of a job, besides its columns.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) flow: Value,
    pub(crate) inputs: Map<String, Value>,
    pub(crate) cwd: PathBuf,
    pub(crate) policy: Policy,
    /// Steps that were done again by hand.
    #[serde(default)]
    pub(crate) again: Vec<Again>,
}

/// A policy of a session that ends with its job, and not before.
pub(crate) fn policy_of(policy: &Policy) -> Policy {
    Policy {
        idle: None,
        max_age: None,
        daily_reset: None,
        detached_grace: None,
        on_disconnect: hostler_session::OnDisconnect::Detach,
        ..policy.clone()
    }
}

/// A policy with what the flow says of memory.
pub(crate) fn bounded(policy: &Policy, flow: &Flow) -> Policy {
    let mut policy = policy.clone();
    if let Some(memory) = flow.limits.memory {
        let limit = policy.limits.memory;
        policy.limits.memory = Some(limit.map_or(memory, |limit| limit.min(memory)));
    }
    policy
}

impl NewJob {
    /// Reads the flow and looks whether all is there that it needs.
    pub(crate) fn check(&self) -> Result<(Loaded, Kept)> {
        if !self.cwd.is_absolute() {
            let shown = self.cwd.display();
            return Err(Error::Invalid(format!(
                "the directory of a job should be absolute: `{shown}`"
            )));
        }
        if let Some(group) = &self.group
            && (group.is_empty() || group.len() > 64 || group.chars().any(char::is_control))
        {
            return Err(Error::Invalid(
                "a group has a name of 1 to 64 characters".into(),
            ));
        }
        let loaded = match &self.flow {
            FlowSource::File(file) => load(file),
            FlowSource::Text(source) => load_text(source, &self.cwd),
        };
        let loaded = loaded.map_err(Error::Wrong)?;
        let inputs = given(&loaded.flow, &self.inputs).map_err(Error::Inputs)?;
        let cwd =
            directory(&loaded.flow, &self.cwd, &inputs).map_err(|problem| match &self.flow {
                FlowSource::File(file) => in_file(file, problem),
                FlowSource::Text(_) => in_file(Path::new("flow"), problem),
            })?;
        let policy = bounded(&policy_of(&self.policy), &loaded.flow);
        let kept = Kept {
            flow: loaded.stored(),
            inputs,
            cwd,
            policy,
            again: Vec::new(),
        };
        Ok((loaded, kept))
    }
}

fn in_file(file: &Path, problem: crate::Problem) -> Error {
    let file = file.to_owned();
    Error::Wrong(vec![Wrong { file, problem }])
}

/// Where the steps of a flow work.
pub(crate) fn directory(
    flow: &Flow,
    base: &Path,
    inputs: &Map<String, Value>,
) -> std::result::Result<PathBuf, crate::Problem> {
    let (directory, place) = match &flow.cwd {
        // Without `.` in it.
        Some(cwd) => {
            let whole = base.join(fill(cwd, inputs));
            (whole.components().collect(), cwd.place)
        }
        None => (base.to_owned(), crate::Place::START),
    };
    match std::fs::metadata(&directory) {
        Ok(found) if found.is_dir() => Ok(directory),
        found => {
            let why = match found {
                Ok(_) => "it is not a directory".to_owned(),
                Err(error) => error.to_string(),
            };
            Err(crate::Problem {
                place,
                code: crate::Code::BadValue,
                field: "cwd".into(),
                message: format!("cannot work in {}: {why}", directory.display()),
            })
        }
    }
}

/// A text with what it is given put in: texts as they are, nothing for null, the rest as JSON.
pub(crate) fn fill(template: &At<Template>, inputs: &Map<String, Value>) -> String {
    template
        .value
        .fill(|name| inputs.get(name.as_str()).map_or_else(String::new, as_text))
}

/// A value as text.
pub(crate) fn as_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}
