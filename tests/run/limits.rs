//! A command that is over one of its limits is ended with all that it started, and told why in one line.

use std::time::{Duration, Instant};

use crate::support::{Cell, Outcome, SOON, Scene, alive, heavy};

const MIB: u64 = 1 << 20;

/// Asserts how it ended: status, and one line with each of `words` in it.
fn assert_ended(scene: &Scene, outcome: &Outcome, code: i32, words: &[&str]) {
    println!(
        "{:?}: after {:.0?}: {}",
        scene.cell,
        outcome.took,
        outcome.err.trim_end()
    );
    assert_eq!((outcome.code, outcome.signal), (code, None), "{outcome:?}");
    let lines: Vec<&str> = outcome
        .err
        .lines()
        .filter(|line| line.starts_with("hostler: "))
        .collect();
    assert_eq!(lines.len(), 1, "one line: {outcome:?}");
    for word in words {
        assert!(
            lines[0].contains(word),
            "`{word}` is to be in it: {outcome:?}"
        );
    }
    scene.await_none("a limit", Instant::now(), Duration::from_millis(100));
}

#[test]
fn memory() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let bytes = (2000 * MIB).to_string();
        let outcome = scene.outcome(&mut scene.misbehave(
            &["--grace", "300ms", "--memory", "100M"],
            &["alloc", &bytes],
        ));
        assert_ended(&scene, &outcome, 137, &["memory", "100"]);
    }
}

#[test]
fn memory_of_several_processes_together() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let bytes = (60 * MIB).to_string();
        let options = ["--grace", "300ms", "--memory", "200M"];
        let outcome = scene.outcome(&mut scene.misbehave(&options, &["alloc", &bytes, "8"]));
        assert_ended(&scene, &outcome, 137, &["memory", "200"]);
    }
}

#[test]
fn memory_below_the_limit_is_let_be() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let script = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 0.4; echo ${#x}";
        let outcome = scene.outcome(&mut scene.run(&["--memory", "400M"], ["sh", "-c", script]));
        assert_eq!(
            (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
            (0, "20000000\n", "")
        );
    }
}

#[test]
fn processes() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let mut front = scene
            .start(&mut scene.misbehave(&["--grace", "300ms", "--pids", "30"], &["bomb", "5000"]));
        let mut most = 0;
        let start = Instant::now();
        // Either it can fork no more (the kernel's limit), or it is ended for it (the watcher's).
        let ended = loop {
            most = most.max(scene.living().len());
            if front.child().try_wait().expect("wait").is_some() {
                break true;
            }
            if scene.ready.number("forked").is_some_and(|made| made < 5000) {
                break false;
            }
            assert!(
                start.elapsed() < SOON * crate::support::slack(),
                "neither: {most} live, {:?}",
                scene.ready.all()
            );
        };
        if ended {
            let outcome = front.outcome();
            assert_ended(&scene, &outcome, 137, &["30", "process"]);
        } else {
            // The command, its children, the front, the zygote and the keeper.
            assert!(most <= 40, "{most} processes at a limit of 30");
            front.signal(rustix::process::Signal::TERM);
            front.wait(SOON);
            scene.await_none("a fork bomb", Instant::now(), Duration::from_millis(1300));
        }
        println!("{cell:?}: at most {most} processes seen at a limit of 30, ended: {ended}");
    }
}

#[test]
fn processes_below_the_limit_are_let_be() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let outcome = scene.outcome(&mut scene.run(
            &["--pids", "20"],
            [
                "sh",
                "-c",
                "for i in 1 2 3 4 5; do sleep 0.3 & done; wait; echo ok",
            ],
        ));
        assert_eq!(
            (outcome.code, outcome.out.as_str(), outcome.err.as_str()),
            (0, "ok\n", "")
        );
    }
}

#[test]
fn a_share_of_a_processor() {
    let _turn = heavy();
    // Work that takes about half a second of CPU takes at the least twice that at a half.
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let script = "grep Cpus_allowed_list /proc/self/status; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        let free = scene.outcome(&mut scene.run(&[], ["sh", "-c", script]));
        let held = scene.outcome(&mut scene.run(&["--cpu", "0.25"], ["sh", "-c", script]));
        println!(
            "{cell:?}: free {:.0?}, at a quarter {:.0?}: {}",
            free.took,
            held.took,
            held.err.trim_end()
        );
        if held.code == 0 {
            // Where nothing can enforce it, that is said; it is never silently left out.
            if held.err.contains("bound to 1 CPU(s)") {
                let list = held.out.trim().rsplit('\t').next().expect("a list");
                assert!(list.parse::<u32>().is_ok(), "not bound: {}", held.out);
            } else {
                assert!(held.took > free.took * 2, "not held, and nothing said");
            }
        } else {
            assert!(
                held.err.starts_with("hostler: ") && held.err.contains("cpu"),
                "{held:?}"
            );
        }
        scene.await_none("--cpu", Instant::now(), Duration::from_millis(100));
    }
}

#[test]
fn time() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let outcome = scene.outcome(&mut scene.misbehave(
            &["--grace", "300ms", "--timeout", "400ms"],
            &["direct", "ignores"],
        ));
        assert!(outcome.took >= Duration::from_millis(400), "{outcome:?}");
        assert_ended(&scene, &outcome, 124, &["400"]);
    }
}

#[test]
fn time_that_suffices() {
    let scene = Scene::new(Cell::plain());
    let options = [
        "--timeout",
        "1h",
        "--idle-timeout",
        "1h",
        "--max-lifetime",
        "2h",
    ];
    let outcome = scene.outcome(&mut scene.run(&options, ["sh", "-c", "exit 3"]));
    assert_eq!((outcome.code, outcome.err.as_str()), (3, ""));
    assert!(outcome.took < SOON, "{outcome:?}");
}

#[test]
fn age() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let options = [
            "--grace",
            "300ms",
            "--max-lifetime",
            "500ms",
            "--idle-timeout",
            "20s",
        ];
        let outcome = scene.outcome(&mut scene.misbehave(&options, &["tick", "20", "2000"]));
        assert!(outcome.took >= Duration::from_millis(500), "{outcome:?}");
        assert_ended(&scene, &outcome, 124, &["500"]);
    }
}

#[test]
fn idleness() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        // Ten lines, a tenth of a second apart, then nothing.
        let mut words: Vec<std::ffi::OsString> = ["sh", "-c", "\"$0\" tick 100 10; exec sleep 100"]
            .map(Into::into)
            .into();
        words.push(scene.kit.misbehave().into());
        let options = ["--grace", "300ms", "--idle-timeout", "700ms"];
        let outcome = scene.outcome(&mut scene.run(&options, words));
        assert_eq!(
            outcome.out,
            "tick\n".repeat(10),
            "it was busy until then: {outcome:?}"
        );
        assert!(outcome.took >= Duration::from_millis(1500), "{outcome:?}");
        assert_ended(&scene, &outcome, 124, &["700"]);
    }
}

#[test]
fn a_limit_on_time_ends_all_of_it() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let options = ["--grace", "300ms", "--timeout", "1500ms"];
        let mut command = scene.misbehave(&options, &["mixed"]);
        let front = scene.start(command.env("MISBEHAVE_STUBBORN", "1"));
        let pid = front.pid();
        let outcome = front.outcome();
        assert!(!alive(pid));
        assert_ended(&scene, &outcome, 124, &["1"]);
    }
}
