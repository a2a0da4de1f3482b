//! `hostler doctor`, from outside: what it lists of fake agents, why, and what `--fix` ends.
//!
//! It is told to look only at what carries the scene's mark, so that nothing else on the machine is listed or touched.

#[path = "../support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

mod fixing;
mod listing;

use std::fs;
use std::io::{PipeReader, PipeWriter, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Cell, Contain, Found, Lines, Outcome, SOON, Scene, User, wait_until};

/// An agent that has a child and heeds neither the end of its input nor SIGTERM.
const STUBBORN: &str =
    "trap '' TERM; echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; while :; do sleep 1000; done";
/// One that ends when it is told to.
const WILLING: &str = "echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; while :; do sleep 1000; done";
/// How long a fix may take: the grace of 5 s, and looking.
const FIXED: Duration = Duration::from_secs(12);

/// A scene and what is peculiar to these tests.
struct Stage {
    scene: Scene,
}

impl Stage {
    fn new(cell: Cell) -> Self {
        Self {
            scene: Scene::new(cell),
        }
    }

    /// Whether as root, and as an ordinary user where that can be had.
    fn each() -> Vec<Self> {
        let ordinary = Cell {
            user: User::Ordinary,
            contain: Contain::Tree,
        };
        let mut cells = vec![Cell::plain()];
        if Cell::plain() != ordinary {
            cells.push(ordinary);
        }
        cells.into_iter().map(Self::new).collect()
    }

    /// A script of that name.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scene.path(name);
        fs::write(&path, text).expect("write");
        path
    }

    /// `line` of a shell: as the scene's, and scrubbed of agents' marks.
    fn shell(&self, line: &str) -> Command {
        let mut command = self.scene.wrapped(["sh", "-c", line]);
        for hint in [
            "CLAUDECODE",
            "GEMINI_CLI",
            "OPENCODE",
            "HOSTLER_SESSION",
            "CODEX_SANDBOX",
        ] {
            command.env_remove(hint);
        }
        command
    }

    /// Runs a script under `sh`, orphaned, with these streams, and gives its pid. It says `word` on the ready file.
    fn orphan(&self, script: &Path, word: &str, input: Stdio, output: Stdio) -> i32 {
        let line = format!("exec 3<&0; sh {} {word} <&3 3<&- &", script.display());
        self.leave(&line, word, input, output)
    }

    /// The same, with pipes of its own user's of which nobody holds the other ends.
    fn leaked(&self, script: &Path, word: &str) -> i32 {
        self.leaked_under("", script, word)
    }

    /// The same, started by another command.
    fn leaked_under(&self, starter: &str, script: &Path, word: &str) -> i32 {
        let line = format!(": | {starter} sh {} {word} | : &", script.display());
        self.leave(&line, word, Stdio::null(), Stdio::null())
    }

    /// Runs a line that leaves something behind which says `word`.
    fn leave(&self, line: &str, word: &str, input: Stdio, output: Stdio) -> i32 {
        let mut command = self.shell(line);
        let status = command
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("sh").success());
        self.number(word)
    }

    fn number(&self, word: &str) -> i32 {
        let stands = |lines: &[String]| {
            lines
                .iter()
                .any(|line| line.starts_with(&format!("{word} ")))
        };
        self.scene.ready.wait_for(word, SOON, stands);
        self.scene.ready.number(&format!("{word} ")).expect("a pid")
    }

    fn doctor(&self, options: &[&str]) -> Command {
        let mut words = vec![self.scene.kit.hostler().into_os_string(), "doctor".into()];
        words.extend(options.iter().map(Into::into));
        let mut command = self.scene.wrapped(words);
        command.env("HOSTLER_DOCTOR_ONLY_MARK", &self.scene.mark);
        command.env("HOSTLER_STATE_DIR", self.scene.path("state"));
        command
    }

    fn say(&self, options: &[&str]) -> Outcome {
        self.scene.outcome(&mut self.doctor(options))
    }

    fn json(&self, options: &[&str]) -> Value {
        let outcome = self.say(&[&["--json"], options].concat());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    /// A process that looks like `line` and writes down each signal.
    fn lookalike(&self, name: &str, words: &str) -> (i32, Lines) {
        let log = self.scene.lines(&format!("log-{name}"));
        let line = format!(
            "(bash -c 'exec -a {name} \"$MISBEHAVE\" signals \"$LOG\" {words}' & echo {name} $! >> \"$MISBEHAVE_READY\")"
        );
        let mut command = self.shell(&line);
        command
            .env("LOG", log.path())
            .env("MISBEHAVE", self.scene.kit.misbehave());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("sh").success());
        let pid = self.number(name);
        wait_until("it stands", SOON, || {
            Found::read(pid)
                .is_some_and(|found| found.command_line().starts_with(&format!("{name} signals")))
        });
        (pid, log)
    }
}

/// Pipes with the ends that a client holds.
fn held() -> (Stdio, Stdio, (PipeWriter, PipeReader)) {
    let ((input, writer), (reader, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    (input.into(), output.into(), (writer, reader))
}

fn pids(report: &Value, list: &str) -> Vec<i64> {
    let list = report[list].as_array().expect("a list");
    list.iter()
        .map(|one| one["pid"].as_i64().expect("a pid"))
        .collect()
}

fn of_pid(report: &Value, list: &str, pid: i32) -> Value {
    let list = report[list].as_array().expect("a list");
    let found = list.iter().find(|one| one["pid"] == pid);
    found
        .unwrap_or_else(|| panic!("{pid} is not in {report:#}"))
        .clone()
}

fn codes(one: &Value) -> Vec<&str> {
    let reasons = one["reasons"].as_array().expect("reasons");
    reasons
        .iter()
        .map(|reason| reason["code"].as_str().expect("text"))
        .collect()
}

fn lives(pid: i32) -> bool {
    Found::read(pid).is_some_and(|found| found.lives())
}
