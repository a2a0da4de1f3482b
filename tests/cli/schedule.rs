//! `hostler job schedule`, and the same over REST by way of it.

use serde_json::Value;

use crate::place::Place;
use crate::support::{SOON, wait_until};

#[test]
fn a_schedule_is_set_listed_run_changed_and_removed() {
    let place = Place::new();
    let file = |name: &str, text: &str| {
        let path = place.dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let good = file(
        "good.yaml",
        "name: good\ninputs: { who: string }\nsteps: { a: { inputs: { who: $job.who }, command: 'echo \"$who\" >> said' } }\n",
    );
    let bad = file(
        "bad.yaml",
        "name: x\nsteps: { a: { command: make, after: z } }\n",
    );
    let cwd = place.dir.path().display().to_string();
    let set = |more: &[&str]| {
        let words = [&["job", "schedule", "set"], more].concat();
        place.run(&words)
    };
    let nightly = [
        "nightly",
        "--cron",
        "30 2 * * mon-fri",
        "--zone",
        "Europe/Berlin",
        "--input",
        "who=you",
        "--cwd",
        &cwd,
        "--group",
        "night",
        &good,
    ];
    let done = set(&nightly);
    assert!(done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(said.starts_with("nightly: next at 2"), "{said}");

    for (words, why) in [
        (
            &["x", "--cron", "* * *", "--input", "who=a", &good][..],
            "five fields",
        ),
        (&["x", "--cron", "@daily", &bad], "there is no step `z`"),
        (&["x", "--cron", "@daily", &good], "`who`"),
        (&["x", "--disable"], "there is no schedule `x`"),
        (&["nightly", "--zone", "Mars"], "`Mars`"),
    ] {
        let output = set(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {output:?}");
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(line.contains(why) && line.lines().count() == 1, "{line}");
    }
    assert_eq!(set(&["x", &good]).status.code(), Some(2), "when?");

    let list = || place.json(&["job", "schedule", "ls", "--json"]);
    let all = list();
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    let one = &all[0];
    assert_eq!(
        (
            &one["name"],
            &one["group"],
            &one["overlap"],
            &one["inputs"]["who"]
        ),
        (
            &"nightly".into(),
            &"night".into(),
            &"skip".into(),
            &"you".into()
        )
    );
    assert!(
        one["next_at"].is_u64() && one["last_job"] == Value::Null,
        "{one}"
    );

    let id = place.ok(&["job", "schedule", "run", "nightly"]);
    wait_until("its job has ended", SOON, || {
        list()[0]["last_state"] == "completed"
    });
    assert_eq!(list()[0]["last_job"], id.as_str());
    assert_eq!(
        list()[0]["next_at"],
        one["next_at"],
        "it stays due when it is"
    );
    let said = std::fs::read_to_string(place.dir.path().join("said"));
    assert_eq!(said.expect("it ran"), "you\n");
    let job = place.json(&["job", "show", "--json", &id]);
    assert_eq!(job["schedule"], "nightly");
    let table = place.ok(&["job", "schedule", "ls"]);
    for word in [
        "nightly",
        "30 2 * * mon-fri",
        "Europe/Berlin",
        &id,
        "completed",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }

    let off = place.ok(&["job", "schedule", "set", "nightly", "--disable"]);
    assert_eq!(off, "nightly: disabled");
    assert_eq!(list()[0]["next_at"], Value::Null);
    place.ok(&[
        "job",
        "schedule",
        "set",
        "nightly",
        "--enable",
        "--overlap",
        "cancel",
    ]);
    assert_eq!(list()[0]["overlap"], "cancel");
    assert_eq!(list()[0]["next_at"], one["next_at"]);
    place.ok(&["job", "schedule", "rm", "nightly"]);
    assert_eq!(list(), Value::Array(Vec::new()));
    for words in [["rm", "nightly"], ["run", "nightly"]] {
        let (status, line) = place.fails(&[&["job", "schedule"][..], &words].concat());
        assert_eq!(status, Some(1));
        assert!(line.contains("there is no schedule `nightly`"), "{line}");
    }
    // Its job is still known.
    assert_eq!(
        place.json(&["job", "show", "--json", &id])["state"],
        "completed"
    );
}
