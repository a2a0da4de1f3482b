//! An agent on the official SDK that does what its prompts say, and misbehaves where its environment says so: the other side
//! of the tests in tests/agent.
//!
//! Prompts: `stream N`, `slow N MS`, `flood N`, `echo`, `permission`, `read PATH`, `write PATH TEXT`, `terminal PROGRAM`, `run COMMAND`, `mcp`, `crash`, `exit CODE`,
//! `hang`, `wait`, `garbage N`, `huge BYTES`, `child`, `stderr BYTES`, `pid`, `session`, `closed`, `late MS`. Environment:
//! `PEER_HANG` (`initialize`, `new`, `second`), `PEER_FAIL` (`second`), `PEER_CLOSE`, `PEER_SLOW` (milliseconds), `PEER_LOAD`, `PEER_DEAF` (ignores the end of its input, and SIGTERM as far as a shell can), `PEER_LOGIN`, `PEER_LOUD`.

use std::io::Write;
use std::time::Duration;

use agent_client_protocol::v1::ConnectionTo;
use agent_client_protocol::v1::schema::{
    AgentCapabilities, CancelNotification, CloseSessionRequest, CloseSessionResponse, ContentBlock,
    ContentChunk, CreateTerminalRequest, InitializeRequest, InitializeResponse,
    KillTerminalRequest, LoadSessionRequest, LoadSessionResponse, NewSessionRequest,
    NewSessionResponse, PermissionOption, PermissionOptionKind, PromptRequest, PromptResponse,
    ReadTextFileRequest, ReleaseTerminalRequest, RequestPermissionOutcome,
    RequestPermissionRequest, SessionCapabilities, SessionCloseCapabilities, SessionId,
    SessionNotification, SessionUpdate, StopReason, TerminalOutputRequest, ToolCallUpdate,
    ToolCallUpdateFields, WaitForTerminalExitRequest, WriteTextFileRequest,
};
use agent_client_protocol::{Agent, Client, Error, Result, Stdio};
use tokio::sync::watch;

/// The `mcpServers` of `session/new`, as JSON.
static OFFERED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// The sessions that it was told are over.
static CLOSED: std::sync::Mutex<Vec<String>> = std::sync::Mutex::new(Vec::new());
/// How many sessions it has given names.
static NAMED: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

type Connection = ConnectionTo<Client>;

fn set(name: &str) -> bool {
    std::env::var_os(name).is_some()
}

fn hangs_at(step: &str) -> bool {
    std::env::var("PEER_HANG").is_ok_and(|at| at == step)
}

fn say(connection: &Connection, session: &SessionId, text: String) -> Result<()> {
    let chunk = ContentChunk::new(text.into());
    let update = SessionUpdate::AgentMessageChunk(chunk);
    connection.send_notification(SessionNotification::new(session.clone(), update))
}

/// A line of its own making on its standard output.
fn write_raw(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
}

fn child(program: &str, args: &[&str]) {
    let null = std::process::Stdio::null;
    let mut command = std::process::Command::new(program);
    let spawned = command
        .args(args)
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .spawn();
    drop(spawned);
}

async fn turn(
    connection: Connection,
    prompt: PromptRequest,
    mut cancelled: watch::Receiver<u64>,
) -> Result<PromptResponse> {
    let session = prompt.session_id.clone();
    let texts: Vec<&str> = prompt
        .prompt
        .iter()
        .filter_map(|block| match block {
            ContentBlock::Text(text) => Some(text.text.as_str()),
            _ => None,
        })
        .collect();
    let mut words = texts.last().copied().unwrap_or_default().split(' ');
    let verb = words.next().unwrap_or_default().to_owned();
    let rest: Vec<&str> = words.collect();
    let number = |index: usize| -> u64 {
        rest.get(index)
            .and_then(|word| word.parse().ok())
            .unwrap_or(1)
    };
    match verb.as_str() {
        "stream" | "slow" => {
            for index in 0..number(0) {
                say(&connection, &session, format!("{index}"))?;
                if verb == "slow" {
                    tokio::time::sleep(Duration::from_millis(number(1))).await;
                }
            }
        }
        "flood" => {
            // As fast as a pipe takes it: what is measured is the other side.
            let id = serde_json::to_string(&session).unwrap_or_default();
            let count = number(0);
            let done = tokio::task::spawn_blocking(move || {
                let mut lines = Vec::with_capacity(128 << 10);
                for index in 0..count {
                    let _ = writeln!(
                        lines,
                        r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":{id},"update":{{"sessionUpdate":"agent_message_chunk","content":{{"type":"text","text":"{index}"}}}}}}}}"#
                    );
                    if lines.len() > 60 << 10 {
                        write_raw(&lines);
                        lines.clear();
                    }
                }
                write_raw(&lines);
            });
            let _ = done.await;
        }
        "echo" => say(&connection, &session, texts.join("|"))?,
        "permission" => {
            let option = |id: &'static str, kind| PermissionOption::new(id, id, kind);
            let request = RequestPermissionRequest::new(
                session.clone(),
                ToolCallUpdate::new("call", ToolCallUpdateFields::default()),
                vec![
                    option("always", PermissionOptionKind::AllowAlways),
                    option("yes", PermissionOptionKind::AllowOnce),
                    option("no", PermissionOptionKind::RejectOnce),
                ],
            );
            let answer = connection.send_request(request).block_task().await?;
            say(
                &connection,
                &session,
                match answer.outcome {
                    RequestPermissionOutcome::Selected(selected) => selected.option_id.to_string(),
                    _ => "cancelled".into(),
                },
            )?;
            if *cancelled.borrow_and_update() > 0 {
                return Ok(PromptResponse::new(StopReason::Cancelled));
            }
        }
        "read" => {
            let request = ReadTextFileRequest::new(session.clone(), rest.join(" "));
            let answer = connection.send_request(request).block_task().await;
            say(
                &connection,
                &session,
                match answer {
                    Ok(answer) => answer.content,
                    Err(error) => format!("error {}", i32::from(error.code)),
                },
            )?;
        }
        "terminal" => {
            let request = CreateTerminalRequest::new(session.clone(), rest.join(" "));
            let answer = connection.send_request(request).block_task().await;
            say(
                &connection,
                &session,
                match answer {
                    Ok(answer) => answer.terminal_id.to_string(),
                    Err(error) => format!("error {}", i32::from(error.code)),
                },
            )?;
        }
        // The whole way of a command: created, waited for, read, ended, released.
        "run" => {
            let request = CreateTerminalRequest::new(session.clone(), "/bin/sh")
                .args(vec!["-c".into(), rest.join(" ")]);
            let terminal = connection.send_request(request).block_task().await?;
            let id = terminal.terminal_id;
            let request = WaitForTerminalExitRequest::new(session.clone(), id.clone());
            let exit = connection.send_request(request).block_task().await?;
            let request = TerminalOutputRequest::new(session.clone(), id.clone());
            let output = connection.send_request(request).block_task().await?;
            let request = KillTerminalRequest::new(session.clone(), id.clone());
            connection.send_request(request).block_task().await?;
            let request = ReleaseTerminalRequest::new(session.clone(), id);
            connection.send_request(request).block_task().await?;
            let code = exit.exit_status.exit_code;
            say(&connection, &session, format!("{code:?} {}", output.output))?;
        }
        "write" => {
            let path = rest.first().copied().unwrap_or_default();
            let text = rest.get(1..).unwrap_or_default().join(" ");
            let request = WriteTextFileRequest::new(session.clone(), path, text);
            let answer = connection.send_request(request).block_task().await;
            say(
                &connection,
                &session,
                match answer {
                    Ok(_) => "written".into(),
                    Err(error) => format!("error {}", i32::from(error.code)),
                },
            )?;
        }
        "mcp" => say(
            &connection,
            &session,
            OFFERED.get().cloned().unwrap_or_default(),
        )?,
        "pid" => say(&connection, &session, std::process::id().to_string())?,
        "session" => say(&connection, &session, session.to_string())?,
        "closed" => {
            let closed = CLOSED
                .lock()
                .map_or_else(|_| String::new(), |all| all.join(" "));
            say(&connection, &session, closed)?;
        }
        // What is said when nobody asks any more.
        "late" => {
            let wait = Duration::from_millis(number(0));
            let (own, session) = (connection.clone(), session.clone());
            connection.spawn(async move {
                tokio::time::sleep(wait).await;
                say(&own, &session, "too late".into())
            })?;
        }
        "crash" => {
            eprintln!("about to crash");
            std::process::abort();
        }
        "exit" => std::process::exit(number(0) as i32),
        "hang" => std::future::pending().await,
        "wait" => {
            let _ = cancelled.changed().await;
            return Ok(PromptResponse::new(StopReason::Cancelled));
        }
        "garbage" => {
            for index in 0..number(0) {
                write_raw(match index % 5 {
                    0 => b"this is no message\n",
                    1 => b"{\"jsonrpc\":\"2.0\"\n",
                    2 => b"[1,2,3]\n",
                    3 => b"{\"jsonrpc\":\"2.0\",\"id\":987654321,\"result\":{}}\n",
                    _ => b"\xff\xfe{}\n",
                });
            }
        }
        "huge" => {
            let mut line = vec![b'x'; number(0) as usize];
            line.push(b'\n');
            let _ = tokio::task::spawn_blocking(move || write_raw(&line)).await;
        }
        "child" => {
            child("setsid", &["sleep", "1000"]);
            child("sleep", &["1001"]);
        }
        "stderr" => {
            let line = vec![b'e'; 1023];
            for _ in 0..number(0) / 1024 {
                eprintln!("{}", String::from_utf8_lossy(&line));
            }
        }
        _ => {}
    }
    Ok(PromptResponse::new(StopReason::EndTurn))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if set("PEER_LOUD") {
        eprintln!("line one\nline two: it is loud");
    }
    let (cancel, cancelled) = watch::channel(0_u64);
    let served = Agent
        .v1()
        .name("peer")
        .on_receive_request(
            async move |request: InitializeRequest, responder, _: Connection| {
                if hangs_at("initialize") {
                    std::mem::forget(responder);
                    return Ok(());
                }
                let mut capabilities = AgentCapabilities::new().load_session(set("PEER_LOAD"));
                if set("PEER_CLOSE") {
                    let close = SessionCapabilities::new().close(SessionCloseCapabilities::new());
                    capabilities = capabilities.session_capabilities(close);
                }
                let answer = InitializeResponse::new(request.protocol_version);
                responder.respond(answer.agent_capabilities(capabilities))
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |request: NewSessionRequest, responder, _: Connection| {
                let servers = serde_json::to_string(&request.mcp_servers).unwrap_or_default();
                let _ = OFFERED.set(servers);
                if set("PEER_CHILD") {
                    child("setsid", &["sleep", "1000"]);
                }
                let before = NAMED.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if let Some(slow) = std::env::var("PEER_SLOW")
                    .ok()
                    .and_then(|ms| ms.parse().ok())
                {
                    tokio::time::sleep(Duration::from_millis(slow)).await;
                }
                if before == 1 && std::env::var("PEER_FAIL").is_ok_and(|at| at == "second") {
                    return responder.respond_with_error(Error::internal_error());
                }
                if hangs_at("new") || (hangs_at("second") && before == 1) {
                    std::mem::forget(responder);
                    return Ok(());
                }
                if set("PEER_LOGIN") {
                    return responder.respond_with_error(Error::auth_required());
                }
                let id = format!("peer-{}-{before}", std::process::id());
                responder.respond(NewSessionResponse::new(id))
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |request: CloseSessionRequest, responder, _: Connection| {
                if let Ok(mut closed) = CLOSED.lock() {
                    closed.push(request.session_id.to_string());
                }
                responder.respond(CloseSessionResponse::new())
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            async move |request: LoadSessionRequest, responder, connection: Connection| {
                // What was said before, once more.
                say(&connection, &request.session_id, "history".into())?;
                responder.respond(LoadSessionResponse::new())
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_request(
            {
                let cancelled = cancelled.clone();
                async move |request: PromptRequest, responder, connection: Connection| {
                    let mut cancelled = cancelled.clone();
                    cancelled.mark_unchanged();
                    let own = connection.clone();
                    connection.spawn(async move {
                        let answer = turn(own, request, cancelled).await;
                        responder.respond_with_result(answer)
                    })
                }
            },
            agent_client_protocol::on_receive_request!(),
        )
        .on_receive_notification(
            async move |_: CancelNotification, _: Connection| {
                cancel.send_modify(|count| *count += 1);
                Ok(())
            },
            agent_client_protocol::on_receive_notification!(),
        )
        .connect_to(Stdio::new())
        .await;
    if set("PEER_DEAF") {
        std::future::pending::<()>().await;
    }
    served
}
