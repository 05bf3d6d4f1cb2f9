//! The way home for objects released on other threads: any thread pushes, the owner takes all.
//!
//! Invariant: an object on this list is linked through its own slot word and is written by nobody until the owner takes
//! the list. Pushing compares the head, but a head that left and came back is linked to just as well, and nobody pops
//! single objects: there is no ABA to fear. The `Release` of the push and the `Acquire` of the take order the last use
//! of the object's bytes before the next.

use super::{Loose, Slot, Slots};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Alone on its cache line, as other threads write it.
#[repr(align(64))]
pub(crate) struct Returns {
    head: AtomicU32,
}

impl Returns {
    pub(crate) fn new() -> Self {
        Self { head: AtomicU32::new(Slot::NONE.0) }
    }

    /// Sends an object home. Any thread; lock-free.
    pub(crate) fn push(&self, slots: &Slots, object: Loose) {
        let mut head = self.head.load(Relaxed);
        loop {
            slots.link(&object, Slot(head));
            match self.head.compare_exchange_weak(head, object.slot().0, Release, Relaxed) {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }

    /// Hands every object that has come home to `put`, and counts them. Only the owner.
    pub(crate) fn drain(&self, slots: &Slots, mut put: impl FnMut(Loose)) -> usize {
        if self.head.load(Relaxed) == Slot::NONE.0 {
            return 0;
        }
        let mut slot = Slot(self.head.swap(Slot::NONE.0, Acquire));
        let mut count = 0;
        while slot != Slot::NONE {
            let next = slots.next(slot);
            put(Loose::new(slot));
            slot = next;
            count += 1;
        }
        count
    }
}
