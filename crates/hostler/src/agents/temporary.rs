//! A host of one command's own, on a temporary state directory. It is gone with the command, however that ends.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long a host may take to start.
const START: Duration = Duration::from_secs(30);

/// `hostler run` sees to it that the host is ended when this process is; the shell, that its directory goes after it, for which it is
/// not terminated with the rest.
const SCRIPT: &str = r#"
"$0" serve --state-dir "$1" --listen none &
trap 'kill $!' TERM INT HUP
while kill -0 $! 2>/dev/null; do wait $!; done
trap '' TERM INT HUP
rm -rf "$1"
"#;

/// The host.
#[derive(Debug)]
pub(crate) struct Temporary {
    child: Child,
    program: PathBuf,
    dir: PathBuf,
}

impl Temporary {
    /// Starts one whose processes get this environment, and nothing else.
    pub(crate) fn start(env: &BTreeMap<String, String>) -> Result<Self, String> {
        let program = std::env::current_exe()
            .map_err(|error| format!("cannot find this program's file: {error}"))?;
        let dir = directory().map_err(|error| format!("cannot make a directory: {error}"))?;
        let names: Vec<&str> = env.keys().map(String::as_str).collect();
        let mut child = Command::new(&program)
            .args(["run", "--grace", "10s", "--", "sh", "-c", SCRIPT])
            .arg(&program)
            .arg(&dir)
            .env_clear()
            .envs(env)
            .env("HOSTLER_CONFIG", "/dev/null")
            .env("HOSTLER_ENV", names.join(","))
            .env("HOSTLER_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a host: {error}"))?;
        let said = child.stderr.take();
        let host = Self {
            child,
            program,
            dir,
        };
        let (tell, told) = channel();
        std::thread::spawn(move || {
            let lines = said
                .into_iter()
                .flat_map(|said| BufReader::new(said).lines());
            for line in lines.map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut last = String::new();
        loop {
            match told.recv_timeout(START) {
                Ok(line) if line.contains("listening on") => return Ok(host),
                Ok(line) => last = line,
                Err(RecvTimeoutError::Timeout) => return Err("the host does not start".into()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the host does not start: {last}"));
                }
            }
        }
    }

    /// Its state directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A client command of this host's.
    pub(crate) fn command<S: AsRef<std::ffi::OsStr>>(
        &self,
        words: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).env("HOSTLER_STATE_DIR", &self.dir);
        command
    }

    /// What a client command prints. Where it fails, what it says.
    pub(crate) fn output(&self, words: &[&str]) -> Result<String, String> {
        let output = self.command(words).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("cannot run hostler: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let said = said.trim().trim_start_matches("hostler: ");
            return Err(format!("`hostler {}`: {said}", words.join(" ")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Result<Value, String> {
        let text = self.output(words)?;
        serde_json::from_str(&text)
            .map_err(|error| format!("`hostler {}`: {error}", words.join(" ")))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
        // Gone already, unless the shell was killed.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A new directory that is this user's alone.
fn directory() -> std::io::Result<PathBuf> {
    let mut bytes = [0; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let dir = std::env::temp_dir().join(format!("hostler-{hex}"));
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}
