//! Scatter-gather arrays: the elements of every queue.
//!
//! An array is moved a dozen times between `push` and the device, and back to `wait`. What nearly all of them consist of
//! therefore lies in it, one segment and a peer of IPv4, so that such a move is a few registers; whatever else there is
//! lies in a box that is used again.

mod segments;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

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
    /// The peer, if it is one of IPv4. Any other lies in the segments' box.
    peer: Peer4,
}

/// An address of IPv4 with its port, or none: as a number that is moved in one piece.
#[derive(Clone, Copy, Default)]
struct Peer4(u64);

impl Peer4 {
    const SOME: u64 = 1 << 48;

    #[inline]
    fn new(addr: SocketAddrV4) -> Peer4 {
        Peer4(Peer4::SOME | u64::from(addr.ip().to_bits()) << 16 | u64::from(addr.port()))
    }

    #[inline]
    fn get(self) -> Option<SocketAddrV4> {
        let ip = Ipv4Addr::from_bits((self.0 >> 16) as u32);
        (self.0 != 0).then_some(SocketAddrV4::new(ip, self.0 as u16))
    }
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
        self.segments.push(segment)
    }

    /// An array of two segments: a header, mostly, and what it is the header of.
    #[inline]
    pub fn pair(first: Buf, second: Buf) -> SgArray {
        SgArray { segments: Segments::pair(first, second), peer: Peer4::default() }
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
    #[inline(always)]
    pub fn segments_mut(&mut self) -> &mut [Buf] {
        &mut self.segments
    }

    /// The segment, if there is but one, and it lies in the array.
    #[inline(always)]
    pub fn single(&self) -> Option<&Buf> {
        match &self.segments {
            Segments::One(segment) => Some(segment),
            Segments::None | Segments::Long(_) => None,
        }
    }

    /// The same, to be trimmed or replaced.
    #[inline(always)]
    pub fn single_mut(&mut self) -> Option<&mut Buf> {
        match &mut self.segments {
            Segments::One(segment) => Some(segment),
            Segments::None | Segments::Long(_) => None,
        }
    }

    /// The segments by value.
    pub fn into_segments(mut self) -> ArrayVec<Buf, MAX_SEGMENTS> {
        let mut all = ArrayVec::new();
        self.segments.drain_to(|segment| all.push(segment));
        all
    }

    /// Takes the segment out, if there is but one.
    #[inline]
    pub fn take_single(&mut self) -> Option<Buf> {
        self.segments.take_single()
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
        match self.segments() {
            [one] => one.is_empty(),
            several => several.iter().all(|segment| segment.is_empty()),
        }
    }

    /// Where a popped datagram came from.
    #[inline]
    pub fn peer(&self) -> Option<Addr> {
        match self.peer.get() {
            Some(peer) => Some(Addr::Inet(peer.into())),
            None => self.segments.long().and_then(|long| long.peer.clone()),
        }
    }

    /// Whether it is known where it came from.
    #[inline]
    pub fn has_peer(&self) -> bool {
        self.peer.0 != 0 || self.segments.long().is_some_and(|long| long.peer.is_some())
    }

    /// Notes where the array came from.
    #[inline]
    pub fn set_peer(&mut self, peer: Option<Addr>) {
        self.segments.forget_peer();
        self.peer = match peer {
            Some(Addr::Inet(SocketAddr::V4(peer))) => Peer4::new(peer),
            peer => {
                if peer.is_some() {
                    self.segments.long_mut().peer = peer;
                }
                Peer4::default()
            }
        };
    }

    /// The same for a peer of IPv4.
    #[inline]
    pub fn set_peer_v4(&mut self, peer: SocketAddrV4) {
        self.segments.forget_peer();
        self.peer = Peer4::new(peer);
    }

    /// Whether there is nothing in it that would have to be dropped.
    #[inline]
    pub fn is_vacant(&self) -> bool {
        self.segments.is_vacant()
    }

    /// The only segment of an array from nobody; any other array comes back.
    #[inline]
    pub(crate) fn into_single(mut self) -> Result<Buf, SgArray> {
        if self.peer.0 == 0
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
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) -> usize {
        match self.segments() {
            [one] if one.len() == out.len() => {
                out.copy_from_slice(one);
                one.len()
            }
            _ => self.copy_several_to(out),
        }
    }

    fn copy_several_to(&self, out: &mut [u8]) -> usize {
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
        head.set_peer(self.peer());
        head
    }
}

impl From<Buf> for SgArray {
    #[inline]
    fn from(segment: Buf) -> SgArray {
        SgArray { segments: Segments::One(segment), peer: Peer4::default() }
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
        write!(f, "SgArray {{ lens: {lens:?}, peer: {:?} }}", self.peer())
    }
}
