//! What does a step.

use std::time::Duration;

use hostler_agent::PermissionPolicy;

use super::mapping::{Mapping, Part, entries, name, no_nul};
use crate::flow::{
    Agent, Ask, Command, Executor, ExecutorKind, Launch, Poll, Program, Stdout, SubFlow,
};
use crate::problem::{At, Code, Problems};

/// The fields of `command`.
pub(crate) const COMMAND: &[&str] = &[
    "run",
    "argv",
    "cwd",
    "env",
    "stdin",
    "stdout",
    "files",
    "exit_codes",
];
/// The fields of `poll`.
pub(crate) const POLL: &[&str] = &["run", "argv", "cwd", "env", "stdin", "every", "until"];
/// The fields of `agent`.
pub(crate) const AGENT: &[&str] = &["name", "prompt", "cwd", "corrections", "permission"];
/// The fields of `input`.
pub(crate) const INPUT: &[&str] = &["prompt"];
/// The fields of `flow`.
pub(crate) const FLOW_FILE: &[&str] = &["file"];

/// The executor among the fields of a step or of its fallback.
pub(super) fn executor(map: &mut Mapping<'_, '_>) -> Option<At<Executor>> {
    let words = ExecutorKind::ALL.map(ExecutorKind::word);
    map.one_of(&words);
    let kind = ExecutorKind::ALL
        .into_iter()
        .find(|kind| map.has(kind.word()));
    let Some(kind) = kind else {
        let why = format!("nothing says what does it: one of {}", words.join(", "));
        map.at.refuse(Code::MissingField, why, map.problems);
        return None;
    };
    let part = map.get(kind.word())?;
    let executor = one(kind, &part, map.problems)?;
    Some(At::new(executor, part.node.place))
}

fn one(kind: ExecutorKind, part: &Part<'_>, problems: &mut Problems) -> Option<Executor> {
    Some(match kind {
        ExecutorKind::Command => Executor::Command(command(part, problems)?),
        ExecutorKind::Poll => Executor::Poll(poll(part, problems)?),
        ExecutorKind::Agent => Executor::Agent(agent(part, problems)?),
        ExecutorKind::Input => {
            let prompt = short(part, "prompt", INPUT, problems)?.template(problems)?;
            Executor::Input(Ask { prompt })
        }
        ExecutorKind::Flow => {
            let file = short(part, "file", FLOW_FILE, problems)?.text(problems)?;
            Executor::Flow(SubFlow { file })
        }
        ExecutorKind::Sleep => Executor::Sleep(part.time(problems)?),
    })
}

/// The one field that has to be there, or the value itself, where it stands in its place.
fn short<'n>(
    part: &Part<'n>,
    field: &str,
    allowed: &[&str],
    problems: &mut Problems,
) -> Option<Part<'n>> {
    match part.is_map() {
        true => Mapping::open(part.node, &part.path, allowed, problems)?.required(field),
        false => part.list_or_one().into_iter().next(),
    }
}

fn shell(part: &Part<'_>, problems: &mut Problems) -> Option<Launch> {
    let text = part.text(problems)?;
    if text.value.trim().is_empty() {
        part.refuse(
            Code::BadValue,
            "a command is expected, and this is empty",
            problems,
        );
        return None;
    }
    if let Err(why) = no_nul(&text.value) {
        part.refuse(Code::BadValue, why, problems);
        return None;
    }
    Some(Launch::Shell(text))
}

fn argv(part: &Part<'_>, problems: &mut Problems) -> Option<Launch> {
    let words: Vec<_> = part
        .list(problems)?
        .iter()
        .map(|part| part.template(problems))
        .collect::<Vec<_>>()
        .into_iter()
        .collect::<Option<_>>()?;
    if words
        .first()
        .is_none_or(|program| program.value.fixed() == Some(""))
    {
        part.refuse(Code::BadValue, "it begins with a program", problems);
        return None;
    }
    Some(Launch::Argv(words))
}

fn program(map: &mut Mapping<'_, '_>) -> Option<Program> {
    map.one_of(&["run", "argv"]);
    let launch = match (map.get("run"), map.get("argv")) {
        (Some(part), _) => shell(&part, map.problems),
        (None, Some(part)) => argv(&part, map.problems),
        (None, None) => {
            let why =
                "`run` (a text for the shell) or `argv` (a program and its arguments) is missing";
            map.at.refuse(Code::MissingField, why, map.problems);
            None
        }
    };
    let mut env = Vec::new();
    if let Some(part) = map.get("env") {
        for entry in entries(&part, map.problems) {
            let below = Part::below(&part.path, entry);
            if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
                let why = format!("`{}` is no name of a variable", entry.key);
                map.problems
                    .add(entry.key_place, Code::BadValue, &*below.path, why);
            }
            if let Some(value) = below.template(map.problems) {
                env.push((entry.key.clone(), value));
            }
        }
    }
    let cwd = map.template_of("cwd");
    let stdin = map.template_of("stdin");
    Some(Program {
        launch: launch?,
        cwd,
        env,
        stdin,
    })
}

fn command(part: &Part<'_>, problems: &mut Problems) -> Option<Command> {
    if !part.is_map() {
        let launch = shell(part, problems)?;
        return Some(Command {
            program: bare(launch),
            stdout: Stdout::Text,
            files: Vec::new(),
            success: vec![0],
        });
    }
    let mut map = Mapping::open(part.node, &part.path, COMMAND, problems)?;
    let program = program(&mut map);
    let stdout = map
        .get("stdout")
        .and_then(|part| part.word(&["text", "json"], map.problems));
    let mut files = Vec::new();
    if let Some(part) = map.get("files") {
        for entry in entries(&part, map.problems) {
            let below = Part::below(&part.path, entry);
            let name = name(entry, &below.path, map.problems);
            if let (Some(name), Some(path)) = (name, below.template(map.problems)) {
                files.push((At::new(name, entry.key_place), path));
            }
        }
    }
    let mut success = vec![0];
    if let Some(part) = map.get("exit_codes") {
        let codes = part.list_or_one();
        if codes.is_empty() {
            part.refuse(
                Code::BadValue,
                "at least one exit code is needed",
                map.problems,
            );
        }
        success = codes
            .iter()
            .filter_map(|part| part.integer(0..=255, map.problems))
            .map(|code| code as i32)
            .collect();
    }
    let stdout = match stdout {
        Some(1) => Stdout::Json,
        _ => Stdout::Text,
    };
    Some(Command {
        program: program?,
        stdout,
        files,
        success,
    })
}

fn bare(launch: Launch) -> Program {
    Program {
        launch,
        cwd: None,
        env: Vec::new(),
        stdin: None,
    }
}

/// The pause between two times of a poll, when nothing else is said.
const EVERY: Duration = Duration::from_secs(5);

fn poll(part: &Part<'_>, problems: &mut Problems) -> Option<Poll> {
    if !part.is_map() {
        let program = bare(shell(part, problems)?);
        return Some(Poll {
            program,
            every: EVERY,
            until: None,
        });
    }
    let mut map = Mapping::open(part.node, &part.path, POLL, problems)?;
    let program = program(&mut map);
    let every = map
        .get("every")
        .and_then(|part| part.some_time(map.problems));
    let until = map
        .get("until")
        .and_then(|part| part.expression(map.problems));
    Some(Poll {
        program: program?,
        every: every.unwrap_or(EVERY),
        until,
    })
}

fn agent(part: &Part<'_>, problems: &mut Problems) -> Option<Agent> {
    let mut map = Mapping::open(part.node, &part.path, AGENT, problems)?;
    let name = map
        .required("name")
        .and_then(|part| part.template(map.problems));
    let prompt = map
        .required("prompt")
        .and_then(|part| part.template(map.problems));
    let cwd = map.template_of("cwd");
    let corrections = map
        .get("corrections")
        .and_then(|part| part.count(0, 10, map.problems));
    let permission = map
        .get("permission")
        .and_then(|part| part.word(&["ask", "allow", "deny"], map.problems))
        .map(|word| match word {
            1 => PermissionPolicy::Allow,
            2 => PermissionPolicy::Deny,
            _ => PermissionPolicy::Ask,
        });
    Some(Agent {
        name: name?,
        prompt: prompt?,
        cwd,
        corrections: corrections.unwrap_or(2),
        permission,
    })
}
