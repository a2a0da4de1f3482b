//! `hostler job check` and `hostler job schema`: no host runs here.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::children::text;

fn job(words: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hostler"))
        .arg("job")
        .args(words)
        .env("HOSTLER_STATE_DIR", directory.join("nowhere"))
        .current_dir(directory)
        .output()
        .expect("hostler")
}

#[test]
fn a_flow_is_checked_and_everything_that_is_wrong_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let write =
        |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
    write(
        "good.yaml",
        "name: good\nsteps:\n  a: { command: make }\n  b: { after: a, sleep: 1s }\n",
    );

    let right = job(&["check", "good.yaml"], dir.path());
    assert_eq!(right.status.code(), Some(0), "{}", text(&right.stderr));
    assert_eq!(text(&right.stdout), "good.yaml: ok: good, 2 steps\n");
    assert_eq!(text(&right.stderr), "");

    write(
        "bad.yaml",
        "name: bad\nsteps:\n  a: { command: make, after: z }\n  b: { sleep: soon }\n",
    );
    let wrong = job(&["check", "good.yaml", "bad.yaml"], dir.path());
    assert_eq!(wrong.status.code(), Some(1));
    let lines: Vec<String> = text(&wrong.stderr).lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("bad.yaml:3:30: steps.a.after: there is no step `z`"),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("bad.yaml:4:15: steps.b.sleep: `soon` is no time: "),
        "{lines:?}"
    );
    assert_eq!(text(&wrong.stdout), "good.yaml: ok: good, 2 steps\n");

    let said = job(&["check", "--json", "bad.yaml", "none.yaml"], dir.path());
    assert_eq!(said.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!(said[0]["ok"], false);
    let first = &said[0]["problems"][0];
    assert_eq!(
        (&first["line"], &first["column"]),
        (&3.into(), &30.into()),
        "{first}"
    );
    assert_eq!(
        (&first["code"], &first["field"]),
        (&"unknown_step".into(), &"steps.a.after".into())
    );
    assert_eq!(said[1]["problems"][0]["code"], "bad_flow");
}

#[test]
fn what_a_file_has_in_it_does_not_reach_the_terminal() {
    let dir = tempfile::tempdir().expect("a directory");
    let flow = "name: bad\nsteps:\n  a: { sleep: \"s\\e[31moon\" }\n";
    std::fs::write(dir.path().join("bad.yaml"), flow).expect("written");
    let wrong = job(&["check", "bad.yaml"], dir.path());
    assert_eq!(wrong.status.code(), Some(1));
    assert!(
        text(&wrong.stderr).contains("oon") && !wrong.stderr.contains(&0x1b),
        "{:?}",
        text(&wrong.stderr)
    );
}

#[test]
fn inputs_are_checked_beside_what_the_flow_wants() {
    let dir = tempfile::tempdir().expect("a directory");
    let flow = "name: x\ninputs:\n  task: string\n  often: { type: integer, default: 3 }\nsteps: { a: { sleep: 1 } }\n";
    std::fs::write(dir.path().join("x.yaml"), flow).expect("written");
    let right = job(&["check", "x.yaml", "--input", "task=a=b"], dir.path());
    assert_eq!(right.status.code(), Some(0), "{}", text(&right.stderr));
    let wrong = job(&["check", "x.yaml", "--input", "often=much"], dir.path());
    assert_eq!(wrong.status.code(), Some(1));
    let lines: Vec<String> = text(&wrong.stderr).lines().map(str::to_owned).collect();
    assert_eq!(
        lines,
        [
            "x.yaml:3:3: inputs.task: the input `task` (a string) is not given",
            "x.yaml:4:3: inputs.often: the input `often`: an integer is wanted, and this is the string \"much\"",
        ]
    );
    for words in [
        &["check", "x.yaml", "--input", "task"][..],
        &["check", "x.yaml", "--input", "task=a", "--input", "task=b"],
        &["check", "x.yaml", "x.yaml", "--input", "task=a"],
    ] {
        let usage = job(words, dir.path());
        assert_eq!(usage.status.code(), Some(2), "{words:?}");
        assert_eq!(text(&usage.stderr).lines().count(), 1, "{words:?}");
    }
}

#[test]
fn a_flow_is_drawn_and_the_schema_printed() {
    let dir = tempfile::tempdir().expect("a directory");
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let fix = examples.join("fix.yaml").display().to_string();
    let drawn = job(&["check", "--graph", &fix], dir.path());
    assert_eq!(drawn.status.code(), Some(0), "{}", text(&drawn.stderr));
    let drawn = text(&drawn.stdout);
    assert!(
        drawn.contains("flowchart TD\n") && drawn.contains("    step_code --> step_test\n"),
        "{drawn}"
    );
    assert!(
        drawn.contains("step_test -. \"again (at most 4)\" .-> step_code"),
        "{drawn}"
    );

    let schema = job(&["schema"], dir.path());
    assert_eq!(schema.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&schema.stdout).expect("JSON");
    assert_eq!(schema["required"], serde_json::json!(["name", "steps"]));

    for words in [
        &["check"][..],
        &["check", "--graph", "--json", "x"],
        &["burn"],
    ] {
        assert_eq!(job(words, dir.path()).status.code(), Some(2), "{words:?}");
    }
}
