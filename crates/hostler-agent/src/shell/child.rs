//! A command as a child of the agent's own, where the client runs no terminals.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::text::Decoder;
use super::turn::{Ended, Turn};
use super::wire::Wire;

/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);
/// The most that is read at once: what a pipe holds by default.
const AT_ONCE: usize = 64 << 10;

/// Runs it to its exit. What it leaves behind goes on, and its output is no longer heard.
pub(super) fn run(turn: &Arc<Turn>, wire: &Wire) -> Ended {
    let child = Command::new("sh")
        .arg("-c")
        .arg(&turn.command)
        .current_dir(&turn.cwd)
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let failed = |error: io::Error| Ended {
        failed: Some(format!("cannot run a shell: {error}")),
        ..Ended::default()
    };
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return failed(error),
    };
    match tend(turn, wire, &mut child) {
        Ok(ended) => ended,
        Err(error) => {
            // Never leave it behind.
            let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
            let _ = child.wait();
            failed(error)
        }
    }
}

fn tend(turn: &Arc<Turn>, wire: &Wire, child: &mut Child) -> io::Result<Ended> {
    let pid = Pid::from_child(child);
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let mut streams = [
        Stream::new(stdout.as_ref().map(AsFd::as_fd))?,
        Stream::new(stderr.as_ref().map(AsFd::as_fd))?,
    ];
    let mut seen = 0;
    let mut kill_at = None;
    loop {
        let stops = turn.stops();
        if stops > seen {
            let signal = if seen == 0 && stops == 1 {
                Signal::TERM
            } else {
                Signal::KILL
            };
            let _ = kill_process_group(pid, signal);
            kill_at.get_or_insert_with(|| Instant::now() + GRACE);
            seen = stops;
        }
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            let _ = kill_process_group(pid, Signal::KILL);
            kill_at = Some(Instant::now() + GRACE);
        }
        let mut ready = vec![PollFd::new(&process, PollFlags::IN)];
        ready.extend(streams.iter().filter_map(Stream::poll));
        turn.wait(&mut ready, kill_at);
        let exited = !ready[0].revents().is_empty();
        for stream in &mut streams {
            // After the exit, all that it had written; others may write on.
            for _ in 0..if exited { 16 } else { 1 } {
                if !stream.read(turn, wire)? {
                    break;
                }
            }
        }
        if exited {
            if seen > 0 {
                // Not reaped yet, so the group's number is still its own.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            break;
        }
    }
    for stream in &mut streams {
        turn.say(wire, &stream.decoder.finish());
    }
    let status = child.wait()?;
    Ok(Ended {
        code: status.code().and_then(|code| u64::try_from(code).ok()),
        signal: status.signal().map(signal_name),
        failed: None,
    })
}

/// One of its outputs.
struct Stream<'a> {
    fd: Option<BorrowedFd<'a>>,
    decoder: Decoder,
}

impl<'a> Stream<'a> {
    fn new(fd: Option<BorrowedFd<'a>>) -> io::Result<Self> {
        if let Some(fd) = fd {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let decoder = Decoder::default();
        Ok(Self { fd, decoder })
    }

    fn poll(&self) -> Option<PollFd<'a>> {
        self.fd
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
    }

    /// Reads and tells what is there; whether there may be more.
    fn read(&mut self, turn: &Turn, wire: &Wire) -> io::Result<bool> {
        let Some(fd) = self.fd else { return Ok(false) };
        let mut bytes = vec![0; AT_ONCE];
        match rustix::io::read(fd, &mut bytes) {
            Ok(0) => self.fd = None,
            Ok(count) => {
                turn.say(wire, &self.decoder.feed(&bytes[..count]));
                return Ok(true);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(false)
    }
}

/// How people call a signal.
fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        _ => return format!("signal {number}"),
    };
    name.into()
}
