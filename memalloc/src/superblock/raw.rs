//! The memory of the slot words: a mapping seen as a slice of atomics, resident from the start like the region itself.

use crate::region::Mapping;
use crate::{HeapError, HugePages};
use std::ops::Deref;
use std::slice;
use std::sync::atomic::AtomicU32;

/// A slice of words that begin as "free, end of list": all bits set.
pub(super) struct Words {
    mapping: Mapping,
    count: usize,
}

impl Words {
    pub(super) fn reserve(count: usize, huge: HugePages, lock: bool) -> Result<Self, HeapError> {
        let mapping = Mapping::reserve(count * size_of::<AtomicU32>(), 0xFF, huge, lock)?;
        Ok(Self { mapping, count })
    }

    pub(super) fn locked(&self) -> bool {
        self.mapping.locked()
    }
}

impl Deref for Words {
    type Target = [AtomicU32];

    #[inline]
    fn deref(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is initialised, holds at least `count` words, is aligned to more than a word, and lives
        // as long as the reference. Nobody else knows its address, so all access to it is through these atomics.
        unsafe { slice::from_raw_parts(self.mapping.base().cast().as_ptr(), self.count) }
    }
}
