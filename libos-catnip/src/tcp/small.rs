//! Small buffers that have to wait are copied together.
//!
//! Invariant: a peer that sends, or takes, a byte at a time makes a connection pin memory in proportion to the bytes that
//! are held, not to the frames that they came in. Whoever keeps up pays nothing for that.

use demi_api::memalloc::{Buf, Heap};

/// Buffers that wait as they are.
pub(super) const FEW: usize = 32;

/// A buffer shorter than this is copied to its neighbour,
const SMALL: usize = 512;

/// unless together they would be longer than this, which full segments are by themselves: those are never copied.
const COPIED: usize = 1024;

/// Whether two neighbours become one buffer.
#[inline]
pub(super) fn is_copied(one: &Buf, other: &Buf) -> bool {
    one.len().min(other.len()) < SMALL && one.len() + other.len() <= COPIED
}

/// Two neighbours in one buffer; `None` if they are to stay two, or have to for want of memory.
pub(super) fn join(heap: &Heap, one: &Buf, other: &Buf) -> Option<Buf> {
    if !is_copied(one, other) {
        return None;
    }
    Some(heap.join([one, other].into_iter()).ok()?.freeze())
}
