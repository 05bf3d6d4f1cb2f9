//! The segment that nearly every one is: the next in order, on a connection where nothing is missing and nobody is
//! leaving. After Van Jacobson's header prediction.
//!
//! Invariant: what is done here is what [`Connection::receive`] does with the same segment; whatever there could be a
//! question about is left to that.

use demi_api::op::Done;

use super::congestion::Acked;
use super::conn::{Connection, Fin, Io, LossTimer, State, Timer};
use super::input::{CONFIRM, CONGESTION_EXPERIENCED, of};
use super::rack::Reordering;
use super::segment::{Flags, Segment};

impl Connection {
    /// Takes the segment, if it is such a one. False: nothing was done.
    #[inline]
    pub(super) fn receive_expected(
        &mut self,
        io: &mut Io<'_, '_>,
        segment: &mut Segment<'_>,
        ecn: u8,
    ) -> bool {
        let (ack, len) = (segment.ack, segment.len as u32);
        let pushed = segment.flags.has(Flags::PSH);
        let plain = segment.flags.0 & !Flags::PSH.0 == Flags::ACK.0
            && segment.seq == self.rcv_nxt
            && len <= self.rcv_right - self.rcv_nxt
            && self.una <= ack
            && ack <= self.nxt
            // One that says nothing new may be a duplicate that says something.
            && (len > 0 || ack != self.una)
            // An acknowledgement that has overtaken it may have told of a newer window.
            && self.wl1 <= segment.seq
            && segment.options.sacks.is_empty()
            && ecn != CONGESTION_EXPERIENCED
            && self.is_calm();
        if !plain || !self.takes_timestamp(io, segment) {
            return false;
        }
        self.heard_at = io.cx.now;
        // Before what is acknowledged: into a closed window goes no probe for a lost tail.
        self.window = u32::from(segment.window) << self.send_shift;
        self.max_window = self.max_window.max(self.window);
        (self.wl1, self.wl2) = (segment.seq, ack);
        if self.window > 0 {
            self.set_timer(Timer::Persist, None);
        }
        if ack != self.una {
            self.take_ack(io, segment);
        }
        if len > 0 {
            self.take_text(io, segment, len);
        }
        if self.send.unsent() > 0 || self.flight.has_lost() {
            self.output(io);
        }
        if len > 0 && self.acked_to != self.rcv_nxt {
            self.plan_ack(io, pushed);
        }
        true
    }

    /// Nothing is missing either way, no window is closed that could open, and neither side is on its way out.
    #[inline]
    fn is_calm(&self) -> bool {
        self.state == State::Established
            && self.window > 0
            && self.fin == Fin::No
            && self.peer_fin.is_none()
            && !self.detached
            && !self.read_shut
            && self.duplicate_acks == 0
            && self.una != self.iss
            && !self.flight.is_holed()
            && self.reassembly.is_empty()
            && self.congestion.is_open()
            && self.rack.may_probe()
            && self.loss_timer != LossTimer::Reordering
    }

    /// RFC 7323 §4.3 and §5.3: whether the timestamp is there as agreed and not old; notes it.
    #[inline]
    fn takes_timestamp(&mut self, io: &Io<'_, '_>, segment: &Segment<'_>) -> bool {
        match (&mut self.timestamps, segment.options.timestamps) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some((value, _))) => {
                if value.wrapping_sub(ours.recent).cast_signed() < 0 {
                    return false;
                }
                if segment.seq <= self.acked_to {
                    (ours.recent, ours.recent_at) = (value, io.cx.now);
                }
                true
            }
        }
    }

    #[inline]
    fn take_ack(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) {
        let (ack, now) = (segment.ack, io.cx.now);
        let count = ack - self.una;
        let mut last = self.flight.ack_first(ack);
        let mut newest_once = last.as_ref().filter(|sent| !sent.late).map(|sent| sent.at);
        let (rack, min_rtt) = (&mut self.rack, self.rtt.min_rtt());
        if last.is_none() {
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
        }
        if let Some(sent) = &last {
            rack.on_delivered(of(sent), now, min_rtt);
        }
        self.una = ack;
        self.send.ack(io.cx, count.into());
        if now.as_nanos().saturating_sub(self.progress_at.as_nanos()) > CONFIRM {
            io.ip.confirm(now, &self.path);
        }
        self.rtt.reset_backoff();
        self.retries = 0;
        self.progress_at = now;
        let sample = newest_once.and_then(|at| self.measured(io, at));
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
    }

    #[inline]
    fn take_text(&mut self, io: &mut Io<'_, '_>, segment: &mut Segment<'_>, len: u32) {
        self.rcv_nxt += len;
        match self.received.whole_pop(len as usize) {
            Some(token) => io.cx.done.post(token, Ok(Done::Popped(std::mem::take(segment.payload)))),
            None => {
                self.deliver(io.cx.heap, segment.payload);
                self.serve_pops(io);
            }
        }
    }
}
