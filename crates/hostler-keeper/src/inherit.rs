//! What this process was given by whoever started it, as far as Rust's start-up changes it before `main`: it ignores
//! SIGPIPE, and opens /dev/null in place of closed standard descriptors. A command under `hostler run` gets what it would
//! have got without.

use std::ffi::{CStr, c_char};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use rustix::fs::{Dir, Mode, OFlags};
use rustix::io::FdFlags;

/// Whether SIGPIPE was ignored at the start.
static PIPE_IGNORED: AtomicBool = AtomicBool::new(false);
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
    // Only what Rust will change.
    PIPE_IGNORED.store(crate::signals::is_ignored(libc::SIGPIPE), Ordering::Relaxed);
}

/// Ignores exactly the signals that were ignored when this process was started, while `fork` runs: so do those that it
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

/// The descriptors that a program executed in place of this one would have found open, lowest first.
///
/// # Errors
/// Where /proc is not there.
pub fn descriptors() -> Result<Vec<i32>, rustix::io::Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = Dir::new(rustix::fs::open("/proc/self/fd", flags, Mode::empty())?)?;
    let standard = STANDARD.load(Ordering::Relaxed);
    let mut open = Vec::with_capacity(8);
    for entry in dir {
        let Some(fd) = entry?
            .file_name()
            .to_str()
            .ok()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if fd < 3 && standard & (1 << fd) == 0 {
            continue;
        }
        // The listing's own is close-on-exec, and so passed over.
        if rustix::io::fcntl_getfd(borrow(fd)).is_ok_and(|flags| !flags.contains(FdFlags::CLOEXEC))
        {
            open.push(fd);
        }
    }
    open.sort_unstable();
    Ok(open)
}

/// A descriptor by its number.
pub fn borrow<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: used for inherited descriptors, which nothing closes before they were passed on; a wrong number is answered
    // by EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Closes an inherited descriptor that was passed on.
pub fn close(fd: i32) {
    // SAFETY: nothing in this process owns an inherited descriptor, and after this nobody asks for it.
    unsafe { libc::close(fd) };
}

/// The environment, entry by entry as it was given: entries without `=` and doubled ones too, which `std::env` drops.
pub fn environment() -> Vec<&'static CStr> {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
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
