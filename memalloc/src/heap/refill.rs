//! Where superblocks come from and go to: the slower part of the heap.
//!
//! Invariant: every superblock is vacant or counted by exactly one bin. An allocation fails only after objects released
//! on other threads have been taken home and the empty superblocks that classes keep have been collected.
//!
//! Work per call: O(1) for an allocation from a class; for large objects and pools, and when memory runs out,
//! O(superblocks).

use super::core::Core;
use crate::OutOfMemory;
use crate::class::class_size;
use crate::superblock::{BinIx, BlockIx, Loose, Policy, SUPERBLOCK};

impl Core {
    /// Finds a bin that has no free object a superblock that has one.
    #[cold]
    pub(super) fn refill(&self, bin_ix: BinIx) -> Option<BlockIx> {
        self.drain_returns();
        let bin = &self.bins[bin_ix];
        if bin.head().is_some() || bin.policy() != Policy::Class {
            return bin.head();
        }
        let at = self.or_collect(|| self.vacant.take_one())?;
        let size = class_size(bin_ix.as_class());
        self.blocks.assign(at..at + 1, bin_ix, size, (SUPERBLOCK / size) as u32);
        bin.adopt(&self.blocks, BlockIx(at), 1);
        bin.head()
    }

    /// Takes a run of superblocks as one object.
    #[cold]
    pub(super) fn take_large(&self, len: usize) -> Option<Loose> {
        // A buffer's length is 32 bits; a run that long is refused like one that does not fit.
        let count = u32::try_from(len).ok()?.div_ceil(SUPERBLOCK as u32);
        self.drain_returns();
        let run = self.or_collect(|| self.vacant.take_run(count))?;
        let at = BlockIx(run.start);
        self.blocks.assign(run, BinIx::LARGE, count as usize * SUPERBLOCK, 1);
        self.bins[BinIx::LARGE].adopt(&self.blocks, at, count);
        self.take(BinIx::LARGE)
    }

    /// Decides what becomes of a superblock that has lost its last live object.
    #[inline]
    pub(super) fn emptied(&self, at: BlockIx) {
        let bin = &self.bins[self.blocks[at].bin()];
        match bin.policy() {
            Policy::Class if bin.spare().get() == BlockIx::NONE => {
                bin.spare().set(at);
                bin.defer(&self.blocks, at);
            }
            Policy::Class | Policy::Large => self.vacate(at),
            Policy::Pool => {}
            Policy::ClosedPool => self.vacate_pool(self.blocks[at].bin()),
        }
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
        let mut bin_ix = None;
        let mut left = count;
        while left > 0 {
            let at = self.vacant.take_one().expect("as many are vacant as are needed");
            let bin_ix = *bin_ix.get_or_insert(BinIx::pool(BlockIx(at)));
            let cap = left.min(per_block);
            self.blocks.assign(at..at + 1, bin_ix, size, cap);
            self.bins[bin_ix].set_policy(Policy::Pool);
            self.bins[bin_ix].adopt(&self.blocks, BlockIx(at), 1);
            left -= cap;
        }
        bin_ix
    }

    /// Ends a pool. What is out stays valid; the superblocks return with the last of it.
    pub(super) fn close_pool(&self, bin_ix: BinIx) {
        self.bins[bin_ix].set_policy(Policy::ClosedPool);
        self.vacate_pool(bin_ix);
    }

    #[cold]
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
    #[cold]
    fn vacate(&self, at: BlockIx) {
        let bin = &self.bins[self.blocks[at].bin()];
        let run = self.blocks.retire(at);
        bin.give_up(&self.blocks, at, run.len() as u32);
        self.vacant.put(run);
    }

    /// Tries again when it fails, with every empty superblock that a class keeps returned.
    fn or_collect<T>(&self, attempt: impl Fn() -> Option<T>) -> Option<T> {
        attempt().or_else(|| {
            for bin in self.bins.classes() {
                let spare = bin.spare().replace(BlockIx::NONE);
                if spare != BlockIx::NONE {
                    self.vacate(spare);
                }
            }
            attempt()
        })
    }

    /// Takes home what other threads have released.
    pub(super) fn drain_returns(&self) -> usize {
        let count = self.shared.returns.drain(self.slots(), |object| self.put(object));
        self.counters.count_remote(count);
        count
    }

    #[cold]
    pub(super) fn out_of_memory(&self, requested: usize) -> OutOfMemory {
        OutOfMemory { requested, free: self.shared.region.len() - self.counters.bytes_live() }
    }
}
