//! Hosts that are killed, or taken over, while a client watches.

use std::io::Read;

use crate::bench::{Bench, read_until, told};

/// Counts how often each step is begun, and waits in the second for a file.
const FLOW: &str = "steps:\n  first: { command: 'echo 1 >> log' }\n  second:\n    after: first\n    command:\n      run: 'echo 2 >> log; until test -e go; do sleep 0.05; done; echo done'\n      env: { M: MARK }\n  third: { after: second, command: 'echo 3 >> log' }\noutputs: { said: second.stdout }\n";

fn counts(text: &str, what: &str) -> usize {
    text.lines()
        .filter(|line| line.ends_with(what) || line.contains(&format!("  {what}")))
        .count()
}

#[test]
fn a_watching_client_sees_a_takeover_as_nothing() {
    let mut bench = Bench::new();
    let flow = bench.flow("long", FLOW);
    let client = bench.start(&["run", &flow]);
    bench.wait_text("log", "1\n2\n");
    for _ in 0..2 {
        bench.place.take_over();
    }
    std::fs::write(bench.path("go"), "").expect("written");
    let (status, out, err) = told(client);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "said: done\nremaining: 0\n"),
        "{err}"
    );
    assert_eq!(bench.text("log"), "1\n2\n3\n", "each was done once");
    for what in [
        "first: begins",
        "second: begins",
        "second: completed",
        "third: begins",
    ] {
        assert_eq!(counts(&err, what), 1, "{what}: {err}");
    }
    assert_eq!(bench.alive(), 0);
}

#[test]
fn a_killed_host_is_waited_for_and_what_was_cut_off_is_made_again() {
    let mut bench = Bench::new();
    let flow = bench.flow("long", FLOW);
    let client = bench.start(&["run", &flow]);
    bench.wait_text("log", "1\n2\n");
    bench.place.kill_host();
    // Nothing of it outlives its host, unless that was asked for.
    bench.wait_alive(0);
    bench.place.start_host();
    bench.wait_text("log", "1\n2\n2\n");
    std::fs::write(bench.path("go"), "").expect("written");
    let (status, out, err) = told(client);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "said: done\nremaining: 0\n"),
        "{err}"
    );
    assert_eq!(bench.text("log"), "1\n2\n2\n3\n");
    assert_eq!(counts(&err, "first: begins"), 1, "{err}");
    assert!(
        err.contains("second: cancelled") && err.contains("the death of the host"),
        "{err}"
    );
    assert_eq!(bench.alive(), 0);
}

#[test]
fn what_is_kept_is_taken_up_by_the_next_host() {
    let mut bench = Bench::new();
    let flow = bench.flow("long", FLOW);
    let client = bench.start(&["run", "--on-host-exit", "keep", &flow]);
    bench.wait_text("log", "1\n2\n");
    bench.place.kill_host();
    bench.place.start_host();
    std::fs::write(bench.path("go"), "").expect("written");
    let (status, out, err) = told(client);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "said: done\nremaining: 0\n"),
        "{err}"
    );
    assert_eq!(bench.text("log"), "1\n2\n3\n", "each was done once");
    assert_eq!(bench.alive(), 0);
}

#[test]
fn a_host_that_is_told_to_stop_cancels_and_says_so() {
    let mut bench = Bench::new();
    let flow = bench.flow("long", FLOW);
    let mut client = bench.start(&["run", &flow]);
    // By then it watches: a host that stops takes no new connections.
    let mut rest = read_until(&mut client, "second: begins");
    bench.place.stop();
    let (status, out, _) = told(client);
    let mut err = String::new();
    rest.read_to_string(&mut err).expect("text");
    assert_eq!((status, out.as_str()), (Some(1), "remaining: 0\n"), "{err}");
    assert!(
        err.contains("was cancelled: the host was told to stop"),
        "{err}"
    );
    assert_eq!(bench.alive(), 0);
}

#[test]
fn a_question_is_asked_once_though_the_host_is_killed() {
    let mut bench = Bench::new();
    let flow = bench.flow(
        "one",
        "steps:\n  ask: { input: 'Which colour?' }\noutputs: { colour: ask.answer }\n",
    );
    let client = bench.start(&["run", &flow]);
    let job = bench.the_job("it asks", |job| job["asks"][0]["run"] == 1);
    bench.place.kill_host();
    bench.place.start_host();
    let id = job["id"].as_str().expect("an id");
    crate::support::wait_until("the next host asks", crate::support::SOON, || {
        bench.comes_to(&["answer", id, "red"]).0 == Some(0)
    });
    let (status, out, err) = told(client);
    assert_eq!(
        (status, out.as_str()),
        (Some(0), "colour: red\nremaining: 0\n"),
        "{err}"
    );
    assert_eq!(counts(&err, "Which colour?"), 1, "{err}");
}
