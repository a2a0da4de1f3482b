//! A host on a state directory of its own, and its clients.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::children::{ended, signal, text};
use crate::support::{Pty, SOON, wait_until};

/// A host; it ends with this.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    host: Child,
}

impl Place {
    /// A host that answers.
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    /// One that is configured so.
    pub(crate) fn with_config(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("config.toml"), text).expect("written");
        let host = serve(&dir, &[]);
        let place = Self { dir, host };
        wait_until("the host answers", SOON, || {
            UnixStream::connect(place.state().join("host.sock")).is_ok()
        });
        place
    }

    /// With one session, by this name.
    pub(crate) fn with_session(name: &str) -> Self {
        let place = Self::new();
        place.ok(&[
            "session", "new", "--name", name, "--grace", "300ms", "--env", "PS1=$ ",
        ]);
        place
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Has another host take over, and waits until the earlier one is gone.
    pub(crate) fn take_over(&mut self) {
        let next = serve(&self.dir, &["--takeover"]);
        let mut earlier = std::mem::replace(&mut self.host, next);
        wait_until("the earlier host is gone", SOON, || {
            earlier.try_wait().expect("wait").is_some()
        });
    }

    /// Kills the host, and nothing else.
    #[allow(dead_code, reason = "not all suites do")]
    pub(crate) fn kill_host(&mut self) {
        self.host.kill().expect("kill");
        self.host.wait().expect("wait");
    }

    /// Starts another host where there is none.
    #[allow(dead_code, reason = "not all suites do")]
    pub(crate) fn start_host(&mut self) {
        self.host = serve(&self.dir, &[]);
    }

    /// Has the host stop.
    pub(crate) fn stop(&mut self) {
        signal(&self.host, Signal::TERM);
        ended(&mut self.host);
    }

    /// A client command.
    pub(crate) fn hostler(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
        command
            .args(words)
            .env("HOSTLER_STATE_DIR", self.state())
            .env("TERM", "xterm")
            .env("PS1", "$ ")
            .env("SHELL", "/bin/sh")
            .stdin(Stdio::null());
        command
    }

    /// What comes of it.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.hostler(words).output().expect("hostler")
    }

    /// What comes of it, with this to read.
    pub(crate) fn fed(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.hostler(words);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("hostler");
        let mut stdin = child.stdin.take().expect("stdin");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().expect("wait")
        })
    }

    /// The output of one that succeeds, without the last newline.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        text(&output.stdout).trim_end_matches('\n').to_owned()
    }

    /// The same as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).expect("json")
    }

    /// The status and the line of one that fails.
    pub(crate) fn fails(&self, words: &[&str]) -> (Option<i32>, String) {
        let output = self.run(words);
        assert!(!output.status.success(), "{words:?}: {output:?}");
        let line = text(&output.stderr);
        assert_eq!(line.lines().count(), 1, "one line: {line:?}");
        (output.status.code(), line)
    }

    /// One at a terminal.
    pub(crate) fn at_terminal(&self, words: &[&str]) -> (Pty, Child) {
        let pty = Pty::new();
        // With a terminal of its own, as in a window.
        let mut command = Command::new("setsid");
        let client = self.hostler(words);
        command.args(["--ctty", "--wait"]).arg(client.get_program());
        command.args(client.get_args());
        for (name, value) in client.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        let child = pty.connect(&mut command).spawn().expect("setsid");
        (pty, child)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        signal(&self.host, Signal::TERM);
        let _ = self.host.wait();
    }
}

fn serve(dir: &tempfile::TempDir, more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_hostler"))
        .args(["serve", "--listen", "none", "--state-dir"])
        .arg(dir.path().join("state"))
        .arg("--config")
        .arg(dir.path().join("config.toml"))
        .args(more)
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(dir.path().join("host.log")).expect("a file"))
        .spawn()
        .expect("a host")
}
