//! A listener for the program's test hooks: who comes by an event that is held waits there.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Somebody who waits at a hook. Dropping this lets it go on.
pub(crate) struct Held {
    _stream: UnixStream,
}

/// The listener.
pub(crate) struct Hooks {
    dir: tempfile::TempDir,
    held: Arc<Mutex<HashSet<String>>>,
    passed: Arc<Mutex<Vec<String>>>,
    arrivals: Receiver<Held>,
}

impl Hooks {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("hooks")).expect("a socket");
        let held: Arc<Mutex<HashSet<String>>> = Arc::default();
        let passed: Arc<Mutex<Vec<String>>> = Arc::default();
        let (sender, arrivals) = channel();
        let came_by = passed.clone();
        let wanted = held.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                if reader.read_line(&mut line).is_err() {
                    continue;
                }
                let Some((name, _pid)) = line.trim_end().split_once(' ') else {
                    continue;
                };
                came_by.lock().expect("whole").push(name.to_owned());
                // Each is held once.
                if wanted.lock().expect("whole").remove(name) {
                    if sender.send(Held { _stream: stream }).is_err() {
                        return;
                    }
                } else {
                    let _ = (&stream).write_all(b"x");
                }
            }
        });
        Self {
            dir,
            held,
            passed,
            arrivals,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::join(self.dir.path(), "hooks")
    }

    /// The next who comes by this event is to be held.
    pub(crate) fn hold(&self, name: &str) {
        self.held.lock().expect("whole").insert(name.to_owned());
    }

    /// How often somebody came by this event.
    pub(crate) fn passed(&self, name: &str) -> usize {
        let passed = self.passed.lock().expect("whole");
        passed.iter().filter(|passed| *passed == name).count()
    }

    /// Whoever is held now.
    pub(crate) fn arrival(&self) -> Held {
        self.arrivals
            .recv_timeout(Duration::from_secs(20))
            .expect("somebody comes by the hook")
    }
}
