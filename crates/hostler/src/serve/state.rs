//! The state directory, and what a start finds out about this process.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hostler_ledger::HostRun;

use super::Refused;

/// A variable of the environment, where it is text.
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where all state is: what was asked for, or the default.
pub(super) fn directory(
    asked: Option<&Path>,
    get: impl Fn(&str) -> Option<String>,
) -> Result<PathBuf, Refused> {
    let set = |name| {
        get(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let found = asked
        .map(Path::to_owned)
        .or_else(|| set("HOSTLER_STATE_DIR"))
        // What is not absolute is to be ignored, says the specification.
        .or_else(|| {
            let base = set("XDG_STATE_HOME").filter(|base| base.is_absolute());
            base.map(|base| base.join("hostler"))
        })
        .or_else(|| set("HOME").map(|home| home.join(".local/state/hostler")));
    let found = found.ok_or_else(|| {
        Refused::usage("nobody says where the state is: --state-dir, HOSTLER_STATE_DIR or HOME")
    })?;
    std::path::absolute(&found)
        .map_err(|error| Refused::failed(format!("{}: {error}", found.display())))
}

/// Makes the directory, if it is not there, and makes sure that it is this user's alone.
pub(super) fn prepare(directory: &Path) -> Result<(), Refused> {
    let failed = |error: std::io::Error| {
        Refused::failed(format!("cannot use {}: {error}", directory.display()))
    };
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(failed)?;
    let metadata = std::fs::metadata(directory).map_err(failed)?;
    let uid = rustix::process::geteuid().as_raw();
    if metadata.uid() != uid {
        return Err(Refused::failed(format!(
            "{} belongs to user {}, not to user {uid}",
            directory.display(),
            metadata.uid()
        )));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(directory = %directory.display(), "others could look into the state; they no longer can");
        let private = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(directory, private).map_err(failed)?;
    }
    Ok(())
}

/// This run of the host, as the kernel knows it.
pub(super) fn this_run() -> Result<HostRun, Refused> {
    let failed = |error: std::io::Error| Refused::failed(format!("cannot read /proc: {error}"));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(failed)?;
    let proc = hostler_keeper::proc::Proc::open().map_err(|error| failed(error.into()))?;
    let this = proc
        .stat(rustix::process::getpid())
        .map_err(|error| failed(error.into()))?;
    Ok(HostRun {
        boot: boot.trim().to_owned(),
        pid: this.id.pid,
        start_time: this.id.start_time,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// As many descriptors as this process may have: each session and each process needs a few. The zygote, which was forked before, has
/// the limit that this process was started with, and so has everything under it.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_says_where_the_state_is_wins() {
        let env = |list: &'static [(&str, &str)]| {
            move |name: &str| {
                let found = list.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            }
        };
        let all = &[
            ("HOSTLER_STATE_DIR", "/a"),
            ("XDG_STATE_HOME", "/b"),
            ("HOME", "/c"),
        ];
        let of = |asked: Option<&str>, list| directory(asked.map(Path::new), env(list)).ok();
        assert_eq!(of(Some("/x"), all), Some("/x".into()));
        assert_eq!(of(None, all), Some("/a".into()));
        assert_eq!(of(None, &all[1..]), Some("/b/hostler".into()));
        assert_eq!(of(None, &all[2..]), Some("/c/.local/state/hostler".into()));
        assert_eq!(
            of(None, &[("XDG_STATE_HOME", "relative"), ("HOME", "/c")]),
            Some("/c/.local/state/hostler".into())
        );
        assert_eq!(of(None, &[]), None);
    }
}
