//! Size classes: two steps per doubling, from 64 B to 128 KiB.
//!
//! Invariant: every size is a multiple of a cache line, and a power of two is the size of a class, so that objects of
//! such a class lie at multiples of their size. Pure arithmetic; nothing here knows of memory.

/// How many size classes there are.
pub const CLASSES: usize = 22;

/// The smallest object: a cache line.
const MIN_SIZE: usize = 64;
/// The largest object that shares a superblock with others.
const MAX_SIZE: usize = 128 << 10;

/// A size class: always one of the [`CLASSES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) struct Class(u32);

impl Class {
    /// All classes, in rising order of size.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES as u32).map(Self)
    }

    /// The smallest class whose objects hold `len` bytes. `None`: there is no such class, or no byte to hold.
    #[inline]
    pub(crate) fn of(len: usize) -> Option<Self> {
        let last = len.wrapping_sub(1);
        if last >= MAX_SIZE {
            return None;
        }
        if last < MIN_SIZE {
            return Some(Self(0));
        }
        // The two leading bits of the offset of the last byte: which doubling, and which of its two steps. Setting
        // bit 5 sends 65..=96 to the upper step, for there is no class of 96.
        let last = last as u32 | 0x20;
        let shift = last.ilog2() - 1;
        Some(Self(2 * shift + (last >> shift) - 12))
    }

    /// Bytes of an object.
    pub(crate) fn size(self) -> usize {
        match self.0 as usize {
            0 => MIN_SIZE,
            odd if odd % 2 == 1 => 128 << (odd / 2),
            even => 192 << (even / 2 - 1),
        }
    }

    #[inline]
    pub(crate) fn index(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_two_per_doubling() {
        let sizes: Vec<usize> = Class::all().map(Class::size).collect();
        assert_eq!(sizes[..9], [64, 128, 192, 256, 384, 512, 768, 1024, 1536]);
        assert_eq!(sizes.last(), Some(&MAX_SIZE));
        assert!(sizes.is_sorted() && sizes.iter().all(|size| size % 64 == 0));
    }

    #[test]
    fn the_smallest_class_that_fits_is_chosen() {
        assert_eq!((Class::of(0), Class::of(MAX_SIZE + 1), Class::of(usize::MAX)), (None, None, None));
        let step = if cfg!(miri) { 509 } else { 1 };
        for len in (1..=MAX_SIZE).step_by(step) {
            let class = Class::of(len).unwrap();
            assert!(class.size() >= len, "{len} does not fit in {class:?}");
            assert!(
                Class::all().all(|other| other >= class || other.size() < len),
                "{len} fits below {class:?}"
            );
        }
    }
}
