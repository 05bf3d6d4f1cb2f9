//! What stands behind every handle and every buffer: the tables of one heap, and how an object is taken and put back.
//!
//! Invariant: an object is on one free list, or [`Loose`], or live. Taking and putting back touch its superblock's entry,
//! its bin and one slot word; no system call, and no page that was not resident from the start. What happens less than
//! once per superblock filled or emptied is in `refill`.

use super::dma::Maps;
use super::stats::Counters;
use crate::region::Mapping;
use crate::superblock::{
    Bin, BinIx, Bins, Blocks, GRANULE, Loose, Returns, SUPERBLOCK, Slot, Slots, Superblock, Vacant,
};
use crate::{HeapConfig, HeapError, RegionInfo};
use std::cell::{Cell, RefCell};
use std::ptr::NonNull;
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
    /// How many [`Pin`](super::Pin)s there are. The core goes when there is neither one nor a live object.
    pub(super) pins: Cell<usize>,
    pub(crate) shared: Arc<Shared>,
    /// The same words as in `shared`, and where its region begins: a step nearer.
    pub(crate) slots: Slots,
    pub(crate) base: NonNull<u8>,
    pub(super) blocks: Blocks,
    pub(super) bins: Bins,
    pub(super) vacant: Vacant,
    pub(super) counters: Counters,
    pub(super) maps: RefCell<Maps>,
    /// The pool that is kept for what sets memory free.
    pub(super) reserve: Cell<Option<BinIx>>,
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
            slots: slots.clone(),
            base: region.base(),
            shared: Arc::new(Shared { region, slots, returns: Returns::new() }),
            blocks: Blocks::new(superblocks),
            bins: Bins::new(superblocks),
            vacant: Vacant::new(superblocks),
            counters: Counters::default(),
            maps: RefCell::default(),
            reserve: Cell::new(None),
        })
    }

    pub(super) fn region(&self) -> RegionInfo {
        let region = &self.shared.region;
        RegionInfo { base: region.base().as_ptr(), len: region.len(), page_size: region.page_size() }
    }

    /// Bytes of the object at `slot`.
    #[inline]
    pub(crate) fn object_size(&self, slot: Slot) -> usize {
        self.blocks[slot.block()].object_size()
    }

    /// Counts the object at `slot` as live on another thread.
    pub(crate) fn count_sent_away(&self, slot: Slot) {
        self.counters.count_sent_away(self.object_size(slot));
    }

    /// Counts the object at `slot`, which was live on another thread, as live here.
    pub(crate) fn count_back(&self, slot: Slot) {
        self.counters.count_back(self.object_size(slot));
    }

    /// Where an address lies in the region. `None`: elsewhere.
    #[inline]
    pub(crate) fn offset_of(&self, ptr: *const u8) -> Option<usize> {
        let offset = ptr.addr().wrapping_sub(self.base.addr().get());
        (offset < self.shared.region.len()).then_some(offset)
    }

    /// Takes an object from a bin, if that is a matter of a few instructions. `None`: ask [`Core::take`].
    #[inline]
    pub(super) fn take_quickly(&self, bin: BinIx) -> Option<Loose> {
        let bin = &self.bins[bin];
        let block = &self.blocks[bin.head()?];
        if block.is_almost_full() {
            return None;
        }
        Some(self.take_from(bin, block))
    }

    /// Takes an object from a superblock of a bin.
    #[inline]
    pub(super) fn take_from(&self, bin: &Bin, block: &Superblock) -> Loose {
        self.check_poison(block);
        let object = block.pop(&self.slots);
        bin.count_taken();
        self.counters.count_taken(block.object_size());
        object
    }

    /// Puts an object back to the bin it was taken from, if that is a matter of a few instructions.
    ///
    /// # Errors
    /// The object itself: give it to [`Core::put`].
    #[inline]
    pub(super) fn put_quickly(&self, object: Loose) -> Result<(), Loose> {
        let at = object.slot().block();
        let block = &self.blocks[at];
        let bin = &self.bins[block.bin()];
        if block.is_full() || (block.is_almost_empty() && bin.spare() != at) {
            return Err(object);
        }
        self.put_into(bin, block, object);
        Ok(())
    }

    /// Puts an object back to its superblock.
    #[inline]
    pub(super) fn put_into(&self, bin: &Bin, block: &Superblock, object: Loose) {
        self.poison(&object);
        block.push(&self.slots, object);
        bin.count_put();
        self.counters.count_put(block.object_size());
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Devices let go of the region before it is unmapped, which the last owner of `shared` does.
        self.maps.get_mut().unregister_all();
    }
}
