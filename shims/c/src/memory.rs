//! What the program has in hand: arrays by their handles, and the objects of the heap that it may touch.
//!
//! Invariants: a handle is valid from when its array is lent until it is taken back, once; it names instance, place and
//! generation, so that one that is stale, or another thread's, is told from one that is valid. An object's word counts
//! the segments of lent arrays that lie in it, and says whether it came from `demi_malloc`: only where it is not zero
//! may the program push from.

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
    pub const EMPTY: Handle = Handle(1 << INDEX_BITS);

    fn new(instance: u32, generation: u32, place: u32) -> Handle {
        let (instance, generation) = (u64::from(instance), u64::from(generation));
        Handle(instance << (INDEX_BITS + GENERATION_BITS) | generation << INDEX_BITS | u64::from(place + 1))
    }

    fn place(self) -> Option<u32> {
        (self.0 as u32 & MAX_ARRAYS).checked_sub(1)
    }
}

struct Entry {
    /// Of the array that is here, or will be next.
    generation: u32,
    /// The next free place, if this one is free.
    next: u32,
    array: Option<SgArray>,
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

    /// Puts an array into the program's hands. The array comes back if there are too many.
    #[inline]
    pub fn lend(&mut self, array: SgArray) -> Result<Handle, SgArray> {
        for segment in array.segments() {
            self.count(segment, 1);
        }
        let place = self.free;
        match self.entries.get_mut(place as usize) {
            Some(entry) => {
                self.free = entry.next;
                entry.array = Some(array);
                Ok(Handle::new(self.instance, entry.generation, place))
            }
            None => self.lend_at_end(array),
        }
    }

    #[cold]
    fn lend_at_end(&mut self, array: SgArray) -> Result<Handle, SgArray> {
        let place = self.entries.len() as u32;
        if place >= MAX_ARRAYS {
            for segment in array.segments() {
                self.count(segment, -1);
            }
            return Err(array);
        }
        self.entries.push(Entry { generation: 0, next: NONE, array: Some(array) });
        Ok(Handle::new(self.instance, 0, place))
    }

    /// Takes an array back. `EINVAL`: it was taken back before, is another thread's, or never was one.
    #[inline]
    pub fn take_back(&mut self, handle: Handle) -> Result<SgArray, Errno> {
        let place = handle.place().ok_or(Errno(libc::EINVAL))?;
        let entry = self.entries.get_mut(place as usize).ok_or(Errno(libc::EINVAL))?;
        if Handle::new(self.instance, entry.generation, place) != handle {
            return Err(Errno(libc::EINVAL));
        }
        let array = entry.array.take().ok_or(Errno(libc::EINVAL))?;
        entry.generation = (entry.generation + 1) & ((1 << GENERATION_BITS) - 1);
        entry.next = self.free;
        self.free = place;
        for segment in array.segments() {
            self.count(segment, -1);
        }
        Ok(array)
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
        self.entries.iter().filter(|entry| entry.array.is_some()).count()
    }

    /// Counts a segment in the word of its object.
    #[inline]
    fn count(&mut self, segment: &Buf, by: i32) {
        // One without bytes may lie at the end of its object, where another begins.
        if segment.is_empty() {
            return;
        }
        if let Some(object) = self.heap.find(segment.as_ptr()) {
            let word = &mut self.words[object.offset / GRANULE];
            // There are less than 2^31 segments in 2^28 arrays, so the count stays below the mark.
            *word = word.wrapping_add_signed(by);
        }
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
        let first = memory.lend(heap.copy_from(b"one").unwrap().into()).unwrap();
        assert_eq!(memory.take_back(first).unwrap().to_vec(), b"one");
        assert_eq!(memory.take_back(first).unwrap_err(), Errno(libc::EINVAL));
        let second = memory.lend(heap.copy_from(b"two").unwrap().into()).unwrap();
        assert_ne!(first, second);
        assert_eq!(memory.take_back(first).unwrap_err(), Errno(libc::EINVAL));
        assert_eq!(memory.lent(), 1);
        for raw in [0, 1, u64::MAX, Handle::EMPTY.0, second.0 + 1, second.0 ^ 1 << 60] {
            assert_eq!(memory.take_back(Handle(raw)).unwrap_err(), Errno(libc::EINVAL), "{raw:x}");
        }
        assert_eq!(memory.take_back(second).unwrap().to_vec(), b"two");
    }

    #[test]
    fn another_instance_has_other_handles() {
        let heap = heap();
        let mut memories = [Memory::new(heap.clone()), Memory::new(heap.clone())];
        let [mine, theirs] =
            [0, 1].map(|at| memories[at].lend(heap.copy_from(b"x").unwrap().into()).unwrap());
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
        let halves = [whole.slice(..500), whole.slice(500..)].map(|half| memory.lend(half.into()).unwrap());
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
    fn segments_without_bytes_count_for_nobody() {
        let heap = heap();
        let mut memory = Memory::new(heap.clone());
        let buf = heap.alloc(64).unwrap().freeze();
        let empty = memory.lend(buf.slice(64..).into()).unwrap();
        assert!(memory.words.iter().all(|word| *word == 0));
        memory.take_back(empty).unwrap();
        assert!(memory.words.iter().all(|word| *word == 0));
    }
}
