//! When something must be done although nothing happens: the end of a linger, of a connect, a look at a peer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use demi_api::slab::Key;
use demi_api::time::Instant;

/// What a deadline is of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Of {
    /// A connection: its linger, or its opening.
    Connection(Key),
    /// A peer.
    Peer(Key),
}

/// A heap of times. Entries are never removed early: who set one notes the time too, and ignores the others.
#[derive(Debug, Default)]
pub(crate) struct Deadlines(BinaryHeap<Reverse<(Instant, Of)>>);

impl Deadlines {
    pub(crate) fn set(&mut self, at: Instant, of: Of) {
        self.0.push(Reverse((at, of)));
    }

    #[inline]
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes one that has come.
    #[inline]
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(Instant, Of)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse(due)| due)
    }
}
