//! Where an array keeps its segments: in place while there is but one, else in a box.
//!
//! Boxes are kept for the next array of the same thread: pushing long arrays allocates nothing once as many
//! boxes exist as such arrays do at a time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::slice;

use arrayvec::ArrayVec;
use demi_memalloc::Buf;

use super::MAX_SEGMENTS;
use crate::addr::Addr;
use crate::error::Error;

/// Boxes kept per thread, at the most.
const SPARES: usize = 1024;

/// What does not fit in place.
#[derive(Default)]
pub(super) struct Long {
    segments: ArrayVec<Buf, MAX_SEGMENTS>,
    /// A peer that does not fit either.
    pub(super) peer: Option<Addr>,
}

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    static SPARE: RefCell<Vec<Box<Long>>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
pub(super) enum Segments {
    #[default]
    None,
    One(Buf),
    /// Any number of them.
    Long(Boxed),
}

impl Segments {
    /// Two segments, in order.
    #[inline]
    pub(super) fn pair(first: Buf, second: Buf) -> Segments {
        let mut long = Boxed::new();
        long.segments.extend([first, second]);
        Segments::Long(long)
    }

    /// Puts a segment at the end.
    #[inline]
    pub(super) fn push(&mut self, segment: Buf) -> Result<(), Error> {
        match self {
            Segments::Long(long) => long.segments.try_push(segment).map_err(|_| Error::TooManySegments),
            Segments::None | Segments::One(_) => self.insert(self.len(), segment),
        }
    }

    /// Puts a segment before the one at `place`, or at the end.
    #[inline]
    pub(super) fn insert(&mut self, place: usize, segment: Buf) -> Result<(), Error> {
        if self.is_vacant() {
            *self = Segments::One(segment);
            return Ok(());
        }
        self.insert_among(place, segment)
    }

    #[inline(never)]
    fn insert_among(&mut self, place: usize, segment: Buf) -> Result<(), Error> {
        let segments = &mut self.long_mut().segments;
        segments.try_insert(place, segment).map_err(|_| Error::TooManySegments)
    }

    /// The box, if there is one.
    #[inline]
    pub(super) fn long(&self) -> Option<&Long> {
        match self {
            Segments::Long(long) => Some(long),
            Segments::None | Segments::One(_) => None,
        }
    }

    /// The box, in which everything is from now on.
    pub(super) fn long_mut(&mut self) -> &mut Long {
        if !matches!(self, Segments::Long(_)) {
            let mut long = Boxed::new();
            long.segments.extend(self.take_single());
            *self = Segments::Long(long);
        }
        let Segments::Long(long) = self else { unreachable!("there is a box by now") };
        long
    }

    /// Forgets what is in the box besides segments.
    #[inline(always)]
    pub(super) fn forget_peer(&mut self) {
        if let Segments::Long(long) = self {
            long.peer = None;
        }
    }

    /// Takes the only segment out, if it lies in place.
    #[inline]
    pub(super) fn take_single(&mut self) -> Option<Buf> {
        if !matches!(self, Segments::One(_)) {
            return None;
        }
        match std::mem::replace(self, Segments::None) {
            Segments::One(segment) => Some(segment),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Whether there is nothing to be dropped.
    #[inline]
    pub(super) fn is_vacant(&self) -> bool {
        matches!(self, Segments::None)
    }

    /// Takes all out, in order.
    #[inline]
    pub(super) fn drain_to(&mut self, mut each: impl FnMut(Buf)) {
        match self.take_single() {
            Some(only) => each(only),
            None => self.drain_several(&mut each),
        }
    }

    #[inline(never)]
    fn drain_several(&mut self, each: &mut dyn FnMut(Buf)) {
        if let Segments::Long(long) = self {
            long.segments.drain(..).for_each(each);
        }
    }

    /// Takes the first `count` out, or as many as there are.
    pub(super) fn drain(&mut self, count: usize) -> impl Iterator<Item = Buf> {
        let count = count.min(self.len());
        let one = if count > 0 { self.take_single() } else { None };
        let long = match self {
            Segments::Long(long) => Some(long.segments.drain(..count)),
            Segments::None | Segments::One(_) => None,
        };
        one.into_iter().chain(long.into_iter().flatten())
    }
}

impl Clone for Segments {
    #[inline]
    fn clone(&self) -> Segments {
        match self {
            Segments::None => Segments::None,
            Segments::One(segment) => Segments::One(segment.clone()),
            Segments::Long(long) => {
                let mut copy = Boxed::new();
                copy.segments.extend(long.segments.iter().cloned());
                copy.peer.clone_from(&long.peer);
                Segments::Long(copy)
            }
        }
    }
}

impl Deref for Segments {
    type Target = [Buf];

    #[inline]
    fn deref(&self) -> &[Buf] {
        // What nearly every array is, by one comparison.
        if let Segments::One(segment) = self {
            return slice::from_ref(segment);
        }
        self.long().map_or(&[], |long| &long.segments)
    }
}

impl DerefMut for Segments {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [Buf] {
        match self {
            Segments::One(segment) => slice::from_mut(segment),
            Segments::Long(long) => &mut long.segments,
            Segments::None => &mut [],
        }
    }
}

/// A box that goes back to its thread's spares. Present until it is dropped.
pub(super) struct Boxed(Option<Box<Long>>);

impl Boxed {
    fn new() -> Boxed {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Boxed(Some(spare.unwrap_or_default()))
    }
}

impl Deref for Boxed {
    type Target = Long;

    fn deref(&self) -> &Long {
        self.0.as_deref().expect("the box is there until it is dropped")
    }
}

impl DerefMut for Boxed {
    fn deref_mut(&mut self) -> &mut Long {
        self.0.as_deref_mut().expect("the box is there until it is dropped")
    }
}

impl Drop for Boxed {
    #[inline(never)]
    fn drop(&mut self) {
        let Some(mut long) = self.0.take() else { return };
        long.segments.clear();
        long.peer = None;
        // At the thread's end there may be no spares any more; the box is then freed.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(long);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use demi_memalloc::{Heap, HeapConfig};

    use super::super::SgArray;
    use super::*;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 2 << 20, ..HeapConfig::default() }).unwrap()
    }

    /// An array of `count` segments: "0", "11", "222", …
    fn array(heap: &Heap, count: usize) -> SgArray {
        (0..count).map(|n| heap.copy_from(&vec![b'0' + n as u8; n + 1]).unwrap()).collect()
    }

    #[test]
    fn arrays_of_every_length_keep_their_order() {
        let heap = heap();
        for count in 0..=MAX_SEGMENTS {
            let sga = array(&heap, count);
            assert_eq!(sga.segments().len(), count);
            assert_eq!(sga.clone().to_vec(), sga.to_vec());
            assert_eq!(sga.len(), count * (count + 1) / 2);
            let parts = sga.into_segments();
            assert!(parts.iter().enumerate().all(|(n, part)| part.len() == n + 1));
        }
        let mut full = array(&heap, MAX_SEGMENTS);
        assert_eq!(full.push(heap.copy_from(b"x").unwrap()), Err(Error::TooManySegments));
        assert_eq!(full.push_front(heap.copy_from(b"x").unwrap()), Err(Error::TooManySegments));
        drop(full);
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn a_segment_put_before_others_is_the_first() {
        let heap = heap();
        for count in 0..MAX_SEGMENTS {
            let mut sga = array(&heap, count);
            let rest = sga.to_vec();
            sga.push_front(heap.copy_from(b"head").unwrap()).unwrap();
            assert_eq!(sga.to_vec(), [b"head".as_slice(), &rest].concat());
        }
    }

    #[test]
    fn a_pair_is_an_array_of_two() {
        let heap = heap();
        let [first, second] = [b"head".as_slice(), b"body"].map(|bytes| heap.copy_from(bytes).unwrap());
        let mut pair = SgArray::pair(first, second);
        assert_eq!((pair.segments().len(), pair.peer(), pair.to_vec()), (2, None, b"headbody".to_vec()));
        pair.push(heap.copy_from(b"tail").unwrap()).unwrap();
        assert_eq!(pair.to_vec(), b"headbodytail");
        drop(pair);
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn splitting_and_advancing_cut_at_every_byte() {
        let heap = heap();
        for count in 0..=MAX_SEGMENTS {
            let whole = array(&heap, count).to_vec();
            for cut in 0..=whole.len() {
                let mut tail = array(&heap, count);
                let head = tail.split_to(cut);
                assert_eq!((head.to_vec(), tail.to_vec()), (whole[..cut].to_vec(), whole[cut..].to_vec()));
                let mut rest = array(&heap, count);
                rest.advance(cut);
                assert!(rest == whole[cut..]);
            }
        }
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn a_peer_is_kept_whatever_it_is() {
        let heap = heap();
        let peers = ["10.0.0.1:7", "[::1]:7", "unix:/run/x"].map(|peer| Some(peer.parse::<Addr>().unwrap()));
        for count in 0..=MAX_SEGMENTS {
            for before in peers.iter().chain([&None, &Some(Addr::Unnamed)]) {
                for after in peers.iter().chain([&None]) {
                    let mut sga = array(&heap, count);
                    let bytes = sga.to_vec();
                    sga.set_peer(before.clone());
                    assert_eq!((sga.peer(), sga.clone().peer()), (before.clone(), before.clone()));
                    sga.set_peer(after.clone());
                    let copy = sga.clone();
                    assert_eq!((copy.peer(), copy.to_vec()), (after.clone(), bytes.clone()));
                    let (head, tail) = (sga.split_to(bytes.len() / 2), sga);
                    assert_eq!((head.peer(), tail.peer()), (after.clone(), after.clone()));
                    assert_eq!([head.to_vec(), tail.to_vec()].concat(), bytes);
                    let is_single = copy.segments().len() == 1 && copy.peer().is_none();
                    let boxed = copy.segments.long().is_some();
                    assert_eq!(copy.into_single().is_ok(), is_single && !boxed, "{count} {before:?}");
                }
            }
        }
        assert_eq!(array(&heap, 0).peer(), None);
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn an_array_is_small_enough_to_move_in_registers() {
        assert!(size_of::<SgArray>() <= 40, "{}", size_of::<SgArray>());
    }
}
