//! `hostler acp` as an editor starts it, and `hostler prompt`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};

use crate::peer::{marked, prompt, said};
use crate::support::{Place, long, wait_until};

/// An editor's side of `hostler acp`.
pub(crate) struct Editor {
    pub(crate) child: Child,
    stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<Value>,
    next: u64,
    pub(crate) heard: Vec<Value>,
    answers: Vec<Value>,
}

impl Editor {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("hostler acp");
        let stdout: ChildStdout = child.stdout.take().expect("stdout");
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).expect("JSON");
                if send.send(value).is_err() {
                    return;
                }
            }
        });
        let mut editor = Self {
            stdin: child.stdin.take(),
            child,
            lines,
            next: 0,
            heard: Vec::new(),
            answers: Vec::new(),
        };
        let answer = editor.ask("initialize", json!({"protocolVersion": 1}));
        assert_eq!(answer["result"]["protocolVersion"], 1, "{answer}");
        editor
    }

    pub(crate) fn send(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let message =
            json!({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params});
        writeln!(self.stdin.as_mut().expect("open"), "{message}").expect("written");
        json!(self.next)
    }

    fn hear(&mut self) {
        let value = self.lines.recv_timeout(long()).expect("a message in time");
        assert!(value.get("seq").is_none(), "{value}");
        match value.get("method") {
            Some(_) => self.heard.push(value),
            None => self.answers.push(value),
        }
    }

    pub(crate) fn answer(&mut self, id: &Value) -> Value {
        loop {
            if let Some(n) = self.answers.iter().position(|answer| answer["id"] == *id) {
                return self.answers.remove(n);
            }
            self.hear();
        }
    }

    pub(crate) fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.send(method, params);
        self.answer(&id)
    }

    pub(crate) fn open(&mut self) -> String {
        let answer = self.ask("session/new", json!({"cwd": "/tmp", "mcpServers": []}));
        let id = answer["result"]["sessionId"].as_str();
        id.unwrap_or_else(|| panic!("no session: {answer}"))
            .to_owned()
    }

    pub(crate) fn until(&mut self, holds: impl Fn(&[Value]) -> bool) {
        while !holds(&self.heard) {
            self.hear();
        }
    }

    /// Closes its end, and waits.
    pub(crate) fn leave(&mut self) {
        drop(self.stdin.take());
        let mut ended = None;
        wait_until("hostler acp ends", || {
            ended = self.child.try_wait().expect("wait");
            ended.is_some()
        });
        assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn hostler(place: &Place, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
    command
        .args(args)
        .env("HOSTLER_STATE_DIR", place.state_dir())
        .env("XDG_CONFIG_HOME", "/nonexistent");
    command
}

#[test]
fn an_editor_that_leaves_closes_what_it_opened() {
    let place = Place::new();
    let _host = place.host();
    let mut editor = Editor::start(hostler(&place, &["acp", "--agent", "shell"]));
    let session = editor.open();
    editor.send("session/prompt", prompt(&session, &marked(&place)));
    editor.until(|heard| said(heard).contains("begun"));
    wait_until("it runs", || !place.living().is_empty());
    editor.leave();
    assert!(place.living().is_empty());
}

#[test]
fn without_a_host_a_private_one_lives_and_dies_with_it() {
    for killed in [false, true] {
        let place = Place::new();
        let mut command = hostler(&place, &["acp", "--agent", "shell"]);
        command
            .env("TMPDIR", place.dir.path())
            .stderr(Stdio::piped());
        let mut editor = Editor::start(command);
        let stderr = editor.child.stderr.take().expect("stderr");
        let mut line = String::new();
        BufReader::new(stderr).read_line(&mut line).expect("a line");
        assert!(line.contains("private"), "{line}");
        let session = editor.open();
        editor.send("session/prompt", prompt(&session, &marked(&place)));
        editor.until(|heard| said(heard).contains("begun"));
        wait_until("it runs", || !place.living().is_empty());
        match killed {
            true => editor.child.kill().expect("killed"),
            false => editor.leave(),
        }
        place.all_gone();
        wait_until("the state directory is removed", || {
            let mut left = std::fs::read_dir(place.dir.path()).expect("the directory");
            left.all(|entry| {
                let name = entry.expect("an entry").file_name();
                !name.to_string_lossy().starts_with("hostler-acp-")
            })
        });
    }
}

#[test]
fn another_host_takes_over_and_the_editor_notices_nothing() {
    let place = Place::new();
    let mut host = place.host();
    let mut editor = Editor::start(hostler(&place, &["acp", "--agent", "shell"]));
    let session = editor.open();
    let text = "for i in $(seq 1 60); do echo line $i; sleep 0.05; done";
    let id = editor.send("session/prompt", prompt(&session, text));
    for n in [5, 25] {
        let line = format!("line {n}\n");
        editor.until(|heard| said(heard).contains(&line));
        let next = place.host_with(&["--takeover"]);
        host.ended();
        host = next;
    }
    let answer = editor.answer(&id);
    assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
    let all: String = (1..=60).map(|n| format!("line {n}\n")).collect();
    assert!(
        said(&editor.heard).contains(&all),
        "{}",
        said(&editor.heard)
    );
    let answer = editor.ask("session/prompt", prompt(&session, "echo after"));
    assert_eq!(answer["result"]["stopReason"], "end_turn", "{answer}");
    editor.leave();
    drop(host);
}

#[test]
fn prompts_from_the_command_line_stream_and_say_how_they_ended() {
    let place = Place::new();
    let _host = place.host();
    let out = |args: &[&str]| hostler(&place, args).output().expect("hostler");
    let opened = out(&["session", "new", "--agent", "shell", "--cwd", "/tmp"]);
    let session = String::from_utf8_lossy(&opened.stdout).trim().to_owned();
    assert!(opened.status.success() && !session.is_empty(), "{opened:?}");
    let said = out(&["prompt", &session, "echo hello; pwd"]);
    assert!(said.status.success(), "{said:?}");
    let text = String::from_utf8_lossy(&said.stdout);
    assert!(text.contains("hello\n/tmp\n"), "{said:?}");
    let lines = out(&["prompt", "--json", &session, "echo json"]);
    let lines = String::from_utf8_lossy(&lines.stdout).into_owned();
    let last: Value = serde_json::from_str(lines.lines().last().expect("lines")).expect("JSON");
    assert_eq!(last["kind"], "turn_ended");
    // Ctrl-C cancels the turn.
    let mut child = hostler(&place, &["prompt", &session, &marked(&place)])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hostler");
    // The client carries the mark too, in its arguments: it has handed on what it was given once that runs.
    let client = child.id().cast_signed();
    wait_until("it runs", || {
        place.living().iter().any(|found| found.pid != client)
    });
    let pid = rustix::process::Pid::from_raw(client).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("a signal");
    // Not where the signal is ignored, as a shell does for what it starts in the background.
    let mut status = None;
    wait_until("the client ends", || {
        status = child.try_wait().expect("waited");
        status.is_some()
    });
    let status = status.expect("just seen");
    assert_eq!(status.code(), Some(1), "{status:?}");
    place.all_gone();
    for (what, prints) in [("evict", false), ("reset", false), ("fork", true)] {
        let done = out(&["session", what, &session]);
        assert!(done.status.success(), "{what}: {done:?}");
        assert_eq!(!done.stdout.is_empty(), prints, "{what}: {done:?}");
    }
    let again = out(&["prompt", &session, "echo again"]);
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("again"),
        "{again:?}"
    );
    assert!(!out(&["prompt", "s-none", "x"]).status.success());
}
