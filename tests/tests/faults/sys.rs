//! What the standard library does not offer safely: an allocator that counts, and signals to one thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system's allocator, and an account for each thread of what it asked for.
pub(crate) struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counters neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // A thread that ends may free after its counters are gone.
        let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() - layout.size() as i64));
        // SAFETY: the caller's promise is the callee's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn count(size: i64) {
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
    let _ = BYTES.try_with(|bytes| bytes.set(bytes.get() + size));
}

/// Allocations of this thread so far, and the bytes that it has asked for and not freed.
pub(crate) fn allocated() -> (u64, i64) {
    (ALLOCATIONS.get(), BYTES.get())
}

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn note_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Signals that were handled.
pub(crate) fn signals() -> usize {
    SIGNALS.load(Ordering::Relaxed)
}

/// Has SIGUSR1 counted, and interrupt system calls.
pub(crate) fn count_signals() {
    // SAFETY: the handler only adds to an atomic; zeros are a valid `sigaction`, with an empty mask and no flags.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// This thread, for signals and for `/proc`.
#[derive(Clone, Copy)]
pub(crate) struct ThreadId(libc::pid_t);

impl ThreadId {
    pub(crate) fn current() -> ThreadId {
        // SAFETY: the call has no arguments and cannot fail.
        ThreadId(unsafe { libc::gettid() })
    }

    pub(crate) fn number(self) -> i32 {
        self.0
    }

    /// Sends SIGUSR1 to the thread; it must not have ended.
    pub(crate) fn signal(self) {
        // SAFETY: sending a signal touches no memory of this process; its handler is installed.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.0, libc::SIGUSR1) };
    }
}

/// Has this process use small pages from now on.
pub(crate) fn disable_huge_pages() {
    // SAFETY: the call takes numbers only; where it is refused nothing changes.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}
