//! A segment arrives: RFC 9293 §3.10.7, with what RFC 5961 and RFC 7323 add to it.

use std::time::Duration;

use demi_api::error::Error;
use demi_api::op::Done;
use demi_api::sga::SgArray;
use demi_api::time::Instant;

use super::congestion::Acked;
use super::conn::{Connection, Fin, Io, LossTimer, State, Timer};
use super::flight::{Sent, dsack};
use super::rack::{self, Fate, Probe, Reordering};

use super::Ecn;
use super::segment::{Block, Flags, Segment};
use super::seq::SeqNum;

/// RFC 7323 §5.5: TS.Recent is not to be trusted after a connection was idle for so long.
const TIMESTAMP_AGE: Duration = Duration::from_secs(24 * 24 * 3600);

/// How long an acknowledgement waits for data to go with it: RFC 9293 §3.8.6.3 allows 500 ms.
const DELAYED_ACK: Duration = Duration::from_millis(20);

/// Progress after so long a pause, in nanoseconds, shows that the neighbour is still there: RFC 4861 §7.3.1.
pub(super) const CONFIRM: u64 = 1_000_000_000;

/// Bytes that a connection may hold unread however short memory is.
const LEAST_HELD: usize = 8 << 10;

/// ECN field of the IP header: congestion experienced (RFC 3168 §5).
pub(super) const CONGESTION_EXPERIENCED: u8 = 3;

/// What an acknowledgement newly delivered.
#[derive(Clone, Copy, Default)]
struct Delivered {
    /// Sequence numbers, acknowledged cumulatively or selectively.
    count: u32,
    /// When the last of them was sent that was sent once: Karn's algorithm.
    sent_at: Option<Instant>,
    /// What the peer got twice.
    duplicate: Option<Block>,
    /// The acknowledgement says nothing new, and was sent for nothing else: RFC 5681 §2.
    nothing: bool,
}

impl Delivered {
    #[inline]
    fn note(&mut self, sent: &Sent) {
        self.count += sent.len();
        if !sent.retransmitted && !sent.late {
            self.sent_at = self.sent_at.max(Some(sent.at));
        }
    }
}

impl Connection {
    /// Takes a segment for this connection, whatever its state.
    #[inline]
    pub(crate) fn receive(&mut self, io: &mut Io<'_, '_>, mut segment: Segment<'_>, ecn: u8) {
        if !self.receive_expected(io, &mut segment, ecn) {
            self.receive_any(io, segment, ecn);
        }
    }

    fn receive_any(&mut self, io: &mut Io<'_, '_>, mut segment: Segment<'_>, ecn: u8) {
        match self.state {
            State::Closed => return,
            State::SynSent => return self.receive_in_syn_sent(io, segment),
            // The SYN that is known comes again: §3.5, figure 7, with ours acknowledged, where both ends called each other.
            State::SynReceived
                if segment.flags.has(Flags::SYN)
                    && !segment.flags.has(Flags::RST)
                    && segment.seq + 1 == self.rcv_nxt =>
            {
                if !segment.flags.has(Flags::ACK) {
                    self.send_syn(io);
                    return;
                }
                segment.seq += 1;
                segment.flags.0 &= !Flags::SYN.with(Flags::ECE).with(Flags::CWR).0;
                // RFC 7323 §2.2: the window in a SYN is not scaled, and from here on it looks like any other.
                segment.window >>= self.send_shift;
            }
            _ => {}
        }
        // RFC 7323 §5.3 R1: before anything else.
        if !self.passes_paws(io, &segment) {
            return;
        }
        // §3.10.7.4, first: the sequence number.
        if !self.is_acceptable(&segment) {
            return self.refuse(io, &segment);
        }
        // Second: RST, as RFC 5961 §3.2 has it.
        if segment.flags.has(Flags::RST) {
            if segment.seq == self.rcv_nxt {
                self.reset(io);
            } else {
                self.challenge(io);
            }
            return;
        }
        // Fourth: SYN, as RFC 5961 §4.2 has it.
        if segment.flags.has(Flags::SYN) {
            return self.challenge(io);
        }
        // Fifth: ACK.
        if !segment.flags.has(Flags::ACK) {
            return;
        }
        // Not of a guess: it would make the timestamps of all that the peer sends old ones.
        if self.is_plausible(segment.ack) {
            self.note_timestamp(io, &segment);
        }
        if self.state == State::SynReceived {
            if !(self.una < segment.ack && segment.ack <= self.nxt) {
                return self.send_reset_at(io, segment.ack);
            }
            self.establish(io, &segment);
        }
        self.heard_at = io.cx.now;
        // RFC 3168 §6.1.3: the mark of a segment that says CWR is a new one.
        if segment.flags.has(Flags::CWR) {
            self.ece_due = false;
        }
        if ecn == CONGESTION_EXPERIENCED && self.ecn != Ecn::Off {
            io.counters.ecn_marks += 1;
            self.ece_due = true;
        }
        if !self.receive_ack(io, &segment) {
            return;
        }
        if self.state == State::Closed {
            return;
        }
        // Seventh: the segment's text; eighth: FIN.
        let had = self.rcv_nxt;
        let pushed = segment.flags.has(Flags::PSH);
        if segment.len > 0 || segment.flags.has(Flags::FIN) {
            self.receive_text(io, segment);
        }
        if self.state != State::Closed {
            self.output(io);
            if self.rcv_nxt != had && self.acked_to != self.rcv_nxt {
                self.plan_ack(io, pushed);
            }
        }
    }

    /// §3.10.7.3.
    fn receive_in_syn_sent(&mut self, io: &mut Io<'_, '_>, segment: Segment<'_>) {
        let acknowledges = segment.flags.has(Flags::ACK);
        if acknowledges && (segment.ack <= self.iss || segment.ack > self.nxt) {
            if !segment.flags.has(Flags::RST) {
                self.send_reset_at(io, segment.ack);
            }
            return;
        }
        if segment.flags.has(Flags::RST) {
            // RFC 5961 §3.2 does not concern SYN-SENT: only one that acknowledges the SYN counts.
            if acknowledges {
                self.end(io, Error::ConnectionRefused);
            }
            return;
        }
        if !segment.flags.has(Flags::SYN) {
            return;
        }
        self.adopt_options(io, &segment);
        if acknowledges {
            // What our SYN has offered.
            self.rcv_right = self.rcv_nxt + self.settings.recv_buffer.min(u16::MAX.into());
            // RFC 3168 §6.1.1: ECE without CWR in the SYN-ACK agrees.
            self.agree_on_ecn(segment.flags.has(Flags::ECE) && !segment.flags.has(Flags::CWR));
            self.establish(io, &segment);
            self.receive_ack(io, &segment);
        } else {
            self.agree_on_ecn(segment.flags.has(Flags::ECE.with(Flags::CWR)));
            self.state = State::SynReceived;
            self.flight.lose(true);
            self.send_syn(io);
        }
        if segment.len > 0 && self.state == State::Established {
            let text =
                Segment { seq: segment.seq + 1, flags: Flags(segment.flags.0 & !Flags::SYN.0), ..segment };
            self.receive_text(io, text);
        }
        if self.state == State::Established {
            self.output(io);
            if self.acked_to != self.rcv_nxt {
                self.send_ack(io);
            }
        }
    }

    /// RFC 3168 §6.1.1: the peer's SYN agrees, or it does not.
    fn agree_on_ecn(&mut self, agrees: bool) {
        if !agrees {
            self.ecn = Ecn::Off;
        }
    }

    /// The peer's SYN: what both sides know how to do from now on.
    pub(crate) fn adopt_options(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) {
        let options = &segment.options;
        self.rcv_nxt = segment.seq + 1;
        self.acked_to = segment.seq;
        self.rcv_right = self.rcv_nxt;
        self.round_from = self.rcv_nxt;
        let theirs = options.mss.unwrap_or(super::default_mss(self.path.remote()));
        match (options.timestamps, &mut self.timestamps) {
            (Some((value, _)), Some(ours)) => (ours.recent, ours.recent_at) = (value, io.cx.now),
            _ => self.timestamps = None,
        }
        match options.window_scale {
            Some(shift) => self.send_shift = shift,
            None => (self.send_shift, self.recv_shift) = (0, 0),
        }
        self.sack &= options.sack_permitted;
        self.set_mss(theirs);
        // RFC 7323 §2.2: the window in a SYN is never scaled.
        self.window = segment.window.into();
        self.max_window = self.window;
        (self.wl1, self.wl2) = (segment.seq, segment.ack);
    }

    fn establish(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) {
        self.state = match self.fin {
            Fin::No => State::Established,
            Fin::Due | Fin::Sent(_) => State::FinWait1,
        };
        let shift = if segment.flags.has(Flags::SYN) { 0 } else { self.send_shift };
        self.window = u32::from(segment.window) << shift;
        self.max_window = self.max_window.max(self.window);
        (self.wl1, self.wl2) = (segment.seq, segment.ack);
        self.established = true;
        self.progress_at = io.cx.now;
        self.heard_at = io.cx.now;
        self.quick_acks = super::QUICK_ACKS;
        if self.settings.keep_alive {
            self.set_timer(Timer::KeepAlive, Some(io.cx.now + self.settings.keep_idle));
        }
        if let Some(token) = self.connecting.take() {
            io.cx.done.post(token, Ok(Done::Connected));
        }
    }

    /// RFC 7323 §5.3, R1. A segment that lacks the option when it was agreed upon is dropped (§3.2).
    fn passes_paws(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) -> bool {
        let Some(ours) = &self.timestamps else { return true };
        if segment.flags.has(Flags::RST) {
            return true;
        }
        let Some((value, _)) = segment.options.timestamps else {
            io.counters.without_timestamp += 1;
            return false;
        };
        let old = value.wrapping_sub(ours.recent).cast_signed() < 0;
        if old && io.cx.now - ours.recent_at < TIMESTAMP_AGE {
            io.counters.paws_dropped += 1;
            self.challenge(io);
            return false;
        }
        true
    }

    /// RFC 7323 §4.3: TS.Recent comes from the segment that what is acknowledged next begins in.
    #[inline]
    fn note_timestamp(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) {
        if let (Some(ours), Some((value, _))) = (&mut self.timestamps, segment.options.timestamps)
            && segment.seq <= self.acked_to
            && value.wrapping_sub(ours.recent).cast_signed() >= 0
        {
            (ours.recent, ours.recent_at) = (value, io.cx.now);
        }
    }

    /// RFC 5961 §5.2: whether the peer may acknowledge this, now or in a segment that has been under way for long.
    #[inline]
    fn is_plausible(&self, ack: SeqNum) -> bool {
        ack <= self.nxt && ack + self.max_window.max(1 << 16) >= self.una
    }

    /// RFC 9293 §3.10.7.4, table 6.
    #[inline]
    fn is_acceptable(&self, segment: &Segment<'_>) -> bool {
        let window = self.rcv_right - self.rcv_nxt;
        let space = segment.space();
        let inside = |seq: SeqNum| self.rcv_nxt <= seq && seq < self.rcv_right;
        match (space, window) {
            // The right edge too: a peer whose window is used up says so there, whatever of it is still on its way, and
            // what it acknowledges counts (MUST-66). So it does a byte behind that, where a peer is that probes us.
            (0, _) => {
                inside(segment.seq)
                    || segment.seq == self.rcv_right
                    || window == 0 && segment.seq == self.rcv_right + 1
            }
            // MUST-66: what a segment says besides its text counts though the window is closed.
            (_, 0) => segment.seq == self.rcv_nxt,
            _ => inside(segment.seq) || inside(segment.seq + (space - 1)),
        }
    }

    fn refuse(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        // The peer did not get our last acknowledgement: §3.10.7.4, eighth, TIME-WAIT.
        if self.state == State::TimeWait && segment.flags.has(Flags::FIN) {
            self.enter_time_wait(io.cx.now, io.counters.time_wait);
        }
        // RFC 2883 §4: what comes twice is reported.
        if segment.len > 0 && segment.seq < self.rcv_nxt {
            self.reassembly.note_duplicate(segment.seq, segment.seq + segment.len as u32);
            return self.send_ack(io);
        }
        self.challenge(io);
    }

    /// An acceptable RST.
    fn reset(&mut self, io: &mut Io<'_, '_>) {
        io.counters.resets_received += 1;
        let error = match self.state {
            State::SynReceived => Error::ConnectionRefused,
            State::Closing | State::LastAck | State::TimeWait if self.send.len() == 0 => {
                self.state = State::Closed;
                return;
            }
            _ => Error::ConnectionReset,
        };
        self.end(io, error);
    }

    /// §3.10.7.4, fifth, ESTABLISHED. False: the segment is not processed further.
    #[inline]
    fn receive_ack(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>) -> bool {
        if !self.is_plausible(segment.ack) {
            self.challenge(io);
            return false;
        }
        let before = self.una;
        let mut delivered = Delivered::default();
        if segment.ack > self.una {
            self.advance(io, segment.ack, &mut delivered);
        }
        if self.sack && !segment.options.sacks.is_empty() {
            self.receive_sacks(io, segment, &mut delivered);
        }
        let was_closed = self.window == 0;
        let window_moved = self.update_window(segment);
        if was_closed && self.window > 0 && !self.flight.is_empty() {
            // What was sent into a closed window was not taken, and that is no sign of congestion.
            self.flight.lose(true);
            self.retries = 0;
            self.loss_timer = LossTimer::Retransmission;
            self.set_timer(Timer::Loss, Some(io.cx.now + self.rtt.rto()));
        }
        delivered.nothing = before == segment.ack
            && segment.len == 0
            && !window_moved
            // The answer to a probe of a closed window says nothing about the network.
            && self.window > 0
            && !segment.flags.has(Flags::FIN);
        if delivered.nothing && !self.flight.is_empty() {
            self.duplicate_acks = self.duplicate_acks.saturating_add(1);
            io.counters.duplicate_acks += 1;
        } else if segment.ack > before {
            self.duplicate_acks = 0;
        }
        // In a SYN, ECE is about ECN itself.
        if segment.flags.has(Flags::ECE) && self.ecn == Ecn::On && !segment.flags.has(Flags::SYN) {
            self.congestion_experienced(io, before);
        }
        // After the last byte was acknowledged, more may be said of how it arrived.
        let afterwards = delivered.duplicate.is_some() || delivered.nothing && !self.rack.may_probe();
        if delivered.count > 0 || self.duplicate_acks > 0 || afterwards {
            self.digest(io, before, &delivered);
        }
        self.note_fin_acked(io);
        true
    }

    /// SND.UNA moves forward.
    #[inline]
    fn advance(&mut self, io: &mut Io<'_, '_>, ack: SeqNum, delivered: &mut Delivered) {
        let mut count = ack - self.una;
        // The number of the SYN comes round again after four GiB, and is a byte's then.
        let syn = self.una == self.iss && self.send.acked() == 0;
        if syn {
            count -= 1;
        }
        if matches!(self.fin, Fin::Sent(fin) if ack > fin && self.una <= fin) {
            count -= 1;
        }
        let (rack, now, min_rtt) = (&mut self.rack, io.cx.now, self.rtt.min_rtt_nanos());
        self.flight.ack(ack, |sent| {
            delivered.note(sent);
            rack.on_delivered(of(sent), now, min_rtt);
        });
        if syn {
            // Many connections never send more for a long time.
            self.flight.rest();
        }
        self.una = ack;
        self.send.ack(io.cx, count.into());
        if io.cx.now.as_nanos().saturating_sub(self.progress_at.as_nanos()) > CONFIRM {
            io.ip.confirm(io.cx.now, &self.path);
        }
        self.rtt.reset_backoff();
        self.retries = 0;
        self.progress_at = io.cx.now;
    }

    fn receive_sacks(&mut self, io: &mut Io<'_, '_>, segment: &Segment<'_>, delivered: &mut Delivered) {
        let blocks = &segment.options.sacks;
        delivered.duplicate = dsack(blocks, segment.ack);
        let (rack, now, min_rtt) = (&mut self.rack, io.cx.now, self.rtt.min_rtt_nanos());
        self.flight.sack(&blocks[usize::from(delivered.duplicate.is_some())..], |sent| {
            delivered.note(sent);
            rack.on_delivered(of(sent), now, min_rtt);
        });
    }

    /// §3.10.7.4: the send window.
    #[inline]
    fn update_window(&mut self, segment: &Segment<'_>) -> bool {
        if !(self.wl1 < segment.seq || self.wl1 == segment.seq && self.wl2 <= segment.ack) {
            return false;
        }
        // RFC 7323 §2.2: the window in a SYN is not scaled.
        let shift = if segment.flags.has(Flags::SYN) { 0 } else { self.send_shift };
        let window = u32::from(segment.window) << shift;
        let moved = window != self.window;
        self.window = window;
        self.max_window = self.max_window.max(window);
        (self.wl1, self.wl2) = (segment.seq, segment.ack);
        if window > 0 {
            self.set_timer(Timer::Persist, None);
        }
        moved
    }

    /// Takes in a measured round-trip time, in nanoseconds, of which there are as many as so many bytes on the way cause.
    #[inline]
    pub(super) fn sample(&mut self, nanos: u64, in_flight: u32) {
        let pair = 2 * u32::from(self.mss);
        match in_flight {
            few if few <= 2 * pair => self.rtt.sample_nanos(nanos),
            many => self.rtt.sample_one_of(nanos, many / pair),
        }
    }

    /// Whether the congestion window, or pacing by it, holds back what could be sent, with so much on the way.
    #[inline]
    pub(super) fn is_held_back(&self, in_flight: u32) -> bool {
        self.congestion.cwnd() <= in_flight + u32::from(self.mss) || self.timer(Timer::Pace).is_some()
    }

    /// The round-trip time of a segment that bears the time `at`, in nanoseconds, as far as that is known.
    #[inline]
    pub(super) fn measured(&self, io: &Io<'_, '_>, at: Instant) -> Option<u64> {
        let since = |at: Instant| io.cx.now.as_nanos().saturating_sub(at.as_nanos());
        match io.counters.gaps.end(at) {
            None => Some(since(at)),
            Some(end) => self.rtt.nearest(since(end), since(at)),
        }
    }

    /// What an acknowledgement says of the network.
    fn digest(&mut self, io: &mut Io<'_, '_>, before: SeqNum, delivered: &Delivered) {
        let now = io.cx.now;
        let sample = delivered.sent_at.and_then(|at| self.measured(io, at));
        if let Some(sample) = sample {
            self.sample(sample, self.flight.pipe() + delivered.count);
        }
        let in_flight = self.flight.pipe();
        let was_recovering = self.is_recovering();
        if let Some((left, right)) = delivered.duplicate {
            // What was sent twice for nothing was not lost: RFC 3708. This may be the last acknowledgement to say so.
            self.congestion.on_dsack(right - left);
        }
        self.congestion.on_ack(&Acked {
            now,
            // RFC 3042 §2: what is reported out of order does not make the window grow.
            acked: self.una - before,
            in_flight: in_flight + delivered.count,
            rtt: sample,
            srtt: self.rtt.srtt_nanos(),
            cwnd_limited: self.is_held_back(in_flight + delivered.count),
            snd_una: self.una,
            snd_nxt: self.nxt,
        });
        if self.congestion.in_recovery() {
            self.congestion.on_delivered(delivered.count);
        }
        let nothing = delivered.nothing && delivered.count == 0;
        if self.rack.on_ack_of_probe(self.una, delivered.duplicate, nothing) == Probe::Repaired
            && !self.is_recovering()
        {
            // RFC 8985 §7.4.2: a loss that nothing else showed.
            self.cwr_due |= self.congestion.on_loss(now, self.nxt - before, self.nxt);
            self.congestion.exit_recovery();
        }
        if self.sack {
            self.rack.update_reo_wnd(&Reordering {
                una: self.una,
                nxt: self.nxt,
                dsack: delivered.duplicate.is_some(),
                in_recovery: self.is_recovering(),
                exits_recovery: was_recovering && !self.is_recovering(),
                segs_sacked: self.flight.sacked() / u32::from(self.mss),
                min_rtt: self.rtt.min_rtt(),
                srtt: self.rtt.srtt(),
            });
        }
        let was_proportional = self.congestion.in_recovery();
        let advanced = self.una > before;
        let found = self.detect_losses(io, advanced);
        if self.congestion.in_recovery() {
            if !was_proportional {
                // RFC 9937 §6: what the acknowledgement has delivered that recovery begins with counts as well.
                self.congestion.on_delivered(delivered.count);
            }
            self.congestion.on_judged(advanced && !found);
        }
        // RFC 6298 §5.3, RFC 8985 §7.2: from what is delivered on. A peer that repeats itself does not put it off.
        if delivered.count > 0 || self.timer(Timer::Loss).is_none() {
            self.arm_loss_timer(io.cx.now);
        }
    }

    /// RFC 8985 §6.2 step 5 where the peer says what it has; RFC 6582 where it does not. Whether something was found.
    pub(crate) fn detect_losses(&mut self, io: &mut Io<'_, '_>, advanced: bool) -> bool {
        let now = io.cx.now;
        let mut recheck: Option<Duration> = None;
        let found = if self.sack {
            let rack = &self.rack;
            self.flight.judge(|sent| match rack.is_lost(sent.at, sent.end, now) {
                Fate::Lost => Some(true),
                Fate::After(left) => {
                    recheck = recheck.max(Some(left));
                    Some(false)
                }
                Fate::Unknown => None,
            })
        } else if self.duplicate_acks >= 3 && !self.is_recovering() || advanced && self.is_recovering() {
            let first =
                self.flight.first().is_some_and(|sent| !sent.lost && (advanced || !sent.retransmitted));
            if first {
                self.flight.lose(false);
            }
            first
        } else {
            false
        };
        if found && !self.is_recovering() {
            self.enter_recovery(io);
        }
        if let Some(left) = recheck {
            self.loss_timer = LossTimer::Reordering;
            self.set_timer(Timer::Loss, Some(now + left));
        } else if self.loss_timer == LossTimer::Reordering {
            self.loss_timer = LossTimer::Retransmission;
            self.set_timer(Timer::Loss, None);
        }
        found
    }

    #[inline]
    pub(crate) fn is_recovering(&self) -> bool {
        self.congestion.recovery_point().is_some()
    }

    fn enter_recovery(&mut self, io: &mut Io<'_, '_>) {
        io.counters.recoveries += 1;
        self.rack.forget_probe();
        self.cwr_due |= self.congestion.on_loss(io.cx.now, self.nxt - self.una, self.nxt);
    }

    /// RFC 3168 §6.1.2: once for a window of data.
    #[cold]
    fn congestion_experienced(&mut self, io: &mut Io<'_, '_>, before: SeqNum) {
        io.counters.ecn_echoes += 1;
        self.cwr_due |= self.congestion.on_ecn(io.cx.now, self.nxt - before, self.una, self.nxt);
    }

    /// What depends on our FIN being acknowledged.
    #[inline]
    fn note_fin_acked(&mut self, io: &mut Io<'_, '_>) {
        let Fin::Sent(fin) = self.fin else { return };
        if self.una <= fin {
            return;
        }
        match self.state {
            State::FinWait1 => {
                self.state = State::FinWait2;
                if self.detached {
                    self.set_timer(Timer::Linger, Some(io.cx.now + io.counters.fin_wait));
                }
            }
            State::Closing => self.enter_time_wait(io.cx.now, io.counters.time_wait),
            State::LastAck => self.state = State::Closed,
            _ => {}
        }
    }

    /// §3.10.7.4, seventh and eighth.
    #[inline]
    fn receive_text(&mut self, io: &mut Io<'_, '_>, mut segment: Segment<'_>) {
        if !self.state.may_receive() {
            // A FIN that comes again is acknowledged again.
            return self.send_ack(io);
        }
        if self.detached && segment.len > 0 && segment.seq + segment.len as u32 > self.rcv_nxt {
            // §3.6.1: data after the application has closed cannot be delivered, and the peer should know.
            return self.abort(io, &Error::ConnectionReset);
        }
        if segment.flags.has(Flags::FIN) {
            let fin = segment.seq + segment.len as u32;
            if fin < self.rcv_right || fin == self.rcv_nxt || self.rcv_right == fin {
                self.peer_fin.get_or_insert(fin);
            }
        }
        let end = segment.seq + segment.len as u32;
        if end > self.rcv_right {
            let beyond = (end - self.rcv_right) as usize;
            let keep = segment.len - beyond.min(segment.len);
            if keep == 0 {
                // §3.8.6.1: who probes a closed window is answered.
                return self.send_ack(io);
            }
            *segment.payload = segment.payload.split_to(keep);
            segment.len = keep;
        }
        if segment.seq < self.rcv_nxt {
            let old = ((self.rcv_nxt - segment.seq) as usize).min(segment.len);
            if old > 0 {
                self.reassembly.note_duplicate(segment.seq, segment.seq + old as u32);
            }
            segment.payload.advance(old);
            segment.len -= old;
            segment.seq = self.rcv_nxt;
        }
        // What fills the first hole lets the application have what lies behind it.
        let beyond = if segment.seq == self.rcv_nxt { 0 } else { self.reassembly.bytes() };
        if segment.len > 0 && self.has_to_refuse(io, beyond) {
            return;
        }
        if segment.seq == self.rcv_nxt {
            self.receive_in_order(io, segment.payload, segment.len as u32);
        } else if segment.len > 0 {
            // RFC 5681 §4.2: at once, so that the sender learns of the hole.
            self.reassembly.insert(io.cx.heap, self.rcv_nxt, segment.seq, std::mem::take(segment.payload));
            io.counters.out_of_order += 1;
            return self.send_ack(io);
        }
        if self.peer_fin == Some(self.rcv_nxt) {
            self.receive_fin(io);
        }
        self.serve_pops(io);
    }

    /// Whether there is no room for more text, although the window says so: memory is short, and the application has left
    /// enough unread, or so much waits for what is missing. It is as if the segment had been lost on its way, so the peer
    /// will send it again, less and less often.
    #[inline]
    pub(super) fn has_to_refuse(&self, io: &mut Io<'_, '_>, waiting: usize) -> bool {
        self.received.bytes as usize + waiting >= LEAST_HELD && is_short(io)
    }

    #[inline]
    fn receive_in_order(&mut self, io: &mut Io<'_, '_>, payload: &mut SgArray, len: u32) {
        self.rcv_nxt += len;
        if !self.read_shut {
            self.deliver(io.cx.heap, payload);
        }
        if self.reassembly.is_empty() {
            return;
        }
        for buf in self.reassembly.take_ready(self.rcv_nxt) {
            self.rcv_nxt += buf.len() as u32;
            if !self.read_shut {
                self.deliver(io.cx.heap, &mut buf.into());
            }
        }
        // RFC 5681 §4.2: a segment that fills a hole is acknowledged at once, and so is a FIN.
        if self.peer_fin != Some(self.rcv_nxt) {
            self.send_ack(io);
        }
    }

    fn receive_fin(&mut self, io: &mut Io<'_, '_>) {
        self.rcv_nxt += 1;
        self.received.ended = true;
        match self.state {
            State::Established => self.state = State::CloseWait,
            // If our FIN were acknowledged, the state would be FinWait2.
            State::FinWait1 => self.state = State::Closing,
            State::FinWait2 => self.enter_time_wait(io.cx.now, io.counters.time_wait),
            _ => {}
        }
        self.send_ack(io);
    }

    /// Sees to it that what has just arrived is acknowledged.
    ///
    /// Two full segments are acknowledged in the next turn, and so is what a sender marked as the end of a push, which
    /// may be waited for there, and what comes at the start, when a sender grows by acknowledgements. The application
    /// gets its turn first: it may have something to send that carries the acknowledgement.
    #[inline]
    pub(super) fn plan_ack(&mut self, io: &mut Io<'_, '_>, pushed: bool) {
        if io.cx.now >= self.round_end {
            self.tune(io.cx.now);
        }
        if pushed
            || self.quick_acks > 0
            || self.ece_due
            || self.rcv_nxt - self.acked_to >= 2 * u32::from(self.mss)
        {
            self.quick_acks = self.quick_acks.saturating_sub(1);
            self.ack_soon = true;
        } else if self.timer(Timer::DelayedAck).is_none() {
            self.set_timer(Timer::DelayedAck, Some(io.cx.now + DELAYED_ACK));
        }
    }
}

#[cold]
#[inline(never)]
fn is_short(io: &mut Io<'_, '_>) -> bool {
    let short = io.cx.heap.is_short();
    io.counters.no_room += u64::from(short);
    short
}

#[inline]
pub(super) fn of(sent: &Sent) -> rack::Delivered {
    rack::Delivered {
        xmit_time: sent.at,
        end_seq: sent.end,
        retransmitted: sent.retransmitted,
        echo_is_older: false,
    }
}
