//! A host, flows in files, and processes that carry a mark.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::Value;

use crate::place::Place;
use crate::support::{SOON, find, wait_until_or};

/// A host with flows.
pub(crate) struct Bench {
    pub(crate) place: Place,
    /// What the processes of its flows carry, where `${MARK}` stands in a flow.
    mark: String,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with_config("[policy]\ngrace = \"500ms\"\n")
    }

    pub(crate) fn with_config(text: &str) -> Self {
        let mut random = [0; 16];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut random))
            .expect("random bits");
        Self {
            place: Place::with_config(text),
            mark: format!("mark-{:032x}", u128::from_le_bytes(random)),
        }
    }

    /// A file beside the flows.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.place.dir.path().join(name)
    }

    /// What is in it; empty where there is none.
    pub(crate) fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Writes a flow, and gives its file. `MARK` in it becomes the mark.
    pub(crate) fn flow(&self, name: &str, steps: &str) -> String {
        let path = self.path(&format!("{name}.yaml"));
        let text = format!("name: {name}\n{}", steps.replace("MARK", &self.mark));
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// A client, where the flows are.
    pub(crate) fn job(&self, words: &[&str]) -> Command {
        let mut command = self.place.hostler(&[&["job"], words].concat());
        command.current_dir(self.place.dir.path());
        command
    }

    /// One that is started.
    pub(crate) fn start(&self, words: &[&str]) -> Child {
        let mut command = self.job(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("hostler")
    }

    /// The status, the standard output and the standard error of one.
    pub(crate) fn comes_to(&self, words: &[&str]) -> (Option<i32>, String, String) {
        told(self.start(words))
    }

    /// The output of one that succeeds.
    pub(crate) fn ok(&self, words: &[&str]) -> String {
        let (status, out, err) = self.comes_to(words);
        assert_eq!(status, Some(0), "{words:?}: {out}{err}");
        out.trim_end().to_owned()
    }

    /// The one line of one that fails.
    pub(crate) fn fails(&self, words: &[&str]) -> (Option<i32>, String) {
        let (status, out, err) = self.comes_to(words);
        assert_ne!(status, Some(0), "{words:?}: {out}{err}");
        assert_eq!(err.lines().count(), 1, "one line: {err:?}");
        (status, err)
    }

    /// A job as programs see it.
    pub(crate) fn show(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["show", id, "--json"])).expect("JSON")
    }

    /// The jobs as programs see them.
    pub(crate) fn list(&self, words: &[&str]) -> Vec<Value> {
        let text = self.ok(&[&["ls", "--json"], words].concat());
        serde_json::from_str(&text).expect("JSON")
    }

    /// The only job that has not ended, once there is one for which this holds.
    pub(crate) fn the_job(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let mut found = Value::Null;
        wait_until_or(
            what,
            SOON,
            || {
                let open = self.list(&[]);
                let Some(id) = open.first().and_then(|job| job["id"].as_str()) else {
                    return false;
                };
                found = self.show(id);
                holds(&found)
            },
            || format!("{:#?}", self.list(&["-a"])),
        );
        found
    }

    /// How many processes live that carry the mark.
    pub(crate) fn alive(&self) -> usize {
        find(&self.mark).into_iter().filter(|of| of.lives()).count()
    }

    /// Waits until there are so many.
    pub(crate) fn wait_alive(&self, count: usize) {
        wait_until_or(
            &format!("{count} processes carry the mark"),
            SOON,
            || self.alive() == count,
            || format!("there are {}", self.alive()),
        );
    }

    /// Waits until a file says this.
    pub(crate) fn wait_text(&self, name: &str, text: &str) {
        wait_until_or(
            &format!("{name} says {text:?}"),
            SOON,
            || self.text(name) == text,
            || format!("it says {:?}", self.text(name)),
        );
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Only what a failed test has left.
        for found in find(&self.mark) {
            found.signal(rustix::process::Signal::KILL);
        }
    }
}

/// What a client that was started comes to.
pub(crate) fn told(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().expect("wait");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Reads what a client tells until a line has this in it.
pub(crate) fn read_until(client: &mut Child, what: &str) -> BufReader<ChildStderr> {
    let mut told = BufReader::new(client.stderr.take().expect("stderr"));
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert_ne!(
            told.read_line(&mut line).expect("read"),
            0,
            "{what} was not told"
        );
    }
    told
}
