//! A host for one editor, where none is running.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hostler_gateway::access::Token;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{sleep, timeout};

use super::super::error::{Failure, Result};
use super::super::host::{Host, PAUSE};

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// How long it may take to close everything.
const END: Duration = Duration::from_secs(90);

/// A host of this process's own. It ends when this process does, however that is: it lives as long as its standard input.
#[derive(Debug)]
pub(super) struct Private {
    child: Child,
    /// Apart from the child, which would close it when it is waited for.
    lives: Option<ChildStdin>,
    state_dir: PathBuf,
}

impl Private {
    /// Starts one on a temporary state directory.
    pub(super) async fn start() -> Result<Self> {
        let failed = |error| Failure::io("start a private host", error);
        let random = Token::random().map_err(failed)?;
        let name = format!("hostler-acp-{}", &random.reveal()[..16]);
        let state_dir = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).create(&state_dir).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        // A file, for a host that outlives this process may still have something to say, and nobody to say it to.
        let path = state_dir.join("host.log");
        let log = std::fs::File::create_new(&path).map_err(failed)?;
        let mut child = Command::new(program)
            .args(["serve", "--private", "--listen", "none", "--state-dir"])
            .arg(&state_dir)
            .env_remove("HOSTLER_SOCKETS")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            // A signal of the terminal is for this process, which closes first.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut private = Self {
            lives: child.stdin.take(),
            child,
            state_dir,
        };
        if timeout(START, private.ready()).await.unwrap_or(false) {
            return Ok(private);
        }
        let said = std::fs::read_to_string(&path).unwrap_or_default();
        let why = said.lines().last().unwrap_or("it does not say why");
        let why = why.trim_start_matches("hostler: ").to_owned();
        let _ = private.child.start_kill();
        private.end().await;
        Err(Failure::Unclear(format!(
            "a private host did not start: {why}"
        )))
    }

    /// Waits until it answers; `false` if it has ended.
    async fn ready(&mut self) -> bool {
        loop {
            let host = Host::find(Some(&self.state_dir));
            let answers = match host {
                Ok(mut host) => host.get("/healthz").await.is_ok(),
                Err(_) => false,
            };
            if answers {
                return true;
            }
            tokio::select! {
                _ = self.child.wait() => return false,
                () = sleep(PAUSE) => {}
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Ends it, with all that it holds.
    pub(super) async fn end(mut self) {
        drop(self.lives.take());
        if timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
        let _ = std::fs::remove_dir_all(&self.state_dir);
    }
}
