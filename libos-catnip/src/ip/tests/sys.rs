//! An allocator that counts, and a network of one's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// How often this thread has asked for memory outside of heaps.
pub(super) fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

struct Counting;

// SAFETY: all calls go to the system's allocator as they are; a counter without a destructor is all that is added.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps this method's contract, which is that of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above; the memory came from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as above; the memory came from the system's allocator.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Gives this thread a network of its own. False: it may not have one.
pub(super) fn unshare_network() -> bool {
    // SAFETY: the call takes one number, and changes nothing but which network this thread sees.
    unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNET) == 0 }
}
