//! Turns.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use rustix::process::Signal;

use crate::children::{ended, signal, text};
use crate::far::Far;
use crate::support::{SOON, wait_until};

/// An agent that thinks, asks whether it may, and says what was answered.
const ASKER: &str = r#"
import json, sys
def send(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
def update(**update): send(method="session/update", params={"sessionId": "x", "update": update})
pending = None
for line in sys.stdin:
    message = json.loads(line)
    method, id = message.get("method"), message.get("id")
    if method == "initialize": send(id=id, result={"protocolVersion": 1, "agentCapabilities": {}})
    elif method == "session/new": send(id=id, result={"sessionId": "x"})
    elif method == "session/prompt":
        pending = id
        if "refuse" in json.dumps(message["params"]):
            send(id=id, result={"stopReason": "refusal"})
            continue
        if "fail" in json.dumps(message["params"]):
            send(id=id, error={"code": 1, "message": "it is broken"})
            continue
        update(sessionUpdate="agent_thought_chunk", content={"type": "text", "text": "hm"})
        update(sessionUpdate="tool_call", toolCallId="c1", title="Write a file", kind="edit", status="pending")
        send(id=7, method="session/request_permission", params={"sessionId": "x", "toolCall": {"toolCallId": "c1"},
            "options": [{"optionId": "always", "name": "Always", "kind": "allow_always"}, {"optionId": "yes", "name": "Yes", "kind": "allow_once"}, {"optionId": "no", "name": "No", "kind": "reject_once"}]})
    elif id == 7:
        chosen = message["result"]["outcome"].get("optionId")
        update(sessionUpdate="tool_call_update", toolCallId="c1", title="Write a file", status="completed" if chosen == "yes" else "failed")
        update(sessionUpdate="agent_message_chunk", content={"type": "text", "text": "chosen: %s" % chosen})
        send(id=pending, result={"stopReason": "end_turn"})
    elif method == "session/cancel": pass
    elif id is not None and method: send(id=id, error={"code": -32601, "message": "no"})
"#;

fn asker(policy: &str) -> Far {
    let far = Far::with_config(&format!(
        "[agents.asker]\ncommand = ['python3', 'DIR/asker.py']\npermission = '{policy}'\n"
    ));
    std::fs::write(far.dir.path().join("asker.py"), ASKER).expect("written");
    far.ok(&["session", "new", "--name", "a", "--agent", "asker"]);
    far
}

#[test]
fn a_permission_is_asked_for_at_the_terminal() {
    let far = asker("ask");
    for (answer, chosen) in [("y\n", "chosen: yes"), ("n\n", "chosen: no")] {
        let (pty, mut child) = far.at_terminal(&["prompt", "a", "go"]);
        pty.expect("[thinks] hm");
        pty.expect("[edit] Write a file");
        pty.expect("allow? [y/n]");
        pty.input(answer);
        pty.expect(chosen);
        assert_eq!(ended(&mut child).code(), Some(0));
    }
    // Two at once: the first answer counts, and the other is told.
    let (pty, mut child) = far.at_terminal(&["prompt", "a", "go"]);
    pty.expect("allow? [y/n]");
    let (second, mut second_child) = far.at_terminal(&["prompt", "a", "go"]);
    pty.input("y\n");
    pty.expect("chosen: yes");
    assert_eq!(ended(&mut child).code(), Some(0));
    second.expect("allow? [y/n]");
    second.input("n\n");
    second.expect("chosen: no");
    assert_eq!(ended(&mut second_child).code(), Some(0));
}

#[test]
fn where_nobody_can_be_asked_the_policy_decides() {
    let far = asker("allow");
    let output = far.run(&["prompt", "a", "go"]);
    assert!(text(&output.stdout).contains("chosen: yes"), "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn only_a_turn_that_the_agent_ended_by_itself_is_a_success() {
    let far = asker("ask");
    let output = far.run(&["prompt", "a", "refuse"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("the turn ended: refusal"),
        "{output:?}"
    );
    let (code, line) = far.fails(&["prompt", "a", "fail"]);
    assert_eq!(code, Some(1));
    assert!(
        line.contains("the agent failed") && line.contains("it is broken"),
        "{line}"
    );
}

#[test]
fn text_streams_and_a_signal_cancels() {
    let far = Far::new();
    far.ok(&["session", "new", "--name", "a", "--agent", "shell"]);
    let mut child = far
        .hostler(&["prompt", "a", "echo begun; sleep 1000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hostler");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    assert!(
        lines.any(|line| line.expect("text").contains("begun")),
        "it streams"
    );
    signal(&child, Signal::INT);
    assert_eq!(ended(&mut child).code(), Some(1));
    let output = child.wait_with_output().expect("its end");
    assert!(
        text(&output.stderr).contains("the turn ended: cancelled"),
        "{output:?}"
    );
    let lines = far.ok(&["prompt", "a", "--json", "echo done"]);
    let actions = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let kinds: Vec<String> = actions
        .map(|one: serde_json::Value| one["action"]["type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(
        kinds.last().map(String::as_str),
        Some("chat/turnComplete"),
        "{kinds:?}"
    );
}

/// What a command says line by line, one every few milliseconds.
const COUNT: &str = "for n in $(seq 1 400); do echo line $n; sleep 0.01; done";

fn counts_through(far: &mut Far, mut trouble: impl FnMut(&mut Far)) -> (Vec<String>, String) {
    far.ok(&["session", "new", "--name", "a", "--agent", "shell"]);
    let mut child = far
        .hostler(&["prompt", "a", COUNT])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hostler");
    let lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut said = Vec::new();
    for line in lines {
        let line = line.expect("text");
        if line.starts_with("line ") && line.ends_with("00") && line.len() == "line 100".len() {
            trouble(far);
        }
        said.push(line);
    }
    assert_eq!(ended(&mut child).code(), Some(0), "{said:?}");
    let output = child.wait_with_output().expect("its end");
    said.retain(|line| line.starts_with("line "));
    (said, text(&output.stderr))
}

fn all_lines() -> Vec<String> {
    (1..=400).map(|n| format!("line {n}")).collect()
}

#[test]
fn a_connection_that_is_lost_loses_nothing_and_doubles_nothing() {
    let mut far = Far::new();
    let mut cuts = 0;
    let (said, told) = counts_through(&mut far, |far| {
        wait_until("a connection to cut", SOON, || far.net.cut() > 0);
        cuts += 1;
    });
    assert_eq!(said, all_lines());
    assert_eq!(cuts, 4);
    let lost = told
        .lines()
        .filter(|line| line.contains("was lost: connecting again"));
    assert!((1..=4).contains(&lost.count()), "{told}");
}

#[test]
fn another_host_that_takes_over_is_found_again() {
    let mut far = Far::new();
    let mut turns = 0;
    let (said, _) = counts_through(&mut far, |far| {
        turns += 1;
        if turns == 2 {
            far.take_over();
        }
    });
    assert_eq!(said, all_lines());
}
