//! How zygote and keepers show in process lists, where they would otherwise look like the host they were forked from.

use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// The kernel shows the arguments from this place in memory (`/proc/PID/cmdline`).
static START: AtomicPtr<c_char> = AtomicPtr::new(ptr::null_mut());
static LEN: AtomicUsize = AtomicUsize::new(0);

/// The GNU C library passes the arguments of `main` to what stands in this section; elsewhere titles stay as they are.
#[cfg(target_env = "gnu")]
#[used]
// SAFETY: a pointer to a function of the type that the section holds.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn(c_int, *const *mut c_char) = at_start;

#[cfg(target_env = "gnu")]
extern "C" fn at_start(count: c_int, args: *const *mut c_char) {
    // SAFETY: the arguments of `main`: `count` C strings, which the kernel has laid one behind the other.
    unsafe {
        if count < 1 || args.is_null() || (*args).is_null() {
            return;
        }
        let first = *args;
        let last = *args.add(count as usize - 1);
        START.store(first, Ordering::Relaxed);
        LEN.store(
            last.offset_from(first).max(0).cast_unsigned() + libc::strlen(last),
            Ordering::Relaxed,
        );
    }
}

/// Sets the name that `ps -o comm` shows, at most 15 bytes (prctl(2), `PR_SET_NAME`).
pub(crate) fn process_name(name: &CStr) {
    // SAFETY: the kernel reads a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Sets the arguments that `ps` shows, as far as there is room. Only in a process that no longer uses its own.
pub(crate) fn set_title(title: &[u8]) {
    let (start, room) = (START.load(Ordering::Relaxed), LEN.load(Ordering::Relaxed));
    if start.is_null() {
        return;
    }
    let len = title.len().min(room);
    // SAFETY: the memory of this process's own arguments, writable and `room` bytes long; the rest is filled with NULs.
    unsafe {
        ptr::copy_nonoverlapping(title.as_ptr(), start.cast(), len);
        ptr::write_bytes(start.add(len), 0, room - len);
    }
}
