//! Size classes: two steps per doubling, from 64 B to 128 KiB.
//!
//! Invariant: every size is a multiple of a cache line, and a power of two is the size of a class, so that objects of
//! such a class lie at multiples of their size. Pure arithmetic; nothing here knows of memory.

/// How many size classes there are.
pub const CLASSES: usize = 22;

/// The largest object that shares a superblock with others.
pub(crate) const MAX_CLASS_SIZE: usize = class_size(CLASSES - 1);

/// The smallest class whose objects hold `len` bytes, for `len` up to [`MAX_CLASS_SIZE`].
#[inline]
pub(crate) const fn class_of(len: usize) -> usize {
    // The leading bit says which doubling, the bit below it which of the two steps. Setting bit 5 sends 65..=96 to the
    // upper step, for there is no class of 96, and everything below to the lowest class, by saturation.
    let x = len.saturating_sub(1) | 0x20;
    let doubling = x.ilog2() as usize;
    let step = (x >> (doubling - 1)) & 1;
    (2 * doubling + step).saturating_sub(12)
}

/// Bytes of an object of `class`.
pub(crate) const fn class_size(class: usize) -> usize {
    match class {
        0 => 64,
        odd if odd % 2 == 1 => 128 << (odd / 2),
        even => 192 << (even / 2 - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_two_per_doubling() {
        let sizes: Vec<usize> = (0..CLASSES).map(class_size).collect();
        assert_eq!(sizes[..9], [64, 128, 192, 256, 384, 512, 768, 1024, 1536]);
        assert_eq!(MAX_CLASS_SIZE, 128 << 10);
        assert!(sizes.is_sorted() && sizes.iter().all(|size| size % 64 == 0));
    }

    #[test]
    fn the_smallest_class_that_fits_is_chosen() {
        let step = if cfg!(miri) { 509 } else { 1 };
        for len in (0..=MAX_CLASS_SIZE).step_by(step) {
            let class = class_of(len);
            assert!(class_size(class) >= len, "{len} does not fit in class {class}");
            assert!(class == 0 || class_size(class - 1) < len, "{len} would fit below class {class}");
        }
    }
}
