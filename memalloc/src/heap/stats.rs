//! Exact accounting. Bytes are those of whole objects, as the region has given them out, not of what was asked for.

use super::core::Core;
use crate::Pages;
use crate::class::{CLASSES, Class};
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
    /// How often pieces were copied into one buffer.
    pub joins: u64,
    /// How many bytes were copied doing so.
    pub joined_bytes: u64,
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
///
/// Objects on other threads are counted apart, so that `here` tells by itself whether the core is still needed; the
/// high-water mark is then kept relative to them.
#[derive(Default)]
pub(super) struct Counters {
    /// Bytes of objects that are live on this thread.
    here: Cell<usize>,
    /// Bytes of objects that are live on other threads, or on their way back.
    away: Cell<usize>,
    /// The most bytes that were ever live at once, less `away`. Not below `here`.
    high_water: Cell<usize>,
    foreign_copies: Cell<u64>,
    foreign_bytes: Cell<u64>,
    joins: Cell<u64>,
    joined_bytes: Cell<u64>,
    remote_frees: Cell<u64>,
}

impl Counters {
    #[inline]
    pub(super) fn count_taken(&self, size: usize) {
        let here = self.here.get() + size;
        self.here.set(here);
        if here > self.high_water.get() {
            self.high_water.set(here);
        }
    }

    #[inline]
    pub(super) fn count_put(&self, size: usize) {
        self.here.set(self.here.get() - size);
    }

    pub(super) fn count_sent_away(&self, size: usize) {
        self.here.set(self.here.get() - size);
        self.away.set(self.away.get() + size);
        self.high_water.set(self.high_water.get() - size);
    }

    pub(super) fn count_back(&self, size: usize) {
        self.here.set(self.here.get() + size);
        self.away.set(self.away.get() - size);
        self.high_water.set(self.high_water.get() + size);
    }

    pub(super) fn count_returned(&self, size: usize) {
        self.count_back(size);
        self.remote_frees.set(self.remote_frees.get() + 1);
    }

    pub(super) fn count_foreign(&self, bytes: usize) {
        self.foreign_copies.set(self.foreign_copies.get() + 1);
        self.foreign_bytes.set(self.foreign_bytes.get() + bytes as u64);
    }

    pub(super) fn count_join(&self, bytes: usize) {
        self.joins.set(self.joins.get() + 1);
        self.joined_bytes.set(self.joined_bytes.get() + bytes as u64);
    }

    #[inline]
    pub(super) fn nothing_live_here(&self) -> bool {
        self.here.get() == 0
    }

    pub(super) fn bytes_live(&self) -> usize {
        self.here.get() + self.away.get()
    }

    fn bytes_high_water(&self) -> usize {
        self.high_water.get() + self.away.get()
    }
}

impl Core {
    pub(super) fn stats(&self) -> HeapStats {
        let classes = {
            let mut classes = [BinStats::default(); CLASSES];
            for (stats, class) in classes.iter_mut().zip(Class::all()) {
                *stats = BinStats::of(&self.bins[BinIx::class(class)], class.size());
            }
            classes
        };
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
            locked: region.locked() && self.slots.locked(),
            bytes_live: self.counters.bytes_live(),
            bytes_high_water: self.counters.bytes_high_water(),
            objects_live: classes.iter().chain([&large, &pools]).map(|bin| bin.live).sum(),
            superblocks: self.blocks.len() as usize,
            superblocks_free: self.vacant.count() as usize,
            classes,
            large,
            pools,
            foreign_copies: self.counters.foreign_copies.get(),
            foreign_bytes: self.counters.foreign_bytes.get(),
            joins: self.counters.joins.get(),
            joined_bytes: self.counters.joined_bytes.get(),
            remote_frees: self.counters.remote_frees.get(),
        }
    }
}
