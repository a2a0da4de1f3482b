//! The front: the process that the user started. It passes everything on to the keeper's command, forwards signals, stops
//! and goes on with it, and exits with its status.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use hostler_keeper::cgroup::{self, Cgroup};
use hostler_keeper::config::{AfterMain, Contain, KeeperConfig, Limits, Rules};
use hostler_keeper::connection::{Connection, ConnectionError};
use hostler_keeper::identity::Key;
use hostler_keeper::inherit;
use hostler_keeper::message::{Event, Group, Reply, Request, Rlimit, Spawn, Tidy, ZygoteReply};
use hostler_keeper::outcome::{EndReason, EndReport, ExitStatus};
use hostler_keeper::proc::Proc;
use hostler_keeper::signals::{self, Signals};
use hostler_keeper::zygote::{FIRST, First, Zygote};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Resource, getpid, getppid, getrlimit, pidfd_open};

use crate::options::{Containment, Options, Owner};
use crate::refusal::{Refusal, refused};
use crate::report::{self, Summary};
use crate::say;

/// What hostler exits with when it ended the command for its time or quiet, as timeout(1) does.
const ENDED: u8 = 124;
/// For a limit, as if killed.
const KILLED: u8 = 137;

/// Runs the command and returns what to exit with.
pub fn run(options: &Options) -> u8 {
    inherit::prepare();
    match prepare(options).and_then(|front| front.serve(options)) {
        Ok(status) => status,
        Err(Refusal { status, text }) => {
            say(&text);
            report::refusal(options, status, &text);
            status
        }
    }
}

/// Everything between the start and the end of the command.
struct Front {
    keeper: Connection,
    zygote: Zygote,
    signals: Signals,
    report: Option<std::fs::File>,
    contain: Contain,
    /// The cgroup that the keeper was asked to make.
    cgroup: Option<CString>,
    /// Whether what zygote and keeper leave comes to this process, and nothing else does.
    adopts: bool,
    began: Instant,
    keeper_pid: Option<u32>,
    /// The command, once its exec has succeeded.
    pid: Option<u32>,
    exit: Option<ExitStatus>,
    end: Option<EndReport>,
    /// Signals that would end a command and were passed on.
    passed: u64,
    /// The keeper and the zygote have hung up.
    keeper_gone: bool,
    zygote_gone: bool,
}

fn prepare(options: &Options) -> Result<Front, Refusal> {
    let began = Instant::now();
    if options.command.first().is_none_or(|name| name.is_empty()) {
        return Err(Refusal {
            status: 2,
            text: "the command is empty".to_owned(),
        });
    }
    let proc = Proc::open().map_err(|_| {
        Refusal::new("cannot read /proc: it must be mounted, and be this pid namespace's own")
    })?;
    let owner = open_owner(options)?;
    let report = match &options.report {
        Some(path) => Some(std::fs::File::create(path).map_err(|error| {
            Refusal::new(format_args!(
                "cannot write the report {}: {error}",
                path.display()
            ))
        })?),
        None => None,
    };
    let config = configure(options);
    let (contain, cgroup) = (config.contain, config.cgroup.clone());
    // Whatever zygote and keeper leave comes here, if both are killed; not where others' orphans would come too.
    let adopts = !hostler_keeper::zygote::has_children()
        && rustix::process::set_child_subreaper(Some(getpid())).is_ok();
    let signals = Signals::take()?;
    let file_size = lift_file_size();
    let args: Vec<CString> = options
        .command
        .iter()
        .map(|word| {
            CString::new(word.as_bytes()).map_err(|_| Refusal::new("an argument holds a NUL"))
        })
        .collect::<Result<_, _>>()?;
    let first = First {
        config,
        owner,
        proc,
        signals: &signals,
        spawn: command(&args, file_size),
    };
    let (zygote, keeper) = inherit::as_started(|| Zygote::fork_with(first))
        .map_err(|error| Refusal::new(format_args!("{error}")))?;
    let own = [
        Some(keeper.as_fd()),
        Some(zygote.connection.as_fd()),
        Some(signals.as_fd()),
        report.as_ref().map(AsFd::as_fd),
    ];
    inherit::release(&own.into_iter().flatten().collect::<Vec<_>>());
    Ok(Front {
        keeper,
        zygote,
        signals,
        report,
        contain,
        cgroup,
        adopts,
        began,
        keeper_pid: None,
        pid: None,
        exit: None,
        end: None,
        passed: 0,
        keeper_gone: false,
        zygote_gone: false,
    })
}

/// The command, which inherits what hostler was given.
fn command(args: &[CString], file_size: Option<Rlimit>) -> Spawn<'_> {
    Spawn {
        key: Key(1),
        main: true,
        program: &args[0],
        args: args.iter().map(CString::as_c_str).collect(),
        env: inherit::environment(),
        cwd: None,
        // All that hostler has opened itself is close-on-exec.
        fds: Vec::new(),
        group: Group::Inherit,
        nice: None,
        umask: None,
        rlimits: file_size.into_iter().collect(),
        blocked: inherit::blocked(),
        ignored: inherit::ignored(),
        stored: Vec::new(),
        tidy: Tidy::default(),
    }
}

/// The process whose death ends the tree.
fn open_owner(options: &Options) -> Result<Option<OwnedFd>, Refusal> {
    match options.die_with {
        Some(Owner::Nobody) => Ok(None),
        Some(Owner::Process(pid)) => {
            pidfd_open(pid, PidfdFlags::empty())
                .map(Some)
                .map_err(|errno| {
                    Refusal::new(format_args!(
                        "cannot die with process {}: {errno}",
                        pid.as_raw_nonzero()
                    ))
                })
        }
        None => {
            // Nobody, for the first process of a namespace or a container.
            let Some(parent) = getppid() else {
                return Ok(None);
            };
            let opened = pidfd_open(parent, PidfdFlags::empty());
            // If it died before it was opened, it is another that was, or none.
            if getppid() != Some(parent) {
                return Ok(None);
            }
            opened.map(Some).map_err(|errno| {
                Refusal::new(format_args!(
                    "cannot die with process {}, which started this: pidfd_open: {errno}",
                    parent.as_raw_nonzero()
                ))
            })
        }
    }
}

fn configure(options: &Options) -> KeeperConfig {
    let base = match options.contain {
        Containment::Tree => None,
        Containment::Auto | Containment::Cgroup | Containment::Pidns => cgroup::base(),
    };
    let contain = match options.contain {
        Containment::Tree => Contain::Tree,
        Containment::Pidns => Contain::Pidns,
        Containment::Cgroup => Contain::Cgroup,
        // With the cgroup, where it can be had.
        Containment::Auto => Contain::Tree,
    };
    let mut config = KeeperConfig::new(contain, options.grace.span);
    config.title = CString::new(options.command[0].as_bytes()).unwrap_or_default();
    config.cgroup = base
        .and_then(|base| cgroup::fresh(&base, &format!("run-{}", getpid().as_raw_nonzero())).ok());
    config.limits = Limits {
        memory: options.memory.as_ref().map(|size| size.bytes),
        pids: options.pids,
        cpu_millis: options.cpu.map(|cpus| cpus.millis),
    };
    config.rules = Rules {
        after_main: if options.keep_children {
            AfterMain::Wait
        } else {
            AfterMain::End
        },
        timeout: options.timeout.as_ref().map(|time| time.span),
        idle_timeout: options.idle_timeout.as_ref().map(|time| time.span),
        max_lifetime: options.max_lifetime.as_ref().map(|time| time.span),
        measure: options.report.is_some() || options.verbose,
    };
    config
}

/// Long messages travel in memory files, which the limit on file sizes is for as well (setrlimit(2)). Gives back the limit
/// that was in force, if it was one.
fn lift_file_size() -> Option<Rlimit> {
    let limit = getrlimit(Resource::Fsize);
    let soft = limit.current?;
    let lifted = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(Resource::Fsize, lifted).ok()?;
    Some(Rlimit {
        resource: Resource::Fsize as u32,
        soft,
        hard: limit.maximum.unwrap_or(u64::MAX),
    })
}

impl Front {
    /// Serves until the tree is gone.
    fn serve(mut self, options: &Options) -> Result<u8, Refusal> {
        while self.end.is_none() {
            self.wait()?;
            self.read_keeper(options)?;
            self.read_zygote()?;
            self.read_signals()?;
            if self.keeper_gone && self.zygote_gone && self.end.is_none() {
                // Both were killed: what is left has come to this process.
                if !self.adopts {
                    return Err(Refusal {
                        status: KILLED,
                        text: "keeper and zygote were killed".to_owned(),
                    });
                }
                self.end = Some(hostler_keeper::zygote::end_adopted());
            }
        }
        let status = self.finish(options);
        if self.end.as_ref().is_some_and(|end| end.remaining == 0) {
            self.zygote.dismiss(self.adopts);
            // It is still there only where all who would have removed it were killed.
            let left = self.cgroup.and_then(|path| Cgroup::open(&path).ok());
            if let Some(cgroup) = left {
                let _ = cgroup.remove();
            }
        }
        Ok(status)
    }

    fn wait(&self) -> Result<(), Refusal> {
        let mut poll = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if !self.keeper_gone {
            poll.push(PollFd::new(&self.keeper, PollFlags::IN));
        }
        if !self.zygote_gone {
            poll.push(PollFd::new(&self.zygote.connection, PollFlags::IN));
        }
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut poll, None))
            .map_err(io::Error::from)?;
        Ok(())
    }

    fn read_keeper(&mut self, options: &Options) -> Result<(), Refusal> {
        while !self.keeper_gone {
            let received = match self.keeper.try_receive() {
                Ok(Some(received)) => received,
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Ok(None) | Err(_) => {
                    self.keeper_gone = true;
                    return Ok(());
                }
            };
            if received.header.id == 0 {
                if let Ok(event) = received.message::<Event>() {
                    self.take_event(event, options)?;
                }
            } else if received.header.id == FIRST {
                match received.message::<Reply>() {
                    Ok(Reply::Spawned(id)) => self.pid = Some(id.pid),
                    Ok(Reply::Failed(failure)) => return Err(refused(options, failure)),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn take_event(&mut self, event: Event, options: &Options) -> Result<(), Refusal> {
        match event {
            Event::Ready { enforced, .. } => {
                let made = |path: &CString| {
                    rustix::fs::access(path.as_c_str(), rustix::fs::Access::EXISTS)
                };
                if self.cgroup.as_ref().is_some_and(|path| made(path).is_ok()) {
                    self.contain = self.contain.max(Contain::Cgroup);
                }
                if let Some(cpus) = options.cpu
                    && !enforced.cpu
                {
                    let bound = cpus.millis.div_ceil(1000).max(1);
                    say(&format!(
                        "--cpu: no cpu controller can be used here; bound to {bound} CPU(s) instead"
                    ));
                }
            }
            Event::Unfit(failure) => {
                let how = self.contain.as_str();
                return Err(Refusal::new(format_args!(
                    "cannot contain the command by {how}: {failure}"
                )));
            }
            Event::Exited { exit, .. } => self.exit = Some(exit.status),
            Event::Stopped { signal, .. } => self.stop(signal),
            Event::Ended(report) => self.end = Some(report),
            Event::Continued { .. } | Event::Ending(_) | Event::Superseded => {}
        }
        Ok(())
    }

    /// Stops as the command did, so that the shell sees it, unless the command goes on by now: word of its stop may have come while
    /// this process was stopped itself by the same signal, and to stop for it once more would leave the command alone.
    fn stop(&self, signal: i32) {
        if self.is_command_stopped() {
            hostler_keeper::hook!("front.stops");
            signals::stop(signal);
        }
        let _ = self.keeper.send(3, &Request::WentOn, &[]);
    }

    /// By the kernel's word; also where that cannot be had, or the command is no more.
    fn is_command_stopped(&self) -> bool {
        let command = self.pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let (Some(command), Ok(proc)) = (command, Proc::open()) else {
            return true;
        };
        let stat = proc.stat(command).ok();
        stat.filter(|stat| Some(stat.parent) == self.keeper_pid)
            // Z: its first thread is gone, and what stopped are others.
            .is_none_or(|stat| matches!(stat.state, b'T' | b't' | b'Z' | b'X'))
    }

    fn read_zygote(&mut self) -> Result<(), Refusal> {
        while !self.zygote_gone {
            match self.zygote.connection.try_receive() {
                Ok(Some(received)) => match received.message::<ZygoteReply>() {
                    Ok(ZygoteReply::Forked(id)) => self.keeper_pid = Some(id.pid),
                    Ok(ZygoteReply::Failed(failure)) => return Err(Refusal::new(failure)),
                    Ok(ZygoteReply::Signalled { signal, sender }) => {
                        let _ = self
                            .keeper
                            .send(3, &Request::Insist { signal, sender }, &[]);
                    }
                    Ok(ZygoteReply::KeeperGone { report, .. }) => {
                        // What the keeper said before it went counts first.
                        while let Ok(Some(received)) = self.keeper.try_receive() {
                            match received.message::<Event>() {
                                Ok(Event::Exited { exit, .. }) => self.exit = Some(exit.status),
                                Ok(Event::Ended(report)) => self.end = Some(report),
                                Ok(Event::Unfit(failure)) => {
                                    return Err(Refusal::new(format_args!(
                                        "cannot contain the command: {failure}"
                                    )));
                                }
                                _ => {}
                            }
                        }
                        self.keeper_gone = true;
                        if self.end.is_none() {
                            self.end = Some(report);
                        }
                    }
                    Err(_) => {}
                },
                Err(ConnectionError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(());
                }
                Ok(None) | Err(_) => self.zygote_gone = true,
            }
        }
        Ok(())
    }

    fn read_signals(&mut self) -> Result<(), Refusal> {
        for received in self.signals.waiting()? {
            let sender = received.sender.cast_unsigned();
            let own = sender != 0 && Some(sender) == self.keeper_pid;
            if received.signal == hostler_keeper::signals::CHLD || own {
                continue;
            }
            if received.signal <= 31 {
                self.passed |= 1 << received.signal;
            }
            let signals::Received { signal, sender } = received;
            let request = Request::Forward { signal, sender };
            // A keeper that is gone is noticed by reading.
            let _ = self.keeper.send(3, &request, &[]);
        }
        Ok(())
    }

    fn finish(&mut self, options: &Options) -> u8 {
        let Some(end) = &self.end else { return KILLED };
        let exit = self.exit.unwrap_or(ExitStatus::Lost);
        let status = match end.reason {
            EndReason::Timeout | EndReason::Idle | EndReason::Lifetime => ENDED,
            EndReason::Memory { .. } | EndReason::KeeperLost => KILLED,
            // Where the kernel refused the forks, the command lived on and has a status of its own.
            EndReason::Pids { .. } if end.left.is_empty() => exit.shell_code(),
            EndReason::Pids { .. } => KILLED,
            _ => exit.shell_code(),
        };
        let by_signal = matches!(exit, ExitStatus::Signal { signal, .. } if signal <= 31 && self.passed & (1 << signal) != 0);
        let wall: Duration = self.began.elapsed();
        let summary = Summary {
            options,
            contain: self.contain.as_str(),
            pid: self.pid.unwrap_or(0),
            exit,
            status,
            end,
            by_signal,
            wall,
        };
        summary.tell(self.report.take());
        status
    }
}
