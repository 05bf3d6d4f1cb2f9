//! Which of the program's descriptors are the shim's affair: one atomic word for each number.
//!
//! Invariant: an entry is cleared before the kernel can give its number away again, and set before the program knows the
//! number. What is read is a key, checked where it is used: an entry that another thread has just closed names
//! nothing.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use demi_api::slab::Key;

/// Descriptors from this number on are the kernel's alone.
pub(crate) const NUMBERS: usize = 1 << 20;

/// The table. Untouched pages of it take no memory.
pub(crate) struct Table([AtomicU64; NUMBERS]);

/// The highest descriptor that was ever entered.
static HIGHEST: AtomicUsize = AtomicUsize::new(0);

/// The only table of a process.
pub(crate) static TABLE: Table = Table([const { AtomicU64::new(0) }; NUMBERS]);

impl Table {
    /// What `fd` names, if it is the shim's affair.
    #[inline]
    pub(crate) fn get(&self, fd: i32) -> Option<Key> {
        let entry = self.0.get(usize::try_from(fd).ok()?)?.load(Ordering::Acquire);
        (entry != 0).then(|| Key::from_u64(entry - 1))
    }

    /// A descriptor for what `key` names, found by looking through those that were ever used.
    pub(crate) fn find(&self, key: Key) -> Option<i32> {
        let highest = HIGHEST.load(Ordering::Relaxed);
        let entry = key.to_u64() + 1;
        (0..=highest).find(|fd| self.0[*fd].load(Ordering::Acquire) == entry).map(|fd| fd as i32)
    }

    /// No descriptor above this one was ever entered.
    pub(crate) fn highest(&self) -> u32 {
        HIGHEST.load(Ordering::Relaxed) as u32
    }

    /// Whether `fd` has a place: the kernel keeps those that have none.
    pub(crate) fn has_place(&self, fd: i32) -> bool {
        usize::try_from(fd).is_ok_and(|fd| fd < NUMBERS)
    }

    /// Enters a descriptor that has a place.
    pub(crate) fn set(&self, fd: i32, key: Key) {
        if let Some(entry) = usize::try_from(fd).ok().and_then(|fd| self.0.get(fd)) {
            entry.store(key.to_u64() + 1, Ordering::Release);
            HIGHEST.fetch_max(fd.unsigned_abs() as usize, Ordering::Relaxed);
        }
    }

    /// Takes a descriptor out; what it named.
    pub(crate) fn clear(&self, fd: i32) -> Option<Key> {
        let entry = self.0.get(usize::try_from(fd).ok()?)?.swap(0, Ordering::AcqRel);
        (entry != 0).then(|| Key::from_u64(entry - 1))
    }
}

#[cfg(test)]
mod tests {
    use demi_api::slab::Slab;

    use super::*;

    #[test]
    fn numbers_without_a_place_name_nothing() {
        let key = Slab::new().insert(());
        for fd in [-1, i32::MIN, NUMBERS as i32, i32::MAX] {
            assert!(!TABLE.has_place(fd));
            TABLE.set(fd, key);
            assert_eq!((TABLE.get(fd), TABLE.clear(fd)), (None, None));
        }
    }

    #[test]
    fn the_first_key_of_all_is_an_entry() {
        let key = Slab::new().insert(());
        TABLE.set(NUMBERS as i32 - 1, key);
        assert_eq!(TABLE.get(NUMBERS as i32 - 1), Some(key));
        assert_eq!(TABLE.clear(NUMBERS as i32 - 1), Some(key));
        assert_eq!(TABLE.get(NUMBERS as i32 - 1), None);
    }
}
