//! A token bucket: RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f).

use std::time::Duration;

use demi_api::time::Instant;

/// At most so many a second, with bursts of a tenth of it.
#[derive(Debug)]
pub(super) struct Limiter {
    /// Time that one takes; `None`: there are none.
    each: Option<Duration>,
    /// When all earlier ones have been made good.
    clear: Instant,
    burst: Duration,
}

impl Limiter {
    pub(super) fn new(per_s: u32) -> Limiter {
        let each = (per_s > 0).then(|| Duration::from_secs(1) / per_s);
        let burst = Duration::from_millis(100).max(each.unwrap_or_default());
        Limiter { each, clear: Instant::default(), burst }
    }

    /// One in so much time.
    pub(super) fn every(each: Duration) -> Limiter {
        Limiter { each: Some(each), clear: Instant::default(), burst: each }
    }

    /// Whether one more may go now.
    pub(super) fn allow(&mut self, now: Instant) -> bool {
        let Some(each) = self.each else { return false };
        let clear = self.clear.max(now) + each;
        let allowed = clear.since(now) <= self.burst;
        if allowed {
            self.clear = clear;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_sees_the_rate_and_one_burst() {
        for (rate, most) in [(0, 0), (1, 2), (100, 110), (1000, 1100)] {
            let mut limiter = Limiter::new(rate);
            let start = Instant::from_nanos(5_000_000_000);
            let allowed =
                (0..10_000).filter(|n| limiter.allow(start + Duration::from_micros(n * 100))).count();
            assert!(allowed <= most && allowed >= rate as usize, "{allowed} at {rate}/s");
        }
    }
}
