//! What programs and agents give, as outputs.

use std::io;
use std::path::Path;

use hostler_session::Output;
use serde_json::{Map, Value};

use crate::engine::error::StepError;
use crate::flow::Step;

/// What a step gave, by name.
type Outputs = Map<String, Value>;

/// The longest text that is an output, in bytes. Of a longer one its beginning and its end are.
const LONGEST: usize = 1 << 20;
/// How much of standard error is kept with a run: its end, in bytes.
pub(super) const LAST_WORDS: usize = 16 << 10;

/// All that was written, or its beginning and its end; and whether that is all.
pub(super) fn whole(output: &Output) -> io::Result<(String, bool)> {
    let progress = output.progress();
    if progress.len <= LONGEST as u64 && progress.gap_end == progress.gap_start {
        return Ok((text(&read(output, 0, progress.len)?), true));
    }
    let half = LONGEST as u64 / 2;
    let head = read(output, 0, half)?;
    let from = progress.len.saturating_sub(half).max(half);
    let tail = read(output, from, progress.len - from)?;
    let between = progress
        .len
        .saturating_sub((head.len() + tail.len()) as u64);
    let text = format!(
        "{}\n… {between} bytes are left out …\n{}",
        text(&head),
        text(&tail)
    );
    Ok((text, false))
}

/// The end of what was written.
pub(super) fn end(output: &Output) -> io::Result<String> {
    let len = output.progress().len;
    let from = len.saturating_sub(LAST_WORDS as u64);
    Ok(text(&read(output, from, len - from)?))
}

fn read(output: &Output, from: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut at, to) = (from, from + most);
    while at < to {
        let chunk = output.read_at(
            at,
            usize::try_from(to - at)
                .unwrap_or(usize::MAX)
                .min(256 << 10),
        )?;
        if chunk.bytes.is_empty() {
            break;
        }
        at = chunk.next;
        let room = usize::try_from(most).unwrap_or(usize::MAX) - bytes.len();
        bytes.extend_from_slice(&chunk.bytes[..chunk.bytes.len().min(room)]);
    }
    Ok(bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file that a command has written, as an output.
pub(super) fn file(path: &Path) -> Result<String, StepError> {
    let refuse = |why: String| StepError::new("missing_file", format!("{}: {why}", path.display()));
    let found = std::fs::metadata(path).map_err(|error| refuse(error.to_string()))?;
    if !found.is_file() {
        return Err(refuse("it is no file".into()));
    }
    if found.len() > LONGEST as u64 {
        return Err(refuse(format!(
            "it has {} bytes, and an output has at most {LONGEST}",
            found.len()
        )));
    }
    let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
    Ok(text(&bytes))
}

/// What a step gave, with the defaults of what it is to give, where that is right.
///
/// # Errors
/// What is wrong, and what it gave.
pub(super) fn declared(step: &Step, mut outputs: Outputs) -> Result<Outputs, (StepError, Outputs)> {
    for wanted in &step.outputs {
        let name = wanted.name.value.as_str();
        let wrong = |message: String| StepError::new("wrong_output", message);
        if outputs.get(name).is_none_or(Value::is_null) {
            match (&wanted.default, wanted.optional) {
                (Some(default), _) => drop(outputs.insert(name.to_owned(), default.clone())),
                (None, true) => drop(outputs.insert(name.to_owned(), Value::Null)),
                (None, false) => {
                    let error = wrong(format!("its output `{name}` ({}) is missing", wanted.kind));
                    return Err((error, outputs));
                }
            }
        } else if let Err(mismatch) = wanted.kind.check(&outputs[name]) {
            return Err((wrong(format!("its output `{name}`: {mismatch}")), outputs));
        }
    }
    Ok(outputs)
}
