//! The built-in agent `shell`: it runs what it is prompted as a command, and streams it.
//!
//! A process of its own that speaks ACP on stdin and stdout as any other agent does, so that a host is useful, and can be tried,
//! with nothing else installed. The command of a prompt is its last text block; what comes before that is context, which a shell
//! has no use for. It runs with `sh -c` in the session's directory: as a terminal of the client's where that offers any, else as a
//! child, in a process group of its own.
//!
//! One thread reads, and one more runs each turn; they share one `Agent`. Sessions are kept in memory alone, so none can be loaded.

mod child;
mod text;
mod through;
mod turn;
mod wire;

use std::collections::HashMap;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_client_protocol_schema::v1::{
    CancelNotification, CloseSessionRequest, ContentBlock, InitializeRequest, NewSessionRequest,
    PromptRequest,
};
use serde_json::{Value, json};

use turn::Turn;
use wire::{Failure, Message, Wire};

/// The longest message that is read; what is longer is refused and skipped.
const LONGEST: u64 = 64 << 20;
/// How long turns have to end once the client is gone.
const GOODBYE: Duration = Duration::from_secs(4);

/// A session of this agent.
struct Session {
    cwd: PathBuf,
    turn: Option<Arc<Turn>>,
}

/// What the reading thread and the turns share.
struct Agent {
    wire: Wire,
    state: Mutex<State>,
    /// Told when a turn has ended.
    quiet: Condvar,
}

#[derive(Default)]
struct State {
    initialized: bool,
    /// Whether the client runs terminals.
    terminals: bool,
    sessions: HashMap<String, Session>,
    /// Turns under way, also of sessions that were closed.
    turns: usize,
}

/// Serves on stdin and stdout until stdin ends; then what still runs is ended.
pub fn run() -> ExitCode {
    let agent = Arc::new(Agent {
        wire: Wire::new(std::io::stdout()),
        state: Mutex::default(),
        quiet: Condvar::new(),
    });
    let mut input = std::io::stdin().lock();
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.by_ref().take(LONGEST).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(count) if count as u64 == LONGEST && line.last() != Some(&b'\n') => {
                agent.wire.fail(
                    &Value::Null,
                    &Failure::parse(format!("a message may have {LONGEST} bytes at the most")),
                );
                if input.skip_until(b'\n').is_err() {
                    break;
                }
            }
            Ok(_) => agent.hear(&line),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    agent.goodbye();
    ExitCode::SUCCESS
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(self: &Arc<Self>, line: &[u8]) {
        if line.trim_ascii().is_empty() {
            return;
        }
        match wire::parse(line) {
            Ok(Message::Request { id, method, params }) => {
                match self.request(&id, &method, params) {
                    Ok(Some(result)) => self.wire.answer(&id, result),
                    // A turn answers when it ends.
                    Ok(None) => {}
                    Err(failure) => self.wire.fail(&id, &failure),
                }
            }
            Ok(Message::Notification { method, params }) => self.notification(&method, params),
            Ok(Message::Answer { id, result }) => self.wire.answered(&id, result),
            Err((id, failure)) => self.wire.fail(&id, &failure),
        }
    }

    fn request(
        self: &Arc<Self>,
        id: &Value,
        method: &str,
        params: Value,
    ) -> Result<Option<Value>, Failure> {
        if method == "initialize" {
            return self.initialize(wire::read(params)?).map(Some);
        }
        if !self.state().initialized {
            return Err(Failure::request("initialize comes first"));
        }
        match method {
            "session/new" => self.new_session(wire::read(params)?).map(Some),
            "session/prompt" => self.prompt(id, wire::read(params)?).map(|()| None),
            "session/close" => self.close(id, &wire::read(params)?),
            _ => Err(Failure::method(method)),
        }
    }

    fn notification(&self, method: &str, params: Value) {
        match method {
            "session/cancel" => {
                let Ok(cancel) = wire::read::<CancelNotification>(params) else {
                    return;
                };
                let state = self.state();
                let session = state.sessions.get(&*cancel.session_id.0);
                if let Some(turn) = session.and_then(|session| session.turn.as_ref()) {
                    turn.stop();
                }
            }
            "$/cancel_request" => {
                let state = self.state();
                let turns = state.sessions.values().flat_map(|session| &session.turn);
                for turn in turns.filter(|turn| turn.id() == &params["requestId"]) {
                    turn.stop();
                }
            }
            _ => {}
        }
    }

    fn initialize(&self, request: InitializeRequest) -> Result<Value, Failure> {
        let mut state = self.state();
        state.initialized = true;
        state.terminals = request.client_capabilities.terminal;
        Ok(json!({
            "protocolVersion": 1,
            "agentCapabilities": {
                "loadSession": false,
                "promptCapabilities": {"embeddedContext": true},
                "sessionCapabilities": {"close": {}},
            },
            "agentInfo": {
                "name": "hostler-shell",
                "title": "Shell",
                "version": env!("CARGO_PKG_VERSION"),
            },
            "authMethods": [],
        }))
    }

    fn new_session(&self, request: NewSessionRequest) -> Result<Value, Failure> {
        let cwd = request.cwd;
        if !cwd.is_absolute() {
            let shown = cwd.display();
            return Err(Failure::params(format!("cwd is not absolute: `{shown}`")));
        }
        if !cwd.is_dir() {
            let shown = cwd.display();
            return Err(Failure::params(format!("there is no directory `{shown}`")));
        }
        let id = text::random_id();
        let session = Session { cwd, turn: None };
        self.state().sessions.insert(id.clone(), session);
        Ok(json!({ "sessionId": id }))
    }

    fn prompt(self: &Arc<Self>, id: &Value, request: PromptRequest) -> Result<(), Failure> {
        let command = request.prompt.iter().rev().find_map(|block| match block {
            ContentBlock::Text(text) => Some(text.text.trim()),
            _ => None,
        });
        let command = command.unwrap_or_default().to_owned();
        let name = request.session_id.0.to_string();
        let mut state = self.state();
        let terminals = state.terminals;
        let session = state
            .sessions
            .get_mut(&name)
            .ok_or_else(|| Failure::session(&name))?;
        if session.turn.is_some() {
            return Err(Failure::request("a prompt of this session is under way"));
        }
        if command.is_empty() {
            return Err(Failure::params("there is no command in the prompt"));
        }
        if command.contains('\0') {
            return Err(Failure::params("a command cannot contain a NUL"));
        }
        let turn = Turn::new(id.clone(), name.clone(), session.cwd.clone(), command)?;
        let turn = Arc::new(turn);
        session.turn = Some(turn.clone());
        state.turns += 1;
        drop(state);
        let agent = self.clone();
        let spawned = std::thread::Builder::new()
            .name("turn".into())
            .stack_size(256 << 10)
            .spawn({
                let turn = turn.clone();
                move || {
                    let result = turn.play(&agent.wire, terminals);
                    agent.ended(&name, &turn);
                    agent.wire.answer(turn.id(), result);
                    for id in turn.waiting() {
                        agent.wire.answer(&id, json!({}));
                    }
                    agent.gone();
                }
            });
        if let Err(error) = spawned {
            self.ended(&turn.session, &turn);
            self.gone();
            return Err(Failure::internal(format!("cannot start a thread: {error}")));
        }
        Ok(())
    }

    /// Another prompt of the session may come.
    fn ended(&self, session: &str, turn: &Arc<Turn>) {
        let mut state = self.state();
        if let Some(session) = state.sessions.get_mut(session)
            && session
                .turn
                .as_ref()
                .is_some_and(|now| Arc::ptr_eq(now, turn))
        {
            session.turn = None;
        }
    }

    fn gone(&self) {
        self.state().turns -= 1;
        self.quiet.notify_all();
    }

    /// Closes a session; where a turn is under way that is cancelled, and answers for both.
    fn close(&self, id: &Value, request: &CloseSessionRequest) -> Result<Option<Value>, Failure> {
        let name = &*request.session_id.0;
        let mut state = self.state();
        let session = state
            .sessions
            .remove(name)
            .ok_or_else(|| Failure::session(name))?;
        Ok(match session.turn {
            Some(turn) => {
                turn.answer_too(id.clone());
                None
            }
            None => Some(json!({})),
        })
    }

    /// Ends all turns, as far as they can be ended.
    fn goodbye(&self) {
        let deadline = Instant::now() + GOODBYE;
        let mut state = self.state();
        self.wire.close();
        for session in state.sessions.values() {
            if let Some(turn) = &session.turn {
                turn.stop();
            }
        }
        while state.turns > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.quiet.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
