//! Scatter-gather arrays: the elements of every queue.

use std::fmt;

use arrayvec::ArrayVec;
use demi_memalloc::{Buf, BufMut, Heap};

use crate::addr::Addr;
use crate::error::Error;

/// Most segments that one array holds.
pub const MAX_SEGMENTS: usize = 8;

/// Up to eight read-only segments of heap memory, in order, and the peer that a datagram came from.
///
/// Pushing hands over references, never bytes; cloning an array costs one count per segment.
#[derive(Clone, Default)]
pub struct SgArray {
    segments: ArrayVec<Buf, MAX_SEGMENTS>,
    peer: Option<Addr>,
}

impl SgArray {
    /// An array without a segment. On a stream, a popped array without bytes is the end of the stream.
    pub fn new() -> SgArray {
        SgArray::default()
    }

    /// Copies foreign memory into the heap, as one segment. The copy is counted in the heap's statistics.
    pub fn copy_from(heap: &Heap, bytes: &[u8]) -> Result<SgArray, Error> {
        Ok(heap.copy_from(bytes)?.into())
    }

    /// Appends a segment. Fails with [`Error::TooManySegments`] at the ninth.
    pub fn push(&mut self, segment: Buf) -> Result<(), Error> {
        self.segments.try_push(segment).map_err(|_| Error::TooManySegments)
    }

    /// Puts a segment before the others.
    pub fn push_front(&mut self, segment: Buf) -> Result<(), Error> {
        self.segments.try_insert(0, segment).map_err(|_| Error::TooManySegments)
    }

    /// The segments, in order.
    pub fn segments(&self) -> &[Buf] {
        &self.segments
    }

    /// The segments, to be trimmed or taken.
    pub fn segments_mut(&mut self) -> &mut ArrayVec<Buf, MAX_SEGMENTS> {
        &mut self.segments
    }

    /// The segments by value.
    pub fn into_segments(self) -> ArrayVec<Buf, MAX_SEGMENTS> {
        self.segments
    }

    /// Bytes in all segments.
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.len()).sum()
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.is_empty())
    }

    /// Where a popped datagram came from.
    pub fn peer(&self) -> Option<&Addr> {
        self.peer.as_ref()
    }

    /// Notes where the array came from.
    pub fn set_peer(&mut self, peer: Option<Addr>) {
        self.peer = peer;
    }

    /// The bytes as one buffer: the only segment itself, or a counted copy of several.
    pub fn into_contiguous(mut self, heap: &Heap) -> Result<Buf, Error> {
        if self.segments.len() == 1 {
            return Ok(self.segments.remove(0));
        }
        let mut joined: BufMut = heap.alloc(self.len())?;
        self.copy_to(&mut joined);
        Ok(joined.freeze())
    }

    /// Copies as many bytes as fit into `out`; returns how many.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for segment in &self.segments {
            let part = segment.len().min(out.len() - filled);
            out[filled..filled + part].copy_from_slice(&segment[..part]);
            filled += part;
        }
        filled
    }

    /// A copy of all bytes in ordinary memory, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(&mut bytes);
        bytes
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn advance(&mut self, mut count: usize) {
        let mut whole = 0;
        for segment in &mut self.segments {
            if segment.len() > count {
                segment.advance(count);
                count = 0;
                break;
            }
            count -= segment.len();
            whole += 1;
        }
        assert_eq!(count, 0, "advanced past the end of an array");
        self.segments.drain(..whole);
    }

    /// Takes the first `count` bytes out, without a copy; the rest stays.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, mut count: usize) -> SgArray {
        let mut head = SgArray { segments: ArrayVec::new(), peer: self.peer.clone() };
        let mut whole = 0;
        for segment in &mut self.segments {
            if segment.len() > count {
                if count > 0 {
                    head.segments.push(segment.split_to(count));
                }
                count = 0;
                break;
            }
            count -= segment.len();
            head.segments.push(segment.clone());
            whole += 1;
        }
        assert_eq!(count, 0, "split past the end of an array");
        self.segments.drain(..whole);
        head
    }
}

impl From<Buf> for SgArray {
    fn from(segment: Buf) -> SgArray {
        let mut segments = ArrayVec::new();
        segments.push(segment);
        SgArray { segments, peer: None }
    }
}

impl From<BufMut> for SgArray {
    fn from(segment: BufMut) -> SgArray {
        segment.freeze().into()
    }
}

impl FromIterator<Buf> for SgArray {
    /// # Panics
    /// At the ninth segment.
    fn from_iter<I: IntoIterator<Item = Buf>>(segments: I) -> SgArray {
        SgArray { segments: segments.into_iter().collect(), peer: None }
    }
}

/// Byte-wise: how the bytes are cut into segments does not matter.
impl PartialEq<[u8]> for SgArray {
    fn eq(&self, other: &[u8]) -> bool {
        if self.len() != other.len() {
            return false;
        }
        let mut rest = other;
        self.segments.iter().all(|segment| {
            let (head, tail) = rest.split_at(segment.len());
            rest = tail;
            segment[..] == *head
        })
    }
}

impl fmt::Debug for SgArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lens: ArrayVec<usize, MAX_SEGMENTS> = self.segments.iter().map(|segment| segment.len()).collect();
        write!(f, "SgArray {{ lens: {lens:?}, peer: {:?} }}", self.peer)
    }
}
