//! What the kernel counts, and what it forbids.

use std::mem::MaybeUninit;

/// Page faults of this thread so far, minor and major.
pub(crate) fn page_faults() -> (i64, i64) {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `usage` has room for the answer, of which zeros are a valid value.
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    (usage.ru_minflt, usage.ru_majflt)
}

/// Runs `action` in a child process that the kernel kills at the first system call but `exit`.
///
/// The parent may have threads: `action` must not need their locks, as that of the allocator.
pub(crate) fn makes_no_system_call(action: impl FnOnce()) -> bool {
    // SAFETY: the child only runs `action`, which as promised needs nothing that another thread could have locked, and
    // ends by system call, without running anything of the parent.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "cannot fork");
        if child == 0 {
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT);
            action();
            libc::syscall(libc::SYS_exit, 0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
    }
}
