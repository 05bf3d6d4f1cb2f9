//! Where superblocks come from and go to: the slower part of the heap.
//!
//! Invariant: every superblock is vacant or counted by exactly one bin. An allocation fails only after objects released
//! on other threads have been taken home, the empty superblocks that classes keep have been collected, and larger classes
//! have been asked. The reserve serves who asks for it by name, and only when an ordinary allocation has failed.
//!
//! Work per call: O(1) for an allocation from a class; for large objects and pools, and when memory runs out,
//! O(superblocks).

use super::core::Core;
use crate::OutOfMemory;
use crate::class::Class;
use crate::superblock::{BinIx, BlockIx, Loose, Policy, SUPERBLOCK};

/// So many times its size an object may have, if none of the right size can be had.
const LARGER: usize = 4;

/// A heap is short when no more than one superblock in so many is vacant.
const SHORT: u32 = 8;

impl Core {
    /// Takes an object of at least `len` bytes.
    pub(super) fn allocate(&self, len: usize) -> Option<Loose> {
        let Some(class) = Class::of(len.max(1)) else { return self.take_large(len) };
        let bin = BinIx::class(class);
        self.take(bin).or_else(|| {
            // The last superblocks are not for the first object of its size, as long as another does.
            if self.has_few_vacant()
                && self.bins[bin].superblocks() == 0
                && let Some(object) = self.take_larger(class)
            {
                return Some(object);
            }
            let Some(run) = self.or_collect(|| self.vacant.take_one()) else {
                return self.take_larger(class);
            };
            self.blocks.assign(run, bin, class.size(), (SUPERBLOCK / class.size()) as u32);
            self.bins[bin].adopt(&self.blocks, run);
            self.take(bin)
        })
    }

    /// Takes a somewhat larger object, where no superblock is left for those of the right size. What is aligned to its size
    /// is so then, too.
    #[cold]
    fn take_larger(&self, class: Class) -> Option<Loose> {
        let fits = |other: &Class| {
            let (wanted, size) = (class.size(), other.size());
            size > wanted && size <= wanted * LARGER && (size.is_power_of_two() || !wanted.is_power_of_two())
        };
        Class::all().filter(fits).find_map(|other| self.take(BinIx::class(other)))
    }

    /// The same, from the reserve if there is no other.
    pub(super) fn allocate_urgently(&self, len: usize) -> Option<Loose> {
        self.allocate(len).or_else(|| {
            let object = self.take(self.reserve.get()?)?;
            if len <= self.object_size(object.slot()) {
                return Some(object);
            }
            self.put(object);
            None
        })
    }

    /// Whether hardly any superblock is vacant, or could be.
    #[inline]
    pub(super) fn is_short(&self) -> bool {
        self.has_few_vacant() && self.is_short_of_all()
    }

    #[inline]
    fn has_few_vacant(&self) -> bool {
        self.vacant.count() <= self.blocks.len() / SHORT
    }

    #[cold]
    #[inline(never)]
    fn is_short_of_all(&self) -> bool {
        self.drain_returns();
        self.collect();
        self.has_few_vacant()
    }

    /// Takes an object from a bin. What was released on other threads comes first, as it may be all there is.
    pub(super) fn take(&self, bin_ix: BinIx) -> Option<Loose> {
        let bin = &self.bins[bin_ix];
        if bin.head().is_none() {
            self.drain_returns();
        }
        let at = bin.head()?;
        let block = &self.blocks[at];
        let object = self.take_from(bin, block);
        if block.is_full() {
            bin.unlist(&self.blocks, at);
        }
        Some(object)
    }

    /// Takes a run of superblocks as one object.
    fn take_large(&self, len: usize) -> Option<Loose> {
        // Sizes and lengths have 32 bits; what is longer is refused like what does not fit.
        let size = u32::try_from(len).ok()?.checked_next_multiple_of(SUPERBLOCK as u32)?;
        self.drain_returns();
        let run = self.or_collect(|| self.vacant.take_run(size / SUPERBLOCK as u32))?;
        self.blocks.assign(run, BinIx::LARGE, size as usize, 1);
        self.bins[BinIx::LARGE].adopt(&self.blocks, run);
        self.take(BinIx::LARGE)
    }

    /// Puts an object back to the bin it was taken from.
    pub(super) fn put(&self, object: Loose) {
        let at = object.slot().block();
        let block = &self.blocks[at];
        let bin = &self.bins[block.bin()];
        if block.is_full() {
            bin.enlist(&self.blocks, at);
        }
        self.put_into(bin, block, object);
        if block.is_empty() && bin.spare() != at {
            self.emptied(at);
        }
    }

    /// Decides what becomes of a superblock that has lost its last live object.
    fn emptied(&self, at: BlockIx) {
        let bin_ix = self.blocks[at].bin();
        let bin = &self.bins[bin_ix];
        match bin.policy() {
            Policy::Class if self.spare_of(bin_ix).is_none() => {
                bin.keep_spare(at);
                bin.defer(&self.blocks, at);
            }
            Policy::Class | Policy::Large => self.vacate(at),
            Policy::Pool => {}
            Policy::ClosedPool => self.vacate_pool(bin_ix),
        }
    }

    /// The empty superblock that a class keeps.
    fn spare_of(&self, bin: BinIx) -> Option<BlockIx> {
        let spare = self.bins[bin].spare();
        (spare != BlockIx::NONE && self.blocks[spare].is_spare_of(bin)).then_some(spare)
    }

    /// Sets up a pool: `count` buffers of `size` bytes, in superblocks of their own.
    pub(super) fn open_pool(&self, size: usize, count: u32) -> Option<BinIx> {
        if size > SUPERBLOCK || count == 0 {
            return None;
        }
        let per_block = (SUPERBLOCK / size) as u32;
        let needed = count.div_ceil(per_block);
        self.drain_returns();
        self.or_collect(|| (self.vacant.count() >= needed).then_some(()))?;
        let mut pool = None;
        let mut left = count;
        while left > 0 {
            let run = self.vacant.take_one().expect("as many are vacant as are needed");
            let bin = *pool.get_or_insert(BinIx::pool(run.head));
            let cap = left.min(per_block);
            self.blocks.assign(run, bin, size, cap);
            self.bins[bin].set_policy(Policy::Pool);
            self.bins[bin].adopt(&self.blocks, run);
            left -= cap;
        }
        pool
    }

    /// Ends a pool. What is out stays valid; the superblocks return with the last of it.
    pub(super) fn close_pool(&self, bin_ix: BinIx) {
        self.bins[bin_ix].set_policy(Policy::ClosedPool);
        self.vacate_pool(bin_ix);
    }

    fn vacate_pool(&self, bin_ix: BinIx) {
        let bin = &self.bins[bin_ix];
        if bin.live() > 0 {
            return;
        }
        while let Some(at) = bin.head() {
            self.vacate(at);
        }
        bin.reset();
    }

    /// Returns an empty superblock, or run, from the ring of its bin to the common pool.
    fn vacate(&self, at: BlockIx) {
        let bin = &self.bins[self.blocks[at].bin()];
        let run = self.blocks.retire(at);
        bin.give_up(&self.blocks, run);
        self.vacant.put(run);
    }

    /// Tries again when it fails, with every empty superblock that a class keeps returned.
    fn or_collect<T>(&self, attempt: impl Fn() -> Option<T>) -> Option<T> {
        attempt().or_else(|| {
            self.collect();
            attempt()
        })
    }

    /// Returns every empty superblock that a class keeps.
    fn collect(&self) {
        for spare in Class::all().filter_map(|class| self.spare_of(BinIx::class(class))) {
            self.vacate(spare);
        }
    }

    /// Takes home what other threads have released.
    pub(super) fn drain_returns(&self) -> usize {
        self.shared.returns.drain(&self.slots, |object| {
            self.counters.count_returned(self.object_size(object.slot()));
            self.put(object);
        })
    }

    pub(super) fn out_of_memory(&self, requested: usize) -> OutOfMemory {
        OutOfMemory { requested, free: self.shared.region.len() - self.counters.bytes_live() }
    }
}
