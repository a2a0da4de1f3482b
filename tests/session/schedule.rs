//! A random schedule: what clients may do to a host, in an order and at times that a seed decides.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_session::{
    Attachment, CloseReason, Error, ExecOptions, Mode, OnDisconnect, OnHostExit, Policy,
    ProcessHandle, ResourceState, Restart, Session, SessionOptions, Sessions, Signal, TerminalSize,
};
use tokio::task::JoinSet;

use super::cancel::poll_and_drop;
use super::support::*;

#[path = "../support/random.rs"]
mod random;

pub(crate) use random::Random;

/// Commands of all manners: willing, stubborn, with children that leave their group or outlive their parent.
const SCRIPTS: [&str; 12] = [
    "true",
    "exit 3",
    "exec sleep 1000",
    "setsid sleep 1000 & exec sleep 1000",
    "setsid sleep 1000 &",
    "trap '' TERM; exec sleep 1000",
    "trap '' TERM HUP; setsid sleep 1000 & exec sleep 1000",
    "(setsid sh -c 'sleep 1000 & exec sleep 1000' &) ; exec sleep 1000",
    "seq 1 20000; exec sleep 1000",
    "cat; exec sleep 1000",
    "kill -9 $$",
    "exec /no/such/program",
];

/// How many sessions there are at once, about.
const SESSIONS: usize = 6;

/// What the processes of sessions that are to die with their host carry.
pub(crate) fn kill_mark(mark: &str) -> String {
    format!("{mark}-kill")
}

fn is_kill(session: &Session) -> bool {
    session.info().policy.on_host_exit == OnHostExit::Kill
}

/// A host with its clients.
pub(crate) struct World {
    pub(crate) stage: Stage,
    random: Random,
    attachments: Vec<Attachment>,
    /// What clients do at the same time.
    under_way: JoinSet<()>,
    /// How long a takeover waits for the next host.
    wait: Duration,
    /// Said of each act, for who looks for what went wrong.
    said: bool,
}

impl World {
    pub(crate) fn new(stage: Stage, random: Random, wait: Duration) -> Self {
        Self {
            stage,
            random,
            attachments: Vec::new(),
            under_way: JoinSet::new(),
            wait,
            said: std::env::var_os("HOSTLER_SCHEDULE_SAY").is_some(),
        }
    }

    fn say(&self, what: &str) {
        if self.said {
            eprintln!("{} {what}", self.stage.mark);
        }
    }

    /// Does so many things.
    pub(crate) async fn act(&mut self, count: u64) {
        for _ in 0..count {
            match self.random.below(100) {
                0..22 => self.open(),
                22..52 => self.exec(),
                52..60 => self.attach().await,
                60..66 => self.detach(),
                66..77 => self.close(),
                77..85 => self.end(),
                85..90 => self.keep(),
                90..93 => self.take_over().await,
                _ => tokio::time::sleep(Duration::from_millis(self.random.below(20))).await,
            }
            // Either it is waited for, or the next thing is done at the same time.
            if self.random.percent(50) {
                self.settle().await;
            }
        }
    }

    /// Waits for all that is under way.
    pub(crate) async fn settle(&mut self) {
        while let Some(done) = self.under_way.join_next().await {
            done.expect("what a client does");
        }
    }

    /// Clients leave.
    pub(crate) fn leave(&mut self) {
        self.attachments.clear();
    }

    fn some_session(&mut self) -> Option<Session> {
        let mut list = self.stage.sessions.list();
        let index = self.random.pick(&list)?;
        Some(list.swap_remove(index))
    }

    /// Does it to its end, or drops it on the way.
    fn client<F>(&mut self, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        if self.random.percent(75) {
            self.under_way.spawn(future);
        } else {
            let (polls, turns) = (self.random.below(5), self.random.below(300));
            self.under_way.spawn(async move {
                poll_and_drop(future, polls as u32, turns as u32).await;
            });
        }
    }

    fn policy(&mut self, on_host_exit: OnHostExit) -> Policy {
        Policy {
            grace: Duration::from_millis(self.random.below(4) * 50),
            on_host_exit,
            on_disconnect: if self.random.percent(40) {
                OnDisconnect::Close
            } else {
                OnDisconnect::Detach
            },
            detached_grace: self
                .random
                .percent(20)
                .then(|| Duration::from_millis(1 + self.random.below(50))),
            keep_for: KEEP_FOR,
            ..Policy::default()
        }
    }

    fn open(&mut self) {
        if self.stage.sessions.list().len() >= SESSIONS {
            return;
        }
        let kill = self.random.percent(50);
        let on_host_exit = if kill {
            OnHostExit::Kill
        } else {
            OnHostExit::Keep
        };
        let mut options = SessionOptions {
            policy: self.policy(on_host_exit),
            ..SessionOptions::default()
        };
        if kill {
            let mark = kill_mark(&self.stage.mark);
            options.env.insert("HOSTLER_TEST_KILL".into(), mark);
        }
        if self.random.percent(25) {
            options.parent = self.some_session().map(|session| session.id().clone());
        }
        if self.random.percent(20) {
            options.name = Some(format!("name-{}", self.random.below(3)));
        }
        self.say(&format!("open {options:?}"));
        let sessions = self.stage.sessions.clone();
        self.client(async move {
            match sessions.open(options, by()).await {
                Ok(_) | Err(Error::NameTaken { .. } | Error::NoSession(_) | Error::Stopping) => {}
                Err(Error::Closing(_) | Error::Closed(_)) => {}
                // Ended while it was made.
                Err(error) => drop(error),
            }
        });
    }

    fn exec(&mut self) {
        let Some(session) = self.some_session() else {
            return self.open();
        };
        let script = SCRIPTS[self.random.below(SCRIPTS.len() as u64) as usize];
        let mut options = shell(script);
        match self.random.below(3) {
            0 => options.mode = Mode::Background,
            1 => options.terminal = Some(TerminalSize::default()),
            _ => options.mode = Mode::Foreground,
        }
        options.stdin = self.random.percent(30);
        if options.mode == Mode::Background && self.random.percent(20) {
            options.restart = Restart::OnFailure {
                pause: Duration::from_millis(5),
                longest: Duration::from_millis(20),
                most: 3,
            };
        }
        self.say(&format!("exec {} {options:?}", session.id()));
        let read = self.random.percent(50);
        self.client(async move { run(&session, options, read).await });
    }

    async fn attach(&mut self) {
        if let Some(session) = self.some_session() {
            self.say(&format!("attach {}", session.id()));
            if let Ok(attachment) = session.attach("test").await {
                self.attachments.push(attachment);
            }
        }
    }

    fn detach(&mut self) {
        if let Some(index) = self.random.pick(&self.attachments) {
            drop(self.attachments.swap_remove(index));
        }
    }

    fn close(&mut self) {
        let Some(session) = self.some_session() else {
            return;
        };
        let callers = 1 + self.random.below(3);
        let grace = self
            .random
            .percent(30)
            .then(|| Duration::from_millis(self.random.below(50)));
        self.say(&format!("close {} by {callers}", session.id()));
        for _ in 0..callers {
            let session = session.clone();
            self.client(async move {
                let closed = session.close(CloseReason::Client, by(), grace).await;
                if let Ok(report) = closed {
                    assert!(report.is_clean(), "{report:?}");
                }
            });
        }
    }

    /// Ends or signals a process.
    fn end(&mut self) {
        let Some(session) = self.some_session() else {
            return;
        };
        let sessions = self.stage.sessions.clone();
        let (index, how) = (self.random.next(), self.random.below(5));
        self.say(&format!("end in {} {how}", session.id()));
        self.client(async move {
            let Some(process) = some_process(&sessions, &session, index).await else {
                return;
            };
            let signal = match how {
                0 => Signal::KILL,
                1 => Signal::STOP,
                2 => Signal::TERM,
                3 => return drop(session.release(process.id(), by()).await),
                _ => return drop(process.end(Some(Duration::from_millis(20)), by()).await),
            };
            let _ = process.signal(signal).await;
        });
    }

    fn keep(&mut self) {
        let Some(session) = self.some_session() else {
            return;
        };
        let kill = is_kill(&session);
        // Of one kind each, so that what carries a mark stays where it belongs.
        let name = format!("kept-{kill}-{}", self.random.below(2));
        let policy = self.policy(if kill {
            OnHostExit::Kill
        } else {
            OnHostExit::Keep
        });
        let (sessions, index) = (self.stage.sessions.clone(), self.random.next());
        self.say(&format!("keep of {} in {name}", session.id()));
        self.client(async move {
            if let Some(process) = some_process(&sessions, &session, index).await {
                let _ = session
                    .keep(&sessions, process.id(), &name, policy, by())
                    .await;
            }
        });
    }

    /// The next host takes over, and clients come to it.
    pub(crate) async fn take_over(&mut self) {
        self.say("takeover");
        self.attachments.clear();
        let _ = std::fs::write(taken_over(&self.stage.dir), "");
        let failed = self.stage.sessions.hand_over(self.wait).await;
        for (id, error) in failed {
            // One that closes, or is being opened, is not there to be handed over.
            assert!(
                matches!(error, Error::Closing(_) | Error::Closed(_)),
                "{id}: {error}"
            );
        }
        // Who still waits for something of the old host is cut off, as its connection would be.
        if tokio::time::timeout(Duration::from_secs(1), self.settle())
            .await
            .is_err()
        {
            self.under_way.shutdown().await;
        }
        self.stage.sessions.ledger().clone().close().unwrap();
        let (dir, mark) = (self.stage.dir.clone(), self.stage.mark.clone());
        let next = next_stage(&dir, &mark).await;
        let kept = std::mem::replace(&mut self.stage, next);
        self.stage.take_directory(kept);
    }
}

/// Tells that there was a takeover: what was handed over is the next host's for a while, whatever its policy.
pub(crate) fn taken_over(dir: &Path) -> PathBuf {
    dir.join("taken-over")
}

/// The next host on a directory, which has recovered.
pub(crate) async fn next_stage(dir: &Path, mark: &str) -> Stage {
    let stage = Stage::at(dir, mark, |_| {});
    let recovery = stage.sessions.recover(&stage.earlier).await.unwrap();
    assert!(recovery.unreached.is_empty(), "{recovery:?}");
    for report in &recovery.swept {
        assert!(report.is_clean() && report.recorded, "{report:?}");
    }
    stage
}

async fn run(session: &Session, options: ExecOptions, read: bool) {
    if !options.is_foreground() {
        let _ = session.exec(options, by()).await;
        return;
    }
    if let Ok(mut foreground) = session.run(options, by()).await
        && read
    {
        let _ = tokio::time::timeout(Duration::from_millis(5), foreground.stdout.next(4096)).await;
    }
}

async fn some_process(sessions: &Sessions, session: &Session, index: u64) -> Option<ProcessHandle> {
    let list = session.resources().await.ok()?;
    let running: Vec<_> = list
        .iter()
        .filter(|resource| resource.state == ResourceState::Running)
        .collect();
    let index = index.checked_rem(running.len() as u64)? as usize;
    sessions.process(running[index].id.as_str()).ok()
}
