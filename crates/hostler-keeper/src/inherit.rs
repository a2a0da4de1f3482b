//! What this process was given by whoever started it, as far as Rust's start-up changes it before `main`: it ignores
//! SIGPIPE, and opens /dev/null in place of closed standard descriptors. A command under `hostler run` gets what it would
//! have got without.

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::FdFlags;

use crate::descriptors;

unsafe extern "C" {
    /// The C library's list, ended by a null pointer.
    pub(crate) static environ: *const *const c_char;
}

/// Whether SIGPIPE was ignored at the start.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
/// Whether SIGCHLD was.
static CHILD_IGNORED: AtomicBool = AtomicBool::new(false);
/// Signals blocked at the start.
static BLOCKED: AtomicU64 = AtomicU64::new(0);
/// Which of the standard descriptors were open, bit n for descriptor n.
static STANDARD: AtomicU8 = AtomicU8::new(0b111);

/// The C library calls what stands in this section before `main`, and so before Rust's own start-up.
#[used]
// SAFETY: a pointer to a function of the type that the section holds.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

extern "C" fn at_start() {
    let mut open = 0;
    for fd in 0..3 {
        // SAFETY: F_GETFD on any number is harmless.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } != -1 {
            open |= 1 << fd;
        }
    }
    STANDARD.store(open, Ordering::Relaxed);
    BLOCKED.store(crate::signals::blocked(), Ordering::Relaxed);
    // Only what Rust, and whoever has children, will change.
    for (signal, ignored) in [
        (libc::SIGPIPE, &PIPE_IGNORED),
        (libc::SIGCHLD, &CHILD_IGNORED),
    ] {
        ignored.store(crate::signals::is_ignored(signal), Ordering::Relaxed);
    }
}

/// The signals that were ignored when this process was started, where that isn't what those ignore which were forked in
/// [`as_started`]; bit n-1 for signal n.
pub fn ignored() -> Option<u64> {
    if !CHILD_IGNORED.load(Ordering::Relaxed) {
        return None;
    }
    let bit = |signal: i32| 1u64 << (signal - 1);
    let others = crate::signals::ignored() & !bit(libc::SIGPIPE);
    let pipe = PIPE_IGNORED.load(Ordering::Relaxed);
    let pipe = if pipe { bit(libc::SIGPIPE) } else { 0 };
    Some(others | pipe | bit(libc::SIGCHLD))
}

/// Ignores exactly the signals that were ignored when this process was started (but for SIGCHLD), while `fork` runs: so do those that it
/// forks. To be called with all signals blocked.
pub fn as_started<T>(fork: impl FnOnce() -> T) -> T {
    let set = |action| {
        // SAFETY: sets a disposition that runs no code.
        unsafe { libc::signal(libc::SIGPIPE, action) };
    };
    if PIPE_IGNORED.load(Ordering::Relaxed) {
        return fork();
    }
    set(libc::SIG_DFL);
    let made = fork();
    set(libc::SIG_IGN);
    made
}

/// Signals that were blocked when this process was started.
pub fn blocked() -> u64 {
    BLOCKED.load(Ordering::Relaxed)
}

/// A duplicate (close-on-exec) of a descriptor that whoever started this process left open for it, such as a listening socket.
/// The original is marked close-on-exec too, and stays.
///
/// # Errors
/// `BADF` where it is not open.
pub fn duplicate(fd: i32) -> Result<std::os::fd::OwnedFd, rustix::io::Errno> {
    if fd < 0 {
        return Err(rustix::io::Errno::BADF);
    }
    // SAFETY: it is borrowed for these two calls only, which refuse what is not open.
    let given = unsafe { BorrowedFd::borrow_raw(fd) };
    let own = rustix::io::fcntl_dupfd_cloexec(given, 3)?;
    rustix::io::fcntl_setfd(given, FdFlags::CLOEXEC)?;
    Ok(own)
}

/// All numbers at which this process has something open, in no order, and the one that the listing itself had.
pub(crate) fn listed() -> Result<Vec<i32>, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = Dir::new(rustix::fs::open("/proc/self/fd", flags, Mode::empty())?)?;
    let mut open = Vec::with_capacity(8);
    for entry in dir {
        let name = entry?.file_name().to_str().map(str::parse::<i32>);
        if let Ok(Ok(fd)) = name {
            open.push(fd);
        }
    }
    Ok(open)
}

/// Closes all descriptors but these and standard error, and puts /dev/null in the places of standard input and output: what
/// reads from or writes to them must see the command, and not hostler, hold them; but the user is still to be spoken to.
/// Nothing else of this process may own a descriptor any more.
pub fn release(keep: &[BorrowedFd<'_>]) {
    let keep = keep.iter().map(AsRawFd::as_raw_fd);
    descriptors::keep_only(keep.chain([libc::STDERR_FILENO]).collect());
    descriptors::fill_standard();
}

/// Does, for a program with an [`entry`](mod@crate::entry) of its own, what Rust's start-up does for others: what is written to
/// a pipe that nobody reads is an error and no end, and no other file gets the number of a standard descriptor.
pub fn prepare() {
    // SAFETY: sets a disposition that runs no code.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    let open = STANDARD.load(Ordering::Relaxed);
    if open == 0b111 {
        return;
    }
    descriptors::fill_standard();
    for fd in (0..3).filter(|fd| open & (1 << fd) == 0) {
        // What Rust's start-up has opened there is for this program alone too.
        // SAFETY: a number at which there is nothing, or what was opened above.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// The environment, entry by entry as it was given: entries without `=` and doubled ones too, which `std::env` drops.
pub fn environment() -> Vec<&'static CStr> {
    let mut entries = Vec::with_capacity(64);
    // SAFETY: the C library's list, ended by a null pointer. Nothing here changes the environment.
    unsafe {
        let mut next = environ;
        while !next.is_null() && !(*next).is_null() {
            entries.push(CStr::from_ptr(*next));
            next = next.add(1);
        }
    }
    entries
}
