//! Flow files: what is right is taken, what is wrong is told with its place, and nothing makes the reader fail.

mod random;
mod validate;
mod wrong;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use hostler_job::flow::{Action, Executor, Launch, Source};
use hostler_job::{check, load, mermaid, schema};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

/// A flow as JSON, as an editor that checks it by the schema sees it.
fn as_json(yaml: &str) -> Value {
    hostler_job::as_json(yaml).expect("YAML")
}

fn schema_takes(yaml: &str) -> Result<(), String> {
    let schema: Value = serde_json::from_str(schema()).expect("JSON");
    validate::errors(&schema, &as_json(yaml))
}

#[test]
fn every_example_is_right_and_fits_the_schema() {
    let mut found = 0;
    for directory in [examples(), examples().join("parts")] {
        for entry in std::fs::read_dir(directory).expect("examples") {
            let path = entry.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "yaml") {
                continue;
            }
            found += 1;
            let loaded = load(&path).unwrap_or_else(|wrong| {
                let lines: Vec<String> = wrong.iter().map(ToString::to_string).collect();
                panic!("{}", lines.join("\n"))
            });
            schema_takes(&loaded.source).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
            assert!(mermaid(&loaded.flow).contains("flowchart TD"));
        }
    }
    assert!(found >= 3, "{found}");
}

#[test]
fn every_example_of_the_documentation_is_right() {
    let text = include_str!("../../../../docs/jobs.md");
    let mut found = 0;
    for block in text.split("```yaml\n").skip(1) {
        let block = block.split("```").next().expect("an end");
        // A part of a flow is shown as the steps that it is about.
        let whole = match block.contains("steps:") {
            true => block.to_owned(),
            false => {
                let inputs =
                    "inputs: { task: string, files: array, urls: array, debug: boolean }\n";
                let others = "  plan: { command: make plan }\n  build: { command: make }\n";
                let indented: String = block.lines().map(|line| format!("  {line}\n")).collect();
                format!("name: part\n{inputs}steps:\n{others}{indented}")
            }
        };
        check(&whole).unwrap_or_else(|wrong| panic!("{wrong:#?}\n{whole}"));
        schema_takes(&whole).unwrap_or_else(|why| panic!("{why}\n{whole}"));
        found += 1;
    }
    assert!(found >= 8, "{found}");
}

#[test]
fn the_whole_format_is_read() {
    let loaded = load(&examples().join("everything.yaml")).expect("a flow");
    let flow = &loaded.flow;
    let step = |name: &str| flow.step(&name.parse().expect("a name")).expect("a step");
    let look = step("look");
    let Executor::Command(command) = &look.executor.value else {
        panic!("a command");
    };
    let Launch::Argv(argv) = &command.program.launch else {
        panic!("without a shell");
    };
    let host = argv[1].value.fill(|name| format!("<{name}>"));
    assert_eq!(
        (host.as_str(), &command.success[..]),
        ("<host>", &[0, 3][..])
    );
    let each = look.for_each.as_ref().expect("for each");
    assert_eq!(
        (each.over.value.to_string().as_str(), each.parallel),
        ("$job.hosts", 4)
    );
    assert_eq!(look.limits.memory, Some(200 << 20));
    assert_eq!((look.retry.times, look.retry.pause(9).as_secs()), (3, 30));
    let judge = step("judge");
    let waits: Vec<&str> = judge
        .waits_for()
        .iter()
        .map(|step| step.value.as_str())
        .collect();
    assert_eq!(waits, ["look", "ready"], "`last` waits for nothing");
    assert!(matches!(&judge.inputs[3].source, Source::Value(value) if *value == 5));
    assert!(
        matches!(&judge.exits[1].action, Action::Loop { target, max_iterations: 2 } if target.value.as_str() == "look")
    );
    assert!(judge.fallback.is_some());
    assert_eq!(loaded.flows["parts/greet.yaml"].flow.name, "greet");
}

#[test]
fn large_files_are_read_or_refused_soon() {
    let start = std::time::Instant::now();
    let many = |n: usize, part: &dyn Fn(usize) -> String| (0..n).map(part).collect::<String>();
    for (text, right) in [
        (many(60_000, &|n| format!("key{n}: 1\n")), false),
        (many(9000, &|n| format!("key{n}: 1\n")), false),
        (
            format!(
                "name: x\nsteps:\n  a:\n    command: ls\n    after: [{}a]\n",
                "b, ".repeat(9000)
            ),
            false,
        ),
        (
            format!(
                "name: x\nsteps:\n{}",
                many(9000, &|n| format!("  s{n}: {{ command: ls }}\n"))
            ),
            true,
        ),
        (
            format!(
                "name: x\nsteps:\n{}",
                many(9000, &|n| format!(
                    "  s{n}: {{ command: ls, after: [s{}, s0] }}\n",
                    n + 1
                ))
            ),
            false,
        ),
        (format!("name: {}", "x".repeat(1 << 19)), false),
        (format!("a: {}", "[".repeat(1 << 19)), false),
        ("- ".repeat(1 << 19), false),
        ("? ".repeat(1 << 18), false),
        ("x".repeat((1 << 20) + 1), false),
    ] {
        let checked = check(&text);
        assert_eq!(checked.is_ok(), right, "{:.60}", text);
        let problems = checked.err().unwrap_or_default();
        assert!(problems.len() <= 1000);
        assert!(
            start.elapsed().as_secs() < 60,
            "{:?}: {:.60}",
            start.elapsed(),
            text
        );
    }
}

#[test]
fn long_flows_are_checked_soon() {
    let mut text = String::from("name: long\nsteps:\n  s0: { command: ls }\n");
    for step in 1..5000 {
        text += &format!(
            "  s{step}: {{ command: ls, inputs: {{ x: s{}.stdout }} }}\n",
            step - 1
        );
    }
    let start = std::time::Instant::now();
    let flow = check(&text).expect("a flow");
    assert_eq!(flow.steps.len(), 5000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn the_schema_of_a_type_says_the_same_as_its_check() {
    let flow = check("name: x\ninputs:\n  f:\n    fields:\n      files: { items: { fields: { name: string, size: integer } } }\n      mode: { choices: [a, b] }\nsteps: { a: { sleep: 1 } }\n").expect("a flow");
    let kind = &flow.inputs[0].kind;
    let file = json!({ "name": "a", "size": 1 });
    for (value, right) in [
        (
            json!({ "files": [file, file], "mode": "a", "more": 1 }),
            true,
        ),
        (json!({ "files": [], "mode": "c" }), false),
        (json!({ "files": [{ "name": "a" }], "mode": "a" }), false),
        (
            json!({ "files": [{ "name": "a", "size": 1.5 }], "mode": "a" }),
            false,
        ),
        (json!({ "mode": "a" }), false),
        (json!([]), false),
    ] {
        assert_eq!(kind.check(&value).is_ok(), right, "{value}");
        let by_schema = validate::errors(&kind.json_schema(), &value);
        assert_eq!(by_schema.is_ok(), right, "{value}: {by_schema:?}");
    }
}
