//! What is listed, and why.

use std::io::pipe;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Signal, getuid};
use serde_json::Value;

use crate::support::{Cell, Contain, Found, Front, Pty, SOON, User, wait_until};
use crate::{STUBBORN, Stage, WILLING, codes, held, lives, of_pid, pids};

#[test]
fn the_leaked_are_listed_and_ended_and_nothing_else_is() {
    for stage in Stage::each() {
        let agent = stage.script("claude-agent-acp", STUBBORN);
        let leaked = stage.leaked(&agent, "leaked");

        let willing = stage.script("mcp-server-time.py", WILLING);
        let server = stage.leaked_under("timeout 1000", &willing, "server");

        let (input, output, _client) = held();
        let piped = stage.orphan(&agent, "piped", input, output);
        let (near, _far) = UnixStream::pair().expect("a pair");
        let output = Stdio::from(OwnedFd::from(near.try_clone().expect("dup")));
        let paired = stage.orphan(&agent, "paired", OwnedFd::from(near).into(), output);

        let under = format!("(sh {} under < /dev/null &); sleep 1000", agent.display());
        let mut under = stage.scene.run(&["--grace", "300ms"], ["sh", "-c", &under]);
        let _front: Front<'_> = stage.scene.start(&mut under);
        let under = stage.number("under");

        let lookalikes = [
            stage.lookalike("vim", "claude-agent-acp.md"),
            stage.lookalike("grep", "claude-agent-acp"),
            stage.lookalike("sleep", "claude-agent-acp"),
            stage.lookalike("node", "-e x claude-agent-acp"),
        ];

        let report = stage.json(&["--all"]);
        let one = of_pid(&report, "leaked", leaked);
        assert_eq!(
            (&one["name"], &one["certainty"]),
            (&"Claude Code adapter".into(), &"likely".into()),
            "{one:#}"
        );
        let reasons = codes(&one);
        assert!(reasons[0].starts_with("orphan_of_"), "{one:#}");
        assert!(
            ["input_ended", "output_ended", "quiet"]
                .iter()
                .all(|code| reasons.contains(code)),
            "{one:#}"
        );
        assert!(one["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
        assert_eq!(
            one["pids"].as_array().map(Vec::len),
            Some(2),
            "with its child: {one:#}"
        );
        // The server is listed by the root of its tree: the wrapper that started it.
        let leaked_list = report["leaked"].as_array().expect("a list");
        let of_server = leaked_list.iter().find(|one| one["agent_pid"] == server);
        let of_server = of_server.unwrap_or_else(|| panic!("{report:#}"));
        assert_eq!(of_server["certainty"], "likely");
        assert!(
            of_server["pids"]
                .as_array()
                .is_some_and(|pids| pids.len() == 3),
            "{of_server:#}"
        );
        assert_eq!(leaked_list.len(), 2, "{report:#}");

        let sees = stage.scene.cell.user == User::Root || !getuid().is_root();
        for pid in [piped, paired] {
            let owner = &of_pid(&report, "owned", pid)["owner"];
            if sees {
                assert_eq!(owner["code"], "holder", "{owner:#}");
                assert_eq!(owner["pid"], std::process::id());
            } else {
                assert_eq!(owner["code"], "unseen_holder", "{owner:#}");
            }
        }
        assert_eq!(of_pid(&report, "owned", under)["owner"]["code"], "hostler");

        let report = stage.json(&["--fix", "--yes"]);
        let fixed = &report["fixed"]["trees"];
        assert_eq!(fixed.as_array().map(Vec::len), Some(2), "{report:#}");
        for tree in fixed.as_array().expect("a list") {
            assert_eq!(tree["state"], "ended", "{report:#}");
            assert!(tree["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
            let stubborn = tree["pid"] == leaked;
            let hows: Vec<&Value> = tree["processes"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|one| &one["how"])
                .collect();
            assert_eq!(
                hows.iter().any(|how| **how == "killed"),
                stubborn,
                "{report:#}"
            );
        }
        assert!(!lives(leaked) && !lives(server));
        for pid in [piped, paired, under] {
            assert!(lives(pid), "{report:#}");
        }
        for (pid, log) in &lookalikes {
            assert!(lives(*pid));
            assert_eq!(log.all(), [""; 0], "a lookalike was signalled");
        }
        assert_eq!(pids(&stage.json(&[]), "leaked"), [0; 0]);
    }
}

#[test]
fn one_that_only_a_leaked_one_holds_is_leaked_too() {
    let stage = Stage::new(Cell::plain());
    let agent = stage.script("codex-acp", WILLING);
    // Both hold both ends of each other's pipes, as when a host lets them be inherited.
    let (input, output, (writer, reader)) = held();
    let line = format!(
        "exec 3<&0 4>&1; sh {0} one <&3 >&4 & sh {0} two <&3 >&4 &",
        agent.display()
    );
    let mut shell = stage.shell(&line);
    // Their errors go to what writes their input.
    let status = shell
        .stdin(input)
        .stdout(output)
        .stderr(Stdio::from(writer))
        .status();
    assert!(status.expect("sh").success());
    drop((shell, reader));
    let (one, two) = (stage.number("one"), stage.number("two"));
    let report = stage.json(&[]);
    let mut found = pids(&report, "leaked");
    found.sort_unstable();
    let mut both = [i64::from(one), i64::from(two)];
    both.sort_unstable();
    assert_eq!(found, both, "{report:#}");
    assert!(
        codes(&of_pid(&report, "leaked", one)).contains(&"input_ended"),
        "{report:#}"
    );
}

#[test]
fn what_piles_up_under_a_living_parent_is_listed_but_not_taken_unasked() {
    let stage = Stage::new(Cell::plain());
    let server = stage.script("mcp-server-git", WILLING);
    let line = format!(
        "for n in 1 2 3 4 5 6 7 8 9; do sh {} server < /dev/null & done; wait",
        server.display()
    );
    let _host = stage.scene.start(&mut stage.shell(&line));
    stage
        .scene
        .ready
        .wait_for("nine", SOON, |lines| lines.len() == 9);
    let report = stage.json(&["--fix", "--yes"]);
    let leaked = report["leaked"].as_array().expect("a list");
    assert_eq!(leaked.len(), 9, "{report:#}");
    for one in leaked {
        assert_eq!(codes(one), ["piled_up", "quiet"]);
        assert_eq!(one["certainty"], "possible");
        assert!(lives(one["pid"].as_i64().expect("a pid") as i32));
    }
    assert_eq!(report["fixed"]["trees"], serde_json::json!([]));
}

#[test]
fn background_work_of_an_agent_is_possible_at_most() {
    let stage = Stage::new(Cell::plain());
    let line = "export CLAUDECODE=1; sh -c 'echo work $$ >> \"$MISBEHAVE_READY\"; exec sleep 1000' > /dev/null &";
    let work = stage.leave(line, "work", Stdio::null(), Stdio::null());
    let report = stage.json(&["--fix", "--yes"]);
    let one = of_pid(&report, "leaked", work);
    assert_eq!(
        (&one["kind"], &one["certainty"]),
        (&"work".into(), &"possible".into()),
        "{one:#}"
    );
    assert!(codes(&one).contains(&"hint"));
    assert!(lives(work));
}

#[test]
fn a_browser_for_one_run_is_leaked_when_its_driver_is_gone() {
    let stage = Stage::new(Cell::plain());
    let line = "exec 3<&0; bash -c 'exec -a chrome \"$MISBEHAVE\" signals /dev/null --headless --remote-debugging-pipe' \
                < /dev/null & echo browser $! >> \"$MISBEHAVE_READY\"";
    let start = |input: Stdio| {
        let mut command = stage.shell(line);
        command.env("MISBEHAVE", stage.scene.kit.misbehave());
        let before = stage.scene.ready.count("browser");
        let status = command
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("sh").success());
        stage.scene.ready.wait_for("it is told", SOON, |lines| {
            lines
                .iter()
                .filter(|line| line.starts_with("browser"))
                .count()
                > before
        });
        let all = stage.scene.ready.all();
        let mut pids = all
            .iter()
            .filter_map(|line| line.strip_prefix("browser ")?.parse::<i32>().ok());
        let pid = pids.next_back().expect("a pid");
        wait_until("it stands", SOON, || {
            Found::read(pid).is_some_and(|found| found.command_line().starts_with("chrome signals"))
        });
        pid
    };
    let (input, _writer) = pipe().expect("a pipe");
    let driven = start(input.into());
    let (input, writer) = pipe().expect("a pipe");
    let loose = start(input.into());
    drop(writer);
    let report = stage.json(&["--all"]);
    assert_eq!(of_pid(&report, "owned", driven)["owner"]["code"], "holder");
    let one = of_pid(&report, "leaked", loose);
    assert_eq!(
        (&one["kind"], &one["certainty"]),
        (&"browser".into(), &"likely".into()),
        "{one:#}"
    );
    let reasons = codes(&one);
    assert!(
        reasons.contains(&"driver_gone") && reasons.contains(&"for_one_run"),
        "{one:#}"
    );
}

#[test]
fn a_server_with_a_client_is_left_alone() {
    if !Path::new("/usr/bin/tmux").exists() {
        eprintln!("skipped: there is no tmux");
        return;
    }
    let stage = Stage::new(Cell::plain());
    let socket = stage.scene.path("tmux");
    let line = format!("tmux -S {} new-session -d 'sleep 1000'", socket.display());
    assert!(stage.shell(&line).status().expect("sh").success());
    let report = stage.json(&[]);
    let leaked = report["leaked"].as_array().expect("a list");
    assert_eq!(leaked.len(), 1, "{report:#}");
    assert_eq!(
        (&leaked[0]["kind"], &leaked[0]["certainty"]),
        (&"multiplexer".into(), &"possible".into())
    );
    let pty = Pty::new();
    let mut attach = stage.shell(&format!("TERM=xterm tmux -S {} attach", socket.display()));
    let path = stage.scene.path("attached");
    let _client = stage
        .scene
        .start_as_is(pty.connect(&mut attach), path.clone(), path);
    pty.expect("[");
    let report = stage.json(&["--all"]);
    assert_eq!(report["leaked"], serde_json::json!([]), "{report:#}");
    assert!(
        !report["owned"].as_array().expect("a list").is_empty(),
        "{report:#}"
    );
}

#[test]
fn what_a_killed_hostler_left_is_found() {
    let cell = Cell {
        contain: Contain::Cgroup,
        ..Cell::plain()
    };
    if !Cell::all().contains(&cell) {
        return;
    }
    let stage = Stage::new(cell);
    let script =
        "(setsid sh -c 'echo left $$ >> \"$MISBEHAVE_READY\"; exec sleep 1000' &); sleep 1000";
    let mut command = stage.scene.run(&[], ["sh", "-c", script]);
    let front = stage.scene.start(&mut command);
    let left = stage.number("left");
    let report = stage.json(&["--all"]);
    assert_eq!(
        pids(&report, "leaked"),
        [0; 0],
        "its hostler lives: {report:#}"
    );
    assert_eq!(report["leftovers"], serde_json::json!([]), "{report:#}");
    let (zygote, keeper) = (front.zygote(), front.keeper());
    // Nobody of them may see another's end. The front's comes last: it orphans the keeper's group, which wakes who is stopped.
    for signal in [Signal::STOP, Signal::KILL] {
        keeper.signal(signal);
        zygote.signal(signal);
        front.signal(signal);
    }
    drop(front);
    wait_until("they are gone", SOON, || {
        !zygote.still_lives() && !keeper.still_lives()
    });
    let report = stage.json(&["--fix", "--yes"]);
    let one = of_pid(&report, "leaked", left);
    assert_eq!(
        (&one["kind"], &one["certainty"]),
        (&"survivor".into(), &"likely".into()),
        "{one:#}"
    );
    assert!(!lives(left), "{report:#}");
    let report = stage.json(&["--fix", "--yes"]);
    assert_eq!(report["leftovers"][0]["what"], "cgroup", "{report:#}");
    assert_eq!(
        report["fixed"]["leftovers"][0]["removed"], true,
        "{report:#}"
    );
    stage.scene.await_no_groups();
}

#[test]
fn the_mechanism_is_told() {
    for stage in Stage::each() {
        let report = stage.json(&[]);
        let ways = report["mechanism"]["ways"].as_array().expect("a list");
        let names: Vec<&str> = ways.iter().filter_map(|way| way["name"].as_str()).collect();
        assert_eq!(names, ["tree", "cgroup", "pidns"]);
        for way in ways {
            assert_eq!(
                way["available"] == true,
                way["because"].is_null(),
                "{way:#}"
            );
        }
        assert_eq!(report["host"]["running"], false);
        let text = stage.say(&[]);
        assert_eq!(text.code, 0);
        assert!(
            text.out.contains("in force") && !text.out.contains('\x1b'),
            "{}",
            text.out
        );
    }
}
