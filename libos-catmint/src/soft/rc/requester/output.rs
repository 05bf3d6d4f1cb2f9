//! Sending: what was posted, in order, as far as window and limits allow, and again from `next` on after a loss.

use demi_api::time::Instant;

use super::super::super::wire::{Header, MAX_HEADER_LEN, Operation, Psn};
use super::super::work::Work;
use super::super::{Params, Sink};
use super::Requester;
use crate::device::Then;

impl Requester {
    /// Whether [`transmit`](Requester::transmit) would send something.
    pub(in super::super) fn is_ready(&self, params: &Params) -> bool {
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
    pub(in super::super) fn transmit(
        &mut self,
        params: &Params,
        now: Instant,
        sink: &mut impl Sink,
        mut budget: usize,
    ) {
        if self.paused.is_some() {
            return;
        }
        let was_asked = self.asked;
        let probed = !self.probe || self.resend_last(params, sink);
        while probed && budget > 0 && self.sendable(params).is_some() && self.send_next(params, sink) {
            budget -= 1;
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
        self.counters.resent += u64::from(self.next < self.top);
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
            self.counters.resent += 1;
            self.asked = self.next;
            (self.since_asked, self.unasked) = (0, 0);
        }
        sent
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
