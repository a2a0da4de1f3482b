//! Jobs that are listed, shown, read, paused, done again, cancelled and forgotten.

use crate::bench::{Bench, told};
use crate::support::{SOON, wait_until};

#[test]
fn jobs_are_listed_shown_and_forgotten() {
    let bench = Bench::new();
    let flow = bench.flow(
        "talk",
        "steps:\n  a: { command: 'printf out-a; echo err-a >&2' }\n  b: { after: a, command: 'echo out-b' }\n  c: { after: b, agent: { name: shell, prompt: echo said } }\noutputs: { text: c.text }\n",
    );
    let first = bench.ok(&["run", "--detach", "--group", "g", &flow]);
    bench.ok(&["watch", &first]);
    let second = bench.ok(&["run", "--detach", &flow]);
    bench.ok(&["watch", &second]);
    assert!(bench.list(&[]).is_empty());
    let all = bench.list(&["-a"]);
    let ids: Vec<&str> = all.iter().filter_map(|job| job["id"].as_str()).collect();
    assert_eq!(ids, [second.as_str(), first.as_str()], "the newest first");
    let newest = bench.list(&["-a", "-n", "1"]);
    assert_eq!((newest.len(), &newest[0]["id"]), (1, &all[0]["id"]));
    assert!(
        newest[0]["inputs"].is_null() && newest[0]["outputs"].is_null(),
        "how they stand, no more: {newest:?}"
    );
    assert_eq!(bench.list(&["-a", "--limit", "5"]).len(), 2);
    assert_eq!(bench.comes_to(&["ls", "-n", "0"]).0, Some(2));
    assert_eq!(bench.list(&["-a", "--group", "g"]).len(), 1);
    assert!(bench.list(&["-a", "--group", "none"]).is_empty());

    let shown = bench.ok(&["show", &first[..8]]);
    for what in [
        "flow         talk",
        "group        g",
        "state        completed",
        "remaining    0",
        "RUN  STEP",
    ] {
        let same = |line: &str| line.split_whitespace().eq(what.split_whitespace());
        let there = shown
            .lines()
            .any(|line| same(line) || line.starts_with(what));
        assert!(there, "{what}: {shown}");
    }
    assert!(shown.contains("text: said"), "{shown}");

    let (status, out, err) = bench.comes_to(&["logs", &first]);
    assert_eq!(status, Some(0));
    assert_eq!(
        out,
        "--- a: completed\nout-a\n--- b: completed\nout-b\n--- c: completed\nsaid\n"
    );
    assert_eq!(err, "err-a\n");
    assert_eq!(bench.comes_to(&["logs", &first, "b"]).1, "out-b\n");
    let (_, line) = bench.fails(&["logs", &first, "nope"]);
    assert!(line.contains("has no step `nope`"), "{line}");

    bench.ok(&["rm", &first, &second[2..]]);
    assert!(bench.list(&["-a"]).is_empty());
    for words in [
        &["show", &first][..],
        &["rm", &first],
        &["cancel", &first],
        &["watch", "zz"],
        &["logs", "j-"],
    ] {
        let (status, line) = bench.fails(words);
        assert_eq!(status, Some(1), "{words:?}");
        assert!(line.contains("there is no job"), "{words:?}: {line}");
    }
}

#[test]
fn output_is_followed_while_it_is_written() {
    let bench = Bench::new();
    let flow = bench.flow(
        "slow",
        "steps:\n  a: { command: { run: 'echo one; until test -e go; do sleep 0.05; done; echo two', env: { M: MARK } } }\n  b: { after: a, command: 'echo three' }\n",
    );
    let id = bench.ok(&["run", "--detach", &flow]);
    wait_until("what runs can be read", SOON, || {
        bench.ok(&["logs", &id, "a"]) == "one"
    });
    let follower = bench.start(&["logs", "-f", &id]);
    std::fs::write(bench.path("go"), "").expect("written");
    let (status, out, err) = told(follower);
    assert_eq!((status, err.as_str()), (Some(0), ""));
    assert_eq!(out, "--- a\none\ntwo\n--- b\nthree\n");
}

#[test]
fn a_paused_job_goes_on_and_steps_are_done_again() {
    let bench = Bench::new();
    let flow = bench.flow(
        "stuck",
        "steps:\n  a: { command: 'echo a >> log' }\n  b: { after: a, command: 'echo b >> log; test -e good', on_error: pause }\n  c: { after: b, command: 'echo c >> log' }\n",
    );
    let client = bench.start(&["run", &flow]);
    let job = bench.the_job("it is paused", |job| job["state"] == "paused");
    let id = job["id"].as_str().expect("an id").to_owned();
    let (status, line) = bench.fails(&["retry", &id]);
    assert!(
        status == Some(1) && line.contains("from which step"),
        "{line}"
    );
    let (_, line) = bench.fails(&["retry", &id, "--from", "z"]);
    assert!(line.contains("there is no step `z`"), "{line}");
    std::fs::write(bench.path("good"), "").expect("written");
    assert_eq!(bench.ok(&["retry", &id, "--from", "b"]), id, "in place");
    let (status, _, err) = told(client);
    assert_eq!(status, Some(0), "{err}");
    assert!(
        err.contains("paused: `b` has failed") && err.contains("b, attempt 2: completed"),
        "{err}"
    );
    assert_eq!(bench.text("log"), "a\nb\nb\nc\n");

    let again = bench.ok(&["retry", &id, "--from", "c"]);
    assert_ne!(again, id, "as a new job");
    bench.ok(&["watch", &again]);
    assert_eq!(bench.text("log"), "a\nb\nb\nc\nc\n");
    assert_eq!(bench.show(&again)["retry_of"], *id);
    for what in ["pause", "resume"] {
        let (_, line) = bench.fails(&[what, &id]);
        assert!(line.contains("has ended"), "{line}");
    }
}

#[test]
fn a_job_is_paused_by_hand_and_let_go_on() {
    let bench = Bench::new();
    let flow = bench.flow(
        "two",
        "steps:\n  a: { command: 'until test -e go; do sleep 0.05; done' }\n  b: { after: a, command: 'echo b > log' }\n",
    );
    let id = bench.ok(&["run", "--detach", &flow]);
    bench.the_job("it runs", |job| job["runs"][0]["state"] == "running");
    bench.ok(&["pause", &id]);
    std::fs::write(bench.path("go"), "").expect("written");
    bench.the_job("its step is over", |job| {
        job["runs"][0]["state"] == "completed"
    });
    let job = bench.show(&id);
    assert_eq!(
        (&job["state"], job["runs"].as_array().map(Vec::len)),
        (&"paused".into(), Some(1))
    );
    bench.ok(&["resume", &id]);
    bench.ok(&["watch", &id]);
    assert_eq!(bench.text("log"), "b\n");
}

#[test]
fn a_group_is_cancelled_and_nobody_else() {
    let bench = Bench::new();
    let flow = bench.flow(
        "sleepy",
        "steps:\n  a: { command: { run: exec sleep 1000, env: { M: MARK } } }\n",
    );
    let of_group = [0, 1].map(|_| bench.ok(&["run", "--detach", "--group", "g", &flow]));
    let other = bench.ok(&["run", "--detach", &flow]);
    bench.wait_alive(3);
    let told = bench.ok(&["cancel", "--group", "g"]);
    for id in &of_group {
        assert!(
            told.contains(&format!("job {id}: cancelled; remaining: 0")),
            "{told}"
        );
    }
    assert_eq!((told.lines().count(), bench.alive()), (2, 1));
    assert_eq!(bench.ok(&["cancel", "--group", "g"]), "");
    assert_eq!(bench.show(&other)["state"], "running");
    let told = bench.ok(&["cancel", &other, &of_group[0]]);
    assert_eq!(
        told.lines().count(),
        2,
        "one that has ended stays as it is: {told}"
    );
    assert_eq!(bench.alive(), 0);
    for words in [
        &["cancel"][..],
        &["cancel", "--group", "g", &other],
        &["rm"],
    ] {
        assert_eq!(bench.comes_to(words).0, Some(2), "{words:?}");
    }
}
