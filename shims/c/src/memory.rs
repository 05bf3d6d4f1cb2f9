//! What the program has in hand: arrays by their handles, and the objects of the heap that it may touch.
//!
//! Invariants: a handle is valid from when its array is lent until it is taken back, once; it names instance, place and
//! generation, so that one that is stale, or another thread's, is told from one that is valid. A place whose generations
//! are used up is not used again. An object's word counts
//! the segments of lent arrays that lie in it, and says whether it came from `demi_malloc`: only where it is not zero
//! may the program push from.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use demi_api::memalloc::Object;
use demi_api::{Buf, BufMut, Heap, SgArray};

use crate::errno::Errno;

/// Of a word: the object came from `demi_malloc`.
const ALLOCATED: u32 = 1 << 31;

/// Bytes that a word stands for: objects begin at multiples of it.
const GRANULE: usize = 64;

const INDEX_BITS: u32 = 28;
const GENERATION_BITS: u32 = 24;
const MAX_ARRAYS: u32 = (1 << INDEX_BITS) - 1;

/// No place.
const NONE: u32 = u32::MAX;

/// Numbers instances, so that handles tell whose they are.
static INSTANCES: AtomicU32 = AtomicU32::new(0);

/// Names an array that the program has in hand: instance, generation, and place plus one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handle(pub u64);

impl Handle {
    /// Of every array without bytes. There is nothing to be freed, so freeing it always succeeds.
    pub const EMPTY: Handle = Handle(Handle::ONE);

    /// Of a place without an array. No array has it.
    const NOBODY: Handle = Handle(0);

    /// A generation.
    const ONE: u64 = 1 << INDEX_BITS;
    /// All of them.
    const GENERATIONS: u64 = ((1 << GENERATION_BITS) - 1) << INDEX_BITS;

    /// The first of a place.
    fn first(instance: u32, place: u32) -> Handle {
        Handle(u64::from(instance) << (INDEX_BITS + GENERATION_BITS) | u64::from(place + 1))
    }

    /// As the program has it: in the place of an address, which it is not.
    #[inline]
    pub fn as_ptr(self) -> *mut c_void {
        ptr::without_provenance_mut(self.0 as usize)
    }

    /// The next of the same place.
    #[inline(always)]
    fn next(self) -> Handle {
        Handle(self.0 & !Handle::GENERATIONS | self.0.wrapping_add(Handle::ONE) & Handle::GENERATIONS)
    }

    /// Whether it is of its place's first generation.
    #[inline]
    fn is_first(self) -> bool {
        self.0 & Handle::GENERATIONS == 0
    }

    /// The place that it would be of, if any.
    #[inline]
    fn place(self) -> usize {
        // What is no place at all is beyond the last.
        (self.0 as u32 & MAX_ARRAYS).wrapping_sub(1) as usize
    }
}

struct Entry {
    /// Of the array that is here; [`Handle::NOBODY`] if there is none.
    handle: Handle,
    /// Of the next array.
    following: Handle,
    /// Without segments, if this place is free.
    array: SgArray,
    /// The next free place, if this one is free and there is one.
    next: u32,
}

/// The lent array of this name.
#[inline(always)]
fn lent(entries: &mut [Entry], handle: Handle) -> Option<&mut Entry> {
    // No place is found for the handle of nobody.
    entries.get_mut(handle.place()).filter(|entry| entry.handle == handle)
}

/// The begin of an object whose reference the program had with its address, and has no more. Made here only, once for
/// each such reference.
#[derive(Debug, PartialEq, Eq)]
pub struct Allocated(*const u8);

impl Allocated {
    /// Where the object begins.
    pub fn ptr(&self) -> *const u8 {
        self.0
    }
}

/// Arrays and objects in the program's hands.
pub struct Memory {
    heap: Heap,
    instance: u32,
    entries: Vec<Entry>,
    free: u32,
    words: Vec<u32>,
    allocated: usize,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Memory {
    /// The memory of a new instance.
    pub fn new(heap: Heap) -> Memory {
        // Not zero, so that no handle is that of an empty array.
        let instance = INSTANCES.fetch_add(1, Ordering::Relaxed) % 4095 + 1;
        let words = vec![0; heap.region().len / GRANULE];
        Memory { heap, instance, entries: Vec::new(), free: NONE, words, allocated: 0 }
    }

    /// Puts an array into the program's hands. `None`: there are too many; the array stays where it is.
    #[inline(always)]
    pub fn lend(&mut self, array: &mut SgArray) -> Option<Handle> {
        if self.free == NONE {
            self.grow()?;
        }
        let entry = &mut self.entries[self.free as usize];
        self.free = entry.next;
        entry.handle = entry.following;
        debug_assert!(entry.array.is_vacant(), "a free place has no array");
        let lent = match array.take_single() {
            Some(only) => {
                count(&mut self.words, &only, 1);
                only.into()
            }
            None => {
                array.segments().iter().for_each(|segment| count(&mut self.words, segment, 1));
                std::mem::take(array)
            }
        };
        // The nothing that was there need not be dropped.
        std::mem::forget(std::mem::replace(&mut entry.array, lent));
        Some(entry.handle)
    }

    /// Makes one more place, which is then the first free one.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> Option<()> {
        let place = self.entries.len() as u32;
        if place >= MAX_ARRAYS {
            return None;
        }
        let handle = Handle::first(self.instance, place);
        let array = SgArray::new();
        self.entries.push(Entry { handle: Handle::NOBODY, following: handle, array, next: NONE });
        self.free = place;
        Some(())
    }

    /// Takes an array back, and lets go of it. `EINVAL`: it was taken back before, is another thread's, or never was one.
    #[inline(always)]
    pub fn take_back(&mut self, handle: Handle) -> Result<(), Errno> {
        let Some(entry) = lent(&mut self.entries, handle) else { return Err(Errno(libc::EINVAL)) };
        entry.handle = Handle::NOBODY;
        entry.following = handle.next();
        // Any other handle of a place that is at its first again is one that the program had before.
        if !entry.following.is_first() {
            entry.next = std::mem::replace(&mut self.free, handle.place() as u32);
        }
        match entry.array.take_single() {
            Some(only) => count(&mut self.words, &only, -1),
            None => {
                entry.array.segments().iter().for_each(|segment| count(&mut self.words, segment, -1));
                entry.array = SgArray::new();
            }
        }
        Ok(())
    }

    /// The bytes at an address, if they lie in the only segment of a lent array: what most pushes are of, found without a
    /// search in the heap.
    #[inline(always)]
    pub fn part(&self, handle: Handle, ptr: *const u8, len: usize) -> Option<Buf> {
        let entry = self.entries.get(handle.place()).filter(|entry| entry.handle == handle)?;
        let segment = entry.array.single()?;
        let at = ptr.addr().wrapping_sub(segment.as_ptr().addr());
        if at == 0 && len == segment.len() {
            return Some(segment.clone());
        }
        let end = at.checked_add(len)?;
        (end <= segment.len()).then(|| segment.slice(at..end))
    }

    /// The object that the program has in hand at an address, which lies in the region. `None`: there is none.
    #[inline]
    pub fn object(&self, ptr: *const u8) -> Option<Object> {
        self.heap.find(ptr).filter(|object| self.words[object.offset / GRANULE] != 0)
    }

    /// Hands a fresh object to the program by its address.
    pub fn allocate(&mut self, buf: BufMut) -> *mut u8 {
        self.words[buf.offset() / GRANULE] |= ALLOCATED;
        self.allocated += 1;
        buf.into_raw().as_ptr()
    }

    /// Takes back what [`Memory::allocate`] handed out. `None`: no such object begins at this address.
    pub fn deallocate(&mut self, ptr: *const u8) -> Option<Allocated> {
        let object = self.object(ptr).filter(|object| object.len == object.capacity)?;
        let word = &mut self.words[object.offset / GRANULE];
        if *word & ALLOCATED == 0 {
            return None;
        }
        *word &= !ALLOCATED;
        self.allocated -= 1;
        Some(Allocated(ptr))
    }

    /// The same for any that is left. Looks at all of the heap.
    pub fn deallocate_any(&mut self) -> Vec<Allocated> {
        if self.allocated == 0 {
            return Vec::new();
        }
        let left = self.words.iter().enumerate().filter(|(_, word)| **word & ALLOCATED != 0);
        let left: Vec<usize> = left.map(|(place, _)| place * GRANULE).collect();
        let base = self.heap.region().base;
        left.into_iter().filter_map(|offset| self.deallocate(base.wrapping_add(offset))).collect()
    }

    /// Arrays in the program's hands.
    pub fn lent(&self) -> usize {
        self.entries.iter().filter(|entry| entry.handle != Handle::NOBODY).count()
    }
}

/// Counts a segment in the word of its object.
#[inline(always)]
fn count(words: &mut [u32], segment: &Buf, by: i32) {
    if let Some(offset) = segment.object_offset()
        && let Some(word) = words.get_mut(offset / GRANULE)
    {
        // There are less than 2^31 segments in 2^28 arrays, so the count stays below the mark.
        *word = word.wrapping_add_signed(by);
    }
}

#[cfg(test)]
mod tests {
    use demi_api::memalloc::HeapConfig;

    use super::*;
    use crate::raw::give_back;

    fn heap() -> Heap {
        Heap::new(&HeapConfig { size: 2 << 20, lock: false, ..HeapConfig::default() }).unwrap()
    }

    #[test]
    fn a_handle_is_taken_back_once() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let lend = |memory: &mut Memory, text: &[u8]| {
            memory.lend(&mut heap.copy_from(text).unwrap().into()).unwrap()
        };
        let first = lend(&mut memory, b"one");
        memory.take_back(first).unwrap();
        assert_eq!(heap.stats().objects_live, 0);
        assert_eq!(memory.take_back(first).unwrap_err(), Errno(libc::EINVAL));
        let second = lend(&mut memory, b"two");
        assert_ne!(first, second);
        assert_eq!(memory.take_back(first).unwrap_err(), Errno(libc::EINVAL));
        assert_eq!(memory.lent(), 1);
        for raw in [0, 1, u64::MAX, Handle::EMPTY.0, second.0 + 1, second.0 ^ 1 << 60] {
            assert_eq!(memory.take_back(Handle(raw)).unwrap_err(), Errno(libc::EINVAL), "{raw:x}");
        }
        memory.take_back(second).unwrap();
        assert_eq!((memory.lent(), heap.stats().objects_live), (0, 0));
    }

    #[test]
    fn generations_come_round_within_their_place() {
        let handle = Handle::first(4095, MAX_ARRAYS - 1);
        let last = (1..1 << GENERATION_BITS).fold(handle, |handle, _| handle.next());
        assert_eq!((last.place(), last.next()), (handle.place(), handle));
        assert_eq!(Handle(0).place(), u32::MAX as usize);
    }

    #[test]
    fn a_place_whose_generations_are_used_up_is_left() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let lend = |memory: &mut Memory| memory.lend(&mut heap.copy_from(b"x").unwrap().into()).unwrap();
        let first = lend(&mut memory);
        memory.take_back(first).unwrap();
        let last = Handle(first.0 | Handle::GENERATIONS);
        memory.entries[0].following = last;
        assert_eq!(lend(&mut memory), last);
        let other = lend(&mut memory);
        memory.take_back(last).unwrap();
        for _ in 0..3 {
            let next = lend(&mut memory);
            assert_ne!(next.place(), first.place());
            memory.take_back(next).unwrap();
        }
        assert!(memory.take_back(first).is_err() && memory.take_back(last).is_err());
        memory.take_back(other).unwrap();
        assert_eq!((memory.lent(), heap.stats().objects_live), (0, 0));
    }

    #[test]
    fn another_instance_has_other_handles() {
        let heap = heap();
        let mut memories = [Memory::new(heap.clone()), Memory::new(heap.clone())];
        let [mine, theirs] =
            [0, 1].map(|at| memories[at].lend(&mut heap.copy_from(b"x").unwrap().into()).unwrap());
        assert_ne!(mine, theirs);
        assert!(memories[0].take_back(theirs).is_err() && memories[1].take_back(mine).is_err());
    }

    #[test]
    fn an_object_is_in_hand_while_a_segment_or_an_allocation_is() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let whole = heap.copy_from(&[7; 1000]).unwrap();
        let ptr = whole.as_ptr();
        assert!(memory.object(ptr).is_none(), "it was never lent");
        let halves =
            [whole.slice(..500), whole.slice(500..)].map(|half| memory.lend(&mut half.into()).unwrap());
        memory.take_back(halves[0]).unwrap();
        assert!(memory.object(ptr).is_some(), "the other half keeps it");
        memory.take_back(halves[1]).unwrap();
        assert!(memory.object(ptr).is_none(), "though it is still live");
    }

    #[test]
    fn an_allocation_is_taken_back_once_and_by_its_begin() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let [one, two] = [100, 200_000].map(|len| memory.allocate(heap.alloc(len).unwrap()));
        assert!(memory.object(one).is_some() && memory.object(two.wrapping_add(199_999)).is_some());
        assert!(memory.deallocate(two.wrapping_add(64)).is_none(), "it does not begin there");
        give_back(&heap, memory.deallocate(one).unwrap());
        assert!(memory.deallocate(one).is_none() && memory.object(one).is_none());
        for left in memory.deallocate_any() {
            give_back(&heap, left);
        }
        assert!(memory.deallocate_any().is_empty());
        assert_eq!(heap.stats().objects_live, 0);
    }

    #[test]
    fn segments_without_bytes_count_for_their_own_object() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let buf = heap.alloc(64).unwrap().freeze();
        let next = heap.alloc(64).unwrap();
        let empty = memory.lend(&mut buf.slice(64..).into()).unwrap();
        assert!(memory.object(buf.as_ptr()).is_some() && memory.object(next.as_ptr()).is_none());
        memory.take_back(empty).unwrap();
        assert!(memory.words.iter().all(|word| *word == 0));
    }

    #[test]
    fn parts_are_of_a_lent_array_only() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let whole = heap.copy_from(b"0123456789").unwrap();
        let ptr = whole.as_ptr();
        let handle = memory.lend(&mut whole.slice(2..8).into()).unwrap();
        let part = |memory: &Memory, at: usize, len| {
            memory.part(handle, ptr.wrapping_add(at), len).map(|buf| buf.to_vec())
        };
        assert_eq!(part(&memory, 2, 6), Some(b"234567".to_vec()));
        assert_eq!(part(&memory, 3, 2), Some(b"34".to_vec()));
        assert_eq!(part(&memory, 7, 1), Some(b"7".to_vec()));
        for (at, len) in [(1, 2), (2, 7), (8, 1), (7, usize::MAX), (usize::MAX, 1), (0, 10)] {
            assert_eq!(part(&memory, at, len), None, "{at} {len}");
        }
        memory.take_back(handle).unwrap();
        assert_eq!(part(&memory, 2, 6), None);
    }
}
