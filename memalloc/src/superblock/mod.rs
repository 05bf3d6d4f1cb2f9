//! Superblocks: the region cut into pieces of 256 KiB, each of which holds objects of one size.
//!
//! Everything known about the region is kept here, outside the region, where no device can see or spoil it: an entry
//! per superblock ([`Superblock`]) and a word per 64 bytes ([`Slots`]). An object is named by its first [`Slot`]; an
//! object larger than a superblock is a run of superblocks with a single object, whose tail entries point to its head.
//!
//! Invariants: `live <= cap`; the slots of a superblock's free list, its live objects and its never used tail (from
//! `bump`) are disjoint, and together are its `cap` objects; a vacant superblock has `cap == 0` and no live word.
//! Which bin a superblock serves is decided by the heap.

mod bin;
mod raw;
mod returns;
mod slots;
mod vacant;

use std::cell::Cell;

pub(crate) use bin::{Bin, BinIx, Bins, Policy};
use raw::Table;
pub(crate) use returns::Returns;
pub(crate) use slots::{Loose, Slot, Slots};
pub(crate) use vacant::Vacant;

/// Bytes of a superblock, and its alignment.
pub(crate) const SUPERBLOCK: usize = 256 << 10;
/// Bytes that a slot word stands for.
pub(crate) const GRANULE: usize = 64;
/// Slots of a superblock.
pub(crate) const SLOTS_PER_BLOCK: u32 = (SUPERBLOCK / GRANULE) as u32;

/// The reciprocal is exact for offsets and strides of up to a superblock's 2^12 granules: its error, below 2^-12 per
/// granule of offset, never reaches the next multiple of the stride.
const RECIPROCAL_BITS: u32 = 24;

/// Index of a superblock in its heap's region.
///
/// Made only in this module, from the indices that [`Vacant`] begins with and from slots of objects; so it can be
/// trusted, unless it is [`BlockIx::NONE`], which is asked for before it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockIx(u32);

impl BlockIx {
    pub(crate) const NONE: Self = Self(u32::MAX);

    fn first_slot(self) -> Slot {
        Slot(self.0 * SLOTS_PER_BLOCK)
    }
}

/// Superblocks in a row, taken and returned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) head: BlockIx,
    pub(crate) len: u32,
}

impl Run {
    fn blocks(self) -> impl Iterator<Item = BlockIx> {
        (self.head.0..self.head.0 + self.len).map(BlockIx)
    }
}

/// What is known about one superblock: one cache line.
#[repr(align(64))]
pub(crate) struct Superblock {
    bin: Cell<BinIx>,
    /// The first superblock of the run that this one is part of; for all but tails, itself.
    head: Cell<BlockIx>,
    /// Bytes from one object to the next, a multiple of the granule.
    size: Cell<u32>,
    /// 2^24 divided by the granules of an object, rounded up; zero for a run, which has but one object.
    reciprocal: Cell<u32>,
    /// First object of the free list.
    free: Cell<Slot>,
    /// First object that was never handed out since the superblock was assigned.
    bump: Cell<Slot>,
    live: Cell<u32>,
    cap: Cell<u32>,
    /// Neighbours in the bin's ring.
    next: Cell<BlockIx>,
    prev: Cell<BlockIx>,
}

impl Superblock {
    fn vacant(at: BlockIx) -> Self {
        Self {
            bin: Cell::new(BinIx::LARGE),
            head: Cell::new(at),
            size: Cell::new(0),
            reciprocal: Cell::new(0),
            free: Cell::new(Slot::NONE),
            bump: Cell::new(Slot::NONE),
            live: Cell::new(0),
            cap: Cell::new(0),
            next: Cell::new(BlockIx::NONE),
            prev: Cell::new(BlockIx::NONE),
        }
    }

    #[inline]
    pub(crate) fn bin(&self) -> BinIx {
        self.bin.get()
    }

    /// Bytes of each object.
    #[inline]
    pub(crate) fn object_size(&self) -> usize {
        self.size.get() as usize
    }

    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.live.get() == self.cap.get()
    }

    /// Whether the next object taken is the last one free.
    #[inline]
    pub(crate) fn is_almost_full(&self) -> bool {
        self.live.get() + 1 == self.cap.get()
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.live.get() == 0
    }

    /// Whether the next object put back is the only one live.
    #[inline]
    pub(crate) fn is_almost_empty(&self) -> bool {
        self.live.get() == 1
    }

    /// Whether it is without live objects, and the bin's.
    pub(crate) fn is_spare_of(&self, bin: BinIx) -> bool {
        self.cap.get() > 0 && self.is_empty() && self.bin.get() == bin
    }

    /// The object that is taken next.
    pub(crate) fn peek(&self) -> Slot {
        if self.free.get() == Slot::NONE { self.bump.get() } else { self.free.get() }
    }

    /// Takes an object that is free: the last one freed, else the next never used. Must not be full.
    #[inline]
    pub(crate) fn pop(&self, slots: &Slots) -> Loose {
        debug_assert!(!self.is_full());
        self.live.set(self.live.get() + 1);
        let slot = self.free.get();
        if slot != Slot::NONE {
            self.free.set(slots.next(slot));
            return Loose::new(slot);
        }
        let slot = self.bump.get();
        self.bump.set(Slot(slot.0 + self.size.get() / GRANULE as u32));
        Loose::new(slot)
    }

    /// Puts back an object of this superblock.
    #[inline]
    pub(crate) fn push(&self, slots: &Slots, object: Loose) {
        self.live.set(self.live.get() - 1);
        let slot = object.slot();
        slots.link(&object, self.free.get());
        self.free.set(slot);
    }
}

/// The entries of all superblocks.
pub(crate) struct Blocks(Table<Superblock>);

impl Blocks {
    pub(crate) fn new(count: u32) -> Self {
        Self(Table::from_iter((0..count).map(|at| Superblock::vacant(BlockIx(at)))))
    }

    pub(crate) fn len(&self) -> u32 {
        self.0.len() as u32
    }

    /// Gives vacant superblocks a purpose: `cap` objects of `size` bytes each, or a single one in all of them.
    pub(crate) fn assign(&self, run: Run, bin: BinIx, size: usize, cap: u32) {
        debug_assert!(size.is_multiple_of(GRANULE) && size * cap as usize <= run.len as usize * SUPERBLOCK);
        let block = &self[run.head];
        block.bin.set(bin);
        block.size.set(size as u32);
        block.reciprocal.set(reciprocal((size / GRANULE) as u32));
        block.free.set(Slot::NONE);
        block.bump.set(run.head.first_slot());
        block.live.set(0);
        block.cap.set(cap);
        for at in run.blocks() {
            self[at].head.set(run.head);
        }
    }

    /// Takes the purpose of an empty superblock, or of the run it heads, and says which superblocks are vacant now.
    pub(crate) fn retire(&self, head: BlockIx) -> Run {
        let block = &self[head];
        debug_assert!(block.is_empty());
        let run = Run { head, len: block.size.get().div_ceil(SUPERBLOCK as u32) };
        block.cap.set(0);
        for at in run.blocks() {
            self[at].head.set(at);
        }
        run
    }

    /// The first slot of the object, live or not, that `offset` falls into. `None`: no object can lie there.
    #[inline]
    pub(crate) fn object_at(&self, offset: usize) -> Option<Slot> {
        let granule = (offset / GRANULE) as u32;
        let head = self[Slot(granule).block()].head.get();
        let block = &self[head];
        let within = u64::from(granule - head.first_slot().0);
        let index = ((within * u64::from(block.reciprocal.get())) >> RECIPROCAL_BITS) as u32;
        (index < block.cap.get())
            .then(|| Slot(head.first_slot().0 + index * (block.size.get() / GRANULE as u32)))
    }
}

const fn reciprocal(stride: u32) -> u32 {
    if stride > SLOTS_PER_BLOCK { 0 } else { (1u32 << RECIPROCAL_BITS).div_ceil(stride) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reciprocal_divides_exactly() {
        let step = if cfg!(miri) { 397 } else { 1 };
        for stride in (1..=SLOTS_PER_BLOCK).step_by(step) {
            for offset in (0..SLOTS_PER_BLOCK).step_by(step) {
                let quotient = (u64::from(offset) * u64::from(reciprocal(stride))) >> RECIPROCAL_BITS;
                assert_eq!(quotient, u64::from(offset / stride), "{offset} / {stride}");
            }
        }
    }

    #[test]
    fn an_entry_is_a_cache_line() {
        assert_eq!(size_of::<Superblock>(), 64);
    }

    #[test]
    fn tails_lead_to_their_head_until_it_is_retired() {
        let blocks = Blocks::new(4);
        let run = Run { head: BlockIx(1), len: 3 };
        blocks.assign(run, BinIx::LARGE, 3 * SUPERBLOCK, 1);
        assert_eq!(blocks.object_at(4 * SUPERBLOCK - 1), Some(BlockIx(1).first_slot()));
        assert_eq!(blocks.object_at(SUPERBLOCK - 1), None);
        assert_eq!(blocks.retire(BlockIx(1)), run);
        assert_eq!(blocks.object_at(3 * SUPERBLOCK), None);
    }

    #[test]
    fn what_is_left_over_at_the_end_of_a_superblock_is_no_object() {
        let blocks = Blocks::new(1);
        blocks.assign(Run { head: BlockIx(0), len: 1 }, BinIx::LARGE, 96 << 10, 2);
        assert_eq!(blocks.object_at(192 << 10), None);
        assert_eq!(blocks.object_at((192 << 10) - 1), Some(Slot((96 << 10) / 64)));
    }
}
