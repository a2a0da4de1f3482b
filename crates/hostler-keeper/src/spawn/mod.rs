//! Starting one process.
//!
//! The child is made by clone3(2) with `CLONE_VM | CLONE_VFORK`: it borrows the keeper's memory and the keeper stands still
//! until it has executed its program or failed. So nothing is copied, the child is born inside its cgroup, and why an exec
//! failed is known by a look at that memory.

mod arch;
mod child;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::identity::ProcessId;
use crate::message::{Failure, Spawn, Step};
use crate::proc::Proc;

/// The child's stack while it borrows the keeper's memory. Its frames hold a few numbers, and a line of /proc.
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
    /// Where the child reads when it was born; where that is not asked for, none.
    pub proc: Option<&'a Proc>,
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
    /// Who it is, written by the child. It reads that itself: whoever reads it while the program is being executed waits for a lock
    /// of the kernel's that the execution holds, and on a busy CPU until the program is over.
    id: Option<ProcessId>,
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
) -> Result<(Pid, ProcessId), Failure> {
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
        id: None,
        failed: None,
    };
    let plan: *mut Plan<'_> = &mut plan;
    crate::hook!("spawn.before-clone");
    let pid = clone(stack, around.cgroup, plan)?;
    crate::hook!("spawn.after-exec");
    // SAFETY: `plan` is the local above; the child that shared it has executed or ended, since CLONE_VFORK waits for that.
    let (id, failed) = unsafe { ((*plan).id, (*plan).failed) };
    match failed {
        None => Ok((pid, id.unwrap_or(ProcessId::unread(pid)))),
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
    child::child(plan)
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
