//! A host's sessions in a directory of their own, commands with a mark, and counting by the kernel.

#[path = "../support/processes.rs"]
#[allow(dead_code)]
mod processes;

#[path = "../support/slack.rs"]
mod slack;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostler_ledger::{HostRun, Ledger};
use hostler_process::Zygote;
use hostler_session::{
    By, ExecOptions, HostOptions, Policy, ProcessHandle, Session, SessionOptions, Sessions,
};

pub(crate) use slack::slack;

pub(crate) use processes::{Found, children_of, find};

/// A grace that is short, for what is to be killed.
pub(crate) const GRACE: Duration = Duration::from_millis(300);

/// How long what is kept waits for the next host: so long it is there at the most, where a test is broken off.
pub(crate) const KEEP_FOR: Duration = Duration::from_secs(300);

pub(crate) fn by() -> By {
    By::new("test", "a test asks for it")
}

/// One host.
pub(crate) struct Stage {
    pub(crate) sessions: Sessions,
    pub(crate) zygote: Zygote,
    pub(crate) mark: String,
    pub(crate) dir: PathBuf,
    /// Hosts before this one that did not end well.
    pub(crate) earlier: Vec<HostRun>,
    _dir: Option<tempfile::TempDir>,
}

/// This run of a host.
pub(crate) fn run() -> HostRun {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot id");
    let own = Found::read(std::process::id().cast_signed()).expect("this process");
    HostRun {
        boot: boot.trim().to_owned(),
        pid: std::process::id(),
        start_time: own.start,
        version: "test".into(),
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut HostOptions)) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hostler-session-")
            .tempdir()
            .expect("a directory");
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        let mark = format!("mark-{:032x}", u128::from_le_bytes(random));
        let mut stage = Self::at(dir.path(), &mark, change);
        stage._dir = Some(dir);
        stage
    }

    /// A host on a state directory that others may have used before.
    pub(crate) fn at(dir: &Path, mark: &str, change: impl FnOnce(&mut HostOptions)) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_hostler"));
        let zygote =
            hostler_keeper::zygote::Zygote::exec(program, &["__zygote"]).expect("a zygote");
        let zygote = Zygote::new(zygote).expect("a handle");
        let run = run();
        let options = hostler_ledger::LedgerOptions {
            wait: Duration::from_secs(10),
            ..Default::default()
        };
        let opened = Ledger::open_with(dir, &run, &options).expect("a ledger");
        let mut options = HostOptions::new(dir, run);
        options
            .env
            .insert("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into());
        options.env.insert("HOSTLER_TEST_MARK".into(), mark.into());
        change(&mut options);
        let sessions = Sessions::new(zygote.clone(), opened.ledger, options).expect("sessions");
        Self {
            sessions,
            zygote,
            mark: mark.into(),
            dir: dir.into(),
            earlier: opened.earlier,
            _dir: None,
        }
    }

    /// Takes the directory over from a host that was here before, which would remove it.
    pub(crate) fn take_directory(&mut self, mut earlier: Self) {
        self._dir = earlier._dir.take();
    }

    pub(crate) async fn open(&self) -> Session {
        self.open_with(|_| {}).await
    }

    pub(crate) async fn open_with(&self, change: impl FnOnce(&mut SessionOptions)) -> Session {
        let mut options = options();
        change(&mut options);
        self.sessions.open(options, by()).await.expect("a session")
    }

    /// The living processes that carry the mark.
    pub(crate) fn living(&self) -> Vec<Found> {
        find(&self.mark).into_iter().filter(Found::lives).collect()
    }

    /// The keepers that the zygote has.
    pub(crate) fn keepers(&self) -> Vec<Found> {
        children_of(self.zygote.pid().as_raw_nonzero().get())
    }

    pub(crate) async fn await_none(&self, what: &str) {
        until(what, || self.living().is_empty()).await;
    }
}

/// A session that gives little grace.
pub(crate) fn options() -> SessionOptions {
    SessionOptions {
        policy: Policy {
            grace: GRACE,
            keep_for: KEEP_FOR,
            ..Policy::default()
        },
        ..SessionOptions::default()
    }
}

pub(crate) fn shell(script: &str) -> ExecOptions {
    ExecOptions::new(["sh", "-c", script])
}

pub(crate) async fn exec(session: &Session, options: ExecOptions) -> ProcessHandle {
    session.exec(options, by()).await.expect("a process")
}

/// All that a process has written, once it has ended.
pub(crate) async fn output_of(handle: &ProcessHandle) -> String {
    handle.wait().await;
    let output = handle.stdout();
    let progress = output.progress();
    let chunk = output
        .read_at(0, progress.len as usize)
        .expect("its output");
    String::from_utf8_lossy(&chunk.bytes).into_owned()
}

/// Waits for a condition, and panics where it does not come true in time.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(4) * slack(),
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
