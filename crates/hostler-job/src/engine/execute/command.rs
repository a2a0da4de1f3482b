//! A program, owned as any process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hostler_ledger::StepRunUpdate;
use hostler_session::{
    CloseReason, ExecOptions, ExitInfo, KeepOutput, ProcessHandle, ResourceState, Session,
    SessionOptions,
};
use serde_json::{Map, Value, json};

use super::{Context, Failure, Given, output};
use crate::engine::error::StepError;
use crate::engine::jobs::Jobs;
use crate::engine::label;
use crate::engine::new::{as_text, fill};
use crate::engine::progress::Plan;
use crate::flow::{Command, Launch, Program, Stdout};

/// The longest variable of the environment, in bytes: the kernel takes 128 KiB with the name (execve(2)).
const LONGEST_VARIABLE: usize = 120 << 10;

/// A program that has ended.
pub(super) struct Ran {
    pub(super) exit: ExitInfo,
    pub(super) stdout: String,
    /// Whether that is all of it.
    pub(super) whole: bool,
    pub(super) stderr: String,
    pub(super) process: String,
}

impl Ran {
    /// What a shell would show.
    pub(super) fn code(&self) -> i64 {
        self.exit.shell_code().into()
    }

    fn detail(&self) -> Value {
        json!({
            "process": self.process,
            "stderr": self.stderr,
            "cpu_ms": self.exit.cpu_micros / 1000,
            "peak_resident": self.exit.peak_resident,
        })
    }
}

/// Makes a run of a command.
pub(super) async fn run(context: &Context, command: &Command) -> Given {
    let earlier = match &context.earlier {
        Some(_) => {
            find(
                &context.jobs,
                &context.session,
                &context.name(),
                &context.plan,
            )
            .await
        }
        None => None,
    };
    let ran = program(context, &command.program, earlier).await?;
    let detail = Some(ran.detail());
    let mut outputs = Map::new();
    outputs.insert("exit_code".into(), ran.code().into());
    outputs.insert("stdout".into(), ran.stdout.clone().into());
    let failed = |error: StepError, outputs: Map<String, Value>| Failure {
        error,
        outputs,
        detail: detail.clone(),
    };
    let code = i32::try_from(ran.code()).unwrap_or(i32::MAX);
    if !command.success.contains(&code) || ran.exit.code.is_none() {
        let last = ran
            .stderr
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty());
        let last = last.map_or_else(String::new, |line| format!(": {}", line.trim()));
        let how = match (ran.exit.code, ran.exit.signal) {
            (Some(code), _) => format!("it exited with {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it was lost with its keeper".to_owned(),
        };
        let error = StepError::new("exit_code", format!("{how}{last}"));
        return Err(failed(error, outputs));
    }
    let directory = directory(context, &command.program);
    for (name, path) in &command.files {
        let path = directory.join(fill(path, &context.plan.inputs));
        let read = tokio::task::spawn_blocking(move || output::file(&path)).await;
        match read {
            Ok(Ok(text)) => drop(outputs.insert(name.value.as_str().to_owned(), text.into())),
            Ok(Err(error)) => return Err(failed(error, outputs)),
            Err(error) => {
                return Err(failed(
                    StepError::new("internal", error.to_string()),
                    outputs,
                ));
            }
        }
    }
    if command.stdout == Stdout::Json {
        let json = match ran.whole {
            true => serde_json::from_str::<Value>(&ran.stdout).map_err(|error| error.to_string()),
            false => Err("it is too long".to_owned()),
        };
        let json = match json {
            Ok(json) => json,
            Err(why) => {
                let error =
                    StepError::new("no_json", format!("its standard output is no JSON: {why}"));
                return Err(failed(error, outputs));
            }
        };
        for wanted in &context.step().outputs {
            let name = wanted.name.value.as_str();
            if let Some(value) = json.get(name) {
                outputs
                    .entry(name.to_owned())
                    .or_insert_with(|| value.clone());
            }
        }
        outputs.insert("json".into(), json);
    }
    Ok((outputs, detail))
}

/// Where it is run.
fn directory(context: &Context, program: &Program) -> PathBuf {
    let base = context.job.cwd();
    match &program.cwd {
        Some(cwd) => base.join(fill(cwd, &context.plan.inputs)),
        None => base.clone(),
    }
}

fn options(context: &Context, program: &Program) -> Result<ExecOptions, StepError> {
    let inputs = &context.plan.inputs;
    let argv = match &program.launch {
        Launch::Shell(text) => vec!["/bin/sh".into(), "-c".into(), text.value.clone()],
        Launch::Argv(argv) => argv.iter().map(|part| fill(part, inputs)).collect(),
    };
    let mut env = BTreeMap::new();
    for (name, value) in inputs.iter().filter(|(_, value)| !value.is_null()) {
        let text = as_text(value);
        if text.len() <= LONGEST_VARIABLE {
            env.insert(name.clone(), text);
        } else if matches!(program.launch, Launch::Shell(_)) {
            let message = format!(
                "the input `{name}` has {} bytes, and a variable of the environment at most {LONGEST_VARIABLE}: a program with `argv` may be given it as `stdin`",
                text.len()
            );
            return Err(StepError::new("not_started", message));
        }
    }
    let own = program.env.iter();
    env.extend(own.map(|(name, value)| (name.clone(), fill(value, inputs))));
    env.insert("HOSTLER_JOB".into(), context.job.id.to_string());
    env.insert("HOSTLER_STEP".into(), context.step().id.value.to_string());
    Ok(ExecOptions {
        name: Some(context.name()),
        cwd: Some(directory(context, program)),
        env,
        stdin: program.stdin.is_some(),
        output: KeepOutput {
            head: 1 << 20,
            tail: 1 << 20,
            whole: false,
        },
        ..ExecOptions::new(argv)
    })
}

/// What an earlier host started for a run.
pub(super) struct Found {
    pub(super) process: ProcessHandle,
    /// The session of the run, where it has one of its own.
    own: Option<Session>,
}

/// Whether it has ended, and how is known.
pub(super) fn has_ended(process: &ProcessHandle) -> bool {
    let status = process.status();
    status.state == ResourceState::Ended && status.exit.is_some_and(|exit| !exit.lost)
}

/// The process of this name that an earlier host started, if it lives, or has ended and how is known.
pub(super) async fn find(jobs: &Jobs, session: &Session, name: &str, plan: &Plan) -> Option<Found> {
    let own = jobs.sessions().list().into_iter().find(|of| {
        let its = label::job(of).as_ref() == Some(&plan.job);
        its && label::run(of) == Some(plan.run.into()) && of.state().is_open()
    });
    let within = own.as_ref().unwrap_or(session);
    let resources = within.resources().await.ok()?;
    let mut all = resources.iter();
    let found = all.rfind(|of| of.name.as_deref() == Some(name))?;
    let process = jobs.sessions().process(found.id.as_str()).ok()?;
    let lives = process.status().state != ResourceState::Ended;
    (lives || has_ended(&process)).then_some(Found { process, own })
}

/// Runs a program to its end; where an earlier host has started it, from there. One that is cancelled is ended, and what is under
/// it.
pub(super) async fn program(
    context: &Context,
    program: &Program,
    started: Option<Found>,
) -> Result<Ran, Failure> {
    // With a limit of its own it needs a session of its own, whose group the kernel bounds.
    let (own, started) = match (context.step().limits.memory, started) {
        (_, Some(found)) => (found.own, Some(found.process)),
        (Some(memory), None) => (Some(own_session(context, memory).await?), None),
        (None, None) => (None, None),
    };
    let session = own.as_ref().unwrap_or(&context.session);
    let ran = in_session(context, program, session, started).await;
    if let Some(own) = own {
        let _ = own.close(CloseReason::JobEnd, context.by(), None).await;
    }
    ran
}

/// A session of one run, below the job's.
async fn own_session(context: &Context, memory: u64) -> Result<Session, Failure> {
    let mut policy = context.job.kept.policy.clone();
    policy.limits.memory = Some(
        policy
            .limits
            .memory
            .map_or(memory, |limit| limit.min(memory)),
    );
    let options = SessionOptions {
        parent: Some(context.session.id().clone()),
        cwd: Some(context.job.cwd().clone()),
        policy,
        labels: label::of_run(&context.job.id, context.plan.run),
        ..SessionOptions::default()
    };
    let opened = context.jobs.sessions().open(options, context.by()).await;
    Ok(opened.map_err(|error| StepError::new("no_session", error.to_string()))?)
}

async fn in_session(
    context: &Context,
    program: &Program,
    session: &Session,
    started: Option<ProcessHandle>,
) -> Result<Ran, Failure> {
    let is_new = started.is_none();
    let process = match started {
        Some(process) => process,
        None => {
            let options = options(context, program)?;
            is_directory(options.cwd.as_deref())?;
            let exec = session.exec(options, context.by());
            tokio::select! {
                process = exec => process.map_err(|error| {
                    StepError::new("not_started", error.to_string())
                })?,
                // Dropped, what it may have started is ended.
                () = context.cancel.cancelled() => return Err(StepError::cancelled().into()),
            }
        }
    };
    let id = process.id().to_string();
    context.job.know(context.plan.run, "process", id.clone());
    let exit = async {
        let feed = feed(context, program, &process, is_new);
        let (exit, ()) = tokio::join!(process.wait(), feed);
        exit
    };
    let exit = tokio::select! {
        exit = exit => exit,
        () = context.cancel.cancelled() => {
            let _ = process.end(None, context.by()).await;
            None
        }
    };
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let read = tokio::task::spawn_blocking(move || {
        let (text, whole) = output::whole(&stdout)?;
        let stderr = stderr.as_ref().map(output::end).transpose()?;
        Ok::<_, std::io::Error>((text, whole, stderr.unwrap_or_default()))
    });
    let (stdout, whole, stderr) = match read.await {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => {
            let message = format!("its output cannot be read: {error}");
            return Err(StepError::new("output", message).into());
        }
        Err(error) => return Err(StepError::new("internal", error.to_string()).into()),
    };
    let ran = |exit: ExitInfo| Ran {
        exit,
        stdout: stdout.clone(),
        whole,
        stderr: stderr.clone(),
        process: id.clone(),
    };
    match exit {
        Some(exit) if !context.cancel.is_cancelled() => Ok(ran(exit)),
        _ => {
            let mut outputs = Map::new();
            if !stdout.is_empty() {
                outputs.insert("stdout".into(), stdout.clone().into());
            }
            Err(Failure {
                error: StepError::cancelled(),
                outputs,
                detail: Some(ran(ExitInfo::default()).detail()),
            })
        }
    }
}

fn is_directory(path: Option<&Path>) -> Result<(), StepError> {
    let Some(path) = path else { return Ok(()) };
    let why = match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "it is not a directory".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("cannot work in {}: {why}", path.display());
    Err(StepError::new("not_started", message))
}

/// Gives the process its input. One that does not read it is nobody's failure.
async fn feed(context: &Context, program: &Program, process: &ProcessHandle, is_new: bool) {
    let Some(stdin) = &program.stdin else { return };
    if is_new {
        let text = fill(stdin, &context.plan.inputs);
        let mut ended = process.watch();
        let ended = ended.wait_for(|status| status.state == ResourceState::Ended);
        tokio::select! {
            _ = process.write(text.as_bytes()) => {}
            _ = ended => {}
        }
        // The next host would cut it off else.
        let update = StepRunUpdate {
            detail: Some(json!({ "fed": true, "fallback": context.plan.fallback })),
            ..StepRunUpdate::default()
        };
        let _ = context.note(Vec::new(), update).await;
    }
    let _ = process.close_input().await;
}
