//! What the suites share.
#![allow(dead_code, reason = "each suite uses a part")]
#![allow(unreachable_pub, reason = "nobody sees a suite from outside")]

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostler_ledger::{
    By, Change, EventRow, HostRun, Identity, JobEnd, JobId, JobOrigin, JobRow, JobStanding, Ledger,
    LedgerOptions, Opened, ResourceId, ResourceRow, ScheduledFor, SessionId, SessionRow,
    StepRunRow, StepRunState, StepRunUpdate,
};
use serde_json::{Value, json};

pub fn run() -> HostRun {
    HostRun {
        boot: "b00t".to_owned(),
        pid: std::process::id(),
        start_time: 4711,
        version: "0.1.0".to_owned(),
    }
}

pub fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, &run()).expect("a ledger").ledger
}

pub fn open_with(dir: &Path, options: &LedgerOptions) -> Opened {
    Ledger::open_with(dir, &run(), options).expect("a ledger")
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("runtime")
        .block_on(future)
}

pub fn by() -> By {
    By::new("a test", "to see")
}

pub fn opened(id: &SessionId, name: Option<&str>, parent: Option<&SessionId>) -> Change {
    let session = SessionRow {
        id: id.clone(),
        name: name.map(str::to_owned),
        parent: parent.cloned(),
        detail: json!({ "idle": 600, "text": "naïve ✓\n\"" }),
        opened: 1_700_000_000_000,
    };
    Change::SessionOpened { session, by: by() }
}

pub fn closed(id: &SessionId) -> Change {
    Change::SessionClosed {
        id: id.clone(),
        reason: "client".to_owned(),
        report: json!({ "remaining": 0 }),
        by: by(),
    }
}

pub fn intended(id: &ResourceId, session: &SessionId) -> Change {
    let resource = ResourceRow {
        id: id.clone(),
        session: session.clone(),
        kind: "process".to_owned(),
        name: None,
        detail: json!({ "argv": ["true"] }),
    };
    Change::ResourceIntended { resource, by: by() }
}

pub fn identified(id: &ResourceId) -> Change {
    Change::ResourceIdentified {
        id: id.clone(),
        identity: identity(),
    }
}

pub fn identity() -> Identity {
    Identity {
        boot: "b00t".to_owned(),
        pid: 4711,
        start_time: u64::from(u32::MAX) * 10,
        cgroup: Some("/hostler/s-1".to_owned()),
        socket: None,
    }
}

pub fn released(id: &ResourceId) -> Change {
    Change::ResourceReleased {
        id: id.clone(),
        outcome: json!({ "how": "exited" }),
        by: by(),
    }
}

pub fn event(detail: Value) -> Change {
    Change::Event(EventRow {
        session: None,
        resource: None,
        kind: "test.noted".to_owned(),
        who: "a test".to_owned(),
        why: "to see".to_owned(),
        detail,
    })
}

/// All that a short-lived session leaves: its beginning, one process, its end.
pub fn cycle() -> Vec<Change> {
    let (session, process) = (SessionId::new(), ResourceId::new("process"));
    vec![
        opened(&session, None, None),
        intended(&process, &session),
        identified(&process),
        released(&process),
        closed(&session),
    ]
}

/// That a schedule of this name has made a job, of which no more is known.
pub fn scheduled(name: &str) -> ScheduledFor {
    ScheduledFor {
        schedule: name.to_owned(),
        due: None,
        late: false,
        request: None,
    }
}

pub fn job_created(id: &JobId, parent: Option<&JobId>) -> Change {
    let job = JobRow {
        id: id.clone(),
        name: "build".to_owned(),
        group: Some("nightly".to_owned()),
        parent: parent.cloned(),
        origin: JobOrigin::Asked,
        detail: json!({ "inputs": { "text": "naïve ✓\n\"" } }),
        created: 1_700_000_000_000,
    };
    Change::JobCreated {
        job: Box::new(job),
        by: by(),
    }
}

pub fn standing(id: &JobId, standing: JobStanding) -> Change {
    Change::JobStanding {
        id: id.clone(),
        standing,
        why: json!({ "code": "asked" }),
        by: by(),
    }
}

pub fn job_ended(id: &JobId, end: JobEnd) -> Change {
    Change::JobEnded {
        id: id.clone(),
        end,
        why: json!({ "code": "asked", "message": "somebody asked" }),
        outputs: (end == JobEnd::Completed).then(|| json!({ "n": 1 })),
        by: by(),
    }
}

pub fn job_deleted(id: &JobId) -> Change {
    Change::JobDeleted {
        id: id.clone(),
        by: by(),
    }
}

pub fn step_began(job: &JobId, number: u32, state: StepRunState) -> Change {
    let run = StepRunRow {
        number,
        step: format!("step {number}"),
        item: Some(7),
        attempt: 1,
        try_: 2,
        state,
        detail: json!({ "argv": ["true"] }),
        ..StepRunRow::default()
    };
    Change::StepBegan {
        job: job.clone(),
        run: Box::new(run),
    }
}

pub fn step_changed(job: &JobId, run: u32, update: StepRunUpdate) -> Change {
    Change::StepChanged {
        job: job.clone(),
        run,
        update: Box::new(update),
    }
}

pub fn step_state(job: &JobId, run: u32, state: StepRunState) -> Change {
    let update = StepRunUpdate {
        state: Some(state),
        ..StepRunUpdate::default()
    };
    step_changed(job, run, update)
}

pub fn lease_taken(job: &JobId, session: &SessionId) -> Change {
    Change::LeaseTaken {
        job: job.clone(),
        session: session.clone(),
        key: "echo in /w".to_owned(),
    }
}

pub fn lease_released(job: &JobId, session: &SessionId) -> Change {
    Change::LeaseReleased {
        job: job.clone(),
        session: session.clone(),
    }
}

/// How long a condition is waited for, on the machine that tests run on.
pub fn patience() -> Duration {
    let slack = std::env::var("HOSTLER_TEST_SLACK")
        .ok()
        .and_then(|slack| slack.parse().ok());
    Duration::from_secs(20).mul_f64(slack.unwrap_or(1.0))
}

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let give_up = Instant::now() + patience();
    while !condition() {
        assert!(Instant::now() < give_up, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts this very program again, to be the test `name` (one that is ignored otherwise) on `dir`, with its stderr as a pipe.
pub fn again(name: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--ignored",
            "--exact",
            name,
            "--nocapture",
            "--test-threads=1",
        ])
        .env("LEDGER_TEST_DIR", dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// The directory that [`again`] was given; `None` when somebody runs all ignored tests.
pub fn given_dir() -> Option<std::path::PathBuf> {
    std::env::var_os("LEDGER_TEST_DIR").map(Into::into)
}

/// A file system of its own, small, gone when dropped.
pub struct Mount(tempfile::TempDir);

impl Mount {
    /// `None`, and a word on stderr, when this may not mount.
    pub fn tmpfs(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=700"),
                "tmpfs",
            ])
            .arg(dir.path())
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: this may not mount a file system");
        None
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn remount(&self, option: &str) {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(self.path())
            .status()
            .expect("mount");
        assert!(status.success(), "remount {option}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
