//! Taking one frame from a socket, with the descriptors beside it, by one call.
//!
//! The longest frame is known ([`INLINE_MAX`]), so nobody has to ask first how long the next one is. Its room is not filled
//! with zeroes: a keeper has only the pages that messages really take.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::io::Errno;

use crate::connection::FDS_MAX;
use crate::signals::last_errno;
use crate::wire::{HEADER_LEN, INLINE_MAX};

/// The longest frame that is one.
const FRAME_MAX: usize = HEADER_LEN + INLINE_MAX;

/// The bytes that a message's descriptors take beside it, with one for a body in a memory file: a header and the numbers, in
/// words, for which the kernel aligns.
const BESIDE: usize = 2 + ((FDS_MAX + 1) * size_of::<RawFd>()).div_ceil(size_of::<u64>());

/// A frame as it came.
pub(crate) struct Frame {
    pub(crate) bytes: Vec<u8>,
    /// Close-on-exec.
    pub(crate) fds: Vec<OwnedFd>,
    /// Whether descriptors are missing that were beside it.
    pub(crate) lacks_fds: bool,
    /// Whether it was longer than any frame may be.
    pub(crate) is_cut: bool,
}

/// Takes the next frame, if one is there; `None` when the other end is gone and nothing is left to read.
///
/// # Errors
/// recvmsg(2)'s, `AGAIN` where there is none yet.
pub(crate) fn take(socket: &OwnedFd) -> Result<Option<Frame>, Errno> {
    let mut bytes: Vec<u8> = Vec::with_capacity(FRAME_MAX);
    let mut beside = MaybeUninit::<[u64; BESIDE]>::uninit();
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: FRAME_MAX,
    };
    // SAFETY: all zeroes is a valid value: nothing to be written to.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let length = loop {
        message.msg_control = beside.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&beside);
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: the kernel writes at most `FRAME_MAX` bytes to the room reserved in `bytes`, and what lies beside them to
        // `beside`, whose size it is told.
        let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(length) {
            Ok(length) => break length,
            // Past the interruptions. That the other end went without having read all is said once, and before what it had
            // sent itself: that must not be taken for the end.
            Err(_) => match last_errno() {
                Errno::INTR | Errno::CONNRESET => {}
                errno => return Err(errno),
            },
        }
    };
    if length == 0 {
        return Ok(None);
    }
    // SAFETY: the kernel has written so many bytes, within the capacity.
    unsafe { bytes.set_len(length.min(FRAME_MAX)) };
    Ok(Some(Frame {
        bytes,
        fds: descriptors(&message),
        lacks_fds: message.msg_flags & libc::MSG_CTRUNC != 0,
        is_cut: message.msg_flags & libc::MSG_TRUNC != 0,
    }))
}

/// The descriptors that came beside a message (unix(7), cmsg(3)).
fn descriptors(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: `message` is as recvmsg(2) left it, and its control buffer is alive. The macros walk what the kernel has written
    // there, and every number in it is a descriptor that was made for this process, and that nobody else knows of.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(found) = header.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
                let data: *const u8 = libc::CMSG_DATA(found);
                let head = data.offset_from_unsigned(ptr::from_ref(found).cast());
                let count = (found.cmsg_len - head) / size_of::<RawFd>();
                let numbers = data.cast::<RawFd>();
                fds.extend(
                    (0..count).map(|at| OwnedFd::from_raw_fd(numbers.add(at).read_unaligned())),
                );
            }
            header = libc::CMSG_NXTHDR(message, found);
        }
    }
    fds
}
