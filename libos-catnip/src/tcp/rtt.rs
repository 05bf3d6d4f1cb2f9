//! The round-trip time and the retransmission timeout: RFC 6298, and the least round-trip time of late, for RFC 8985.
//!
//! Invariant: the timeout lies between the configured minimum and [`MAX_RTO`], however samples and back-offs come.
//! Not in here: which segments may be timed (Karn's algorithm, RFC 6298 §3), and the timers themselves.

use std::time::Duration;

/// RFC 6298 §2.1: the timeout while nothing was measured.
pub(crate) const INITIAL_RTO: Duration = Duration::from_secs(1);

/// RFC 6298 §5.7: the timeout that data starts with when a SYN was lost and nothing was measured.
pub(crate) const INITIAL_RTO_AFTER_SYN_LOSS: Duration = Duration::from_secs(3);

/// The minimum unless another is set. RFC 6298 §2.4 has one second; what it is to prevent, spurious timeouts for
/// delayed acknowledgments, 200 ms prevent as well, and undoing repairs the rest.
pub(crate) const MIN_RTO: Duration = Duration::from_millis(200);

/// RFC 6298 §2.5.
pub(crate) const MAX_RTO: Duration = Duration::from_secs(60);

/// RFC 6298 §2: G. The wheel's tick is finer; this is what other hosts' scheduling is worth.
pub(super) const GRANULARITY: u64 = 1_000_000;

/// Bits behind the point of what is smoothed, so that a microsecond's path with many samples is followed too.
const FRACTION: u32 = 8;

/// Over how long the least round-trip time is taken, at least, in microseconds of samples.
const MIN_RTT_WINDOW: u32 = 10_000_000;

/// The estimate of one path.
#[derive(Clone, Debug)]
pub(crate) struct Rtt {
    /// Nanoseconds with [`FRACTION`]; 0 while nothing was measured.
    srtt: u64,
    /// Nanoseconds with [`FRACTION`].
    rttvar: u64,
    /// The least sample of this window and of the one before, nanoseconds.
    least: [u64; 2],
    /// What is left of this window, microseconds.
    window_left: u32,
    /// Microseconds.
    min_rto: u32,
    backoffs: u8,
    start: Start,
}

const _: () = assert!(size_of::<Rtt>() <= 48);

/// Where the first timeout comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Start {
    Fresh,
    /// A SYN was lost; its successors still back off from one second.
    SynLost,
    /// The handshake is over: RFC 6298 §5.7 applies.
    DataAfterSynLoss,
}

impl Rtt {
    /// Nothing measured, and the default minimum.
    pub(crate) fn new() -> Rtt {
        Rtt {
            srtt: 0,
            rttvar: 0,
            least: [u64::MAX; 2],
            window_left: MIN_RTT_WINDOW,
            min_rto: MIN_RTO.as_micros() as u32,
            backoffs: 0,
            start: Start::Fresh,
        }
    }

    /// Sets the least timeout there is to be, up to [`MAX_RTO`].
    #[cfg(test)]
    pub(crate) fn set_min_rto(&mut self, min: Duration) {
        self.min_rto = min.min(MAX_RTO).as_micros() as u32;
    }

    /// Takes in a measurement of a segment that was sent once, or that timestamps tell apart (RFC 6298 §3).
    #[cfg(test)]
    pub(crate) fn sample(&mut self, rtt: Duration) {
        self.sample_of(rtt, 1);
    }

    /// The same of one among several.
    #[cfg(test)]
    pub(crate) fn sample_of(&mut self, rtt: Duration, expected: u32) {
        self.sample_one_of(u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX), expected);
    }

    /// Takes in a measurement in nanoseconds that is the only one of its round trip, or nearly.
    #[inline]
    pub(crate) fn sample_nanos(&mut self, rtt: u64) {
        self.take(rtt, 1);
    }

    /// Takes in one of `expected` per round trip, each of which then weighs as much less: RFC 7323 Appendix G. `expected`
    /// is the flight in segments, halved for delayed acknowledgments.
    #[inline(never)]
    pub(crate) fn sample_one_of(&mut self, rtt: u64, expected: u32) {
        self.take(rtt, expected);
    }

    #[inline(always)]
    fn take(&mut self, rtt: u64, expected: u32) {
        // No sample is zero, so that zero can say that there is none; the greatest is far beyond the greatest timeout.
        let rtt = rtt.clamp(1, 1 << 40);
        self.note_least(rtt, expected);
        let rtt = rtt << FRACTION;
        if self.srtt == 0 {
            // RFC 6298 §2.2.
            self.srtt = rtt;
            self.rttvar = rtt / 2;
            return;
        }
        // RFC 6298 §2.3, with alpha = 1/8 and beta = 1/4; RTTVAR before SRTT.
        let weight = u64::from(expected.max(1));
        self.rttvar = weigh(self.rttvar, self.srtt.abs_diff(rtt), 4 * weight);
        self.srtt = weigh(self.srtt, rtt, 8 * weight);
    }

    /// What to take in of a measurement that lies between two bounds: the one that the estimate is beyond. `None`: it may
    /// be right as it is. All in nanoseconds.
    pub(crate) fn nearest(&self, least: u64, most: u64) -> Option<u64> {
        match self.srtt_nanos() {
            0 => Some(most),
            srtt if srtt < least => Some(least),
            srtt => (srtt > most).then_some(most),
        }
    }

    /// Two halves of a window, so that what is older than two windows is forgotten. The windows are measured by the
    /// samples themselves: those of one round trip add up to its time.
    #[inline(always)]
    fn note_least(&mut self, rtt: u64, expected: u32) {
        self.least[0] = self.least[0].min(rtt);
        let passed = rtt / 1000 / u64::from(expected.max(1));
        // At least a microsecond, so that windows end on the shortest paths too.
        let passed = u32::try_from(passed).unwrap_or(u32::MAX).max(1);
        match self.window_left.checked_sub(passed) {
            Some(left) => self.window_left = left,
            None => {
                self.least = [rtt, self.least[0]];
                self.window_left = MIN_RTT_WINDOW;
            }
        }
    }

    /// The timeout for a timer that is started now.
    #[inline]
    pub(crate) fn rto(&self) -> Duration {
        Duration::from_nanos(self.rto_nanos())
    }

    /// The same in nanoseconds.
    #[inline]
    pub(crate) fn rto_nanos(&self) -> u64 {
        let base = match (self.srtt, self.start) {
            (0, Start::Fresh | Start::SynLost) => INITIAL_RTO.as_nanos() as u64,
            (0, Start::DataAfterSynLoss) => INITIAL_RTO_AFTER_SYN_LOSS.as_nanos() as u64,
            // RFC 6298 §2.3: RTO <- SRTT + max(G, K*RTTVAR), K = 4.
            (srtt, _) => (srtt >> FRACTION) + ((4 * self.rttvar) >> FRACTION).max(GRANULARITY),
        };
        let base = base.max(u64::from(self.min_rto) * 1000);
        // RFC 6298 §5.5: doubled with each timeout. The base is below 2^44, and 2^16 times the least is above the limit.
        let backed_off = base << self.backoffs.min(16);
        backed_off.min(MAX_RTO.as_nanos() as u64)
    }

    /// RFC 6298 §5.5: the timer has expired.
    pub(crate) fn backoff(&mut self) {
        self.backoffs = self.backoffs.saturating_add(1);
    }

    /// New data was acknowledged, or the handshake is over: what was measured holds again (RFC 6298 §5, last paragraph).
    pub(crate) fn reset_backoff(&mut self) {
        self.backoffs = 0;
        if self.start == Start::SynLost {
            self.start = Start::DataAfterSynLoss;
        }
    }

    /// A SYN, or its acknowledgment, timed out: RFC 6298 §5.7. The caller backs off as for any segment.
    pub(crate) fn syn_lost(&mut self) {
        if self.start == Start::Fresh {
            self.start = Start::SynLost;
        }
    }

    /// The smoothed round-trip time in nanoseconds; 0: nothing was measured.
    #[inline]
    pub(crate) fn srtt_nanos(&self) -> u64 {
        self.srtt >> FRACTION
    }

    /// The same. `None`: nothing was measured.
    #[inline]
    pub(crate) fn srtt(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_nanos(self.srtt >> FRACTION))
    }

    /// The mean deviation of the round-trip time.
    pub(crate) fn rttvar(&self) -> Option<Duration> {
        (self.srtt != 0).then(|| Duration::from_nanos(self.rttvar >> FRACTION))
    }

    /// The least round-trip time of the last ten to twenty seconds of samples: RFC 8985 §6.2.
    #[inline]
    pub(crate) fn min_rtt(&self) -> Option<Duration> {
        self.min_rtt_nanos().map(Duration::from_nanos)
    }

    /// The same in nanoseconds.
    #[inline]
    pub(crate) fn min_rtt_nanos(&self) -> Option<u64> {
        (self.srtt != 0).then(|| self.least[0].min(self.least[1]))
    }
}

/// `old` moved by one part in `parts` of the way to `new`, to the nearest.
#[inline]
fn weigh(old: u64, new: u64, parts: u64) -> u64 {
    if new >= old { old + (new - old + parts / 2) / parts } else { old - (old - new + parts / 2) / parts }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn rfc6298_2_1_a_second_before_the_first_sample() {
        let rtt = Rtt::new();
        assert_eq!((rtt.rto(), rtt.srtt(), rtt.rttvar(), rtt.min_rtt()), (MS(1000), None, None, None));
    }

    #[test]
    fn rfc6298_2_2_and_2_3_the_estimate_follows_the_samples() {
        let mut rtt = Rtt::new();
        rtt.sample(MS(400));
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(MS(400)), Some(MS(200)), MS(1200)));
        rtt.sample(MS(800));
        // RTTVAR = 3/4 * 200 + 1/4 * 400, SRTT = 7/8 * 400 + 1/8 * 800.
        assert_eq!((rtt.srtt(), rtt.rttvar(), rtt.rto()), (Some(MS(450)), Some(MS(250)), MS(1450)));
    }

    #[test]
    fn rfc6298_2_3_the_variance_term_is_no_less_than_the_granularity() {
        let mut rtt = Rtt::new();
        rtt.set_min_rto(Duration::ZERO);
        for _ in 0..200 {
            rtt.sample(MS(500));
        }
        assert_eq!(rtt.rto(), MS(501));
    }

    #[test]
    fn rfc6298_2_4_the_minimum_can_be_set() {
        let mut rtt = Rtt::new();
        for _ in 0..200 {
            rtt.sample(Duration::from_micros(8));
        }
        assert_eq!(rtt.rto(), MS(200));
        rtt.set_min_rto(MS(5));
        assert_eq!(rtt.rto(), MS(5));
        rtt.set_min_rto(Duration::MAX);
        assert_eq!(rtt.rto(), MAX_RTO);
    }

    #[test]
    fn rfc6298_5_5_the_timer_backs_off_up_to_the_maximum() {
        let mut rtt = Rtt::new();
        rtt.sample(Duration::from_micros(100));
        let mut expected = MS(200);
        for _ in 0..300 {
            assert_eq!(rtt.rto(), expected.min(MAX_RTO));
            rtt.backoff();
            expected = (expected * 2).min(MAX_RTO);
        }
        rtt.reset_backoff();
        assert_eq!(rtt.rto(), MS(200));
    }

    #[test]
    fn rfc6298_5_7_three_seconds_after_a_lost_syn() {
        let mut rtt = Rtt::new();
        rtt.syn_lost();
        rtt.backoff();
        assert_eq!(rtt.rto(), MS(2000));
        rtt.backoff();
        assert_eq!(rtt.rto(), MS(4000));
        rtt.reset_backoff();
        assert_eq!(rtt.rto(), MS(3000));
        rtt.backoff();
        assert_eq!(rtt.rto(), MS(6000));
        rtt.reset_backoff();
        rtt.sample(MS(100));
        assert_eq!(rtt.rto(), MS(300));
    }

    #[test]
    fn rfc7323_g_many_samples_a_round_trip_weigh_as_much_as_one() {
        let (mut one, mut many) = (Rtt::new(), Rtt::new());
        for rtt in [&mut one, &mut many] {
            rtt.sample(MS(100));
        }
        for _ in 0..20 {
            one.sample(MS(200));
            (0..10).for_each(|_| many.sample_of(MS(200), 10));
        }
        let (one, many) = (one.srtt().unwrap(), many.srtt().unwrap());
        assert!(one.abs_diff(many) < MS(3), "{one:?} and {many:?}");
    }

    #[test]
    fn a_vague_measurement_moves_the_estimate_only_where_it_contradicts_it() {
        let mut rtt = Rtt::new();
        assert_eq!(
            rtt.nearest(1_000_000, 50_000_000),
            Some(50_000_000),
            "better than nothing, and on the safe side"
        );
        rtt.sample(MS(40));
        let found = [(1, 50), (1, 30), (60, 90)].map(|(least, most)| {
            rtt.nearest(least * 1_000_000, most * 1_000_000).map(|nanos| nanos / 1_000_000)
        });
        assert_eq!(found, [None, Some(30), Some(60)]);
    }

    #[test]
    fn rfc8985_6_2_the_least_is_forgotten_when_the_path_has_grown() {
        let mut rtt = Rtt::new();
        rtt.sample(MS(10));
        for _ in 0..90 {
            rtt.sample(MS(100));
        }
        assert_eq!(rtt.min_rtt(), Some(MS(10)));
        for _ in 0..120 {
            rtt.sample(MS(100));
        }
        assert_eq!(rtt.min_rtt(), Some(MS(100)));
        rtt.sample(MS(1));
        assert_eq!(rtt.min_rtt(), Some(MS(1)));
    }

    proptest! {
        #[test]
        fn the_estimate_stays_among_its_samples_and_the_timeout_in_its_limits(
            steps in prop::collection::vec((any::<u64>(), 0..70u32, any::<u32>(), 0..5u8), 1..200),
        ) {
            let mut rtt = Rtt::new();
            let (mut least, mut most) = (Duration::MAX, Duration::ZERO);
            for (nanos, shift, expected, then) in steps {
                let sample = Duration::from_nanos(nanos.checked_shr(shift).unwrap_or(0));
                rtt.sample_of(sample, expected);
                let taken = sample.clamp(Duration::from_nanos(1), Duration::from_nanos(1 << 40));
                (least, most) = (least.min(taken), most.max(taken));
                match then {
                    0 => rtt.reset_backoff(),
                    1 => rtt.syn_lost(),
                    _ => rtt.backoff(),
                }
                let srtt = rtt.srtt().unwrap();
                prop_assert!(least <= srtt && srtt <= most, "{:?} not in {:?}..={:?}", srtt, least, most);
                prop_assert!(least <= rtt.min_rtt().unwrap());
                prop_assert!((MIN_RTO..=MAX_RTO).contains(&rtt.rto()));
                prop_assert!(rtt.rto() >= srtt.min(MAX_RTO));
            }
        }
    }
}
