//! Scatter-gather arrays: the elements of every queue.
//!
//! An array is moved a dozen times between `push` and the device, and back to `wait`. Two segments therefore lie
//! in it, so that such a move is a few registers; with more than two, all lie in a box that is used again.

mod segments;

use std::fmt;

use arrayvec::ArrayVec;
use demi_memalloc::{Buf, BufMut, Heap};

use self::segments::Segments;
use crate::addr::Addr;
use crate::error::Error;

/// Most segments that one array holds.
pub const MAX_SEGMENTS: usize = 8;

/// Up to eight read-only segments of heap memory, in order, and the peer that a datagram came from.
///
/// Pushing hands over references, never bytes; cloning an array costs one count per segment.
#[derive(Clone, Default)]
pub struct SgArray {
    segments: Segments,
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
    #[inline]
    pub fn push(&mut self, segment: Buf) -> Result<(), Error> {
        self.segments.insert(self.segments.len(), segment)
    }

    /// Puts a segment before the others.
    pub fn push_front(&mut self, segment: Buf) -> Result<(), Error> {
        self.segments.insert(0, segment)
    }

    /// The segments, in order.
    #[inline]
    pub fn segments(&self) -> &[Buf] {
        &self.segments
    }

    /// The segments, to be trimmed or replaced.
    #[inline]
    pub fn segments_mut(&mut self) -> &mut [Buf] {
        &mut self.segments
    }

    /// The segments by value.
    pub fn into_segments(mut self) -> ArrayVec<Buf, MAX_SEGMENTS> {
        let mut all = ArrayVec::new();
        self.segments.drain_to(|segment| all.push(segment));
        all
    }

    /// Takes the segments out, in order, and leaves the array empty.
    #[inline]
    pub fn drain_to(&mut self, each: impl FnMut(Buf)) {
        self.segments.drain_to(each);
    }

    /// Bytes in all segments.
    #[inline]
    pub fn len(&self) -> usize {
        match self.segments() {
            [one] => one.len(),
            several => several.iter().map(|segment| segment.len()).sum(),
        }
    }

    /// Whether there is not one byte.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.segments().iter().all(|segment| segment.is_empty())
    }

    /// Where a popped datagram came from.
    #[inline]
    pub fn peer(&self) -> Option<&Addr> {
        self.peer.as_ref()
    }

    /// Notes where the array came from.
    #[inline]
    pub fn set_peer(&mut self, peer: Option<Addr>) {
        self.peer = peer;
    }

    /// The only segment of an array from nobody; any other array comes back.
    #[inline]
    pub(crate) fn into_single(mut self) -> Result<Buf, SgArray> {
        if self.peer.is_none()
            && let Some(segment) = self.segments.take_single()
        {
            return Ok(segment);
        }
        Err(self)
    }

    /// The bytes as one buffer: the only segment itself, or a counted copy of several.
    pub fn into_contiguous(mut self, heap: &Heap) -> Result<Buf, Error> {
        if let [_] = self.segments() {
            return Ok(self.segments.drain(1).next().expect("there is one"));
        }
        Ok(heap.join(self.segments.iter())?.freeze())
    }

    /// Copies as many bytes as fit into `out`; returns how many.
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        let mut filled = 0;
        for segment in self.segments.iter() {
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
    #[inline]
    pub fn advance(&mut self, count: usize) {
        match self.segments_mut() {
            [only] if only.len() > count => only.advance(count),
            _ => self.advance_several(count),
        }
    }

    fn advance_several(&mut self, mut count: usize) {
        let mut whole = 0;
        for segment in self.segments.iter_mut() {
            if segment.len() > count {
                segment.advance(count);
                count = 0;
                break;
            }
            count -= segment.len();
            whole += 1;
        }
        assert_eq!(count, 0, "advanced past the end of an array");
        self.segments.drain(whole).for_each(drop);
    }

    /// Takes the first `count` bytes out, without a copy; the rest stays.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn split_to(&mut self, mut count: usize) -> SgArray {
        let whole = self
            .segments
            .iter()
            .take_while(|segment| {
                let fits = segment.len() <= count;
                count -= if fits { segment.len() } else { 0 };
                fits
            })
            .count();
        let mut head: SgArray = self.segments.drain(whole).collect();
        if count > 0 {
            let split = self.segments.first_mut().expect("split past the end of an array").split_to(count);
            head.push(split).expect("one segment was cut in two, and its rest stayed behind");
        }
        head.peer = self.peer.clone();
        head
    }
}

impl From<Buf> for SgArray {
    #[inline]
    fn from(segment: Buf) -> SgArray {
        SgArray { segments: Segments::one(segment), peer: None }
    }
}

impl From<BufMut> for SgArray {
    #[inline]
    fn from(segment: BufMut) -> SgArray {
        segment.freeze().into()
    }
}

impl FromIterator<Buf> for SgArray {
    /// # Panics
    /// At the ninth segment.
    fn from_iter<I: IntoIterator<Item = Buf>>(segments: I) -> SgArray {
        let mut sga = SgArray::new();
        for segment in segments {
            sga.push(segment).expect("an array takes at most eight segments");
        }
        sga
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
