//! clone3(2) with a stack of the child's own, which no function of the C library gives (clone(3) knows no cgroup).

use std::ffi::c_void;

use rustix::io::Errno;

use super::child::child;

/// Runs [`child`](super::child::child) on `stack` with `plan`; returns the child's pid.
pub(super) fn clone3(
    flags: u64,
    cgroup: Option<i32>,
    stack: *mut c_void,
    stack_len: usize,
    plan: *mut c_void,
) -> Result<i32, Errno> {
    // SAFETY: all zeroes is a valid value: no flag, no pointer.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    args.stack = stack as u64;
    args.stack_size = stack_len as u64;
    if let Some(fd) = cgroup {
        args.flags |= 0x2_0000_0000u64;
        args.cgroup = u64::from(fd.cast_unsigned());
    }
    let args: *const libc::clone_args = &raw const args;
    let size = size_of::<libc::clone_args>();
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the parent goes on behind the block with the result in rax. The child starts on its own stack, with all
    // registers as they were, takes its argument from r12 and calls a function that never returns, so that it touches
    // nothing of the parent's frame. CLONE_VFORK keeps the parent out of the shared memory until then.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") args,
            in("rsi") size,
            in("r12") plan,
            in("r13") child as extern "C" fn(*mut c_void) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the result comes in x0, the child's argument waits in x21 and its function in x22.
    unsafe {
        let x0: isize;
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x21",
            "blr x22",
            "brk #1",
            "2:",
            inlateout("x0") args => x0,
            in("x1") size,
            in("x8") libc::SYS_clone3,
            in("x21") plan,
            in("x22") child as extern "C" fn(*mut c_void) -> !,
        );
        result = x0;
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    compile_error!("clone3 with a stack is written for x86_64 and aarch64 only");
    if result < 0 {
        Err(Errno::from_raw_os_error((-result) as i32))
    } else {
        Ok(result as i32)
    }
}
