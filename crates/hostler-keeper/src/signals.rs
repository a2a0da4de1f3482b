//! Signals: blocked all along and read from a descriptor (signalfd(2)), so that nothing ever runs in a handler.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::{io, mem, ptr};

use rustix::io::Errno;

/// A child has ended, stopped or gone on.
pub const CHLD: i32 = libc::SIGCHLD;

/// The sender of what the kernel sends by itself: for the terminal, above all.
pub const KERNEL: i32 = -1;

/// A signal that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// The sender's pid; 0 for a process outside of this pid namespace; [`KERNEL`].
    pub sender: i32,
}

/// The descriptor at which all blocked signals are read.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Signals {
    /// Blocks every signal that can be, and reads them from here on. For a process without threads.
    ///
    /// # Errors
    /// The kernel's, when out of descriptors.
    pub fn take() -> io::Result<Self> {
        // SAFETY: a disposition without code, and a full set in a local, which the calls only read.
        let fd = unsafe {
            // Where it is ignored, the kernel reaps, and nobody is told of an exit (waitpid(2)).
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut all: libc::sigset_t = mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, ptr::null_mut());
            libc::signalfd(-1, &raw const all, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The same for a process that was forked from the one that took them: it blocks them too, and reads those that it was
    /// sent itself (signalfd(2)).
    ///
    /// # Errors
    /// The kernel's, when out of descriptors.
    pub(crate) fn inherited(&self) -> io::Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)?;
        Ok(Self { fd })
    }

    /// The signals that are waiting, in the order in which the kernel gives them; none where there are none. Mostly one call.
    ///
    /// # Errors
    /// read(2)'s; never `WouldBlock`.
    pub fn waiting(&self) -> io::Result<Vec<Received>> {
        const ONE: usize = size_of::<libc::signalfd_siginfo>();
        let mut found = Vec::new();
        let mut bytes = [0u8; AT_ONCE * ONE];
        loop {
            let length = match rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut bytes))
            {
                Err(Errno::AGAIN) => return Ok(found),
                Err(errno) => return Err(errno.into()),
                Ok(length) => length,
            };
            let (each, _) = bytes[..length].as_chunks::<ONE>();
            found.extend(each.iter().map(received));
            if each.len() < AT_ONCE {
                // What comes later is seen with the next wait.
                return Ok(found);
            }
        }
    }
}

/// How many signals are read at once.
const AT_ONCE: usize = 4;

fn received(bytes: &[u8; size_of::<libc::signalfd_siginfo>()]) -> Received {
    // SAFETY: the kernel filled in a whole structure of plain numbers, for which all values are valid.
    let info: libc::signalfd_siginfo = unsafe { mem::transmute_copy(bytes) };
    let sender = if info.ssi_code == libc::SI_KERNEL {
        KERNEL
    } else {
        info.ssi_pid as i32
    };
    Received {
        signal: info.ssi_signo as i32,
        sender,
    }
}

/// The signals that this process ignores, bit n-1 for signal n.
pub fn ignored() -> u64 {
    (1..=64)
        .filter(|signal| is_ignored(*signal))
        .fold(0, |set, signal| set | 1 << (signal - 1))
}

/// Whether this process ignores the signal.
pub(crate) fn is_ignored(signal: i32) -> bool {
    // SAFETY: asks only; the structure is plain data.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        libc::sigaction(signal, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// The signals that this thread blocks, bit n-1 for signal n.
pub(crate) fn blocked() -> u64 {
    let mut mask = 0u64;
    // SAFETY: the kernel writes eight bytes to a local.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_BLOCK,
            ptr::null::<u64>(),
            &raw mut mask,
            8,
        )
    };
    mask
}

/// Stops this process as this signal's default does, and returns when it goes on. In a process group that no shell looks
/// after (an orphaned one) the terminal's stop signals do nothing, as for any process.
pub fn stop(signal: i32) {
    if signal == libc::SIGSTOP {
        // SAFETY: signals this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
        return;
    }
    // SAFETY: dispositions without code, sets in locals; the mask is restored before anything else runs. The signal is
    // taken off the queue first, for the same keystroke has sent it to this process too, and two would stop twice.
    unsafe {
        let mut only: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut only);
        libc::sigaddset(&raw mut only, signal);
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        libc::sigtimedwait(&raw const only, ptr::null_mut(), &raw const zero);
        let before = libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const only, ptr::null_mut());
        libc::sigprocmask(libc::SIG_BLOCK, &raw const only, ptr::null_mut());
        libc::signal(signal, before);
    }
}

/// Sends a signal to a child of this process that was not waited for yet: its pid cannot have been given out again.
///
/// # Errors
/// `PERM`, when it has become somebody else's.
pub(crate) fn signal_child(child: rustix::process::Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: a plain system call.
    check(unsafe { libc::kill(child.as_raw_nonzero().get(), signal) })
}

/// Sends a signal to the process group that such a child leads. While its leader is not waited for, the group's number
/// cannot have been given out again.
///
/// # Errors
/// `SRCH` when it leads none.
pub(crate) fn signal_group(leader: rustix::process::Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: as above.
    check(unsafe { libc::kill(-leader.as_raw_nonzero().get(), signal) })
}

/// Sends a signal to the process behind a pidfd, which is it and no other.
///
/// # Errors
/// `SRCH` when it has ended, `PERM`.
pub(crate) fn signal_handle(handle: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: a plain system call; the null pointer stands for "no siginfo".
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            handle.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(result as i32)
}

/// The process group of this process or of a child; 0 for one outside of this pid namespace.
pub(crate) fn group_of(pid: Option<rustix::process::Pid>) -> Option<i32> {
    // SAFETY: a plain system call. Not through rustix, whose type has no 0.
    let group = unsafe { libc::getpgid(pid.map_or(0, |pid| pid.as_raw_nonzero().get())) };
    (group >= 0).then_some(group)
}

fn check(result: i32) -> Result<(), Errno> {
    if result == -1 {
        Err(last_errno())
    } else {
        Ok(())
    }
}

/// The reason of the last failure of a C library call.
pub(crate) fn last_errno() -> Errno {
    Errno::from_raw_os_error(
        io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO),
    )
}
