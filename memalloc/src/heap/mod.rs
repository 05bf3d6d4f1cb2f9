//! The heap: a handle on one region, for one thread.
//!
//! Invariant: a heap and all its buffers belong to the thread that made it, so nothing here is atomic or locked; the
//! region is mapped until the last of them is gone. Out of memory is a value, never a panic, and changes nothing.
//!
//! | file | what it holds |
//! |---|---|
//! | `core` | the tables, and the fast path: take an object, put it back |
//! | `refill` | the slow path: superblocks, large objects, pools |
//! | `raw` | pins that keep the core alive, poison, pointers that come back |
//! | `dma` | registration of the region with devices |
//! | `stats` | the account |

mod core;
mod dma;
mod raw;
mod refill;
mod stats;

use crate::class::Class;
use crate::superblock::{BinIx, GRANULE, SUPERBLOCK, Slot};
use crate::{Buf, BufMut, HeapConfig, HeapError, OutOfMemory, Pool, RegionInfo};
use std::fmt;

pub(crate) use self::core::{Core, Shared};
pub use dma::{DmaKey, DmaMap, MAX_DMA_MAPS, MapId};
pub(crate) use raw::{Pin, let_go, release};
pub use stats::{BinStats, HeapStats};

/// A handle on a heap: cheap to clone, tied to its thread.
///
/// ```compile_fail,E0277
/// let heap = demi_memalloc::Heap::new(&Default::default()).unwrap();
/// std::thread::spawn(move || drop(heap));
/// ```
#[derive(Clone)]
pub struct Heap {
    pin: Pin,
}

/// A live object, as found by an address within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    /// Where it begins in the region, in bytes.
    pub offset: usize,
    /// Bytes from its begin to its end.
    pub capacity: usize,
    /// Bytes from the address asked for to its end.
    pub len: usize,
    slot: Slot,
}

impl Heap {
    /// Reserves a region and makes it resident. This is when system calls and page faults happen; there are none later.
    ///
    /// # Errors
    /// When there is not that much memory, or no pages of the kind that is required.
    pub fn new(config: &HeapConfig) -> Result<Self, HeapError> {
        Core::new(config).map(|core| Self { pin: Pin::new(core) })
    }

    /// A buffer of `len` bytes, which may be none. Its content is unspecified, if initialised; its address is a multiple
    /// of 64, and its capacity the size of its class, or for more than 128 KiB a multiple of 256 KiB. When next to
    /// none is left, its capacity may be up to four times as much.
    ///
    /// # Errors
    /// When no free object is that large. A buffer has at most `u32::MAX` bytes.
    #[inline]
    pub fn alloc(&self, len: usize) -> Result<BufMut, OutOfMemory> {
        let core = self.core();
        match Class::of(len).and_then(|class| core.take_quickly(BinIx::class(class))) {
            Some(object) => Ok(BufMut::claim(&self.pin, object, len)),
            None => self.alloc_slowly(len),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_slowly(&self, len: usize) -> Result<BufMut, OutOfMemory> {
        let object = self.core().allocate(len).ok_or_else(|| self.core().out_of_memory(len))?;
        Ok(BufMut::claim(&self.pin, object, len))
    }

    /// The same for what sets memory free, such as the acknowledgement of what a peer is waiting to be rid of: when there
    /// is no other memory, from the [reserve](Heap::set_aside).
    ///
    /// # Errors
    /// When there is none left in the reserve either, or its buffers are shorter.
    #[inline]
    pub fn alloc_urgent(&self, len: usize) -> Result<BufMut, OutOfMemory> {
        let core = self.core();
        match Class::of(len).and_then(|class| core.take_quickly(BinIx::class(class))) {
            Some(object) => Ok(BufMut::claim(&self.pin, object, len)),
            None => self.alloc_urgently(len),
        }
    }

    #[cold]
    #[inline(never)]
    fn alloc_urgently(&self, len: usize) -> Result<BufMut, OutOfMemory> {
        let object = self.core().allocate_urgently(len).ok_or_else(|| self.core().out_of_memory(len))?;
        Ok(BufMut::claim(&self.pin, object, len))
    }

    /// Keeps a superblock, 256 KiB, for [`alloc_urgent`](Heap::alloc_urgent): buffers of `len` bytes (rounded up to a
    /// multiple of 64), as many as there is room for, until the heap goes. Only the first call does anything.
    ///
    /// # Errors
    /// When no superblock is vacant, or `len` is more than one has.
    pub fn set_aside(&self, len: usize) -> Result<(), OutOfMemory> {
        let core = self.core();
        if core.reserve.get().is_some() {
            return Ok(());
        }
        let refused = || core.out_of_memory(len);
        let size = len.max(1).checked_next_multiple_of(GRANULE).filter(|size| *size <= SUPERBLOCK);
        let size = size.ok_or_else(refused)?;
        let bin = core.open_pool(size, (SUPERBLOCK / size) as u32).ok_or_else(refused)?;
        core.reserve.set(Some(bin));
        Ok(())
    }

    /// Whether next to no memory is left: no more than an eighth of the superblocks, those that are empty included. Who
    /// holds more than the least that it needs should then take no more.
    #[inline]
    pub fn is_short(&self) -> bool {
        self.core().is_short()
    }

    /// A buffer that holds a copy of foreign bytes. Counted, as it is what zero copy is meant to avoid.
    ///
    /// # Errors
    /// As for [`Heap::alloc`].
    #[inline]
    pub fn copy_from(&self, bytes: &[u8]) -> Result<Buf, OutOfMemory> {
        let mut buf = self.alloc(bytes.len())?;
        buf.copy_from_slice(bytes);
        self.core().counters.count_foreign(bytes.len());
        Ok(buf.freeze())
    }

    /// The bytes of several buffers, one behind the other, in a buffer of their own. Counted, as `copy_from` is.
    ///
    /// # Errors
    /// As for [`Heap::alloc`].
    pub fn join<'a>(&self, pieces: impl Iterator<Item = &'a Buf> + Clone) -> Result<BufMut, OutOfMemory> {
        let len = pieces.clone().map(|piece| piece.len()).sum();
        let mut whole = self.alloc(len)?;
        let mut filled = 0;
        for piece in pieces {
            whole[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        self.core().counters.count_join(len);
        Ok(whole)
    }

    /// `count` buffers of `stride` bytes (rounded up to a multiple of 64), set aside until the pool is dropped:
    /// for a device that must not starve.
    ///
    /// # Errors
    /// When there are too few vacant superblocks, and for a stride of more than a superblock, 256 KiB.
    pub fn pool(&self, stride: usize, count: usize) -> Result<Pool, OutOfMemory> {
        let refused = || self.core().out_of_memory(stride.saturating_mul(count));
        let size = stride.max(1).checked_next_multiple_of(GRANULE).ok_or_else(refused)?;
        let count = u32::try_from(count).map_err(|_| refused())?;
        let bin = self.core().open_pool(size, count).ok_or_else(refused)?;
        Ok(Pool::new(self.clone(), bin, size, count))
    }

    /// The live object that an address lies in, in constant time. `None`: the address is foreign, or its object is free
    /// or on another thread.
    #[inline]
    pub fn find(&self, ptr: *const u8) -> Option<Object> {
        let core = self.core();
        let offset = core.offset_of(ptr)?;
        let slot = core.blocks.object_at(offset).filter(|&slot| core.slots.is_live(slot))?;
        let capacity = core.blocks[slot.block()].object_size();
        Some(Object { offset: slot.offset(), capacity, len: slot.offset() + capacity - offset, slot })
    }

    /// Whether an address lies in the region, in a live object or not.
    #[inline]
    pub fn contains(&self, ptr: *const u8) -> bool {
        self.core().offset_of(ptr).is_some()
    }

    /// Takes home what other threads have released, and says how many objects that were. Allocation does so by itself
    /// before it takes another superblock.
    pub fn drain_remote(&self) -> usize {
        self.core().drain_returns()
    }

    /// Where the region is, for a device.
    pub fn region(&self) -> RegionInfo {
        self.core().region()
    }

    /// The account at this moment.
    pub fn stats(&self) -> HeapStats {
        self.core().stats()
    }

    #[inline]
    pub(crate) fn core(&self) -> &Core {
        &self.pin
    }

    #[inline]
    pub(crate) fn pin(&self) -> &Pin {
        &self.pin
    }

    #[inline]
    pub(crate) fn take_from_pool(&self, bin: BinIx, len: usize) -> Option<BufMut> {
        let object = self.core().take_quickly(bin).or_else(|| self.core().take(bin))?;
        Some(BufMut::claim(&self.pin, object, len))
    }

    pub(crate) fn close_pool(&self, bin: BinIx) {
        self.core().close_pool(bin);
    }

    #[inline]
    pub(crate) fn live_of_pool(&self, bin: BinIx) -> usize {
        self.core().bins[bin].live() as usize
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Heap").field("region", &self.region()).finish_non_exhaustive()
    }
}
