//! Who may have which segment.
//!
//! Invariant: a segment is in one log, or may be taken, or is about to be allowed, or is free: never in two of these. Only those that the
//! newest complete checkpoint has set aside may be taken, in its order (`docs/log-format.md`, "Checkpoint").

use std::collections::VecDeque;

use crate::format::Segment;

#[derive(Debug, Default)]
pub(crate) struct Space {
    /// Set aside by the newest complete checkpoint, and not taken since.
    allowed: VecDeque<u32>,
    /// Set aside by the checkpoint that is being written.
    coming: Vec<u32>,
    free: VecDeque<u32>,
    next_sequence: u64,
    reserve: usize,
    /// Segments that elements which are being written will still take.
    promised: usize,
}

impl Space {
    /// `allowed` is what the newest checkpoint has set aside, `free` what nobody has.
    pub(crate) fn new(
        allowed: VecDeque<u32>,
        free: VecDeque<u32>,
        next_sequence: u64,
        reserve: u32,
    ) -> Space {
        Space { allowed, coming: Vec::new(), free, next_sequence, reserve: reserve as usize, promised: 0 }
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Segments that nobody has, or is to have.
    pub(crate) fn available(&self) -> usize {
        (self.allowed.len() + self.coming.len() + self.free.len()).saturating_sub(self.promised)
    }

    /// Sets `count` segments apart for one who will take them later. False: there are not as many.
    pub(crate) fn promise(&mut self, count: usize) -> bool {
        if self.available() < count {
            return false;
        }
        self.promised += count;
        true
    }

    /// Of what was promised, `count` are not needed.
    pub(crate) fn release(&mut self, count: usize) {
        self.promised = self.promised.saturating_sub(count);
    }

    /// A segment that was promised. `None`: a checkpoint must be complete first.
    pub(crate) fn take(&mut self) -> Option<Segment> {
        let index = self.allowed.pop_front()?;
        self.promised = self.promised.saturating_sub(1);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Some(Segment { index, sequence })
    }

    /// Whether nothing may be taken before the next checkpoint.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.allowed.is_empty()
    }

    /// A log has given a segment up.
    pub(crate) fn give_back(&mut self, segment: Segment) {
        self.free.push_back(segment.index);
    }

    /// Whether it is time for a checkpoint that sets more aside.
    pub(crate) fn is_low(&self) -> bool {
        self.allowed.len() <= self.reserve / 2 && !self.free.is_empty()
    }

    /// What a checkpoint that is written now sets aside. What it adds is allowed once that is
    /// [`complete`](Space::complete).
    pub(crate) fn set_aside(&mut self) -> Vec<u32> {
        // What a checkpoint that failed would have set aside comes again, in the same order.
        while self.allowed.len() + self.coming.len() < self.reserve
            && let Some(index) = self.free.pop_front()
        {
            self.coming.push(index);
        }
        self.allowed.iter().chain(&self.coming).copied().collect()
    }

    /// The checkpoint is complete.
    pub(crate) fn complete(&mut self) {
        self.allowed.extend(self.coming.drain(..));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_was_set_aside_by_a_complete_checkpoint_in_that_order() {
        let mut space = Space::new([3, 1].into(), [0, 2, 4].into(), 10, 4);
        assert_eq!(space.take(), Some(Segment { index: 3, sequence: 10 }));
        assert!(space.is_low());
        assert_eq!(space.set_aside(), [1, 0, 2, 4]);
        assert_eq!(space.take(), Some(Segment { index: 1, sequence: 11 }));
        assert_eq!(space.take(), None, "the checkpoint is not complete");
        space.give_back(Segment { index: 3, sequence: 10 });
        space.complete();
        for (index, sequence) in [(0, 12), (2, 13), (4, 14)] {
            assert_eq!(space.take(), Some(Segment { index, sequence }));
        }
        assert_eq!(space.take(), None);
    }

    #[test]
    fn promises_are_kept() {
        let mut space = Space::new([1].into(), [2, 3].into(), 1, 4);
        assert!(space.promise(2));
        assert!(!space.promise(2) && space.promise(1) && !space.promise(1));
        space.release(1);
        assert_eq!(space.available(), 1);
        space.take().unwrap();
        assert_eq!(space.available(), 1, "a promised one was taken");
    }
}
