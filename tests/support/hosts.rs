//! Hosts that can be killed: each is this test program again, told line by line what to do.
//!
//! A host answers every line with one that starts with `@`: `@ok …` or `@err …`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout};
use std::time::Duration;

use hostler_process::{
    Adopted, Command, Contain, OnHostExit, Process, Size, Stdio, Terminal, Tree, TreeOptions,
    Zygote,
};
use tokio::io::AsyncReadExt;

use crate::support::{Found, find};

/// Set in the environment of a test program that is to be a host.
const HOST: &str = "HOSTLER_TEST_HOST";

/// Trees, and hosts for them, of one test.
pub(crate) struct Scene {
    pub(crate) mark: String,
    pub(crate) dir: tempfile::TempDir,
    hooks: Option<PathBuf>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with_hooks(None)
    }

    /// One whose hosts come by the hooks of a listener there.
    pub(crate) fn with_hooks(hooks: Option<&Path>) -> Self {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))
            .expect("random bits");
        Self {
            mark: format!("mark-{:032x}", u128::from_le_bytes(random)),
            dir: tempfile::tempdir().expect("a directory"),
            hooks: hooks.map(Path::to_owned),
        }
    }

    /// The rendezvous of a tree.
    pub(crate) fn socket(&self, tree: &str) -> PathBuf {
        self.dir.path().join(tree)
    }

    /// The living processes that carry the mark. No host, zygote or keeper does.
    pub(crate) fn living(&self) -> Vec<Found> {
        find(&self.mark).into_iter().filter(Found::lives).collect()
    }

    /// Starts a host.
    pub(crate) fn host(&self) -> Host {
        let mut command =
            std::process::Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["the_host", "--exact", "--nocapture", "--test-threads=1"])
            .env(HOST, "1")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        if let Some(hooks) = &self.hooks {
            command.env("HOSTLER_TEST_HOOKS", hooks);
        }
        let mut child = command.spawn().expect("a host");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut host = Host {
            child,
            stdin: stdin.expect("a pipe"),
            stdout: BufReader::new(stdout.expect("a pipe")),
            zygote: None,
        };
        host.ok(&format!("dir {}", self.dir.path().display()));
        let zygote = host.ok(&format!("mark {}", self.mark));
        host.zygote = Found::read(zygote.parse().expect("a pid"));
        host
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Only what a failed test has left.
        for found in self.living() {
            found.signal(hostler_process::Signal::KILL);
        }
    }
}

/// A host in a process of its own. Dropping it kills it, and its zygote.
pub(crate) struct Host {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    zygote: Option<Found>,
}

impl Host {
    /// Tells it something, without waiting for what comes of it.
    pub(crate) fn say(&mut self, line: &str) {
        // One that was killed does not hear.
        let _ = writeln!(self.stdin, "{line}");
    }

    /// What it answers.
    pub(crate) fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line).expect("text") == 0 {
                return Err("the host is gone".into());
            }
            // The harness may have begun the line.
            let Some((_, answer)) = line.split_once('@') else {
                continue;
            };
            let answer = answer.trim_end();
            if let Some(text) = answer.strip_prefix("ok") {
                return Ok(text.trim_start().to_owned());
            }
            return Err(answer
                .strip_prefix("err")
                .unwrap_or(answer)
                .trim_start()
                .into());
        }
    }

    /// Tells it something, and gives back what came of it.
    pub(crate) fn ask(&mut self, line: &str) -> Result<String, String> {
        self.say(line);
        self.answer()
    }

    /// Tells it something that goes well.
    pub(crate) fn ok(&mut self, line: &str) -> String {
        self.ask(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Its zygote.
    pub(crate) fn zygote(&self) -> Found {
        self.zygote.clone().expect("a zygote")
    }

    /// Kills it, and leaves its zygote.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn signal(&self, signal: hostler_process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("it was not waited for");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill();
        if let Some(zygote) = &self.zygote {
            zygote.signal(hostler_process::Signal::KILL);
        }
    }
}

/// Is a host, if this program was started to be one.
pub(crate) fn be_host() {
    if std::env::var_os(HOST).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (lines, mut inbox) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        let mut acting = Acting::default();
        while let Some(line) = inbox.recv().await {
            match acting.carry_out(&line).await {
                Ok(text) => println!("@ok {text}"),
                Err(error) => println!("@err {error}"),
            }
        }
    });
    // Not as a test that has ended: its guards have said what they had to.
    std::process::exit(0);
}

#[derive(Default)]
struct Acting {
    dir: PathBuf,
    mark: String,
    zygote: Option<Zygote>,
    trees: HashMap<String, Tree>,
    processes: HashMap<String, Process>,
    pipes: HashMap<String, tokio::net::unix::pipe::Receiver>,
    terminals: HashMap<String, Terminal>,
}

type Said = Result<String, Box<dyn std::error::Error>>;

impl Acting {
    async fn carry_out(&mut self, line: &str) -> Said {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (first, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "dir" => self.dir = rest.into(),
            "mark" => {
                self.mark = rest.to_owned();
                let program = Path::new(env!("CARGO_BIN_EXE_hostler"));
                let zygote = hostler_keeper::zygote::Zygote::exec(program, &["__zygote"])?;
                let zygote = Zygote::new(zygote)?;
                let pid = zygote.pid().as_raw_nonzero().to_string();
                self.zygote = Some(zygote);
                return Ok(pid);
            }
            "tree" => return self.tree(first, more).await,
            "spawn" | "type" => return self.spawn(verb == "type", first, more).await,
            "detach" => drop(self.process(first)?.detach_into_tree()),
            "wait" => {
                return Ok(format!(
                    "{:?}",
                    self.processes[first].watcher().wait().await.status
                ));
            }
            "adopt" => return self.adopt(first).await,
            "open" => self.open(first, more).await?,
            "read" => self.read(first, more).await?,
            "policy" => {
                let policy = policy(more)?;
                self.trees[first].set_on_host_exit(policy).await?;
            }
            "hand" => {
                let tree = self.trees.remove(first).ok_or("no such tree")?;
                tree.hand_over(Duration::from_millis(more.parse()?)).await?;
            }
            "drop" => drop(self.trees.remove(first)),
            "census" => return Ok(self.trees[first].census().await?.len().to_string()),
            "ended" => return Ok(format!("{:?}", self.trees[first].ended().await?)),
            "end" => {
                let report = self.trees[first].end(Duration::from_millis(200)).await?;
                return Ok(report.remaining.to_string());
            }
            _ => return Err(format!("no such thing: {line}").into()),
        }
        Ok(String::new())
    }

    fn process(&mut self, name: &str) -> Result<Process, String> {
        self.processes.remove(name).ok_or("no such process".into())
    }

    /// `tree NAME POLICY [CONTAIN]`
    async fn tree(&mut self, name: &str, how: &str) -> Said {
        let (on_host_exit, contain) = how.split_once(' ').unwrap_or((how, ""));
        let options = TreeOptions {
            title: name.into(),
            grace: Duration::from_millis(if contain == "slow" { 3000 } else { 200 }),
            on_host_exit: policy(on_host_exit)?,
            contain: match contain {
                "tree" => Some(Contain::Tree),
                "pidns" => Some(Contain::Pidns),
                _ => None,
            },
            rendezvous: Some(self.dir.join(name)),
            ..TreeOptions::default()
        };
        let zygote = self.zygote.as_ref().ok_or("no zygote")?;
        let tree = zygote.tree(options).await?;
        let id = tree.keeper().pid.to_string();
        self.trees.insert(name.into(), tree);
        Ok(id)
    }

    /// `spawn TREE NAME SCRIPT` with pipes, `type TREE NAME SCRIPT` on a terminal; both are stored under the name.
    async fn spawn(&mut self, on_terminal: bool, tree: &str, what: &str) -> Said {
        let (name, script) = what.split_once(' ').ok_or("what?")?;
        let tree = &self.trees[tree];
        let mut command = Command::new("sh")
            .arg("-c")
            .arg(script)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOSTLER_TEST_MARK", &self.mark)
            .grace(Duration::from_millis(200));
        if on_terminal {
            let terminal = Terminal::new(Size { rows: 9, cols: 99 })?;
            tree.store(name.as_bytes(), terminal.master()?).await?;
            command = command.terminal(&terminal)?;
            self.terminals.insert(name.into(), terminal);
        } else {
            command = command
                .stdin(Stdio::Piped)
                .stdout(Stdio::Piped)
                .stored(name);
        }
        let mut process = tree.spawn(command).await?;
        if let Some(pipe) = process.take_stdout() {
            self.pipes.insert(name.into(), pipe);
        }
        let id = format!("{} {}", process.pid(), process.key().0);
        self.processes.insert(name.into(), process);
        Ok(id)
    }

    async fn adopt(&mut self, name: &str) -> Said {
        let Adopted {
            tree, processes, ..
        } = Tree::adopt(&self.dir.join(name)).await?;
        let count = processes.len();
        for (process, started) in processes {
            self.processes
                .insert(format!("{name}:{}", started.key.0), process);
        }
        self.trees.insert(name.into(), tree);
        Ok(count.to_string())
    }

    /// `open TREE NAME`: the stored pipe or terminal.
    async fn open(&mut self, tree: &str, name: &str) -> Result<(), Box<dyn std::error::Error>> {
        let tree = &self.trees[tree];
        if let Ok(fd) = tree.fetch(format!("{name}.stdout").as_bytes()).await {
            let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(fd)?;
            self.pipes.insert(name.into(), pipe);
        } else {
            let fd = tree.fetch(name.as_bytes()).await?;
            self.terminals
                .insert(name.into(), Terminal::from_master(fd)?);
        }
        Ok(())
    }

    /// `read NAME COUNT`: appends what comes to the file `NAME.log`, until that many bytes have come.
    async fn read(&mut self, name: &str, count: &str) -> Result<(), Box<dyn std::error::Error>> {
        let mut left: usize = count.parse()?;
        let mut log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join(format!("{name}.log")))?;
        let mut bytes = [0; 4096];
        while left > 0 {
            let read = match (self.pipes.get_mut(name), self.terminals.get_mut(name)) {
                (Some(pipe), _) => pipe.read(&mut bytes).await?,
                (_, Some(terminal)) => terminal.read(&mut bytes).await?,
                _ => return Err("nothing to read".into()),
            };
            if read == 0 {
                return Err("the end".into());
            }
            log.write_all(&bytes[..read])?;
            left = left.saturating_sub(read);
        }
        Ok(())
    }
}

fn policy(word: &str) -> Result<OnHostExit, std::num::ParseIntError> {
    Ok(match word {
        "kill" => OnHostExit::Kill,
        millis => OnHostExit::Keep(Duration::from_millis(millis.parse()?)),
    })
}
