//! Rings: descriptors of buffers that go around between two sides.
//!
//! The client writes `head`, the server `tail`, on both rings. On the ring to the server, the client fills buffers up to
//! `head` and the server has emptied those before `tail`. On the ring from it, the client has offered empty buffers up to
//! `head` and the server has filled those before `tail`; the client offers what it has emptied again at once, so that
//! all its buffers are always offered. Therefore one rule holds for either side and direction: the buffers that a side
//! may work on begin at its own index, and there are `theirs - mine` of them for a server, `size - (mine - theirs)` for
//! a client. Working on them and moving one's own index is all there is; filling and emptying differ in what is done to
//! the buffer.
//!
//! Invariant: what the peer wrote is copied before it is checked, and the copy is used. The distance between the indices
//! is at most the size of the ring, every buffer lies in its region, and every chain ends within what the peer gave us;
//! a peer that says otherwise has broken the protocol ([`Violation`]) and loses the link.

use std::collections::VecDeque;
use std::rc::Rc;

use demi_api::memalloc::Heap;

use super::super::passing::copy_of_passing;
use super::super::{BURST, Checksum, Frame};
use super::counters::Counters;
use super::protocol::COOKIE;
use super::raw::{Desc, Index, RingMemory, Shared};

/// The frame goes on in the next descriptor.
const NEXT: u16 = 1;
/// Whoever empties the ring wants no interrupt.
const MASK_INT: u16 = 1;
/// Bytes of an Ethernet header: nothing shorter is a frame.
const HEADER_BYTES: usize = 14;

/// What a peer did that the protocol does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Violation(pub(super) &'static str);

const BEYOND: Violation = Violation("Buffer beyond its region");

/// Where the buffers of a ring are.
#[derive(Debug)]
pub(super) enum Buffers {
    /// A client's: equally spaced, whatever the descriptors say.
    Own { region: Rc<Shared>, first: u32, stride: u32, bytes: u32 },
    /// A server's: where the client's descriptors say.
    Foreign(Rc<[Rc<Shared>]>),
}

/// One side of one ring.
#[derive(Debug)]
pub(super) struct Ring {
    memory: RingMemory,
    buffers: Buffers,
    /// Our index. The peer reads it and nobody else writes it, so it is never read back.
    mine: u16,
    /// The peer's index when we last looked.
    theirs: u16,
    /// What is to be added to `theirs - mine`: the size for a client, nothing for a server.
    lead: u16,
    own: Index,
    other: Index,
}

impl Ring {
    /// A client's ring, whose memory is zero: writes cookie and descriptors.
    pub(super) fn create(memory: RingMemory, buffers: Buffers) -> Ring {
        memory.set_cookie(COOKIE);
        let lead = memory.size();
        let ring = Ring { memory, buffers, mine: 0, theirs: 0, lead, own: Index::Head, other: Index::Tail };
        (0..lead).for_each(|index| ring.offer(index));
        ring
    }

    /// A server's ring, which the client has prepared.
    pub(super) fn attach(memory: RingMemory, buffers: Buffers) -> Result<Ring, &'static str> {
        if memory.cookie() != COOKIE {
            return Err("Wrong cookie");
        }
        memory.store(Index::Tail, 0);
        Ok(Ring { memory, buffers, mine: 0, theirs: 0, lead: 0, own: Index::Tail, other: Index::Head })
    }

    /// Starts as the side that empties it: a client offers all its buffers.
    ///
    /// Not before the server has confirmed the link, for some servers reset both indices just before they do.
    pub(super) fn start_receiving(&mut self) {
        self.mask_interrupts();
        self.mine = self.lead;
        self.memory.store(self.own, self.mine);
    }

    /// Starts as the side that fills it.
    pub(super) fn start_sending(&self) {
        self.memory.store(self.own, 0);
    }

    /// Asks the peer not to interrupt us.
    pub(super) fn mask_interrupts(&self) {
        self.memory.set_flags(MASK_INT);
    }

    /// Asks the peer to interrupt us, and says whether there is something to receive already.
    ///
    /// The peer moves its index, then reads our flag; we clear the flag, then read its index. All four are sequentially
    /// consistent, so they have one order that all agree on, and in it one of the writes comes first: whoever writes
    /// second reads the other's. Either we see the frame, or the peer sees that we sleep. With release and acquire alone
    /// both could read what was there before, and the frame would lie until the next one.
    pub(super) fn unmask_interrupts(&mut self) -> Result<bool, Violation> {
        self.memory.set_flags(0);
        let theirs = self.memory.load_in_order(self.other);
        self.note(theirs)?;
        Ok(self.cached() > 0)
    }

    /// How many buffers are ours as far as we know.
    #[inline]
    fn cached(&self) -> u16 {
        self.theirs.wrapping_sub(self.mine).wrapping_add(self.lead)
    }

    /// Looks at the peer's index.
    #[inline]
    fn look(&mut self) -> Result<(), Violation> {
        let theirs = self.memory.load(self.other);
        self.note(theirs)
    }

    /// Takes the peer's index, if it can be.
    #[inline]
    fn note(&mut self, theirs: u16) -> Result<(), Violation> {
        let known = self.cached();
        self.theirs = theirs;
        let now = self.cached();
        // It moves forwards, by no more than what was with the peer.
        if now > self.memory.size() || now < known {
            return Err(Violation("Ring index out of range"));
        }
        Ok(())
    }

    /// Whether a buffer is free to be filled.
    pub(super) fn has_room(&mut self) -> Result<bool, Violation> {
        self.look()?;
        Ok(self.cached() > 0)
    }

    /// Writes the descriptor of an empty buffer; a client only.
    #[inline]
    fn offer(&self, index: u16) {
        if let Buffers::Own { first, stride, bytes, .. } = self.buffers {
            let offset = first + u32::from(self.memory.slot(index)) * stride;
            self.memory.set_desc(index, Desc { length: bytes, offset, ..Desc::default() });
        }
    }

    /// The region of a buffer, and where it begins there. Whether it ends there is for the access to check.
    #[inline]
    fn place(&self, index: u16, desc: &Desc) -> Result<(&Shared, usize), Violation> {
        match &self.buffers {
            Buffers::Own { region, first, stride, bytes } => {
                if desc.length > *bytes {
                    return Err(Violation("Length beyond the buffer"));
                }
                let offset = first + u32::from(self.memory.slot(index)) * stride;
                Ok((region, offset as usize))
            }
            Buffers::Foreign(regions) => {
                let region = regions.get(usize::from(desc.region)).ok_or(Violation("Unknown region"))?;
                Ok((region, desc.offset as usize))
            }
        }
    }

    /// An empty buffer: its descriptor, its region, and where it begins there, all of it checked.
    #[inline]
    fn empty(&self, index: u16) -> Result<(Desc, &Shared, usize), Violation> {
        let desc = match self.buffers {
            Buffers::Own { bytes, .. } => Desc { length: bytes, ..Desc::default() },
            Buffers::Foreign(_) => self.memory.desc(index),
        };
        let (region, offset) = self.place(index, &desc)?;
        if desc.length == 0 {
            return Err(Violation("Buffer without room"));
        }
        if !region.holds(offset, desc.length as usize) {
            return Err(BEYOND);
        }
        Ok((desc, region, offset))
    }

    /// Writes into a descriptor how much of its buffer is filled, and whether the frame goes on.
    #[inline]
    fn fill(&self, index: u16, desc: Desc, length: usize, flags: u16) {
        self.memory.set_desc_filling(index, Desc { length: length as u32, flags, ..desc });
    }

    /// Appends up to [`BURST`] frames of at most `most` bytes to `inbox`; returns how many.
    ///
    /// Looks at no more descriptors than the ring has. On a violation, what came before it is in `inbox`.
    pub(super) fn receive(
        &mut self,
        heap: &Heap,
        most: usize,
        inbox: &mut Vec<Frame>,
        counters: &mut Counters,
    ) -> Result<usize, Violation> {
        if usize::from(self.cached()) < BURST {
            self.look()?;
        }
        let available = self.cached();
        if available == 0 {
            return Ok(0);
        }
        let (mut used, before) = (0, inbox.len());
        let mut outcome = Ok(());
        while used < available && inbox.len() - before < BURST {
            match self.take_frame(used, available, heap, most, inbox, counters) {
                Ok(slots) => used += slots,
                Err(violation) => {
                    outcome = Err(violation);
                    break;
                }
            }
        }
        if let Buffers::Own { .. } = self.buffers {
            (0..used).for_each(|slot| self.offer(self.mine.wrapping_add(slot)));
        }
        self.mine = self.mine.wrapping_add(used);
        self.memory.store(self.own, self.mine);
        let received = inbox.len() - before;
        counters.rx_frames += received as u64;
        outcome.map(|()| received)
    }

    /// Copies one frame out; returns how many buffers it was in.
    #[inline]
    fn take_frame(
        &self,
        used: u16,
        available: u16,
        heap: &Heap,
        most: usize,
        inbox: &mut Vec<Frame>,
        counters: &mut Counters,
    ) -> Result<u16, Violation> {
        let index = self.mine.wrapping_add(used);
        let desc = self.memory.desc(index);
        if desc.flags & NEXT != 0 {
            return self.take_chain(index, available - used, heap, most, inbox, counters);
        }
        let len = desc.length as usize;
        let (region, offset) = self.place(index, &desc)?;
        if len < HEADER_BYTES || len > most {
            counters.rx_bad_length += 1;
            return if region.holds(offset, len) { Ok(1) } else { Err(BEYOND) };
        }
        let Ok(mut frame) = heap.alloc(len) else {
            match copy_of_passing(heap, len, |frame| region.read(offset, frame)) {
                Some(frame) => {
                    counters.rx_bytes += len as u64;
                    inbox.push(Frame { data: frame.into(), checksum: Checksum::Unknown });
                }
                None => counters.rx_no_memory += 1,
            }
            return Ok(1);
        };
        if !region.read(offset, &mut frame) {
            return Err(BEYOND);
        }
        counters.rx_bytes += len as u64;
        inbox.push(Frame { data: frame.into(), checksum: Checksum::Unknown });
        Ok(1)
    }

    /// The same for a frame that is in several buffers.
    #[inline(never)]
    fn take_chain(
        &self,
        index: u16,
        available: u16,
        heap: &Heap,
        most: usize,
        inbox: &mut Vec<Frame>,
        counters: &mut Counters,
    ) -> Result<u16, Violation> {
        let (slots, len) = self.measure(index, available)?;
        if len < HEADER_BYTES || len > most {
            counters.rx_bad_length += 1;
            return Ok(slots);
        }
        let Ok(mut frame) = heap.alloc(len) else {
            counters.rx_no_memory += 1;
            return Ok(slots);
        };
        self.collect(index, slots, &mut frame)?;
        counters.rx_bytes += len as u64;
        inbox.push(Frame { data: frame.into(), checksum: Checksum::Unknown });
        Ok(slots)
    }

    /// How many buffers a chain has, and how many bytes it says are in them.
    fn measure(&self, index: u16, available: u16) -> Result<(u16, usize), Violation> {
        let mut len = 0_usize;
        for slot in 0..available {
            let desc = self.memory.desc(index.wrapping_add(slot));
            len = len.saturating_add(desc.length as usize);
            if desc.flags & NEXT == 0 {
                return Ok((slot + 1, len));
            }
        }
        Err(Violation("Chain without an end"))
    }

    /// Copies a chain out. Its descriptors are read a second time, so they are checked against the frame, which was
    /// made to what they said the first time.
    fn collect(&self, index: u16, slots: u16, frame: &mut [u8]) -> Result<(), Violation> {
        let mut filled = 0;
        for slot in 0..slots {
            let index = index.wrapping_add(slot);
            let desc = self.memory.desc(index);
            let (region, offset) = self.place(index, &desc)?;
            let len = desc.length as usize;
            let part = frame.get_mut(filled..filled + len).ok_or(Violation("Chain changed"))?;
            if !region.read(offset, part) {
                return Err(BEYOND);
            }
            filled += len;
        }
        if filled == frame.len() { Ok(()) } else { Err(Violation("Chain changed")) }
    }

    /// Takes frames from the front of `outbox` while there is room. Says whether the peer is to be woken.
    pub(super) fn send(
        &mut self,
        most: usize,
        outbox: &mut VecDeque<Frame>,
        counters: &mut Counters,
    ) -> Result<Sent, Violation> {
        let (mut used, mut looked) = (0, false);
        let mut sent = Sent { full: false, wake: false };
        while let Some(frame) = outbox.front() {
            let segments = frame.data.segments();
            let len = frame.data.len();
            let fits = (HEADER_BYTES..=most).contains(&len)
                && segments.len() <= super::MAX_SEGMENTS
                && !matches!(frame.checksum, Checksum::Partial { .. });
            if !fits {
                counters.tx_rejected += 1;
            } else {
                match self.put_frame(used, frame, len)? {
                    Some(slots) => {
                        used += slots;
                        counters.tx_frames += 1;
                        counters.tx_bytes += len as u64;
                    }
                    None if !looked => {
                        looked = true;
                        self.look()?;
                        continue;
                    }
                    None if used == 0 && self.cached() == self.memory.size() => counters.tx_rejected += 1,
                    None => {
                        sent.full = true;
                        break;
                    }
                }
            }
            outbox.pop_front();
        }
        if used > 0 {
            // The order of [`unmask_interrupts`](Ring::unmask_interrupts).
            self.mine = self.mine.wrapping_add(used);
            self.memory.store_in_order(self.own, self.mine);
            sent.wake = self.memory.flags() & MASK_INT == 0;
        }
        Ok(sent)
    }

    /// Copies one frame into the buffers behind the first `used`; returns how many it took. `None`: there are too few.
    #[inline]
    fn put_frame(&self, used: u16, frame: &Frame, len: usize) -> Result<Option<u16>, Violation> {
        if used == self.cached() {
            return Ok(None);
        }
        let index = self.mine.wrapping_add(used);
        let (desc, region, mut at) = self.empty(index)?;
        if len > desc.length as usize {
            return self.put_chain(used, frame, len);
        }
        for segment in frame.data.segments() {
            // All of the buffer lies in the region, and all segments in the buffer.
            let _in_region = region.write(at, segment);
            at += segment.len();
        }
        self.fill(index, desc, len, 0);
        Ok(Some(1))
    }

    /// The same for a frame that does not fit into the first buffer.
    #[inline(never)]
    fn put_chain(&self, used: u16, frame: &Frame, len: usize) -> Result<Option<u16>, Violation> {
        let (mut slot, mut left) = (used, len);
        let mut segments = frame.data.segments().iter().map(|segment| &segment[..]);
        let mut segment: &[u8] = &[];
        while left > 0 {
            if slot == self.cached() {
                return Ok(None);
            }
            let index = self.mine.wrapping_add(slot);
            let (desc, region, offset) = self.empty(index)?;
            let filled = left.min(desc.length as usize);
            let mut at = 0;
            while at < filled {
                if segment.is_empty() {
                    // The segments have `len` bytes together, so there is one.
                    let Some(next) = segments.next() else { break };
                    segment = next;
                    continue;
                }
                let (part, rest) = segment.split_at(segment.len().min(filled - at));
                // All of the buffer lies in the region.
                let _in_region = region.write(offset + at, part);
                at += part.len();
                segment = rest;
            }
            left -= filled;
            self.fill(index, desc, filled, if left > 0 { NEXT } else { 0 });
            slot += 1;
        }
        Ok(Some(slot - used))
    }
}

/// What a burst came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    /// There was no room for the next.
    pub(super) full: bool,
    /// The peer sleeps, or may be about to.
    pub(super) wake: bool,
}
