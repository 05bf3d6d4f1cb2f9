//! A timer fires: RFC 9293 §3.10.8, RFC 6298 §5, RFC 8985 §7.

use demi_api::error::Error;

use super::Ecn;
use super::conn::{Connection, Io, LossTimer, State, Timer};
use super::output::{SCARCE, persist_interval};

/// RFC 9293 §3.8.3, R2 for SYNs (MUST-23): with the intervals doubling from one second up to a minute, 183 s pass before
/// the last is given up.
const SYN_RETRIES: u8 = 7;

impl Connection {
    /// Serves every timer that is due.
    pub(crate) fn run_timers(&mut self, io: &mut Io<'_, '_>) {
        let now = io.cx.now;
        for timer in
            [Timer::Loss, Timer::Persist, Timer::DelayedAck, Timer::KeepAlive, Timer::Linger, Timer::Pace]
        {
            if self.timer(timer).is_none_or(|at| at > now) {
                continue;
            }
            if timer == Timer::Loss && self.loss_timer == LossTimer::Undecided {
                self.decide_loss_timer();
                if self.timer(timer).is_none_or(|at| at > now) {
                    continue;
                }
            }
            self.set_timer(timer, None);
            match timer {
                Timer::Loss => self.loss_timer_fired(io),
                Timer::Persist => self.persist_timer_fired(io),
                Timer::DelayedAck => {
                    if self.acked_to != self.rcv_nxt {
                        self.send_ack(io);
                    }
                }
                Timer::KeepAlive => self.keep_alive_timer_fired(io),
                Timer::Linger => self.linger_timer_fired(io),
                Timer::Pace => self.output(io),
            }
            if self.state == State::Closed {
                return;
            }
        }
    }

    fn loss_timer_fired(&mut self, io: &mut Io<'_, '_>) {
        if self.loss_timer != LossTimer::Reordering && self.began_early(io) {
            return;
        }
        match self.loss_timer {
            LossTimer::Reordering => {
                self.loss_timer = LossTimer::Retransmission;
                self.detect_losses(io, false);
                self.output(io);
                if self.timer(Timer::Loss).is_none() {
                    self.arm_loss_timer(io.cx.now);
                }
            }
            LossTimer::Probe => self.tail_loss_probe(io),
            LossTimer::Retransmission | LossTimer::Undecided => self.retransmission_timeout(io),
        }
    }

    /// Whether what is under way was sent after the time that it bears, so that its timer was to begin later, and is not
    /// yet over.
    fn began_early(&mut self, io: &mut Io<'_, '_>) -> bool {
        let Some(last) = self.flight.last().filter(|last| !last.late).copied() else { return false };
        let Some(end) = io.counters.gaps.end(last.at) else { return false };
        self.flight.postdate(last.at, end);
        if self.progress_at == last.at {
            self.progress_at = end;
        }
        self.arm_loss_timer(end);
        self.timer(Timer::Loss).is_some_and(|at| at > io.cx.now)
    }

    /// RFC 8985 §7.3: new data if there is any, else the last segment again.
    fn tail_loss_probe(&mut self, io: &mut Io<'_, '_>) {
        self.loss_timer = LossTimer::Retransmission;
        io.counters.tail_loss_probes += 1;
        let before = self.nxt;
        // One segment more than the congestion window has room for.
        let room = u64::from(self.window.saturating_sub(self.nxt - self.una));
        let next = self.send.unsent().min(self.mss.into());
        let mut sent = next > 0 && next <= room && self.send_new(io, next as usize);
        if !sent && let Some(last) = self.flight.last().copied() {
            sent = self.retransmit(io, last);
        }
        if !sent {
            // There was no memory for it: it is as if none were due before the timeout.
            return self.set_timer(Timer::Loss, Some(io.cx.now + self.rtt.rto().max(SCARCE)));
        }
        self.rack.on_probe(self.nxt, self.nxt == before);
        self.arm_loss_timer(io.cx.now);
    }

    /// RFC 6298 §5.4 to §5.7.
    fn retransmission_timeout(&mut self, io: &mut Io<'_, '_>) {
        let now = io.cx.now;
        if self.flight.is_empty() {
            return;
        }
        self.retries = self.retries.saturating_add(1);
        if matches!(self.state, State::SynSent | State::SynReceived) {
            if self.retries > SYN_RETRIES {
                return self.end(io, Error::TimedOut);
            }
            let (rtt, retries) = (self.rtt.clone(), self.retries - 1);
            self.rtt.backoff();
            self.rtt.syn_lost();
            self.congestion.syn_lost();
            if self.state == State::SynSent && self.ecn == Ecn::On {
                // RFC 3168 §6.1.1.1: something on the way may drop SYNs that ask for it.
                self.ecn = Ecn::Echo;
            }
            if !self.send_syn(io) {
                (self.rtt, self.retries) = (rtt, retries);
            }
            return;
        }
        let since = if self.window == 0 { self.progress_at.max(self.heard_at) } else { self.progress_at };
        if now - since >= self.settings.user_timeout {
            return self.abort(io, &Error::TimedOut);
        }
        if self.window == 0 {
            // What is on the way is a probe, and unanswered for as long as the peer has no room: no sign of congestion.
            return self.probe_again(io);
        }
        // What could not be sent again has not been lost again.
        if !std::mem::take(&mut self.starved) {
            self.take_for_lost(io);
        }
        let sent = self.flight.first_lost().is_none_or(|first| self.retransmit(io, first));
        let after = if sent {
            self.rtt.backoff();
            self.rtt.rto()
        } else {
            self.starved = true;
            SCARCE
        };
        self.loss_timer = LossTimer::Retransmission;
        // Not beyond the time at which it is given up: RFC 5482.
        let given_up = self.progress_at + self.settings.user_timeout;
        self.set_timer(Timer::Loss, Some(given_up.min(now + after)));
    }

    /// What a timeout says of the network.
    fn take_for_lost(&mut self, io: &mut Io<'_, '_>) {
        let now = io.cx.now;
        // RFC 2018 §8: the peer may have dropped what it had out of order.
        io.counters.timeouts += 1;
        if self.flight.first().is_some_and(|first| first.sacked) {
            self.flight.forget_sacks();
        }
        // RFC 8985 §6.3: the first, and what was sent long enough ago.
        self.flight.lose(!self.sack);
        let rack = &self.rack;
        self.flight.judge(|sent| Some(rack.is_lost_on_rto(sent.at, now)));
        self.rack.forget_probe();
        self.cwr_due = true;
        self.congestion.on_rto(now, self.nxt - self.una, self.nxt);
        self.duplicate_acks = 0;
    }

    /// RFC 9293 §3.8.6.1: for as long as the peer answers, the window may stay closed.
    fn persist_timer_fired(&mut self, io: &mut Io<'_, '_>) {
        let now = io.cx.now;
        if self.send.unsent() == 0 && self.flight.is_empty() {
            return;
        }
        if now - self.heard_at.max(self.progress_at) >= self.settings.user_timeout {
            return self.abort(io, &Error::TimedOut);
        }
        if !self.probe_window(io) {
            return self.set_timer(Timer::Persist, Some(now + SCARCE));
        }
        self.retries = self.retries.saturating_add(1);
        let at = Some(now + persist_interval(self.rtt.rto(), self.retries));
        if !self.flight.is_empty() && self.window == 0 {
            // What it carried is under way, and stays the probe.
            self.loss_timer = LossTimer::Retransmission;
            self.set_timer(Timer::Loss, at);
        } else if self.flight.is_empty() && self.send.unsent() > 0 {
            self.set_timer(Timer::Persist, at);
        }
    }

    fn probe_again(&mut self, io: &mut Io<'_, '_>) {
        self.loss_timer = LossTimer::Retransmission;
        let sent = self.flight.first().copied().is_none_or(|first| self.retransmit(io, first));
        let after = if sent {
            io.counters.window_probes += 1;
            persist_interval(self.rtt.rto(), self.retries)
        } else {
            self.retries -= 1;
            SCARCE
        };
        self.set_timer(Timer::Loss, Some(io.cx.now + after));
    }

    /// RFC 9293 §3.8.4.
    fn keep_alive_timer_fired(&mut self, io: &mut Io<'_, '_>) {
        let now = io.cx.now;
        if !self.settings.keep_alive || !self.state.is_synchronized() || self.state == State::TimeWait {
            return;
        }
        let (idle, interval) = (self.settings.keep_idle, self.settings.keep_interval);
        if now - self.heard_at < idle {
            self.keep_probes = 0;
            return self.set_timer(Timer::KeepAlive, Some(self.heard_at + idle));
        }
        if !self.flight.is_empty() || self.send.unsent() > 0 {
            // What is under way, or probes the window, asks the same.
            return self.set_timer(Timer::KeepAlive, Some(now + idle));
        }
        if u32::from(self.keep_probes) >= self.settings.keep_count {
            return self.abort(io, &Error::TimedOut);
        }
        self.keep_probes += u8::from(self.probe_peer(io));
        self.set_timer(Timer::KeepAlive, Some(now + interval));
    }

    /// TIME-WAIT or FIN-WAIT-2 has lasted long enough, or what a closed descriptor had left to send has not been
    /// acknowledged in time.
    fn linger_timer_fired(&mut self, io: &mut Io<'_, '_>) {
        match self.state {
            State::TimeWait | State::FinWait2 => self.state = State::Closed,
            _ => {
                io.counters.linger_expired += 1;
                self.abort(io, &Error::TimedOut);
            }
        }
    }
}
