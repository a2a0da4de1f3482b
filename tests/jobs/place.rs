//! A place where hosts come and go, each the next of the one before.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use hostler_agent::PoolOptions;

use crate::support::*;

/// The next host of this state directory, which has recovered all.
pub(crate) async fn next(dir: &Path, mark: &str) -> Shop {
    let stage = Stage::at(dir, mark, |_| {});
    let earlier = stage.earlier.clone();
    let sessions = stage.sessions.clone();
    sessions.recover(&earlier).await.expect("recovered");
    let host = Host::on(stage, spec(&[]), options());
    host.agents.recover().await.expect("recovered");
    let shop = Shop::of(host, PoolOptions::default());
    shop.jobs.recover().await.expect("recovered");
    shop
}

/// A place where hosts come and go.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) mark: String,
}

/// A host in a process of its own.
pub(crate) struct Host1 {
    pub(crate) child: Child,
    lines: std::io::Lines<BufReader<ChildStderr>>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hostler-jobs-")
            .tempdir()
            .expect("a directory");
        let mark = format!("mark-jobs-{}-{}", std::process::id(), dir.path().display());
        Self { dir, mark }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str) {
        std::fs::write(self.file(name), "").expect("written");
    }

    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.file(name)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(crate) fn host(&self, flow: Option<&str>, more: &[&str]) -> Host1 {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args([
                "--exact",
                "death::the_host_that_dies",
                "--ignored",
                "--nocapture",
            ])
            .env("HOSTLER_TEST_HOST", self.state())
            .env("HOSTLER_TEST_MARK", &self.mark)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if let Some(flow) = flow {
            command.env("HOSTLER_TEST_FLOW", flow);
        }
        for name in more {
            command.env(name, "1");
        }
        let mut child = command.spawn().expect("a host");
        let lines = BufReader::new(child.stderr.take().expect("its output")).lines();
        Host1 { child, lines }
    }

    pub(crate) async fn next(&self) -> Shop {
        next(&self.state(), &self.mark).await
    }
}

impl Host1 {
    /// What follows this word on a line of its own.
    pub(crate) fn says(&mut self, word: &str) -> String {
        loop {
            let line = self
                .lines
                .next()
                .unwrap_or_else(|| panic!("it never said {word}"));
            let line = line.expect("a line");
            if let Some(rest) = line.strip_prefix(word) {
                return rest.trim().to_owned();
            }
        }
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }
}
