//! The segment that nearly every one is: the next in order, on a connection where nothing is missing and nobody is
//! leaving. After Van Jacobson's header prediction.
//!
//! Invariant: what is done here is what [`Connection::receive`] does with the same segment; whatever there could be a
//! question about is left to that.

use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::congestion::Acked;
use super::conn::{Connection, Fin, Io, LossTimer, State, Timer};
use super::input::{CONFIRM, CONGESTION_EXPERIENCED, of};
use super::rack::Reordering;
use super::segment::{Flags, Segment};
use super::seq::SeqNum;

/// What there is to know of a segment that acknowledges, and has no other flag that matters and no option but timestamps.
pub(super) struct Next {
    pub(super) seq: SeqNum,
    pub(super) ack: SeqNum,
    pub(super) window: u16,
    pub(super) timestamps: Option<(u32, u32)>,
    /// Bytes of text.
    pub(super) len: u32,
    /// With PSH.
    pub(super) pushed: bool,
}

impl Connection {
    /// Takes the segment, if it is such a one. False: nothing was done.
    #[inline]
    pub(super) fn receive_expected(
        &mut self,
        io: &mut Io<'_, '_>,
        segment: &mut Segment<'_>,
        ecn: u8,
    ) -> bool {
        let next = Next {
            seq: segment.seq,
            ack: segment.ack,
            window: segment.window,
            timestamps: segment.options.timestamps,
            len: segment.len as u32,
            pushed: segment.flags.has(Flags::PSH),
        };
        let plain = segment.flags.0 & !Flags::PSH.0 == Flags::ACK.0 && segment.options.sacks.is_empty();
        let expected = plain && self.expects(&next, ecn);
        if expected {
            self.take_expected(io, &next, segment.payload);
        }
        expected
    }

    /// Whether the segment is such a one.
    #[inline(always)]
    pub(super) fn expects(&self, next: &Next, ecn: u8) -> bool {
        debug_assert!(!self.calm || self.is_calm(), "whoever changes that says so: {self:?}");
        self.calm
            && self.window > 0
            && next.seq == self.rcv_nxt
            && next.len <= self.rcv_right - self.rcv_nxt
            && self.una <= next.ack
            && next.ack <= self.nxt
            // One that says nothing new may be a duplicate that says something.
            && (next.len > 0 || next.ack != self.una)
            // An acknowledgement that has overtaken it may have told of a newer window.
            && self.wl1 <= next.seq
            && ecn != CONGESTION_EXPERIENCED
            && self.is_young(next)
    }

    /// RFC 7323 §5.3: whether the timestamp is there as agreed and not old.
    #[inline]
    fn is_young(&self, next: &Next) -> bool {
        match (&self.timestamps, next.timestamps) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some((value, _))) => value.wrapping_sub(ours.recent).cast_signed() >= 0,
        }
    }

    /// Takes the segment, which was asked about.
    #[inline(never)]
    pub(super) fn take_expected(&mut self, io: &mut Io<'_, '_>, next: &Next, payload: &mut SgArray) {
        let now = io.cx.now;
        // RFC 7323 §4.3.
        if let (Some(ours), Some((value, _))) = (&mut self.timestamps, next.timestamps)
            && next.seq <= self.acked_to
        {
            (ours.recent, ours.recent_at) = (value, now);
        }
        self.heard_at = now;
        // Before what is acknowledged: into a closed window goes no probe for a lost tail.
        self.window = u32::from(next.window) << self.send_shift;
        self.max_window = self.max_window.max(self.window);
        (self.wl1, self.wl2) = (next.seq, next.ack);
        if self.window > 0 {
            self.set_timer(Timer::Persist, None);
        }
        if next.ack != self.una {
            self.take_ack(io, next.ack);
        }
        if next.len > 0 {
            self.take_text(io, payload, next.len);
        }
        if self.send.unsent() > 0 || self.flight.has_lost() {
            self.output(io);
        } else if !self.free {
            self.free = self.is_free();
        }
        if next.len > 0 && self.acked_to != self.rcv_nxt {
            self.plan_ack(io, next.pushed);
        }
    }

    /// Nothing is missing either way, and neither side is on its way out.
    #[inline(always)]
    pub(super) fn is_calm(&self) -> bool {
        // Together, as each is true of nearly every segment.
        let amiss = self.detached | self.read_shut | self.peer_fin.is_some() | (self.duplicate_acks != 0);
        self.state == State::Established
            && !amiss
            && self.fin == Fin::No
            && !self.flight.is_holed()
            && self.reassembly.is_empty()
            && self.congestion.is_open()
            && self.rack.may_probe()
            && self.loss_timer != LossTimer::Reordering
    }

    #[inline(always)]
    fn take_ack(&mut self, io: &mut Io<'_, '_>, ack: SeqNum) {
        let now = io.cx.now;
        let count = ack - self.una;
        let sent_at = match self.flight.ack_first(ack) {
            Some(sent) => {
                self.rack.on_delivered(of(&sent), now, None);
                Some(sent.at).filter(|_| !sent.late)
            }
            None => self.take_several(ack, now),
        };
        self.una = ack;
        self.send.ack(io.cx, count.into());
        if now.as_nanos().saturating_sub(self.progress_at.as_nanos()) > CONFIRM {
            io.ip.confirm(now, &self.path);
        }
        self.rtt.reset_backoff();
        self.retries = 0;
        self.progress_at = now;
        let sample = sent_at.and_then(|at| self.measured(io, at));
        let before = self.flight.pipe() + count;
        if let Some(sample) = sample {
            self.sample(sample, before);
        }
        self.congestion.on_ack(&Acked {
            now,
            acked: count,
            in_flight: before,
            rtt: sample,
            srtt: self.rtt.srtt_nanos(),
            cwnd_limited: self.is_held_back(before),
            snd_una: self.una,
            snd_nxt: self.nxt,
        });
        if self.flight.is_empty() {
            // Nothing is left that could be lost.
            return self.set_timer(Timer::Loss, None);
        }
        self.watch_flight(io, count);
    }

    /// What is still under way after so much was acknowledged: whether anything of it is lost, and until when to wait.
    #[inline(never)]
    fn watch_flight(&mut self, io: &mut Io<'_, '_>, count: u32) {
        let now = io.cx.now;
        if self.sack {
            self.rack.update_reo_wnd(&Reordering {
                una: self.una,
                nxt: self.nxt,
                dsack: false,
                in_recovery: false,
                exits_recovery: false,
                segs_sacked: 0,
                min_rtt: self.rtt.min_rtt(),
                srtt: self.rtt.srtt(),
            });
            self.detect_losses(io, true);
            if self.congestion.in_recovery() {
                // RFC 9937 §6: what the acknowledgement has delivered that recovery begins with counts as well.
                self.congestion.on_delivered(count);
            }
        }
        self.arm_loss_timer(now);
        // What else they depend on is as it was.
        self.calm =
            !self.flight.is_holed() && self.congestion.is_open() && self.loss_timer != LossTimer::Reordering;
        self.free &= self.calm;
    }

    /// Takes what is acknowledged, but for a single segment, off the flight. When the newest of those was sent that were
    /// sent once, if that is known.
    #[inline(never)]
    fn take_several(&mut self, ack: SeqNum, now: Instant) -> Option<Instant> {
        let (mut last, mut newest_once) = (None, None);
        let (rack, min_rtt) = (&mut self.rack, self.rtt.min_rtt_nanos());
        self.flight.ack(ack, |sent| {
            // Of those that were sent once, in their order, the last says all that the others would.
            let before = if sent.retransmitted { last.take() } else { last.replace(*sent) };
            if !sent.retransmitted {
                newest_once = Some(sent.at).filter(|_| !sent.late).or(newest_once);
                return;
            }
            if let Some(before) = &before {
                rack.on_delivered(of(before), now, min_rtt);
            }
            rack.on_delivered(of(sent), now, min_rtt);
        });
        if let Some(sent) = &last {
            rack.on_delivered(of(sent), now, min_rtt);
        }
        newest_once
    }

    #[inline(always)]
    fn take_text(&mut self, io: &mut Io<'_, '_>, payload: &mut SgArray, len: u32) {
        match self.received.whole_pop(len as usize) {
            Some(token) => {
                self.rcv_nxt += len;
                io.cx.done.post_popped(token, payload);
            }
            None if self.has_to_refuse(io, 0) => {}
            None => {
                self.rcv_nxt += len;
                self.deliver(io.cx.heap, payload);
                self.serve_pops(io);
            }
        }
    }
}
