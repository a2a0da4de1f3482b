//! A host for one editor, where none is running.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use std::os::unix::fs::DirBuilderExt;

use hostler_gateway::access::Token;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::super::error::{Failure, Result};

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// How long it may take to close everything.
const END: Duration = Duration::from_secs(90);

/// A host of this process's own. It ends when this process does, however that is: it lives as long as its standard input.
#[derive(Debug)]
pub(super) struct Private {
    child: Child,
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
        let mut child = Command::new(program)
            .args(["serve", "--private", "--listen", "none", "--state-dir"])
            .arg(&state_dir)
            .env_remove("HOSTLER_SOCKETS")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A signal of the terminal is for this process, which closes first.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let stderr = child.stderr.take();
        let mut lines = stderr.map(|stderr| BufReader::new(stderr).lines());
        let mut last = String::new();
        let ready = timeout(START, async {
            while let Some(Ok(Some(line))) = match &mut lines {
                Some(lines) => Some(lines.next_line().await),
                None => None,
            } {
                if line.starts_with("hostler: listening on ") {
                    return true;
                }
                last = line;
            }
            false
        });
        if !ready.await.unwrap_or(false) {
            let _ = child.start_kill();
            let _ = child.wait().await;
            let _ = std::fs::remove_dir_all(&state_dir);
            let why = last.trim_start_matches("hostler: ");
            return Err(Failure::Unclear(format!(
                "a private host did not start: {why}"
            )));
        }
        // What it logs from here on is of no use to an editor, but has to be taken.
        tokio::spawn(async move {
            if let Some(mut lines) = lines {
                while let Ok(Some(_)) = lines.next_line().await {}
            }
        });
        Ok(Self { child, state_dir })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id().unwrap_or(0)
    }

    pub(super) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Ends it, with all that it holds.
    pub(super) async fn end(mut self) {
        drop(self.child.stdin.take());
        if timeout(END, self.child.wait()).await.is_err() {
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
        let _ = std::fs::remove_dir_all(&self.state_dir);
    }
}
