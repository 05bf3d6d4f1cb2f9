//! The send queue of one queue pair: what is posted, and what is kept for it until it is done.
//!
//! Invariants: postings have consecutive numbers, in the order in which they take effect, and are done in that order:
//! the completion of one says that all before it went well, or were told of. `done ≤ posted ≤ next`, and at most as many as
//! there are places lie between the first and the last. What the device may read or write lies in its posting's place
//! until that is done, or the queue pair destroyed.
//!
//! Completions are asked for by those that want to tell, and otherwise by one in [`EVERY`]th of the places, and by the one
//! that leaves no room: so room comes back by a completion, which can be slept for. Where memory of the heap was posted
//! quietly, the last of what is handed over together asks for one, so that it comes back also if nothing follows.

#[allow(unsafe_code, reason = "each block states its proof")]
pub(super) mod raw;

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use rdma_sys::ibv_qp;
use rustix::io::{Errno, Result};

use self::raw::{How, Requests, Segment, Work};
use super::counters::Counters;
use super::domain::raw::Domain;
use super::memory::Shared;
use crate::device::{Access, HEAD_MAX, Then};

/// Bytes of each place for a head, a small message, a word.
pub(super) const STRIDE: usize = HEAD_MAX;

/// A completion is asked for at least once in this part of the places.
const EVERY: u32 = 4;

/// What is kept for a posting.
pub(super) enum Held {
    /// Nothing, and nothing is told.
    Nothing,
    /// What was sent or written.
    Data { data: SgArray, tell: Option<u64> },
    /// What is read into.
    Read { into: BufMut, cookie: u64 },
    /// What was there before comes into the place.
    Fetch { cookie: u64 },
    /// A grant ends.
    Revoke { grant: u32 },
    /// The last posting of all.
    Mark,
}

/// Postings by their place, which is their number modulo the depth.
pub(super) struct SendQueue {
    requests: Requests,
    held: Box<[Held]>,
    places: Shared,
    /// What completions name the queue pair by: the upper half of their names.
    name: u32,
    next: u32,
    posted: u32,
    done: u32,
    /// The last number whose completion was asked for, plus one.
    signalled: u32,
    /// Whether memory of the heap was posted since.
    is_lent: bool,
    /// Places that are promised to the ends of grants.
    reserved: u32,
}

impl SendQueue {
    pub(super) fn new(domain: &Rc<Domain>, depth: u32, name: u32) -> Result<SendQueue> {
        Ok(SendQueue {
            requests: Requests::new(depth),
            held: (0..depth).map(|_| Held::Nothing).collect(),
            places: Shared::new(domain, depth as usize * STRIDE, Access::default())?,
            name,
            next: 0,
            posted: 0,
            done: 0,
            signalled: 0,
            is_lent: false,
            reserved: 0,
        })
    }

    fn depth(&self) -> u32 {
        self.held.len() as u32
    }

    /// How many more postings there is room for, beside those that are promised, and the mark.
    #[inline]
    pub(super) fn room(&self) -> usize {
        let taken = self.next.wrapping_sub(self.done) + self.reserved + 1;
        self.depth().saturating_sub(taken) as usize
    }

    pub(super) fn reserve(&mut self) {
        self.reserved += 1;
    }

    pub(super) fn unreserve(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Whether something is to be handed over.
    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.posted != self.next
    }

    #[inline]
    fn place(&self, number: u32) -> usize {
        (number & (self.depth() - 1)) as usize
    }

    /// Copies bytes into the next posting's place; the segment that they are then. At most [`STRIDE`] in all.
    #[inline]
    pub(super) fn stage<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Option<Segment> {
        let begin = self.place(self.next) * STRIDE;
        let mut at = begin;
        for part in parts {
            if at + part.len() > begin + STRIDE || !self.places.mapping.copy_in(at, part) {
                return None;
            }
            at += part.len();
        }
        Some(self.staged(begin, (at - begin) as u32))
    }

    /// The first word of the next posting's place, for the device to write to.
    pub(super) fn word(&self) -> Segment {
        self.staged(self.place(self.next) * STRIDE, 8)
    }

    fn staged(&self, at: usize, len: u32) -> Segment {
        Segment { addr: self.places.mapping.address(at), len, key: self.places.registration.local() }
    }

    /// Writes the next posting, which there must be [`room`](SendQueue::room) for, or a promised place.
    #[inline]
    pub(super) fn write(
        &mut self,
        work: Work,
        segments: impl Iterator<Item = Segment>,
        inline: bool,
        held: Held,
        counters: &mut Counters,
    ) {
        let wants = match &held {
            Held::Nothing => false,
            Held::Data { tell, .. } => tell.is_some(),
            Held::Read { .. } | Held::Fetch { .. } | Held::Revoke { .. } | Held::Mark => true,
        };
        let number = self.next;
        self.next = number.wrapping_add(1);
        let is_due = self.next.wrapping_sub(self.signalled) >= self.depth() / EVERY;
        let signalled = wants || is_due || self.room() == 0;
        self.is_lent = !signalled && (self.is_lent || matches!(held, Held::Data { .. }));
        if signalled {
            self.signalled = self.next;
            counters.signalled += 1;
        }
        counters.posts += 1;
        counters.inline_posts += u64::from(inline);
        let name = u64::from(self.name) << 32 | u64::from(number);
        self.requests.write(number, name, work, segments, How { signalled, inline });
        let place = self.place(number);
        self.held[place] = held;
    }

    /// Hands over what was written.
    ///
    /// # Errors
    /// The device's refusal. What it did not take is done as flushed, by [`take`](SendQueue::take), once all else is.
    #[inline]
    pub(super) fn post(
        &mut self,
        qp: NonNull<ibv_qp>,
        counters: &mut Counters,
    ) -> std::result::Result<(), Errno> {
        counters.doorbells += 1;
        if std::mem::take(&mut self.is_lent) {
            self.requests.signal(self.next.wrapping_sub(1));
            self.signalled = self.next;
            counters.signalled += 1;
        }
        match self.requests.post(qp, self.posted, self.next) {
            Ok(()) => {
                self.posted = self.next;
                Ok(())
            }
            Err((taken, errno)) => {
                self.posted = self.posted.wrapping_add(taken);
                Err(errno)
            }
        }
    }

    /// Whether a completion can be of posting `number`.
    #[inline]
    pub(super) fn is_under_way(&self, number: u32) -> bool {
        number.wrapping_sub(self.done) < self.posted.wrapping_sub(self.done)
    }

    /// Takes out the oldest posting that is not done, with its number, if there is one before `end`.
    #[inline]
    pub(super) fn take(&mut self, end: u32) -> Option<(u32, Held)> {
        if self.done == end {
            return None;
        }
        let number = self.done;
        self.done = number.wrapping_add(1);
        let place = self.place(number);
        Some((number, std::mem::replace(&mut self.held[place], Held::Nothing)))
    }

    /// Behind the last posting of all.
    pub(super) fn end(&self) -> u32 {
        self.next
    }

    /// The word in the place of posting `number`, which was just taken out.
    pub(super) fn fetched(&self, number: u32) -> u64 {
        let word = self.places.mapping.word(self.place(number) * STRIDE);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }
}

/// What is kept for data of a posting.
#[inline]
pub(super) fn held(data: SgArray, then: Then) -> Held {
    match then {
        Then::Quiet if data.is_empty() => Held::Nothing,
        Then::Quiet => Held::Data { data, tell: None },
        Then::Tell(cookie) => Held::Data { data, tell: Some(cookie) },
    }
}
