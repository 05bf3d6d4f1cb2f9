//! CUBIC: RFC 9438. The window is a cubic function of the time since the last reduction, flat where that took place.
//!
//! Windows are in bytes here, where the RFC counts segments; its constant is scaled by the segment size. Computed with
//! additions, multiplications and divisions of `f64` alone, so that all machines get the same window.

use std::time::Duration;

use demi_api::time::Instant;

/// RFC 9438 §5: segments per second cubed.
const C: f64 = 0.4;

/// RFC 9438 §4.3: 3 * (1 - beta) / (1 + beta), with beta = 0.7.
const ALPHA: f64 = 3.0 * 0.3 / 1.7;

/// There is no stage of congestion avoidance.
const NO_EPOCH: u64 = u64::MAX;

#[derive(Clone, Debug)]
pub(super) struct Cubic {
    curve: Saved,
    /// The part of a byte by which the window is behind.
    rest: f32,
    /// The stage to come follows a timeout: RFC 9438 §4.8.
    after_timeout: bool,
}

/// RFC 9438 §4.9.2: what a mistaken reduction destroys.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// When this stage of congestion avoidance began, nanoseconds.
    epoch: u64,
    /// K: seconds from there until the window is W_max again.
    k: f64,
    /// W_est: the window that Reno would have.
    reno: f64,
    w_max: u32,
    /// cwnd_prior: the window before the last reduction.
    prior: u32,
}

impl Cubic {
    pub(super) fn new() -> Cubic {
        let curve = Saved { epoch: NO_EPOCH, k: 0.0, reno: 0.0, w_max: 0, prior: 0 };
        Cubic { curve, rest: 0.0, after_timeout: false }
    }

    /// By how many bytes the window grows for `acked` bytes.
    pub(super) fn growth(&mut self, now: Instant, cwnd: u32, acked: u32, srtt: u64, mss: u32) -> u32 {
        if self.curve.epoch == NO_EPOCH {
            self.begin(now, cwnd, mss);
        }
        let (window, acked, mss) = (f64::from(cwnd), f64::from(acked), f64::from(mss));
        // An acknowledgment of more than the window is no news of more than a round trip.
        let acked = acked.min(window);
        let curve = &mut self.curve;
        // RFC 9438 §4.3: alpha makes up for the weaker reduction until that is made good.
        let alpha = if curve.reno < f64::from(curve.prior) { ALPHA } else { 1.0 };
        curve.reno += alpha * mss * acked / window;
        let passed = now.as_nanos().saturating_sub(curve.epoch);
        let target = if curve.at(passed, mss) < curve.reno {
            // The Reno-friendly region: no slower than Reno.
            let growth = (curve.reno - window).max(0.0);
            return self.whole(growth.min(acked));
        } else {
            // RFC 9438 §4.4 and §4.5: towards where the curve is a round trip from now; §4.2: by half at most.
            curve.at(passed.saturating_add(srtt), mss).clamp(window, 1.5 * window)
        };
        self.whole((target - window) * acked / window)
    }

    /// RFC 9438 §4.2: a stage of congestion avoidance begins.
    fn begin(&mut self, now: Instant, cwnd: u32, mss: u32) {
        let curve = &mut self.curve;
        curve.epoch = now.as_nanos();
        curve.reno = f64::from(cwnd);
        self.rest = 0.0;
        // Out of slow start without a loss, or after a timeout (§4.8): a curve that begins where it is flat.
        if curve.w_max <= cwnd || self.after_timeout {
            curve.w_max = cwnd;
            if curve.prior == 0 || self.after_timeout {
                curve.prior = cwnd;
            }
        }
        self.after_timeout = false;
        curve.k = cube_root(f64::from(curve.w_max - cwnd) / (C * f64::from(mss)));
    }

    /// The bytes of `growth` and of what was left over; what remains of a byte is left over.
    fn whole(&mut self, growth: f64) -> u32 {
        let growth = growth + f64::from(self.rest);
        let whole = growth as u32;
        self.rest = (growth - f64::from(whole)) as f32;
        whole
    }

    /// RFC 9438 §4.6 and §4.7, with fast convergence: a flow that has less than it had makes room.
    pub(super) fn reduce(&mut self, cwnd: u32) {
        let curve = &mut self.curve;
        let w_max = if cwnd < curve.w_max { u64::from(cwnd) * 17 / 20 } else { u64::from(cwnd) };
        curve.w_max = w_max as u32;
        curve.prior = cwnd;
        curve.epoch = NO_EPOCH;
    }

    /// The retransmission timer has expired: RFC 9438 §4.8.
    pub(super) fn timed_out(&mut self) {
        self.after_timeout = true;
        self.curve.epoch = NO_EPOCH;
    }

    /// The window was reset after an idle time: RFC 9438 §5.8.
    pub(super) fn restart(&mut self) {
        self.curve.epoch = NO_EPOCH;
    }

    /// RFC 9438 §5.8: time in which the window was not used is not counted.
    #[inline]
    pub(super) fn pause(&mut self, span: Duration) {
        if self.curve.epoch != NO_EPOCH {
            let span = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
            self.curve.epoch = self.curve.epoch.saturating_add(span).min(NO_EPOCH - 1);
        }
    }

    pub(super) fn save(&self) -> Saved {
        self.curve.clone()
    }

    pub(super) fn restore(&mut self, saved: &Saved) {
        self.curve = saved.clone();
        self.after_timeout = false;
    }
}

impl Saved {
    /// RFC 9438 §4.2, Figure 1: W_cubic, `nanos` after the stage began.
    #[inline]
    fn at(&self, nanos: u64, mss: f64) -> f64 {
        let t = nanos as f64 / 1e9 - self.k;
        C * mss * (t * t * t) + f64::from(self.w_max)
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
        assert_eq!(cubic.curve.w_max, 100_000);
        cubic.reduce(70_000);
        assert_eq!((cubic.curve.w_max, cubic.curve.prior), (59_500, 70_000));
    }
}
