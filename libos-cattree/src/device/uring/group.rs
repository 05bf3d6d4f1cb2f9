//! Group commit: durable writes and flushes that wait for one `fdatasync`.
//!
//! Invariant: what has joined is made durable by a sync that began after it joined.

use std::collections::VecDeque;

use demi_api::error::Error;

/// Slots that wait, and the sync under way for those before them.
#[derive(Debug)]
pub(super) struct Group {
    waiting: VecDeque<u32>,
    /// The slots that the last sync was for.
    synced: VecDeque<u32>,
    under_way: bool,
    result: Result<(), Error>,
}

impl Group {
    /// For at most `count` slots.
    pub(super) fn new(count: usize) -> Group {
        Group {
            waiting: VecDeque::with_capacity(count),
            synced: VecDeque::with_capacity(count),
            under_way: false,
            result: Ok(()),
        }
    }

    pub(super) fn join(&mut self, slot: u32) {
        self.waiting.push_back(slot);
    }

    /// True: a sync is to be begun, for all that wait.
    #[inline]
    pub(super) fn begin(&mut self) -> bool {
        if self.waiting.is_empty() || self.under_way || !self.synced.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.waiting, &mut self.synced);
        self.under_way = true;
        true
    }

    /// The sync has ended.
    pub(super) fn end(&mut self, result: Result<(), Error>) {
        self.under_way = false;
        self.result = result;
    }

    /// One of those whose sync has ended, and how.
    #[inline]
    pub(super) fn next_done(&mut self) -> Option<(u32, Result<(), Error>)> {
        if self.under_way {
            return None;
        }
        self.synced.pop_front().map(|slot| (slot, self.result.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sync_is_for_all_that_joined_before_it_began() {
        let mut group = Group::new(4);
        assert!(!group.begin(), "nobody waits");
        group.join(1);
        group.join(2);
        assert!(group.begin());
        group.join(3);
        assert!(!group.begin(), "one at a time");
        assert_eq!(group.next_done(), None);
        group.end(Err(Error::Io));
        assert!(!group.begin(), "the first two have not been told yet");
        assert_eq!(group.next_done(), Some((1, Err(Error::Io))));
        assert_eq!(group.next_done(), Some((2, Err(Error::Io))));
        assert_eq!(group.next_done(), None);
        assert!(group.begin(), "the third has joined too late");
        group.end(Ok(()));
        assert_eq!(group.next_done(), Some((3, Ok(()))));
    }
}
