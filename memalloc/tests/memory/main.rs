//! The allocator from outside, by theme. What needs a process to itself is in `steady`.

mod buffers;
mod dma;
mod heap;
mod oracle;
mod pool;
mod raw;
mod remote;

use demi_memalloc::{Heap, HeapConfig, HugePages};

/// A superblock, as documented.
const SUPERBLOCK: usize = 256 << 10;

/// A small heap: plain pages, not locked.
fn heap(size: usize) -> Heap {
    Heap::new(&HeapConfig { size, huge_pages: HugePages::Never, lock: false })
        .expect("there is that much memory")
}
