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

use std::collections::VecDeque;
use std::time::Duration;

use demi_api::memalloc::BufMut;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::super::link::Payload;
use super::super::wire::{Header, MAX_HEADER_LEN, NakCode, Operation, Psn, RnrTimer, Syndrome, Tail};
use super::store::{Piece, Store};
use super::work::{Kind, Work};
use super::{MAX_LEN, Params, Sink};
use crate::device::{Atomic, Event, Fault, HEAD_MAX, NoRoom, Remote, Then};

/// Most packets of all posted work together: no number may be ahead and behind at once.
const MAX_PACKETS: u32 = 1 << 22;
/// How often the time between two attempts doubles.
const MAX_BACKOFF: u32 = 5;

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

    /// Whether [`transmit`](Requester::transmit) would send something.
    pub(super) fn is_ready(&self, params: &Params) -> bool {
        self.paused.is_none() && (self.probe || self.sendable(params).is_some())
    }

    /// The work whose turn it is, if it may go out now.
    #[inline]
    fn sendable(&self, params: &Params) -> Option<&Work> {
        let work = self.works.get(self.cursor)?;
        let may = if work.is_answered() {
            self.answers_due < params.initiator_depth
        } else {
            self.in_flight < params.window
        };
        may.then_some(work)
    }

    /// Sends what may be sent, as long as there is `budget`.
    pub(super) fn transmit(
        &mut self,
        params: &Params,
        now: Instant,
        sink: &mut impl Sink,
        budget: &mut usize,
    ) {
        if self.paused.is_some() {
            return;
        }
        let was_asked = self.asked;
        let probed = !self.probe || self.resend_last(params, sink);
        while probed && *budget > 0 && self.sendable(params).is_some() && self.send_next(params, sink) {
            *budget -= 1;
        }
        // Also when the link takes nothing, so that a peer that takes nothing is noticed.
        if self.una != self.end && (self.timer.is_none() || self.asked > was_asked) {
            self.arm(params, now);
        }
    }

    /// Sends the packet at `next`, or asks for the answer from there on. False: the link takes no more.
    #[inline]
    fn send_next(&mut self, params: &Params, sink: &mut impl Sink) -> bool {
        let work = &self.works[self.cursor];
        let index = self.next.since(work.first);
        let answered = work.is_answered();
        let is_last = answered || index + 1 == work.packets;
        let after = if answered { work.last() + 1 } else { self.next + 1 };
        let ask = answered
            || 2 * (self.unasked + 1) >= params.window
            || after == self.top
            || is_last && (matches!(work.then, Then::Tell(_)) || self.since_asked + 1 >= params.ask_every());
        let operation = work.operation(index, params.mtu);
        let payload = work.payload(index, params.mtu, &self.store);
        if !emit(params, self.next, operation, ask, &payload, sink) {
            return false;
        }
        if answered {
            self.answers_due += 1;
        } else {
            self.in_flight += 1;
        }
        if ask {
            self.asked = after;
            (self.since_asked, self.unasked) = (0, 0);
        } else {
            self.unasked += 1;
            self.since_asked += u32::from(is_last);
        }
        self.next = after;
        if self.top < after {
            self.top = after;
        }
        self.cursor += usize::from(is_last);
        true
    }

    /// Sends the last packet once more, and asks whether all have arrived. False: the link takes no more.
    #[cold]
    fn resend_last(&mut self, params: &Params, sink: &mut impl Sink) -> bool {
        self.probe = false;
        if self.next == self.una {
            return true;
        }
        let psn = self.next - 1;
        // `next` is in the work at the cursor, or at its beginning.
        let holder = self.works.iter().take(self.cursor + 1).rev().find(|work| work.first <= psn);
        let Some(work) = holder.filter(|work| !work.is_answered()) else { return true };
        let index = psn.since(work.first);
        let payload = work.payload(index, params.mtu, &self.store);
        let sent = emit(params, psn, work.operation(index, params.mtu), true, &payload, sink);
        self.probe = !sent;
        if sent {
            self.asked = self.next;
            (self.since_asked, self.unasked) = (0, 0);
        }
        sent
    }

    /// Takes an answer in. An error is the end of the queue pair.
    pub(super) fn answer(
        &mut self,
        params: &Params,
        now: Instant,
        header: &Header,
        payload: &impl Payload,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        let psn = header.psn;
        // What was not asked for, or was answered before.
        if psn < self.una || psn >= self.top {
            return Ok(());
        }
        let before = self.una;
        match header.operation {
            Operation::Acknowledge(aeth) => match aeth.syndrome {
                Syndrome::Ack { .. } => {
                    if !self.complete_until(params, psn + 1, events) {
                        self.go_back_once();
                    }
                }
                Syndrome::RnrNak(timer) => {
                    if self.complete_until(params, psn, events) {
                        self.pause(params, now, timer)?;
                    } else {
                        self.go_back_once();
                    }
                }
                Syndrome::Nak(NakCode::Sequence) => {
                    self.complete_until(params, psn, events);
                    self.go_back_once();
                }
                Syndrome::Nak(code) => {
                    self.complete_until(params, psn, events);
                    return Err(match code {
                        NakCode::RemoteAccess => Fault::RemoteAccess,
                        NakCode::Sequence | NakCode::InvalidRequest | NakCode::RemoteOperation => {
                            Fault::RemoteOperation
                        }
                    });
                }
            },
            Operation::ReadFirst(aeth) | Operation::ReadLast(aeth) | Operation::ReadOnly(aeth) => {
                if !matches!(aeth.syndrome, Syndrome::Ack { .. }) {
                    return Err(Fault::RemoteOperation);
                }
                self.take_read(params, psn, payload, events)?;
            }
            Operation::ReadMiddle => self.take_read(params, psn, payload, events)?,
            Operation::AtomicAcknowledge(_, found) => self.take_atomic(params, psn, found, events)?,
            Operation::SendFirst
            | Operation::SendMiddle
            | Operation::SendLast(_)
            | Operation::SendOnly(_)
            | Operation::WriteFirst(_)
            | Operation::WriteMiddle
            | Operation::WriteLast(_)
            | Operation::WriteOnly(..)
            | Operation::ReadRequest(_)
            | Operation::CompareSwap(_)
            | Operation::FetchAdd(_)
            | Operation::Datagram(_) => {}
        }
        if self.una != before {
            self.timer = None;
            if self.una != self.end {
                self.arm(params, now);
            }
        }
        Ok(())
    }

    /// Part of what is read.
    fn take_read(
        &mut self,
        params: &Params,
        psn: Psn,
        payload: &impl Payload,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        if !self.complete_until(params, psn, events) {
            // Parts before it are missing.
            self.go_back_once();
            return Ok(());
        }
        let Some(Work { kind: Kind::Read { into, .. }, len, first, packets, .. }) = self.works.front_mut()
        else {
            return Err(Fault::RemoteOperation);
        };
        let at = psn.since(*first) as usize * params.mtu;
        let part = params.mtu.min(*len - at);
        if payload.len() != part {
            return Err(Fault::RemoteOperation);
        }
        payload.copy(0, &mut into[at..at + part]);
        let is_last = psn.since(*first) + 1 == *packets;
        self.advance(psn + 1);
        if is_last {
            self.end_answered(params, events, None);
        }
        Ok(())
    }

    fn take_atomic(
        &mut self,
        params: &Params,
        psn: Psn,
        found: u64,
        events: &mut Vec<Event>,
    ) -> Result<(), Fault> {
        if !self.complete_until(params, psn, events) {
            self.go_back_once();
            return Ok(());
        }
        let Some(Work { kind: Kind::Atomic { .. }, .. }) = self.works.front() else {
            return Err(Fault::RemoteOperation);
        };
        self.advance(psn + 1);
        self.end_answered(params, events, Some(found));
        Ok(())
    }

    /// Takes the first work off, whose answer is complete.
    fn end_answered(&mut self, params: &Params, events: &mut Vec<Event>, found: Option<u64>) {
        if self.cursor > 0 {
            self.cursor -= 1;
            self.answers_due -= 1;
        }
        let Some(work) = self.works.pop_front() else { return };
        match found {
            Some(found) => {
                let cookie = work.cookie();
                events.push(Event::Fetched { qp: params.qp, cookie, result: Ok(found) });
            }
            None => events.extend(work.end(params.qp, Ok(()), &mut self.store)),
        }
    }

    /// Everything before `until` has arrived. False if an answer is missing in between, which then is at `una`.
    #[inline]
    fn complete_until(&mut self, params: &Params, until: Psn, events: &mut Vec<Event>) -> bool {
        while self.una < until {
            let Some(work) = self.works.front() else { return false };
            if work.is_answered() {
                return false;
            }
            let after = work.last() + 1;
            let reached = if until < after { until } else { after };
            let sent = if self.next < reached { self.next } else { reached };
            self.in_flight -= if sent > self.una { sent.since(self.una) } else { 0 };
            self.advance(reached);
            if reached == after {
                let Some(work) = self.works.pop_front() else { return false };
                events.extend(work.end(params.qp, Ok(()), &mut self.store));
                self.cursor = self.cursor.saturating_sub(1);
            }
        }
        true
    }

    /// All before `una` has arrived, and need not be sent again.
    #[inline]
    fn advance(&mut self, una: Psn) {
        self.una = una;
        if self.next < una {
            self.next = una;
        }
        (self.attempts, self.rnr_attempts, self.went_back) = (0, 0, false);
    }

    /// Something at `una` is lost: sends from there on, unless that has been done already.
    fn go_back_once(&mut self) {
        if !self.went_back {
            self.went_back = true;
            self.go_back();
        }
    }

    fn go_back(&mut self) {
        self.next = self.una;
        self.asked = self.una;
        self.cursor = 0;
        self.in_flight = 0;
        self.answers_due = 0;
        (self.since_asked, self.unasked) = (0, 0);
        self.probe = false;
    }

    /// The peer has no receive.
    fn pause(&mut self, params: &Params, now: Instant, timer: RnrTimer) -> Result<(), Fault> {
        // Once for each time that it was sent.
        if self.next == self.una {
            return Ok(());
        }
        self.rnr_attempts += 1;
        if params.rnr_retries < 7 && self.rnr_attempts > params.rnr_retries.into() {
            return Err(Fault::NotReady);
        }
        self.attempts = 0;
        self.timer = None;
        self.paused = Some(now + timer.duration());
        self.go_back();
        Ok(())
    }

    fn arm(&mut self, params: &Params, now: Instant) {
        let wait = if self.is_unasked() { params.probe } else { self.patience(params) };
        self.timer = Some(now + wait);
    }

    /// Whether all that is under way is such that the peer need not acknowledge it.
    fn is_unasked(&self) -> bool {
        self.next > self.una && self.asked <= self.una
    }

    fn patience(&self, params: &Params) -> Duration {
        params.timeout * (1 << self.attempts.min(MAX_BACKOFF))
    }

    /// When [`tick`](Requester::tick) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.paused.or(self.timer)
    }

    /// Looks at the timers. An error is the end of the queue pair.
    pub(super) fn tick(&mut self, params: &Params, now: Instant) -> Result<(), Fault> {
        if let Some(until) = self.paused {
            if now >= until {
                self.paused = None;
            }
            return Ok(());
        }
        if self.timer.is_none_or(|timer| now < timer) {
            return Ok(());
        }
        self.timer = None;
        if self.is_unasked() {
            self.probe = true;
            return Ok(());
        }
        if self.attempts >= params.retries.into() {
            return Err(Fault::Timeout);
        }
        self.attempts += 1;
        self.went_back = false;
        self.go_back();
        Ok(())
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

/// False: the link takes no more.
#[inline]
fn emit(
    params: &Params,
    psn: Psn,
    operation: Operation,
    ask: bool,
    payload: &[&[u8]],
    sink: &mut impl Sink,
) -> bool {
    let mut header = Header::new(params.remote, psn, operation);
    header.ack_request = ask;
    let mut out = [0; MAX_HEADER_LEN];
    let bytes = payload.iter().map(|piece| piece.len()).sum();
    let len = header.emit(bytes, &mut out);
    sink.packet(&out[..len], payload)
}
