//! What to start, and how.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use hostler_keeper::identity::Key;
use hostler_keeper::message::{Group, Rlimit, Spawn, Tidy};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;

use crate::error::{Doing, Error, Result};
use crate::terminal::Terminal;

/// Where one standard stream of a process leads.
#[derive(Debug, Default)]
pub enum Stdio {
    /// To /dev/null.
    #[default]
    Null,
    /// To a pipe, whose other end the [`Process`](crate::Process) has.
    Piped,
    /// To this process's own stream of the same number.
    Inherit,
    /// To this descriptor. It is closed here once the process has it.
    Fd(OwnedFd),
}

/// A process to start.
///
/// Everything is explicit. The environment starts empty (see [`Command::inherit_env`]), the standard streams lead to
/// /dev/null, no other descriptor is passed, no signal is blocked or ignored, the directory is `/` (the keeper's) and the
/// process leads a session of its own.
#[derive(Debug)]
pub struct Command {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cwd: Option<OsString>,
    stdio: [Stdio; 3],
    fds: Vec<(i32, OwnedFd)>,
    terminal: Option<OwnedFd>,
    group: Group,
    rlimits: Vec<Rlimit>,
    nice: Option<i32>,
    umask: Option<u32>,
    main: bool,
    grace: Duration,
    key: Option<Key>,
    stored: Option<String>,
    kept: Vec<(Vec<u8>, OwnedFd)>,
}

impl Command {
    /// Runs `program`: a path, or a name that is looked up in the `PATH` of the environment given here (without one in
    /// `/bin` and `/usr/bin`).
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdio: Default::default(),
            fds: Vec::new(),
            terminal: None,
            group: Group::Session,
            rlimits: Vec::new(),
            nice: None,
            umask: None,
            main: false,
            grace: Duration::from_secs(5),
            key: None,
            stored: None,
            kept: Vec::new(),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the environment, in place of an earlier value.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Sets variables.
    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        self,
        vars: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        vars.into_iter()
            .fold(self, |command, (name, value)| command.env(name, value))
    }

    /// Sets the variables that this process has.
    pub fn inherit_env(self) -> Self {
        self.envs(std::env::vars_os())
    }

    /// Its directory. Without: the keeper's, which is `/`.
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().as_os_str().to_owned());
        self
    }

    /// Where its standard input comes from.
    pub fn stdin(mut self, stdio: Stdio) -> Self {
        self.stdio[0] = stdio;
        self
    }

    /// Where its standard output goes.
    pub fn stdout(mut self, stdio: Stdio) -> Self {
        self.stdio[1] = stdio;
        self
    }

    /// Where its standard error goes.
    pub fn stderr(mut self, stdio: Stdio) -> Self {
        self.stdio[2] = stdio;
        self
    }

    /// All three standard streams lead to the terminal, which becomes the controlling one of the session that the process
    /// leads, with the process's group in its foreground.
    ///
    /// # Errors
    /// When the terminal was hung up, and the kernel's.
    pub fn terminal(mut self, terminal: &Terminal) -> Result<Self> {
        self.terminal = Some(terminal.open_slave()?);
        self.group = Group::Terminal(0);
        Ok(self)
    }

    /// Passes a descriptor, which the process finds at this number. It is closed here once the process has it.
    pub fn fd(mut self, number: i32, fd: OwnedFd) -> Self {
        self.fds.retain(|(known, _)| *known != number);
        self.fds.push((number, fd));
        self
    }

    /// The session and process group that it starts in. [`Group::Session`] unless said.
    pub fn group(mut self, group: Group) -> Self {
        self.group = group;
        self
    }

    /// Limits the process alone (setrlimit(2)); `resource` is a `RLIMIT_` number, [`u64::MAX`] means none.
    pub fn rlimit(mut self, resource: u32, soft: u64, hard: u64) -> Self {
        self.rlimits.push(Rlimit {
            resource,
            soft,
            hard,
        });
        self
    }

    /// Sets its nice value, -20 to 19.
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// Sets its file mode mask.
    pub fn umask(mut self, mask: u32) -> Self {
        self.umask = Some(mask);
        self
    }

    /// This is the process that the tree is for ([`crate::AfterMain`]).
    pub fn main(mut self) -> Self {
        self.main = true;
        self
    }

    /// The time between SIGTERM and SIGKILL when the guard of the process is dropped. 5 s unless said.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Its number within the tree, from [`Tree::new_key`](crate::Tree::new_key) of that very tree. One of its own unless
    /// said. A number that a process of the tree has already makes the spawn fail with `EEXIST`.
    pub fn key(mut self, key: Key) -> Self {
        self.key = Some(key);
        self
    }

    /// Has the keeper keep duplicates of this side's ends of the pipes ([`Stdio::Piped`]), from before the process runs, so
    /// that the next host gets them: as `NAME.stdin`, `NAME.stdout` and `NAME.stderr` ([`Tree::fetch`](crate::Tree::fetch)).
    /// While they are kept, dropping this side's ends closes no pipe: see [`Tree::discard`](crate::Tree::discard). Where the
    /// spawn fails they are discarded.
    pub fn stored(mut self, name: impl Into<String>) -> Self {
        self.stored = Some(name.into());
        self
    }

    /// Has the keeper keep a descriptor under a name, as [`Tree::store`](crate::Tree::store) does, from before the process runs.
    /// Where the spawn fails it is discarded.
    pub fn keep(mut self, name: Vec<u8>, fd: OwnedFd) -> Self {
        self.kept.push((name, fd));
        self
    }

    /// Makes the strings and descriptors ready. Must be called in a runtime.
    pub(crate) fn prepare(self) -> Result<(Prepared, Pipes)> {
        let mut pipes = Pipes::default();
        let mut fds = Vec::with_capacity(3 + self.fds.len());
        let mut numbers = Vec::with_capacity(3 + self.fds.len());
        for (number, stdio) in (0..3).zip(self.stdio) {
            if self.fds.iter().any(|(known, _)| *known == number) {
                continue;
            }
            let fd = match (&self.terminal, stdio) {
                (Some(terminal), _) => terminal.try_clone().doing("make its standard streams")?,
                (None, Stdio::Null) => {
                    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                        .doing("make its standard streams")?
                }
                (None, Stdio::Fd(fd)) => fd,
                (None, Stdio::Inherit) => match number {
                    0 => std::io::stdin().as_fd().try_clone_to_owned(),
                    1 => std::io::stdout().as_fd().try_clone_to_owned(),
                    _ => std::io::stderr().as_fd().try_clone_to_owned(),
                }
                .doing("make its standard streams")?,
                (None, Stdio::Piped) => {
                    let (read, write) =
                        pipe_with(PipeFlags::CLOEXEC).doing("make its standard streams")?;
                    if number == 0 {
                        pipes.stdin = Some(
                            pipe::Sender::from_owned_fd(write)
                                .doing("make its standard streams")?,
                        );
                        read
                    } else {
                        let read = pipe::Receiver::from_owned_fd(read)
                            .doing("make its standard streams")?;
                        let place = if number == 1 {
                            &mut pipes.stdout
                        } else {
                            &mut pipes.stderr
                        };
                        *place = Some(read);
                        write
                    }
                }
            };
            numbers.push(number);
            fds.push(fd);
        }
        for (number, fd) in self.fds {
            numbers.push(number);
            fds.push(fd);
        }
        let mut stored = self.kept;
        if let Some(name) = &self.stored {
            stored.extend(pipes.duplicates(name).doing("duplicate its pipes")?);
        }
        let shown = self.program.to_string_lossy().into_owned();
        let program = text(&self.program)?;
        let args =
            std::iter::once(Ok(program.clone())).chain(self.args.iter().map(|arg| text(arg)));
        let env = self.env.iter().map(|(name, value)| {
            let mut entry = name.clone();
            entry.push("=");
            entry.push(value);
            text(&entry)
        });
        let prepared = Prepared {
            shown,
            args: args.collect::<Result<_>>()?,
            env: env.collect::<Result<_>>()?,
            cwd: self.cwd.as_deref().map(text).transpose()?,
            program,
            numbers,
            fds,
            group: self.group,
            rlimits: self.rlimits,
            nice: self.nice,
            umask: self.umask,
            main: self.main,
            grace: self.grace,
            key: self.key,
            stored,
        };
        Ok((prepared, pipes))
    }
}

fn text(value: &OsStr) -> Result<CString> {
    CString::new(value.as_bytes()).map_err(|_| Error::Nul(value.to_string_lossy().into_owned()))
}

/// The host's ends of a process's pipes.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pub(crate) stdin: Option<pipe::Sender>,
    pub(crate) stdout: Option<pipe::Receiver>,
    pub(crate) stderr: Option<pipe::Receiver>,
}

impl Pipes {
    /// Duplicates, with the names to keep them under.
    fn duplicates(&self, name: &str) -> std::io::Result<Vec<(Vec<u8>, OwnedFd)>> {
        let ends = [
            ("stdin", self.stdin.as_ref().map(AsFd::as_fd)),
            ("stdout", self.stdout.as_ref().map(AsFd::as_fd)),
            ("stderr", self.stderr.as_ref().map(AsFd::as_fd)),
        ];
        ends.into_iter()
            .filter_map(|(stream, end)| Some((format!("{name}.{stream}").into_bytes(), end?)))
            .map(|(name, end)| Ok((name, end.try_clone_to_owned()?)))
            .collect()
    }
}

/// A command that is ready to be sent.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The program's name, for people.
    pub(crate) shown: String,
    pub(crate) fds: Vec<OwnedFd>,
    pub(crate) grace: Duration,
    pub(crate) key: Option<Key>,
    /// What to have the keeper keep, under which names.
    pub(crate) stored: Vec<(Vec<u8>, OwnedFd)>,
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    cwd: Option<CString>,
    numbers: Vec<i32>,
    group: Group,
    rlimits: Vec<Rlimit>,
    nice: Option<i32>,
    umask: Option<u32>,
    main: bool,
}

impl Prepared {
    /// The request for it, with what is stored by it and let go of first.
    pub(crate) fn request<'a>(
        &'a self,
        key: Key,
        stored: &'a [Vec<u8>],
        tidy: Tidy<'a>,
    ) -> Spawn<'a> {
        fn refs(list: &[CString]) -> Vec<&CStr> {
            list.iter().map(CString::as_c_str).collect()
        }
        Spawn {
            key,
            main: self.main,
            program: &self.program,
            args: refs(&self.args),
            env: refs(&self.env),
            cwd: self.cwd.as_deref(),
            fds: self.numbers.clone(),
            group: self.group,
            nice: self.nice,
            umask: self.umask,
            rlimits: self.rlimits.clone(),
            blocked: 0,
            ignored: Some(0),
            stored: stored.iter().map(Vec::as_slice).collect(),
            tidy,
        }
    }
}
