//! The start of a small program, in place of Rust's own, which costs more than the rest of the way to a command: it looks
//! for the bounds of the stack in /proc/self/maps and prepares a handler for its overflow.
//!
//! [`entry!`](macro@crate::entry) makes `main`. Nothing has been changed then of what the process was given, so that another
//! program can be executed in its place with all of it.

use std::ffi::{CStr, c_char};

use rustix::io::Errno;

/// The arguments of `main`, as they were given.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    /// Ended by a null pointer.
    list: *const *const c_char,
    count: usize,
}

impl Arguments {
    /// Those of `main`.
    ///
    /// # Safety
    /// `list` is the list that the C library has passed to `main`, of `count` strings and a null pointer. It stays as it is.
    pub unsafe fn of_main(count: i32, list: *const *const c_char) -> Self {
        Self {
            list,
            count: usize::try_from(count).unwrap_or(0),
        }
    }

    /// One of them; the first is the program's name.
    pub fn get(&self, index: usize) -> Option<&'static CStr> {
        // SAFETY: by the contract of `of_main`.
        (index < self.count).then(|| unsafe { CStr::from_ptr(*self.list.add(index)) })
    }

    /// Executes this program in place of this one, with the same arguments and environment. Returns only when that fails.
    pub fn execute(&self, program: &CStr) -> Errno {
        // SAFETY: the lists that the C library has given to this process, ended by null pointers; nothing changes them.
        unsafe { libc::execve(program.as_ptr(), self.list, crate::inherit::environ) };
        crate::signals::last_errno()
    }
}

/// Makes `main` of a program that is `#![no_main]`: calls this function of [`Arguments`] and exits with the status that it
/// returns.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        const _: () = {
            const START: fn($crate::entry::Arguments) -> u8 = $main;
            // SAFETY: the one `main` of a program that has none of Rust's.
            #[unsafe(no_mangle)]
            extern "C" fn main(
                count: ::std::ffi::c_int,
                list: *const *const ::std::ffi::c_char,
            ) -> ::std::ffi::c_int {
                // SAFETY: the arguments of `main`.
                let arguments = unsafe { $crate::entry::Arguments::of_main(count, list) };
                START(arguments).into()
            }
        };
    };
}
