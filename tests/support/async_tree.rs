//! What the suites over `hostler-process` stand on: a zygote of their own, commands with a mark, and counting by the kernel.

#[path = "processes.rs"]
mod processes;

#[path = "slack.rs"]
mod slack;

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use hostler_process::{Command, Tree, TreeOptions, Zygote};

pub(crate) use slack::slack;

pub(crate) use processes::{Found, children_of, find};

/// A zygote, and what its processes are known by.
pub(crate) struct Stage {
    pub(crate) zygote: Zygote,
    pub(crate) mark: String,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_hostler"));
        let zygote =
            hostler_keeper::zygote::Zygote::exec(program, &["__zygote"]).expect("a zygote");
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        Self {
            zygote: Zygote::new(zygote).expect("a handle"),
            mark: format!("mark-{:032x}", u128::from_le_bytes(random)),
        }
    }

    pub(crate) async fn tree(&self) -> Tree {
        self.zygote.tree(self.options()).await.expect("a tree")
    }

    /// A tree that gives little grace, so that what is dropped goes soon.
    pub(crate) fn options(&self) -> TreeOptions {
        TreeOptions {
            title: "test".into(),
            grace: Duration::from_millis(200),
            ..TreeOptions::default()
        }
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        // Not this process's: a directory there that may not be entered makes the error another one.
        let command = Command::new(program)
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOSTLER_TEST_MARK", &self.mark);
        command.grace(Duration::from_millis(200))
    }

    pub(crate) fn shell(&self, script: &str) -> Command {
        self.command("sh").arg("-c").arg(script)
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
