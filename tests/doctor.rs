//! `hostler doctor`, from outside: what it lists of fake agents, why, and what `--fix` ends.
//!
//! It is told to look only at what carries the scene's mark, so that nothing else on the machine is listed or touched.

#[path = "support/mod.rs"]
#[allow(dead_code, unused_imports)]
mod support;

use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, getuid};
use serde_json::Value;
use support::{Cell, Contain, Found, Front, Lines, Outcome, Pty, SOON, Scene, User, wait_until};

/// An agent that has a child and heeds neither the end of its input nor SIGTERM.
const STUBBORN: &str =
    "trap '' TERM; echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; while :; do sleep 1000; done";
/// One that ends when it is told to.
const WILLING: &str = "echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; while :; do sleep 1000; done";
/// How long a fix may take: the grace of 5 s, and looking.
const FIXED: Duration = Duration::from_secs(12);

/// A scene and what is peculiar to these tests.
struct Stage {
    scene: Scene,
}

impl Stage {
    fn new(cell: Cell) -> Self {
        Self {
            scene: Scene::new(cell),
        }
    }

    /// Whether as root, and as an ordinary user where that can be had.
    fn each() -> Vec<Self> {
        let ordinary = Cell {
            user: User::Ordinary,
            contain: Contain::Tree,
        };
        let mut cells = vec![Cell::plain()];
        if Cell::plain() != ordinary {
            cells.push(ordinary);
        }
        cells.into_iter().map(Self::new).collect()
    }

    /// A script of that name.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scene.path(name);
        fs::write(&path, text).expect("write");
        path
    }

    /// `line` of a shell: as the scene's, and scrubbed of agents' marks.
    fn shell(&self, line: &str) -> Command {
        let mut command = self.scene.wrapped(["sh", "-c", line]);
        for hint in [
            "CLAUDECODE",
            "GEMINI_CLI",
            "OPENCODE",
            "HOSTLER_SESSION",
            "CODEX_SANDBOX",
        ] {
            command.env_remove(hint);
        }
        command
    }

    /// Runs a script under `sh`, orphaned, with these streams, and gives its pid. It says `word` on the ready file.
    fn orphan(&self, script: &Path, word: &str, input: Stdio, output: Stdio) -> i32 {
        let line = format!("exec 3<&0; sh {} {word} <&3 3<&- &", script.display());
        self.leave(&line, word, input, output)
    }

    /// The same, with pipes of its own user's of which nobody holds the other ends.
    fn leaked(&self, script: &Path, word: &str) -> i32 {
        self.leaked_under("", script, word)
    }

    /// The same, started by another command.
    fn leaked_under(&self, starter: &str, script: &Path, word: &str) -> i32 {
        let line = format!(": | {starter} sh {} {word} | : &", script.display());
        self.leave(&line, word, Stdio::null(), Stdio::null())
    }

    /// Runs a line that leaves something behind which says `word`.
    fn leave(&self, line: &str, word: &str, input: Stdio, output: Stdio) -> i32 {
        let mut command = self.shell(line);
        let status = command
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null())
            .status();
        assert!(status.expect("sh").success());
        self.number(word)
    }

    fn number(&self, word: &str) -> i32 {
        let stands = |lines: &[String]| {
            lines
                .iter()
                .any(|line| line.starts_with(&format!("{word} ")))
        };
        self.scene.ready.wait_for(word, SOON, stands);
        self.scene.ready.number(&format!("{word} ")).expect("a pid")
    }

    fn doctor(&self, options: &[&str]) -> Command {
        let mut words = vec![self.scene.kit.hostler().into_os_string(), "doctor".into()];
        words.extend(options.iter().map(Into::into));
        let mut command = self.scene.wrapped(words);
        command.env("HOSTLER_DOCTOR_ONLY_MARK", &self.scene.mark);
        command.env("HOSTLER_STATE_DIR", self.scene.path("state"));
        command
    }

    fn say(&self, options: &[&str]) -> Outcome {
        self.scene.outcome(&mut self.doctor(options))
    }

    fn json(&self, options: &[&str]) -> Value {
        let outcome = self.say(&[&["--json"], options].concat());
        assert_eq!(outcome.code, 0, "{outcome:?}");
        serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    }

    /// A process that looks like `line` and writes down each signal.
    fn lookalike(&self, name: &str, words: &str) -> (i32, Lines) {
        let log = self.scene.lines(&format!("log-{name}"));
        let line = format!(
            "(bash -c 'exec -a {name} \"$MISBEHAVE\" signals \"$LOG\" {words}' & echo {name} $! >> \"$MISBEHAVE_READY\")"
        );
        let mut command = self.shell(&line);
        command
            .env("LOG", log.path())
            .env("MISBEHAVE", self.scene.kit.misbehave());
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.expect("sh").success());
        let pid = self.number(name);
        wait_until("it stands", SOON, || {
            Found::read(pid)
                .is_some_and(|found| found.command_line().starts_with(&format!("{name} signals")))
        });
        (pid, log)
    }
}

/// Pipes with the ends that a client holds.
fn held() -> (Stdio, Stdio, (PipeWriter, PipeReader)) {
    let ((input, writer), (reader, output)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
    (input.into(), output.into(), (writer, reader))
}

fn pids(report: &Value, list: &str) -> Vec<i64> {
    let list = report[list].as_array().expect("a list");
    list.iter()
        .map(|one| one["pid"].as_i64().expect("a pid"))
        .collect()
}

fn of_pid(report: &Value, list: &str, pid: i32) -> Value {
    let list = report[list].as_array().expect("a list");
    let found = list.iter().find(|one| one["pid"] == pid);
    found
        .unwrap_or_else(|| panic!("{pid} is not in {report:#}"))
        .clone()
}

fn codes(one: &Value) -> Vec<&str> {
    let reasons = one["reasons"].as_array().expect("reasons");
    reasons
        .iter()
        .map(|reason| reason["code"].as_str().expect("text"))
        .collect()
}

fn lives(pid: i32) -> bool {
    Found::read(pid).is_some_and(|found| found.lives())
}

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
fn without_a_terminal_it_does_not_choose() {
    let stage = Stage::new(Cell::plain());
    let agent = stage.script("codex-acp", WILLING);
    let leaked = stage.leaked(&agent, "leaked");
    for options in [&["--fix"][..], &["--fix", "--json"], &["--yes"]] {
        let outcome = stage.say(options);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{outcome:?}");
        assert_eq!(outcome.err.lines().count(), 1, "{outcome:?}");
    }
    assert!(lives(leaked));
}

#[test]
fn at_a_terminal_it_asks() {
    let stage = Stage::new(Cell::plain());
    let agent = stage.script("codex-acp", WILLING);
    let start = |word: &str| stage.leaked(&agent, word);
    let pids = [start("first"), start("second"), start("third")];
    let ask = |answers: &[&str]| {
        let pty = Pty::new();
        pty.resize(50, 200);
        let mut command = stage.doctor(&["--fix"]);
        let path = stage.scene.path("terminal");
        let mut front = stage
            .scene
            .start_as_is(pty.connect(&mut command), path.clone(), path);
        let mut seen = String::new();
        for answer in answers {
            seen += &pty.expect("End which?");
            pty.input(answer);
        }
        let status = front.wait(FIXED);
        assert!(status.success(), "{seen}{}", pty.screen());
        seen + &pty.screen()
    };
    let seen = ask(&["\n"]);
    assert!(seen.contains("nobody can write to its input"), "{seen}");
    assert!(
        pids.iter().all(|pid| lives(*pid)),
        "an empty answer ends none"
    );
    let seen = ask(&["4\n", "1,3-3\n"]);
    assert!(
        seen.contains("`4` is none of the numbers 1 to 3") && seen.contains("freed"),
        "{seen}"
    );
    assert_eq!(pids.map(lives), [false, true, false], "{seen}");
    let seen = ask(&["all\n"]);
    assert!(!lives(pids[1]), "{seen}");
}

#[test]
fn at_a_terminal_what_may_be_meant_to_run_is_asked_about_twice() {
    let stage = Stage::new(Cell::plain());
    let line = "export CLAUDECODE=1; sh -c 'echo work $$ >> \"$MISBEHAVE_READY\"; exec sleep 1000' > /dev/null &";
    let work = stage.leave(line, "work", Stdio::null(), Stdio::null());
    for (answer, ended) in [("\n", false), ("y\n", false), ("yes\n", true)] {
        let pty = Pty::new();
        pty.resize(50, 200);
        let mut command = stage.doctor(&["--fix"]);
        let path = stage.scene.path("terminal");
        let mut front = stage
            .scene
            .start_as_is(pty.connect(&mut command), path.clone(), path);
        pty.expect("End which?");
        pty.input("all\n");
        pty.expect("may be meant to run");
        pty.input(answer);
        assert!(front.wait(FIXED).success(), "{}", pty.screen());
        assert_eq!(lives(work), !ended, "{answer:?}: {}", pty.screen());
    }
}

#[test]
fn one_on_a_recycled_pid_is_not_touched() {
    if !getuid().is_root() {
        eprintln!("skipped: ns_last_pid needs root");
        return;
    }
    // Before it is opened, and after.
    for (hook, state) in [("doctor.chosen", "another"), ("doctor.opened", "gone")] {
        // Somebody else on the machine may have got the pid first; then another is tried.
        assert!(
            (0..20).any(|_| is_spared(hook, state)),
            "no pid could be had again"
        );
    }
}

/// Whether the pid could be had again at all.
fn is_spared(hook: &str, state: &str) -> bool {
    let stage = Stage::new(Cell::plain());
    let scene = &stage.scene;
    let agent = stage.script(
        "codex-acp",
        "echo \"$1 $$\" >> \"$MISBEHAVE_READY\"; read x < \"$MISBEHAVE_GO\"",
    );
    let leaked = stage.leaked(&agent, "leaked");
    let found = Found::read(leaked).expect("it stands");
    let hooks = scene.path("hooks");
    let listener = UnixListener::bind(&hooks).expect("a socket");
    let mut command = stage.doctor(&["--fix", "--yes", "--json"]);
    let front = scene.start(command.env("HOSTLER_TEST_HOOKS", &hooks));
    let mut recycled = None;
    for stream in listener.incoming() {
        let stream = stream.expect("a connection");
        let mut line = String::new();
        BufReader::new(&stream)
            .read_line(&mut line)
            .expect("a name");
        if line.starts_with(hook) {
            found.signal(Signal::KILL);
            wait_until("it is gone", SOON, || {
                Found::read(leaked).is_none_or(|now| now.start != found.start)
            });
            // Not marked in a way that doctor would look for: its name is no agent's.
            let others = scene.misbehave_words(&["recycle", &leaked.to_string()]);
            recycled = Some(scene.start(&mut scene.wrapped(others)));
            scene
                .ready
                .wait_for("the pid is taken again", SOON, |lines| {
                    lines.iter().any(|line| line.contains("recycled"))
                });
            break;
        }
    }
    drop(listener);
    let outcome = front.outcome();
    let again = scene.ready.count("recycled") == 1;
    if again {
        let report: Value = serde_json::from_str(&outcome.out)
            .unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        assert_eq!(report["fixed"]["trees"][0]["state"], state, "{report:#}");
        assert!(
            lives(leaked),
            "the bystander on the recycled pid {leaked} is gone"
        );
    }
    drop(recycled);
    again
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
