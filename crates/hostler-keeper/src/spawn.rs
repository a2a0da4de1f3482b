//! Starting one process.
//!
//! The child is made by clone3(2) with `CLONE_VM | CLONE_VFORK`: it borrows the keeper's memory and the keeper stands still
//! until it has executed its program or failed. So nothing is copied, the child is born inside its cgroup, and why an exec
//! failed is known by a look at that memory.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::message::{Failure, Group, Spawn, Step};

/// The child's stack while it borrows the keeper's memory. Its frames hold a few numbers only.
const STACK_LEN: usize = 64 * 1024;

/// Room for a child's stack, kept from one spawn to the next.
#[derive(Debug)]
pub(crate) struct Stack {
    base: *mut c_void,
}

impl Stack {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: a fresh private mapping that nothing else knows of.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                STACK_LEN,
                rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE,
                rustix::mm::MapFlags::PRIVATE
                    | rustix::mm::MapFlags::STACK
                    | rustix::mm::MapFlags::NORESERVE,
            )?
        };
        Ok(Self { base })
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which no child uses any more: each has let go of it before `spawn` returned.
        let _ = unsafe { rustix::mm::munmap(self.base, STACK_LEN) };
    }
}

/// What the keeper knows for every child.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The cgroup that it is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Signals whose disposition a child is to have turned: ignored by it and not by the keeper, or the other way round.
    /// Bit n-1 for signal n.
    pub turned: u64,
    /// The keeper's own pid, or 0 where a child cannot see it (in a pid namespace).
    pub keeper: i32,
    /// CPUs to bind to, where that stands in for a limit.
    pub cpus: Option<usize>,
}

/// Everything that the child needs, made ready before it exists, so that it allocates nothing.
struct Plan<'a> {
    spawn: &'a Spawn<'a>,
    around: Surroundings<'a>,
    /// The paths to try, in order: one, or one in each directory of `PATH`.
    programs: Vec<CString>,
    args: Vec<*const c_char>,
    env: Vec<*const c_char>,
    /// Arguments for `/bin/sh`, if the program turns out to be a script without an interpreter line (execvp(3)).
    script: Vec<*const c_char>,
    /// Descriptors to pass: where each is now, or [`PLACED`].
    sources: Vec<c_int>,
    /// Whether the child has to enter the cgroup by itself.
    enters: bool,
    /// What failed, written by the child.
    failed: Option<Failure>,
}

/// Starts a process; when this returns its exec has succeeded.
///
/// # Errors
/// The step that failed, and why. The child that failed is gone and reaped then.
pub(crate) fn spawn(
    stack: &Stack,
    around: Surroundings<'_>,
    spawn: &Spawn<'_>,
    fds: &[OwnedFd],
) -> Result<Pid, Failure> {
    if spawn.args.is_empty() || spawn.fds.len() != fds.len() || spawn.fds.iter().any(|fd| *fd < 0) {
        return Err(Failure::new(Step::Request, Errno::INVAL));
    }
    let terminated = |list: &[&CStr]| {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([ptr::null()])
            .collect()
    };
    let mut plan = Plan {
        programs: candidates(spawn.program, &spawn.env),
        args: terminated(&spawn.args),
        env: terminated(&spawn.env),
        script: [c"sh".as_ptr(), ptr::null()]
            .into_iter()
            .chain(spawn.args.iter().skip(1).map(|s| s.as_ptr()))
            .chain([ptr::null()])
            .collect(),
        sources: fds.iter().map(AsRawFd::as_raw_fd).collect(),
        spawn,
        around,
        enters: false,
        failed: None,
    };
    let plan: *mut Plan<'_> = &mut plan;
    crate::hook!("spawn.before-clone");
    let pid = clone(stack, around.cgroup, plan)?;
    crate::hook!("spawn.after-exec");
    // SAFETY: `plan` is the local above; the child that shared it has executed or ended, since CLONE_VFORK waits for that.
    match unsafe { (*plan).failed } {
        None => Ok(pid),
        Some(failure) => {
            // It has called _exit: this returns at once, and nobody else waits for it.
            let _ = rustix::io::retry_on_intr(|| {
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
            });
            Err(failure)
        }
    }
}

/// The paths that a program's name stands for, in the order in which execvp(3) tries them.
fn candidates(program: &CStr, env: &[&CStr]) -> Vec<CString> {
    let name = program.to_bytes();
    if name.contains(&b'/') || name.is_empty() {
        return vec![program.to_owned()];
    }
    let path = env
        .iter()
        .find_map(|entry| entry.to_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(b"/bin:/usr/bin");
    let join = |dir: &[u8]| {
        let dir = if dir.is_empty() { b"." } else { dir };
        CString::new([dir, b"/", name].concat()).ok()
    };
    path.split(|b| *b == b':').filter_map(join).collect()
}

/// Makes the child and waits until it no longer uses this process's memory.
fn clone(
    stack: &Stack,
    cgroup: Option<BorrowedFd<'_>>,
    plan: *mut Plan<'_>,
) -> Result<Pid, Failure> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK;
    let result = arch::clone3(
        flags.cast_unsigned().into(),
        cgroup.map(|fd| fd.as_raw_fd()),
        stack.base,
        STACK_LEN,
        plan.cast(),
    );
    let result = match result {
        // Containers whose filter does not know clone3, and kernels that do not know all of it.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::TOOBIG) => {
            // SAFETY: the plan of the caller, whom nobody shares it with yet.
            unsafe { (*plan).enters = cgroup.is_some() };
            // SAFETY: the child runs `child` on a stack of its own, which grows down from its end, while this process
            // stands still (CLONE_VFORK): see there.
            let pid = unsafe {
                let top = stack.base.byte_add(STACK_LEN);
                libc::clone(child_of_clone, top, flags | libc::SIGCHLD, plan.cast())
            };
            if pid == -1 {
                Err(crate::signals::last_errno())
            } else {
                Ok(pid)
            }
        }
        other => other,
    };
    match result {
        Ok(pid) => Pid::from_raw(pid).ok_or(Failure::new(Step::Fork, Errno::AGAIN)),
        Err(errno) => {
            // With a cgroup, these come from entering it.
            let of_cgroup = cgroup.is_some()
                && matches!(
                    errno,
                    Errno::NODEV | Errno::OPNOTSUPP | Errno::ACCESS | Errno::BUSY
                );
            Err(Failure::new(
                if of_cgroup { Step::Cgroup } else { Step::Fork },
                errno,
            ))
        }
    }
}

/// The same, as clone(2) of the C library wants it.
extern "C" fn child_of_clone(plan: *mut c_void) -> c_int {
    child(plan)
}

/// What runs in the child.
extern "C" fn child(plan: *mut c_void) -> ! {
    // SAFETY: `plan` is the parent's `Plan`, which stays where it is because the parent stands still (CLONE_VFORK), and
    // nobody else touches it meanwhile. Only calls that are safe after fork follow, and nothing is allocated or freed.
    unsafe {
        let plan = &mut *plan.cast::<Plan<'_>>();
        let Err(failure) = run(plan);
        plan.failed = Some(failure);
        libc::_exit(127)
    }
}

/// The result of a system call as a step's outcome.
fn check(step: Step, result: c_int) -> Result<c_int, Failure> {
    if result == -1 {
        Err(Failure {
            step,
            errno: errno(),
        })
    } else {
        Ok(result)
    }
}

fn errno() -> i32 {
    // SAFETY: the C library's errno of this thread, always readable.
    unsafe { *libc::__errno_location() }
}

/// The steps from a fresh child to its program, which is the only way out but an error.
///
/// # Safety
/// Only in a child that shares its parent's memory while the parent stands still.
unsafe fn run(plan: &mut Plan<'_>) -> Result<std::convert::Infallible, Failure> {
    let spawn = plan.spawn;
    // SAFETY: for all calls below, plain system calls on values and on pointers into `plan`, which outlives them.
    unsafe {
        if let Some(cgroup) = plan.around.cgroup.filter(|_| plan.enters) {
            enter(cgroup)?;
        }
        match spawn.group {
            Group::Inherit => {}
            Group::Group => {
                check(Step::Session, libc::setpgid(0, 0))?;
            }
            Group::Session | Group::Terminal(_) => {
                check(Step::Session, libc::setsid())?;
            }
        }
        if let Some(mask) = spawn.umask {
            libc::umask(mask);
        }
        if let Some(nice) = spawn.nice {
            check(Step::Nice, libc::setpriority(libc::PRIO_PROCESS, 0, nice))?;
        }
        if let Some(cpus) = plan.around.cpus {
            bind(cpus)?;
        }
        if let Some(cwd) = spawn.cwd {
            check(Step::Directory, libc::chdir(cwd.as_ptr()))?;
        }
        place_descriptors(plan)?;
        // After the descriptors: a terminal is named by the number that the child knows it by.
        if let Group::Terminal(number) = spawn.group {
            check(Step::Terminal, libc::ioctl(number, libc::TIOCSCTTY, 0))?;
        }
        // After the descriptors, which the limit on them would concern.
        for limit in &spawn.rlimits {
            let value = libc::rlimit64 {
                rlim_cur: limit.soft,
                rlim_max: limit.hard,
            };
            check(
                Step::Limit,
                libc::prlimit64(0, limit.resource, &raw const value, ptr::null_mut()),
            )?;
        }
        if plan.around.keeper != 0 {
            check(
                Step::Signals,
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL),
            )?;
            // The keeper may have died before that, and nobody would tell.
            if libc::getppid() != plan.around.keeper {
                libc::_exit(127);
            }
        }
        set_signals(plan)?;
        exec(plan)
    }
}

/// Enters a cgroup, as cgroups(7) has it where clone3(2) cannot.
unsafe fn enter(cgroup: BorrowedFd<'_>) -> Result<(), Failure> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: plain system calls on a constant path and one byte.
    unsafe {
        let file = libc::openat(cgroup.as_raw_fd(), c"cgroup.procs".as_ptr(), flags);
        let file = check(Step::Cgroup, file)?;
        let written = libc::write(file, c"0".as_ptr().cast(), 1);
        check(Step::Cgroup, written as c_int)?;
        libc::close(file);
    }
    Ok(())
}

/// Binds to the first `cpus` of the CPUs that this process may use.
unsafe fn bind(cpus: usize) -> Result<(), Failure> {
    // SAFETY: cpu_set_t is plain bits, and both calls get its true size.
    unsafe {
        let size = size_of::<libc::cpu_set_t>();
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        check(
            Step::Affinity,
            libc::sched_getaffinity(0, size, &raw mut allowed),
        )?;
        let mut chosen: libc::cpu_set_t = std::mem::zeroed();
        let mut count = 0;
        for cpu in 0..8 * size {
            if count < cpus && libc::CPU_ISSET(cpu, &allowed) {
                libc::CPU_SET(cpu, &mut chosen);
                count += 1;
            }
        }
        check(
            Step::Affinity,
            libc::sched_setaffinity(0, size, &raw const chosen),
        )?;
    }
    Ok(())
}

/// Puts the descriptors at their numbers. Everything else the keeper holds is close-on-exec.
///
/// Each number is taken once nobody who is still to be placed stands there; only where they stand in a ring does one have
/// to be moved out of the way. So no more numbers are needed than there are, however close to the limit.
unsafe fn place_descriptors(plan: &mut Plan<'_>) -> Result<(), Failure> {
    let targets = &plan.spawn.fds;
    let mut left = targets.len();
    while left > 0 {
        let before = left;
        for (index, target) in targets.iter().copied().enumerate() {
            let source = plan.sources[index];
            let is_free = || !plan.sources.contains(&target) || source == target;
            if source == PLACED || !is_free() {
                continue;
            }
            // SAFETY: plain system calls on descriptors of this child's own table.
            unsafe {
                if source == target {
                    check(Step::Descriptors, libc::fcntl(source, libc::F_SETFD, 0))?;
                } else {
                    check(Step::Descriptors, libc::dup2(source, target))?;
                }
            }
            plan.sources[index] = PLACED;
            left -= 1;
        }
        if left == before
            && let Some(index) = plan.sources.iter().position(|source| *source != PLACED)
        {
            // SAFETY: as above.
            plan.sources[index] = unsafe { move_away(plan.sources[index], targets)? };
        }
    }
    Ok(())
}

/// In place of a source whose descriptor is at its number.
const PLACED: c_int = -1;

/// Duplicates a descriptor to a number that is nobody's target.
unsafe fn move_away(source: c_int, targets: &[c_int]) -> Result<c_int, Failure> {
    let mut least = 0;
    loop {
        // SAFETY: plain system calls on descriptors of this child's own table.
        let moved = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, least) };
        let moved = check(Step::Descriptors, moved)?;
        if !targets.contains(&moved) {
            return Ok(moved);
        }
        // SAFETY: as above.
        unsafe { libc::close(moved) };
        least = moved + 1;
    }
}

/// Sets the ignored and the blocked signals to exactly those asked for. The keeper handles none by a function, so the
/// others are at their defaults already.
unsafe fn set_signals(plan: &Plan<'_>) -> Result<(), Failure> {
    for signal in 1..=64 {
        let bit = 1u64 << (signal - 1);
        if plan.around.turned & bit != 0 {
            let wanted = plan.spawn.ignored.is_some_and(|set| set & bit != 0);
            let action = if wanted { libc::SIG_IGN } else { libc::SIG_DFL };
            // SAFETY: sets a disposition that runs no code. Fails for signals that the C library keeps, which is right.
            unsafe { libc::signal(signal, action) };
        }
    }
    let mask = plan.spawn.blocked;
    // SAFETY: the kernel reads eight bytes of a local. The raw call, for the C library would leave its own signals out.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            ptr::null_mut::<u64>(),
            8,
        )
    };
    check(Step::Signals, result as c_int).map(|_| ())
}

/// Executes, as execvp(3) does: the first candidate that can be; one that may not be executed is only an error if no later
/// one can.
unsafe fn exec(plan: &mut Plan<'_>) -> Result<std::convert::Infallible, Failure> {
    let mut error = libc::ENOENT;
    for program in &plan.programs {
        // An exec takes a copy of all arguments before it looks for the file.
        if plan.programs.len() > 1
            // SAFETY: a NUL-terminated string.
            && unsafe { libc::faccessat(libc::AT_FDCWD, program.as_ptr(), libc::F_OK, libc::AT_EACCESS) } == -1
            && matches!(errno(), libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG)
        {
            continue;
        }
        // SAFETY: NUL-terminated strings and null-terminated lists, all alive in `plan`.
        unsafe { libc::execve(program.as_ptr(), plan.args.as_ptr(), plan.env.as_ptr()) };
        match errno() {
            libc::ENOENT | libc::ENOTDIR | libc::ENAMETOOLONG if plan.programs.len() > 1 => {}
            libc::EACCES => error = libc::EACCES,
            libc::ENOEXEC => {
                plan.script[1] = program.as_ptr();
                // SAFETY: as above.
                unsafe {
                    libc::execve(c"/bin/sh".as_ptr(), plan.script.as_ptr(), plan.env.as_ptr())
                };
                return Err(Failure {
                    step: Step::Exec,
                    errno: errno(),
                });
            }
            other => {
                return Err(Failure {
                    step: Step::Exec,
                    errno: other,
                });
            }
        }
    }
    Err(Failure {
        step: Step::Exec,
        errno: error,
    })
}

/// clone3(2) with a stack of the child's own, which no function of the C library gives (clone(3) knows no cgroup).
mod arch {
    use super::{Errno, c_void};

    /// Runs [`super::child`] on `stack` with `plan`; returns the child's pid.
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
                in("r13") super::child as extern "C" fn(*mut c_void) -> !,
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
                in("x22") super::child as extern "C" fn(*mut c_void) -> !,
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_in_the_childs_path() {
        let list = |program: &CStr, env: &[&CStr]| {
            candidates(program, env)
                .into_iter()
                .map(|c| c.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            list(c"sh", &[c"X=1", c"PATH=/a::/b"]),
            ["/a/sh", "./sh", "/b/sh"]
        );
        assert_eq!(list(c"sh", &[]), ["/bin/sh", "/usr/bin/sh"]);
        assert_eq!(list(c"./sh", &[c"PATH=/a"]), ["./sh"]);
        assert_eq!(list(c"", &[c"PATH=/a"]), [""]);
    }
}
