//! The Internet checksum (RFC 1071): one's-complement sums over slices and arrays of segments.
//!
//! A sum is a number whose 16-bit digits are those of the bytes in network order, folded or not; sums of parts that
//! begin at even offsets may be added. [`fold`] brings one down to 16 bits; its complement is what goes into a header.

use demi_api::sga::SgArray;

/// The sum of some bytes, at most `0xffff`. An odd byte at the end counts as if a zero followed.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    // The order of bytes within digits does not matter until the end (RFC 1071 §2 (B)), so that words are added as the
    // machine reads them; what they carry collects in the upper half.
    let (mut wide, short) = if bytes.len() > SHORT { sum_pairs(bytes) } else { (0, bytes) };
    let (lines, short) = short.as_chunks::<32>();
    for line in lines {
        for word in line.as_chunks::<8>().0 {
            wide += u128::from(u64::from_ne_bytes(*word));
        }
    }
    let (words, rest) = short.as_chunks::<8>();
    for word in words {
        wide += u128::from(u64::from_ne_bytes(*word));
    }
    if !rest.is_empty() {
        wide += u128::from(last_word(rest));
    }
    let (low, carried) = (wide as u64).overflowing_add((wide >> 64) as u64);
    let total = low + u64::from(carried);
    // Both halves at once: what the lower one carries goes into the upper, which is the sum.
    let total = total.wrapping_add(total.rotate_left(32)) >> 32;
    let digits = fold(total as u32);
    u32::from(u16::from_be_bytes(digits.to_ne_bytes()))
}

/// Bytes for which setting up [`sum_pairs`] costs more than it saves.
const SHORT: usize = 256;

/// The sum of sixteen bytes at a time, and fewer than sixteen that are left.
#[inline(never)]
fn sum_pairs(bytes: &[u8]) -> (u128, &[u8]) {
    let (pairs, rest) = bytes.as_chunks::<16>();
    let (mut sum, mut carries) = (0u128, 0u64);
    for pair in pairs {
        let (next, carried) = sum.overflowing_add(u128::from_ne_bytes(*pair));
        sum = next;
        carries += u64::from(carried);
    }
    (u128::from(sum as u64) + (sum >> 64) + u128::from(carries), rest)
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
        fn sums_are_those_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(sum(&bytes), u32::from(naive(&bytes)));
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
