//! The Internet checksum (RFC 1071): one's-complement sums over slices and arrays of segments.
//!
//! A sum is a number whose 16-bit digits are those of the bytes in network order, folded or not; sums of parts that
//! begin at even offsets may be added. [`fold`] brings one down to 16 bits; its complement is what goes into a header.

mod raw;

use demi_api::sga::SgArray;

/// The sum of some bytes, at most `0xffff`. An odd byte at the end counts as if a zero followed.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    digits(if bytes.len() > SHORT { add_long(bytes) } else { add_all(0, bytes) })
}

/// A sum of bytes as the machine reads them. Digits and their order differ from those of the network; which does not matter
/// until the end (RFC 1071 §2 (B)), and spares turning them round before.
#[derive(Clone, Copy)]
pub(crate) struct Raw(u64);

impl Raw {
    /// The sum of nothing.
    pub(crate) const ZERO: Raw = Raw(0);

    /// The sum of some bytes.
    #[inline(always)]
    pub(crate) fn of(bytes: &[u8]) -> Raw {
        Raw(if bytes.len() > SHORT { add_long(bytes) } else { add_all(0, bytes) })
    }

    /// The sum of some bytes, which are copied on the way to `room` for as many.
    #[inline(always)]
    pub(crate) fn of_copied(bytes: &[u8], room: &mut [u8]) -> Raw {
        if bytes.len() > SHORT {
            room.copy_from_slice(bytes);
            return Raw(add_long(bytes));
        }
        let (lines, rest) = bytes.as_chunks::<32>();
        let (places, room) = room.as_chunks_mut();
        let mut total = 0;
        for (line, place) in lines.iter().zip(places) {
            *place = *line;
            total = add_words(total, line);
        }
        if !rest.is_empty() {
            room.copy_from_slice(rest);
            total = add_all(total, rest);
        }
        Raw(total)
    }

    /// With a number added, whose bytes lie in the network's order.
    #[inline(always)]
    pub(crate) fn and(self, number: u32) -> Raw {
        self.and_word(u64::from(u32::from_ne_bytes(number.to_be_bytes())))
    }

    /// With eight bytes added that the machine has read.
    #[inline(always)]
    pub(crate) fn and_word(self, word: u64) -> Raw {
        Raw(add_round(self.0, word))
    }

    /// Brought down to 16 bits, to be written as the machine does.
    #[inline(always)]
    pub(crate) fn fold(self) -> u16 {
        fold(self.halves())
    }

    /// Whether it is that of bytes with their checksum.
    #[inline(always)]
    pub(crate) fn is_whole(self) -> bool {
        self.fold() == 0xffff
    }

    #[inline(always)]
    fn halves(self) -> u32 {
        // Both halves at once: what the lower one carries goes into the upper, which is the sum.
        (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32
    }
}

/// The sum of a header of IPv4 without options.
#[inline(always)]
pub(crate) fn sum_ipv4(header: &[u8; 20]) -> u32 {
    let (words, rest) = header.as_chunks::<8>();
    let total = words.iter().fold(0, |total, word| add_round(total, u64::from_ne_bytes(*word)));
    digits(match rest {
        [a, b, c, d] => add_round(total, u64::from(u32::from_ne_bytes([*a, *b, *c, *d]))),
        _ => total,
    })
}

/// Adds bytes to the sum of those before them, as words that the machine reads.
#[inline(always)]
fn add_all(mut total: u64, bytes: &[u8]) -> u64 {
    // The order of bytes within digits does not matter until the end (RFC 1071 §2 (B)), so that words are added as the
    // machine reads them, and what they carry comes back in at the lower end.
    let (lines, mut rest) = bytes.as_chunks::<32>();
    for line in lines {
        total = add_words(total, line);
    }
    if let Some((pair, behind)) = rest.split_first_chunk::<16>() {
        total = add_words(total, pair);
        rest = behind;
    }
    if let Some((word, behind)) = rest.split_first_chunk::<8>() {
        total = add_words(total, word);
        rest = behind;
    }
    if !rest.is_empty() {
        total = add_round(total, last_word(rest));
    }
    total
}

/// A sum of words as the machine reads them, as one of digits in network order.
#[inline(always)]
fn digits(total: u64) -> u32 {
    u32::from(u16::from_be_bytes(Raw(total).fold().to_ne_bytes()))
}

/// Adds words of eight bytes.
#[inline(always)]
fn add_words<const N: usize>(mut total: u64, bytes: &[u8; N]) -> u64 {
    let mut carry = false;
    for word in bytes.as_chunks::<8>().0 {
        (total, carry) = add(total, u64::from_ne_bytes(*word), carry);
    }
    // A sum that has carried is not all ones.
    total + u64::from(carry)
}

/// Adds with what was carried before.
#[inline(always)]
fn add(one: u64, other: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = one.overflowing_add(other);
    let (sum, second) = sum.overflowing_add(u64::from(carry));
    (sum, first | second)
}

/// Adds what is carried at the lower end.
#[inline(always)]
fn add_round(one: u64, other: u64) -> u64 {
    let (sum, carry) = one.overflowing_add(other);
    sum + u64::from(carry)
}

/// Bytes for which setting up [`add_long`] costs more than it saves.
const SHORT: usize = 256;

/// Adds many bytes, a line at a time.
#[inline(never)]
fn add_long(bytes: &[u8]) -> u64 {
    let (lines, rest) = bytes.as_chunks();
    add_all(raw::add_lines(lines), rest)
}

/// Fewer than eight bytes as the machine would read them with zeroes behind.
#[inline]
fn last_word(bytes: &[u8]) -> u64 {
    let (mut rest, mut word, mut shift) = (bytes, 0, 0);
    if let Some((four, more)) = rest.split_first_chunk::<4>() {
        word = u64::from(u32::from_le_bytes(*four));
        (rest, shift) = (more, 32);
    }
    if let Some((two, more)) = rest.split_first_chunk::<2>() {
        word |= u64::from(u16::from_le_bytes(*two)) << shift;
        (rest, shift) = (more, shift + 16);
    }
    if let Some(one) = rest.first() {
        word |= u64::from(*one) << shift;
    }
    u64::from_ne_bytes(word.to_le_bytes())
}

/// The sum of all bytes of an array, wherever its segments are cut.
pub(crate) fn sum_array(array: &SgArray) -> u32 {
    let mut total = 0;
    let mut odd = false;
    for segment in array.segments() {
        total += at(sum(segment), odd);
        odd ^= segment.len() % 2 == 1;
    }
    u32::from(fold(total))
}

/// The sum of a part, as it counts where an odd number of bytes precedes it.
#[inline]
pub(crate) fn at(sum: u32, odd: bool) -> u32 {
    if odd { u32::from(fold(sum).swap_bytes()) } else { sum }
}

/// Brings a sum down to 16 bits.
#[inline]
pub(crate) fn fold(sum: u32) -> u16 {
    // Both halves at once: what the lower one carries goes into the upper, which is the sum.
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// Whether an array's checksum is right, given the sum of what else it covers.
#[inline]
pub(crate) fn verify(pseudo: u32, array: &SgArray) -> bool {
    let data = match array.segments() {
        [one] => sum(one),
        _ => sum_array(array),
    };
    fold(pseudo + data) == 0xffff
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::{Heap, HeapConfig};
    use proptest::prelude::*;

    use super::*;

    fn naive(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
        }
        while total > 0xffff {
            total = (total & 0xffff) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
        assert_eq!(sum(&[]), 0);
        assert_eq!(sum(&[0xff; 65536]), 0xffff);
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..1000)) {
            prop_assert_eq!(sum(&bytes), u32::from(naive(&bytes)));
            prop_assert_eq!(Raw::of(&bytes).fold().to_ne_bytes(), naive(&bytes).to_be_bytes());
            prop_assert!(Raw::of(&bytes).and(u32::from(!naive(&bytes))).is_whole());
            let mut copy = vec![0; bytes.len()];
            prop_assert_eq!(Raw::of_copied(&bytes, &mut copy).fold(), Raw::of(&bytes).fold());
            prop_assert_eq!(&copy, &bytes);
            if let Some(header) = bytes.first_chunk() {
                prop_assert_eq!(sum_ipv4(header), u32::from(naive(header)));
            }
        }

        #[test]
        fn numbers_are_added_as_their_bytes(sum in any::<u64>(), word in any::<u64>(), number in any::<u32>()) {
            let bytes = [&sum.to_ne_bytes()[..], &word.to_ne_bytes(), &number.to_be_bytes()].concat();
            let raw = Raw(sum).and_word(word).and(number);
            prop_assert_eq!(raw.fold().to_ne_bytes(), naive(&bytes).to_be_bytes());
        }

        #[test]
        fn cuts_do_not_matter(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..7),
        ) {
            let heap = Heap::new(&HeapConfig { size: 2 << 20, ..HeapConfig::default() }).unwrap();
            let mut array = SgArray::new();
            let mut rest = &bytes[..];
            for cut in cuts {
                let (part, tail) = rest.split_at(cut.min(rest.len()));
                array.push(heap.copy_from(part).unwrap()).unwrap();
                rest = tail;
            }
            array.push(heap.copy_from(rest).unwrap()).unwrap();
            prop_assert_eq!(sum_array(&array), u32::from(naive(&bytes)));
            let sum = naive(&bytes);
            prop_assert!(verify(u32::from(!sum), &array));
            prop_assert!(!verify(u32::from(!sum) ^ 1, &array));
        }
    }
}
