//! The transmitting side: frames into the ring as they lie in the heap, and their buffers back.
//!
//! Invariants: a frame's descriptors are published together, each within the limits of the UMEM: no longer than a chunk
//! and, where the NIC reads the memory itself, within one page. A buffer is released when its descriptor has completed.
//! There are never more descriptors under way than the completion ring holds, so the kernel can always complete.

use std::collections::VecDeque;

use demi_api::memalloc::{Buf, Heap, RegionInfo};

use super::counters::Counters;
use super::flight::Flight;
use super::raw::Desc;
use super::receive::CONTINUED;
use super::ring::{Consumer, Producer};
use super::socket::{Binding, Socket};
use crate::device::{Checksum, Frame};

/// The smallest page that a NIC may be given an address of.
const PAGE: usize = 4096;

/// Most descriptors of a frame that the kernel copies: its packets have one linear part and 17 others.
const MAX_COPIED: usize = 17;
/// Most descriptors of a frame that a NIC reads: what the drivers that take several report as their limit.
const MAX_ZERO_COPY: usize = 8;

/// The kernel takes so many descriptors at one call.
const KERNEL_BATCH: u32 = 32;

/// An Ethernet header.
pub(super) const HEADER: usize = 14;

/// The sending side of a device.
pub(super) struct Transmitter {
    tx: Producer<Desc>,
    completion: Consumer<u64>,
    flight: Flight,
    size: u32,
    region: RegionInfo,
    chunk: usize,
    pub(super) binding: Binding,
    max_frame: usize,
}

impl Transmitter {
    pub(super) fn new(
        rings: (Producer<Desc>, Consumer<u64>),
        size: u32,
        region: RegionInfo,
        chunk: usize,
        binding: Binding,
        mtu: usize,
    ) -> Transmitter {
        let (tx, completion) = rings;
        let max_frame = mtu + HEADER;
        Transmitter { tx, completion, flight: Flight::new(size), size, region, chunk, binding, max_frame }
    }

    /// Takes frames from the front of `outbox` while there is room, and tells the kernel once.
    pub(super) fn burst(
        &mut self,
        socket: &Socket,
        heap: &Heap,
        outbox: &mut VecDeque<Frame>,
        counters: &mut Counters,
    ) -> usize {
        let mut taken = 0;
        while let Some(frame) = outbox.front() {
            let len = frame.data.len();
            let direct = self.descriptors(frame);
            let needed = direct.unwrap_or(len.div_ceil(self.chunk));
            let sound = (HEADER..=self.max_frame).contains(&len) && needed <= self.most();
            if !sound || matches!(frame.checksum, Checksum::Partial { .. }) {
                counters.tx_refused += 1;
                outbox.pop_front();
                taken += 1;
                continue;
            }
            if !self.has_room(needed, counters) {
                break;
            }
            if direct.is_none() {
                let copy = self.copy(heap, frame, len);
                outbox.pop_front();
                let Some(copy) = copy else {
                    // Those behind it may be what makes room.
                    counters.tx_no_memory += 1;
                    taken += 1;
                    continue;
                };
                counters.tx_copied += 1;
                let last = copy.len() - 1;
                for (at, buf) in copy.into_iter().enumerate() {
                    self.put(buf, at == last);
                }
            } else if let Some(frame) = outbox.pop_front() {
                self.put_frame(frame, needed);
            }
            counters.tx_frames += 1;
            counters.tx_segments += needed as u64;
            taken += 1;
        }
        if taken > 0 {
            self.tx.publish();
            self.kick(socket, counters);
        }
        taken
    }

    /// How many descriptors the frame takes as it lies. `None`: it has to be copied.
    #[inline]
    fn descriptors(&self, frame: &Frame) -> Option<usize> {
        let mut count = 0;
        for segment in frame.data.segments() {
            let mut at = self.offset(segment)?;
            let end = at + segment.len();
            while at < end {
                at += self.cut(at, end - at);
                count += 1;
            }
        }
        (count <= self.most()).then_some(count)
    }

    /// Most descriptors of one frame.
    fn most(&self) -> usize {
        match self.binding {
            Binding { gather: false, .. } => 1,
            Binding { zero_copy: true, .. } => MAX_ZERO_COPY,
            Binding { zero_copy: false, .. } => MAX_COPIED,
        }
    }

    /// How much of `len` bytes at an offset one descriptor may name.
    #[inline]
    fn cut(&self, offset: usize, len: usize) -> usize {
        let page = if self.binding.zero_copy { PAGE - offset % PAGE } else { usize::MAX };
        len.min(self.chunk).min(page)
    }

    /// Where a segment lies in the UMEM. `None`: it is from another heap.
    #[inline]
    fn offset(&self, segment: &Buf) -> Option<usize> {
        let offset = segment.as_ptr().addr().wrapping_sub(self.region.base.addr());
        if segment.is_empty() {
            return Some(0);
        }
        (offset < self.region.len).then_some(offset)
    }

    fn has_room(&mut self, needed: usize, counters: &mut Counters) -> bool {
        if self.flight.room() < needed {
            self.reclaim(counters);
        }
        self.flight.room() >= needed && self.tx.room_for(needed as u32) as usize >= needed
    }

    #[inline]
    fn put_frame(&mut self, mut frame: Frame, needed: usize) {
        let mut left = needed;
        for segment in frame.data.segments_mut() {
            let mut rest = std::mem::take(segment);
            while !rest.is_empty() {
                let cut = self.offset(&rest).map_or(rest.len(), |at| self.cut(at, rest.len()));
                let piece = if cut == rest.len() { std::mem::take(&mut rest) } else { rest.split_to(cut) };
                left -= 1;
                self.put(piece, left == 0);
            }
        }
    }

    #[inline]
    fn put(&mut self, buf: Buf, last: bool) {
        let len = buf.len() as u32;
        let Some(addr) = self.offset(&buf).and_then(|at| self.flight.launch(buf, at as u64)) else { return };
        self.tx.put(Desc { addr, len, options: if last { 0 } else { CONTINUED } });
    }

    /// The frame's bytes in as few buffers as can be. `None`: the heap has none, or too many would be needed.
    fn copy(&self, heap: &Heap, frame: &Frame, len: usize) -> Option<Vec<Buf>> {
        let pieces = len.div_ceil(self.chunk);
        let mut bytes = frame.data.segments().iter().flat_map(|segment| segment.chunks(self.chunk));
        let mut chunk: &[u8] = &[];
        let mut copies = Vec::with_capacity(pieces);
        for at in 0..pieces {
            let size = (len - at * self.chunk).min(self.chunk);
            // A buffer whose size is a power of two lies at a multiple of it, so none crosses a page.
            let mut copy = heap.alloc_urgent(size.next_power_of_two()).ok()?;
            copy.truncate(size);
            let mut filled = 0;
            while filled < size {
                if chunk.is_empty() {
                    chunk = bytes.next()?;
                }
                let (front, back) = chunk.split_at(chunk.len().min(size - filled));
                copy[filled..filled + front.len()].copy_from_slice(front);
                (filled, chunk) = (filled + front.len(), back);
            }
            copies.push(copy.freeze());
        }
        Some(copies)
    }

    /// Has the kernel take what is in the ring, if it has to be told.
    pub(super) fn kick(&mut self, socket: &Socket, counters: &mut Counters) {
        // The kernel takes a batch at a call. It is called again only as long as it takes something.
        let mut untaken = self.tx.untaken();
        for _ in 0..=self.size / KERNEL_BATCH {
            if untaken == 0 || !self.tx.needs_wakeup() {
                return;
            }
            counters.tx_kicks += 1;
            counters.tx_kicks_failed += u64::from(socket.kick_tx().is_err_and(|errno| !is_early(errno)));
            let before = std::mem::replace(&mut untaken, self.tx.untaken());
            if untaken == before {
                return;
            }
        }
    }

    /// Whether something waits that the kernel could not take when it was told.
    pub(super) fn is_stalled(&mut self) -> bool {
        self.tx.untaken() > 0
    }

    pub(super) fn is_idle(&self) -> bool {
        self.flight.is_empty()
    }

    pub(super) fn under_way(&self) -> usize {
        self.flight.len()
    }

    /// Lets go of what has been sent; returns how many buffers that were.
    #[inline]
    pub(super) fn reclaim(&mut self, counters: &mut Counters) -> usize {
        let count = self.completion.ready();
        for addr in (0..count).map_while(|_| self.completion.take()) {
            if !self.flight.land(addr) {
                counters.tx_unknown += 1;
            }
        }
        if count > 0 {
            self.completion.release();
        }
        count as usize
    }

    /// Gives up what is under way without releasing it.
    pub(super) fn leak(&mut self) {
        self.flight.leak();
    }
}

/// Whether a kick was refused because there is more than the kernel takes at once, or the device is busy.
fn is_early(errno: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(errno, Errno::AGAIN | Errno::BUSY | Errno::NOBUFS)
}
