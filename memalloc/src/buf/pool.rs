//! Buffers set aside: a device's receive ring draws from its own and gets its own back, whatever else fills the heap.
//!
//! Invariant: `count` buffers are the pool's until it is dropped; one that is released, by whomever, returns to it.
//! Buffers that are out when the pool is dropped stay valid, and the superblocks return to the heap with the last.

use crate::superblock::BinIx;
use crate::{BufMut, Heap};
use std::fmt;

/// A reserve of buffers of one size, made by [`Heap::pool`].
pub struct Pool {
    heap: Heap,
    bin: BinIx,
    stride: usize,
    count: u32,
}

impl Pool {
    pub(crate) fn new(heap: Heap, bin: BinIx, stride: usize, count: u32) -> Self {
        Self { heap, bin, stride, count }
    }

    /// A buffer, as long as the stride. `None`: all are out.
    #[inline]
    pub fn take(&self) -> Option<BufMut> {
        self.heap.take_from_pool(self.bin, self.stride)
    }

    /// How many buffers are not out. Those released on other threads count once they have been drained.
    #[inline]
    pub fn available(&self) -> usize {
        self.count as usize - self.heap.live_of_pool(self.bin)
    }

    /// How many buffers there are.
    pub fn capacity(&self) -> usize {
        self.count as usize
    }

    /// Bytes of each buffer.
    pub fn stride(&self) -> usize {
        self.stride
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.heap.close_pool(self.bin);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} × {} B)", self.available(), self.count, self.stride)
    }
}
