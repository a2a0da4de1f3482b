//! The two programs under test, where any user can run them: `hostler`, and the misbehaving one, compiled on first use.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

const SOURCES: [&str; 3] = [
    include_str!("../misbehave.c"),
    include_str!("../misbehave_shapes.h"),
    include_str!("../misbehave_tools.h"),
];

/// A directory with `hostler` and `misbehave`. It goes with the last scene that uses it.
pub(crate) struct Kit {
    dir: tempfile::TempDir,
}

/// A row of `misbehave list`.
#[derive(Clone)]
pub(crate) struct Shape {
    /// What it is called.
    pub(crate) name: String,
    /// How many lines it writes once it stands.
    pub(crate) lines: usize,
    /// How many processes live in it at the least.
    pub(crate) living: usize,
    /// Whether it keeps a core busy.
    pub(crate) heavy: bool,
}

impl Kit {
    /// The kit in use, or a new one.
    pub(crate) fn get() -> Arc<Self> {
        static KIT: Mutex<Weak<Kit>> = Mutex::new(Weak::new());
        let mut kit = KIT.lock().unwrap_or_else(PoisonError::into_inner);
        kit.upgrade().unwrap_or_else(|| {
            let new = Arc::new(Self::new());
            *kit = Arc::downgrade(&new);
            new
        })
    }

    fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("hostler-kit-")
            .tempdir()
            .expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        for (from, name) in [
            (env!("CARGO_BIN_EXE_hostler").into(), "hostler"),
            (env!("CARGO_BIN_EXE_hostler-host").into(), "hostler-host"),
            (compiled(), "misbehave"),
        ] {
            let (from, to): (PathBuf, PathBuf) = (from, dir.path().join(name));
            if fs::hard_link(&from, &to).is_ok() {
                continue;
            }
            // Copied by a process of its own: were the file open for writing here, a child forked in that moment by
            // another test would hold it, and executing it would fail with "text file busy".
            let status = Command::new("cp").arg(from).arg(to).status();
            assert!(status.is_ok_and(|status| status.success()), "cp {name}");
        }
        Self { dir }
    }

    /// The program under test.
    pub(crate) fn hostler(&self) -> PathBuf {
        self.dir.path().join("hostler")
    }

    /// The misbehaving program.
    pub(crate) fn misbehave(&self) -> PathBuf {
        self.dir.path().join("misbehave")
    }

    /// Every shape it knows.
    pub(crate) fn shapes() -> &'static [Shape] {
        static SHAPES: OnceLock<Vec<Shape>> = OnceLock::new();
        SHAPES.get_or_init(|| {
            let output = Command::new(Kit::get().misbehave())
                .arg("list")
                .output()
                .expect("misbehave list");
            let text = String::from_utf8(output.stdout).expect("text");
            let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            rows.map(|row| Shape {
                name: row[0].into(),
                lines: row[1].parse().expect("a number"),
                living: row[2].parse().expect("a number"),
                heavy: row[3] == "heavy",
            })
            .collect()
        })
    }

    /// The shape of that name.
    pub(crate) fn shape(name: &str) -> &'static Shape {
        Self::shapes()
            .iter()
            .find(|shape| shape.name == name)
            .unwrap_or_else(|| panic!("no shape {name}"))
    }
}

/// The compiled program, kept between runs for as long as its sources stay the same.
fn compiled() -> PathBuf {
    let mut hasher = DefaultHasher::new();
    SOURCES.hash(&mut hasher);
    let keep = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = keep.join(format!("misbehave-{:016x}", hasher.finish()));
    if !program.exists() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/misbehave.c");
        let new = keep.join(format!("misbehave-{}.new", std::process::id()));
        // Static where the C library can be: it starts in a third of the time.
        let compile = |extra: &[&str]| {
            let mut cc = Command::new("cc");
            let cc = cc
                .args(["-O1", "-pthread"])
                .args(extra)
                .arg("-o")
                .arg(&new)
                .arg(source);
            cc.output()
                .expect("a C compiler (cc) is needed for these tests")
        };
        if !compile(&["-static"]).status.success() {
            let output = compile(&[]);
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        fs::rename(new, &program).expect("rename");
    }
    program
}
