//! The tables, reached without bounds checks: what indexes them is made in this module alone, and is in bounds.
//!
//! The slot words are a mapping of their own, resident from the start like the region itself.

use super::{Bin, BinIx, Bins, BlockIx, Blocks, Slot, Superblock};
use crate::region::Mapping;
use crate::{HeapError, HugePages};
use std::ops::{Deref, Index};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

/// A slice of words that begin as "free, end of list": all bits set. A clone is the same slice.
#[derive(Clone)]
pub(super) struct Words {
    first: NonNull<AtomicU32>,
    count: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: the words are atomic, and the mapping that holds them is shared behind an `Arc`.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

impl Words {
    pub(super) fn reserve(count: usize, huge: HugePages, lock: bool) -> Result<Self, HeapError> {
        let mapping = Arc::new(Mapping::reserve(count * size_of::<AtomicU32>(), 0xFF, huge, lock)?);
        Ok(Self { first: mapping.base().cast(), count, mapping })
    }

    pub(super) fn locked(&self) -> bool {
        self.mapping.locked()
    }
}

impl Index<Slot> for Words {
    type Output = AtomicU32;

    #[inline]
    fn index(&self, slot: Slot) -> &AtomicU32 {
        debug_assert!((slot.0 as usize) < self.count);
        // SAFETY: a `Slot` that is not `NONE` is that of an object in the region of its heap, and there is a word for
        // each. The mapping is initialised, aligned to more than a word, and lives as long as the reference. Nobody
        // else knows its address, so all access to it is through these atomics.
        unsafe { self.first.add(slot.0 as usize).as_ref() }
    }
}

/// A table whose indices are known to be within it.
pub(super) struct Table<T>(Box<[T]>);

impl<T> FromIterator<T> for Table<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl Index<BlockIx> for Blocks {
    type Output = Superblock;

    #[inline]
    fn index(&self, at: BlockIx) -> &Superblock {
        debug_assert!((at.0 as usize) < self.0.len());
        // SAFETY: a `BlockIx` that is not `NONE` is that of a superblock of its heap, and there is an entry for each.
        unsafe { self.0.0.get_unchecked(at.0 as usize) }
    }
}

impl Index<BinIx> for Bins {
    type Output = Bin;

    #[inline]
    fn index(&self, at: BinIx) -> &Bin {
        debug_assert!((at.0 as usize) < self.0.len());
        // SAFETY: a `BinIx` is that of a class, of large objects, or of a superblock as the first of a pool, and there
        // is a bin for each.
        unsafe { self.0.0.get_unchecked(at.0 as usize) }
    }
}
