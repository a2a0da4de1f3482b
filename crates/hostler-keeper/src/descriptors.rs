//! The descriptors of a freshly forked process, which has its parent's.

use crate::inherit;

/// Closes all descriptors but these.
pub(crate) fn keep_only(mut keep: Vec<i32>) {
    keep.sort_unstable();
    let mut from = 0;
    for fd in keep.into_iter().chain([i32::MAX]) {
        if fd > from {
            // SAFETY: closes descriptors that this freshly forked process holds no object for.
            let closed =
                unsafe { libc::close_range(from.cast_unsigned(), (fd - 1).cast_unsigned(), 0) };
            if closed == -1 {
                // Containers whose filter does not know it.
                let open = inherit::listed().unwrap_or_default();
                for other in open.into_iter().filter(|other| (from..fd).contains(other)) {
                    // SAFETY: as above.
                    unsafe { libc::close(other) };
                }
            }
        }
        from = fd.saturating_add(1);
    }
}

/// Puts /dev/null in the places of the standard descriptors that are closed.
pub(crate) fn fill_standard() {
    // SAFETY: takes the lowest free numbers, which are the standard ones unless they are taken.
    unsafe {
        let null = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
        let mut fd = null;
        while (libc::STDIN_FILENO..libc::STDERR_FILENO).contains(&fd) {
            fd = libc::fcntl(null, libc::F_DUPFD_CLOEXEC, 0);
        }
        if fd > libc::STDERR_FILENO {
            libc::close(fd);
        }
    }
}
