//! What stands behind every handle and every buffer: the tables of one heap, and how an object is taken and put back.
//!
//! Invariant: an object is on one free list, or [`Loose`], or live. Taking and putting back touch its superblock's entry,
//! its bin and one slot word; no system call, and no page that was not resident from the start. What happens less than
//! once per superblock filled or emptied is in `refill`.

use super::dma::Maps;
use super::stats::Counters;
use crate::class::{MAX_CLASS_SIZE, class_of};
use crate::region::Mapping;
use crate::superblock::{
    BinIx, Bins, BlockIx, Blocks, GRANULE, Loose, Returns, SUPERBLOCK, Slot, Slots, Vacant,
};
use crate::{HeapConfig, HeapError, OutOfMemory, RegionInfo};
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// A slot index has 31 bits, and two of its values are taken: 64 GiB stay well below.
const MAX_REGION: usize = 64 << 30;

/// Every byte of the region that is in no live object, in debug builds.
pub(super) const POISON: u8 = 0xDD;

/// What buffers on other threads need: it outlives the heap for as long as there is one.
pub(crate) struct Shared {
    pub(crate) region: Mapping,
    pub(crate) slots: Slots,
    pub(crate) returns: Returns,
}

pub(crate) struct Core {
    /// One for each handle and each object that is live on this thread; the core goes with the last.
    pub(super) pins: Cell<usize>,
    pub(crate) shared: Arc<Shared>,
    pub(super) blocks: Blocks,
    pub(super) bins: Bins,
    pub(super) vacant: Vacant,
    pub(super) counters: Counters,
    pub(super) maps: RefCell<Maps>,
}

impl Core {
    pub(super) fn new(config: &HeapConfig) -> Result<Self, HeapError> {
        if config.size > MAX_REGION {
            return Err(HeapError::TooLarge { size: config.size, max: MAX_REGION });
        }
        let fill = if cfg!(debug_assertions) { POISON } else { 0 };
        let region = Mapping::reserve(config.size, fill, config.huge_pages, config.lock)?;
        let superblocks = (region.len() / SUPERBLOCK) as u32;
        let slots = Slots::reserve(region.len() / GRANULE, config.huge_pages, config.lock)?;
        Ok(Self {
            pins: Cell::new(0),
            shared: Arc::new(Shared { region, slots, returns: Returns::new() }),
            blocks: Blocks::new(superblocks),
            bins: Bins::new(superblocks),
            vacant: Vacant::new(superblocks),
            counters: Counters::default(),
            maps: RefCell::default(),
        })
    }

    pub(super) fn region(&self) -> RegionInfo {
        let region = &self.shared.region;
        RegionInfo { base: region.base().as_ptr(), len: region.len(), page_size: region.page_size() }
    }

    #[inline]
    pub(crate) fn slots(&self) -> &Slots {
        &self.shared.slots
    }

    /// Bytes of the object at `slot`.
    #[inline]
    pub(crate) fn object_size(&self, slot: Slot) -> usize {
        self.blocks[slot.block()].object_size()
    }

    /// Where an address lies in the region. `None`: elsewhere.
    #[inline]
    pub(crate) fn offset_of(&self, ptr: *const u8) -> Option<usize> {
        let region = &self.shared.region;
        let offset = ptr.addr().wrapping_sub(region.base().addr().get());
        (offset < region.len()).then_some(offset)
    }

    /// Takes an object of at least `len` bytes.
    #[inline]
    pub(super) fn allocate(&self, len: usize) -> Result<Loose, OutOfMemory> {
        let object =
            if len <= MAX_CLASS_SIZE { self.take(BinIx::class(class_of(len))) } else { self.take_large(len) };
        object.ok_or_else(|| self.out_of_memory(len))
    }

    /// Takes an object from a bin.
    #[inline]
    pub(super) fn take(&self, bin_ix: BinIx) -> Option<Loose> {
        let bin = &self.bins[bin_ix];
        let at = bin.head().or_else(|| self.refill(bin_ix))?;
        let block = &self.blocks[at];
        if bin.spare().get() == at {
            bin.spare().set(BlockIx::NONE);
        }
        let object = block.pop(self.slots());
        if block.is_full() {
            bin.unlist(&self.blocks, at);
        }
        bin.count_taken();
        self.counters.count_taken(block.object_size());
        self.check_poison(&object);
        Some(object)
    }

    /// Puts an object back to the bin it was taken from.
    #[inline]
    pub(crate) fn put(&self, object: Loose) {
        self.poison(&object);
        let at = object.slot().block();
        let block = &self.blocks[at];
        let bin = &self.bins[block.bin()];
        if block.is_full() {
            bin.enlist(&self.blocks, at);
        }
        block.push(self.slots(), object);
        bin.count_put();
        self.counters.count_put(block.object_size());
        if block.is_empty() {
            self.emptied(at);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Devices let go of the region before it is unmapped, which the last owner of `shared` does.
        self.maps.get_mut().unregister_all();
    }
}
