//! Copies of frames with one bit turned.

use arrayvec::ArrayVec;
use demi_api::memalloc::Heap;
use demi_api::sga::SgArray;

use super::super::{Checksum, Frame};

/// The frame with one random bit turned, whose checksum is then to be verified. Segments that stay as they are, are
/// shared; what changes is a copy. `None`: there is no memory, or no byte to corrupt.
pub(super) fn corrupted(heap: &Heap, frame: &Frame, dice: &mut fastrand::Rng) -> Option<Frame> {
    let len = frame.data.len();
    if len == 0 {
        return None;
    }
    let mut edits: ArrayVec<(usize, u8), 3> = ArrayVec::new();
    if let Checksum::Partial { start, at } = frame.checksum {
        let (start, at) = (usize::from(start), usize::from(at));
        if start <= at && at + 2 <= len {
            let [high, low] = checksum(&frame.data, start).to_be_bytes();
            edits.push((at, high));
            edits.push((at + 1, low));
        }
    }
    let bit = dice.usize(..len * 8);
    let place = bit / 8;
    let before =
        edits.iter().find(|edit| edit.0 == place).map_or_else(|| byte(&frame.data, place), |edit| edit.1);
    edits.push((place, before ^ 1 << (bit % 8)));
    Some(Frame { data: edited(heap, &frame.data, &edits)?, checksum: Checksum::Unknown })
}

/// The array with some bytes replaced, in order.
fn edited(heap: &Heap, data: &SgArray, edits: &[(usize, u8)]) -> Option<SgArray> {
    let mut result = SgArray::new();
    result.set_peer(data.peer());
    let mut begin = 0;
    for segment in data.segments() {
        let range = begin..begin + segment.len();
        begin = range.end;
        let mut here = edits.iter().filter(|(at, _)| range.contains(at)).peekable();
        let segment = if here.peek().is_some() {
            let mut copy = heap.alloc(segment.len()).ok()?;
            copy.copy_from_slice(segment);
            here.for_each(|(at, value)| copy[at - range.start] = *value);
            copy.freeze()
        } else {
            segment.clone()
        };
        result.push(segment).ok()?;
    }
    Some(result)
}

fn byte(data: &SgArray, place: usize) -> u8 {
    data.segments().iter().flat_map(|segment| segment.iter()).nth(place).copied().unwrap_or(0)
}

/// The Internet checksum (RFC 1071) of the bytes from `start` on, with what is in its place summed too: that is the
/// pseudo-header's. Zero is sent as its other form, since in UDP it would mean that there is none (RFC 768).
fn checksum(data: &SgArray, start: usize) -> u16 {
    let bytes = data.segments().iter().flat_map(|segment| segment.iter()).skip(start);
    let (mut sum, mut high) = (0_u64, true);
    for byte in bytes {
        sum += u64::from(*byte) << if high { 8 } else { 0 };
        high = !high;
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 4 << 20, lock: false, ..HeapConfig::default() }).unwrap()
    }

    /// Bytes that count up, cut into segments of these lengths.
    fn cut(heap: &Heap, lens: &[usize]) -> SgArray {
        let mut next = 0;
        lens.iter()
            .map(|len| {
                let bytes: Vec<u8> = (next..next + len).map(|n| n as u8).collect();
                next += len;
                heap.copy_from(&bytes).unwrap()
            })
            .collect()
    }

    fn bits_between(a: &[u8], b: &[u8]) -> u32 {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum()
    }

    #[test]
    fn one_bit_is_turned_in_a_copy_of_one_segment() {
        let heap = heap();
        let mut dice = fastrand::Rng::with_seed(1);
        for lens in [&[60][..], &[14, 20, 26], &[1, 0, 59], &[54, 1400, 1, 2, 3, 4, 5, 6]] {
            let frame = Frame { data: cut(&heap, lens), checksum: Checksum::Verified };
            let before = frame.data.to_vec();
            for _ in 0..200 {
                let bad = corrupted(&heap, &frame, &mut dice).unwrap();
                assert_eq!(bits_between(&before, &bad.data.to_vec()), 1);
                assert_eq!(bad.checksum, Checksum::Unknown);
                assert_eq!(frame.data.to_vec(), before);
                let pairs = frame.data.segments().iter().zip(bad.data.segments());
                assert_eq!(pairs.filter(|(a, b)| !a.shares_object_with(b)).count(), 1);
            }
        }
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn a_checksum_left_to_the_device_is_put_in_first() {
        let heap = heap();
        let mut dice = fastrand::Rng::with_seed(2);
        // 34 bytes of headers, then a UDP header with its checksum at 40, cut there in all ways.
        for lens in [&[99][..], &[40, 59], &[41, 58], &[42, 57], &[34, 8, 57], &[10, 31, 1, 57]] {
            let frame = Frame { data: cut(&heap, lens), checksum: Checksum::Partial { start: 34, at: 40 } };
            let before = frame.data.to_vec();
            let mut whole = before.clone();
            whole[40..42].copy_from_slice(&checksum(&frame.data, 34).to_be_bytes());
            let mut hits = [0; 99];
            for _ in 0..2000 {
                let bad = corrupted(&heap, &frame, &mut dice).unwrap().data.to_vec();
                assert_eq!(bits_between(&whole, &bad), 1);
                hits[(0..99).find(|n| bad[*n] != whole[*n]).unwrap()] += 1;
            }
            assert!(hits.iter().all(|hits| *hits > 0), "{hits:?}");
            assert_eq!(frame.data.to_vec(), before);
        }
        assert_eq!(heap.stats().objects_live, 0);
    }

    /// The example of RFC 1071 §3, with a pseudo-header's sum of zero and the checksum's place at its end.
    #[test]
    fn the_checksum_is_that_of_the_rfc() {
        let heap = heap();
        let data = heap.copy_from(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7, 0, 0]).unwrap().into();
        assert_eq!(checksum(&data, 0), !0xddf2);
        let odd = heap.copy_from(&[0xff, 0x12, 0x34, 0x56]).unwrap().into();
        assert_eq!(checksum(&odd, 1), !(0x1234 + 0x5600));
        let zero = heap.copy_from(&[0xff, 0xff]).unwrap().into();
        assert_eq!(checksum(&zero, 0), 0xffff);
    }

    #[test]
    fn without_memory_or_bytes_there_is_no_copy() {
        let heap = heap();
        let mut dice = fastrand::Rng::with_seed(3);
        assert!(corrupted(&heap, &Frame::new(SgArray::new()), &mut dice).is_none());
        let frame = Frame::new(cut(&heap, &[60]));
        let full: Vec<_> = std::iter::from_fn(|| heap.alloc(64).ok()).collect();
        assert!(corrupted(&heap, &frame, &mut dice).is_none());
        drop(full);
        assert!(corrupted(&heap, &frame, &mut dice).is_some());
    }
}
