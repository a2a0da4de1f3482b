//! The report says what was left and how it went, in JSON and as lines.

use std::time::Duration;

use serde_json::Value;

use crate::support::{Cell, Contain, SOON, Scene, User, heavy};

/// Runs `hostler run --report FILE OPTIONS -- WORDS` to its end and reads the report.
fn report(scene: &Scene, options: &[&str], words: &[&str]) -> (Value, crate::support::Outcome) {
    let file = scene.path("report");
    let options = [
        &["--grace", "300ms", "--report", file.to_str().expect("text")],
        options,
    ]
    .concat();
    let outcome = scene.outcome(&mut scene.run(&options, words));
    let text =
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    (
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")),
        outcome,
    )
}

fn left<'v>(report: &'v Value, how: &str) -> Vec<&'v str> {
    let left = report["left"].as_array().expect("an array").iter();
    left.filter(|one| one["how"] == how)
        .map(|one| one["command"].as_str().expect("text"))
        .collect()
}

#[test]
fn of_a_command_that_leaves_nothing() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let (report, outcome) = report(&scene, &[], &["sh", "-c", "exit 9"]);
        assert_eq!(outcome.code, 9, "{outcome:?}");
        assert_eq!(report["version"], 1);
        assert_eq!(report["command"], serde_json::json!(["sh", "-c", "exit 9"]));
        let contain = match cell.contain {
            Contain::Tree => "tree",
            Contain::Cgroup => "cgroup",
            Contain::Pidns => "pidns",
        };
        assert_eq!(report["contain"], contain);
        assert!(
            report["pid"].as_u64().is_some_and(|pid| pid > 0),
            "{report}"
        );
        assert_eq!(
            report["exit"],
            serde_json::json!({"code": 9, "signal": null, "status": 9})
        );
        assert_eq!(report["ended_by"], "exit");
        assert_eq!(report["left"], serde_json::json!([]));
        assert_eq!(report["remaining"], 0);
        let wall = report["wall_ms"].as_f64().expect("a number");
        assert!(
            wall > 0.0 && wall <= outcome.took.as_secs_f64() * 1000.0,
            "{report}"
        );
    }
}

#[test]
fn of_another_hostler_that_left_nothing_of_its_own() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let inner = scene.kit.hostler().display().to_string();
        // A zygote or keeper that outlives its front, be it for a moment, is seen in one of these.
        for _ in 0..10 {
            let (report, _) = report(&scene, &[], &[&inner, "run", "--", "true"]);
            assert_eq!(report["left"], Value::Array(Vec::new()), "{report}");
        }
    }
}

#[test]
fn of_what_was_left_and_how_it_went() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        // None of the three starts anything itself, and all have their last name when the command ends: what is left is
        // known to the process.
        let script = "setsid sleep 100 & set -- $!; nohup sleep 100 2>/dev/null & set -- $@ $!; (trap '' TERM; exec sleep 100) & \
                      for pid in $@ $!; do until grep -q sleep /proc/$pid/comm; do :; done; done; exit 0";
        let (report, outcome) = report(&scene, &[], &["sh", "-c", script]);
        assert_eq!(outcome.code, 0, "{outcome:?}");
        assert_eq!(left(&report, "terminated"), ["sleep"; 2], "{report}");
        assert_eq!(left(&report, "killed"), ["sleep"], "{report}");
        assert!(left(&report, "stuck").is_empty(), "{report}");
        assert_eq!(report["remaining"], 0);
        for one in report["left"].as_array().expect("an array") {
            assert!(one["pid"].as_u64().is_some_and(|pid| pid > 0), "{one}");
            assert!(one["start_time"].as_u64().is_some(), "{one}");
            let ms = one["ms"].as_f64().expect("a number");
            let least = if one["how"] == "killed" { 250.0 } else { 0.0 };
            assert!(
                ms >= least && ms < 1300.0 * f64::from(crate::support::slack()),
                "{one}"
            );
        }
    }
}

#[test]
fn of_a_signal() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let words = [
            scene
                .kit
                .misbehave()
                .into_os_string()
                .into_string()
                .expect("text"),
            "die".into(),
            "11".into(),
        ];
        let (report, outcome) = report(&scene, &[], &words.each_ref().map(String::as_str));
        assert_eq!(outcome.code, 139);
        assert_eq!(
            report["exit"],
            serde_json::json!({"code": null, "signal": 11, "status": 139})
        );
        assert_eq!(report["ended_by"], "exit");
    }
}

#[test]
fn of_each_cause() {
    let scene = Scene::new(Cell::plain());
    let cause = |options: &[&str]| {
        let (report, _) = report(&scene, options, &["sleep", "100"]);
        assert_eq!(report["remaining"], 0);
        report["ended_by"].as_str().expect("text").to_owned()
    };
    assert_eq!(cause(&["--timeout", "100ms"]), "timeout");
    assert_eq!(cause(&["--idle-timeout", "100ms"]), "idle_timeout");
    assert_eq!(cause(&["--max-lifetime", "100ms"]), "max_lifetime");
    let alloc = [
        scene
            .kit
            .misbehave()
            .into_os_string()
            .into_string()
            .expect("text"),
        "alloc".into(),
        "1000000000".into(),
    ];
    let (report, _) = report(
        &scene,
        &["--memory", "50M"],
        &alloc.each_ref().map(String::as_str),
    );
    assert_eq!(report["ended_by"], "memory");
    assert!(
        report["peak_memory_bytes"]
            .as_u64()
            .is_some_and(|peak| peak >= 40_000_000),
        "{report}"
    );
}

#[test]
fn of_a_request_and_a_lost_keeper() {
    let _turn = heavy();
    for cell in Cell::all() {
        for (what, ended_by) in [("keeper", "keeper_lost"), ("front", "signal")] {
            let scene = Scene::new(cell);
            let file = scene.path("report");
            let options = ["--grace", "300ms", "--report", file.to_str().expect("text")];
            let mut front = scene.start(&mut scene.misbehave(&options, &["alone", "setsid"]));
            scene
                .ready
                .wait_for("it stands", SOON, |lines| lines.len() == 2);
            match what {
                "keeper" => front.keeper().signal(rustix::process::Signal::KILL),
                _ => front.signal(rustix::process::Signal::TERM),
            }
            let code = front.wait(SOON).code();
            assert_eq!(
                code,
                Some(if what == "keeper" { 137 } else { 143 }),
                "{}",
                front.err()
            );
            if what == "keeper" {
                assert_eq!(front.err().lines().count(), 1, "{}", front.err());
                assert!(front.err().starts_with("hostler: "), "{}", front.err());
            }
            let report: Value =
                serde_json::from_str(&std::fs::read_to_string(&file).expect("a report"))
                    .expect("JSON");
            assert_eq!(report["ended_by"], ended_by, "{cell:?}: {report}");
            assert_eq!(report["remaining"], 0, "{report}");
        }
    }
}

#[test]
fn of_time_and_memory_used() {
    let _turn = heavy();
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let script = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; x=$(head -c 30000000 /dev/zero | tr '\\0' x); sleep 0.3";
        let (report, outcome) = report(&scene, &[], &["sh", "-c", script]);
        let cpu = report["cpu_ms"].as_f64().expect("a number");
        let wall = report["wall_ms"].as_f64().expect("a number");
        let peak = report["peak_memory_bytes"].as_u64().expect("a number");
        assert!(cpu > 20.0 && cpu < 2.0 * wall, "{cell:?}: {report}");
        assert!(wall >= 300.0, "{report}");
        assert!(
            peak > 30_000_000 && peak < 1_000_000_000,
            "{cell:?}: {report}"
        );
        assert_eq!(outcome.err, "");
    }
}

#[test]
fn in_lines() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let outcome = scene.outcome(&mut scene.run(
            &["-v", "--grace", "300ms"],
            [
                "sh",
                "-c",
                "setsid sleep 100 & sleep 100 & sleep 0.3; exit 0",
            ],
        ));
        assert_eq!(outcome.code, 0);
        let about = outcome
            .err
            .lines()
            .filter(|line| line.starts_with("hostler: ") && line.contains("sleep"));
        let about: Vec<&str> = about
            .filter(|line| line.contains("terminated") || line.contains("exited"))
            .collect();
        assert!(
            about.len() >= 2,
            "{cell:?}: one line a process: {outcome:?}"
        );
    }
}

#[test]
fn nothing_is_said_where_nothing_was_asked() {
    for cell in Cell::all() {
        let scene = Scene::new(cell);
        let outcome = scene.outcome(&mut scene.run(
            &["--grace", "300ms"],
            ["sh", "-c", "setsid sleep 100 & echo hi"],
        ));
        assert_eq!(
            (outcome.out.as_str(), outcome.err.as_str(), outcome.code),
            ("hi\n", "", 0)
        );
    }
}

#[test]
fn it_is_the_users_own_file() {
    // It is written as the user who runs it, and complete even where nothing else of the run went well.
    let cells = Cell::all()
        .into_iter()
        .filter(|cell| cell.user == User::Ordinary && cell.contain == Contain::Tree);
    for cell in cells {
        let scene = Scene::new(cell);
        let (report, outcome) = report(&scene, &[], &["sh", "-c", "kill -9 $$"]);
        assert_eq!(outcome.code, 137);
        assert_eq!(report["exit"]["signal"], 9);
        assert!(outcome.took < Duration::from_secs(1) * crate::support::slack());
    }
}
