//! Sessions from their opening to their close report.

use serde_json::Value;

use crate::far::Far;

/// Without what changes from one look to the next.
fn still(mut value: Value) -> Value {
    let all = value.as_array_mut().map_or(&mut [][..], Vec::as_mut_slice);
    for one in all {
        one["clients"] = Value::Null;
    }
    value
}

#[test]
fn they_are_listed_shown_and_closed_as_beside_the_host() {
    let far = Far::new();
    let id = far.ok(&[
        "session",
        "new",
        "--name",
        "far",
        "--cwd",
        "/tmp",
        "--env",
        "X=1",
        "--grace",
        "300ms",
        "--memory",
        "200M",
        "--idle-ttl",
        "1h",
    ]);
    let child = far.ok(&["session", "new", "--parent", "far", "--name", "child"]);
    let listed = still(far.json(&["session", "ls", "--json"]));
    let beside: Value =
        serde_json::from_str(&far.ok_beside(&["session", "ls", "--json"])).expect("json");
    let sorted = |value: Value| {
        let mut all = value.as_array().expect("a list").clone();
        all.sort_by_key(|one| one["id"].to_string());
        all
    };
    assert_eq!(sorted(listed), sorted(still(beside)));
    let table = far.ok(&["session", "ls"]);
    assert!(
        table.starts_with("SESSION") && table.contains("far"),
        "{table}"
    );
    let shown = far.json(&["session", "show", "far", "--json"]);
    assert_eq!(shown["id"], *id);
    assert_eq!(shown["cwd"], "/tmp");
    assert_eq!(shown["policy"]["memory"], 200 << 20);
    let sheet = far.ok(&["session", "show", &id[..6]]);
    assert!(sheet.contains("/tmp"), "{sheet}");
    // With something that runs in it.
    let process = far.ok_beside(&[
        "exec",
        "-d",
        "far",
        "--",
        "sh",
        "-c",
        "echo $X; exec sleep 1000",
    ]);
    let report = far.json(&["session", "close", "far", "--json", "--grace", "100ms"]);
    assert_eq!(report["session"], *id);
    assert_eq!(report["remaining"], 0);
    let released = report["released"].to_string();
    assert!(released.contains(&process), "{released}");
    assert_eq!(report["children"][0]["session"], *child);
    assert_eq!(
        far.json(&["session", "ls", "--json"])
            .as_array()
            .map(Vec::len),
        Some(0)
    );
    far.ok(&["session", "new", "--name", "again"]);
    let report = far.ok(&["session", "close", "again"]);
    assert!(report.contains("remaining: 0"), "{report}");
}

#[test]
fn a_conversation_is_forked_at_its_last_turn() {
    let far = Far::new();
    far.ok(&["session", "new", "--name", "a", "--agent", "shell"]);
    let (_, line) = far.fails(&["session", "fork", "a"]);
    assert!(line.contains("nothing to fork"), "{line}");
    assert!(far.ok(&["prompt", "a", "echo first"]).contains("first"));
    let fork = far.ok(&["session", "fork", "a"]);
    assert!(far.ok(&["prompt", &fork, "echo second"]).contains("second"));
    let all = far.json(&["session", "ls", "--json"]);
    assert_eq!(
        all.as_array().map(Vec::len),
        Some(1),
        "it is a chat of its session: {all}"
    );
    let report = far.json(&["session", "close", "a", "--json"]);
    assert_eq!(report["remaining"], 0);
}
