//! What a new process does until it executes its program: plain system calls only, for it borrows its parent's memory.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::Plan;
use crate::message::{Failure, Group, Step};

/// What runs in the child.
pub(super) extern "C" fn child(plan: *mut c_void) -> ! {
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
    // First, while it has all the descriptors that the keeper may have. Neither allocates.
    if let Some(proc) = plan.around.proc {
        let own = proc.own();
        plan.id = Some(own.map_err(|errno| Failure::new(Step::Fork, errno))?.id);
    }
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
