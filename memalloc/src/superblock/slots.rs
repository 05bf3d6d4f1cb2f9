//! The slot words: one for each 64 bytes of the region, used where an object begins.
//!
//! A word is in one of four states, and its top bit says whether the object is live *here*:
//!
//! | word | state |
//! |---|---|
//! | `1..=MAX_REFERENCES` | live, with so many references |
//! | `0` | loose: the object is held as a value of type [`Loose`] |
//! | top bit and a slot | free, or on its way back from another thread; the slot is the next of that list |
//! | top bit and `AWAY` | live, held by a `RemoteBuf` |
//!
//! Invariant: an object's word is written by the thread that owns the heap, except while it is away; then its one holder
//! writes it. So words are loaded and stored, never read-modified-written, and atomic only to be shared at all.

use super::raw::Words;
use super::{BlockIx, SLOTS_PER_BLOCK};
use crate::{HeapError, HugePages};
use std::process;
use std::sync::atomic::Ordering::Relaxed;

/// Set in the word of an object that is not live here.
const NOT_LIVE: u32 = 1 << 31;
/// The link of an object whose one reference is a `RemoteBuf`.
const AWAY: u32 = Slot::NONE.0 - 1;
/// Beyond this, another reference could be mistaken for a link: the process aborts.
const MAX_REFERENCES: u32 = NOT_LIVE - 1;

/// Index of a granule in its heap's region: the name of the object that begins there. Made only in this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(super) u32);

impl Slot {
    /// The end of a list.
    pub(crate) const NONE: Self = Self(NOT_LIVE - 1);

    /// Where the object begins in the region, in bytes.
    #[inline]
    pub(crate) fn offset(self) -> usize {
        self.0 as usize * super::GRANULE
    }

    #[inline]
    pub(crate) fn block(self) -> BlockIx {
        BlockIx(self.0 / SLOTS_PER_BLOCK)
    }
}

/// An object that is on no list and has no reference: whoever holds this value holds the object, and the only access
/// to its memory. Between the free list and the first reference, and between the last reference and the free list,
/// this is what is passed on.
#[derive(Debug)]
#[must_use = "an object that is let go of is lost"]
pub(crate) struct Loose(Slot);

impl Loose {
    /// To be called where an object has left a list, or lost its last reference.
    #[inline]
    pub(super) fn new(slot: Slot) -> Self {
        Self(slot)
    }

    #[inline]
    pub(crate) fn slot(&self) -> Slot {
        self.0
    }
}

/// All words of a region. A clone is the same words.
#[derive(Clone)]
pub(crate) struct Slots(Words);

impl Slots {
    pub(crate) fn reserve(count: usize, huge: HugePages, lock: bool) -> Result<Self, HeapError> {
        // The words of a region are no reason to refuse it: where huge pages run out, plain ones hold them.
        let huge = if huge == HugePages::Require { HugePages::Auto } else { huge };
        Words::reserve(count, huge, lock).map(Self)
    }

    pub(crate) fn locked(&self) -> bool {
        self.0.locked()
    }

    /// Makes an object live, with one reference.
    #[inline]
    pub(crate) fn claim(&self, object: Loose) -> Slot {
        self.store(object.0, 1);
        object.0
    }

    #[inline]
    pub(crate) fn is_live(&self, slot: Slot) -> bool {
        (1..NOT_LIVE).contains(&self.load(slot))
    }

    /// Whether a live object has but one reference.
    #[inline]
    pub(crate) fn is_unique(&self, slot: Slot) -> bool {
        self.load(slot) == 1
    }

    /// Adds a reference to a live object.
    #[inline]
    pub(crate) fn add_reference(&self, slot: Slot) {
        let references = self.load(slot);
        debug_assert!((1..NOT_LIVE).contains(&references));
        if references >= MAX_REFERENCES {
            process::abort();
        }
        self.store(slot, references + 1);
    }

    /// Drops a reference to a live object; the last one leaves it loose.
    ///
    /// # Safety
    /// The caller owns a reference to the object, gives it up, and keeps no way to reach its memory.
    #[inline]
    pub(crate) unsafe fn drop_reference(&self, slot: Slot) -> Option<Loose> {
        let references = self.load(slot);
        debug_assert!((1..NOT_LIVE).contains(&references));
        self.store(slot, references - 1);
        (references == 1).then(|| Loose::new(slot))
    }

    /// Marks an object as held by another thread.
    pub(crate) fn send_away(&self, object: &Loose) {
        self.store(object.0, NOT_LIVE | AWAY);
    }

    /// Links an object to the next of a list.
    #[inline]
    pub(super) fn link(&self, object: &Loose, next: Slot) {
        self.store(object.0, NOT_LIVE | next.0);
    }

    /// What follows in a list.
    #[inline]
    pub(super) fn next(&self, slot: Slot) -> Slot {
        Slot(self.load(slot) & !NOT_LIVE)
    }

    #[inline]
    fn load(&self, slot: Slot) -> u32 {
        self.0[slot].load(Relaxed)
    }

    #[inline]
    fn store(&self, slot: Slot, word: u32) {
        self.0[slot].store(word, Relaxed);
    }
}
