//! One test's stage: who runs `hostler`, how it contains, what is alive, and that nothing of it outlives the test.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, openat};
use rustix::process::{Signal, getuid};

use super::group::Group;
use super::{
    Found, Front, Kit, Lines, Outcome, Shape, find, read_text, slack, wait_until, wait_until_or,
};

/// Who runs `hostler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    /// Root.
    Root,
    /// An ordinary user.
    Ordinary,
}

/// The way to contain that is asked of `hostler`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contain {
    /// By descent alone.
    Tree,
    /// By a cgroup too.
    Cgroup,
    /// By a pid namespace.
    Pidns,
}

/// One column of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    /// Who runs it.
    pub(crate) user: User,
    /// How it contains.
    pub(crate) contain: Contain,
}

impl Cell {
    /// Every column that this machine and user have; those that are skipped are printed.
    pub(crate) fn all() -> Vec<Self> {
        let users: &[User] = if getuid().is_root() {
            &[User::Root, User::Ordinary]
        } else {
            &[User::Ordinary]
        };
        let ways = [Contain::Tree, Contain::Cgroup, Contain::Pidns];
        let cells = users
            .iter()
            .flat_map(|&user| ways.map(|contain| Self { user, contain }));
        cells
            .filter(|cell| {
                let possible = cell.possible();
                if !possible {
                    eprintln!("skipped: {cell:?} can't be had here");
                }
                possible
            })
            .collect()
    }

    /// The column in which nothing is asked for specially: this user, by descent.
    pub(crate) fn plain() -> Self {
        Self {
            user: if getuid().is_root() {
                User::Root
            } else {
                User::Ordinary
            },
            contain: Contain::Tree,
        }
    }

    /// Whether the machine has what it takes, found out without `hostler`.
    fn possible(self) -> bool {
        match self.contain {
            Contain::Tree => true,
            Contain::Cgroup => Scene::new(self).group.is_some(),
            Contain::Pidns => {
                let scene = Scene::new(self);
                let mut probe = scene.wrapped(["unshare", "-Upf", "--map-root-user", "true"]);
                probe
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success())
            }
        }
    }
}

/// A stage. Dropped, it ends whatever is still on it.
pub(crate) struct Scene {
    /// The programs.
    pub(crate) kit: Arc<Kit>,
    /// Who and how.
    pub(crate) cell: Cell,
    /// What its processes are known by.
    pub(crate) mark: String,
    /// What its processes say when they stand.
    pub(crate) ready: Lines,
    group: Option<Group>,
    dir: tempfile::TempDir,
    uid: u32,
    seen: RefCell<BTreeMap<(i32, u64), Found>>,
}

impl Scene {
    /// A new one.
    pub(crate) fn new(cell: Cell) -> Self {
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let number = SCENES.fetch_add(1, Ordering::Relaxed);
        let mut random = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .expect("random bits");
        let mark = format!("mark-{:032x}", u128::from_le_bytes(random));
        // A user of its own for each scene, so that no limit on a user's processes is shared.
        let uid = match cell.user {
            User::Ordinary if getuid().is_root() => {
                50_000 + (std::process::id() * 37 + number) % 10_000
            }
            _ => getuid().as_raw(),
        };
        let dir = tempfile::Builder::new()
            .prefix("hostler-scene-")
            .tempdir()
            .expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        chown(dir.path(), Some(uid), None).expect("chown");
        mkfifoat(CWD, dir.path().join("go"), Mode::from_raw_mode(0o666)).expect("mkfifo");
        chown(dir.path().join("go"), Some(uid), None).expect("chown");
        fs::write(dir.path().join("beat"), [0; 8]).expect("write");
        fs::set_permissions(dir.path().join("beat"), fs::Permissions::from_mode(0o666))
            .expect("chmod");
        let owner = (cell.contain == Contain::Cgroup).then_some(uid);
        Self {
            kit: Kit::get(),
            cell,
            group: Group::create(
                &format!("hostler-test-{}-{number}", std::process::id()),
                owner,
            ),
            ready: Lines::create(dir.path().join("ready")),
            mark,
            dir,
            uid,
            seen: RefCell::default(),
        }
    }

    /// A path in the scene's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new file there to which the processes may append.
    pub(crate) fn lines(&self, name: &str) -> Lines {
        Lines::create(self.path(name))
    }

    /// The command `argv` on this stage: as its user, in its cgroup, with its mark.
    pub(crate) fn wrapped<T: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = T>) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if let Some(group) = &self.group {
            words.extend(["sh", "-c", "echo 0 > \"$0\" && exec \"$@\""].map(Into::into));
            words.push(group.entrance().into());
        }
        if self.uid != getuid().as_raw() {
            words.push("setpriv".into());
            words.extend(
                [
                    format!("--reuid={}", self.uid),
                    format!("--regid={}", self.uid),
                ]
                .map(Into::into),
            );
            words.extend(["--clear-groups", "--"].map(Into::into));
        }
        words.extend(argv.into_iter().map(|word| word.as_ref().to_owned()));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        // Not this user's own, whose directories another may not enter.
        command.env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("HOSTLER_TEST_MARK", &self.mark);
        command.env("MISBEHAVE_READY", self.ready.path());
        command.env("MISBEHAVE_GO", self.path("go"));
        command.env("MISBEHAVE_BEAT", self.path("beat"));
        command.env("MISBEHAVE_HOSTLER", self.kit.hostler());
        command
    }

    /// The words `hostler run --contain … OPTIONS -- ARGV`.
    pub(crate) fn run_words<T: AsRef<OsStr>>(
        &self,
        options: &[&str],
        argv: impl IntoIterator<Item = T>,
    ) -> Vec<OsString> {
        let contain = match self.cell.contain {
            Contain::Tree => "tree",
            Contain::Cgroup => "cgroup",
            Contain::Pidns => "pidns",
        };
        let mut words = vec![
            self.kit.hostler().into(),
            "run".into(),
            "--contain".into(),
            contain.into(),
        ];
        words.extend(options.iter().map(Into::into));
        words.push("--".into());
        words.extend(argv.into_iter().map(|word| word.as_ref().to_owned()));
        words
    }

    /// `hostler run` of any command.
    pub(crate) fn run<T: AsRef<OsStr>>(
        &self,
        options: &[&str],
        argv: impl IntoIterator<Item = T>,
    ) -> Command {
        self.wrapped(self.run_words(options, argv))
    }

    /// The words `misbehave ARGS`.
    pub(crate) fn misbehave_words(&self, args: &[&str]) -> Vec<OsString> {
        let program = [self.kit.misbehave().into_os_string()];
        program
            .into_iter()
            .chain(args.iter().map(Into::into))
            .collect()
    }

    /// `hostler run` of the misbehaving program.
    pub(crate) fn misbehave(&self, options: &[&str], args: &[&str]) -> Command {
        self.run(options, self.misbehave_words(args))
    }

    /// Starts it, with what it writes going to files.
    pub(crate) fn start(&self, command: &mut Command) -> Front<'_> {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (
            self.path(&format!("out-{number}")),
            self.path(&format!("err-{number}")),
        );
        command
            .stdout(File::create(&out).expect("create"))
            .stderr(File::create(&err).expect("create"));
        self.start_as_is(command, out, err)
    }

    /// Starts it with the standard streams that it was given.
    pub(crate) fn start_as_is(
        &self,
        command: &mut Command,
        out: PathBuf,
        err: PathBuf,
    ) -> Front<'_> {
        let started = Instant::now();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Front {
            scene: self,
            child,
            started,
            out,
            err,
            status: None,
        }
    }

    /// Starts it and waits for its end.
    pub(crate) fn outcome(&self, command: &mut Command) -> Outcome {
        self.start(command).outcome()
    }

    /// What is alive of this scene, by mark, by cgroup, and of what was ever seen alive.
    pub(crate) fn living(&self) -> Vec<Found> {
        let mut seen = self.seen.borrow_mut();
        let grouped = self
            .group
            .iter()
            .flat_map(Group::pids)
            .filter_map(Found::read);
        for found in find(&self.mark).into_iter().chain(grouped) {
            seen.insert((found.pid, found.start), found);
        }
        seen.retain(|_, found| found.still_lives());
        seen.values().cloned().collect()
    }

    /// Waits until a shape's main process and every process of the shape stand.
    pub(crate) fn await_shapes<'a>(&self, shapes: impl IntoIterator<Item = &'a Shape>) {
        let lines = 1 + shapes.into_iter().map(|shape| shape.lines).sum::<usize>();
        let describe = || {
            format!(
                "ready: {:?}\nliving: {:?}\n{}",
                self.ready.all(),
                self.living(),
                self.errors()
            )
        };
        wait_until_or(
            &format!("{lines} lines"),
            SHAPES_STAND,
            || self.ready.all().len() >= lines,
            describe,
        );
    }

    /// Lets the main process end.
    pub(crate) fn go(&self) {
        wait_until("someone reads the FIFO", super::SOON, || {
            openat(
                CWD,
                self.path("go"),
                OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .is_ok()
        });
    }

    /// Waits until nothing of the scene lives, and shows that it stays so; prints how long after `since` that was. Panics
    /// with who survived where it takes longer than `limit` times the slack.
    pub(crate) fn await_none(&self, what: &str, since: Instant, limit: Duration) {
        let describe = || format!("survivors: {:?}\n{}", self.living(), self.errors());
        let left = limit.saturating_sub(since.elapsed() / slack());
        wait_until_or(
            &format!("{what}: none left"),
            left,
            || self.living().is_empty(),
            describe,
        );
        println!(
            "{:?}, {what}: none left after {:.0?} (limit {limit:.0?})",
            self.cell,
            since.elapsed()
        );
        // Those that live too briefly to be listed show themselves by their beat.
        let beat = || fs::read(self.path("beat")).expect("read");
        let before = beat();
        for _ in 0..5 {
            assert!(
                self.living().is_empty(),
                "{what}: some came back: {:?}",
                self.living()
            );
            std::thread::sleep(Duration::from_millis(4));
        }
        assert_eq!(before, beat(), "{what}: something still forks");
        if let Some(group) = &self.group {
            let populated = || format!("by the kernel's flag someone is left: {:?}", group.pids());
            wait_until_or(
                "cgroup not populated",
                super::SOON,
                || !group.populated(),
                populated,
            );
        }
    }

    /// Waits until no cgroup that was made below the scene's own is left.
    pub(crate) fn await_no_groups(&self) {
        if let Some(group) = &self.group {
            let describe = || format!("{:?}", group.groups());
            wait_until_or(
                "no cgroup left behind",
                super::SOON,
                || group.groups().is_empty(),
                describe,
            );
        }
    }

    /// Prints which cgroups, empty ones, a killed `hostler` has left.
    pub(crate) fn print_groups(&self, what: &str) {
        let left = self.group.as_ref().map(Group::groups).unwrap_or_default();
        if !left.is_empty() {
            println!("{what}: empty cgroups left: {left:?}");
        }
    }

    fn errors(&self) -> String {
        let files = fs::read_dir(self.dir.path())
            .into_iter()
            .flatten()
            .flatten();
        let files = files.filter(|file| file.file_name().to_string_lossy().starts_with("err-"));
        files
            .map(|file| format!("stderr: {}", read_text(&file.path())))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

/// How long 500 shapes may take to stand.
const SHAPES_STAND: Duration = Duration::from_secs(12);

impl Drop for Scene {
    fn drop(&mut self) {
        self.group = None;
        for _ in 0..500 {
            let living = self.living();
            if living.is_empty() {
                return;
            }
            for found in living {
                found.signal(Signal::KILL);
            }
        }
    }
}
