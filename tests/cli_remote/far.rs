//! A host that is reached over TCP only, and the network before it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::Signal;
use serde_json::Value;

use crate::children::{signal, text};
use crate::support::{Pty, SOON, wait_until};

/// A host; it ends with this.
pub(crate) struct Far {
    pub(crate) dir: tempfile::TempDir,
    host: Child,
    address: SocketAddr,
    pub(crate) token: String,
    pub(crate) net: Net,
}

/// What is between clients and the host.
pub(crate) struct Net {
    pub(crate) address: SocketAddr,
    open: Arc<Mutex<Vec<(TcpStream, TcpStream)>>>,
}

impl Net {
    fn new(host: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let open: Arc<Mutex<Vec<(TcpStream, TcpStream)>>> = Arc::default();
        let all = open.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                // A host that is not there hangs up.
                let Ok(far) = TcpStream::connect(host) else {
                    continue;
                };
                let clone = |stream: &TcpStream| stream.try_clone().expect("dup");
                all.lock().expect("whole").push((clone(&near), clone(&far)));
                for (from, to) in [(clone(&near), clone(&far)), (far, near)] {
                    std::thread::spawn(move || copy(from, to));
                }
            }
        });
        Self { address, open }
    }

    /// Cuts every connection that there is; says how many.
    pub(crate) fn cut(&self) -> usize {
        let open = std::mem::take(&mut *self.open.lock().expect("whole"));
        // The ends at the clients, as they are: what has ended before is none.
        let cut = open.into_iter().filter(|(near, far)| {
            let lived = near.shutdown(Shutdown::Both).is_ok();
            let _ = far.shutdown(Shutdown::Both);
            lived
        });
        cut.count()
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut block = [0; 1 << 16];
    loop {
        match from.read(&mut block) {
            Ok(length @ 1..) if to.write_all(&block[..length]).is_ok() => {}
            _ => break,
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Far {
    /// A host that answers.
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    /// The same with a configuration, in which `DIR` stands for its directory.
    pub(crate) fn with_config(config: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_str().expect("text");
        std::fs::write(dir.path().join("config.toml"), config.replace("DIR", path))
            .expect("written");
        let host = serve(&dir, "127.0.0.1:0", &[]);
        let mut line = String::new();
        wait_until("the host says where it is", SOON, || {
            line = std::fs::read_to_string(dir.path().join("host.out")).expect("its output");
            line.contains("token=") && line.ends_with('\n')
        });
        let url = line.split("http://").nth(1).expect("a URL").trim();
        let (address, token) = url.split_once("/?token=").expect("a token");
        let address = address.parse().expect("an address");
        let far = Self {
            host,
            address,
            token: token.to_owned(),
            net: Net::new(address),
            dir,
        };
        wait_until("the host answers", SOON, || {
            UnixStream::connect(far.state().join("host.sock")).is_ok()
        });
        far
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Has another host take over, and waits until the earlier one is gone.
    pub(crate) fn take_over(&mut self) {
        let next = serve(&self.dir, &self.address.to_string(), &["--takeover"]);
        let mut earlier = std::mem::replace(&mut self.host, next);
        wait_until("the earlier host is gone", SOON, || {
            earlier.try_wait().expect("wait").is_some()
        });
    }

    /// A client command elsewhere: it knows of the host by URL and token only.
    pub(crate) fn hostler(&self, words: &[&str]) -> Command {
        let mut command = self.bare(words);
        command
            .env("HOSTLER_HOST", format!("ws://{}", self.net.address))
            .env("HOSTLER_TOKEN", &self.token);
        command
    }

    /// One that knows of no host.
    pub(crate) fn bare(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
        command
            .args(words)
            .env("HOSTLER_STATE_DIR", "/nonexistent")
            .env_remove("HOSTLER_HOST")
            .env_remove("HOSTLER_TOKEN")
            .env("TERM", "xterm")
            .stdin(Stdio::null());
        command
    }

    /// A client command beside the host.
    pub(crate) fn beside(&self, words: &[&str]) -> Output {
        let mut command = self.bare(words);
        command.env("HOSTLER_STATE_DIR", self.state());
        command.output().expect("hostler")
    }

    /// What comes of one elsewhere.
    pub(crate) fn run(&self, words: &[&str]) -> Output {
        self.hostler(words).output().expect("hostler")
    }

    /// The output of one that succeeds, without the last newline.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        good(words, &self.run(words))
    }

    /// The same beside the host.
    pub(crate) fn ok_beside(&self, words: &[&str]) -> String {
        good(words, &self.beside(words))
    }

    /// JSON of one that succeeds.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.ok(words)).expect("json")
    }

    /// The status and the line of one that fails.
    pub(crate) fn fails(&self, words: &[&str]) -> (Option<i32>, String) {
        failed(&mut self.hostler(words))
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
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let child = pty.connect(&mut command).spawn().expect("setsid");
        (pty, child)
    }
}

fn good(words: &[&str], output: &Output) -> String {
    assert!(output.status.success(), "{words:?}: {output:?}");
    text(&output.stdout).trim_end_matches('\n').to_owned()
}

/// The status and the line of a command that fails.
pub(crate) fn failed(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().expect("hostler");
    assert!(!output.status.success(), "{command:?}: {output:?}");
    let line = text(&output.stderr);
    assert_eq!(line.lines().count(), 1, "one line: {line:?}");
    (output.status.code(), line)
}

impl Drop for Far {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let told = std::fs::read_to_string(self.dir.path().join("host.out"));
            let log = self.beside(&["log"]);
            eprintln!(
                "the host: {}\n{}",
                told.unwrap_or_default(),
                text(&log.stdout)
            );
        }
        signal(&self.host, Signal::TERM);
        let _ = self.host.wait();
    }
}

fn serve(dir: &tempfile::TempDir, listen: &str, more: &[&str]) -> Child {
    let file = |name: &str| {
        let mut options = std::fs::OpenOptions::new();
        let open = options.create(true).append(true);
        open.open(dir.path().join(name)).expect("a file")
    };
    Command::new(env!("CARGO_BIN_EXE_hostler"))
        .args(["serve", "--listen", listen, "--state-dir"])
        .arg(dir.path().join("state"))
        .arg("--config")
        .arg(dir.path().join("config.toml"))
        .args(more)
        .env("SHELL", "/bin/sh")
        .env("PS1", "$ ")
        .env_remove("HOSTLER_HOST")
        .stdin(Stdio::null())
        .stdout(file("host.out"))
        .stderr(file("host.out"))
        .spawn()
        .expect("a host")
}
