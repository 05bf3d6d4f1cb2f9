//! Congestion control: how much may be on the way.
//!
//! Invariants: the window is at least one segment and at most [`MAX_WINDOW`], the threshold at least two segments,
//! whatever is acknowledged, lost or undone. The window falls at most once for what was on the way at one moment. It
//! grows only while it is what limits the sender.
//!
//! All windows are in bytes. Not in here: what is on the way, and what was lost; the caller says so.
//!
//! | file | what it holds |
//! |---|---|
//! | `cubic` | the window in congestion avoidance: RFC 9438 |
//! | `hystart` | when to leave the first slow start: RFC 9406 |
//! | `prr` | what to send for each acknowledgment during recovery: RFC 9937 |

mod cubic;
mod hystart;
mod prr;

#[cfg(test)]
mod tests;

use demi_api::time::Instant;
use serde::Deserialize;

use self::cubic::Cubic;
use self::hystart::HyStart;
use self::prr::Prr;
use super::rtt::GRANULARITY;
use super::seq::SeqNum;

/// The greatest window: what can be on the way by RFC 7323 §2.3.
pub(crate) const MAX_WINDOW: u32 = 1 << 30;

/// The shortest round trip, in nanoseconds, that something can be spread over: eight ticks of the timer wheel.
const PACED_FROM: u64 = 500_000;

/// How the window changes in congestion avoidance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Algorithm {
    /// RFC 9438.
    #[default]
    Cubic,
    /// RFC 5681.
    NewReno,
}

/// The congestion control of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Congestion {
    algorithm: Algorithm,
    phase: Phase,
    /// Nothing was acknowledged yet, so that the initial window still follows the segment size.
    untried: bool,
    /// Something was acknowledged since the retransmission timer expired last.
    progress: bool,
    /// What is sent may be spread over the round trip.
    pacing: bool,
    mss: u32,
    cwnd: u32,
    ssthresh: u32,
    /// What was next to be sent when the phase began; once it is over, how long it may be undone.
    recover: SeqNum,
    /// NewReno: bytes acknowledged since the window grew last.
    counted: u32,
    prr: Prr,
    hystart: HyStart,
    /// Nanoseconds; 0 while nothing was measured.
    srtt: u64,
    /// When the last acknowledgment came.
    active: Instant,
    cubic: Cubic,
    /// CUBIC: the part of a byte that the window has yet to grow by.
    rest: f32,
    /// Bytes retransmitted since the last reduction of which the peer has not reported a duplicate.
    unproven: u32,
    undo: Undo,
}

const _: () = assert!(size_of::<Congestion>() <= 168);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Nothing is known to be lost.
    Open,
    /// The window was reduced for a congestion mark: RFC 3168.
    Marked,
    /// Fast recovery: RFC 6675, or RFC 8985.
    Recovery,
    /// The retransmission timer has expired.
    Loss,
}

/// What to go back to when a reduction was a mistake.
#[derive(Clone, Debug)]
struct Undo {
    /// 0: nothing.
    cwnd: u32,
    ssthresh: u32,
    cubic: Cubic,
}

/// What an acknowledgment says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acked {
    pub(crate) now: Instant,
    /// Bytes by which the cumulative acknowledgment has advanced.
    pub(crate) acked: u32,
    /// Bytes that were on the way before it came.
    pub(crate) in_flight: u32,
    /// The round-trip time that this acknowledgment measured, in nanoseconds.
    pub(crate) rtt: Option<u64>,
    /// In nanoseconds; 0: nothing was measured.
    pub(crate) srtt: u64,
    /// There was more to send than the window allowed.
    pub(crate) cwnd_limited: bool,
    /// After this acknowledgment.
    pub(crate) snd_una: SeqNum,
    pub(crate) snd_nxt: SeqNum,
}

impl Congestion {
    /// At the beginning of a connection.
    pub(crate) fn new(algorithm: Algorithm, pacing: bool, mss: u32, now: Instant) -> Congestion {
        let mss = mss.clamp(1, MAX_WINDOW / 16);
        Congestion {
            algorithm,
            phase: Phase::Open,
            untried: true,
            progress: false,
            pacing,
            mss,
            cwnd: initial_window(mss),
            ssthresh: u32::MAX,
            recover: SeqNum(0),
            counted: 0,
            prr: Prr::default(),
            hystart: HyStart::new(),
            srtt: 0,
            active: now,
            cubic: Cubic::new(),
            rest: 0.0,
            unproven: 0,
            undo: Undo { cwnd: 0, ssthresh: 0, cubic: Cubic::new() },
        }
    }

    /// How many bytes may be on the way.
    #[inline]
    pub(crate) fn cwnd(&self) -> u32 {
        self.cwnd
    }

    /// The slow start threshold; `u32::MAX` before the first loss.
    pub(crate) fn ssthresh(&self) -> u32 {
        self.ssthresh
    }

    /// In fast recovery: [`quota`](Congestion::quota) is by what is delivered.
    #[inline]
    pub(crate) fn in_recovery(&self) -> bool {
        self.phase == Phase::Recovery
    }

    /// Nothing is known to be lost, and no mark is being heeded.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// In recovery after the retransmission timer has expired.
    #[cfg(test)]
    #[inline]
    pub(crate) fn in_loss(&self) -> bool {
        self.phase == Phase::Loss
    }

    #[inline]
    pub(crate) fn in_slow_start(&self) -> bool {
        self.cwnd < self.ssthresh
    }

    /// Where recovery ends: once this is acknowledged. `None`: it is not going on.
    pub(crate) fn recovery_point(&self) -> Option<SeqNum> {
        matches!(self.phase, Phase::Recovery | Phase::Loss).then_some(self.recover)
    }

    /// Takes in an acknowledgment that advances SND.UNA, or reports more by SACK. Ends recovery if it covers what was on
    /// the way when that began.
    #[inline(always)]
    pub(crate) fn on_ack(&mut self, ack: &Acked) {
        self.untried = false;
        self.progress |= ack.acked > 0;
        if ack.srtt != 0 {
            self.srtt = ack.srtt;
        }
        let before = std::mem::replace(&mut self.active, ack.now);
        // RFC 3168 §6.1.2: after a mark, only what was sent after it shows that CWR has arrived.
        let beyond = self.phase != Phase::Marked || ack.snd_una > self.recover;
        if ack.snd_una >= self.recover && beyond {
            let was = self.phase;
            if was == Phase::Open {
                // A round trip after the end of recovery, no more proof is to come that it was a mistake.
                self.undo.cwnd = 0;
            } else {
                self.exit_recovery();
                self.recover = ack.snd_nxt;
            }
            if was == Phase::Recovery {
                return;
            }
        }
        let first_slow_start = self.ssthresh == u32::MAX && self.phase == Phase::Open;
        if first_slow_start && self.hystart.on_ack(ack.rtt, ack.snd_una, ack.snd_nxt) {
            // RFC 9406 §4.2: conservative slow start has lasted long enough.
            self.ssthresh = self.cwnd.max(2 * self.mss);
        }
        // In fast recovery, PRR says what to send. For the round trip after a mark, the window stays.
        if matches!(self.phase, Phase::Recovery | Phase::Marked) || ack.acked == 0 {
            return;
        }
        // RFC 9438 §5.8, RFC 7661 §4.4: a window that is not used is not known to be good, let alone a greater one. One of
        // which not even half is used was not what limits the sender, whatever that says.
        if !ack.cwnd_limited || ack.in_flight < self.cwnd / 2 {
            self.cubic.pause(ack.now.as_nanos().saturating_sub(before.as_nanos()));
            return;
        }
        if self.in_slow_start() {
            self.slow_start(ack.acked);
        } else {
            self.avoid_congestion(ack.now, ack.acked);
        }
    }

    /// RFC 5681 §3.1 with byte counting, RFC 3465 §2.2 and §2.3, RFC 9406 §4.2.
    fn slow_start(&mut self, acked: u32) {
        let growth = match self.phase {
            // RFC 3465 §2.4: after a timeout, one acknowledgment may stand for much that arrived long ago.
            Phase::Loss => acked.min(self.mss),
            // RFC 9406 §4.2: L, which is without bound where bursts are paced; only that nothing more than doubles.
            _ if self.ssthresh == u32::MAX => {
                let most = if self.is_paced() { self.cwnd.max(8 * self.mss) } else { 8 * self.mss };
                self.hystart.growth(acked.min(most))
            }
            _ => acked.min(2 * self.mss),
        };
        self.cwnd = self.cwnd.saturating_add(growth).min(self.ssthresh).min(MAX_WINDOW);
    }

    fn avoid_congestion(&mut self, now: Instant, acked: u32) {
        let growth = match self.algorithm {
            Algorithm::Cubic => {
                let growth =
                    self.cubic.growth(now, self.cwnd, acked, self.srtt, self.mss) + f64::from(self.rest);
                self.rest = growth.fract() as f32;
                growth as u32
            }
            Algorithm::NewReno => {
                // RFC 5681 §3.1: a segment for each window that was acknowledged.
                self.counted = self.counted.saturating_add(acked);
                if self.counted < self.cwnd {
                    return;
                }
                self.counted -= self.cwnd;
                // A single acknowledgment may cover more than the window: but not count for more than one.
                self.counted = self.counted.min(self.cwnd);
                self.mss
            }
        };
        self.cwnd = self.cwnd.saturating_add(growth).min(MAX_WINDOW);
    }

    /// A loss was detected by duplicate acknowledgments or by time: enters fast recovery, unless it goes on already.
    /// `flight_size` is `snd_nxt - snd_una`, with what is lost (RFC 5681 §2). True: the window was reduced, and with ECN
    /// the next new segment carries CWR (RFC 3168 §6.1.2).
    pub(crate) fn on_loss(&mut self, _now: Instant, flight_size: u32, snd_nxt: SeqNum) -> bool {
        let reduces = match self.phase {
            Phase::Recovery | Phase::Loss => return false,
            // The window was reduced for this round trip: RFC 3168 §6.1.2.
            Phase::Marked => false,
            Phase::Open => true,
        };
        if reduces {
            self.reduce(flight_size);
            self.cwnd = self.ssthresh;
        }
        self.phase = Phase::Recovery;
        self.recover = snd_nxt;
        self.prr = Prr::begin(flight_size);
        reduces
    }

    /// The peer reports a congestion mark. Reduces the window at most once per round trip; true: it did, and the next new
    /// segment carries CWR. RFC 3168 §6.1.2.
    pub(crate) fn on_ecn(
        &mut self,
        _now: Instant,
        flight_size: u32,
        snd_una: SeqNum,
        snd_nxt: SeqNum,
    ) -> bool {
        if self.phase != Phase::Open && snd_una <= self.recover {
            return false;
        }
        self.reduce(flight_size);
        // No packet was lost, so that there is nothing to go back on.
        self.undo.cwnd = 0;
        self.cwnd = self.ssthresh;
        self.phase = Phase::Marked;
        self.recover = snd_nxt;
        true
    }

    /// The retransmission timer has expired: RFC 5681 §3.1, RFC 9438 §4.8. The same timer for the same segment once more
    /// leaves the threshold.
    pub(crate) fn on_rto(&mut self, _now: Instant, flight_size: u32, snd_nxt: SeqNum) {
        if self.phase != Phase::Loss || self.progress {
            self.reduce(flight_size);
        }
        self.cubic.timed_out();
        self.progress = false;
        self.phase = Phase::Loss;
        self.recover = snd_nxt;
        self.cwnd = self.mss;
    }

    /// The threshold for what is on the way, and what to go back to.
    fn reduce(&mut self, flight_size: u32) {
        if self.phase == Phase::Open {
            self.undo = Undo { cwnd: self.cwnd, ssthresh: self.ssthresh, cubic: self.cubic.clone() };
            self.unproven = 0;
        }
        // RFC 5681 §3.1: not the window, which may be far from used. What limited transmit adds does not count.
        let flight = u64::from(flight_size.min(self.cwnd));
        let kept = match self.algorithm {
            Algorithm::Cubic => flight * 7 / 10,
            Algorithm::NewReno => flight / 2,
        };
        self.ssthresh = (kept as u32).max(2 * self.mss);
        self.cubic.reduce(self.cwnd);
        (self.counted, self.rest) = (0, 0.0);
    }

    /// Recovery is over, and the window is what it was reduced to: RFC 5681 §3.2 step 6. Does nothing when there is none.
    pub(crate) fn exit_recovery(&mut self) {
        self.phase = Phase::Open;
    }

    /// What was taken for lost was not: RFC 9438 §4.9, RFC 4015 §3.2. Goes back to the window before; true: there was one
    /// to go back to.
    pub(crate) fn undo(&mut self) -> bool {
        if self.undo.cwnd == 0 {
            return false;
        }
        self.cwnd = self.cwnd.max(self.undo.cwnd);
        self.ssthresh = self.undo.ssthresh.max(2 * self.mss);
        self.cubic = self.undo.cubic.clone();
        self.undo.cwnd = 0;
        self.phase = Phase::Open;
        true
    }

    /// The peer reports so many bytes as duplicates: RFC 3708 §3. When it has reported all that was retransmitted since the
    /// window was reduced, nothing had been lost; true: it was undone.
    pub(crate) fn on_dsack(&mut self, bytes: u32) -> bool {
        if self.unproven == 0 {
            return false;
        }
        self.unproven = self.unproven.saturating_sub(bytes);
        self.unproven == 0 && self.undo()
    }

    /// To be called before something is sent while nothing is on the way: RFC 5681 §4.1. After more than a timeout, the
    /// window is the restart window again, and the threshold remembers three quarters of what it was (RFC 7661 §4.4.3).
    #[inline]
    pub(crate) fn idle_restart(&mut self, now: Instant, rto: impl FnOnce() -> u64) {
        let idle = now.as_nanos().saturating_sub(self.active.as_nanos());
        self.cubic.pause(idle);
        self.active = now;
        // No timeout is as short as that, so that there is none to be computed.
        if idle > GRANULARITY && idle > rto() {
            self.restart();
        }
    }

    #[cold]
    fn restart(&mut self) {
        let restart = initial_window(self.mss);
        if self.cwnd <= restart {
            return;
        }
        if self.ssthresh != u32::MAX {
            self.ssthresh = self.ssthresh.max(self.cwnd / 4 * 3);
        }
        self.cwnd = restart;
        self.undo.cwnd = 0;
        self.cubic.restart();
    }

    /// An acknowledgment in fast recovery has told of so many more bytes that have arrived, cumulatively or by SACK. In
    /// place of [`on_ack`](Congestion::on_ack), or beside it.
    #[inline]
    pub(crate) fn on_delivered(&mut self, bytes: u32) {
        self.prr.delivered(bytes);
    }

    /// Whether that acknowledgment advanced and showed nothing more to be lost: RFC 9937's SafeACK.
    #[inline]
    pub(crate) fn on_judged(&mut self, safe: bool) {
        self.prr.judged(safe);
    }

    /// So many bytes were sent for the first time. Matters in fast recovery only.
    #[inline]
    pub(crate) fn on_sent(&mut self, bytes: u32) {
        if self.phase == Phase::Recovery {
            self.prr.sent(bytes);
        }
    }

    /// So many bytes were sent once more.
    #[inline]
    pub(crate) fn on_retransmit(&mut self, bytes: u32) {
        self.unproven = self.unproven.saturating_add(bytes);
        self.on_sent(bytes);
    }

    /// How many bytes may be sent now, with `pipe` on the way: what the window leaves, or in fast recovery RFC 9937's
    /// sndcnt.
    #[inline]
    pub(crate) fn quota(&self, pipe: u32) -> u32 {
        match self.phase {
            Phase::Recovery => self.prr.quota(pipe, self.ssthresh, self.mss),
            Phase::Open | Phase::Marked | Phase::Loss => self.cwnd.saturating_sub(pipe),
        }
    }

    /// Whether new data is to be spread over the round trip. Where that is short, the path holds so little that there is
    /// nothing to spread, and a look at the clock would take as long.
    #[inline]
    pub(crate) fn is_paced(&self) -> bool {
        self.srtt >= PACED_FROM && self.pacing
    }

    /// Over how long to spread so many bytes, in nanoseconds: at twice the window per round trip in slow start, and at five
    /// quarters of it after that, so that pacing itself never holds the window back.
    pub(crate) fn pacing_time(&self, bytes: u32) -> u64 {
        // Bytes and window have 30 bits, and times less than 2^41, or the product is not far from its limit.
        let time = u64::from(bytes).saturating_mul(self.srtt) / u64::from(self.cwnd);
        if self.in_slow_start() { time / 2 } else { time / 5 * 4 }
    }

    /// How many bytes may go at once after a pause: the initial window, which is safe on any path.
    pub(crate) fn burst(&self) -> u32 {
        initial_window(self.mss)
    }

    /// The segment size has changed: the peer's option, or the path's MTU. The window stays what it is in bytes, but for
    /// the initial one.
    pub(crate) fn set_mss(&mut self, mss: u32) {
        self.mss = mss.clamp(1, MAX_WINDOW / 16);
        if self.untried && self.phase == Phase::Open {
            self.cwnd = initial_window(self.mss);
        }
        self.cwnd = self.cwnd.max(self.mss);
        self.ssthresh = self.ssthresh.max(2 * self.mss);
    }

    /// A SYN, or its acknowledgment, was lost: RFC 5681 §3.1 starts with one segment.
    pub(crate) fn syn_lost(&mut self) {
        self.cwnd = self.mss;
        self.untried = false;
    }
}

/// RFC 6928 §2.
fn initial_window(mss: u32) -> u32 {
    (10 * mss).min(14_600.max(2 * mss))
}
