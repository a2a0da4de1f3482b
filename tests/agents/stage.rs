//! Where agents are tried: a state directory, a stand-in for their model services, hosts, and what the kernel says is left.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{Found, Host, find, wait_until};
use crate::talk::{Editor, Talk, ask};

/// Where programs leave files that they should not.
const TEMPORARY: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// An agent, as `drive.py` says that it is started.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Agent {
    command: Vec<String>,
    env: BTreeMap<String, String>,
    meta: Option<Value>,
    /// Under `npm exec`.
    pub(crate) wrapped: Option<Vec<String>>,
    /// Whether the stand-in can make it run a tool and stream.
    pub(crate) shell: bool,
    /// Whether what a tool leaves in the background outlives the tool.
    pub(crate) background: bool,
}

/// Everything that one test needs. Dropped, it ends what is left.
pub(crate) struct Stage {
    pub(crate) agents: BTreeMap<String, Agent>,
    /// Those that are set up where the user who is tried may not go.
    pub(crate) out_of_reach: Vec<String>,
    dir: tempfile::TempDir,
    mark: String,
    /// The user of host and agents, where this is root.
    uid: Option<u32>,
    stub: Option<Child>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut random = [0; 16];
        fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        let root = rustix::process::getuid().is_root();
        let mut stage = Self {
            agents: BTreeMap::new(),
            dir: tempfile::Builder::new()
                .prefix("hostler-agents-")
                .tempdir()
                .expect("a directory"),
            mark: format!("mark-{:032x}", u128::from_le_bytes(random)),
            uid: root.then(|| 60_000 + std::process::id() % 5_000),
            stub: None,
            out_of_reach: Vec::new(),
        };
        let home = stage.dir.path().join("home");
        fs::set_permissions(stage.dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/agents");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|probe| probe.local_addr());
        let port = port.expect("a port").port().to_string();
        let output = Command::new("python3")
            .arg(tests.join("drive.py"))
            .args(["config", &port])
            .arg(&home)
            .stderr(Stdio::inherit())
            .output()
            .expect("python3");
        stage.agents = serde_json::from_slice(&output.stdout).expect("the agents");
        let mut out_of_reach = Vec::new();
        stage.agents.retain(|name, agent| {
            let mut probe = Command::new(&agent.command[0]);
            probe
                .arg("--version")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let reached = stage.uid.map(|uid| probe.uid(uid).gid(uid));
            let can =
                reached.is_none_or(
                    |probe| match probe.env("PATH", &agent.env["PATH"]).spawn() {
                        Ok(mut child) => {
                            let _ = child.kill();
                            let _ = child.wait();
                            true
                        }
                        Err(_) => false,
                    },
                );
            if !can {
                println!(
                    "skipped: {name} is where user {:?} cannot run it",
                    stage.uid
                );
                out_of_reach.push(name.clone());
            }
            can
        });
        stage.out_of_reach = out_of_reach;
        if stage.agents.is_empty() {
            return stage;
        }
        let stub = Command::new("python3")
            .arg(tests.join("model-stub.py"))
            .arg(&port)
            .arg(stage.dir.path().join("stub.log"))
            // It ends with that, should this program be killed.
            .stdin(Stdio::piped())
            .spawn();
        stage.stub = Some(stub.expect("the stand-in"));
        let address = format!("127.0.0.1:{port}");
        wait_until("the stand-in answers", || {
            std::net::TcpStream::connect(&address).is_ok()
        });
        fs::write(stage.dir.path().join("config.toml"), stage.config()).expect("the configuration");
        if let Some(uid) = stage.uid {
            give(stage.dir.path(), uid);
        }
        stage
    }

    /// The host's configuration.
    fn config(&self) -> String {
        let mut config = String::from(
            "[policy]\ngrace = \"1s\"\non_disconnect = \"close\"\ndetached_grace = \"200ms\"\n",
        );
        for (name, agent) in &self.agents {
            let ways = [
                (name.clone(), Some(&agent.command)),
                (format!("{name}-npm"), agent.wrapped.as_ref()),
            ];
            for (name, command) in ways
                .into_iter()
                .filter_map(|(name, command)| Some((name, command?)))
            {
                // Texts and lists of JSON are ones of TOML.
                // Said before a test has waited enough, with what the agent wrote.
                let handshake = crate::support::long().as_secs() * 3 / 4;
                config += &format!(
                    "[agents.{name}]\npermission = \"allow\"\nhandshake_timeout = \"{handshake}s\"\ncommand = {}\n",
                    json!(command)
                );
                config += &format!("[agents.{name}.env]\nHOSTLER_MARK = {}\n", json!(self.mark));
                for (key, value) in &agent.env {
                    config += &format!("{key} = {}\n", json!(value));
                }
            }
        }
        config
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A command as the user who is tried.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
        command
            .args(args)
            .env("HOSTLER_STATE_DIR", self.state_dir())
            .env("XDG_CONFIG_HOME", "/nonexistent")
            .env("HOME", self.dir.path().join("home"))
            .current_dir(self.dir.path());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    pub(crate) fn host(&self) -> Host {
        let config = self.dir.path().join("config.toml");
        let config = config.to_str().expect("text");
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0", "--config", config]);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        Host::spawn(command, &self.mark)
    }

    /// The agent of that name, in a session of its own.
    pub(crate) async fn open(&self, host: &Host, agent: &str, mcp: bool) -> Talk {
        self.open_as(host, agent, mcp, false).await
    }

    /// The same, under `npm exec` if so wanted.
    pub(crate) async fn open_as(&self, host: &Host, agent: &str, mcp: bool, wrapped: bool) -> Talk {
        let name = if wrapped {
            format!("{agent}-npm")
        } else {
            agent.to_owned()
        };
        let client = host.client.clone();
        let body = json!({
            "agent": name, "mcp_servers": self.servers(mcp),
            "session": { "cwd": self.dir.path().join("home"), "env": { "HOSTLER_MARK": self.mark } },
        });
        let opened = ask(&client, Method::POST, "/v1/conversations", Some(body)).await;
        let opened = opened.expect(201);
        Talk::new(client, &opened)
    }

    /// The same, opened by a client on standard input and output.
    pub(crate) fn edit(&self, host: &Host, agent: &str, mcp: bool) -> (Editor, Talk) {
        let child = self
            .command(&["acp", "--agent", agent])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("hostler acp");
        let mut new =
            json!({ "cwd": self.dir.path().join("home"), "mcpServers": self.servers(mcp) });
        if let Some(meta) = &self.agents[agent].meta {
            new["_meta"] = meta.clone();
        }
        let hello = json!({ "protocolVersion": 1, "clientCapabilities": {} });
        let requests = vec![("initialize", hello), ("session/new", new)];
        let (editor, opened) = Editor::start(child, requests);
        let talk = json!({ "id": opened["sessionId"], "session": opened["sessionId"] });
        (editor, Talk::new(host.client.clone(), &talk))
    }

    /// The session's own tools, where an MCP server is wanted.
    fn servers(&self, mcp: bool) -> Value {
        match mcp {
            true => json!([{
                "name": "hostler", "command": env!("CARGO_BIN_EXE_hostler"), "args": ["mcp"],
                "env": [{ "name": "HOSTLER_MARK", "value": self.mark }],
            }]),
            false => json!([]),
        }
    }

    /// All that lives of it, by user where there is one, by mark else. Keepers and hosts too.
    pub(crate) fn everybody(&self) -> Vec<Found> {
        let Some(uid) = self.uid else {
            return find(&self.mark).into_iter().filter(Found::lives).collect();
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter(|entry| {
                entry.metadata().is_ok_and(|data| data.uid() == uid) || is_of(entry, uid)
            })
            .filter_map(|entry| Found::read(entry.file_name().to_str()?.parse().ok()?))
            .filter(Found::lives)
            .collect()
    }

    /// Those that were not there before. A keeper is the host's, and is gone with it.
    pub(crate) fn came_since(&self, before: &[Found]) -> Vec<Found> {
        let known: BTreeSet<_> = before
            .iter()
            .map(|found| (found.pid, found.start))
            .collect();
        let mut found = self.everybody();
        found.retain(|found| {
            !known.contains(&(found.pid, found.start))
                && !found.command_line().starts_with("hostler: ")
        });
        found
    }

    /// Nothing lives that did not before.
    pub(crate) fn nobody_but(&self, before: &[Found], what: &str) {
        let mut left = Vec::new();
        wait_or(|| {
            left = self.came_since(before);
            left.is_empty()
        });
        assert!(left.is_empty(), "{what}: left: {left:?}");
    }

    /// The same, and no file of it is left.
    pub(crate) fn nothing_but(&self, before: &[Found], what: &str) {
        self.nobody_but(before, what);
        self.no_files(what);
    }

    /// Nothing lives, the host's own processes with it.
    pub(crate) fn nothing_at_all(&self, what: &str) {
        let mut left = Vec::new();
        wait_or(|| {
            left = self.everybody();
            left.is_empty()
        });
        assert!(left.is_empty(), "{what}: left: {left:?}");
    }

    fn no_files(&self, what: &str) {
        let list = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).collect()
        };
        let mut left = Vec::new();
        wait_or(|| {
            left = list(&self.state_dir().join("sessions"));
            if let Some(uid) = self.uid {
                let all = TEMPORARY.iter().flat_map(|dir| list(Path::new(dir)));
                left.extend(all.filter(|path| {
                    path != self.dir.path()
                        && !is_the_users(path)
                        && fs::symlink_metadata(path).is_ok_and(|data| data.uid() == uid)
                }));
            }
            left.is_empty()
        });
        assert!(left.is_empty(), "{what}: files left: {left:?}");
    }

    /// A host that took over has nothing to show of what was there, nor kept a directory.
    pub(crate) async fn no_sessions(&self, host: &Host) {
        let open = ask(&host.client, Method::GET, "/v1/sessions", None)
            .await
            .expect(200);
        assert_eq!(open, json!([]));
        self.no_files("after the host's death");
    }

    /// The memory of what was not there before: proportional, in MiB.
    pub(crate) fn memory(&self, before: &[Found]) -> u64 {
        let kib = |found: &Found| {
            let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", found.pid)).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.came_since(before).iter().filter_map(kib).sum::<u64>() / 1024
    }

    /// Ends what a failed cell has left.
    pub(crate) fn sweep(&self) {
        wait_or(|| {
            let left = self.everybody();
            left.iter().for_each(|found| found.signal(Signal::KILL));
            left.is_empty()
        });
        let _ = fs::remove_dir_all(self.state_dir());
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.sweep();
        if let Some(stub) = &mut self.stub {
            let _ = stub.kill();
            let _ = stub.wait();
        }
    }
}

/// Waits for it for a while, whether it comes true or not: what is wrong is said by whoever asked.
fn wait_or(mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(3) * crate::support::slack();
    while !condition() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether it runs as this user. (What may not be looked at is owned by root in /proc.)
fn is_of(entry: &fs::DirEntry, uid: u32) -> bool {
    let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.is_some_and(|line| line.split_whitespace().any(|id| id == uid.to_string()))
}

/// What an agent has for its user rather than for a session, and puts there whatever TMPDIR says.
fn is_the_users(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("codex-daemon-"))
}

/// Makes all of it this user's.
fn give(path: &Path, uid: u32) {
    let _ = chown(path, Some(uid), Some(uid));
    if path.is_dir() && !path.is_symlink() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            give(&entry.path(), uid);
        }
    }
}
