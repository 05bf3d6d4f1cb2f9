//! The two ends of a lane: packets go through it in order, from one writer to one reader.
//!
//! Packet `n` lies in slot `n` modulo their number. Its mark says so: the upper half is `n + 1`, the lower half the length. Who receives
//! therefore needs to look at no other word to know that there is a packet, and finds it on the cache line that it
//! has just fetched: one line for up to 56 bytes, two for a small message. A packet that is longer than a slot has its headers there
//! and its payload in the slot's page.
//!
//! Invariant: what the peer wrote is copied before it is checked, and the copy is used. A length is within the slot or
//! its page, and what was taken is between what was known and what was sent; a peer that says otherwise has broken the
//! rules ([`Violation`]) and loses the link. A mark that is not the next one's is no packet.

use std::ops::Range;

use super::super::{FRONT, Packet, Payload};
use super::raw::{Area, INLINE, Lane, PAGE, Word};

/// Bytes of the shortest headers.
const SHORTEST: usize = 12;
/// Bytes of the longest packet: all headers, and a page.
const LONGEST: usize = FRONT + PAGE;

/// What a peer did that is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Violation(pub(super) &'static str);

/// The end that packets are put into.
#[derive(Debug)]
pub(super) struct Sender {
    lane: Lane,
    /// Number of the next packet.
    next: u32,
    /// Number of the first one that has no room, as far as is known.
    limit: u32,
}

impl Sender {
    pub(super) fn new(lane: Lane) -> Sender {
        let limit = lane.slots();
        Sender { lane, next: 0, limit }
    }

    /// Puts a packet in. False: there is no room.
    #[inline]
    pub(super) fn send(&mut self, headers: &[u8], payload: &[&[u8]]) -> Result<bool, Violation> {
        if self.next == self.limit && !self.has_room()? {
            return Ok(false);
        }
        let index = self.next;
        let padded = payload.iter().map(|piece| piece.len()).sum::<usize>().next_multiple_of(4);
        let (area, mut at) = match headers.len() + padded {
            ..=INLINE => (Area::Slot, headers.len()),
            _ => (Area::Page, 0),
        };
        let mut fits = self.lane.write(index, Area::Slot, 0, headers);
        for piece in payload {
            fits &= self.lane.write(index, area, at, piece);
            at += piece.len();
        }
        debug_assert!(fits, "headers have at most {FRONT} bytes, and a payload at most {PAGE}");
        let len = (headers.len() + padded) as u64;
        self.next = index.wrapping_add(1);
        self.lane.set_mark(index, u64::from(self.next) << 32 | len);
        Ok(true)
    }

    /// Looks whether there is room.
    #[cold]
    pub(super) fn has_room(&mut self) -> Result<bool, Violation> {
        let slots = self.lane.slots();
        let known = self.limit.wrapping_sub(slots);
        let taken = self.lane.load(Word::Taken);
        if taken.wrapping_sub(known) > self.next.wrapping_sub(known) {
            return Err(Violation("the peer took packets that were never sent"));
        }
        self.limit = taken.wrapping_add(slots);
        Ok(self.next != self.limit)
    }

    /// Says whether the reader sleeps, and if so takes it upon the caller to wake it.
    #[inline]
    pub(super) fn reader_sleeps(&self) -> bool {
        self.lane.load(Word::Sleeps) != 0 && self.lane.take(Word::Sleeps) != 0
    }

    /// Whether this end sleeps and waits for room.
    pub(super) fn wait(&self, waits: bool) {
        self.lane.store(Word::Waits, waits.into());
    }
}

/// The end that packets are taken out of.
#[derive(Debug)]
pub(super) struct Receiver {
    lane: Lane,
    /// Number of the next packet.
    next: u32,
}

impl Receiver {
    pub(super) fn new(lane: Lane) -> Receiver {
        Receiver { lane, next: 0 }
    }

    /// Shows up to `most` packets; returns how many.
    #[inline]
    pub(super) fn receive(
        &mut self,
        most: usize,
        mut each: impl FnMut(&Arrived<'_>),
    ) -> Result<usize, Violation> {
        let (mut count, mut outcome) = (0, Ok(()));
        while count < most {
            let mark = self.lane.mark(self.next);
            if (mark >> 32) as u32 != self.next.wrapping_add(1) {
                break;
            }
            let len = (mark & 0xFFFF_FFFF) as usize;
            if !(SHORTEST..=LONGEST).contains(&len) {
                outcome = Err(Violation("a packet of an impossible length"));
                break;
            }
            each(&Arrived { lane: &self.lane, index: self.next, len, front: self.lane.front(self.next) });
            self.next = self.next.wrapping_add(1);
            count += 1;
        }
        if count > 0 {
            self.lane.store(Word::Taken, self.next);
        }
        outcome.map(|()| count)
    }

    /// Whether there is a packet.
    pub(super) fn has_packet(&self) -> bool {
        (self.lane.mark(self.next) >> 32) as u32 == self.next.wrapping_add(1)
    }

    /// Whether this end sleeps.
    pub(super) fn sleep(&self, sleeps: bool) {
        self.lane.store(Word::Sleeps, sleeps.into());
    }

    /// Says whether the writer sleeps and waits for room, and if so takes it upon the caller to wake it.
    #[inline]
    pub(super) fn writer_waits(&self) -> bool {
        self.lane.load(Word::Waits) != 0 && self.lane.take(Word::Waits) != 0
    }
}

/// A packet in its slot.
#[derive(Debug)]
pub struct Arrived<'a> {
    lane: &'a Lane,
    index: u32,
    len: usize,
    front: [u8; FRONT],
}

impl Packet for Arrived<'_> {
    type Payload<'a>
        = InPlace<'a>
    where
        Self: 'a;

    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn front(&self) -> &[u8; FRONT] {
        &self.front
    }

    #[inline]
    fn payload(&self, range: Range<usize>) -> InPlace<'_> {
        let (area, at, most) = match self.len {
            ..=INLINE => (Area::Slot, range.start.min(INLINE), INLINE),
            _ => (Area::Page, 0, PAGE),
        };
        // Headers that do not fit the length leave less than they say.
        let len = range.end.saturating_sub(range.start).min(most - at);
        InPlace { lane: self.lane, index: self.index, area, at, len }
    }
}

/// A payload in its slot or page.
#[derive(Debug)]
pub struct InPlace<'a> {
    lane: &'a Lane,
    index: u32,
    area: Area,
    at: usize,
    len: usize,
}

impl Payload for InPlace<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn copy(&self, at: usize, into: &mut [u8]) {
        let within = self.lane.read(self.index, self.area, self.at + at, into);
        debug_assert!(within, "{} bytes at {at} of {}", into.len(), self.len);
    }
}
