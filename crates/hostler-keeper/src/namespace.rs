//! A pid namespace for a tree: pid_namespaces(7), user_namespaces(7).
//!
//! The keeper stays outside, so that it goes on being the parent of what it starts and sees true pids. The namespace's
//! first process is a small init which only reaps; it dies with the keeper (`PR_SET_PDEATHSIG`), and the kernel then kills
//! everything in the namespace.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open};

use crate::descriptors;
use crate::message::{Failure, Step};
use crate::signals::last_errno;

/// The namespace that this keeper's children are born into.
#[derive(Debug)]
pub(crate) struct Namespace {
    /// Its first process, a child of the keeper.
    pub init: Pid,
    /// Readable when something in the namespace was reaped.
    reaped: OwnedFd,
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reaped.as_fd()
    }
}

impl Namespace {
    /// Makes the namespace and its init. From here on this process's children are born in it.
    ///
    /// # Errors
    /// The step that the machine does not allow, and why.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let own = pidfd_open(getpid(), PidfdFlags::empty())
            .map_err(|e| Failure::new(Step::Namespace, e))?;
        unshare()?;
        let (answer, answer_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|e| Failure::new(Step::Namespace, e))?;
        let (reaped, reaped_end) = rustix::pipe::pipe_with(
            rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK,
        )
        .map_err(|e| Failure::new(Step::Namespace, e))?;
        // SAFETY: this process has one thread, so the child may go on in Rust.
        match unsafe { libc::fork() } {
            -1 => Err(Failure::new(Step::Fork, last_errno())),
            0 => init(&own, &answer_end, &reaped_end),
            pid => {
                drop(answer_end);
                let mut word = [0; 5];
                let failed =
                    match rustix::io::retry_on_intr(|| rustix::io::read(&answer, &mut word)) {
                        Ok(1) => {
                            return Ok(Self {
                                init: Pid::from_raw(pid).expect("fork gave a pid"),
                                reaped,
                            });
                        }
                        Ok(5) => {
                            let errno = i32::from_le_bytes([word[1], word[2], word[3], word[4]]);
                            Failure {
                                step: Step::Mount,
                                errno,
                            }
                        }
                        _ => Failure::new(Step::Namespace, Errno::CHILD),
                    };
                let pid = Pid::from_raw(pid);
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty());
                Err(failed)
            }
        }
    }

    /// Takes note of what was reaped.
    pub(crate) fn drain(&self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.reaped, &mut bytes).is_ok_and(|n| n > 0) {}
    }
}

/// New namespaces for pids and mounts; for a user without the right to make them, inside a new user namespace in which
/// this user is who he was.
fn unshare() -> Result<(), Failure> {
    let plain = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    let (user, group) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    // SAFETY: a plain system call; this process has one thread.
    if unsafe { libc::unshare(plain) } == -1 {
        if last_errno() != Errno::PERM {
            return Err(Failure::new(Step::Namespace, last_errno()));
        }
        // SAFETY: as above.
        if unsafe { libc::unshare(plain | libc::CLONE_NEWUSER) } == -1 {
            return Err(Failure::new(Step::Namespace, last_errno()));
        }
        let write = |path: &str, text: &str| {
            std::fs::write(path, text).map_err(|e| Failure {
                step: Step::Namespace,
                errno: e.raw_os_error().unwrap_or(libc::EIO),
            })
        };
        write("/proc/self/uid_map", &format!("{user} {user} 1"))?;
        // Without this an ordinary user may not map groups (user_namespaces(7)).
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/gid_map", &format!("{group} {group} 1"))?;
    }
    // What is mounted inside stays inside; what the host mounts later is still seen.
    mount(c"none", c"/", None, libc::MS_REC | libc::MS_SLAVE)
        .map_err(|errno| Failure::new(Step::Mount, errno))
}

fn mount(
    source: &CStr,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
) -> Result<(), Errno> {
    let kind = kind.map_or(ptr::null(), CStr::as_ptr);
    // SAFETY: strings that outlive the call.
    if unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind, flags, ptr::null()) } == -1 {
        return Err(last_errno());
    }
    Ok(())
}

/// The first process of the namespace: mounts its /proc, then reaps for ever.
fn init(keeper: &OwnedFd, answer: &OwnedFd, reaped: &OwnedFd) -> ! {
    // SAFETY: plain system calls in a process of its own with one thread. _exit, so that nothing of the keeper's is run.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let mut poll = [PollFd::new(keeper, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        if rustix::event::poll(&mut poll, Some(&now)) != Ok(0) {
            // The keeper died before that.
            libc::_exit(1);
        }
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        if let Err(errno) = mount(c"proc", c"/proc", Some(c"proc"), flags) {
            let code = errno.raw_os_error().to_le_bytes();
            let _ = rustix::io::write(answer, &[1, code[0], code[1], code[2], code[3]]);
            libc::_exit(1);
        }
        let reaped_fd = reaped.as_raw_fd();
        // The keeper's connections must not live on in here.
        descriptors::keep_only(vec![reaped_fd, answer.as_raw_fd()]);
        if rustix::io::write(answer, &[0]).is_err() {
            libc::_exit(1);
        }
        libc::close(answer.as_raw_fd());
        crate::process_name(c"hostler-init");
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        loop {
            if libc::waitpid(-1, ptr::null_mut(), 0) == -1 {
                // No child now; one that is orphaned to us later tells by this signal that it has ended.
                libc::sigwaitinfo(&raw const child, ptr::null_mut());
            } else {
                libc::write(reaped_fd, [0u8].as_ptr().cast(), 1);
            }
        }
    }
}
