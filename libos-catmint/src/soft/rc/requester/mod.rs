//! The side that asks: sends what was posted, takes the answers, and sends again what seems lost.
//!
//! ```text
//!   una            next            top            end
//!    │ under way    │ to send again │ never sent   │
//!    └ works.front  └ works[cursor] └ may be answered up to here
//! ```
//!
//! Invariants: `una ≤ next ≤ end` and `una ≤ top`; `una` is in the first work, or both are at the end; `next` is
//! in `works[cursor]`. Works end in order, each exactly once. What is answered that was not asked for changes nothing.
//!
//! The responder acknowledges when it is asked to. That is done with the last packet of a work of which an event is wanted, of
//! every [`ask_every`](Params::ask_every)th message, when the queue or the window runs short, and by sending the last
//! packet once more when nothing has been heard for a while.

mod input;
mod output;
mod timers;

use std::collections::VecDeque;

use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::super::wire::{Psn, Tail};
use super::store::{Piece, Store};
use super::work::{Kind, Work};
use super::{Counters, MAX_LEN, Params};
use crate::device::{Atomic, Event, Fault, HEAD_MAX, NoRoom, Remote, Then};

/// Most packets of all posted work together: no number may be ahead and behind at once.
const MAX_PACKETS: u32 = 1 << 22;

#[derive(Debug)]
pub(super) struct Requester {
    works: VecDeque<Work>,
    store: Store,
    una: Psn,
    next: Psn,
    top: Psn,
    end: Psn,
    /// Which work `next` is in; their number if it is at the end.
    cursor: usize,
    /// Packets between `una` and `next` that take up room at the peer. Answers do not.
    in_flight: u32,
    /// READs and atomic operations between `una` and `next`.
    answers_due: usize,
    /// Below this number an acknowledgement comes by itself.
    asked: Psn,
    /// Messages since the last that asked.
    since_asked: u32,
    /// Packets since the last that asked.
    unasked: u32,
    /// Send the last packet once more.
    probe: bool,
    /// Packets are missing at `una`, and that was acted on.
    went_back: bool,
    timer: Option<Instant>,
    /// The peer had no receive: until then.
    paused: Option<Instant>,
    /// Attempts since something was last acknowledged.
    attempts: u32,
    rnr_attempts: u32,
    pub(super) counters: Counters,
}

impl Requester {
    pub(super) fn new(params: &Params) -> Requester {
        let start = params.send_psn;
        Requester {
            works: VecDeque::with_capacity(params.depth),
            store: Store::new(params.store),
            una: start,
            next: start,
            top: start,
            end: start,
            cursor: 0,
            in_flight: 0,
            answers_due: 0,
            asked: start,
            since_asked: 0,
            unasked: 0,
            probe: false,
            went_back: false,
            timer: None,
            paused: None,
            attempts: 0,
            rnr_attempts: 0,
            counters: Counters::default(),
        }
    }

    /// How many more works can be posted at least, unless they are of many packets.
    pub(super) fn room(&self, params: &Params) -> usize {
        if self.end.since(self.una) >= MAX_PACKETS { 0 } else { params.depth - self.works.len() }
    }

    pub(super) fn send(
        &mut self,
        params: &Params,
        tail: Tail,
        head: &[u8],
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let (small, len, data) = self.stored(params, head, data)?;
        self.post(params, Kind::Send { tail, small, data }, len, then);
        Ok(())
    }

    pub(super) fn write(
        &mut self,
        params: &Params,
        to: Remote,
        data: SgArray,
        then: Then,
    ) -> Result<(), SgArray> {
        let (small, len, data) = self.stored(params, &[], data)?;
        self.post(params, Kind::Write { to, small, data }, len, then);
        Ok(())
    }

    pub(super) fn write_word(
        &mut self,
        params: &Params,
        to: Remote,
        word: u64,
        then: Then,
    ) -> Result<(), NoRoom> {
        if !self.fits(params, 8) {
            return Err(NoRoom);
        }
        let (small, bytes) = self.store.put(8).ok_or(NoRoom)?;
        bytes.copy_from_slice(&word.to_ne_bytes());
        self.post(params, Kind::Write { to, small, data: SgArray::new() }, 8, then);
        Ok(())
    }

    pub(super) fn read(
        &mut self,
        params: &Params,
        from: Remote,
        into: BufMut,
        cookie: u64,
    ) -> Result<(), BufMut> {
        if !self.fits(params, into.len()) {
            return Err(into);
        }
        let len = into.len();
        self.post(params, Kind::Read { from, into }, len, Then::Tell(cookie));
        Ok(())
    }

    pub(super) fn atomic(
        &mut self,
        params: &Params,
        on: Remote,
        op: Atomic,
        cookie: u64,
    ) -> Result<(), NoRoom> {
        if !self.fits(params, 8) {
            return Err(NoRoom);
        }
        self.post(params, Kind::Atomic { on, op }, 8, Then::Tell(cookie));
        Ok(())
    }

    /// Copies the head, and the data with it if there are few. What is to be referred to is given back.
    fn stored(
        &mut self,
        params: &Params,
        head: &[u8],
        data: SgArray,
    ) -> Result<(Piece, usize, SgArray), SgArray> {
        let len = head.len() + data.len();
        if head.len() > HEAD_MAX || !self.fits(params, len) {
            return Err(data);
        }
        let inline = len <= params.inline;
        let Some((small, bytes)) = self.store.put(if inline { len } else { head.len() }) else {
            return Err(data);
        };
        let (front, rest) = bytes.split_at_mut(head.len());
        front.copy_from_slice(head);
        if !inline {
            return Ok((small, len, data));
        }
        data.copy_to(rest);
        Ok((small, len, SgArray::new()))
    }

    #[inline]
    fn fits(&self, params: &Params, len: usize) -> bool {
        len <= MAX_LEN && self.room(params) > 0
    }

    #[inline]
    fn post(&mut self, params: &Params, kind: Kind, len: usize, then: Then) {
        let packets = params.packets(len);
        self.works.push_back(Work { kind, len, first: self.end, packets, then });
        self.end += packets;
    }

    /// Ends all work: the first with this fault, the others as flushed.
    pub(super) fn fail(&mut self, params: &Params, fault: Fault, events: &mut Vec<Event>) {
        let mut why = fault;
        while let Some(work) = self.works.pop_front() {
            events.extend(work.end(params.qp, Err(why), &mut self.store));
            why = Fault::Flushed;
        }
        self.una = self.end;
        self.top = self.end;
        self.go_back();
        (self.timer, self.paused) = (None, None);
    }
}
