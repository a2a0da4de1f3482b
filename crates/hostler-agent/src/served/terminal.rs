//! `terminal/*`: commands that an agent runs, as background processes of its session.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agent_client_protocol_schema::v1::{
    CreateTerminalRequest, CreateTerminalResponse, KillTerminalRequest, KillTerminalResponse, Meta,
    ReleaseTerminalRequest, ReleaseTerminalResponse, TerminalExitStatus, TerminalId,
    TerminalOutputRequest, TerminalOutputResponse, WaitForTerminalExitRequest,
    WaitForTerminalExitResponse,
};
use hostler_session::{
    By, Error, ExecOptions, ExitInfo, KeepOutput, Mode, ProcessHandle, ResourceState, Session,
    Sessions,
};
use serde_json::json;

use crate::rpc::RpcError;

/// How much output is kept where the agent says nothing, in bytes.
const KEEP: u64 = 1 << 20;
/// How much an agent may ask to keep: an answer has it all.
const KEEP_MOST: u64 = 16 << 20;
/// How much output one answer to a follower has at the most.
const FOLLOW: usize = 64 << 10;
/// The longest character in UTF-8.
const CHARACTER: usize = 4;
/// How many terminals that were not released are remembered.
const REMEMBERED: usize = 512;
/// Set for terminals of agents, by which the next host finds them among the processes of the session.
const MARK: &str = "HOSTLER_TERMINAL";

/// The terminals of one session's agent. Their ids are those of the processes, so that they are found in listings, and by the
/// next host.
#[derive(Debug)]
pub(super) struct Terminals {
    sessions: Sessions,
    session: Session,
    /// Where a command runs that is not told.
    cwd: Option<PathBuf>,
    known: Mutex<HashMap<TerminalId, Known>>,
}

#[derive(Debug)]
enum Known {
    /// Which one, and its place in the order.
    Here(ProcessHandle, u64),
    Released,
}

impl Terminals {
    pub(super) fn new(sessions: Sessions, session: Session, cwd: Option<PathBuf>) -> Self {
        Self {
            sessions,
            session,
            cwd,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TerminalId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The terminal, as long as it was not released.
    fn find(&self, id: &TerminalId) -> Result<ProcessHandle, RpcError> {
        let unknown = || RpcError::invalid_params(format!("there is no terminal `{id}`"));
        match self.known().get(id) {
            Some(Known::Here(handle, _)) => return Ok(handle.clone()),
            Some(Known::Released) => return Err(unknown()),
            None => {}
        }
        // One of an earlier host, whose agent lives on.
        let handle = self.sessions.process(&id.0).map_err(|_| unknown())?;
        let mine = handle.session() == *self.session.id();
        let terminal = handle.options().env.contains_key(MARK);
        (mine && terminal).then_some(handle).ok_or_else(unknown)
    }

    pub(super) async fn create(
        &self,
        request: CreateTerminalRequest,
        by: By,
    ) -> Result<CreateTerminalResponse, RpcError> {
        let mut options = options(request)?;
        if options.cwd.is_none() {
            options.cwd = self.cwd.clone();
        }
        let by = By::new(by.who, "terminal/create");
        let handle = self.session.exec(options, by).await.map_err(refused)?;
        // So that it can be read until it is released, though the session may forget it.
        handle.stdout().hold();
        let id = TerminalId::new(handle.id().to_string());
        self.remember(id.clone(), handle);
        Ok(CreateTerminalResponse::new(id).meta(ours(json!({"follow": true}))))
    }

    fn remember(&self, id: TerminalId, handle: ProcessHandle) {
        let mut known = self.known();
        let order = known
            .values()
            .filter_map(|known| match known {
                Known::Here(_, order) => Some(order + 1),
                Known::Released => None,
            })
            .max()
            .unwrap_or_default();
        known.insert(id, Known::Here(handle, order));
        if known.len() <= REMEMBERED {
            return;
        }
        // An agent that releases nothing: the oldest that has ended is forgotten; what was released, before that.
        let oldest = known
            .iter()
            .filter_map(|(id, known)| match known {
                Known::Released => Some((None, id)),
                Known::Here(handle, order) => {
                    (handle.status().state == ResourceState::Ended).then_some((Some(*order), id))
                }
            })
            .min_by_key(|(order, _)| *order)
            .map(|(_, id)| id.clone());
        if let Some(oldest) = oldest {
            known.remove(&oldest);
        }
    }

    pub(super) async fn output(
        &self,
        request: TerminalOutputRequest,
    ) -> Result<TerminalOutputResponse, RpcError> {
        let handle = self.find(&request.terminal_id)?;
        let after = request
            .meta
            .as_ref()
            .and_then(|meta| meta.get("hostler")?.get("after")?.as_u64());
        if let Some(after) = after {
            return follow(&handle, after).await;
        }
        // Before the output is read, so that it is whole where the exit is told.
        let exit = exit_now(&handle);
        let read = tokio::task::spawn_blocking(move || tail(&handle)).await;
        let (output, truncated) = match read {
            Ok(Ok(read)) => read,
            Ok(Err(problem)) => return Err(unreadable(&problem)),
            Err(_) => return Err(RpcError::internal("the output was not read")),
        };
        Ok(TerminalOutputResponse::new(output, truncated).exit_status(exit))
    }

    pub(super) async fn wait_for_exit(
        &self,
        request: WaitForTerminalExitRequest,
    ) -> Result<WaitForTerminalExitResponse, RpcError> {
        let handle = self.find(&request.terminal_id)?;
        let exit = handle.wait().await;
        Ok(WaitForTerminalExitResponse::new(exit_status(exit)))
    }

    pub(super) async fn kill(
        &self,
        request: KillTerminalRequest,
        by: By,
    ) -> Result<KillTerminalResponse, RpcError> {
        let handle = self.find(&request.terminal_id)?;
        end(&handle, By::new(by.who, "terminal/kill")).await?;
        Ok(KillTerminalResponse::new())
    }

    pub(super) async fn release(
        &self,
        request: ReleaseTerminalRequest,
        by: By,
    ) -> Result<ReleaseTerminalResponse, RpcError> {
        let id = request.terminal_id;
        let handle = self.find(&id)?;
        // First, so that of two releases one is refused.
        self.known().insert(id, Known::Released);
        end(&handle, By::new(by.who, "terminal/release")).await?;
        Ok(ReleaseTerminalResponse::new())
    }
}

/// Ends it and what is under it, if it runs.
async fn end(handle: &ProcessHandle, by: By) -> Result<(), RpcError> {
    if handle.status().state != ResourceState::Ended {
        handle.end(None, by).await.map_err(refused)?;
    }
    Ok(())
}

fn refused(problem: Error) -> RpcError {
    let code = match problem {
        Error::Invalid(_) => RpcError::INVALID_PARAMS,
        _ => RpcError::INTERNAL,
    };
    RpcError::new(code, problem.to_string())
}

fn unreadable(problem: &std::io::Error) -> RpcError {
    RpcError::internal(format!("the output cannot be read: {problem}"))
}

fn options(request: CreateTerminalRequest) -> Result<ExecOptions, RpcError> {
    let invalid = |what: String| Err(RpcError::invalid_params(what));
    if request.command.trim().is_empty() {
        return invalid("there is no command to run".into());
    }
    let cwd = request.cwd;
    if let Some(cwd) = &cwd {
        let shown = cwd.display();
        if !cwd.is_absolute() {
            return invalid(format!("cwd is not absolute: `{shown}`"));
        }
        if !cwd.is_dir() {
            return invalid(format!("there is no directory `{shown}`"));
        }
    }
    let argv = if request.args.is_empty() && is_line(&request.command) {
        vec!["sh".into(), "-c".into(), request.command]
    } else {
        let mut argv = vec![request.command];
        argv.extend(request.args);
        argv
    };
    let mut options = ExecOptions::new(argv);
    for variable in request.env {
        let name = variable.name;
        if name.is_empty() || name.contains(['=', '\0']) || variable.value.contains('\0') {
            return invalid(format!(
                "there can be no variable `{}`",
                name.escape_debug()
            ));
        }
        options.env.insert(name, variable.value);
    }
    options.env.insert(MARK.into(), "1".into());
    options.mode = Mode::Background;
    options.cwd = cwd;
    options.output = KeepOutput {
        head: 0,
        tail: request.output_byte_limit.unwrap_or(KEEP).min(KEEP_MOST),
        whole: false,
    };
    Ok(options)
}

/// Whether a command without arguments is a line for a shell, as some agents send it.
fn is_line(command: &str) -> bool {
    command.contains(|letter: char| {
        letter.is_whitespace() || "|&;<>()$`\\\"'*?[#~=%{!".contains(letter)
    }) && !Path::new(command).exists()
}

/// The end of the output, no more than was asked to be kept, and whether anything before it is missing.
fn tail(handle: &ProcessHandle) -> std::io::Result<(String, bool)> {
    let (output, limit) = (handle.stdout(), handle.options().output.tail);
    let progress = output.progress();
    let from = progress.len.saturating_sub(limit);
    let mut bytes = Vec::new();
    let (mut at, mut truncated) = (from, from > 0);
    while at < progress.len {
        let most = usize::try_from(progress.len - at).unwrap_or(usize::MAX);
        let chunk = output.read_at(at, most)?;
        if chunk.skipped > 0 {
            // The process was quicker; what comes next does not belong to what was read.
            bytes.clear();
            truncated = true;
        }
        bytes.extend_from_slice(&chunk.bytes);
        if chunk.next <= at {
            break;
        }
        at = chunk.next;
    }
    let whole = if truncated { begun(&bytes) } else { 0 };
    let done = output.progress().ended;
    let end = if done {
        bytes.len()
    } else {
        bytes.len() - unfinished(&bytes)
    };
    let mut text = String::from_utf8_lossy(&bytes[whole.min(end)..end]).into_owned();
    // What is not UTF-8 takes more room when it is replaced.
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if text.len() > limit {
        let mut cut = text.len() - limit;
        while !text.is_char_boundary(cut) {
            cut += 1;
        }
        text.drain(..cut);
        truncated = true;
    }
    Ok((text, truncated))
}

/// How many bytes at the start are the rest of a character.
fn begun(bytes: &[u8]) -> usize {
    let rest = bytes
        .iter()
        .take(3)
        .take_while(|byte| **byte & 0xC0 == 0x80);
    rest.count()
}

/// How many bytes at the end are the beginning of a character.
fn unfinished(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let whole = match bytes[bytes.len() - back] {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        return if whole > back { back } else { 0 };
    }
    0
}

/// What came after an offset, as soon as anything has, or the exit.
async fn follow(handle: &ProcessHandle, after: u64) -> Result<TerminalOutputResponse, RpcError> {
    let mut follower = handle.stdout().follow(after);
    let chunk = tokio::select! {
        biased;
        chunk = follower.next_text(FOLLOW) => chunk,
        _ = handle.wait() => follower.output().read_text_at(after, FOLLOW).map(Some),
    };
    let chunk = chunk.map_err(|problem| unreadable(&problem))?;
    let chunk = match chunk {
        Some(chunk) => chunk,
        None => {
            // Its output was closed before its exit.
            handle.wait().await;
            let output = handle.stdout();
            let read = output.read_text_at(after, FOLLOW);
            read.map_err(|problem| unreadable(&problem))?
        }
    };
    let (mut chunk, exit) = (chunk, exit_now(handle));
    if exit.is_some() && chunk.text.is_empty() {
        // It may have written after that was read.
        let output = handle.stdout();
        let read = output.read_text_at(chunk.next, FOLLOW);
        chunk = read.map_err(|problem| unreadable(&problem))?;
        if chunk.text.is_empty() {
            // What is held back as the beginning of a character is never continued by one that has ended.
            let rest = output.read_at(chunk.next, CHARACTER);
            let rest = rest.map_err(|problem| unreadable(&problem))?;
            chunk.next = rest.next;
            chunk.text = String::from_utf8_lossy(&rest.bytes).into_owned();
        }
    }
    let place = json!({"next": chunk.next, "skipped": chunk.skipped});
    Ok(TerminalOutputResponse::new(chunk.text, chunk.skipped > 0)
        .exit_status(exit)
        .meta(ours(place)))
}

fn exit_now(handle: &ProcessHandle) -> Option<TerminalExitStatus> {
    let status = handle.status();
    (status.state == ResourceState::Ended).then(|| exit_status(status.exit))
}

fn exit_status(exit: Option<ExitInfo>) -> TerminalExitStatus {
    let status = TerminalExitStatus::new();
    match exit {
        Some(exit) => status
            .exit_code(exit.code.map(u32::from))
            .signal(exit.signal.map(signal_name)),
        None => status,
    }
}

/// The signal's name, as agents expect it.
fn signal_name(number: i32) -> String {
    const NAMES: [&str; 31] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
        "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let index = usize::try_from(number)
        .ok()
        .and_then(|number| number.checked_sub(1));
    match index.and_then(|index| NAMES.get(index)) {
        Some(name) => format!("SIG{name}"),
        None => format!("signal {number}"),
    }
}

fn ours(value: serde_json::Value) -> Meta {
    let mut meta = Meta::new();
    meta.insert("hostler".into(), value);
    meta
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_for_a_shell_and_programs_are_not() {
        for (command, line) in [
            ("ls", false),
            ("/bin/ls", false),
            ("a-b_c.d+e", false),
            ("ls -la", true),
            ("a|b", true),
            ("A=1", true),
            ("echo $HOME", true),
        ] {
            assert_eq!(is_line(command), line, "{command}");
        }
    }

    #[test]
    fn signals_have_their_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(31), "SIGSYS");
        assert_eq!(signal_name(34), "signal 34");
        assert_eq!(signal_name(0), "signal 0");
    }
}
