//! CUBIC: RFC 9438. The window is a cubic function of the time since the last reduction, flat where that took place.
//!
//! Windows are in bytes here, where the RFC counts segments; its constant is scaled by the segment size. Computed with
//! additions, multiplications and divisions of `f64` alone, so that all machines get the same window.

use demi_api::time::Instant;

/// RFC 9438 §5: segments per second cubed.
const C: f64 = 0.4;

/// RFC 9438 §4.3: 3 * (1 - beta) / (1 + beta), with beta = 0.7.
const ALPHA: f64 = 3.0 * 0.3 / 1.7;

/// There is no stage of congestion avoidance.
const NO_EPOCH: u64 = u64::MAX;

/// The state of RFC 9438 §4.1.2, all of which a mistaken reduction destroys, and going back restores (§4.9).
#[derive(Clone, Debug)]
pub(super) struct Cubic {
    /// When this stage of congestion avoidance began, nanoseconds.
    epoch: u64,
    /// K: seconds from there until the window is W_max again.
    k: f64,
    /// W_est: the window that Reno would have.
    reno: f64,
    /// W_max: where the curve is flat; 0: where the next stage begins.
    w_max: u32,
    /// cwnd_prior: the window before the last reduction; 0: that with which the next stage begins.
    prior: u32,
}

impl Cubic {
    pub(super) fn new() -> Cubic {
        Cubic { epoch: NO_EPOCH, k: 0.0, reno: 0.0, w_max: 0, prior: 0 }
    }

    /// By how many bytes the window grows for `acked` bytes; never negative, and at most `acked`.
    pub(super) fn growth(&mut self, now: Instant, cwnd: u32, acked: u32, srtt: u64, mss: u32) -> f64 {
        if self.epoch == NO_EPOCH {
            self.begin(now, cwnd, mss);
        }
        let (window, acked, mss) = (f64::from(cwnd), f64::from(acked), f64::from(mss));
        // An acknowledgment of more than the window is no news of more than a round trip.
        let acked = acked.min(window);
        // RFC 9438 §4.3: alpha makes up for the weaker reduction until that is made good.
        let alpha = if self.reno < f64::from(self.prior) { ALPHA } else { 1.0 };
        self.reno += alpha * mss * acked / window;
        let passed = now.as_nanos().saturating_sub(self.epoch);
        if self.at(passed, mss) < self.reno {
            // The Reno-friendly region: no slower than Reno.
            return (self.reno - window).clamp(0.0, acked);
        }
        // RFC 9438 §4.4 and §4.5: towards where the curve is a round trip from now; §4.2: by half at most.
        let target = self.at(passed.saturating_add(srtt), mss).clamp(window, 1.5 * window);
        (target - window) * acked / window
    }

    /// RFC 9438 §4.2: a stage of congestion avoidance begins.
    fn begin(&mut self, now: Instant, cwnd: u32, mss: u32) {
        self.epoch = now.as_nanos().min(NO_EPOCH - 1);
        self.reno = f64::from(cwnd);
        // Out of slow start without a loss (§4.10), or after a timeout (§4.8): a curve that begins where it is flat.
        self.w_max = self.w_max.max(cwnd);
        if self.prior == 0 {
            self.prior = cwnd;
        }
        self.k = cube_root(f64::from(self.w_max - cwnd) / (C * f64::from(mss)));
    }

    /// RFC 9438 §4.2, Figure 1: W_cubic, `nanos` after the stage began.
    #[inline]
    fn at(&self, nanos: u64, mss: f64) -> f64 {
        let t = nanos as f64 / 1e9 - self.k;
        C * mss * (t * t * t) + f64::from(self.w_max)
    }

    /// RFC 9438 §4.6 and §4.7, with fast convergence: a flow that has less than it had makes room.
    pub(super) fn reduce(&mut self, cwnd: u32) {
        let w_max = if cwnd < self.w_max { u64::from(cwnd) * 17 / 20 } else { u64::from(cwnd) };
        self.w_max = w_max as u32;
        self.prior = cwnd;
        self.epoch = NO_EPOCH;
    }

    /// The retransmission timer has expired: RFC 9438 §4.8. K is 0 in the next stage, and W_max what that begins with.
    pub(super) fn timed_out(&mut self) {
        *self = Cubic::new();
    }

    /// The window was reset after an idle time: another stage is to begin.
    pub(super) fn restart(&mut self) {
        self.epoch = NO_EPOCH;
    }

    /// RFC 9438 §5.8: time in which the window was not used is not counted.
    #[inline]
    pub(super) fn pause(&mut self, span: u64) {
        if self.epoch != NO_EPOCH {
            self.epoch = self.epoch.saturating_add(span).min(NO_EPOCH - 1);
        }
    }
}

/// The cube root of what is not negative.
fn cube_root(x: f64) -> f64 {
    if x < f64::MIN_POSITIVE {
        return 0.0;
    }
    // A third of the exponent, right to 6 %; each of Newton's steps then doubles the digits.
    let mut root = f64::from_bits(x.to_bits() / 3 + 0x2A9F_7893_0000_0000);
    for _ in 0..5 {
        root = (root + root + x / (root * root)) / 3.0;
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cube_root_is_one() {
        for exponent in -40..40 {
            for mantissa in [1.0, 1.1, 1.7, 2.0, 2.9, 3.3] {
                let x = mantissa * 2f64.powi(exponent);
                assert!((cube_root(x) - x.cbrt()).abs() <= 1e-14 * x.cbrt(), "{x}");
            }
        }
        assert_eq!(cube_root(0.0), 0.0);
    }

    #[test]
    fn rfc9438_4_7_fast_convergence_makes_room() {
        let mut cubic = Cubic::new();
        cubic.reduce(100_000);
        assert_eq!(cubic.w_max, 100_000);
        cubic.reduce(70_000);
        assert_eq!((cubic.w_max, cubic.prior), (59_500, 70_000));
    }
}
