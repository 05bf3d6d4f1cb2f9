//! HyStart++: RFC 9406. Leaves slow start when the round-trip time grows, before anything is lost.
//!
//! When it has grown by enough from one round to the next, slow start goes on at a quarter of its speed for five rounds,
//! in case that it was noise. If the time falls again, it was.

use super::super::seq::SeqNum;

/// Nanoseconds in a unit of time, as a power of two: about a microsecond.
const UNIT: u32 = 10;

/// RFC 9406 §4.3.
const MIN_RTT_THRESH: u32 = 4_000_000 >> UNIT;
const MAX_RTT_THRESH: u32 = 16_000_000 >> UNIT;
const MIN_RTT_DIVISOR: u32 = 8;
const N_RTT_SAMPLE: u8 = 8;
const CSS_GROWTH_DIVISOR: u32 = 4;
const CSS_ROUNDS: u8 = 5;

/// Not measured.
const INFINITE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct HyStart {
    /// windowEnd: the round is over when this is acknowledged.
    end: SeqNum,
    last_round_min: u32,
    round_min: u32,
    /// cssBaselineMinRtt; [`INFINITE`] outside of conservative slow start.
    baseline: u32,
    samples: u8,
    css_rounds: u8,
    /// Whether `end` is known.
    started: bool,
}

impl HyStart {
    pub(super) fn new() -> HyStart {
        HyStart {
            end: SeqNum(0),
            last_round_min: INFINITE,
            round_min: INFINITE,
            baseline: INFINITE,
            samples: 0,
            css_rounds: 0,
            started: false,
        }
    }

    /// RFC 9406 §4.2, for each acknowledgment in the first slow start. True: congestion avoidance is to begin.
    #[inline]
    pub(super) fn on_ack(&mut self, rtt: Option<u64>, una: SeqNum, nxt: SeqNum) -> bool {
        // Measured times end where infinity begins.
        let rtt = rtt.map(|rtt| (rtt >> UNIT).min(u64::from(INFINITE - 1)) as u32);
        if !self.started {
            if una == nxt && self.baseline == INFINITE {
                // A round of one acknowledgment, as those of questions and answers are.
                self.last_round_min = rtt.unwrap_or(INFINITE);
                return false;
            }
            self.started = true;
            self.end = nxt;
        }
        if let Some(rtt) = rtt {
            self.round_min = self.round_min.min(rtt);
            self.samples = self.samples.saturating_add(1);
            self.judge();
        }
        if una < self.end {
            return false;
        }
        self.end = nxt;
        // With nothing on the way, the round begins with the next acknowledgment: else that would be all of it.
        self.started = una != nxt;
        self.last_round_min = self.round_min;
        self.round_min = INFINITE;
        self.samples = 0;
        if self.baseline == INFINITE {
            return false;
        }
        self.css_rounds += 1;
        self.css_rounds >= CSS_ROUNDS
    }

    fn judge(&mut self) {
        if self.samples < N_RTT_SAMPLE {
            return;
        }
        if self.baseline != INFINITE {
            // The time has fallen: leaving was premature.
            if self.round_min < self.baseline {
                self.baseline = INFINITE;
            }
            return;
        }
        if self.last_round_min == INFINITE {
            return;
        }
        let thresh = (self.last_round_min / MIN_RTT_DIVISOR).clamp(MIN_RTT_THRESH, MAX_RTT_THRESH);
        if self.round_min >= self.last_round_min.saturating_add(thresh) {
            self.baseline = self.round_min;
            self.css_rounds = 0;
        }
    }

    /// By how much the window grows, where slow start would let it by `growth`.
    #[inline]
    pub(super) fn growth(&self, growth: u32) -> u32 {
        if self.baseline == INFINITE { growth } else { growth / CSS_GROWTH_DIVISOR }
    }
}
