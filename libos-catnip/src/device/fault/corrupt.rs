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
    result.set_peer(data.peer().cloned());
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
