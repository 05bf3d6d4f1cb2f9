//! When something must be done although nothing happens: the end of a linger, of a connect, a retry.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use demi_api::time::Instant;

use demi_api::slab::Key;

/// A heap of times. Entries are never removed early: who set one notes the time too, and ignores the others.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(Instant, Key)>>);

impl Deadlines {
    pub(crate) fn set(&mut self, at: Instant, key: Key) {
        self.0.push(Reverse((at, key)));
    }

    #[inline]
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one that has come.
    #[inline]
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(Instant, Key)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}
