//! Files that processes append lines to, and that tests wait on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wait_until_or;

/// A file's text; nothing where there is none.
pub(crate) fn read_text(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// A file to which anyone may append lines.
pub(crate) struct Lines(PathBuf);

impl Lines {
    /// A new, empty one.
    pub(crate) fn create(path: PathBuf) -> Self {
        fs::write(&path, "").expect("create a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
        Self(path)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The whole lines in it.
    pub(crate) fn all(&self) -> Vec<String> {
        let text = read_text(&self.0);
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| line.trim_end().into())
            .collect()
    }

    /// How many of its lines begin with the word `name`.
    pub(crate) fn count(&self, name: &str) -> usize {
        self.all()
            .iter()
            .filter(|line| line.split(' ').next() == Some(name))
            .count()
    }

    /// The number behind `name`, on its first line.
    pub(crate) fn number(&self, name: &str) -> Option<i32> {
        self.all()
            .iter()
            .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Waits until `condition` holds of its lines.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&[String]) -> bool,
    ) {
        wait_until_or(
            what,
            deadline,
            || condition(&self.all()),
            || format!("lines so far: {:?}", self.all()),
        );
    }
}
