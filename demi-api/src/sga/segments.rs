//! Where an array keeps its segments: in place while they are few, else in a box.
//!
//! Boxes are kept for the next array of the same thread: pushing long arrays allocates nothing once as many
//! boxes exist as such arrays do at a time.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;
use demi_memalloc::Buf;

use super::MAX_SEGMENTS;
use crate::error::Error;

/// Segments that lie in the array itself.
const IN_PLACE: usize = 2;

/// Boxes kept per thread, at the most.
const SPARES: usize = 1024;

type Long = ArrayVec<Buf, MAX_SEGMENTS>;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes themselves are what is kept")]
    static SPARE: RefCell<Vec<Box<Long>>> = const { RefCell::new(Vec::new()) };
}

pub(super) enum Segments {
    Few(ArrayVec<Buf, IN_PLACE>),
    Many(Boxed),
}

impl Segments {
    #[inline]
    pub(super) fn one(segment: Buf) -> Segments {
        let mut few = ArrayVec::new();
        few.push(segment);
        Segments::Few(few)
    }

    /// Puts a segment before the one at `place`, or at the end.
    #[inline]
    pub(super) fn insert(&mut self, place: usize, segment: Buf) -> Result<(), Error> {
        match self {
            // What is put behind or before one moves at most that one.
            Segments::Few(few) if few.len() < IN_PLACE && place == few.len() => {
                few.push(segment);
                Ok(())
            }
            Segments::Few(few) if few.len() == 1 => {
                if let Some(second) = few.pop() {
                    few.push(segment);
                    few.push(second);
                }
                Ok(())
            }
            _ => self.insert_among(place, segment),
        }
    }

    #[inline(never)]
    fn insert_among(&mut self, place: usize, segment: Buf) -> Result<(), Error> {
        match self {
            Segments::Few(few) if !few.is_full() => {
                few.insert(place, segment);
                Ok(())
            }
            Segments::Few(few) => {
                let mut many = Boxed::new();
                many.extend(few.drain(..));
                many.insert(place, segment);
                *self = Segments::Many(many);
                Ok(())
            }
            Segments::Many(many) => many.try_insert(place, segment).map_err(|_| Error::TooManySegments),
        }
    }

    /// Takes the only segment out, if there is just one.
    #[inline]
    pub(super) fn take_single(&mut self) -> Option<Buf> {
        match self {
            Segments::Few(few) if few.len() == 1 => few.pop(),
            Segments::Few(_) | Segments::Many(_) => None,
        }
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
        match self {
            Segments::Few(few) => few.drain(..).for_each(each),
            Segments::Many(many) => many.drain(..).for_each(each),
        }
    }

    /// Takes the first `count` out, or as many as there are.
    pub(super) fn drain(&mut self, count: usize) -> impl Iterator<Item = Buf> {
        let count = count.min(self.len());
        let (few, many) = match self {
            Segments::Few(few) => (Some(few.drain(..count)), None),
            Segments::Many(many) => (None, Some(many.drain(..count))),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

impl Default for Segments {
    #[inline]
    fn default() -> Segments {
        Segments::Few(ArrayVec::new())
    }
}

impl Clone for Segments {
    #[inline]
    fn clone(&self) -> Segments {
        match self {
            Segments::Few(few) => match &few[..] {
                [one] => Segments::one(one.clone()),
                _ => Segments::Few(few.clone()),
            },
            Segments::Many(many) => {
                let mut copy = Boxed::new();
                copy.extend(many.iter().cloned());
                Segments::Many(copy)
            }
        }
    }
}

impl Deref for Segments {
    type Target = [Buf];

    #[inline]
    fn deref(&self) -> &[Buf] {
        match self {
            Segments::Few(few) => few,
            Segments::Many(many) => many,
        }
    }
}

impl DerefMut for Segments {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Buf] {
        match self {
            Segments::Few(few) => few,
            Segments::Many(many) => many,
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
    fn drop(&mut self) {
        let Some(mut long) = self.0.take() else { return };
        long.clear();
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
    fn an_array_is_small_enough_to_move_in_registers() {
        assert!(size_of::<SgArray>() <= 96, "{}", size_of::<SgArray>());
    }
}
