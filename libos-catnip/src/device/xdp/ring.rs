//! The two ends of a ring: one fills it and publishes, the other takes and releases.
//!
//! Invariants: an index is ours or the kernel's, never both's. Ours is published by one release store per batch; the
//! kernel's is read by one acquire load, and only when the copy of it that is kept says that there is nothing left.
//! An index from the kernel that cannot be is cut to the size of the ring, so no loop here runs longer than that.

use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;

use rustix::io;
use rustix::net::xdp::XdpRingOffset;

use super::raw::{Entry, SharedRing};

/// `XDP_RING_NEED_WAKEUP`.
const NEED_WAKEUP: u32 = 1;

/// The end that fills: of the fill ring and the transmit ring.
pub(super) struct Producer<T> {
    ring: SharedRing<T>,
    /// The next entry to be written; ahead of what is published.
    next: u32,
    /// What the kernel had taken when it was last asked.
    taken: u32,
}

impl<T: Entry> Producer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        layout: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Producer<T>> {
        let ring = SharedRing::map(fd, page_offset, layout, size)?;
        let next = ring.producer().load(Relaxed);
        let taken = ring.consumer().load(Acquire);
        Ok(Producer { ring, next, taken })
    }

    /// How many entries can be put, at least: asks the kernel's index only if there seem to be fewer than `wanted`.
    #[inline]
    pub(super) fn room_for(&mut self, wanted: u32) -> u32 {
        let room = self.room();
        if room >= wanted {
            return room;
        }
        self.taken = self.ring.consumer().load(Acquire);
        self.room()
    }

    #[inline]
    fn room(&self) -> u32 {
        self.ring.size().saturating_sub(self.next.wrapping_sub(self.taken))
    }

    /// Writes an entry, for which there must be room. The kernel sees it after [`Producer::publish`].
    #[inline]
    pub(super) fn put(&mut self, entry: T) {
        debug_assert!(self.room() > 0);
        self.ring.write(self.next, entry);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was put.
    #[inline]
    pub(super) fn publish(&mut self) {
        self.ring.producer().store(self.next, Release);
    }

    /// How many published entries the kernel has not taken yet.
    #[inline]
    pub(super) fn untaken(&mut self) -> u32 {
        self.taken = self.ring.consumer().load(Acquire);
        self.next.wrapping_sub(self.taken).min(self.ring.size())
    }

    /// Whether the kernel has to be told that there is something.
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // The driver raises the flag and looks at the index; we store the index and look at the flag. Without
        // a fence each could miss what the other did.
        fence(SeqCst);
        self.ring.flags().load(Relaxed) & NEED_WAKEUP != 0
    }
}

/// The end that takes: of the receive ring and the completion ring.
pub(super) struct Consumer<T> {
    ring: SharedRing<T>,
    /// The next entry to be read; ahead of what is released.
    next: u32,
    /// What the kernel had published when it was last asked.
    published: u32,
}

impl<T: Entry> Consumer<T> {
    pub(super) fn map(
        fd: BorrowedFd<'_>,
        page_offset: u64,
        layout: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Consumer<T>> {
        let ring = SharedRing::map(fd, page_offset, layout, size)?;
        let next = ring.consumer().load(Relaxed);
        let published = next;
        Ok(Consumer { ring, next, published })
    }

    /// How many entries can be taken; asks the kernel's index only when none is known of.
    #[inline]
    pub(super) fn ready(&mut self) -> u32 {
        if self.next == self.published {
            let published = self.ring.producer().load(Acquire);
            let count = published.wrapping_sub(self.next).min(self.ring.size());
            self.published = self.next.wrapping_add(count);
        }
        self.published.wrapping_sub(self.next)
    }

    /// The next entry. The kernel may write its place again after [`Consumer::release`].
    #[inline]
    pub(super) fn take(&mut self) -> Option<T> {
        if self.ready() == 0 {
            return None;
        }
        let entry = self.ring.read(self.next);
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives back the places of what was taken.
    #[inline]
    pub(super) fn release(&mut self) {
        self.ring.consumer().store(self.next, Release);
    }
}
