//! `hostler job run`, to every end.

use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;
use serde_json::Value;

use crate::bench::{Bench, read_until, told};
use crate::children::{ended, signal};
use crate::support::{SOON, wait_until};

/// A command with a child of its own and one that has left for a session of its own: three processes.
const THREE: &str = "steps:\n  f:\n    command:\n      run: sleep 1000 & setsid sleep 1000 & sleep 1000; true\n      env: { M: MARK }\n";

#[test]
fn a_job_that_completes_says_what_it_did_and_what_it_gave() {
    let bench = Bench::new();
    let flow = bench.flow(
        "hello",
        "inputs:\n  who: string\n  list: { items: integer, default: [1, 2] }\nsteps:\n  greet: { inputs: { who: $job.who }, command: 'echo \"hello $who\"; pwd' }\n  each: { after: greet, for_each: { in: $job.list }, inputs: { n: $item }, command: 'echo $n' }\n  not: { after: each, when: size(job.list) > 5, sleep: 1 }\noutputs:\n  said: greet.stdout\n  all: each.exit_code\n",
    );
    let (status, out, err) = bench.comes_to(&["run", &flow, "--input", "who=you"]);
    assert_eq!(status, Some(0), "{err}");
    let here = bench.place.dir.path().canonicalize().expect("a path");
    assert_eq!(
        out,
        format!(
            "said:\n  hello you\n  {}\nall: [0,0]\nremaining: 0\n",
            here.display()
        )
    );
    let lines: Vec<&str> = err.lines().collect();
    assert!(
        lines[0].starts_with("job j-") && lines[0].ends_with(": hello"),
        "{err}"
    );
    for (what, count) in [
        ("greet: begins", 1),
        ("greet: completed after ", 1),
        ("each[0]: begins", 1),
        ("each[1]: completed after ", 1),
        ("each: completed after ", 1),
        ("not: skipped", 1),
    ] {
        let found = lines
            .iter()
            .filter(|line| line.contains(&format!("  {what}")));
        assert_eq!(found.count(), count, "{what}: {err}");
    }

    let (status, out, err) =
        bench.comes_to(&["run", &flow, "--input", "who=you", "--json", "--cwd", "/"]);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    let job: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(job["outputs"]["said"], "hello you\n/\n");
    assert_eq!(
        (&job["state"], &job["remaining"]),
        (&"completed".into(), &0.into())
    );
    assert_eq!(job["runs"].as_array().map(Vec::len), Some(5), "{job:#}");
    assert_eq!(job["leases"], Value::Array(vec![]));
}

#[test]
fn one_that_fails_says_why_in_one_line() {
    let bench = Bench::new();
    let flow = bench.flow(
        "bad",
        "steps:\n  f: { command: 'echo no such luck >&2; exit 3' }\n",
    );
    let (status, out, err) = bench.comes_to(&["run", &flow]);
    assert_eq!((status, out.as_str()), (Some(1), "remaining: 0\n"));
    let last = err.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("hostler: job j-")
            && last.ends_with("has failed: `f` has failed: it exited with 3: no such luck"),
        "{err}"
    );
    let (status, line) = bench.fails(&["run", "--json", &flow]);
    assert_eq!(status, Some(1), "{line}");
}

#[test]
fn a_wrong_flow_is_refused_with_the_words_of_check() {
    let bench = Bench::new();
    bench.flow(
        "wrong",
        "steps:\n  a: { command: make, after: z }\n  b: { sleep: soon }\n",
    );
    let (status, out, err) = bench.comes_to(&["run", "wrong.yaml"]);
    let checked = bench.comes_to(&["check", "wrong.yaml"]);
    assert_eq!((status, out.as_str()), (Some(1), ""));
    assert_eq!(err, checked.2);
    assert_eq!(err.lines().count(), 2, "{err}");
    let flow = bench.flow(
        "given",
        "inputs: { n: integer }\nsteps: { a: { sleep: 0 } }\n",
    );
    for (words, status, line) in [
        (
            &["run", "none.yaml"][..],
            1,
            "none.yaml:1:1: the file cannot be read",
        ),
        (
            &["run", &flow],
            1,
            "the input `n` (an integer) is not given",
        ),
        (
            &["run", &flow, "--input", "n=many"],
            1,
            "an integer is wanted",
        ),
        (
            &["run", &flow, "--input", "n=1", "--input", "m=1"],
            1,
            "the flow has no input `m`",
        ),
        (&["run", &flow, "--input", "n"], 2, "--input is NAME=VALUE"),
        (
            &["run", &flow, "--input", "n=1", "--cwd", "/nowhere"],
            1,
            "cannot work in /nowhere",
        ),
        (
            &["run", &flow, "--input", "n=1", "--group", ""],
            1,
            "a group has a name",
        ),
        (&["run"], 2, "required"),
        (
            &["run", "--on-host-exit", "dance", &flow],
            2,
            "invalid value 'dance'",
        ),
    ] {
        let (is, told) = bench.fails(words);
        assert_eq!(is, Some(status), "{words:?}: {told}");
        assert!(told.contains(line), "{words:?}: {told}");
    }
    assert!(bench.list(&["-a"]).is_empty());
}

#[test]
fn a_signal_cancels_it_and_nothing_is_left() {
    let bench = Bench::new();
    let flow = bench.flow("three", THREE);
    for (number, status) in [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)] {
        let client = bench.start(&["run", &flow]);
        // The shell is one, and waits for the three.
        bench.wait_alive(4);
        signal(&client, number);
        let (is, out, err) = told(client);
        assert_eq!(bench.alive(), 0, "{err}");
        assert_eq!(
            (is, out.as_str()),
            (Some(status), "remaining: 0\n"),
            "{err}"
        );
        assert!(err.contains("once more leaves at once"), "{err}");
    }
    let all = bench.list(&["-a"]);
    assert_eq!(all.len(), 3);
    assert!(
        all.iter()
            .all(|job| job["state"] == "cancelled" && job["released"] == true)
    );
}

#[test]
fn a_second_signal_leaves_at_once_and_the_cancel_goes_on() {
    let bench = Bench::with_config("[policy]\ngrace = \"3s\"\n");
    let flow = bench.flow(
        "deaf",
        "steps:\n  f: { command: { run: \"trap '' TERM; while :; do sleep 1000; done\", env: { M: MARK } } }\n",
    );
    let mut client = bench.start(&["run", &flow]);
    bench.wait_alive(2);
    signal(&client, Signal::INT);
    let told = read_until(&mut client, "once more leaves at once");
    signal(&client, Signal::INT);
    assert_eq!(ended(&mut client).signal(), Some(2));
    let rest: Vec<String> = told.lines().map(|line| line.expect("a line")).collect();
    assert!(
        rest.iter().any(|line| line.starts_with("left; job j-")),
        "{rest:?}"
    );
    wait_until("the job is gone all the same", SOON, || {
        let all = bench.list(&["-a"]);
        all[0]["state"] == "cancelled" && all[0]["released"] == true
    });
    assert_eq!(bench.alive(), 0);
}

#[test]
fn it_goes_on_when_its_client_is_killed_or_did_not_stay() {
    let bench = Bench::new();
    let flow = bench.flow(
        "wait",
        "steps:\n  f: { command: { run: 'until test -e go; do sleep 0.05; done; echo went', env: { M: MARK } } }\noutputs: { said: f.stdout }\n",
    );
    let mut client = bench.start(&["run", &flow]);
    let first = bench.the_job("it runs", |job| job["runs"][0]["state"] == "running");
    client.kill().expect("kill");
    client.wait().expect("wait");
    let second = bench.ok(&["run", "--detach", &flow]);
    assert!(second.starts_with("j-") && second.len() == 10, "{second}");
    // Leaving one that was only watched cancels nothing.
    let mut watcher = bench.start(&["watch", &second]);
    drop(read_until(&mut watcher, "f: begins"));
    signal(&watcher, Signal::INT);
    assert_eq!(ended(&mut watcher).signal(), Some(2));
    std::fs::write(bench.path("go"), "").expect("written");
    for id in [first["id"].as_str().expect("an id"), &second] {
        assert_eq!(bench.ok(&["watch", id]), "said: went\nremaining: 0");
    }
    assert_eq!(bench.alive(), 0);
}
