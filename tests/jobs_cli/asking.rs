//! Steps that ask a person.

use crate::bench::{Bench, told};
use crate::children::ended;

const ONE: &str = "steps:\n  ask: { input: 'Which colour?' }\noutputs: { colour: ask.answer }\n";
const TWO: &str = "steps:\n  ask:\n    input: 'Keep it?'\n    outputs: { keep: boolean, remark: { type: string, optional: true } }\noutputs: { keep: ask.keep, remark: ask.remark }\n";

#[test]
fn at_a_terminal_it_is_asked_there() {
    let bench = Bench::new();
    let flow = bench.flow("two", TWO);
    let (pty, mut client) = bench.place.at_terminal(&["job", "run", &flow]);
    pty.expect("ask asks: Keep it?");
    pty.expect("keep (y|n): ");
    pty.input("perhaps\n");
    pty.expect("remark (TEXT, or nothing): ");
    pty.input("\n");
    pty.expect("a boolean is wanted, and this is the string \"perhaps\"");
    pty.expect("keep (y|n): ");
    pty.input("y\n");
    pty.expect("remark (TEXT, or nothing): ");
    pty.input("fine\n");
    pty.expect("keep: true\r\nremark: fine\r\nremaining: 0");
    assert_eq!(ended(&mut client).code(), Some(0));
}

#[test]
fn ctrl_c_at_the_question_cancels() {
    let bench = Bench::new();
    let flow = bench.flow("one", ONE);
    let (pty, mut client) = bench.place.at_terminal(&["job", "run", &flow]);
    pty.expect("ask asks: Which colour?");
    pty.expect("> ");
    pty.input("\x03");
    pty.expect("remaining: 0");
    assert_eq!(ended(&mut client).code(), Some(130));
    assert_eq!(bench.list(&["-a"])[0]["state"], "cancelled");
}

#[test]
fn what_somebody_else_answers_is_asked_no_longer() {
    let bench = Bench::new();
    let flow = bench.flow("one", ONE);
    let (pty, mut client) = bench.place.at_terminal(&["job", "run", &flow]);
    pty.expect("> ");
    let job = bench.the_job("it asks", |job| job["asks"][0]["run"] == 1);
    bench.ok(&["answer", job["id"].as_str().expect("an id"), "blue"]);
    pty.expect("answered");
    pty.expect("colour: blue");
    assert_eq!(ended(&mut client).code(), Some(0));
}

#[test]
fn without_a_terminal_it_is_said_how_it_is_answered() {
    let bench = Bench::new();
    let flow = bench.flow("two", TWO);
    let client = bench.start(&["run", &flow]);
    let job = bench.the_job("it asks", |job| job["asks"][0]["text"] == "Keep it?");
    let id = job["id"].as_str().expect("an id");
    let wants = &job["asks"][0]["wants"];
    assert_eq!(
        (&wants[0]["name"], &wants[0]["type"]),
        (&"keep".into(), &"boolean".into())
    );
    assert_eq!(wants[1]["required"], false);
    assert!(bench.ok(&["ls"]).contains("asks: Keep it?"));
    let shown = bench.ok(&["show", id]);
    let command = format!("hostler job answer --run 1 {id} keep=y|n [remark=TEXT]");
    assert!(shown.contains(&command), "{shown}");
    for (words, status, why) in [
        (
            &["answer", id, "yes"][..],
            2,
            "NAME=VALUE for each of: keep, remark",
        ),
        (&["answer", id, "keep=maybe"], 1, "a boolean is wanted"),
        (&["answer", id, "remark=x"], 1, "keep"),
        (
            &["answer", id, "--run", "9", "keep=y"],
            1,
            "run 9 does not wait for an answer",
        ),
        (&["answer", id], 2, "required"),
    ] {
        let (is, line) = bench.fails(words);
        assert_eq!(is, Some(status), "{words:?}: {line}");
        assert!(line.contains(why), "{words:?}: {line}");
    }
    bench.ok(&["answer", id, "keep=n", "remark=a=b"]);
    let (status, out, err) = told(client);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "keep: false\nremark: a=b\nremaining: 0\n")
    );
    assert!(err.contains(&format!("answer it: {command}")), "{err}");
    let (_, line) = bench.fails(&["answer", id, "keep=y"]);
    assert!(line.contains("has ended"), "{line}");
}

#[test]
fn what_a_flow_below_asks_is_asked_with_the_job_above() {
    let bench = Bench::new();
    bench.flow("one", ONE);
    let top = bench.flow(
        "top",
        "steps:\n  sub: { flow: one.yaml }\noutputs: { colour: sub.colour }\n",
    );
    let (pty, mut client) = bench.place.at_terminal(&["job", "run", &top]);
    pty.expect("ask asks: Which colour?");
    pty.expect("> ");
    pty.input("green\n");
    pty.expect("colour: green");
    assert_eq!(ended(&mut client).code(), Some(0));

    let id = bench.ok(&["run", "--detach", &top]);
    bench.the_job("the one below asks", |_| {
        bench.show(&id)["asks"][0]["job"].is_string()
    });
    bench.ok(&["answer", &id, "red"]);
    assert_eq!(bench.ok(&["watch", &id]), "colour: red\nremaining: 0");
}

#[test]
fn what_an_agent_asks_permission_for_is_asked_where_the_job_is_watched() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/acp/scripted.py");
    let bench = Bench::with_config(&format!(
        "[agents.scripted]\ncommand = ['python3', '{script}']\npermission_timeout = \"1ms\"\n"
    ));
    let flow = bench.flow(
        "work",
        "steps:\n  a: { agent: { name: scripted, prompt: permission } }\noutputs: { said: a.text }\n",
    );
    let (pty, mut client) = bench.place.at_terminal(&["job", "run", &flow]);
    pty.expect("a asks: may it do this? remove the lighthouse");
    pty.expect("): ");
    pty.input("what\n");
    pty.expect("the answer is one of: ");
    pty.expect("): ");
    pty.input("y\n");
    pty.expect("a: goes on");
    pty.expect("\"optionId\": \"go\"");
    pty.expect("remaining: 0");
    assert_eq!(ended(&mut client).code(), Some(0));

    let id = bench.ok(&["run", "--detach", &flow]);
    bench.the_job("it asks", |_| {
        bench.show(&id)["asks"][0]["wants"].is_array()
    });
    bench.ok(&["answer", &id, "no"]);
    let shown = bench.ok(&["watch", &id]);
    assert!(shown.contains("\"optionId\": \"stay\""), "{shown}");
}
