//! Packet sequence numbers: 24 bits, compared modulo 2^24. Distances of 2^23 and more are behind.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// A packet sequence number. Its upper eight bits are always zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Psn(u32);

impl Psn {
    const MASK: u32 = 0x00FF_FFFF;

    /// The number that the lower 24 bits are.
    #[inline]
    pub const fn new(value: u32) -> Psn {
        Psn(value & Psn::MASK)
    }

    /// As it stands on the wire.
    #[inline]
    pub const fn value(self) -> u32 {
        self.0
    }

    /// How far it is ahead of `other`: negative if it is behind.
    #[inline]
    pub const fn distance(self, other: Psn) -> i32 {
        // In the upper bits of a word, so that the sign comes out by itself.
        (self.0.wrapping_sub(other.0) << 8).cast_signed() >> 8
    }

    /// How many numbers there are from `other` up to it, which is not behind.
    #[inline]
    pub const fn since(self, other: Psn) -> u32 {
        self.0.wrapping_sub(other.0) & Psn::MASK
    }
}

impl PartialOrd for Psn {
    #[inline]
    fn partial_cmp(&self, other: &Psn) -> Option<Ordering> {
        Some(self.distance(*other).cmp(&0))
    }
}

impl Add<u32> for Psn {
    type Output = Psn;

    #[inline]
    fn add(self, count: u32) -> Psn {
        Psn::new(self.0.wrapping_add(count))
    }
}

impl AddAssign<u32> for Psn {
    #[inline]
    fn add_assign(&mut self, count: u32) {
        *self = *self + count;
    }
}

impl Sub<u32> for Psn {
    type Output = Psn;

    #[inline]
    fn sub(self, count: u32) -> Psn {
        Psn::new(self.0.wrapping_sub(count))
    }
}

impl fmt::Debug for Psn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_around_after_24_bits() {
        let last = Psn::new(0x00FF_FFFF);
        assert_eq!(last + 1, Psn::new(0));
        assert_eq!(Psn::new(0) - 1, last);
        assert!(last < last + 1);
        assert_eq!((last + 5).since(last), 5);
        assert_eq!((last + 5).distance(last), 5);
        assert_eq!(last.distance(last + 5), -5);
        assert_eq!(Psn::new(0x1200_0003).value(), 3);
    }

    #[test]
    fn half_of_the_numbers_are_behind() {
        let middle = Psn::new(77);
        assert!(middle + 0x7F_FFFF > middle);
        assert!(middle + 0x80_0000 < middle);
        assert_eq!((middle + 0x80_0000).distance(middle), -0x80_0000);
    }
}
