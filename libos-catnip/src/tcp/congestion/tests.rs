use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MSS: u32 = 1000;
const MS: fn(u64) -> Duration = Duration::from_millis;

/// A path without loss of its own: whole windows are sent and acknowledged, segment by segment.
struct Path {
    congestion: Congestion,
    now: Instant,
    rtt: Duration,
    una: SeqNum,
    nxt: SeqNum,
}

impl Path {
    fn new(algorithm: Algorithm, rtt: Duration) -> Path {
        let now = Instant::from_nanos(1_000_000_000);
        let isn = SeqNum(u32::MAX - 5000);
        Path { congestion: Congestion::new(algorithm, true, MSS, now), now, rtt, una: isn, nxt: isn }
    }

    /// One that is in congestion avoidance with so many segments.
    fn avoiding(algorithm: Algorithm, rtt: Duration, segments: u32) -> Path {
        let mut path = Path::new(algorithm, rtt);
        while path.congestion.cwnd() < 2 * segments * MSS {
            path.round();
        }
        path.congestion.ssthresh = segments * MSS;
        path.congestion.cwnd = segments * MSS;
        path.una = path.nxt;
        path
    }

    fn flight(&self) -> u32 {
        self.nxt - self.una
    }

    fn fill(&mut self) {
        self.nxt += self.congestion.cwnd().saturating_sub(self.flight());
    }

    fn ack(&mut self, acked: u32, cwnd_limited: bool) {
        let in_flight = self.flight();
        self.una += acked;
        self.congestion.on_ack(&Acked {
            now: self.now,
            acked,
            in_flight,
            rtt: Some(self.rtt.as_nanos() as u64),
            srtt: self.rtt.as_nanos() as u64,
            cwnd_limited,
            snd_una: self.una,
            snd_nxt: self.nxt,
        });
    }

    /// A round trip.
    fn round(&mut self) {
        self.fill();
        let begin = self.now;
        let flight = self.flight();
        let mut acked = 0;
        while acked < flight {
            let bytes = MSS.min(flight - acked);
            acked += bytes;
            self.now = begin + self.rtt.mul_f64(f64::from(acked) / f64::from(flight));
            self.ack(bytes, true);
            self.fill();
        }
    }

    fn lose(&mut self) {
        self.fill();
        assert!(self.congestion.on_loss(self.now, self.flight(), self.nxt));
    }

    /// Everything that was on the way arrives.
    fn recover(&mut self) {
        assert!(self.congestion.in_recovery());
        self.now = self.now + self.rtt;
        self.ack(self.flight(), true);
        assert!(!self.congestion.in_recovery());
    }
}

#[test]
fn rfc6928_2_the_initial_window() {
    for (mss, window) in [(1460, 14_600), (536, 5360), (8960, 17_920), (7000, 14_600), (9, 90)] {
        assert_eq!(Congestion::new(Algorithm::Cubic, true, mss, Instant::default()).cwnd(), window, "{mss}");
    }
    // The peer's option comes later than the connection.
    let mut congestion = Congestion::new(Algorithm::Cubic, true, 536, Instant::default());
    congestion.set_mss(1460);
    assert_eq!(congestion.cwnd(), 14_600);
    // RFC 5681 §3.1.
    congestion.syn_lost();
    assert_eq!(congestion.cwnd(), 1460);
}

#[test]
fn rfc5681_3_1_slow_start_doubles_and_newreno_adds_a_segment_a_round() {
    let mut path = Path::new(Algorithm::NewReno, MS(10));
    path.round();
    path.round();
    assert_eq!(path.congestion.cwnd(), 40 * MSS);
    path.lose();
    assert_eq!((path.congestion.ssthresh(), path.congestion.cwnd()), (20 * MSS, 20 * MSS));
    path.recover();
    for segments in 20..30 {
        assert_eq!(path.congestion.cwnd(), segments * MSS);
        path.round();
    }
}

#[test]
fn rfc5681_3_1_the_threshold_is_of_what_is_on_the_way_and_at_least_two_segments() {
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 100);
    assert!(path.congestion.on_loss(path.now, 30 * MSS, path.nxt));
    assert_eq!(path.congestion.ssthresh(), 15 * MSS);
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 100);
    assert!(path.congestion.on_loss(path.now, MSS, path.nxt));
    assert_eq!(path.congestion.ssthresh(), 2 * MSS);
    // Limited transmit is not counted.
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 10);
    assert!(path.congestion.on_loss(path.now, 12 * MSS, path.nxt));
    assert_eq!(path.congestion.ssthresh(), 5 * MSS);
}

#[test]
fn rfc5681_3_1_a_timeout_leaves_one_segment_and_the_next_one_the_threshold() {
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 40);
    path.fill();
    path.congestion.on_rto(path.now, path.flight(), path.nxt);
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (MSS, 20 * MSS));
    path.congestion.on_rto(path.now, path.flight(), path.nxt);
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (MSS, 20 * MSS));
    // After progress, it is another segment that timed out.
    let mut other = Path { congestion: path.congestion.clone(), ..path };
    other.ack(MSS, true);
    other.congestion.on_rto(other.now, other.flight(), other.nxt);
    assert_eq!(other.congestion.ssthresh(), 2 * MSS);
    // A loss of what was on the way then is the same one: RFC 6582 §3.2.
    assert!(!path.congestion.on_loss(path.now, path.flight(), path.nxt));
    // RFC 3465 §2.4: a segment for each acknowledgment, whatever that covers.
    path.ack(10 * MSS, true);
    assert_eq!(path.congestion.cwnd(), 2 * MSS);
    path.ack(30 * MSS, true);
    assert!(!path.congestion.in_loss());
    assert_eq!(path.congestion.cwnd(), 4 * MSS);
}

#[test]
fn rfc5681_4_1_after_an_idle_time_the_window_is_the_restart_window() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(10), 100);
    path.congestion.idle_restart(path.now + MS(200), || 200_000_000);
    assert_eq!(path.congestion.cwnd(), 100 * MSS);
    path.congestion.idle_restart(path.now + MS(401), || 200_000_000);
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (10 * MSS, 100 * MSS));
    // A small window stays small, an untried threshold untried.
    let mut path = Path::new(Algorithm::Cubic, MS(10));
    path.congestion.syn_lost();
    path.congestion.idle_restart(path.now + MS(9000), || 200_000_000);
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (MSS, u32::MAX));
}

#[test]
fn rfc7661_4_4_a_window_that_is_not_used_does_not_grow() {
    for algorithm in [Algorithm::Cubic, Algorithm::NewReno] {
        let mut path = Path::new(algorithm, MS(10));
        for _ in 0..100 {
            path.nxt += MSS;
            path.now = path.now + MS(1);
            path.ack(MSS, false);
        }
        assert_eq!(path.congestion.cwnd(), 10 * MSS);
    }
}

#[test]
fn rfc3168_6_1_2_a_mark_reduces_once_a_round_and_not_beside_a_loss() {
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 40);
    path.fill();
    let mark = |path: &mut Path| path.congestion.on_ecn(path.now, path.flight(), path.una, path.nxt);
    assert!(mark(&mut path));
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (20 * MSS, 20 * MSS));
    path.ack(MSS, true);
    assert!(!mark(&mut path));
    // What is lost of the same window of data was answered.
    assert!(!path.congestion.on_loss(path.now, path.flight(), path.nxt));
    assert!(path.congestion.in_recovery() && path.congestion.ssthresh() == 20 * MSS);
    assert!(!mark(&mut path));
    path.recover();
    path.fill();
    assert!(mark(&mut path));
    assert_eq!(path.congestion.cwnd(), 10 * MSS);
    path.ack(path.flight(), true);
    path.fill();
    // The end of that round: the peer does not know of it yet.
    assert!(!mark(&mut path));
    path.ack(MSS, true);
    assert!(mark(&mut path));
    assert!(!path.congestion.undo(), "a mark is no mistake");
}

#[test]
fn rfc9937_6_what_is_sent_is_in_proportion_to_what_arrives() {
    // Twenty segments on the way, of which the first is lost; half of the window is to remain.
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 20);
    path.lose();
    let congestion = &mut path.congestion;
    let (mut pipe, mut sent) = (19 * MSS, 0u32);
    for ack in 1..20 {
        congestion.on_delivered(MSS);
        pipe -= MSS;
        let mut burst = 0;
        while congestion.quota(pipe) >= MSS {
            congestion.on_sent(MSS);
            (pipe, burst) = (pipe + MSS, burst + 1);
        }
        sent += burst;
        assert!(burst <= 1, "{burst} segments for acknowledgment {ack}");
        assert!(sent.abs_diff(ack / 2) <= 1, "{sent} segments after {ack}");
    }
    assert_eq!(pipe, 10 * MSS);
}

#[test]
fn rfc9937_6_after_heavy_losses_the_window_is_rebuilt_by_slow_start_if_all_goes_well() {
    // Of twenty segments, the first fifteen are lost: what is left is below the threshold.
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 20);
    path.lose();
    let congestion = &mut path.congestion;
    let (mut pipe, mut bursts) = (4 * MSS, Vec::new());
    for safe in [false, false, true, true, true, true, true, true] {
        congestion.on_delivered(MSS);
        congestion.on_judged(safe);
        pipe -= MSS;
        let mut burst = 0;
        while congestion.quota(pipe) >= MSS {
            congestion.on_sent(MSS);
            (pipe, burst) = (pipe + MSS, burst + 1);
        }
        bursts.push(burst);
    }
    // What was delivered; and a segment more, up to the threshold, where acknowledgments advance.
    assert_eq!((bursts, pipe), (vec![1, 1, 2, 2, 2, 2, 2, 2], 10 * MSS));
}

#[test]
fn rfc9937_6_the_first_retransmission_is_always_allowed() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(10), 20);
    path.lose();
    assert_eq!(path.congestion.quota(19 * MSS), MSS);
    path.congestion.on_sent(MSS);
    assert_eq!(path.congestion.quota(20 * MSS), 0);
}

#[test]
fn rfc9438_4_9_what_was_no_loss_is_undone() {
    for timeout in [false, true] {
        let mut path = Path::avoiding(Algorithm::Cubic, MS(10), 50);
        (0..20).for_each(|_| path.round());
        let before = path.congestion.clone();
        path.fill();
        if timeout {
            path.congestion.on_rto(path.now, path.flight(), path.nxt);
        } else {
            path.lose();
            // The timer in the middle of recovery belongs to the same mistake.
            path.congestion.on_rto(path.now, path.flight(), path.nxt);
        }
        assert_eq!(path.congestion.cwnd(), MSS);
        assert!(path.congestion.undo());
        assert!(!path.congestion.in_recovery() && !path.congestion.in_loss());
        assert_eq!(path.congestion.cwnd(), before.cwnd());
        assert_eq!(path.congestion.ssthresh(), before.ssthresh());
        assert!(!path.congestion.undo(), "once");
        // On the same curve as if nothing had been.
        let mut other = Path { congestion: before, ..Path::new(Algorithm::Cubic, MS(10)) };
        (other.now, other.una, other.nxt) = (path.now, path.una, path.una);
        path.nxt = path.una;
        (0..20).for_each(|_| (path.round(), other.round()).0);
        assert_eq!(path.congestion.cwnd(), other.congestion.cwnd());
    }
}

#[test]
fn rfc3708_3_when_all_that_was_retransmitted_is_reported_twice_nothing_was_lost() {
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 20);
    path.lose();
    assert!(!path.congestion.on_dsack(MSS), "of what?");
    (0..3).for_each(|_| path.congestion.on_retransmit(MSS));
    assert!(!path.congestion.on_dsack(2 * MSS));
    path.recover();
    assert!(path.congestion.on_dsack(MSS));
    assert_eq!(path.congestion.cwnd(), 20 * MSS);
    assert!(!path.congestion.on_dsack(MSS));
    // Of the next reduction, other retransmissions are the proof.
    path.lose();
    path.congestion.on_retransmit(MSS);
    path.recover();
    path.lose();
    path.congestion.on_retransmit(2 * MSS);
    assert!(!path.congestion.on_dsack(MSS));
    assert_eq!(path.congestion.cwnd(), 5 * MSS);
    // A round trip later, a duplicate is of something else.
    path.recover();
    path.round();
    path.round();
    assert!(!path.congestion.on_dsack(MSS) && !path.congestion.undo());
}

#[test]
fn rfc3708_3_the_proof_may_come_a_round_trip_after_recovery() {
    let mut path = Path::avoiding(Algorithm::NewReno, MS(10), 20);
    path.lose();
    path.congestion.on_retransmit(MSS);
    path.nxt += 5 * MSS;
    path.ack(20 * MSS, true);
    assert!(!path.congestion.in_recovery());
    path.ack(MSS, true);
    let mut late = path.congestion.clone();
    assert!(path.congestion.on_dsack(MSS));
    // But not later.
    std::mem::swap(&mut path.congestion, &mut late);
    path.ack(4 * MSS, true);
    path.nxt += MSS;
    path.ack(MSS, true);
    assert!(!path.congestion.on_dsack(MSS));
}

#[test]
fn pacing_is_ahead_of_the_window() {
    let mut path = Path::new(Algorithm::Cubic, MS(10));
    assert!(!path.congestion.is_paced(), "nothing was measured");
    path.round();
    assert!(path.congestion.is_paced());
    let window = path.congestion.cwnd();
    assert_eq!(path.congestion.pacing_time(window), 5_000_000, "half a round trip");
    path.lose();
    path.recover();
    let window = path.congestion.cwnd();
    assert_eq!(path.congestion.pacing_time(window), 8_000_000, "four fifths of one");
}

#[test]
fn short_paths_are_not_paced() {
    let mut path = Path::new(Algorithm::Cubic, Duration::from_micros(400));
    path.round();
    assert!(!path.congestion.is_paced());
}

#[test]
fn a_new_segment_size_leaves_the_window_and_its_bounds() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(10), 10);
    path.congestion.set_mss(500);
    assert_eq!(path.congestion.cwnd(), 10 * MSS);
    path.congestion.set_mss(9000);
    assert_eq!((path.congestion.cwnd(), path.congestion.ssthresh()), (10 * MSS, 18_000));
    path.congestion.set_mss(20_000);
    assert_eq!(path.congestion.cwnd(), 20_000);
    for mss in [0, u32::MAX] {
        path.congestion.set_mss(mss);
        path.congestion.on_rto(path.now, 0, path.nxt);
        assert!(path.congestion.cwnd() >= 1);
    }
}

/// RFC 9438 §4, in the RFC's units and words.
struct Reference {
    cwnd: f64,
    w_max: f64,
    w_est: f64,
    cwnd_prior: f64,
    k: f64,
    epoch: Option<f64>,
}

impl Reference {
    fn ack(&mut self, now: f64, rtt: f64, segments: f64) {
        const C: f64 = 0.4;
        const BETA: f64 = 0.7;
        let epoch = *self.epoch.get_or_insert_with(|| {
            if self.w_max < self.cwnd {
                self.w_max = self.cwnd;
            }
            self.k = ((self.w_max - self.cwnd) / C).cbrt();
            self.w_est = self.cwnd;
            now
        });
        let w_cubic = |t: f64| C * (t - self.k).powi(3) + self.w_max;
        let t = now - epoch;
        let alpha = if self.w_est >= self.cwnd_prior { 1.0 } else { 3.0 * (1.0 - BETA) / (1.0 + BETA) };
        self.w_est += alpha * segments / self.cwnd;
        if w_cubic(t) < self.w_est {
            self.cwnd = self.cwnd.max(self.w_est);
        } else {
            let target = w_cubic(t + rtt).clamp(self.cwnd, 1.5 * self.cwnd);
            self.cwnd += (target - self.cwnd) / self.cwnd * segments;
        }
    }

    fn lose(&mut self) {
        self.cwnd_prior = self.cwnd;
        self.w_max = if self.cwnd < self.w_max { self.cwnd * (1.0 + 0.7) / 2.0 } else { self.cwnd };
        self.cwnd = (self.cwnd * 0.7).max(2.0);
        self.epoch = None;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_global_rejects: 10_000, ..ProptestConfig::default() })]

    /// The oracle is the RFC's own formulas. The window is whole bytes, so that both drift apart by less than a segment.
    #[test]
    fn rfc9438_4_the_window_follows_the_formulas(
        segments in 3..2000u32, rtt_us in prop_oneof![20..1000u64, 1000..200_000u64],
        rounds in prop::collection::vec(1..60u32, 1..5),
    ) {
        let rtt = Duration::from_micros(rtt_us);
        let mut path = Path::new(Algorithm::Cubic, rtt);
        path.congestion.cwnd = segments * MSS;
        path.congestion.ssthresh = segments * MSS;
        let cwnd = f64::from(segments);
        let mut reference = Reference { cwnd, w_max: 0.0, w_est: 0.0, cwnd_prior: cwnd, k: 0.0, epoch: None };
        for rounds in rounds {
            for _ in 0..rounds {
                path.fill();
                let acks = path.flight().div_ceil(MSS).min(50);
                let step = path.flight() / acks;
                for _ in 0..acks {
                    path.now = path.now + rtt / acks;
                    path.ack(step, true);
                    path.fill();
                    let now = path.now.as_nanos() as f64 / 1e9;
                    reference.ack(now, rtt.as_secs_f64(), f64::from(step) / f64::from(MSS));
                }
                let cwnd = f64::from(path.congestion.cwnd()) / f64::from(MSS);
                let off = (cwnd - reference.cwnd).abs();
                prop_assert!(off < 0.05 + 0.001 * cwnd, "{} where {} is right", cwnd, reference.cwnd);
            }
            // Which side of W_max the window is on decides on fast convergence: not to be told by a rounding.
            prop_assume!((reference.cwnd - reference.w_max).abs() > 0.1 + 0.002 * reference.cwnd);
            // The reduction is of whole windows.
            path.congestion.on_loss(path.now, path.congestion.cwnd(), path.nxt);
            path.congestion.exit_recovery();
            (path.una, path.nxt) = (path.nxt, path.nxt);
            reference.lose();
        }
    }
}

#[test]
fn rfc9438_4_2_the_window_is_what_it_was_after_k_seconds() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(100), 1000);
    path.lose();
    path.recover();
    assert_eq!(path.congestion.cwnd(), 700 * MSS);
    // K = cbrt(300 / 0.4) = 9.08 s.
    let begin = path.now;
    while path.now - begin < MS(9080) {
        path.round();
    }
    let segments = path.congestion.cwnd() / MSS;
    assert!((999..=1001).contains(&segments), "{segments}");
    // Flat around there, steep before and behind.
    while path.now - begin < MS(18_160) {
        path.round();
    }
    let segments = path.congestion.cwnd() / MSS;
    assert!((1290..=1310).contains(&segments), "{segments}");
}

#[test]
fn rfc9438_4_3_on_short_paths_it_is_no_slower_than_reno() {
    let rtt = Duration::from_micros(100);
    let mut path = Path::avoiding(Algorithm::Cubic, rtt, 100);
    path.lose();
    path.recover();
    let rounds = 100;
    (0..rounds).for_each(|_| path.round());
    // 0.53 segments a round until what was lost is made good, and then one.
    let to_prior = (100.0f64 - 70.0) / (0.9 / 1.7);
    let expected = 100.0 + (f64::from(rounds) - to_prior);
    let segments = f64::from(path.congestion.cwnd()) / f64::from(MSS);
    assert!((segments - expected).abs() < 2.0, "{segments} where {expected} is right");
}

#[test]
fn rfc9438_4_8_after_a_timeout_the_curve_begins_flat() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(100), 1000);
    path.fill();
    path.congestion.on_rto(path.now, path.flight(), path.nxt);
    assert_eq!(path.congestion.ssthresh(), 700 * MSS);
    while path.congestion.in_slow_start() {
        path.round();
    }
    let begin = path.now;
    while path.now - begin < MS(5000) {
        path.round();
    }
    // 0.4 * 5^3 = 50 segments more, and not the hundreds of the way back to the window before.
    let segments = path.congestion.cwnd() / MSS;
    assert!((745..=760).contains(&segments), "{segments}");
}

#[test]
fn rfc9438_5_8_time_in_which_the_window_is_not_used_does_not_count() {
    let mut path = Path::avoiding(Algorithm::Cubic, MS(100), 1000);
    path.lose();
    path.recover();
    path.round();
    let before = path.congestion.cwnd();
    for _ in 0..600 {
        path.now = path.now + MS(100);
        path.nxt = path.una + MSS;
        path.ack(MSS, false);
    }
    assert_eq!(path.congestion.cwnd(), before);
    path.round();
    let grown = path.congestion.cwnd() - before;
    assert!(grown < 12 * MSS, "{grown} in a round");
}

#[test]
fn rfc9406_4_2_slow_start_ends_when_the_round_trip_time_grows() {
    let mut path = Path::new(Algorithm::Cubic, MS(40));
    path.round();
    path.round();
    assert_eq!(path.congestion.cwnd(), 40 * MSS);
    // By an eighth, within 4 to 16 ms: conservative slow start, a quarter as fast, for five rounds.
    path.rtt = MS(45);
    path.round();
    assert_eq!(path.congestion.ssthresh(), u32::MAX);
    let mut rounds = 0;
    while path.congestion.ssthresh() == u32::MAX {
        let before = path.congestion.cwnd();
        path.round();
        let grown = path.congestion.cwnd() - before;
        assert!(grown <= before / 4 + MSS, "{grown} of {before}");
        rounds += 1;
    }
    assert!((4..=5).contains(&rounds), "{rounds} rounds");
    assert!(path.congestion.ssthresh() <= path.congestion.cwnd());
}

#[test]
fn rfc9406_4_2_slow_start_goes_on_if_that_was_noise() {
    let mut path = Path::new(Algorithm::Cubic, MS(40));
    path.round();
    path.round();
    path.rtt = MS(46);
    path.round();
    path.rtt = MS(40);
    path.round();
    for _ in 0..3 {
        let before = path.congestion.cwnd();
        path.round();
        assert_eq!(path.congestion.cwnd(), 2 * before);
    }
    // Less than 4 ms is no growth at all: on a machine's own network that is all there is.
    let mut path = Path::new(Algorithm::Cubic, Duration::from_micros(10));
    for rtt in [10, 20, 50, 200, 1000, 3900] {
        path.rtt = Duration::from_micros(rtt);
        let before = path.congestion.cwnd();
        path.round();
        assert_eq!(path.congestion.cwnd(), 2 * before);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Ack { acked: u32, rtt: Option<u64>, limited: bool },
    Loss(u32),
    Mark(u32),
    Timeout(u32),
    Undo,
    Exit,
    Idle,
    Mss(u32),
    Prr { delivered: u32, pipe: u32, sent: u32 },
    Duplicate(u32),
}

fn events() -> impl Strategy<Value = Event> {
    let size = || prop_oneof![0..100_000u32, any::<u32>()];
    prop_oneof![
        8 => (size(), any::<Option<u64>>(), any::<bool>())
            .prop_map(|(acked, rtt, limited)| Event::Ack { acked, rtt, limited }),
        1 => size().prop_map(Event::Loss),
        1 => size().prop_map(Event::Mark),
        1 => size().prop_map(Event::Timeout),
        1 => Just(Event::Undo),
        1 => size().prop_map(Event::Duplicate),
        1 => Just(Event::Exit),
        1 => Just(Event::Idle),
        1 => prop_oneof![0..10_000u32, any::<u32>()].prop_map(Event::Mss),
        2 => (size(), size(), size()).prop_map(|(delivered, pipe, sent)| Event::Prr { delivered, pipe, sent }),
    ]
}

proptest! {
    /// Whatever comes, in whatever order: the bounds hold, and the same twice is the same.
    #[test]
    fn the_window_keeps_its_bounds(
        cubic in any::<bool>(), mss in any::<u32>(),
        events in prop::collection::vec((events(), any::<u32>(), 0..64u32), 1..200),
    ) {
        let algorithm = if cubic { Algorithm::Cubic } else { Algorithm::NewReno };
        let run = || {
            let mut now = Instant::default();
            let mut congestion = Congestion::new(algorithm, true, mss, now);
            let mut seen = Vec::new();
            for (event, seq, shift) in &events {
                now = now + Duration::from_nanos((u64::from(*seq) << 32) >> shift);
                let seq = SeqNum(*seq);
                let (before, thresh) = (congestion.cwnd(), congestion.ssthresh());
                match *event {
                    Event::Ack { acked, rtt, limited } => {
                        congestion.on_ack(&Acked {
                            now,
                            acked,
                            in_flight: acked,
                            rtt,
                            srtt: rtt.unwrap_or(0),
                            cwnd_limited: limited,
                            snd_una: seq,
                            snd_nxt: seq + acked,
                        });
                        // No acknowledgment takes the window back, or lets it more than double.
                        assert!((before..=before.saturating_mul(2).max(before + congestion.mss * 8)).contains(&congestion.cwnd()));
                    }
                    Event::Loss(flight) => {
                        let reduced = congestion.on_loss(now, flight, seq);
                        assert!(congestion.cwnd() <= before.max(2 * congestion.mss));
                        assert!(reduced || congestion.ssthresh() == thresh);
                    }
                    Event::Mark(flight) => {
                        congestion.on_ecn(now, flight, seq, seq + flight);
                        assert!(congestion.cwnd() <= before.max(2 * congestion.mss));
                    }
                    Event::Timeout(flight) => {
                        congestion.on_rto(now, flight, seq);
                        assert_eq!(congestion.cwnd(), congestion.mss);
                    }
                    Event::Undo => {
                        congestion.undo();
                        assert!(congestion.cwnd() >= before);
                    }
                    Event::Duplicate(bytes) => {
                        congestion.on_retransmit(bytes / 2);
                        congestion.on_dsack(bytes);
                        assert!(congestion.cwnd() >= before);
                    }
                    Event::Exit => congestion.exit_recovery(),
                    Event::Idle => {
                        congestion.idle_restart(now, || 200_000_000);
                        assert!(congestion.cwnd() <= before);
                    }
                    Event::Mss(mss) => congestion.set_mss(mss),
                    Event::Prr { delivered, pipe, sent } => {
                        congestion.on_delivered(delivered);
                        let quota = congestion.quota(pipe);
                        congestion.on_sent(sent);
                        let now = congestion.quota(pipe.saturating_add(sent));
                        assert!(now <= quota.max(congestion.mss));
                    }
                }
                assert!((congestion.mss..=MAX_WINDOW).contains(&congestion.cwnd()));
                assert!(congestion.ssthresh() >= 2 * congestion.mss);
                seen.push((congestion.cwnd(), congestion.ssthresh(), congestion.pacing_time(1 << 30)));
            }
            seen
        };
        prop_assert_eq!(run(), run());
    }
}
