//! Raw lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::processes::{Found, find};

/// An agent, with what it says line by line.
pub(crate) struct Shell {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    mark: String,
}

pub(crate) fn mark() -> String {
    let mut random = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .expect("random bits");
    format!("mark-{:032x}", u128::from_le_bytes(random))
}

const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

impl Shell {
    fn start() -> Self {
        let mark = mark();
        let mut child = Command::new(env!("CARGO_BIN_EXE_hostler"))
            .arg("__agent-shell")
            .env("HOSTLER_TEST_MARK", &mark)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("an agent");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (heard, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let said = serde_json::from_str(&line).expect("a message in a line");
                if heard.send(said).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            lines,
            mark,
        }
    }

    fn say(&mut self, line: &[u8]) {
        let input = self.input.as_mut().expect("open");
        input.write_all(line).expect("written");
        input.write_all(b"\n").expect("written");
    }

    fn send(&mut self, message: Value) {
        self.say(message.to_string().as_bytes());
    }

    fn hear(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a message")
    }

    /// Asks; what it says meanwhile, and its answer.
    fn ask(&mut self, id: u64, method: &str, params: Value) -> (Vec<Value>, Value) {
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        self.answer_to(id)
    }

    fn answer_to(&self, id: u64) -> (Vec<Value>, Value) {
        let mut said = Vec::new();
        loop {
            let message = self.hear();
            if message["id"] == id && message.get("method").is_none() {
                return (said, message);
            }
            said.push(message);
        }
    }

    /// A session, where the client runs terminals or does not.
    fn session(&mut self, terminals: bool) -> String {
        let capabilities = json!({"terminal": terminals});
        let params = json!({"protocolVersion": 1, "clientCapabilities": capabilities});
        let (_, answer) = self.ask(1, "initialize", params);
        assert_eq!(answer["result"]["protocolVersion"], 1);
        assert_eq!(answer["result"]["agentCapabilities"]["loadSession"], false);
        self.another(2)
    }

    fn another(&mut self, id: u64) -> String {
        let params = json!({"cwd": "/tmp", "mcpServers": []});
        let (_, answer) = self.ask(id, "session/new", params);
        answer["result"]["sessionId"]
            .as_str()
            .expect("an id")
            .into()
    }

    fn prompt(&mut self, id: u64, session: &str, text: &str) {
        let params = json!({"sessionId": session, "prompt": [{"type": "text", "text": text}]});
        self.send(
            json!({"jsonrpc": "2.0", "id": id, "method": "session/prompt", "params": params}),
        );
    }

    fn living(&self) -> Vec<Found> {
        find(&self.mark).into_iter().filter(Found::lives).collect()
    }

    /// Closes stdin; the agent goes, and all that it ran.
    fn leave(mut self) {
        self.input = None;
        until("the agent goes", || {
            self.child.try_wait().expect("wait").is_some()
        });
        until("nothing is left", || self.living().is_empty());
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for left in self.living() {
            left.signal(rustix::process::Signal::KILL);
        }
    }
}

/// All text in these updates.
pub(crate) fn text(said: &[Value]) -> String {
    said.iter()
        .filter(|message| message["params"]["update"]["sessionUpdate"] == "agent_message_chunk")
        .map(|message| {
            message["params"]["update"]["content"]["text"]
                .as_str()
                .expect("text")
        })
        .collect()
}

#[test]
fn a_command_is_shown_streamed_and_its_exit_told() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    shell.prompt(3, &session, "pwd; echo err >&2; exit 3");
    let (said, answer) = shell.answer_to(3);
    assert_eq!(answer["result"], json!({"stopReason": "end_turn"}));
    let first = &said[0]["params"]["update"];
    assert_eq!(
        (&first["sessionUpdate"], &first["kind"]),
        (&json!("tool_call"), &json!("execute"))
    );
    assert_eq!(first["title"], "pwd; echo err >&2; exit 3");
    let last = &said.last().unwrap()["params"]["update"];
    assert_eq!(last["toolCallId"], first["toolCallId"]);
    assert_eq!(
        (&last["status"], &last["rawOutput"]["exitCode"]),
        (&json!("failed"), &json!(3))
    );
    let all = text(&said);
    assert!(all.contains("/tmp\n") && all.contains("err\n"), "{all}");
    assert!(all.ends_with("[exit code 3]\n"), "{all}");
    // The next one, which says nothing of its code, as that is 0.
    shell.prompt(4, &session, "printf €");
    let (said, _) = shell.answer_to(4);
    assert_eq!(text(&said), "€");
    assert_eq!(
        said.last().unwrap()["params"]["update"]["status"],
        "completed"
    );
    shell.leave();
}

#[test]
fn output_comes_while_the_command_runs() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    shell.prompt(3, &session, "echo first; read line < fifo; echo $line");
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let (_, _) = shell.answer_to(3);
    shell.prompt(
        4,
        &session,
        &format!("echo first; read line < {}; echo $line", fifo.display()),
    );
    let mut said = Vec::new();
    while text(&said) != "first\n" {
        said.push(shell.hear());
    }
    std::fs::write(&fifo, "second\n").unwrap();
    let (said, _) = shell.answer_to(4);
    assert_eq!(text(&said), "second\n");
    shell.leave();
}

#[test]
fn a_cancel_ends_the_group_and_says_so() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    // By a request's id as well; and where SIGTERM is ignored.
    for (id, script) in [
        (3, "sleep 1000 & sleep 1000"),
        (4, "trap '' TERM; echo begun; while :; do sleep 1000; done"),
    ] {
        shell.prompt(id, &session, script);
        until("it runs", || shell.living().len() >= 3);
        let cancel = if id == 3 {
            json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}})
        } else {
            json!({"jsonrpc": "2.0", "method": "$/cancel_request", "params": {"requestId": id}})
        };
        shell.send(cancel);
        let (said, answer) = shell.answer_to(id);
        assert_eq!(answer["result"], json!({"stopReason": "cancelled"}));
        assert!(text(&said).contains("[cancelled: ended by SIG"), "{said:?}");
        until("the group is gone", || shell.living().len() == 1);
    }
    // A cancel of nothing is nothing.
    shell.send(
        json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": session}}),
    );
    shell.prompt(5, &session, "echo alive");
    assert_eq!(text(&shell.answer_to(5).0), "alive\n");
    shell.leave();
}

#[test]
fn sessions_run_at_once_and_a_close_ends_its_turn() {
    let mut shell = Shell::start();
    let one = shell.session(false);
    let other = shell.another(3);
    shell.prompt(4, &one, "sleep 1000");
    shell.prompt(5, &other, "echo other");
    assert_eq!(text(&shell.answer_to(5).0), "other\n");
    // One turn a session.
    shell.prompt(6, &one, "echo again");
    assert_eq!(shell.answer_to(6).1["error"]["code"], -32600);
    shell.send(
        json!({"jsonrpc": "2.0", "id": 7, "method": "session/close", "params": {"sessionId": one}}),
    );
    assert_eq!(shell.answer_to(4).1["result"]["stopReason"], "cancelled");
    assert_eq!(shell.answer_to(7).1["result"], json!({}));
    shell.prompt(8, &one, "true");
    assert_eq!(shell.answer_to(8).1["error"]["code"], -32002);
    until("its command is gone", || shell.living().len() == 1);
    shell.leave();
}

#[test]
fn what_is_wrong_is_answered_by_the_protocol_and_the_agent_goes_on() {
    let mut shell = Shell::start();
    let new = json!({"cwd": "/tmp", "mcpServers": []});
    assert_eq!(shell.ask(1, "session/new", new).1["error"]["code"], -32600);
    let session = shell.session(false);
    let mut long = vec![b'x'; (64 << 20) + 10];
    long[0] = b'"';
    for (line, code) in [
        (&b"{"[..], -32700),
        (b"[]", -32600),
        (b"{\"jsonrpc\":\"2.0\",\"id\":9}", -32600),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"session/load\",\"params\":{}}",
            -32601,
        ),
        (
            b"{\"jsonrpc\":\"2.0\",\"id\":9,\"method\":\"session/prompt\"}",
            -32602,
        ),
        (b"\xFF\xFE", -32700),
        (&long, -32700),
    ] {
        shell.say(line);
        assert_eq!(shell.hear()["error"]["code"], code);
    }
    // Answers to nothing, notifications that nobody knows, and empty lines.
    for line in ["{\"id\":99,\"result\":{}}", "{\"method\":\"_x\"}", "", "  "] {
        shell.say(line.as_bytes());
    }
    for (cwd, code) in [("relative", -32602), ("/is/not/there", -32602)] {
        let params = json!({"cwd": cwd, "mcpServers": []});
        assert_eq!(
            shell.ask(10, "session/new", params).1["error"]["code"],
            code
        );
    }
    for text in ["", "  \n", "a\0b"] {
        shell.prompt(11, &session, text);
        assert_eq!(shell.answer_to(11).1["error"]["code"], -32602);
    }
    // What comes before the last text is context.
    let blocks = json!([{"type": "text", "text": "exit 9"}, {"type": "text", "text": "echo hi"}]);
    let params = json!({"sessionId": session, "prompt": blocks});
    assert_eq!(text(&shell.ask(12, "session/prompt", params).0), "hi\n");
    shell.leave();
}

#[test]
fn a_flood_comes_whole_and_its_characters_too() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    shell.prompt(3, &session, "yes 'é€🦀' | head -n 200000; printf '\\303'");
    let (said, _) = shell.answer_to(3);
    let mut expected = "é€🦀\n".repeat(200_000);
    expected.push('\u{FFFD}');
    assert!(text(&said) == expected, "{} bytes", text(&said).len());
    shell.leave();
}

#[test]
fn the_end_of_stdin_ends_what_runs() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    shell.prompt(3, &session, "trap '' TERM; while :; do sleep 1000; done");
    until("it runs", || shell.living().len() >= 3);
    shell.leave();
}

#[test]
fn a_command_that_leaves_something_behind_ends_its_turn() {
    let mut shell = Shell::start();
    let session = shell.session(false);
    shell.prompt(3, &session, "setsid sleep 1000 & echo left");
    let (said, answer) = shell.answer_to(3);
    assert_eq!(text(&said), "left\n");
    assert_eq!(answer["result"]["stopReason"], "end_turn");
    // It is nobody's here; where a host is, it is the session's.
    until("only it is left", || shell.living().len() == 2);
}

#[test]
fn a_client_that_runs_terminals_is_asked_to_run_the_command() {
    let mut shell = Shell::start();
    let session = shell.session(true);
    shell.prompt(3, &session, "echo hi");
    let mut asked = Vec::new();
    let mut said = Vec::new();
    let answer = loop {
        let message = shell.hear();
        let Some(method) = message["method"].as_str() else {
            break message;
        };
        if method == "session/update" {
            said.push(message);
            continue;
        }
        asked.push(method.to_owned());
        let result = match method {
            "terminal/create" => {
                let params = &message["params"];
                assert_eq!(params["args"], json!(["-c", "echo hi"]));
                assert_eq!(
                    (&params["cwd"], &params["sessionId"]),
                    (&json!("/tmp"), &json!(session))
                );
                json!({"terminalId": "t"})
            }
            "terminal/wait_for_exit" => json!({"exitCode": 0}),
            "terminal/output" => json!({"output": "hi\n", "truncated": false}),
            _ => json!({}),
        };
        shell.send(json!({"jsonrpc": "2.0", "id": message["id"], "result": result}));
    };
    assert_eq!(answer["result"]["stopReason"], "end_turn");
    let calls = ["create", "wait_for_exit", "output", "release"];
    assert_eq!(asked, calls.map(|call| format!("terminal/{call}")));
    assert_eq!(text(&said), "hi\n");
    let shown = said.iter().any(|message| {
        message["params"]["update"]["content"][0] == json!({"type": "terminal", "terminalId": "t"})
    });
    assert!(shown, "{said:?}");
    // A client that refuses after all; and one that goes while it is asked.
    shell.prompt(4, &session, "echo hi");
    let (mut said, mut create) = (Vec::new(), Value::Null);
    while create["method"] != "terminal/create" {
        create = shell.hear();
    }
    let error = json!({"code": -32603, "message": "no more terminals"});
    shell.send(json!({"jsonrpc": "2.0", "id": create["id"], "error": error}));
    said.extend(shell.answer_to(4).0);
    assert!(text(&said).contains("no more terminals"), "{said:?}");
    shell.prompt(5, &session, "echo hi");
    shell.leave();
}
