//! Exact accounting. Bytes are those of whole objects, as the region has given them out, not of what was asked for.

use super::core::Core;
use crate::Pages;
use crate::class::{CLASSES, class_size};
use crate::superblock::{Bin, BinIx};
use std::cell::Cell;

/// A heap's account of itself at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeapStats {
    /// Bytes of the region.
    pub region_size: usize,
    /// What the region's pages are.
    pub pages: Pages,
    /// Whether all of it, slot words included, is locked in memory.
    pub locked: bool,
    /// Bytes of live objects, those on other threads included.
    pub bytes_live: usize,
    /// The most bytes that were ever live at once.
    pub bytes_high_water: usize,
    /// Live objects, however many buffers refer to each.
    pub objects_live: usize,
    /// Superblocks of 256 KiB in the region.
    pub superblocks: usize,
    /// Superblocks that no class, large object or pool uses.
    pub superblocks_free: usize,
    /// By size class, in rising order.
    pub classes: [BinStats; CLASSES],
    /// Objects larger than any class; `size` is 0, as each has its own.
    pub large: BinStats,
    /// All open pools together, and closed ones with buffers out; `size` is 0.
    pub pools: BinStats,
    /// How often foreign bytes were copied in.
    pub foreign_copies: u64,
    /// How many foreign bytes were copied in.
    pub foreign_bytes: u64,
    /// Objects that came home from other threads.
    pub remote_frees: u64,
}

/// The account of objects of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BinStats {
    /// Bytes of each object.
    pub size: usize,
    /// Live objects.
    pub live: usize,
    /// The most that were ever live at once.
    pub high_water: usize,
    /// Superblocks in use, with or without live objects.
    pub superblocks: usize,
}

impl BinStats {
    fn of(bin: &Bin, size: usize) -> Self {
        Self {
            size,
            live: bin.live() as usize,
            high_water: bin.high_water() as usize,
            superblocks: bin.superblocks() as usize,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            size: self.size,
            live: self.live + other.live,
            high_water: self.high_water + other.high_water,
            superblocks: self.superblocks + other.superblocks,
        }
    }
}

/// What is counted across bins.
#[derive(Default)]
pub(super) struct Counters {
    bytes_live: Cell<usize>,
    bytes_high_water: Cell<usize>,
    foreign_copies: Cell<u64>,
    foreign_bytes: Cell<u64>,
    remote_frees: Cell<u64>,
}

impl Counters {
    #[inline]
    pub(super) fn count_taken(&self, size: usize) {
        let bytes = self.bytes_live.get() + size;
        self.bytes_live.set(bytes);
        self.bytes_high_water.set(self.bytes_high_water.get().max(bytes));
    }

    #[inline]
    pub(super) fn count_put(&self, size: usize) {
        self.bytes_live.set(self.bytes_live.get() - size);
    }

    #[inline]
    pub(super) fn count_foreign(&self, bytes: usize) {
        self.foreign_copies.set(self.foreign_copies.get() + 1);
        self.foreign_bytes.set(self.foreign_bytes.get() + bytes as u64);
    }

    pub(super) fn count_remote(&self, count: usize) {
        self.remote_frees.set(self.remote_frees.get() + count as u64);
    }

    pub(super) fn bytes_live(&self) -> usize {
        self.bytes_live.get()
    }
}

impl Core {
    pub(super) fn stats(&self) -> HeapStats {
        let classes =
            std::array::from_fn(|class| BinStats::of(&self.bins.classes()[class], class_size(class)));
        let large = BinStats::of(&self.bins[BinIx::LARGE], 0);
        let pools = self
            .bins
            .pools()
            .iter()
            .map(|bin| BinStats::of(bin, 0))
            .fold(BinStats::default(), BinStats::plus);
        let region = &self.shared.region;
        HeapStats {
            region_size: region.len(),
            pages: region.pages(),
            locked: region.locked() && self.slots().locked(),
            bytes_live: self.counters.bytes_live.get(),
            bytes_high_water: self.counters.bytes_high_water.get(),
            objects_live: classes.iter().chain([&large, &pools]).map(|bin| bin.live).sum(),
            superblocks: self.blocks.len() as usize,
            superblocks_free: self.vacant.count() as usize,
            classes,
            large,
            pools,
            foreign_copies: self.counters.foreign_copies.get(),
            foreign_bytes: self.counters.foreign_bytes.get(),
            remote_frees: self.counters.remote_frees.get(),
        }
    }
}
