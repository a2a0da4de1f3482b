//! `hostler agents` and `hostler demo`: what they say, and that nothing of them is left, whatever becomes of them.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Found, find};

/// A mark, a place for temporary files, and a configuration.
struct Stand {
    mark: String,
    dir: tempfile::TempDir,
}

impl Stand {
    fn new(config: &str) -> Self {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("tmp")).expect("made");
        std::fs::write(dir.path().join("config.toml"), config).expect("written");
        let mark = format!("mark-{:032x}", u128::from_le_bytes(random));
        Self { mark, dir }
    }

    fn tmp(&self) -> std::path::PathBuf {
        self.dir.path().join("tmp")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
        command
            .args(words)
            .env("HOSTLER_TEST_MARK", &self.mark)
            .env("HOSTLER_ENV", "PATH,HOME,HOSTLER_TEST_*,TMPDIR")
            .env("HOSTLER_CONFIG", self.dir.path().join("config.toml"))
            .env("TMPDIR", self.tmp())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("it runs")
    }

    fn living(&self) -> Vec<Found> {
        find(&self.mark).into_iter().filter(Found::lives).collect()
    }

    /// Nothing is left: no process, no file.
    fn is_clean(&self) {
        let start = Instant::now();
        let files = || std::fs::read_dir(self.tmp()).expect("list").count();
        while !self.living().is_empty() || files() > 0 {
            assert!(
                start.elapsed() < Duration::from_secs(40),
                "left: {:?}, {} files",
                self.living(),
                files()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn agents_are_listed_with_where_they_are_found() {
    let stand =
        Stand::new("[agents.mine]\ncommand = ['sh', '-x']\n[agents.none]\ncommand = ['/no/such']");
    let output = stand.run(&["agents", "ls", "--json"]);
    assert!(output.status.success(), "{}", said(&output));
    let all = json(&output);
    let of = |name: &str| {
        let list = all.as_array().expect("a list");
        list.iter()
            .find(|one| one["name"] == name)
            .expect(name)
            .clone()
    };
    assert!(
        of("mine")["found"]
            .as_str()
            .expect("found")
            .ends_with("/sh")
    );
    assert_eq!(of("none")["found"], Value::Null);
    assert_eq!(of("shell")["default"], true);
    let shell = of("shell");
    assert!(Path::new(shell["command"][0].as_str().expect("a path")).is_file());
    for name in ["claude", "codex", "gemini", "goose", "opencode"] {
        assert!(of(name)["command"][0].is_string());
    }
    let lines = String::from_utf8_lossy(&stand.run(&["agents", "ls"]).stdout).into_owned();
    assert!(
        lines.contains("shell *") && lines.contains("sh -x"),
        "{lines}"
    );
}

#[test]
fn a_check_says_what_an_agent_needs_and_leaves() {
    let stand = Stand::new("");
    let output = stand.run(&["agents", "check", "shell", "--json"]);
    let found = json(&output);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        (&found["ok"], &found["remaining"]),
        (&true.into(), &0.into())
    );
    assert_eq!(found["agent"]["name"], "hostler-shell");
    assert_eq!(found["processes"], 1);
    assert!(found["rss"].as_u64().expect("memory") > 0);
    for step in ["initialize", "session/new", "session/close", "close"] {
        assert!(found["ms"][step].as_f64().expect(step) > 0.0);
    }
    stand.is_clean();
    let output = stand.run(&["agents", "check", "shell"]);
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(lines.contains("survivors     none"), "{lines}");
    stand.is_clean();
}

#[test]
fn a_check_that_fails_says_why_in_one_line_and_leaves_nothing() {
    let stand = Stand::new(
        "[agents.none]\ncommand = ['no-such-program']\n\
         [agents.ends]\ncommand = ['sh', '-c', 'echo this is why >&2; setsid sleep 1000 & exit 3']\n\
         [agents.mute]\ncommand = ['sh', '-c', 'setsid sleep 1000 & sleep 1000']\nhandshake_timeout = '1s'\n\
         [agents.says-no]\ncommand = ['sh', '-c', 'read line; echo \"{\\\"id\\\":1,\\\"error\\\":{\\\"code\\\":-32000,\\\"message\\\":\\\"log in\\\"}}\"; sleep 1000']\n",
    );
    for (name, parts) in [
        ("nobody", ["there is no agent", "shell"]),
        ("none", ["no-such-program", "not found"]),
        ("ends", ["code 3", "this is why"]),
        ("mute", ["no answer to initialize", "1 s"]),
        ("says-no", ["authenticated", "log in"]),
    ] {
        let output = stand.run(&["agents", "check", name]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        let said = said(&output);
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in parts {
            assert!(said.contains(part), "{part} in {said}");
        }
        stand.is_clean();
    }
}

#[test]
fn the_demo_shows_what_escapes_and_that_nothing_is_left() {
    let stand = Stand::new("");
    let output = stand.run(&["demo"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", said(&output));
    for part in [
        "sleep 1000",
        "sleep 2000",
        "the command is over",
        "remaining: 0",
        "none are left",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    stand.is_clean();
}

#[test]
fn a_demo_that_is_killed_leaves_nothing() {
    let stand = Stand::new("");
    let mut demo = stand
        .command(&["demo"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let out = BufReader::new(demo.stdout.take().expect("a pipe"));
    let begun = out
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains("the command is over"));
    assert!(begun);
    demo.kill().expect("killed");
    demo.wait().expect("waited for");
    stand.is_clean();
}
