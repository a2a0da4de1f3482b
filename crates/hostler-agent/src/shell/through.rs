//! A command as a terminal of the client's, which owns it then.
//!
//! A client that says `"_meta": {"hostler": {"follow": true}}` with a new terminal is asked for what came after an offset, and answers
//! when there is more; of any other the terminal is shown where it can show one, and its output is asked for at the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::turn::{Ended, Turn};
use super::wire::Wire;

/// How much of the output the client is to keep.
const KEEP: u64 = 8 << 20;
/// How long a client may take to end a terminal that was cancelled.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs it to its exit.
pub(super) fn run(turn: &Arc<Turn>, wire: &Wire) -> Ended {
    let create = json!({
        "sessionId": turn.session,
        "command": "sh",
        "args": ["-c", turn.command],
        "cwd": turn.cwd,
        "outputByteLimit": KEEP,
    });
    let mut terminal = Terminal {
        turn,
        wire,
        id: String::new(),
        killed: 0,
        until: None,
    };
    let ended = terminal
        .call("terminal/create", create)
        .and_then(|created| terminal.tend(&created));
    if !terminal.id.is_empty() {
        let _ = terminal.call("terminal/release", terminal.named());
    }
    ended.unwrap_or_else(|why| Ended {
        failed: Some(why),
        ..Ended::default()
    })
}

struct Terminal<'a> {
    turn: &'a Arc<Turn>,
    wire: &'a Wire,
    id: String,
    /// How many cancels the client was told of.
    killed: u32,
    /// Until when it may answer after that.
    until: Option<Instant>,
}

impl Terminal<'_> {
    fn named(&self) -> Value {
        json!({"sessionId": self.turn.session, "terminalId": self.id})
    }

    /// Asks the client, and waits for its answer. What is cancelled meanwhile is killed.
    fn call(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let gone = || "the client is gone".to_owned();
        let asked = self.wire.ask(self.turn, method, params).ok_or_else(gone)?;
        loop {
            while let Some((id, answer)) = self.turn.answer() {
                if id == asked {
                    return answer.map_err(|why| format!("{method}: {why}"));
                }
            }
            self.kill();
            if self.until.is_some_and(|until| until <= Instant::now()) {
                return Err(format!("the client does not answer {method}"));
            }
            self.turn.wait(&mut [], self.until);
        }
    }

    fn kill(&mut self) {
        let stops = self.turn.stops();
        if stops > self.killed && !self.id.is_empty() {
            self.killed = stops;
            self.wire.ask(self.turn, "terminal/kill", self.named());
            self.until.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
    }

    fn tend(&mut self, created: &Value) -> Result<Ended, String> {
        let id = created["terminalId"].as_str();
        self.id = id.ok_or("the client named no terminal")?.to_owned();
        // A cancel may have come before there was a terminal.
        self.kill();
        if created["_meta"]["hostler"]["follow"] == true {
            return self.follow();
        }
        self.turn.shown_in(self.wire, &self.id);
        let exit = self.call("terminal/wait_for_exit", self.named())?;
        let output = self.call("terminal/output", self.named())?;
        if output["truncated"] == true {
            self.turn.say(self.wire, "[the beginning was not kept]\n");
        }
        self.turn
            .say(self.wire, output["output"].as_str().unwrap_or_default());
        Ok(exited(&exit))
    }

    fn follow(&mut self) -> Result<Ended, String> {
        let mut next = 0;
        loop {
            let mut params = self.named();
            params["_meta"] = json!({"hostler": {"after": next}});
            let output = self.call("terminal/output", params)?;
            let more = &output["_meta"]["hostler"];
            if let Some(skipped) = more["skipped"].as_u64().filter(|skipped| *skipped > 0) {
                let told = format!("\n[{skipped} bytes were not kept]\n");
                self.turn.say(self.wire, &told);
            }
            let text = output["output"].as_str().unwrap_or_default();
            self.turn.say(self.wire, text);
            let exit = &output["exitStatus"];
            if text.is_empty() && exit.is_object() {
                return Ok(exited(exit));
            }
            next = more["next"].as_u64().ok_or("the client lost its place")?;
        }
    }
}

fn exited(status: &Value) -> Ended {
    Ended {
        code: status["exitCode"].as_u64(),
        signal: status["signal"].as_str().map(str::to_owned),
        failed: None,
    }
}
