//! Bins: who uses superblocks. There is one for each size class, one for large objects, and one for each pool.
//!
//! Invariant: a bin's ring holds exactly those of its superblocks that have a free object, so that the head, if there
//! is one, can serve the next allocation; and its `live` is the sum of theirs.

use super::raw::Table;
use super::{BlockIx, Blocks, Run};
use crate::class::{CLASSES, Class};
use std::cell::Cell;

/// Index of a bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BinIx(pub(super) u32);

impl BinIx {
    pub(crate) const LARGE: Self = Self(CLASSES as u32);

    #[inline]
    pub(crate) fn class(class: Class) -> Self {
        Self(class.index())
    }

    /// The bin of the pool whose first superblock is `first`. As the pool keeps that superblock for as long as it
    /// lives, no two have the same bin, and there are bins for as many pools as there can be.
    pub(crate) fn pool(first: BlockIx) -> Self {
        Self(Self::LARGE.0 + 1 + first.0)
    }
}

/// What becomes of a superblock without live objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    /// The bin keeps one and returns the others.
    Class,
    /// It returns at once.
    Large,
    /// It stays: the pool's buffers are reserved.
    Pool,
    /// It returns together with all others of the pool, when the last buffer has come back.
    ClosedPool,
}

/// Two to a cache line.
#[repr(align(32))]
pub(crate) struct Bin {
    policy: Cell<Policy>,
    head: Cell<BlockIx>,
    /// Of a class: the superblock that was the last to become empty and be kept. It may have been used again since, even
    /// elsewhere; but if there is an empty one, it is this.
    spare: Cell<BlockIx>,
    live: Cell<u32>,
    high_water: Cell<u32>,
    superblocks: Cell<u32>,
}

impl Bin {
    fn new(policy: Policy) -> Self {
        Self {
            policy: Cell::new(policy),
            head: Cell::new(BlockIx::NONE),
            spare: Cell::new(BlockIx::NONE),
            live: Cell::new(0),
            high_water: Cell::new(0),
            superblocks: Cell::new(0),
        }
    }

    #[inline]
    pub(crate) fn policy(&self) -> Policy {
        self.policy.get()
    }

    pub(crate) fn set_policy(&self, policy: Policy) {
        self.policy.set(policy);
    }

    /// A superblock with a free object.
    #[inline]
    pub(crate) fn head(&self) -> Option<BlockIx> {
        let head = self.head.get();
        (head != BlockIx::NONE).then_some(head)
    }

    #[inline]
    pub(crate) fn spare(&self) -> BlockIx {
        self.spare.get()
    }

    pub(crate) fn keep_spare(&self, at: BlockIx) {
        self.spare.set(at);
    }

    #[inline]
    pub(crate) fn live(&self) -> u32 {
        self.live.get()
    }

    pub(crate) fn high_water(&self) -> u32 {
        self.high_water.get()
    }

    pub(crate) fn superblocks(&self) -> u32 {
        self.superblocks.get()
    }

    /// Forgets what is left of a pool.
    pub(crate) fn reset(&self) {
        self.high_water.set(0);
    }

    #[inline]
    pub(crate) fn count_taken(&self) {
        let live = self.live.get() + 1;
        self.live.set(live);
        if live > self.high_water.get() {
            self.high_water.set(live);
        }
    }

    #[inline]
    pub(crate) fn count_put(&self) {
        self.live.set(self.live.get() - 1);
    }

    /// Adds superblocks that have a free object.
    pub(crate) fn adopt(&self, blocks: &Blocks, run: Run) {
        self.superblocks.set(self.superblocks.get() + run.len);
        self.enlist(blocks, run.head);
    }

    /// Gives up superblocks, which are in the ring.
    pub(crate) fn give_up(&self, blocks: &Blocks, run: Run) {
        self.superblocks.set(self.superblocks.get() - run.len);
        self.unlist(blocks, run.head);
    }

    /// Makes a superblock the head of the ring.
    pub(crate) fn enlist(&self, blocks: &Blocks, at: BlockIx) {
        let block = &blocks[at];
        let next = self.head().unwrap_or(at);
        let prev = self.head().map_or(at, |head| blocks[head].prev.get());
        block.next.set(next);
        block.prev.set(prev);
        blocks[prev].next.set(at);
        blocks[next].prev.set(at);
        self.head.set(at);
    }

    /// Takes a superblock out of the ring.
    pub(crate) fn unlist(&self, blocks: &Blocks, at: BlockIx) {
        let (next, prev) = (blocks[at].next.get(), blocks[at].prev.get());
        blocks[prev].next.set(next);
        blocks[next].prev.set(prev);
        if self.head.get() == at {
            self.head.set(if next == at { BlockIx::NONE } else { next });
        }
    }

    /// Lets the others of the ring go first.
    pub(crate) fn defer(&self, blocks: &Blocks, at: BlockIx) {
        if self.head.get() == at {
            self.head.set(blocks[at].next.get());
        }
    }
}

/// All bins of a heap.
pub(crate) struct Bins(pub(super) Table<Bin>);

impl Bins {
    /// The bins of a heap with so many superblocks.
    pub(crate) fn new(superblocks: u32) -> Self {
        let classes = (0..CLASSES).map(|_| Bin::new(Policy::Class));
        let pools = (0..superblocks).map(|_| Bin::new(Policy::Pool));
        Self(classes.chain([Bin::new(Policy::Large)]).chain(pools).collect())
    }

    pub(crate) fn pools(&self) -> &[Bin] {
        &self.0[CLASSES + 1..]
    }
}
